//! What an operator does with messages that lie in this unit: list, show, retry and drop parked ones, send kept ones again.
//!
//! Owns the reading of the park queues, one for each virtual host in use. Promises that a queue is given back as it was,
//! in order, but for what has been retried or dropped; that one command works on it at a time, in the whole unit, by a
//! lock in the broker; that memory and time of a command are bounded, and that it ends in order even when whoever asked
//! is gone. A message leaves the park only when its source's queue has it, confirmed, or when an operator dropped it.

mod backfill;
mod entry;
mod look;
mod retry;

pub use backfill::{BackfillAsk, BackfillFrom, Backfilled};
pub use entry::{Entry, Filter};
pub use look::{Dropped, Listing};
pub use retry::{Retried, RetryAsk};

use super::brokers::Vhost;
use super::into_queues::IntoQueues;
use super::shared::{Rules, Shared};
use crate::broker::{self, Consumer, ConsumerEvent, ConsumerKind, LanePublisher, OpenError};
use crate::lane::PROPERTIES_BYTES_MAX;
use crate::model::{DeliveryTag, Message, own_queues};
use entry::{BodyAt, Read, SHOWN_BYTES, read};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Messages of one park queue that one command looks at: as many as AMQP's prefetch can say. They stay unacknowledged in
/// the broker until the command ends; here there is one at a time, beside its tag and what is said of it.
const SCAN_MAX: u16 = u16::MAX;

/// One command in one gateway; a retry that needs longer is asked for again. Some 10,000 small messages are read in a
/// second.
const COMMAND_MAX: Duration = Duration::from_secs(50);

/// A queue that says it has messages hands them out within this, or somebody else has taken them.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// A queue whose last reader has just gone counts all of its messages again after a tenth of a second.
const COUNT_AGAIN: Duration = Duration::from_millis(200);

/// What is in front of the body of a message that couldn't carry its marks: its properties, and their length.
const WRAPPING_BYTES: usize = PROPERTIES_BYTES_MAX + 4;

/// Why a command wasn't carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParkError {
    /// Another command is at work in this unit.
    #[error("another command is working on the park of this unit")]
    Busy,
    /// No table yet, so neither queues nor keys are known.
    #[error("no routing table is in force yet")]
    NoRules,
    /// The broker, or the gateway's end.
    #[error("{0}")]
    Broker(String),
    /// Not as many as the operator said: nothing was dropped.
    #[error("{found} match, not {named}; nothing was dropped")]
    OtherCount {
        /// As asked.
        named: u64,
        /// As found.
        found: u64,
    },
    /// It can't be done as it was asked for.
    #[error("{0}")]
    Refused(String),
    /// A fault of setgate.
    #[error("the command ended by a fault of setgate")]
    Fault,
}

/// See the file's head. Clones are the same desk.
#[derive(Clone)]
pub struct ParkDesk {
    shared: Arc<Shared>,
    cancel: CancellationToken,
}

impl ParkDesk {
    pub(super) fn new(shared: Arc<Shared>, cancel: CancellationToken) -> Self {
        Self { shared, cancel }
    }

    /// What lies in the park, up to `limit` of those that are meant; the others are counted.
    pub async fn list(&self, filter: Filter, limit: usize) -> Result<Listing, ParkError> {
        let job = Job::of(self)?;
        self.to_its_end(look::list(job, filter, limit)).await
    }

    /// One message with this id or handle: marks, properties, and the beginning of its body.
    pub async fn show(&self, id: String) -> Result<Option<Value>, ParkError> {
        let job = Job::of(self)?;
        self.to_its_end(look::show(job, id)).await
    }

    /// Drops those that are meant, if there are exactly `count`.
    pub async fn drop_all(&self, filter: Filter, count: u64) -> Result<Dropped, ParkError> {
        let job = Job::of(self)?;
        self.to_its_end(look::drop_all(job, filter, count)).await
    }

    /// Gives those that are meant back to their sources, in order.
    pub async fn retry(&self, ask: RetryAsk) -> Result<Retried, ParkError> {
        let job = Job::of(self)?;
        self.to_its_end(retry::retry(job, ask)).await
    }

    /// Sends what a queue or stream has kept to one unit, through the lanes of its source.
    pub async fn backfill(&self, ask: BackfillAsk) -> Result<Backfilled, ParkError> {
        let job = Job::of(self)?;
        self.to_its_end(backfill::backfill(job, ask)).await
    }

    /// A task of its own: it ends in order even when the request is given up.
    async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ParkError>> + Send + 'static,
    ) -> Result<T, ParkError> {
        let task = self.shared.tracker.spawn(work);
        task.await.unwrap_or(Err(ParkError::Fault))
    }
}

/// What one command works with.
struct Job {
    shared: Arc<Shared>,
    rules: Arc<Rules>,
    cancel: CancellationToken,
    deadline: Instant,
}

impl Job {
    fn of(desk: &ParkDesk) -> Result<Self, ParkError> {
        Ok(Self {
            shared: Arc::clone(&desk.shared),
            rules: desk.shared.rules().ok_or(ParkError::NoRules)?,
            cancel: desk.cancel.clone(),
            deadline: Instant::now() + COMMAND_MAX,
        })
    }

