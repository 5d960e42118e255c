//! A message wrapped for an own queue: the park, where it waits for a person, or a diversion, where it waits for a way.
//!
//! Owns the marks of a wrapped message. Promises that it neither goes elsewhere from there nor dies there, that what can't
//! carry marks is wrapped whole, as a body, and that nothing of it is lost.

use super::envelope::PROPERTIES_BYTES_MAX;
use super::expiration::remaining;
use super::ledger::EntryId;
use crate::amqp::{CodecError, Edit, FieldValue, RawProperties, TextProperty};
use crate::model::marks::{
    X_SET_AT, X_SET_CC, X_SET_DELIVERY_MODE, X_SET_DIVERTED, X_SET_EXCHANGE, X_SET_EXPIRATION,
    X_SET_FROM, X_SET_ID, X_SET_PATH, X_SET_REASON, X_SET_REPLAY, X_SET_RETRY, X_SET_ROUND,
    X_SET_ROUTING_KEY, X_SET_RULE, X_SET_SLOT, X_SET_SOURCE, X_SET_TO, X_SET_USER_ID, X_SET_WHY,
    number_value,
};
use crate::model::{
    Address, Message, MessageId, Reason, Retry, Round, RuleName, SealKeys, SealedBody, Slot,
    SourceName, UnitId, Why,
};
use bytes::{BufMut, Bytes, BytesMut};
use std::time::Duration;

/// The content type of a parked message that could not carry its marks: its body is the length of its properties as they
/// travelled (4 bytes), those properties, and its own body.
pub const WRAPPED_CONTENT_TYPE: &str = "application/x-setgate-wrapped";

/// RabbitMQ stores a message of this delivery mode.
const PERSISTENT: u8 = 2;

/// Room for the one mark that is put on later, which pairs a return: 18 bytes around a token of up to 37.
const TOKEN_BYTES: usize = 64;

/// A message for an own queue, and what its wrapping says of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// As it came; its marks, which told of where it was, are replaced by those of its wrapping.
    pub message: Message,
    /// By the source's rule, where it could be read.
    pub id: Option<MessageId>,
    /// The units that it has visited.
    pub path: Vec<UnitId>,
    /// How often it has been taken.
    pub round: Round,
    /// How often it has been retried.
    pub retry: Retry,
    /// What its publisher called itself.
    pub user_id: Option<Bytes>,
    /// The one unit that it is sent again to.
    pub replay_for: Option<UnitId>,
    /// What for.
    pub kept: Kept,
}

/// What a wrapped message waits for.
#[derive(Debug, Clone, PartialEq)]
pub enum Kept {
    /// A person.
    Parked {
        /// Of the closed set.
        reason: Reason,
        /// The rule that sent it here, where one did.
        rule: Option<RuleName>,
    },
    /// A way to its unit.
    Diverted(Diverted),
    /// The lane that shall send it again.
    Replayed,
    /// Nothing: when it comes out of a diversion, all that was in there before has come out; when it comes out of a lane's
    /// queue, that is the lane's own.
    Marker {
        /// Of the lane that put it in.
        incarnation: u64,
        /// Of what that lane puts into diversions.
        number: u64,
    },
}

/// What the wrapping of a diverted message says.
#[derive(Debug, Clone, PartialEq)]
pub struct Diverted {
    /// Of the lane that put it in.
    pub incarnation: u64,
    /// Of what that lane puts into diversions, in order.
    pub number: u64,
    /// Why it went to its unit.
    pub why: Why,
    /// Its unit, by the table then.
    pub to: UnitId,
    /// Of its key.
    pub slot: Option<Slot>,
    /// The unit may have it.
    pub sent: bool,
    /// How long the lane had it in hand before: that counts on its expiration.
    pub held: Duration,
}

impl Stored {
    /// A message that is sent again to one unit, for the queue of its source: as when it was published there.
    pub fn replayed(message: Message, to: UnitId) -> Self {
        Self {
            message,
            id: None,
            path: Vec::new(),
            // The lane counts one when it takes it.
            round: Round(0),
            retry: Retry(0),
            user_id: None,
            replay_for: Some(to),
            kept: Kept::Replayed,
        }
    }

