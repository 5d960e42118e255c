//! One connection's task: socket, engine and clock.
//!
//! Owns the socket and what is read from and written to it. Promises that a burst costs one read, one write and one lock
//! each way; that the socket isn't read while the owner has more in hand than it may, though heartbeats and
//! acknowledgements go on being written; that every publish has its outcome before the end; and that it ends in a
//! bounded time once its owner is gone. Never decides anything about a message.

use super::dial::{Alarm, Raised};
use super::error::io_cause;
use super::session::{CHANNEL, End, OUTPUT_BYTES_MAX, Shared, bytes_of};
use super::stream::Stream;
use crate::amqp::engine::{
    ChannelEnd, Command, Done, Engine, EngineSettings, Event, Input, Outcome,
};
use bytes::{Buf, Bytes, BytesMut};
use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

/// Read at once. A message is a slice of such a chunk and keeps it whole, so small ones that stay for long cost up to
/// this each: prefetch times 64 KiB, 64 MiB for 1,000. Messages that stay come from one burst in practice, and share.
const READ_BYTES: usize = 64 * 1024;
/// With less room left in the chunk, the next one is begun.
const READ_BYTES_MIN: usize = READ_BYTES / 4;
/// Slices given to one write.
const SLICES_MAX: usize = 64;
/// A broker that takes nothing for so long, without saying that it is blocked, is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Without any confirm for so long, and not blocked, the connection is given up. A loaded classic queue confirms some 200
/// ms late, a quorum queue that elects a leader some 10 s.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// For the answer to the broker's close, after which the socket is dropped.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the connection is in its life.
enum Life {
    /// The handshake.
    Opening,
    /// Without a channel.
    Bare,
    /// With its channel.
    Channel,
    /// The owner wants it closed.
    Closing { within: Duration },
}

pub(super) struct Pump {
    stream: Stream,
    engine: Engine,
    shared: Arc<Shared>,
    alarm: Arc<Alarm>,
    life: Life,
    /// While the broker takes no publishes.
    raised: Option<Raised>,
    buffer: BytesMut,
    /// What was written may lie in the TLS session.
    to_flush: bool,
    /// Reading waits for the owner.
    paused: bool,
    /// On their way to the owner.
    events: Vec<Event>,
    commands: Vec<Command>,
    /// Publishes without an outcome.
    unanswered: usize,
    write_due: Option<Instant>,
    confirm_due: Option<Instant>,
    /// When the socket is dropped, whatever is still to be done.
    give_up_at: Option<Instant>,
    /// The socket is of no more use.
    lost: bool,
}

/// What one look at the socket brought.
#[derive(Default)]
struct Step {
    wrote: bool,
    read: Option<Bytes>,
    lost: Option<String>,
}