    /// The virtual hosts in use, the gateway's own among them: a source that is gone may have left something there.
    fn vhosts(&self) -> Result<Vec<Vhost>, ParkError> {
        let named = self.rules.table.sources().iter();
        let named = named.map(|source| source.vhost.as_deref());
        let mut vhosts: Vec<Vhost> = Vec::new();
        for name in std::iter::once(None).chain(named) {
            let vhost = self.shared.brokers.vhost(name);
            let vhost = vhost.map_err(|error| ParkError::Broker(error.to_string()))?;
            let known = |one: &Vhost| one.control.vhost() == vhost.control.vhost();
            if !vhosts.iter().any(known) {
                vhosts.push(vhost);
            }
        }
        Ok(vhosts)
    }

    /// Opens the park of one virtual host; `None` when nothing lies there.
    async fn open(&self, vhost: &Vhost) -> Result<Option<Park>, ParkError> {
        let down = |error: &dyn std::fmt::Display| ParkError::Broker(error.to_string());
        if let Some(cause) = vhost.control.state().cause() {
            return Err(ParkError::Broker(format!("the broker is away: {cause}")));
        }
        let space = &self.shared.here.space;
        let queue = own_queues::park(space);
        let lock = own_queues::park_lock(space);
        let publisher = match LanePublisher::open(&vhost.dialer, "parked", Some(&lock)).await {
            Ok(publisher) => publisher.of_any_size(),
            Err(OpenError::Locked { .. }) => return Err(ParkError::Busy),
            Err(OpenError::Broker(error)) => return Err(down(&error)),
        };
        let mut depth = None;
        for again in [Duration::ZERO, COUNT_AGAIN] {
            tokio::time::sleep(again).await;
            depth = broker::depth(&vhost.control, &queue)
                .await
                .map_err(|error| down(&error))?;
        }
        let waiting = u64::from(depth.unwrap_or(0));
        if waiting == 0 {
            let _ = publisher.close().await;
            return Ok(None);
        }
        let kind = ConsumerKind::SingleActive;
        let body_bytes_max = self.shared.limits.body_bytes_max + WRAPPING_BYTES;
        let name = "parked";
        let opened =
            Consumer::open(&vhost.dialer, name, &queue, kind, SCAN_MAX, body_bytes_max).await;
        match opened {
            Ok(consumer) => Ok(Some(Park {
                vhost: vhost.control.vhost().to_owned(),
                reader: Reader {
                    consumer,
                    partial: None,
                },
                ways: IntoQueues::new(publisher, space),
                waiting,
            })),
            Err(error) => {
                let _ = publisher.close().await;
                Err(down(&error))
            }
        }
    }

    fn read(&self, message: &Message, body: BodyAt, vhost: &str) -> Read {
        let unit = &self.shared.here.unit;
        read(message, body, &self.rules.keys, unit, vhost)
    }
}

/// The park queue of one virtual host, in this command's hands.
struct Park {
    vhost: String,
    reader: Reader,
    /// Holds the lock, and carries what is retried.
    ways: IntoQueues<DeliveryTag>,
    /// How many there were when it was opened.
    waiting: u64,
}

/// Its messages, one by one.
struct Reader {
    consumer: Consumer,
    /// The large message whose pieces are coming.
    partial: Option<Partial>,
}

struct Partial {
    tag: DeliveryTag,
    message: Message,
    body_bytes: u64,
    beginning: Vec<u8>,
}

/// A message out of the park queue.
struct Taken {
    tag: DeliveryTag,
    message: Message,
    body: BodyAt,
    /// Of its body, of one that came in pieces.
    beginning: Vec<u8>,
}

impl Reader {
    /// The next message, whole or, when it came in pieces, with its beginning alone; `None` for a piece in between. Given
    /// up, it loses nothing.
    async fn next(&mut self) -> Result<Option<Taken>, ParkError> {
        match self.consumer.next().await {
            ConsumerEvent::Delivery { tag, message } => Ok(Some(Taken {
                tag,
                message,
                body: BodyAt::Hand,
                beginning: Vec::new(),
            })),
            ConsumerEvent::Large {
                tag,
                message,
                body_bytes,
            } => {
                self.partial = Some(Partial {
                    tag,
                    message,
                    body_bytes,
                    beginning: Vec::new(),
                });
                Ok(None)
            }
            ConsumerEvent::Piece { piece, left } => {
                if let Some(partial) = &mut self.partial {
                    let room = SHOWN_BYTES.saturating_sub(partial.beginning.len());
                    let part = piece.get(..room).unwrap_or(&piece);
                    partial.beginning.extend_from_slice(part);
                }
                if left > 0 {
                    return Ok(None);
                }
                Ok(self.partial.take().map(|partial| Taken {
                    tag: partial.tag,
                    message: partial.message,
                    body: BodyAt::Pieces(partial.body_bytes),
                    beginning: partial.beginning,
                }))
            }
            ConsumerEvent::Lost { cause } => Err(ParkError::Broker(cause)),
        }
    }
}

impl Park {
    /// Gives the queue back, and then the lock: whoever has it next finds all messages there.
    async fn close(self) -> Result<(), ParkError> {
        let closed = self.reader.consumer.close().await;
        let unlocked = self.ways.close().await;
        closed
            .and(unlocked)
            .map_err(|error| ParkError::Broker(error.to_string()))
    }
}
