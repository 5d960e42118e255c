//! The inverse of wrapping: a message out of an own queue, as its publisher sent it, and what its marks say of it.
//!
//! Promises that nothing is believed without a seal that holds, and that what comes back is what was wrapped: address,
//! CC, expiration and delivery mode in their places, every mark off. Two things don't come back into the properties: the
//! `user-id`, since the broker ends the channel of whoever publishes under another's name (it is in
//! [`Unwrapped::user_id`]), and an empty header table where there was none.

use super::park::{Diverted, DivertedIs, DivertedMark, Kept, WRAPPED_CONTENT_TYPE};
use crate::amqp::{CodecError, Edit, FieldValue, RawProperties, RawValue, TextProperty};
use crate::model::marks::{
    X_SET_AT, X_SET_CC, X_SET_DELIVERY_MODE, X_SET_DIVERTED, X_SET_EXCHANGE, X_SET_EXPIRATION,
    X_SET_FROM, X_SET_ID, X_SET_IN_DOUBT, X_SET_PATH, X_SET_REASON, X_SET_REPLAY, X_SET_RETRY,
    X_SET_ROUND, X_SET_ROUTING_KEY, X_SET_RULE, X_SET_SLOT, X_SET_SOURCE, X_SET_TO, X_SET_USER_ID,
    X_SET_WHY, is_mark,
};
use crate::model::{
    Address, Message, MessageId, Reason, Retry, Round, RuleName, SealKeys, Slot, SourceName,
    UnitId, Why,
};
use bytes::Bytes;
use std::time::Duration;

/// A message out of an own queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Unwrapped {
    /// As it was published, without marks and `user-id`; `redelivered` is that of the own queue.
    pub message: Message,
    /// By the source's rule when it was wrapped, where it could be read.
    pub id: Option<MessageId>,
    /// The units that it has visited.
    pub path: Vec<UnitId>,
    /// How often it has been taken.
    pub round: Round,
    /// How often it has been retried.
    pub retry: Retry,
    /// What its publisher called itself.
    pub user_id: Option<Bytes>,
    /// The source that took it.
    pub source: SourceName,
    /// When it was wrapped, in seconds since 1970.
    pub at: u64,
    /// The unit that wrapped it.
    pub from: UnitId,
    /// The one unit that it is sent again to.
    pub replay_for: Option<UnitId>,
    /// What for.
    pub kept: Kept,
}