impl Pump {
    pub(super) fn new(
        stream: Stream,
        settings: EngineSettings,
        shared: Arc<Shared>,
        alarm: Arc<Alarm>,
    ) -> Self {
        Self {
            stream,
            engine: Engine::new(settings, Instant::now().into_std()),
            shared,
            alarm,
            life: Life::Opening,
            raised: None,
            buffer: BytesMut::new(),
            to_flush: false,
            paused: false,
            events: Vec::new(),
            commands: Vec::new(),
            unanswered: 0,
            write_due: None,
            confirm_due: None,
            give_up_at: None,
            lost: false,
        }
    }

    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut wake = pin!(sleep_until(Instant::now()));
        loop {
            let now = Instant::now();
            self.keep_time(now);
            self.take_commands(now);
            self.take_events(now);
            self.hand_over();
            self.time_writes(now);
            if self.is_over(now) {
                break;
            }
            // Deadlines move with every read; a timer that fires too soon costs less than one that is set each time.
            if let Some(due) = self.next_due()
                && (due < wake.deadline() || wake.is_elapsed())
            {
                wake.as_mut().reset(due);
            }
            let step = tokio::select! {
                biased;
                step = poll_fn(|cx| self.poll_socket(cx)) => step,
                () = shared.to_task.notified() => Step::default(),
                () = wake.as_mut(), if !wake.is_elapsed() => Step::default(),
            };
            self.take_step(step, Instant::now());
        }
        self.finish();
    }

    /// Once something was written, read, or has failed.
    fn poll_socket(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let mut step = Step::default();
        match self.poll_write(cx) {
            Poll::Ready(Ok(wrote)) => step.wrote = wrote,
            // What the broker said last may still be there to be read.
            Poll::Ready(Err(error)) => step.lost = Some(io_cause(&error)),
            Poll::Pending => {}
        }
        if !self.paused {
            let room = self.buffer.capacity() - self.buffer.len();
            if room < READ_BYTES_MIN {
                self.buffer.reserve(READ_BYTES);
            }
            match pin!(self.stream.read_buf(&mut self.buffer)).poll(cx) {
                Poll::Ready(Ok(0)) => {
                    let cause = "the broker closed the connection".to_owned();
                    step.lost.get_or_insert(cause);
                }
                Poll::Ready(Ok(_)) => step.read = Some(self.buffer.split().freeze()),
                Poll::Ready(Err(error)) => {
                    step.lost.get_or_insert_with(|| io_cause(&error));
                }
                Poll::Pending => {}
            }
        }
        if step.wrote || step.read.is_some() || step.lost.is_some() {
            Poll::Ready(step)
        } else {
            Poll::Pending
        }
    }

    /// Ready with whether anything was written.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<bool>> {
        let mut wrote = false;
        let output = self.engine.output();
        while output.has_remaining() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let filled = output.chunks_vectored(&mut slices);
            let slices = slices.get(..filled).unwrap_or_default();
            match pin!(self.stream.write_vectored(slices)).poll(cx) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
                }
                Poll::Ready(Ok(bytes)) => {
                    output.advance(bytes);
                    self.to_flush = true;
                    wrote = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Ready(Ok(wrote)),
            }
        }
        if self.to_flush {
            match pin!(self.stream.flush()).poll(cx) {
                Poll::Ready(Ok(())) => {
                    self.to_flush = false;
                    wrote = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        Poll::Ready(Ok(wrote))
    }

    fn take_step(&mut self, step: Step, now: Instant) {
        if step.wrote {
            self.write_due = None;
        }
        if let Some(bytes) = step.read {
            self.engine.handle(Input::Bytes(bytes), now.into_std());
        }
        if let Some(cause) = step.lost {
            self.lose(cause, now);
        }
    }

    fn lose(&mut self, cause: String, now: Instant) {
        self.lost = true;
        self.engine.handle(Input::Lost { cause }, now.into_std());
    }

    fn next_due(&self) -> Option<Instant> {
        let engine = self.engine.deadline().map(Instant::from_std);
        [engine, self.write_due, self.confirm_due, self.give_up_at]
            .into_iter()
            .flatten()
            .min()
    }

    fn keep_time(&mut self, now: Instant) {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if is_due(self.engine.deadline().map(Instant::from_std)) {
            self.engine.handle(Input::Tick, now.into_std());
        }
        if is_due(self.write_due) {
            let seconds = WRITE_TIMEOUT.as_secs();
            self.lose(format!("the broker took nothing for {seconds} s"), now);
            self.write_due = None;
        }
        if is_due(self.confirm_due) {
            // What isn't written can't be confirmed, and has a deadline of its own.
            if self.engine.output_bytes() == 0 {
                let seconds = CONFIRM_TIMEOUT.as_secs();
                self.lose(format!("no confirm within {seconds} s"), now);
                self.confirm_due = None;
            } else {
                self.confirm_due = Some(now + CONFIRM_TIMEOUT);
            }
        }
    }

    /// From the owner to the engine.
    fn take_commands(&mut self, now: Instant) {
        if self.engine.is_ended() {
            return;
        }
        let (acknowledge, close_within) = {
            let mut state = self.shared.state.lock();
            std::mem::swap(&mut self.commands, &mut state.outbox);
            let unwritten = state.unwritten();
            let taken = std::mem::take(&mut state.outbox_bytes);
            state.output_bytes = self.engine.output_bytes() + taken;
            if unwritten >= OUTPUT_BYTES_MAX && state.unwritten() < OUTPUT_BYTES_MAX {
                self.shared.to_owner.notify_one();
            }
            if state.close_within.is_none() && state.in_hand_bytes > state.hand_bytes_max {
                state.stalled_since.get_or_insert(now);
            } else {
                state.stalled_since = None;
            }
            let paused = state.stalled_since.is_some();
            if paused != self.paused {
                self.paused = paused;
                self.engine.reading(paused, now.into_std());
            }
            (state.acknowledge.take(), state.close_within)
        };
        if let Some(tag) = acknowledge {
            let acknowledge = Command::Acknowledge {
                channel: CHANNEL,
                tag,
                multiple: true,
            };
            self.give(acknowledge, now);
        }
        let mut commands = std::mem::take(&mut self.commands);
        for command in commands.drain(..) {
            match command {
                Command::Publish { .. } => {
                    if self.unanswered == 0 {
                        self.expect_confirm(now);
                    }
                    self.unanswered += 1;
                }
                Command::PublishPiece { .. } => self.expect_confirm(now),
                _ => {}
            }
            self.give(command, now);
        }
        self.commands = commands;
        if let Some(within) = close_within {
            self.close(within, now);
        }
    }

    fn give(&mut self, command: Command, now: Instant) {
        self.engine.handle(Input::Command(command), now.into_std());
    }

    fn expect_confirm(&mut self, now: Instant) {
        if self.raised.is_none() {
            self.confirm_due = Some(now + CONFIRM_TIMEOUT);
        }
    }

    /// Begins to close, once: the channel first, since the broker answers that when it has done all that was asked on it.
    fn close(&mut self, within: Duration, now: Instant) {
        match self.life {
            Life::Closing { .. } => return,
            Life::Opening | Life::Bare => self.give(Command::Close, now),
            Life::Channel => self.give(Command::CloseChannel { channel: CHANNEL }, now),
        }
        self.life = Life::Closing { within };
        self.give_up_at = Some(now + within);
    }

    /// From the engine towards the owner.
    fn take_events(&mut self, now: Instant) {
        while let Some(event) = self.engine.next_event() {
            let closing = matches!(self.life, Life::Closing { .. });
            match &event {
                // Nobody takes these any more.
                Event::Delivered { .. } | Event::Piece { .. } | Event::ConsumerCancelled { .. }
                    if closing =>
                {
                    continue;
                }
                Event::Delivered { .. } | Event::Piece { .. } | Event::ConsumerCancelled { .. } => {
                }
                Event::ChannelEnded { .. } if closing => self.give(Command::Close, now),
                Event::Opened { .. } | Event::ChannelEnded { .. } => self.turn(Life::Bare),
                Event::Done { done, .. } => {
                    if *done == Done::ChannelOpened {
                        self.turn(Life::Channel);
                    }
                }
                Event::Outcome { .. } => {
                    self.unanswered = self.unanswered.saturating_sub(1);
                    self.confirm_due = None;
                    if self.unanswered > 0 {
                        self.expect_confirm(now);
                    }
                }
                Event::Blocked { reason } => {
                    self.raised = Some(self.alarm.raise(reason));
                    self.write_due = None;
                    self.confirm_due = None;
                }
                Event::Unblocked => {
                    self.raised = None;
                    if self.unanswered > 0 {
                        self.expect_confirm(now);
                    }
                }
                Event::Ended(_) => self.raised = None,
            }
            self.events.push(event);
        }
    }

    fn turn(&mut self, life: Life) {
        if !matches!(self.life, Life::Closing { .. }) {
            self.life = life;
        }
    }

    /// Into the inbox, and what ends it into the state.
    fn hand_over(&mut self) {
        if self.events.is_empty() {
            return;
        }
        let mut state = self.shared.state.lock();
        for event in self.events.drain(..) {
            match event {
                Event::Opened { .. }
                | Event::Done { .. }
                | Event::Outcome { .. }
                | Event::Delivered { .. }
                | Event::Piece { .. } => {
                    state.in_hand_bytes += bytes_of(&event);
                    state.inbox.push_back(event);
                }
                Event::ConsumerCancelled { .. } => state.end(End::Lost {
                    cause: "the broker cancelled the consumer: the queue was deleted, or its node is gone"
                        .to_owned(),
                }),
                Event::ChannelEnded { end, .. } => match end {
                    ChannelEnd::Closed => {}
                    ChannelEnd::Refused { code, text } => state.end(End::Refused { code, text }),
                    ChannelEnd::Lost { cause } => state.end(End::Lost { cause }),
                },
                Event::Blocked { reason } => state.blocked = Some(reason),
                Event::Unblocked => state.blocked = None,
                Event::Ended(ended) => state.end(End::of(ended)),
            }
        }
        self.shared.to_owner.notify_one();
    }

    fn has_output(&self) -> bool {
        self.engine.output_bytes() > 0 || self.to_flush
    }

    fn time_writes(&mut self, now: Instant) {
        if !self.has_output() || self.raised.is_some() {
            self.write_due = None;
        } else if self.write_due.is_none() {
            self.write_due = Some(now + WRITE_TIMEOUT);
        }
    }

    /// Whether nothing is left to be done, or no time.
    fn is_over(&mut self, now: Instant) -> bool {
        if self.engine.is_ended() {
            if self.lost || !self.has_output() {
                return true;
            }
            let last = now + LAST_WORDS_TIMEOUT;
            self.give_up_at = Some(self.give_up_at.map_or(last, |at| at.min(last)));
        }
        self.give_up_at.is_some_and(|at| at <= now)
    }

    /// The owner's: outcomes for what was not sent, and the end.
    fn finish(self) {
        // First, so that who waits for the end finds the socket closed.
        drop(self.stream);
        let mut state = self.shared.state.lock();
        let end = match self.life {
            Life::Closing { within } => End::TimedOut {
                after: within,
                blocked: state.blocked.take(),
            },
            Life::Opening | Life::Bare | Life::Channel => End::Lost {
                cause: "the connection was closed".to_owned(),
            },
        };
        state.end(end);
        let cause = state.end.as_ref().map(End::cause).unwrap_or_default();
        for command in std::mem::take(&mut state.outbox) {
            if let Command::Publish { channel, id, .. } = command {
                let outcome = Outcome::Unsent {
                    cause: cause.clone(),
                };
                state.inbox.push_back(Event::Outcome {
                    channel,
                    id,
                    outcome,
                });
            }
        }
        state.outbox_bytes = 0;
        state.output_bytes = 0;
        state.blocked = None;
        state.stalled_since = None;
        state.over = true;
        drop(state);
        self.shared.to_owner.notify_one();
    }
}
