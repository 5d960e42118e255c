//! Marks put on a message: for its target, or for the park.

use super::envelope::{Admitted, PROPERTIES_BYTES_MAX, path_value};
use crate::amqp::{FieldValue, Properties};
use crate::model::marks::{
    self, X_SET_AT, X_SET_CC, X_SET_DELIVERED, X_SET_DELIVERY_MODE, X_SET_EPOCH, X_SET_EXCHANGE,
    X_SET_EXPIRATION, X_SET_FROM, X_SET_ID, X_SET_PATH, X_SET_REASON, X_SET_RETRY, X_SET_ROUND,
    X_SET_ROUTING_KEY, X_SET_RULE, X_SET_SLOT, X_SET_TO, X_SET_USER_ID, X_SET_WHY,
};
use crate::model::{
    Address, Epoch, Lineage, Message, MessageId, Parcel, ParcelNumber, Reason, Retry, Revision,
    Round, RuleName, SealKeys, Slot, UnitId, Why,
};
use bytes::{BufMut, Bytes, BytesMut};

/// The content type of a parked message that could not carry its marks: its body is the length of its encoded
/// properties (4 bytes), those properties, and its own body.
pub const WRAPPED_CONTENT_TYPE: &str = "application/x-setgate-wrapped";

/// RabbitMQ stores a message of this delivery mode.
const PERSISTENT: u8 = 2;

/// All that one parcel's marks say besides what the message says itself.
pub struct Stamp<'a> {
    /// The space's.
    pub keys: &'a SealKeys,
    /// Of the table that routed it.
    pub lineage: &'a Lineage,
    /// Of the table that routed it.
    pub epoch: Epoch,
    /// Of the table that routed it.
    pub revision: Revision,
    /// This unit.
    pub from: &'a UnitId,
    /// Its target.
    pub to: &'a UnitId,
    /// Of its key.
    pub slot: Option<Slot>,
    /// Why it goes there.
    pub why: Why,
    /// Where it is published there.
    pub address: Address,
}

/// Makes the parcel of one message for one target, marked and sealed.
pub fn stamp(admitted: &Admitted, stamp: Stamp<'_>, number: ParcelNumber) -> Parcel {
    let mut properties = admitted.message.properties.clone();
    let delivered = stamp.keys.delivered(&stamp.address, &properties);
    let headers = properties.headers_mut();
    if let Some(id) = &admitted.id {
        headers.set(X_SET_ID, FieldValue::Str(id.0.clone()));
    }
    if let Some(slot) = stamp.slot {
        headers.set(X_SET_SLOT, number_value(slot.0));
    }
    headers.set(X_SET_FROM, FieldValue::str(stamp.from.as_str()));
    headers.set(X_SET_TO, FieldValue::str(stamp.to.as_str()));
    let epoch = i64::try_from(stamp.epoch.0).unwrap_or(i64::MAX);
    headers.set(X_SET_EPOCH, FieldValue::I64(epoch));
    headers.set(X_SET_PATH, path_value(&admitted.path_to(stamp.to)));
    headers.set(X_SET_ROUND, number_value(admitted.round.0));
    headers.set(X_SET_RETRY, number_value(admitted.retry.0));
    headers.set(X_SET_DELIVERED, FieldValue::Bytes(delivered));
    headers.set(X_SET_WHY, FieldValue::str(stamp.why.as_str()));
    if let Some(user) = &admitted.user_id {
        headers.set(X_SET_USER_ID, FieldValue::Str(user.clone()));
    }
    stamp.keys.seal(
        admitted.id.as_ref(),
        &mut properties,
        &admitted.message.body,
    );
    Parcel {
        number,
        lineage: stamp.lineage.clone(),
        epoch: stamp.epoch,
        revision: stamp.revision,
        id: admitted.id.clone(),
        round: admitted.round,
        retry: admitted.retry,
        slot: stamp.slot,
        why: stamp.why,
        to: stamp.to.clone(),
        address: stamp.address,
        properties,
        body: admitted.message.body.clone(),
        sent_before: admitted.message.redelivered,
    }
}

/// A message that needs a person, and what its park entry says of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Parked {
    /// As it came; its marks, which told of where it was, are replaced by those of its parking.
    pub message: Message,
    /// By the source's rule, where it could be read.
    pub id: Option<MessageId>,
    /// The units that it has visited.
    pub path: Vec<UnitId>,
    /// How often it has been taken.
    pub round: Round,
    /// How often it has been retried.
    pub retry: Retry,
    /// Of the closed set.
    pub reason: Reason,
    /// The rule that sent it here, where one did.
    pub rule: Option<RuleName>,
    /// What its publisher called itself.
    pub user_id: Option<Bytes>,
}

/// Wraps a parked message for the park queue: address, CC, expiration and delivery mode go into sealed headers, so that
/// the message neither goes elsewhere from there nor dies there. `at`: seconds since 1970.
pub fn wrap(parked: &Parked, keys: &SealKeys, from: &UnitId, at: u64) -> (Properties, Bytes) {
    let mut properties = parked.message.properties.clone();
    marks::strip(&mut properties);
    let expiration = properties.expiration.take();
    let delivery_mode = properties.delivery_mode.replace(PERSISTENT);
    properties.user_id = None;
    let headers = properties.headers_mut();
    let cc = headers.remove("CC");
    let mut carried = Carried {
        cc,
        expiration,
        delivery_mode,
    };
    let mut body = parked.message.body.clone();
    put_wrapping(&mut properties, parked, &mut carried, from, at);
    let fits = properties
        .headers
        .as_ref()
        .is_none_or(|headers| headers.depth() <= crate::amqp::NESTING_MAX)
        && properties
            .encode()
            .is_ok_and(|bytes| bytes.len() + 64 <= PROPERTIES_BYTES_MAX);
    if !fits {
        body = whole_as_body(&parked.message);
        properties = Properties {
            content_type: Some(Bytes::from_static(WRAPPED_CONTENT_TYPE.as_bytes())),
            delivery_mode: Some(PERSISTENT),
            ..Properties::default()
        };
        carried = Carried {
            cc: None,
            ..carried
        };
        put_wrapping(&mut properties, parked, &mut carried, from, at);
    }
    keys.seal(parked.id.as_ref(), &mut properties, &body);
    (properties, body)
}

