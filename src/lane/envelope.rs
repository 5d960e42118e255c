//! A message on its way from the lane queue to a decision: decoded, then admitted. Each step is another type.
//!
//! Promises: marks count only under a valid seal; a copy that has been here is settled and not routed again; nothing
//! makes more than `hops_max` rounds. Never talks to a broker, never reads a clock.

use super::park::Kept;
use super::unwrap::{Unwrapped, looks_wrapped, unwrap};
use crate::amqp::{RawProperties, TextProperty};
use crate::model::marks::{Marks, Trail};
use crate::model::{Message, MessageId, Reason, Retry, Round, SealKeys, UnitId, Why};
use crate::rules::{Duplicates, IdFrom};
use bytes::Bytes;

/// What one content header frame holds at RabbitMQ's `frame_max` of 128 KiB: less frame head and end (8 bytes), and
/// class, weight and body size (12).
pub const PROPERTIES_BYTES_MAX: usize = 131_072 - 8 - 12;

/// Room that the marks take at most: 23 names of some 20 bytes, values of names (64 bytes each), a path of 16 units,
/// an address (2 × 255), a CC that was wrapped is counted with the headers it came from.
const MARKS_BYTES: usize = 4_096;

/// The id of a message, by its source's document: a header's string or bytes as they are, an integer as its decimal text. An
/// empty one is none: a client that fills in every property would have all that is alike taken for one message.
fn id_of(properties: &RawProperties, duplicates: &Duplicates) -> Option<MessageId> {
    let Duplicates::ById { id, .. } = duplicates else {
        return None;
    };
    let text = match id {
        IdFrom::MessageId => properties.text(TextProperty::MessageId)?,
        IdFrom::Header(name) => {
            let value = properties.header(name)?;
            match value.as_bytes() {
                Some(bytes) => bytes,
                None => return Some(MessageId(value.as_integer()?.to_string().into())),
            }
        }
    };
    (!text.is_empty()).then(|| MessageId(properties.share(text)))
}

/// What a lane allows.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// `message_max`: bytes of a body.
    pub body_bytes_max: usize,
    /// `hops_max`: rounds of one message.
    pub rounds_max: u32,
}

/// Why a message can't even be read: it is parked as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Of the closed set.
    pub reason: Reason,
    /// For the log.
    pub cause: String,
}

/// A message whose marks have been weighed.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// As the queue gave it, marks included; one that came wrapped, as its publisher sent it.
    pub message: Message,
    /// By the source's rule.
    pub id: Option<MessageId>,
    past: Past,
}

/// What is known of a message's way so far.
#[derive(Debug, Clone, PartialEq)]
enum Past {
    /// What its marks say.
    Marks(Marks),
    /// What its wrapping said: retried out of the park, or carried from there into the source's queue by hand.
    Wrapped {
        path: Vec<UnitId>,
        round: Round,
        retry: Retry,
        user_id: Option<Bytes>,
        replay_for: Option<UnitId>,
    },
    /// It has none: a lane of this space has put it into its queue, to hear that the queue is its own.
    Knock,
}

impl Envelope {
    /// Reads id and marks, takes a wrapped message out of its wrapping, and finds out whether the message can carry marks
    /// at all.
    pub fn decode(
        message: Message,
        duplicates: &Duplicates,
        keys: &SealKeys,
        limits: Limits,
    ) -> Result<Self, Box<(Message, Unreadable)>> {
        let (message, wrapping) = unwrapped(message, keys);
        let fault = unreadable(&message, limits);
        if let Some(unreadable) = fault {
            return Err(Box::new((message, unreadable)));
        }
        let id = id_of(&message.properties, duplicates);
        let past = wrapping.unwrap_or_else(|| {
            let marks = Marks::read(keys, id.as_ref(), &message.properties, &message.body);
            Past::Marks(marks)
        });
        Ok(Self { message, id, past })
    }

    /// Whether it came with marks that nobody of this space can have made.
    pub fn has_refused_marks(&self) -> bool {
        self.past == Past::Marks(Marks::Unsealed)
    }

