//! Queues that setgate didn't declare: what they are, and whether a lane can hold one.
//!
//! A passive declaration shows neither type nor arguments. So the management API is asked where it is configured, else
//! the queue is declared again and again, each time with what the broker's refusal says of it, until it agrees. Promises
//! to change nothing; a queue that vanishes between the first look and a declaration is the one exception: then an empty
//! durable one comes to be.

use super::declare::{declare, passive};
use super::error::BrokerError;
use super::{Connection, ConsumerKind, Management};
use crate::amqp::{FieldTable, FieldValue};
use lapin::options::QueueDeclareOptions;

/// Refusals that are read. RabbitMQ compares durable, auto-delete and about 20 arguments, one refusal each.
const PROBES_MAX: usize = 32;

/// The type of a foreign queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignKind {
    /// One node's.
    Classic,
    /// Replicated.
    Quorum,
    /// A log.
    Stream,
}

/// A queue that setgate didn't declare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignQueue {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: ForeignKind,
    /// It hands messages to one consumer at a time.
    pub single_active_consumer: bool,
    /// It outlives a restart of its broker.
    pub durable: bool,
}

/// Why it can't be told what a queue is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// No such queue. Try again: it is taken up when it appears.
    #[error("queue {queue:?} does not exist in vhost {vhost:?}; create it, or correct take.queue")]
    NotFound {
        /// The queue.
        queue: String,
        /// Where it was looked for.
        vhost: String,
    },
    /// Another connection's exclusive queue.
    #[error(
        "queue {queue:?} is exclusive to another connection; setgate can't take from it: {text}"
    )]
    Locked {
        /// The queue.
        queue: String,
        /// The broker's words.
        text: String,
    },
    /// The user may not ask.
    #[error(
        "asking what queue {queue:?} is: {text}; grant the gateway's user configure on it, or configure broker.management and give the user the tag management"
    )]
    NotAllowed {
        /// The queue.
        queue: String,
        /// The broker's words.
        text: String,
    },
    /// The broker's words could not be read.
    #[error("what queue {queue:?} is can't be told from {text:?}; configure broker.management")]
    Unclear {
        /// The queue.
        queue: String,
        /// The broker's words.
        text: String,
    },
    /// The management API didn't answer. Try again.
    #[error("asking the management API for queue {queue:?}: {cause}")]
    Management {
        /// The queue.
        queue: String,
        /// Per address.
        cause: String,
    },
    /// The broker. Try again.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// Why a lane can't hold a queue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}; {mend}")]
pub struct Refused {
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub mend: String,
}

/// How a lane holds this queue alone, or why it can't.
pub fn hold(queue: &ForeignQueue) -> Result<ConsumerKind, Refused> {
    let name = &queue.name;
    match (queue.kind, queue.single_active_consumer) {
        (ForeignKind::Stream, _) => Err(Refused {
            text: format!("{name:?} is a stream, which can't be held by one consumer"),
            mend: "take its exchange instead, with {exchange, bindings}".to_owned(),
        }),
        (ForeignKind::Classic | ForeignKind::Quorum, true) => Ok(ConsumerKind::SingleActive),
        (ForeignKind::Classic, false) => Ok(ConsumerKind::Exclusive),
        (ForeignKind::Quorum, false) => Err(Refused {
            text: format!(
                "{name:?} is a quorum queue without single active consumer: two gateways would take from it at once, out of order"
            ),
            mend: "declare it anew with x-single-active-consumer: true, or take its exchange instead, with {exchange, bindings}"
                .to_owned(),
        }),
    }
}

/// Finds out what a queue is.
pub async fn inspect_foreign_queue(
    connection: &Connection,
    management: Option<&Management>,
    queue: &str,
) -> Result<ForeignQueue, InspectError> {
    match passive(connection, queue).await {
        Ok(_) => {}
        Err(error) => return Err(sort(connection, queue, error)),
    }
    match management {
        Some(management) => management.queue(connection.vhost(), queue).await,
        None => probe(connection, queue).await,
    }
}

fn sort(connection: &Connection, queue: &str, error: BrokerError) -> InspectError {
    let queue = queue.to_owned();
    match error {
        BrokerError::Refused { code: 404, .. } => InspectError::NotFound {
            queue,
            vhost: connection.vhost().to_owned(),
        },
        BrokerError::Refused {
            code: 405, text, ..
        } => InspectError::Locked { queue, text },
        BrokerError::Refused {
            code: 403, text, ..
        } => InspectError::NotAllowed { queue, text },
        other => InspectError::Broker(other),
    }
}

async fn probe(connection: &Connection, queue: &str) -> Result<ForeignQueue, InspectError> {
    let mut guess = Guess {
        durable: true,
        auto_delete: false,
        arguments: FieldTable::new(),
    };
    let mut last = String::new();
    for _ in 0..PROBES_MAX {
        let options = QueueDeclareOptions {
            durable: guess.durable,
            auto_delete: guess.auto_delete,
            ..QueueDeclareOptions::default()
        };
        let text = match declare(connection, queue, options, &guess.arguments).await {
            Ok(()) => return guess.read(queue),
            Err(BrokerError::Refused {
                code: 406, text, ..
            }) => text,
            Err(error) => return Err(sort(connection, queue, error)),
        };
        if text == last || !guess.correct(&text) {
            return Err(InspectError::Unclear {
                queue: queue.to_owned(),
                text,
            });
        }
        last = text;
    }
    Err(InspectError::Unclear {
        queue: queue.to_owned(),
        text: last,
    })
}

/// What a queue is thought to be.
#[derive(Debug, Clone, PartialEq)]
struct Guess {
    durable: bool,
    auto_delete: bool,
    arguments: FieldTable,
}