struct Carried {
    cc: Option<FieldValue>,
    expiration: Option<Bytes>,
    delivery_mode: Option<u8>,
}

fn put_wrapping(
    properties: &mut Properties,
    parked: &Parked,
    carried: &mut Carried,
    from: &UnitId,
    at: u64,
) {
    let headers = properties.headers_mut();
    if let Some(id) = &parked.id {
        headers.set(X_SET_ID, FieldValue::Str(id.0.clone()));
    }
    headers.set(X_SET_FROM, FieldValue::str(from.as_str()));
    headers.set(X_SET_PATH, path_value(&parked.path));
    headers.set(X_SET_ROUND, number_value(parked.round.0));
    headers.set(X_SET_RETRY, number_value(parked.retry.0));
    headers.set(
        X_SET_EXCHANGE,
        FieldValue::Str(parked.message.address.exchange.clone()),
    );
    headers.set(
        X_SET_ROUTING_KEY,
        FieldValue::Str(parked.message.address.routing_key.clone()),
    );
    if let Some(cc) = carried.cc.take() {
        headers.set(X_SET_CC, cc);
    }
    if let Some(expiration) = &carried.expiration {
        headers.set(X_SET_EXPIRATION, FieldValue::Str(expiration.clone()));
    }
    if let Some(mode) = carried.delivery_mode {
        headers.set(X_SET_DELIVERY_MODE, FieldValue::str(mode.to_string()));
    }
    if let Some(user) = &parked.user_id {
        headers.set(X_SET_USER_ID, FieldValue::Str(user.clone()));
    }
    headers.set(X_SET_REASON, FieldValue::str(parked.reason.as_str()));
    if let Some(rule) = &parked.rule {
        headers.set(X_SET_RULE, FieldValue::str(rule.as_str()));
    }
    headers.set(X_SET_AT, FieldValue::Timestamp(at));
}

/// A message that can't carry marks, as one body. Properties that can't even be encoded leave their place empty: the
/// broker gave them, so that nothing but a name above 255 bytes, which no frame holds, could bring this about.
fn whole_as_body(message: &Message) -> Bytes {
    let properties = message.properties.encode().unwrap_or_default();
    let mut body = BytesMut::with_capacity(4 + properties.len() + message.body.len());
    body.put_u32(u32::try_from(properties.len()).unwrap_or(0));
    body.put_slice(&properties);
    body.put_slice(&message.body);
    body.freeze()
}

/// `I` is signed: what doesn't fit can't come up (slots, rounds and retries are small), and would read as its maximum.
fn number_value(number: u32) -> FieldValue {
    FieldValue::I32(i32::try_from(number).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> SealKeys {
        SealKeys::parse(br#"{"seal":"000102030405060708090a0b0c0d0e0f"}"#).unwrap()
    }

    fn parked(properties: Properties) -> Parked {
        Parked {
            message: Message {
                address: Address {
                    exchange: Bytes::from_static(b"orders"),
                    routing_key: Bytes::from_static(b"order.cn"),
                },
                properties,
                body: Bytes::from_static(b"body"),
                redelivered: false,
            },
            id: None,
            path: vec![UnitId::parse("sh-1").unwrap()],
            round: Round(1),
            retry: Retry(0),
            reason: Reason::KeyAbsent,
            rule: None,
            user_id: None,
        }
    }

    #[test]
    fn a_parked_message_neither_expires_nor_goes_elsewhere() {
        let mut properties = Properties {
            expiration: Some(Bytes::from_static(b"1000")),
            delivery_mode: Some(1),
            ..Properties::default()
        };
        properties
            .headers_mut()
            .set("CC", FieldValue::Array(vec![FieldValue::str("other")]));
        let (wrapped, body) = wrap(
            &parked(properties),
            &keys(),
            &UnitId::parse("sh-1").unwrap(),
            5,
        );
        assert_eq!(wrapped.expiration, None);
        assert_eq!(wrapped.delivery_mode, Some(2));
        assert_eq!(wrapped.header("CC"), None);
        assert_eq!(
            wrapped.header(X_SET_EXPIRATION),
            Some(&FieldValue::str("1000"))
        );
        assert_eq!(
            wrapped.header(X_SET_DELIVERY_MODE),
            Some(&FieldValue::str("1"))
        );
        assert!(matches!(
            wrapped.header(X_SET_CC),
            Some(FieldValue::Array(_))
        ));
        assert!(keys().holds(None, &wrapped, &body));
    }

    #[test]
    fn what_cannot_carry_marks_is_parked_as_a_body() {
        let mut properties = Properties::default();
        properties
            .headers_mut()
            .set("pad", FieldValue::str("x".repeat(131_000)));
        let (wrapped, body) = wrap(
            &parked(properties.clone()),
            &keys(),
            &UnitId::parse("sh-1").unwrap(),
            5,
        );
        assert_eq!(
            wrapped.content_type.as_deref(),
            Some(WRAPPED_CONTENT_TYPE.as_bytes())
        );
        let encoded = properties.encode().unwrap();
        assert_eq!(body.len(), 4 + encoded.len() + 4);
        assert!(body.ends_with(b"body"));
        assert!(keys().holds(None, &wrapped, &body));
    }
}