    /// Decides whether this is a copy that has been here, a message that goes on, or one that has gone too far.
    pub fn admit(self, here: &UnitId, keys: &SealKeys, limits: Limits) -> Admission {
        let Self { message, id, past } = self;
        let user_id = user_id_of(&message.properties);
        // What has been somewhere goes on from there, and its round grows.
        let (path, round, retry, first, replay_for) = match past {
            Past::Marks(Marks::Absent | Marks::Unsealed) => {
                (vec![], Round(0), Retry(0), None, None)
            }
            Past::Marks(Marks::Sealed(trail)) => {
                if trail.why == Why::Shared
                    && trail.path.contains(here)
                    && keys.delivered_as(&trail.delivered, &message.address, &message.properties)
                {
                    return Admission::CopyOfOurs;
                }
                let Trail {
                    path,
                    round,
                    retry,
                    user_id,
                    ..
                } = trail;
                (path, round, retry, user_id, None)
            }
            Past::Wrapped {
                path,
                round,
                retry,
                user_id,
                replay_for,
            } => (path, round, retry, user_id, replay_for),
            Past::Knock => return Admission::Knock,
        };
        // One that comes back on purpose is a new wish: it begins a new path.
        let before = if path.contains(here) { vec![] } else { path };
        let admitted = Admitted {
            path: before.into_iter().chain([here.clone()]).collect(),
            round: Round(round.0.saturating_add(1)),
            retry,
            user_id: user_id.or(first),
            replay_for,
            message,
            id,
        };
        if admitted.round.0 > limits.rounds_max {
            return Admission::TooManyRounds(admitted);
        }
        Admission::Go(admitted)
    }
}

/// Takes a message out of its wrapping. What only looks wrapped was made by nobody of this space: an ordinary message,
/// with marks that don't count.
fn unwrapped(message: Message, keys: &SealKeys) -> (Message, Option<Past>) {
    if !looks_wrapped(&message.properties) {
        return (message, None);
    }
    match unwrap(&message, keys) {
        Err(_) => (message, None),
        Ok(Unwrapped {
            message,
            kept: Kept::Marker { .. },
            ..
        }) => (message, Some(Past::Knock)),
        Ok(Unwrapped {
            message,
            path,
            round,
            retry,
            user_id,
            replay_for,
            ..
        }) => {
            let past = Past::Wrapped {
                path,
                round,
                retry,
                user_id,
                replay_for,
            };
            (message, Some(past))
        }
    }
}

/// What a message's publisher called itself.
pub(super) fn user_id_of(properties: &RawProperties) -> Option<Bytes> {
    properties
        .text(TextProperty::UserId)
        .map(|user| properties.share(user))
}

fn unreadable(message: &Message, limits: Limits) -> Option<Unreadable> {
    let too_large = |cause| {
        Some(Unreadable {
            reason: Reason::TooLarge,
            cause,
        })
    };
    if message.body.len() > limits.body_bytes_max {
        return too_large(format!(
            "its body has {} bytes, message_max is {}",
            message.body.len(),
            limits.body_bytes_max
        ));
    }
    if let Err(error) = message.properties.check() {
        return Some(Unreadable {
            reason: Reason::Malformed,
            cause: format!("its properties: {error}"),
        });
    }
    let bytes = message.properties.as_bytes().len();
    if bytes + MARKS_BYTES > PROPERTIES_BYTES_MAX {
        return too_large(format!(
            "its properties have {bytes} bytes, which leaves no room for marks in one frame of 128 KiB"
        ));
    }
    None
}

/// What becomes of an envelope.
#[derive(Debug, PartialEq)]
pub enum Admission {
    /// To be routed.
    Go(Admitted),
    /// A shared copy as this unit's gateways delivered it: it has been routed where it came from. Settle it.
    CopyOfOurs,
    /// No message: a lane's question whether its queue is its own. Settle it.
    Knock,
    /// More than `hops_max` rounds: park it.
    TooManyRounds(Admitted),
}

/// A message that may be routed.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    /// As the queue gave it, old marks included: its stamp takes them off.
    pub message: Message,
    /// By the source's rule.
    pub id: Option<MessageId>,
    /// The units that it has visited, this one last.
    pub path: Vec<UnitId>,
    /// This one included.
    pub round: Round,
    /// How often a person had it retried.
    pub retry: Retry,
    /// What its publisher called itself.
    pub user_id: Option<Bytes>,
    /// The one unit that it is sent again to.
    pub replay_for: Option<UnitId>,
}

