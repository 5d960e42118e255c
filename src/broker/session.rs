//! One connection of the message path, as its owner sees it: commands in, events out.
//!
//! Owns what lies between the owner and the connection's task (see `pump`): an inbox, an outbox and how it ended, under
//! one lock that either side takes once for a burst. Promises that nothing waits in it without a bound: deliveries by
//! the bytes that the owner allows, publishes and outcomes by what the owner leaves unanswered, acknowledgements by being merged into
//! the latest. Dropping it closes the connection in order, in the background.

use super::BrokerError;
use super::dial::Alarm;
use super::error::refusal;
use super::pump::Pump;
use super::stream::Stream;
use crate::amqp::engine::{ChannelId, Command, Done, Ended, EngineSettings, Event};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// The one channel of a connection.
pub(super) const CHANNEL: ChannelId = ChannelId(1);
/// How long the broker may take for one answer. A quorum queue's declaration in a cluster takes up to a few seconds
/// while a member is down.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a close may take that somebody waits for, and one that nobody does.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
const DROP_TIMEOUT: Duration = Duration::from_secs(5);
/// Deliveries that were read and not yet worked off, unless the owner says otherwise; above it the socket isn't read, so it
/// is exceeded by one read buffer and one body. A lane of 20 k msg/s of 1 KiB fills it in 50 ms, longer than any turn of a loop.
pub(super) const HAND_BYTES_MAX: usize = 1 << 20;
/// And the least, where many share a gateway's memory: one read buffer.
const HAND_BYTES_MIN: usize = 64 << 10;
/// Publishes that wait to be written; a publisher with more has no room for another. As much as a broker takes in 50 ms
/// at 20 k msg/s of 1 KiB, so a wake-up that is late leaves the socket no idle moment.
pub(super) const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// What the event of a delivery costs besides its body and properties, so that empty messages are bounded too.
const EVENT_BYTES: usize = 256;
/// Deliveries that an owner works off before it says so: 64 of 1 KiB for one lock.
const RELEASE_BYTES: usize = 64 << 10;

/// Why nothing more comes of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// By its owner, in order.
    Closed,
    /// The broker closed channel or connection.
    Refused { code: u16, text: String },
    /// Anything else that ended it.
    Lost { cause: String },
    /// The broker had no time to close it in order; the socket was dropped.
    TimedOut {
        after: Duration,
        blocked: Option<String>,
    },
}

impl End {
    pub(super) fn of(ended: Ended) -> Self {
        match ended {
            Ended::Closed => Self::Closed,
            Ended::Refused { code, text } => Self::Refused { code, text },
            Ended::Lost { .. } | Ended::Protocol { .. } | Ended::Silent { .. } => Self::Lost {
                cause: ended.to_string(),
            },
        }
    }

    /// A sentence.
    pub(super) fn cause(&self) -> String {
        match self {
            Self::Closed => "closed by this gateway".to_owned(),
            Self::Refused { code, text } => refusal(*code, text),
            Self::Lost { cause } => cause.clone(),
            Self::TimedOut { after, .. } => {
                format!("the broker didn't answer a close for {} s", after.as_secs())
            }
        }
    }

    pub(super) fn error(self, doing: impl Into<String>) -> BrokerError {
        let doing = doing.into();
        match self {
            Self::Refused { code, text } => BrokerError::Refused { doing, code, text },
            Self::TimedOut { after, blocked } => BrokerError::TimedOut {
                doing,
                after,
                blocked,
            },
            Self::Closed | Self::Lost { .. } => BrokerError::Lost {
                doing,
                cause: self.cause(),
            },
        }
    }
}

/// Between an owner and its connection's task.
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// There are commands, or there is room in the inbox.
    pub(super) to_task: Notify,
    /// There are events, an end, or room in the outbox.
    pub(super) to_owner: Notify,
}