/// Why a message can't be unwrapped. It stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotWrapped {
    /// An ordinary message.
    #[error("it is not wrapped")]
    Bare,
    /// Forged, changed, copied from another message, or of another space or an old key.
    #[error("its seal is missing or does not hold")]
    Unsealed,
    /// Sealed by us, so a fault of ours.
    #[error("its mark {0} is missing or can't be read")]
    Mark(&'static str),
    /// Of one that was wrapped as a body: the body is shorter than it says.
    #[error("its body ends within the message that it wraps")]
    Short,
    /// Its properties can't be put back.
    #[error("its properties: {0}")]
    Properties(#[source] CodecError),
}

/// Whether a message looks like a wrapped one; its seal has not been looked at.
pub fn looks_wrapped(properties: &RawProperties) -> bool {
    properties.header(X_SET_EXCHANGE).is_some()
}

/// Takes a message out of its wrapping.
pub fn unwrap(message: &Message, keys: &SealKeys) -> Result<Unwrapped, NotWrapped> {
    if !looks_wrapped(&message.properties) {
        return Err(NotWrapped::Bare);
    }
    let id = id_of(&message.properties);
    if !keys.holds(id.as_ref(), &message.properties, &message.body) {
        return Err(NotWrapped::Unsealed);
    }
    let inner = if is_body(&message.properties) {
        from_body(&message.body)?
    } else {
        (around(message)?, message.body.clone())
    };
    read(message, id, inner)
}

/// As [`unwrap`], for a body of so many bytes that isn't there, by the headers alone: only one that was sealed by its
/// length can be believed. What was wrapped as a body has its properties there: none come back.
pub fn unwrap_head(
    message: &Message,
    body_bytes: u64,
    keys: &SealKeys,
) -> Result<Unwrapped, NotWrapped> {
    if !looks_wrapped(&message.properties) {
        return Err(NotWrapped::Bare);
    }
    let id = id_of(&message.properties);
    if !keys.holds_by_length(id.as_ref(), &message.properties, body_bytes) {
        return Err(NotWrapped::Unsealed);
    }
    let properties = if is_body(&message.properties) {
        RawProperties::default()
    } else {
        around(message)?
    };
    read(message, id, (properties, Bytes::new()))
}

fn id_of(properties: &RawProperties) -> Option<MessageId> {
    let id = properties.header(X_SET_ID)?.as_bytes()?;
    Some(MessageId(properties.share(id)))
}

fn is_body(properties: &RawProperties) -> bool {
    properties.text(TextProperty::ContentType) == Some(WRAPPED_CONTENT_TYPE.as_bytes())
}

/// The properties of a message that carries its marks itself.
fn around(message: &Message) -> Result<RawProperties, NotWrapped> {
    let properties = &message.properties;
    let mut edit = Edit::new();
    edit.remove_if(message.stays_behind());
    if let Some(cc) = properties.header(X_SET_CC) {
        edit.set_raw("CC", cc);
    }
    if let Some(expiration) = bytes_of(properties, X_SET_EXPIRATION) {
        edit.set_text(TextProperty::Expiration, expiration);
    }
    match bytes_of(properties, X_SET_DELIVERY_MODE) {
        None => edit.clear_delivery_mode(),
        Some(mode) => edit.set_delivery_mode(parse(mode, X_SET_DELIVERY_MODE)?),
    }
    edit.apply(properties).map_err(NotWrapped::Properties)
}

/// Properties and body of a message that was wrapped as a body.
fn from_body(whole: &Bytes) -> Result<(RawProperties, Bytes), NotWrapped> {
    let length = whole.first_chunk().ok_or(NotWrapped::Short)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| NotWrapped::Short)?;
    let end = length.checked_add(4).ok_or(NotWrapped::Short)?;
    if end > whole.len() {
        return Err(NotWrapped::Short);
    }
    let properties = RawProperties::from_wire(whole.slice(4..end));
    let mut edit = Edit::new();
    edit.remove_if(is_mark);
    edit.clear_text(TextProperty::UserId);
    // What is damaged is why it was wrapped so: it comes back as it came.
    let properties = edit.apply(&properties).unwrap_or(properties);
    Ok((properties, whole.slice(end..)))
}

fn read(
    message: &Message,
    id: Option<MessageId>,
    (inner, body): (RawProperties, Bytes),
) -> Result<Unwrapped, NotWrapped> {
    let properties = &message.properties;
    let share = |name| {
        let bytes = bytes_of(properties, name).ok_or(NotWrapped::Mark(name))?;
        Ok::<_, NotWrapped>(properties.share(bytes))
    };
    Ok(Unwrapped {
        message: Message {
            address: Address {
                exchange: share(X_SET_EXCHANGE)?,
                routing_key: share(X_SET_ROUTING_KEY)?,
            },
            properties: inner,
            body,
            redelivered: message.redelivered,
        },
        id,
        path: path(properties)?,
        round: Round(number_of(properties, X_SET_ROUND)?),
        retry: Retry(number_of(properties, X_SET_RETRY)?),
        user_id: bytes_of(properties, X_SET_USER_ID).map(|user| properties.share(user)),
        source: required(properties, X_SET_SOURCE, |name| {
            named(name, SourceName::parse)
        })?,
        at: at(properties)?,
        from: required(properties, X_SET_FROM, |unit| named(unit, UnitId::parse))?,
        replay_for: replay_for(properties)?,
        kept: kept(properties)?,
    })
}

fn replay_for(properties: &RawProperties) -> Result<Option<UnitId>, NotWrapped> {
    if properties.header(X_SET_REPLAY).is_none() {
        return Ok(None);
    }
    required(properties, X_SET_TO, |unit| named(unit, UnitId::parse)).map(Some)
}

