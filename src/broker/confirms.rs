//! What became of a batch of publishes, from the broker's confirms and returns.
//!
//! Pure. The client library hands each returned message out with *some* confirm of the channel that comes after it, often
//! another publish's. So a batch is judged whole, and returns are matched by the token that every message carries in its
//! `x-set-parcel` header. Promises never to call a returned message confirmed.

use super::Outcome;
use std::collections::HashMap;

/// One message of a batch that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sent {
    /// Its `x-set-parcel`.
    pub(super) token: String,
    /// The broker returns it when no queue is bound.
    pub(super) mandatory: bool,
}

/// What came back for one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// A confirm, with whatever return came along.
    Answered {
        /// `basic.ack`, not `basic.nack`.
        ack: bool,
        /// Perhaps of another message.
        returned: Option<Return>,
    },
    /// None.
    Missing {
        /// Why not.
        cause: String,
    },
}

/// A returned message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Return {
    /// Its `x-set-parcel`, when it has one.
    pub(super) token: Option<String>,
    /// 312 for no route.
    pub(super) code: u16,
    /// The broker's words.
    pub(super) text: String,
}

/// Judges a batch whose last reply is in, or never will be.
pub(super) fn judge(sent: &[Sent], replies: Vec<Reply>) -> Vec<Outcome> {
    let whole = !replies
        .iter()
        .any(|reply| matches!(reply, Reply::Missing { .. }));
    let mut returned: HashMap<String, (u16, String)> = HashMap::new();
    let mut strange = 0usize;
    let replies: Vec<_> = replies
        .into_iter()
        .map(|reply| match reply {
            Reply::Missing { cause } => Err(cause),
            Reply::Answered {
                ack,
                returned: None,
            } => Ok((ack, Carried::Nothing)),
            Reply::Answered {
                ack,
                returned: Some(back),
            } => {
                match back.token {
                    Some(token) if sent.iter().any(|one| one.token == token) => {
                        returned.insert(token, (back.code, back.text));
                    }
                    _ => strange += 1,
                }
                Ok((ack, Carried::Return))
            }
        })
        .collect();
    sent.iter()
        .zip(replies)
        .map(|(one, reply)| match (reply, returned.remove(&one.token)) {
            // The broker sends a return only for what it took off the wire and could not route; no queue has it.
            (_, Some((code, text))) => Outcome::Returned { code, text },
            (Err(cause), None) => Outcome::Unknown { cause },
            (Ok((false, _)), None) => Outcome::Nacked,
            (Ok((true, carried)), None) => {
                if !one.mandatory || certain(whole, strange, carried) {
                    Outcome::Confirmed
                } else {
                    Outcome::Unknown {
                        cause: "the broker confirmed it, but a return that may be its own was lost"
                            .to_owned(),
                    }
                }
            }
        })
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carried {
    Nothing,
    Return,
}

/// Whether an acknowledged message without a return can't have one. A message's return comes before its confirm, and
/// each confirm takes one waiting return along, the oldest first. So when all confirms are in, all returns are; and a
/// confirm that found none waiting proves that every earlier one was handed out. What remains: confirms that took
/// another's return along before the channel ended, and returns that name no message of this batch.
fn certain(whole: bool, strange: usize, carried: Carried) -> bool {
    strange == 0 && (whole || carried == Carried::Nothing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(tokens: &[&str]) -> Vec<Sent> {
        tokens
            .iter()
            .map(|token| Sent {
                token: (*token).to_owned(),
                mandatory: true,
            })
            .collect()
    }

    fn ack(returned: Option<&str>) -> Reply {
        Reply::Answered {
            ack: true,
            returned: returned.map(|token| Return {
                token: Some(token.to_owned()),
                code: 312,
                text: "NO_ROUTE".to_owned(),
            }),
        }
    }

    fn missing() -> Reply {
        Reply::Missing {
            cause: "gone".to_owned(),
        }
    }

    fn returned() -> Outcome {
        Outcome::Returned {
            code: 312,
            text: "NO_ROUTE".to_owned(),
        }
    }

    #[test]
    fn a_return_is_matched_to_its_own_message_whichever_confirm_carried_it() {
        let outcomes = judge(
            &sent(&["1", "2", "3"]),
            vec![ack(Some("2")), ack(None), ack(Some("3"))],
        );
        assert_eq!(outcomes, [Outcome::Confirmed, returned(), returned()]);
    }

    #[test]
    fn a_confirm_that_carried_another_s_return_proves_nothing_once_the_channel_ended() {
        // 2 and 3 were returned; the confirm of 3 took 2's return along; the channel ended before 3's was handed out.
        let outcomes = judge(
            &sent(&["1", "2", "3"]),
            vec![missing(), missing(), ack(Some("2"))],
        );
        assert!(matches!(outcomes[0], Outcome::Unknown { .. }));
        assert_eq!(outcomes[1], returned());
        assert!(matches!(outcomes[2], Outcome::Unknown { .. }));
    }

    #[test]
    fn a_confirm_that_found_no_return_waiting_stands_though_the_channel_ended() {
        let outcomes = judge(&sent(&["1", "2"]), vec![ack(None), missing()]);
        assert_eq!(outcomes[0], Outcome::Confirmed);
        assert!(matches!(outcomes[1], Outcome::Unknown { .. }));
    }

    #[test]
    fn a_return_without_a_known_token_leaves_no_mandatory_message_confirmed() {
        let outcomes = judge(&sent(&["1", "2"]), vec![ack(Some("stranger")), ack(None)]);
        assert!(
            outcomes
                .iter()
                .all(|outcome| matches!(outcome, Outcome::Unknown { .. }))
        );
    }

    #[test]
    fn a_nack_is_a_nack() {
        let nack = Reply::Answered {
            ack: false,
            returned: None,
        };
        assert_eq!(
            judge(&sent(&["1", "2"]), vec![nack, ack(None)]),
            [Outcome::Nacked, Outcome::Confirmed]
        );
    }
}