    /// No message at all.
    pub(super) fn marker(incarnation: u64, number: u64) -> Self {
        Self {
            message: Message::default(),
            id: None,
            path: Vec::new(),
            round: Round(1),
            retry: Retry(0),
            user_id: None,
            replay_for: None,
            kept: Kept::Marker {
                incarnation,
                number,
            },
        }
    }
}

/// What a lane puts into its own queue to hear whether that is its own.
pub fn knock() -> Stored {
    Stored::marker(0, 0)
}

/// The value of `x-set-diverted`: `<incarnation>.<number>.<word>`, the incarnation in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DivertedMark {
    pub(super) incarnation: u64,
    pub(super) number: u64,
    pub(super) what: DivertedIs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DivertedIs {
    /// Not sent to its unit yet.
    New,
    /// The unit may have it.
    Sent,
    /// No message: an end marker.
    End,
}

impl DivertedIs {
    const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Sent => "sent",
            Self::End => "end",
        }
    }
}

impl DivertedMark {
    fn write(self) -> String {
        let Self {
            incarnation,
            number,
            what,
        } = self;
        format!("{incarnation:x}.{number}.{}", what.as_str())
    }

    pub(super) fn read(mark: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(mark).ok()?.split('.');
        let (incarnation, number, word) = (parts.next()?, parts.next()?, parts.next()?);
        let all = [DivertedIs::New, DivertedIs::Sent, DivertedIs::End];
        Some(Self {
            incarnation: u64::from_str_radix(incarnation, 16).ok()?,
            number: number.parse().ok()?,
            what: all.into_iter().find(|one| one.as_str() == word)?,
        })
    }
}

/// A message above `message_max` on its way into the park queue, whose body follows in pieces.
#[derive(Debug, Clone, PartialEq)]
pub struct LargeParcel {
    /// Says which one is parked, when it is.
    pub entry: EntryId,
    /// Where it is to be published: the exchange in front of the park queue.
    pub address: Address,
    /// Wrapped and sealed.
    pub properties: RawProperties,
    /// What goes in front of the message's own body. Empty, unless the message can't carry marks.
    pub prefix: Bytes,
    /// Of the prefix and the message's own body.
    pub body_bytes: u64,
}

/// Who wraps a message, and when.
#[derive(Debug, Clone, Copy)]
pub struct Wrapping<'a> {
    /// Of the space.
    pub keys: &'a SealKeys,
    /// This unit.
    pub from: &'a UnitId,
    /// What took it.
    pub source: &'a SourceName,
    /// Seconds since 1970.
    pub at: u64,
}

/// Wraps a message for an own queue: address, CC, expiration and delivery mode go into sealed headers, so that the message
/// neither goes elsewhere from there nor dies there.
pub fn wrap(stored: &Stored, wrapping: Wrapping<'_>) -> (RawProperties, Bytes) {
    let body = &stored.message.body;
    if let Some(properties) = around(stored, SealedBody::Whole(body), wrapping) {
        return (properties, body.clone());
    }
    let mut whole = BytesMut::from(prefix(&stored.message));
    whole.put_slice(body);
    let whole = whole.freeze();
    let properties = beside(stored, SealedBody::Whole(&whole), wrapping);
    (properties, whole)
}

/// As [`wrap`], for a body of so many bytes that isn't there: the properties, what goes in front of the body, and how
/// many bytes these two have.
pub(super) fn wrap_large(
    stored: &Stored,
    body_bytes: u64,
    wrapping: Wrapping<'_>,
) -> (RawProperties, Bytes, u64) {
    if let Some(properties) = around(stored, SealedBody::Length(body_bytes), wrapping) {
        return (properties, Bytes::new(), body_bytes);
    }
    let prefix = prefix(&stored.message);
    let body_bytes = body_bytes.saturating_add(prefix.len() as u64);
    let properties = beside(stored, SealedBody::Length(body_bytes), wrapping);
    (properties, prefix, body_bytes)
}