fn kept(properties: &RawProperties) -> Result<Kept, NotWrapped> {
    let Some(mark) = bytes_of(properties, X_SET_DIVERTED) else {
        let replayed = properties.header(X_SET_REPLAY).is_some();
        if replayed && properties.header(X_SET_REASON).is_none() {
            return Ok(Kept::Replayed);
        }
        let reason = required(properties, X_SET_REASON, Reason::from_word)?;
        let rule = match properties.header(X_SET_RULE) {
            None => None,
            Some(_) => Some(required(properties, X_SET_RULE, |rule| {
                named(rule, RuleName::parse)
            })?),
        };
        return Ok(Kept::Parked { reason, rule });
    };
    let unreadable = NotWrapped::Mark(X_SET_DIVERTED);
    let DivertedMark {
        incarnation,
        number,
        what,
    } = DivertedMark::read(mark).ok_or(unreadable)?;
    let sent = match what {
        DivertedIs::End => {
            return Ok(Kept::Marker {
                incarnation,
                number,
            });
        }
        DivertedIs::New => false,
        DivertedIs::Sent => true,
    };
    // The broker may have it twice, which no seal is needed for to be careful.
    let twice = properties.header(X_SET_IN_DOUBT);
    Ok(Kept::Diverted(Diverted {
        incarnation,
        number,
        why: required(properties, X_SET_WHY, Why::from_word)?,
        to: required(properties, X_SET_TO, |unit| named(unit, UnitId::parse))?,
        slot: match properties.header(X_SET_SLOT) {
            None => None,
            Some(_) => Some(Slot(number_of(properties, X_SET_SLOT)?)),
        },
        sent: sent || twice.and_then(RawValue::as_bool) == Some(true),
        held: Duration::ZERO,
    }))
}

fn number_of(properties: &RawProperties, name: &'static str) -> Result<u32, NotWrapped> {
    let value = properties.header(name).and_then(RawValue::as_integer);
    let value = value.and_then(|value| u32::try_from(value).ok());
    value.ok_or(NotWrapped::Mark(name))
}

fn required<T>(
    properties: &RawProperties,
    name: &'static str,
    parse: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<T, NotWrapped> {
    let bytes = bytes_of(properties, name);
    bytes.and_then(parse).ok_or(NotWrapped::Mark(name))
}

fn named<T, E>(name: &[u8], parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
    parse(std::str::from_utf8(name).ok()?).ok()
}

fn bytes_of<'a>(properties: &'a RawProperties, name: &str) -> Option<&'a [u8]> {
    properties.header(name)?.as_bytes()
}

fn parse<T: std::str::FromStr>(text: &[u8], name: &'static str) -> Result<T, NotWrapped> {
    let text = std::str::from_utf8(text).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or(NotWrapped::Mark(name))
}

fn path(properties: &RawProperties) -> Result<Vec<UnitId>, NotWrapped> {
    let missing = NotWrapped::Mark(X_SET_PATH);
    let units = properties.header(X_SET_PATH).and_then(RawValue::as_array);
    let units = units.ok_or(missing.clone())?;
    units
        .map(|unit| {
            let unit = unit.ok().and_then(RawValue::as_bytes);
            unit.and_then(|unit| named(unit, UnitId::parse))
                .ok_or(missing.clone())
        })
        .collect()
}