impl Guess {
    /// Takes over what a refusal says is different. The words are `rabbit_misc:assert_args_equivalence`'s:
    /// `inequivalent arg 'NAME' for queue 'Q' in vhost 'V': received … but current is CURRENT`, CURRENT being `none`,
    /// `the value 'V' of type 'T'`, or for durable and auto_delete `'true'` or `'false'`. AMQP cuts them at 255 bytes.
    fn correct(&mut self, text: &str) -> bool {
        let Some((name, current)) = difference(text) else {
            return false;
        };
        match (name, current) {
            ("durable", "'true'") => self.durable = true,
            ("durable", "'false'") => self.durable = false,
            ("auto_delete", "'true'") => self.auto_delete = true,
            ("auto_delete", "'false'") => self.auto_delete = false,
            // With a vhost's default type the two types are compared before the arguments are.
            ("x-queue-type", current) if !current.starts_with("the value") && current != "none" => {
                let word = current.trim_matches('\'');
                self.arguments.set(name, FieldValue::str(word));
            }
            (name, "none") => {
                self.arguments.remove(name);
            }
            (name, current) => match value(current) {
                Some(value) => self.arguments.set(name, value),
                None => return false,
            },
        }
        true
    }

    fn read(&self, queue: &str) -> Result<ForeignQueue, InspectError> {
        let kind = match self.arguments.get("x-queue-type") {
            None => ForeignKind::Classic,
            Some(FieldValue::Str(word)) => kind(word).ok_or_else(|| InspectError::Unclear {
                queue: queue.to_owned(),
                text: String::from_utf8_lossy(word).into_owned(),
            })?,
            Some(other) => {
                return Err(InspectError::Unclear {
                    queue: queue.to_owned(),
                    text: format!("{other:?}"),
                });
            }
        };
        Ok(ForeignQueue {
            name: queue.to_owned(),
            kind,
            single_active_consumer: self.arguments.get("x-single-active-consumer")
                == Some(&FieldValue::Bool(true)),
            durable: self.durable,
        })
    }
}

/// The type that a word of RabbitMQ's stands for.
pub(super) fn kind(word: &[u8]) -> Option<ForeignKind> {
    match word {
        b"classic" => Some(ForeignKind::Classic),
        b"quorum" => Some(ForeignKind::Quorum),
        b"stream" => Some(ForeignKind::Stream),
        _ => None,
    }
}

fn difference(text: &str) -> Option<(&str, &str)> {
    let (_, rest) = text.split_once("inequivalent arg '")?;
    let (name, rest) = rest.split_once('\'')?;
    let (_, current) = rest.rsplit_once(" but current is ")?;
    Some((name, current))
}

fn value(current: &str) -> Option<FieldValue> {
    let rest = current.strip_prefix("the value '")?;
    let (value, kind) = rest.rsplit_once("' of type '")?;
    match kind.strip_suffix('\'')? {
        "longstr" => Some(FieldValue::str(value)),
        "bool" => value.parse().ok().map(FieldValue::Bool),
        "byte" => value.parse().ok().map(FieldValue::I8),
        "unsignedbyte" => value.parse().ok().map(FieldValue::U8),
        "short" => value.parse().ok().map(FieldValue::I16),
        "unsignedshort" => value.parse().ok().map(FieldValue::U16),
        "signedint" => value.parse().ok().map(FieldValue::I32),
        "unsignedint" => value.parse().ok().map(FieldValue::U32),
        "long" => value.parse().ok().map(FieldValue::I64),
        "timestamp" => value.parse().ok().map(FieldValue::Timestamp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_s_words_lead_to_the_queue_s_own_arguments() {
        let mut guess = Guess {
            durable: true,
            auto_delete: false,
            arguments: FieldTable::new(),
        };
        let head = "PRECONDITION_FAILED - inequivalent arg";
        for text in [
            format!(
                "{head} 'x-queue-type' for queue 'q' in vhost '/': received none but current is the value 'quorum' of type 'longstr'"
            ),
            format!(
                "{head} 'x-single-active-consumer' for queue 'q' in vhost '/': received none but current is the value 'true' of type 'bool'"
            ),
            format!(
                "{head} 'x-max-length' for queue 'q' in vhost '/': received none but current is the value '5' of type 'signedint'"
            ),
            format!(
                "{head} 'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'"
            ),
        ] {
            assert!(guess.correct(&text), "{text}");
        }
        let queue = guess.read("q").unwrap();
        assert_eq!(queue.kind, ForeignKind::Quorum);
        assert!(queue.single_active_consumer && !queue.durable);
        for cut in [
            "",
            "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'very long",
            "inequivalent arg 'x' for queue 'q': received none but current is the value 'x' of ty...",
        ] {
            assert!(!guess.correct(cut), "{cut}");
        }
    }

    #[test]
    fn only_queues_that_one_consumer_can_hold_are_held() {
        let queue = |kind, single_active_consumer| ForeignQueue {
            name: "orders".to_owned(),
            kind,
            single_active_consumer,
            durable: true,
        };
        assert_eq!(
            hold(&queue(ForeignKind::Classic, false)),
            Ok(ConsumerKind::Exclusive)
        );
        assert_eq!(
            hold(&queue(ForeignKind::Classic, true)),
            Ok(ConsumerKind::SingleActive)
        );
        assert_eq!(
            hold(&queue(ForeignKind::Quorum, true)),
            Ok(ConsumerKind::SingleActive)
        );
        let refused = hold(&queue(ForeignKind::Quorum, false))
            .unwrap_err()
            .to_string();
        assert!(refused.contains("x-single-active-consumer"), "{refused}");
        assert!(hold(&queue(ForeignKind::Stream, false)).is_err());
    }
}
