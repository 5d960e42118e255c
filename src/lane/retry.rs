//! A parked message on its way back to the lane that took it.
//!
//! Promises that a retry is told apart from what went before, whatever the de-duplication window remembers, and that one
//! that is given back twice, since somebody was killed in between, is one retry: it has the same number both times.

use super::park::{Stored, Wrapping, wrap};
use super::unwrap::Unwrapped;
use crate::amqp::RawProperties;
use crate::model::{Retry, Round};
use bytes::Bytes;

/// Wraps a message out of the park for the queue of its source, from where the lane takes it by its original address.
/// It begins a new path, its rounds are counted from the first again, and its retry is the next one.
pub fn wrap_retry(unwrapped: Unwrapped, wrapping: Wrapping<'_>) -> (RawProperties, Bytes) {
    let Unwrapped {
        message,
        id,
        retry,
        user_id,
        replay_for,
        kept,
        ..
    } = unwrapped;
    let stored = Stored {
        message,
        id,
        path: Vec::new(),
        // The lane counts one when it takes it.
        round: Round(0),
        retry: Retry(retry.0.saturating_add(1)),
        user_id,
        replay_for,
        kept,
    };
    wrap(&stored, wrapping)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::{FieldTable, FieldValue, Properties, RawProperties};
    use crate::lane::park::Kept;
    use crate::lane::{Admission, Admitted, Envelope, Limits, unwrap};
    use crate::model::marks::X_SET_RETRY;
    use crate::model::{Address, Message, Reason, SealKeys, SourceName, UnitId};
    use crate::rules::Duplicates;

    const LIMITS: Limits = Limits {
        body_bytes_max: 1 << 20,
        rounds_max: 4,
    };

    struct Lane {
        keys: SealKeys,
        here: UnitId,
        source: SourceName,
    }

    impl Lane {
        fn new() -> Self {
            Self {
                keys: SealKeys::parse(br#"{"seal":"000102030405060708090a0b0c0d0e0f"}"#).unwrap(),
                here: UnitId::parse("sh-1").unwrap(),
                source: SourceName::parse("orders").unwrap(),
            }
        }

        fn wrapping(&self) -> Wrapping<'_> {
            Wrapping {
                keys: &self.keys,
                from: &self.here,
                source: &self.source,
                at: 5,
            }
        }

        fn admit(&self, message: Message) -> Admission {
            Envelope::decode(message, &Duplicates::default(), &self.keys, LIMITS)
                .unwrap()
                .admit(&self.here, &self.keys, LIMITS)
        }

        fn admitted(&self, message: Message) -> Admitted {
            match self.admit(message) {
                Admission::Go(admitted) => admitted,
                other => panic!("{other:?}"),
            }
        }

        /// Out of the park, with this many rounds behind it.
        fn parked(&self, message: Message, round: u32, retry: u32) -> Message {
            let parked = Stored {
                message,
                id: None,
                path: vec![self.here.clone()],
                round: Round(round),
                retry: Retry(retry),
                user_id: Some(Bytes::from_static(b"app")),
                replay_for: None,
                kept: Kept::Parked {
                    reason: Reason::Hops,
                    rule: None,
                },
            };
            in_queue(wrap(&parked, self.wrapping()))
        }

        fn retried(&self, parked: &Message) -> Message {
            let unwrapped = unwrap(parked, &self.keys).unwrap();
            in_queue(wrap_retry(unwrapped, self.wrapping()))
        }
    }

    /// As a queue of setgate's own gives it.
    fn in_queue((properties, body): (RawProperties, Bytes)) -> Message {
        Message {
            address: Address {
                exchange: Bytes::new(),
                routing_key: Bytes::from_static(b"setgate.t.lane.orders.0"),
            },
            properties,
            body,
            redelivered: false,
        }
    }

    fn message() -> Message {
        let mut headers = FieldTable::new();
        headers.push(Bytes::from_static(b"uid"), FieldValue::I32(7));
        let properties = Properties {
            headers: Some(headers),
            message_id: Some(Bytes::from_static(b"m1")),
            delivery_mode: Some(1),
            expiration: Some(Bytes::from_static(b"1000")),
            ..Properties::default()
        };
        Message {
            address: Address {
                exchange: Bytes::from_static(b"orders"),
                routing_key: Bytes::from_static(b"order.cn"),
            },
            properties: RawProperties::of(&properties).unwrap(),
            body: Bytes::from_static(b"body"),
            redelivered: false,
        }
    }

    #[test]
    fn a_retried_message_is_routed_as_it_was_published() {
        let lane = Lane::new();
        let admitted = lane.admitted(lane.retried(&lane.parked(message(), 1, 0)));
        assert_eq!(admitted.message, message());
        assert_eq!(admitted.id, lane.admitted(message()).id);
        assert_eq!(admitted.user_id.as_deref(), Some(&b"app"[..]));
    }

    #[test]
    fn a_retry_begins_anew_and_counts_itself() {
        let lane = Lane::new();
        for round in [1, LIMITS.rounds_max + 1] {
            let admitted = lane.admitted(lane.retried(&lane.parked(message(), round, 2)));
            assert_eq!(admitted.path, std::slice::from_ref(&lane.here));
            assert_eq!((admitted.round, admitted.retry), (Round(1), Retry(3)));
        }
    }

    #[test]
    fn a_retry_that_is_given_back_twice_is_one_retry() {
        let lane = Lane::new();
        let parked = lane.parked(message(), 1, 0);
        let once = lane.retried(&parked);
        assert_eq!(once, lane.retried(&parked));
        // And one that is parked again is another.
        let again = lane.admitted(once);
        let parked = lane.parked(again.message, again.round.0, again.retry.0);
        let admitted = lane.admitted(lane.retried(&parked));
        assert_eq!((admitted.round, admitted.retry), (Round(1), Retry(2)));
    }

    #[test]
    fn what_somebody_moved_out_of_the_park_by_hand_goes_on_with_its_rounds() {
        let lane = Lane::new();
        let parked = lane.parked(message(), 1, 0);
        let admitted = lane.admitted(parked);
        assert_eq!(admitted.message, message());
        assert_eq!((admitted.round, admitted.retry), (Round(2), Retry(0)));
        let worn = lane.admit(lane.parked(message(), LIMITS.rounds_max, 0));
        assert!(matches!(worn, Admission::TooManyRounds(_)));
    }

    #[test]
    fn a_forged_wrapping_leads_nowhere() {
        let lane = Lane::new();
        let mut forged = lane.retried(&lane.parked(message(), 1, 0));
        forged.body = Bytes::from_static(b"another");
        let envelope = Envelope::decode(forged, &Duplicates::default(), &lane.keys, LIMITS);
        let envelope = envelope.unwrap();
        assert!(envelope.has_refused_marks());
        assert_eq!(envelope.message.address.exchange, "");
        let Admission::Go(admitted) = envelope.admit(&lane.here, &lane.keys, LIMITS) else {
            panic!("believed")
        };
        assert_eq!((admitted.round, admitted.retry), (Round(1), Retry(0)));
        assert!(admitted.message.header(X_SET_RETRY).is_none());
    }

    #[test]
    fn one_without_room_for_its_wrapping_is_read_as_it_was() {
        let lane = Lane::new();
        for bytes in [126_000, 131_000] {
            let mut large = message();
            let mut headers = FieldTable::new();
            let pad = FieldValue::str("x".repeat(bytes));
            headers.push(Bytes::from_static(b"pad"), pad);
            large.properties = RawProperties::of(&Properties {
                headers: Some(headers),
                ..Properties::default()
            })
            .unwrap();
            let retried = lane.retried(&lane.parked(large.clone(), 1, 0));
            let read = Envelope::decode(retried, &Duplicates::default(), &lane.keys, LIMITS);
            match read {
                Ok(envelope) => assert_eq!(envelope.message, large),
                Err(unread) => {
                    assert_eq!((unread.1.reason, bytes), (Reason::TooLarge, 131_000));
                    assert_eq!(unread.0, large);
                }
            }
        }
    }
}