fn at(properties: &RawProperties) -> Result<u64, NotWrapped> {
    let at = properties.header(X_SET_AT).map(RawValue::decode);
    match at {
        Some(Ok(FieldValue::Timestamp(at))) => Ok(at),
        None | Some(_) => Err(NotWrapped::Mark(X_SET_AT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::strategies::{properties, unknown_type};
    use crate::lane::park::{Stored, Wrapping, wrap, wrap_large};
    use proptest::prelude::*;

    fn keys() -> SealKeys {
        SealKeys::parse(br#"{"seal":"000102030405060708090a0b0c0d0e0f"}"#).unwrap()
    }

    fn orders() -> SourceName {
        SourceName::parse("orders").unwrap()
    }

    fn unit(name: &str) -> UnitId {
        UnitId::parse(name).unwrap()
    }

    fn parked(properties: RawProperties, body: &[u8]) -> Stored {
        Stored {
            message: Message {
                address: Address {
                    exchange: Bytes::from_static(b"orders"),
                    routing_key: Bytes::from_static(b"order.cn"),
                },
                properties,
                body: Bytes::copy_from_slice(body),
                redelivered: false,
            },
            id: Some(MessageId(Bytes::from_static(b"m1"))),
            path: vec![unit("sh-1"), unit("bj-1")],
            round: Round(3),
            retry: Retry(2),
            user_id: Some(Bytes::from_static(b"app")),
            replay_for: None,
            kept: Kept::Parked {
                reason: Reason::Hops,
                rule: Some(RuleName::parse("by-owner").unwrap()),
            },
        }
    }

    fn stored(parked: &Stored) -> Message {
        let (properties, body) = wrap(
            parked,
            Wrapping {
                keys: &keys(),
                from: &unit("sh-1"),
                source: &orders(),
                at: 5,
            },
        );
        Message {
            address: Address {
                exchange: Bytes::from_static(b"setgate.t.park"),
                routing_key: Bytes::from_static(b"setgate.t.park"),
            },
            properties,
            body,
            redelivered: false,
        }
    }

    /// Without marks, user-id, and a header table that holds nothing.
    fn bare(properties: &RawProperties) -> RawProperties {
        let mut edit = Edit::new();
        edit.remove_if(is_mark);
        edit.clear_text(TextProperty::UserId);
        // Every one has a table then, be it empty.
        edit.set("z", &FieldValue::Void);
        edit.apply(properties).unwrap()
    }

    fn comes_back(properties: &RawProperties, body: &[u8]) {
        let parked = parked(properties.clone(), body);
        let back = unwrap(&stored(&parked), &keys()).unwrap();
        assert_eq!(bare(&back.message.properties), bare(properties));
        assert_eq!(back.message.properties.text(TextProperty::UserId), None);
        assert_eq!(back.message.body, body);
        assert_eq!(back.message.address, parked.message.address);
        assert_eq!((back.id, back.path), (parked.id, parked.path));
        assert_eq!((back.round, back.retry), (parked.round, parked.retry));
        assert_eq!(back.kept, parked.kept);
        assert_eq!((back.user_id, back.at), (parked.user_id, 5));
        assert_eq!((back.from, back.source), (unit("sh-1"), orders()));
    }

    proptest! {
        #[test]
        fn what_is_wrapped_comes_back_as_it_was(properties in properties(), body in any::<Vec<u8>>()) {
            comes_back(&RawProperties::of(&properties).unwrap(), &body);
        }

        #[test]
        fn what_nobody_can_read_comes_back_as_it_was((properties, _) in unknown_type()) {
            comes_back(&properties, b"body");
        }

        #[test]
        fn no_body_or_properties_at_all_can_make_it_panic(
            properties in any::<Vec<u8>>(),
            body in any::<Vec<u8>>(),
        ) {
            let mut message = stored(&parked(RawProperties::default(), b""));
            let _ = from_body(&Bytes::from(body));
            message.properties = RawProperties::from_wire(properties.into());
            prop_assert!(unwrap(&message, &keys()).is_err());
        }
    }

    fn with(name: &str, value: &FieldValue) -> RawProperties {
        let mut edit = Edit::new();
        edit.set(name, value);
        edit.apply(&RawProperties::default()).unwrap()
    }

    #[test]
    fn a_cc_comes_back() {
        let cc = FieldValue::Array(vec![FieldValue::str("other")]);
        let stored = stored(&parked(with("CC", &cc), b"body"));
        assert_eq!(stored.properties.header("CC"), None);
        let back = unwrap(&stored, &keys()).unwrap().message.properties;
        assert_eq!(back.header("CC").unwrap().decode(), Ok(cc));
    }

    #[test]
    fn what_was_wrapped_as_a_body_comes_back() {
        let large = with("pad", &FieldValue::str("x".repeat(131_000)));
        comes_back(&large, b"body");
        let damaged = RawProperties::from_wire(Bytes::from_static(&[0x80, 0, 9, b'x']));
        let back = unwrap(&stored(&parked(damaged.clone(), b"body")), &keys()).unwrap();
        assert_eq!(back.message.properties, damaged);
        assert_eq!(back.message.body, "body");
    }

    #[test]
    fn what_is_changed_is_not_believed() {
        let good = stored(&parked(RawProperties::default(), b"body"));
        let mut other_body = good.clone();
        other_body.body = Bytes::from_static(b"ydob");
        assert_eq!(unwrap(&other_body, &keys()), Err(NotWrapped::Unsealed));
        let mut other_key = good.clone();
        let mut edit = Edit::new();
        edit.set_str(X_SET_ROUTING_KEY, "order.de");
        other_key.properties = edit.apply(&good.properties).unwrap();
        assert_eq!(unwrap(&other_key, &keys()), Err(NotWrapped::Unsealed));
        let mut plain = good;
        plain.properties = RawProperties::default();
        assert_eq!(unwrap(&plain, &keys()), Err(NotWrapped::Bare));
    }

    #[test]
    fn a_body_that_is_not_there_is_believed_by_its_length() {
        let mut parked = parked(with("uid", &FieldValue::I32(7)), b"");
        let (properties, _, bytes) = wrap_large(
            &parked,
            3_000,
            Wrapping {
                keys: &keys(),
                from: &unit("sh-1"),
                source: &orders(),
                at: 5,
            },
        );
        let mut message = stored(&parked);
        let whole = unwrap_head(&message, 0, &keys());
        assert_eq!(whole, Err(NotWrapped::Unsealed), "its body is sealed");
        message.properties = properties;
        let back = unwrap_head(&message, bytes, &keys()).unwrap();
        assert_eq!(
            back.message.properties.header("uid").unwrap().as_integer(),
            Some(7)
        );
        assert_eq!(
            unwrap_head(&message, bytes + 1, &keys()),
            Err(NotWrapped::Unsealed)
        );
        message.body = Bytes::from(vec![7; 3_000]);
        assert!(unwrap(&message, &keys()).is_ok());
        parked.message.properties = with("pad", &FieldValue::str("x".repeat(131_000)));
        let (properties, _, bytes) = wrap_large(
            &parked,
            3_000,
            Wrapping {
                keys: &keys(),
                from: &unit("sh-1"),
                source: &orders(),
                at: 5,
            },
        );
        message.properties = properties;
        let back = unwrap_head(&message, bytes, &keys()).unwrap();
        assert_eq!(back.message.properties, RawProperties::default());
        assert_eq!(back.round, Round(3));
    }

    #[test]
    fn what_was_diverted_comes_back_with_its_place_and_less_time_to_live() {
        let mut properties = RawProperties::default();
        let mut edit = Edit::new();
        edit.set_text(TextProperty::Expiration, b"60000");
        properties = edit.apply(&properties).unwrap();
        let mut diverted = Diverted {
            incarnation: u64::MAX,
            number: 7,
            why: Why::Owner,
            to: unit("bj-1"),
            slot: Some(Slot(9)),
            sent: true,
            held: Duration::from_millis(1_500),
        };
        let mut parked = parked(properties, b"body");
        parked.kept = Kept::Diverted(diverted.clone());
        let back = unwrap(&stored(&parked), &keys()).unwrap();
        diverted.held = Duration::ZERO;
        assert_eq!(back.kept, Kept::Diverted(diverted));
        let left = back.message.properties.text(TextProperty::Expiration);
        assert_eq!(left, Some(&b"58500"[..]));
        let marker = Kept::Marker {
            incarnation: 3,
            number: 8,
        };
        parked.kept = marker.clone();
        assert_eq!(unwrap(&stored(&parked), &keys()).unwrap().kept, marker);
    }
}
