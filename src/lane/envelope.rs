//! A message on its way from the lane queue to a decision: decoded, then admitted. Each step is another type.
//!
//! Promises: marks count only under a valid seal; a copy that has been here is settled and not routed again; nothing
//! makes more than `hops_max` rounds. Never talks to a broker, never reads a clock.

use crate::amqp::{FieldValue, NESTING_MAX, Properties};
use crate::model::marks::{self, Marks, Trail};
use crate::model::{Message, MessageId, Reason, Retry, Round, SealKeys, UnitId, Why};
use crate::rules::{Duplicates, IdFrom};
use bytes::Bytes;

/// What one content header frame holds at RabbitMQ's `frame_max` of 128 KiB: less frame head and end (8 bytes), and
/// class, weight and body size (12).
pub const PROPERTIES_BYTES_MAX: usize = 131_072 - 8 - 12;

/// Room that the marks take at most: 22 names of some 20 bytes, values of names (64 bytes each), a path of 16 units,
/// an address (2 × 255), a CC that was wrapped is counted with the headers it came from.
const MARKS_BYTES: usize = 4_096;

/// What a quorum queue adds to a message that it hands out again.
const X_DELIVERY_COUNT: &str = "x-delivery-count";

/// The id of a message, by its source's document: a header's string or bytes as they are, an integer as its decimal text.
fn id_of(properties: &Properties, duplicates: &Duplicates) -> Option<MessageId> {
    let Duplicates::ById { id, .. } = duplicates else {
        return None;
    };
    match id {
        IdFrom::MessageId => properties.message_id.clone().map(MessageId),
        IdFrom::Header(name) => {
            let value = properties.header(name)?;
            value
                .as_bytes()
                .cloned()
                .or_else(|| value.as_integer().map(|number| number.to_string().into()))
                .map(MessageId)
        }
    }
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
    /// As the queue gave it, marks included.
    pub message: Message,
    /// By the source's rule.
    pub id: Option<MessageId>,
    marks: Marks,
}

impl Envelope {
    /// Reads id and marks, and finds out whether the message can carry marks at all.
    pub fn decode(
        message: Message,
        duplicates: &Duplicates,
        keys: &SealKeys,
        limits: Limits,
    ) -> Result<Self, Box<(Message, Unreadable)>> {
        let fault = unreadable(&message, limits);
        if let Some(unreadable) = fault {
            return Err(Box::new((message, unreadable)));
        }
        let id = id_of(&message.properties, duplicates);
        let marks = Marks::read(keys, id.as_ref(), &message.properties, &message.body);
        Ok(Self { message, id, marks })
    }

    /// Whether it came with marks that nobody of this space can have made.
    pub fn has_refused_marks(&self) -> bool {
        self.marks == Marks::Unsealed
    }

    /// Decides whether this is a copy that has been here, a message that goes on, or one that has gone too far.
    pub fn admit(self, here: &UnitId, keys: &SealKeys, limits: Limits) -> Admission {
        let Self { message, id, marks } = self;
        let admitted = match marks {
            Marks::Absent | Marks::Unsealed => Admitted {
                path: vec![here.clone()],
                round: Round(1),
                retry: Retry(0),
                user_id: message.properties.user_id.clone(),
                message,
                id,
            },
            Marks::Sealed(trail) => {
                let visited = trail.path.contains(here);
                let address = &message.address;
                if visited
                    && trail.why == Why::Shared
                    && keys.delivered_as(&trail.delivered, address, &message.properties)
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
                // One that comes back on purpose is a new wish: it begins a new path, and its round goes on.
                let path = if visited {
                    vec![here.clone()]
                } else {
                    path.into_iter().chain([here.clone()]).collect()
                };
                let user_id = message.properties.user_id.clone().or(user_id);
                Admitted {
                    path,
                    round: Round(round.0.saturating_add(1)),
                    retry,
                    user_id,
                    message,
                    id,
                }
            }
        };
        if admitted.round.0 > limits.rounds_max {
            return Admission::TooManyRounds(admitted);
        }
        let mut admitted = admitted;
        marks::strip(&mut admitted.message.properties);
        // How often the source's quorum queue handed it out: the queue's word, not its publisher's, and false elsewhere.
        if admitted.message.redelivered
            && let Some(headers) = &mut admitted.message.properties.headers
        {
            headers.remove(X_DELIVERY_COUNT);
        }
        admitted.message.properties.user_id = None;
        Admission::Go(admitted)
    }
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
    if message
        .properties
        .headers
        .as_ref()
        .is_some_and(|headers| headers.depth() > NESTING_MAX)
    {
        return Some(Unreadable {
            reason: Reason::Malformed,
            cause: format!("its headers nest deeper than {NESTING_MAX} levels"),
        });
    }
    match message.properties.encode() {
        Err(error) => Some(Unreadable {
            reason: Reason::Malformed,
            cause: format!("its headers: {error}"),
        }),
        Ok(bytes) if bytes.len() + MARKS_BYTES > PROPERTIES_BYTES_MAX => too_large(format!(
            "its properties have {} bytes, which leaves no room for marks in one frame of 128 KiB",
            bytes.len()
        )),
        Ok(_) => None,
    }
}