/// Puts the marks on the message itself; `None` when it can't carry them.
fn around(stored: &Stored, body: SealedBody<'_>, wrapping: Wrapping<'_>) -> Option<RawProperties> {
    let message = &stored.message;
    let mut edit = Edit::new();
    edit.remove_if(message.stays_behind());
    edit.remove(CC);
    edit.clear_text(TextProperty::Expiration);
    edit.clear_text(TextProperty::UserId);
    if let Some(cc) = message.properties.header(CC) {
        edit.set_raw(X_SET_CC, cc);
    }
    let wrapped = put_marks(edit, &message.properties, stored, body, wrapping).ok()?;
    (wrapped.as_bytes().len() + TOKEN_BYTES <= PROPERTIES_BYTES_MAX).then_some(wrapped)
}

/// The properties of a message that carries the parked one as its body.
fn beside(stored: &Stored, body: SealedBody<'_>, wrapping: Wrapping<'_>) -> RawProperties {
    let mut edit = Edit::new();
    edit.set_text(TextProperty::ContentType, WRAPPED_CONTENT_TYPE.as_bytes());
    let none = RawProperties::default();
    // Nothing that can fail: no text is longer than where it came from.
    put_marks(edit, &none, stored, body, wrapping).unwrap_or_default()
}

/// A header that names further queues.
const CC: &str = "CC";

fn put_marks<'a>(
    mut edit: Edit<'a>,
    properties: &RawProperties,
    stored: &'a Stored,
    body: SealedBody<'_>,
    wrapping: Wrapping<'_>,
) -> Result<RawProperties, CodecError> {
    let Wrapping {
        keys,
        from,
        source,
        at,
    } = wrapping;
    let message = &stored.message;
    edit.set_delivery_mode(PERSISTENT);
    if let Some(id) = &stored.id {
        edit.set_str(X_SET_ID, &id.0);
    }
    edit.set_str(X_SET_FROM, from.as_str());
    edit.set_strings(X_SET_PATH, stored.path.iter().map(UnitId::as_str));
    edit.set(X_SET_ROUND, &number_value(stored.round.0));
    edit.set(X_SET_RETRY, &number_value(stored.retry.0));
    edit.set_str(X_SET_EXCHANGE, &message.address.exchange);
    edit.set_str(X_SET_ROUTING_KEY, &message.address.routing_key);
    let held = match &stored.kept {
        Kept::Diverted(diverted) => diverted.held,
        // A person's time doesn't count.
        Kept::Parked { .. } | Kept::Replayed | Kept::Marker { .. } => Duration::ZERO,
    };
    if let Some(expiration) = message.properties.text(TextProperty::Expiration) {
        edit.set_str(X_SET_EXPIRATION, remaining(expiration, held));
    }
    if let Some(mode) = message.properties.delivery_mode() {
        edit.set_str(X_SET_DELIVERY_MODE, mode.to_string());
    }
    if let Some(user) = &stored.user_id {
        edit.set_str(X_SET_USER_ID, user);
    }
    if let Some(unit) = &stored.replay_for {
        edit.set(X_SET_REPLAY, &FieldValue::Bool(true));
        edit.set_str(X_SET_TO, unit.as_str());
    }
    match &stored.kept {
        Kept::Replayed => {}
        Kept::Parked { reason, rule } => {
            edit.set_str(X_SET_REASON, reason.as_str());
            if let Some(rule) = rule {
                edit.set_str(X_SET_RULE, rule.as_str());
            }
        }
        Kept::Diverted(diverted) => {
            let mark = DivertedMark {
                incarnation: diverted.incarnation,
                number: diverted.number,
                what: if diverted.sent {
                    DivertedIs::Sent
                } else {
                    DivertedIs::New
                },
            };
            edit.set_str(X_SET_DIVERTED, mark.write());
            edit.set_str(X_SET_WHY, diverted.why.as_str());
            edit.set_str(X_SET_TO, diverted.to.as_str());
            if let Some(slot) = diverted.slot {
                edit.set(X_SET_SLOT, &number_value(slot.0));
            }
        }
        Kept::Marker {
            incarnation,
            number,
        } => {
            let mark = DivertedMark {
                incarnation: *incarnation,
                number: *number,
                what: DivertedIs::End,
            };
            edit.set_str(X_SET_DIVERTED, mark.write());
        }
    }
    edit.set(X_SET_AT, &FieldValue::Timestamp(at));
    edit.set_str(X_SET_SOURCE, source.as_str());
    keys.seal(stored.id.as_ref(), &mut edit, body);
    edit.apply(properties)
}