pub(super) struct State {
    /// In order.
    pub(super) inbox: VecDeque<Event>,
    /// Deliveries in the inbox and in the owner's hands, by [`bytes_of`].
    pub(super) in_hand_bytes: usize,
    /// Above it the socket isn't read.
    pub(super) hand_bytes_max: usize,
    pub(super) outbox: Vec<Command>,
    /// Publishes in the outbox.
    pub(super) outbox_bytes: usize,
    /// What the task has taken from the outbox and not yet written.
    pub(super) output_bytes: usize,
    /// This delivery and all before it; later than any in the task's hands.
    pub(super) acknowledge: Option<u64>,
    /// The broker's reason for taking no publishes, while it takes none.
    pub(super) blocked: Option<String>,
    /// Since when the socket isn't read, because too much is in hand.
    pub(super) stalled_since: Option<Instant>,
    /// Since when there is nothing to be had: what is in the inbox comes before it.
    pub(super) end: Option<End>,
    /// The owner wants it closed, within this time.
    pub(super) close_within: Option<Duration>,
    /// The task has ended, and with it the socket.
    pub(super) over: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            inbox: VecDeque::new(),
            in_hand_bytes: 0,
            hand_bytes_max: HAND_BYTES_MAX,
            outbox: Vec::new(),
            outbox_bytes: 0,
            output_bytes: 0,
            acknowledge: None,
            blocked: None,
            stalled_since: None,
            end: None,
            close_within: None,
            over: false,
        }
    }
}

impl State {
    /// Bytes that wait to be written.
    pub(super) fn unwritten(&self) -> usize {
        self.outbox_bytes + self.output_bytes
    }

    /// Ends it for its owner; the first end counts. Deliveries that weren't taken are void with it.
    pub(super) fn end(&mut self, end: End) {
        if self.end.is_none() {
            self.end = Some(end);
            self.inbox.retain(|event| bytes_of(event) == 0);
            self.in_hand_bytes = 0;
            self.stalled_since = None;
        }
    }
}

/// What an event counts of what may be in hand. Answers and outcomes are as many as the owner asked for.
pub(super) fn bytes_of(event: &Event) -> usize {
    match event {
        Event::Delivered {
            delivered, body, ..
        } => {
            let body = body.as_ref().map_or(0, Bytes::len);
            EVENT_BYTES + delivered.properties.as_bytes().len() + body
        }
        Event::Piece { piece, .. } => EVENT_BYTES + piece.len(),
        Event::Opened { .. }
        | Event::Done { .. }
        | Event::Outcome { .. }
        | Event::ConsumerCancelled { .. }
        | Event::ChannelEnded { .. }
        | Event::Blocked { .. }
        | Event::Unblocked
        | Event::Ended(_) => 0,
    }
}

/// A queue's name in AMQP's form.
pub(super) fn short_name(queue: &str, doing: &str) -> Result<Bytes, BrokerError> {
    if queue.len() > 255 {
        return Err(BrokerError::Unencodable {
            doing: doing.to_owned(),
            why: format!("the queue's name has {} bytes, AMQP takes 255", queue.len()),
        });
    }
    Ok(Bytes::copy_from_slice(queue.as_bytes()))
}

/// A connection with one channel.
pub(super) struct Session {
    shared: Arc<Shared>,
    /// Out of the inbox, in order.
    taken: VecDeque<Event>,
    /// Worked off, and still counted in `in_hand_bytes`.
    released: usize,
}