impl Admitted {
    /// The path that a parcel for `to` has behind it, which never has `to` in it.
    pub fn path_before(&self, to: &UnitId) -> &[UnitId] {
        match self.path.split_last() {
            Some((last, before)) if last == to => before,
            // Owned by a unit of its trail: a new path from here, as for all that comes back on purpose.
            Some((last, _)) if self.path.contains(to) => std::slice::from_ref(last),
            _ => &self.path[..],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::{Edit, FieldValue, Properties};
    use crate::lane::stamp::{Stamp, stamp};
    use crate::model::marks::{X_SET_PATH, X_SET_SEAL};
    use crate::model::{Address, Epoch, Lineage, Parcel, Revision};

    const LIMITS: Limits = Limits {
        body_bytes_max: 1 << 20,
        rounds_max: 4,
    };

    fn keys() -> SealKeys {
        SealKeys::parse(br#"{"seal":"000102030405060708090a0b0c0d0e0f"}"#).unwrap()
    }

    fn unit(name: &str) -> UnitId {
        UnitId::parse(name).unwrap()
    }

    fn address(exchange: &'static str) -> Address {
        Address {
            exchange: Bytes::from_static(exchange.as_bytes()),
            routing_key: Bytes::from_static(b"k"),
        }
    }

    fn message(exchange: &'static str) -> Message {
        Message {
            address: address(exchange),
            properties: RawProperties::of(&Properties {
                message_id: Some(Bytes::from_static(b"m1")),
                ..Properties::default()
            })
            .unwrap(),
            body: Bytes::from_static(b"body"),
            redelivered: false,
        }
    }

    fn admit(message: Message, here: &str) -> Admission {
        Envelope::decode(message, &Duplicates::default(), &keys(), LIMITS)
            .unwrap()
            .admit(&unit(here), &keys(), LIMITS)
    }

    fn with(mut message: Message, name: &str, value: &FieldValue) -> Message {
        let mut edit = Edit::new();
        edit.set(name, value);
        message.properties = edit.apply(&message.properties).unwrap();
        message
    }

    fn stamped(from: &str, to: &str, why: Why, message: Message) -> Parcel {
        let Admission::Go(admitted) = admit(message, from) else {
            panic!("not admitted")
        };
        let address = admitted.message.address.clone();
        let parcel = stamp(
            &admitted,
            Stamp {
                lineage: &Lineage("l".into()),
                epoch: Epoch(1),
                revision: Revision(1),
                to: &unit(to),
                slot: None,
                why,
                address,
            },
        );
        Parcel {
            properties: parcel.marked(&unit(from), &keys()).unwrap(),
            ..parcel
        }
    }

    fn delivered(from: &str, to: &str, why: Why, message: Message) -> Message {
        let parcel = stamped(from, to, why, message);
        Message {
            address: parcel.address,
            properties: parcel.properties,
            body: parcel.body,
            redelivered: false,
        }
    }

    #[test]
    fn the_count_of_the_source_queue_stays_behind_and_a_publishers_own_does_not() {
        for redelivered in [true, false] {
            let mut message = with(message("orders"), "x-delivery-count", &FieldValue::I64(1));
            message.redelivered = redelivered;
            let seen = message.header("x-delivery-count").is_some();
            let kept = stamped("sh-1", "bj-1", Why::Owner, message);
            let kept = kept.properties.header("x-delivery-count").is_some();
            assert_eq!((seen, kept), (!redelivered, !redelivered));
        }
    }

    #[test]
    fn a_shared_copy_that_has_arrived_is_not_routed_again() {
        let copy = delivered("sh-1", "bj-1", Why::Shared, message("catalog"));
        assert_eq!(admit(copy, "bj-1"), Admission::CopyOfOurs);
    }

    #[test]
    fn a_copy_that_comes_back_under_another_address_is_a_new_wish() {
        let mut copy = delivered("sh-1", "bj-1", Why::Shared, message("catalog"));
        copy.address = address("elsewhere");
        let Admission::Go(admitted) = admit(copy, "bj-1") else {
            panic!("settled")
        };
        assert_eq!(admitted.path, [unit("bj-1")]);
        assert_eq!(admitted.round, Round(2));
    }

    #[test]
    fn a_dead_lettered_message_goes_round_hops_max_times_and_no_further() {
        let mut current = message("orders");
        for round in 1..=LIMITS.rounds_max {
            let Admission::Go(admitted) = admit(current.clone(), "sh-1") else {
                panic!("parked")
            };
            assert_eq!(admitted.round, Round(round));
            current = delivered("sh-1", "sh-1", Why::Owner, current);
        }
        assert!(matches!(
            admit(current, "sh-1"),
            Admission::TooManyRounds(_)
        ));
    }

    #[test]
    fn forged_marks_begin_a_new_trail() {
        let path = FieldValue::Array(vec![FieldValue::str("sh-1"), FieldValue::str("bj-1")]);
        let forged = with(message("catalog"), X_SET_PATH, &path);
        let seal = FieldValue::Bytes(Bytes::from_static(&[7; 16]));
        let forged = with(forged, X_SET_SEAL, &seal);
        let forged = with(forged, "x-set-own", &FieldValue::Void);
        assert!(forged.header(X_SET_PATH).is_none(), "no rule sees a mark");
        let Admission::Go(admitted) = admit(forged.clone(), "bj-1") else {
            panic!("believed")
        };
        assert_eq!(admitted.path, [unit("bj-1")]);
        let parcel = stamped("bj-1", "bj-1", Why::Shared, forged);
        let named = |name: &[u8]| {
            parcel
                .properties
                .headers()
                .filter(|(n, _)| *n == name)
                .count()
        };
        assert_eq!(named(X_SET_SEAL.as_bytes()), 1);
        assert_eq!(named(b"x-set-own"), 0);
    }

    #[test]
    fn headers_copied_to_another_body_begin_a_new_trail() {
        let mut copy = delivered("sh-1", "bj-1", Why::Shared, message("catalog"));
        copy.body = Bytes::from_static(b"another");
        let Admission::Go(admitted) = admit(copy, "bj-1") else {
            panic!("settled")
        };
        assert_eq!(
            (admitted.path, admitted.round),
            (vec![unit("bj-1")], Round(1))
        );
    }

    #[test]
    fn a_path_never_holds_its_target_twice() {
        let copy = delivered("sh-1", "bj-1", Why::Owner, message("orders"));
        let Admission::Go(admitted) = admit(copy, "sz-1") else {
            panic!("settled")
        };
        assert_eq!(admitted.path, [unit("sh-1"), unit("bj-1"), unit("sz-1")]);
        let before = |to: &str| admitted.path_before(&unit(to)).to_vec();
        assert_eq!(before("sh-1"), [unit("sz-1")]);
        assert_eq!(before("sz-1"), [unit("sh-1"), unit("bj-1")]);
        assert_eq!(before("gz-1"), admitted.path);
    }

    #[test]
    fn what_leaves_no_room_for_marks_is_unreadable() {
        let pad = FieldValue::str("x".repeat(130_000));
        let large = with(message("orders"), "pad", &pad);
        let (_, unreadable) =
            *Envelope::decode(large, &Duplicates::default(), &keys(), LIMITS).unwrap_err();
        assert_eq!(unreadable.reason, Reason::TooLarge);
        let mut body = message("orders");
        body.body = Bytes::from(vec![0; (1 << 20) + 1]);
        assert!(Envelope::decode(body, &Duplicates::default(), &keys(), LIMITS).is_err());
    }

    #[test]
    fn damaged_properties_are_unreadable_and_nesting_of_any_depth_is_not() {
        let mut damaged = message("orders");
        damaged.properties = RawProperties::from_wire(Bytes::from_static(&[0x80, 0, 9, b'x']));
        let (_, unreadable) =
            *Envelope::decode(damaged, &Duplicates::default(), &keys(), LIMITS).unwrap_err();
        assert_eq!(unreadable.reason, Reason::Malformed);
        let deep = (0..1_000).fold(FieldValue::Void, |inner, _| FieldValue::Array(vec![inner]));
        let deep = with(message("orders"), "deep", &deep);
        let due = deep.properties.header("deep").unwrap().bytes.to_vec();
        let parcel = stamped("sh-1", "bj-1", Why::Owner, deep);
        assert_eq!(parcel.properties.header("deep").unwrap().bytes, due);
    }
}