/// What goes in front of the body of a message that can't carry marks: its properties as they came, their length first.
fn prefix(message: &Message) -> Bytes {
    let properties = message.properties.as_bytes();
    let mut prefix = BytesMut::with_capacity(4 + properties.len() + message.body.len());
    // They came in one frame, whose length has four octets too.
    prefix.put_u32(u32::try_from(properties.len()).unwrap_or(u32::MAX));
    prefix.put_slice(properties);
    prefix.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::Properties;
    use crate::model::marks::X_SET_BODY_BYTES;

    fn keys() -> SealKeys {
        SealKeys::parse(br#"{"seal":"000102030405060708090a0b0c0d0e0f"}"#).unwrap()
    }

    fn orders() -> SourceName {
        SourceName::parse("orders").unwrap()
    }

    fn here() -> UnitId {
        UnitId::parse("sh-1").unwrap()
    }

    fn parked(properties: RawProperties) -> Stored {
        Stored {
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
            path: vec![here()],
            round: Round(1),
            retry: Retry(0),
            user_id: None,
            replay_for: None,
            kept: Kept::Parked {
                reason: Reason::KeyAbsent,
                rule: None,
            },
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
        let raw = RawProperties::of(&properties).unwrap();
        let (wrapped, body) = wrap(
            &parked(raw),
            Wrapping {
                keys: &keys(),
                from: &here(),
                source: &orders(),
                at: 5,
            },
        );
        assert!(keys().holds(None, &wrapped, &body));
        let wrapped = wrapped.decode().unwrap();
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
    }

    fn padded(bytes: usize) -> RawProperties {
        let mut properties = Properties::default();
        properties
            .headers_mut()
            .set("pad", FieldValue::str("x".repeat(bytes)));
        RawProperties::of(&properties).unwrap()
    }

    #[test]
    fn what_cannot_carry_marks_is_parked_as_a_body() {
        let damaged = RawProperties::from_wire(Bytes::from_static(&[0x80, 0, 9, b'x']));
        for properties in [padded(131_000), damaged] {
            let parked = parked(properties.clone());
            let (wrapped, body) = wrap(
                &parked,
                Wrapping {
                    keys: &keys(),
                    from: &here(),
                    source: &orders(),
                    at: 5,
                },
            );
            assert_eq!(
                wrapped.text(TextProperty::ContentType),
                Some(WRAPPED_CONTENT_TYPE.as_bytes())
            );
            let due = properties.as_bytes();
            assert_eq!(body[..4], u32::try_from(due.len()).unwrap().to_be_bytes());
            assert_eq!(body[4..], [due, &b"body"[..]].concat());
            assert!(keys().holds(None, &wrapped, &body));
        }
    }

    #[test]
    fn a_wrapped_message_fits_one_frame_whatever_room_it_leaves() {
        for bytes in (130_000..131_000).step_by(7) {
            let (wrapped, _) = wrap(
                &parked(padded(bytes)),
                Wrapping {
                    keys: &keys(),
                    from: &here(),
                    source: &orders(),
                    at: 5,
                },
            );
            assert!(wrapped.as_bytes().len() + TOKEN_BYTES <= PROPERTIES_BYTES_MAX);
        }
    }

    #[test]
    fn a_body_that_is_not_there_is_sealed_by_its_length() {
        for (properties, before) in [(padded(9), 0), (padded(131_000), 4 + 131_000 + 15)] {
            let mut parked = parked(properties.clone());
            parked.message.body = Bytes::new();
            let (wrapped, prefix, bytes) = wrap_large(
                &parked,
                3_000,
                Wrapping {
                    keys: &keys(),
                    from: &here(),
                    source: &orders(),
                    at: 5,
                },
            );
            assert_eq!((prefix.len(), bytes), (before, 3_000 + before as u64));
            let mark = wrapped.header(X_SET_BODY_BYTES).unwrap().as_integer();
            assert_eq!(mark, i64::try_from(bytes).ok());
            let body = [&prefix[..], &[7; 3_000]].concat();
            assert!(keys().holds(None, &wrapped, &body));
            assert!(!keys().holds(None, &wrapped, &body[1..]));
        }
    }
}