impl Session {
    /// Starts the connection's task and waits for the handshake.
    pub(super) async fn begin(
        stream: Stream,
        settings: EngineSettings,
        alarm: &Arc<Alarm>,
        tasks: &TaskTracker,
    ) -> Result<Self, End> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            to_task: Notify::new(),
            to_owner: Notify::new(),
        });
        let pump = Pump::new(stream, settings, Arc::clone(&shared), Arc::clone(alarm));
        tasks.spawn(pump.run());
        let mut session = Self {
            shared,
            taken: VecDeque::new(),
            released: 0,
        };
        // The engine's first event, unless it is its last.
        while !matches!(session.next().await?, Event::Opened { .. }) {}
        Ok(session)
    }

    /// Gives a command and waits for its answer.
    pub(super) async fn call(&mut self, command: Command, answer: Done) -> Result<(), End> {
        self.push(command, 0)?;
        // Asked for one by one, so what comes before it is the answer to nothing.
        while !matches!(self.next().await?, Event::Done { done, .. } if done == answer) {}
        Ok(())
    }

    /// The next event. Given up, it loses nothing. After the end it gives the end again.
    pub(super) async fn next(&mut self) -> Result<Event, End> {
        loop {
            if let Some(event) = self.pop() {
                return Ok(event);
            }
            if let Some(end) = self.end() {
                return Err(end);
            }
            self.changed().await;
        }
    }

    /// All events that are there.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Event> + '_ {
        std::iter::from_fn(|| self.pop())
    }

    /// Once something has changed since the last time: events, an end, room. Given up, it loses nothing.
    pub(super) async fn changed(&self) {
        self.shared.to_owner.notified().await;
    }

    /// The next event that is there.
    fn pop(&mut self) -> Option<Event> {
        if self.taken.is_empty() {
            self.release();
            std::mem::swap(&mut self.taken, &mut self.shared.state.lock().inbox);
        }
        let event = self.taken.pop_front()?;
        self.released += bytes_of(&event);
        if self.released >= RELEASE_BYTES {
            self.release();
        }
        Some(event)
    }

    /// Counts off what was worked off, and has the socket read again if that makes room.
    fn release(&mut self) {
        let released = std::mem::take(&mut self.released);
        if released == 0 {
            return;
        }
        let mut state = self.shared.state.lock();
        state.in_hand_bytes = state.in_hand_bytes.saturating_sub(released);
        if state.in_hand_bytes <= state.hand_bytes_max && state.stalled_since.take().is_some() {
            self.shared.to_task.notify_one();
        }
    }

    /// Bounds what is read and not yet worked off, from now on.
    pub(super) fn hold_at_most(&self, bytes: usize) {
        let mut state = self.shared.state.lock();
        state.hand_bytes_max = bytes.max(HAND_BYTES_MIN);
        if state.in_hand_bytes <= state.hand_bytes_max && state.stalled_since.take().is_some() {
            self.shared.to_task.notify_one();
        }
    }

    /// Queues a command that holds so many bytes, or says why it is too late for it.
    pub(super) fn push(&self, command: Command, bytes: usize) -> Result<(), End> {
        let mut state = self.shared.state.lock();
        if let Some(end) = &state.end {
            return Err(end.clone());
        }
        // The task takes all at once, so it is woken for the first alone.
        if state.outbox.is_empty() {
            self.shared.to_task.notify_one();
        }
        state.outbox.push(command);
        state.outbox_bytes += bytes;
        Ok(())
    }

    /// Acknowledges a delivery and all before it.
    pub(super) fn acknowledge(&self, tag: u64) -> Result<(), End> {
        let mut state = self.shared.state.lock();
        if let Some(end) = &state.end {
            return Err(end.clone());
        }
        if state.acknowledge.is_none() {
            self.shared.to_task.notify_one();
        }
        state.acknowledge = state.acknowledge.max(Some(tag));
        Ok(())
    }

    pub(super) fn end(&self) -> Option<End> {
        self.shared.state.lock().end.clone()
    }

    pub(super) fn stalled_since(&self) -> Option<Instant> {
        self.shared.state.lock().stalled_since
    }

    /// Whether another publish is taken now.
    pub(super) fn has_room(&self) -> bool {
        let state = self.shared.state.lock();
        state.blocked.is_none() && state.end.is_none() && state.unwritten() < OUTPUT_BYTES_MAX
    }

    /// Closes channel and connection in order: the broker has done all that was asked before when this returns, and the
    /// socket is gone. Given up, it goes on in the background.
    pub(super) async fn close(self) -> Result<(), End> {
        let had_ended = self.close_within(CLOSE_TIMEOUT);
        loop {
            {
                let state = self.shared.state.lock();
                if state.over {
                    return match &state.end {
                        None | Some(End::Closed) => Ok(()),
                        Some(_) if had_ended => Ok(()),
                        Some(end) => Err(end.clone()),
                    };
                }
            }
            self.changed().await;
        }
    }

    /// Whether it had ended before.
    fn close_within(&self, time: Duration) -> bool {
        let mut state = self.shared.state.lock();
        if state.close_within.is_none() {
            state.close_within = Some(time);
            self.shared.to_task.notify_one();
        }
        state.end.is_some()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close_within(DROP_TIMEOUT);
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("end", &self.end())
            .finish_non_exhaustive()
    }
}