/// What becomes of an envelope.
#[derive(Debug, PartialEq)]
pub enum Admission {
    /// To be routed.
    Go(Admitted),
    /// A shared copy as this unit's gateways delivered it: it has been routed where it came from. Settle it.
    CopyOfOurs,
    /// More than `hops_max` rounds: park it.
    TooManyRounds(Admitted),
}

/// A message that may be routed, without its marks and without its publisher's `user-id`.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    /// Marks stripped, but on one with too many rounds, which is parked as it came.
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
}

impl Admitted {
    /// The path as it is stamped on a parcel for `to`: ends with `to`, and has it once.
    pub fn path_to(&self, to: &UnitId) -> Vec<UnitId> {
        let mut path = self.path.clone();
        if path.last() == Some(to) {
            return path;
        }
        if path.contains(to) {
            // Owned by a unit of its trail: a new path from here, as for all that comes back on purpose.
            path.drain(..path.len() - 1);
        }
        path.push(to.clone());
        path
    }
}

/// A path as a header's value.
pub(super) fn path_value(path: &[UnitId]) -> FieldValue {
    FieldValue::Array(
        path.iter()
            .map(|unit| FieldValue::str(unit.as_str()))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::stamp::{Stamp, stamp};
    use crate::model::marks::{X_SET_PATH, X_SET_SEAL};
    use crate::model::{Address, Epoch, Lineage, Parcel, ParcelNumber, Revision};

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
            properties: Properties {
                message_id: Some(Bytes::from_static(b"m1")),
                ..Properties::default()
            },
            body: Bytes::from_static(b"body"),
            redelivered: false,
        }
    }

    fn admit(message: Message, here: &str) -> Admission {
        Envelope::decode(message, &Duplicates::default(), &keys(), LIMITS)
            .unwrap()
            .admit(&unit(here), &keys(), LIMITS)
    }

    fn delivered(from: &str, to: &str, why: Why, message: Message) -> Message {
        let Admission::Go(admitted) = admit(message, from) else {
            panic!("not admitted")
        };
        let address = admitted.message.address.clone();
        let parcel: Parcel = stamp(
            &admitted,
            Stamp {
                keys: &keys(),
                lineage: &Lineage("l".into()),
                epoch: Epoch(1),
                revision: Revision(1),
                from: &unit(from),
                to: &unit(to),
                slot: None,
                why,
                address: address.clone(),
            },
            ParcelNumber(1),
        );
        Message {
            address,
            properties: parcel.properties,
            body: parcel.body,
            redelivered: false,
        }
    }

    #[test]
    fn the_count_of_the_source_queue_stays_behind_and_a_publishers_own_does_not() {
        for redelivered in [true, false] {
            let mut message = message("orders");
            message.redelivered = redelivered;
            let count = FieldValue::I64(1);
            message
                .properties
                .headers_mut()
                .set(X_DELIVERY_COUNT, count.clone());
            let Admission::Go(admitted) = admit(message, "sh-1") else {
                panic!("not admitted")
            };
            let kept = admitted.message.properties.header(X_DELIVERY_COUNT);
            assert_eq!(kept, (!redelivered).then_some(&count));
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
        let mut forged = message("catalog");
        let headers = forged.properties.headers_mut();
        headers.set(X_SET_PATH, path_value(&[unit("sh-1"), unit("bj-1")]));
        headers.set(X_SET_SEAL, FieldValue::Bytes(Bytes::from_static(&[7; 16])));
        let Admission::Go(admitted) = admit(forged, "bj-1") else {
            panic!("believed")
        };
        assert_eq!(admitted.path, [unit("bj-1")]);
        assert!(admitted.message.properties.headers.unwrap().is_empty());
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
        assert_eq!(
            admitted.path_to(&unit("sh-1")),
            [unit("sz-1"), unit("sh-1")]
        );
        assert_eq!(admitted.path_to(&unit("sz-1")).last(), Some(&unit("sz-1")));
    }

    #[test]
    fn what_leaves_no_room_for_marks_is_unreadable() {
        let mut large = message("orders");
        large
            .properties
            .headers_mut()
            .set("pad", FieldValue::str("x".repeat(130_000)));
        let (_, unreadable) =
            *Envelope::decode(large, &Duplicates::default(), &keys(), LIMITS).unwrap_err();
        assert_eq!(unreadable.reason, Reason::TooLarge);
        let mut body = message("orders");
        body.body = Bytes::from(vec![0; (1 << 20) + 1]);
        assert!(Envelope::decode(body, &Duplicates::default(), &keys(), LIMITS).is_err());
    }
}
