//! AMQP 0-9-1 as a client speaks it with RabbitMQ: a pure machine.
//!
//! Bytes and commands in, events and bytes out. Owns the connection's and its channels' lives, the numbering of
//! publishes, and what each of them still waits for. Promises one outcome for every publish, whatever happens; that
//! every split of the same bytes gives the same events; and that nothing a peer sends makes it panic or grow without a
//! bound. No I/O, no clock, no tasks.
//!
//! Sources: the AMQP 0-9-1 specification (section numbers with each rule) and RabbitMQ's extensions: publisher confirms,
//! `basic.nack`, consumer cancel notification, blocked connection notification, authentication failure.

mod channel;
mod command;
mod connection;
mod content;
mod event;
mod fault;
mod frames;
mod methods;
mod output;
mod publishes;
#[cfg(test)]
mod tests;
mod time;

pub use command::{Command, Content, Credentials, Destination, EngineSettings, PublishId};
pub use event::{ChannelEnd, Delivered, Done, Ended, Event, Outcome, Server};

pub use output::Output;

use bytes::{Buf, Bytes};
use channel::{Channel, Io, Pieced, Still};
use connection::{Agreed, Life, PROTOCOL_HEADER};
use fault::{Code, Fault};
use frames::{Frame, FrameReader};
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;
use time::Clock;

/// A channel's number on its connection, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub u16);

/// What is given to the machine.
#[derive(Debug)]
pub enum Input {
    /// What was read from the socket, however it was split.
    Bytes(Bytes),
    /// What is to be done. Allowed from [`Event::Opened`] on (but for [`Command::Close`]).
    Command(Command),
    /// Time has passed: at [`Engine::deadline`] at the latest.
    Tick,
    /// The socket is gone.
    Lost {
        /// Why.
        cause: String,
    },
}

/// See the file's head.
///
/// Whoever drives it takes the events out after each [`Engine::handle`]: they are bounded by its input, one event for
/// 9 bytes of it at most (a body frame of one byte), beside one outcome for each unanswered publish.
pub struct Engine {
    settings: EngineSettings,
    life: Life,
    agreed: Agreed,
    clock: Clock,
    frames: FrameReader,
    channels: BTreeMap<ChannelId, Channel>,
    output: Output,
    events: VecDeque<Event>,
}

impl Engine {
    /// A connection that has just been made: begins with the protocol header.
    pub fn new(settings: EngineSettings, now: Instant) -> Self {
        let mut output = Output::new();
        output.raw(PROTOCOL_HEADER);
        Self {
            settings,
            life: Life::Starting { since: now },
            agreed: Agreed::default(),
            clock: Clock::new(now),
            frames: FrameReader::new(),
            channels: BTreeMap::new(),
            output,
            events: VecDeque::new(),
        }
    }

    /// Takes one input in.
    pub fn handle(&mut self, input: Input, now: Instant) {
        let waiting = self.output.remaining();
        match input {
            Input::Bytes(bytes) => self.bytes(bytes, now),
            Input::Command(command) => self.command(command, now),
            Input::Tick => self.tick(now),
            Input::Lost { cause } => self.lost(cause),
        }
        if self.output.remaining() > waiting {
            self.clock.wrote(now);
        }
        self.check_invariants();
    }

    /// The next event, in order.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What is to be written, in order. Taken as far as it was written; large bodies are pieces of their own.
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// How many bytes are to be written.
    pub fn output_bytes(&self) -> usize {
        self.output.remaining()
    }

    /// The connection has ended, in order or not: [`Event::Ended`] has been given, the socket is to be closed once the
    /// output is written.
    pub fn is_ended(&self) -> bool {
        match self.life {
            Life::Ended { .. } => true,
            Life::Starting { .. }
            | Life::Tuning { .. }
            | Life::Opening { .. }
            | Life::Open
            | Life::Closing { .. } => false,
        }
    }

    /// Negotiated; 0 before [`Event::Opened`].
    pub fn frame_bytes_max(&self) -> usize {
        self.agreed.frame_bytes_max
    }

    fn bytes(&mut self, mut bytes: Bytes, now: Instant) {
        self.clock.heard(now);
        while !self.is_ended() {
            let step = match self.frames.next(&mut bytes) {
                Ok(Some(frame)) => self.frame(frame, now),
                Ok(None) => return,
                Err(fault) => Err(fault),
            };
            if let Err(fault) = step {
                self.fault(fault);
            }
        }
    }

    fn frame(&mut self, frame: Frame, now: Instant) -> Result<(), Fault> {
        if frame.channel == 0 {
            return self.connection_frame(&frame, now);
        }
        match self.life {
            Life::Closing { .. } | Life::Ended { .. } => return Ok(()),
            Life::Starting { .. } | Life::Tuning { .. } | Life::Opening { .. } | Life::Open => {}
        }
        let id = ChannelId(frame.channel);
        let Some((channel, mut io)) = self.channel(id, now) else {
            return Err(Fault::new(
                Code::ChannelError,
                format!("a frame on channel {}, which isn't open", id.0),
            ));
        };
        match channel.frame(frame, &mut io)? {
            Still::There => {}
            Still::Ended => {
                self.channels.remove(&id);
            }
        }
        Ok(())
    }

    /// A channel, and what it works with.
    fn channel(&mut self, id: ChannelId, now: Instant) -> Option<(&mut Channel, Io<'_>)> {
        let channel = self.channels.get_mut(&id)?;
        let io = Io {
            output: &mut self.output,
            events: &mut self.events,
            frame_bytes_max: self.agreed.frame_bytes_max,
            body_bytes_max: self.settings.body_bytes_max,
            token_header: self.settings.token_header,
            now,
        };
        Some((channel, io))
    }

    fn command(&mut self, command: Command, now: Instant) {
        let cause = match &self.life {
            Life::Open => return self.obey(command, now),
            Life::Starting { .. } | Life::Tuning { .. } | Life::Opening { .. } => {
                "the connection isn't open yet".to_owned()
            }
            Life::Closing { .. } => "the connection is being closed".to_owned(),
            Life::Ended { cause } => cause.clone(),
        };
        // Of all that is asked at the wrong time, only a publish is owed an answer: the rest ends with the connection.
        match command {
            Command::Publish { channel, id, .. } => self.unsent(channel, id, cause),
            Command::Close => self.close(now),
            Command::OpenChannel { .. }
            | Command::CloseChannel { .. }
            | Command::Qos { .. }
            | Command::Consume { .. }
            | Command::ConfirmSelect { .. }
            | Command::DeclareExclusive { .. }
            | Command::PublishPiece { .. }
            | Command::Acknowledge { .. }
            | Command::Reject { .. } => {}
        }
    }

    /// A command for an open connection. One for a channel that isn't open comes too late, its end has been told; again
    /// only a publish is owed an answer.
    fn obey(&mut self, command: Command, now: Instant) {
        match command {
            Command::OpenChannel { channel } => self.open_channel(channel, now),
            Command::CloseChannel { channel } => self.close_channel(channel, now),
            Command::Qos { channel, prefetch } => {
                if let Some((channel, mut io)) = self.channel(channel, now) {
                    channel.qos(prefetch, &mut io);
                }
            }
            Command::Consume {
                channel,
                queue,
                exclusive,
                arguments,
            } => {
                if let Some((channel, mut io)) = self.channel(channel, now) {
                    channel.consume(&queue, exclusive, &arguments, &mut io);
                }
            }
            Command::ConfirmSelect { channel } => {
                if let Some((channel, mut io)) = self.channel(channel, now) {
                    channel.confirm_select(&mut io);
                }
            }
            Command::DeclareExclusive { channel, queue } => {
                if let Some((channel, mut io)) = self.channel(channel, now) {
                    channel.declare_exclusive(&queue, &mut io);
                }
            }
            Command::Publish {
                channel: number,
                id,
                to,
                properties,
                content,
            } => match self.channel(number, now) {
                Some((channel, mut io)) => {
                    channel.publish(id, &to, &properties, content, &mut io);
                }
                None => self.unsent(number, id, "the channel isn't open".to_owned()),
            },
            Command::PublishPiece { channel, piece } => self.publish_piece(channel, piece, now),
            Command::Acknowledge {
                channel,
                tag,
                multiple,
            } => {
                if let Some((channel, mut io)) = self.channel(channel, now) {
                    channel.acknowledge(tag, multiple, &mut io);
                }
            }
            Command::Reject {
                channel,
                tag,
                multiple,
                requeue,
            } => {
                if let Some((channel, mut io)) = self.channel(channel, now) {
                    channel.reject(tag, multiple, requeue, &mut io);
                }
            }
            Command::Close => self.close(now),
        }
    }

    fn unsent(&mut self, channel: ChannelId, id: PublishId, cause: String) {
        self.events.push_back(Event::Outcome {
            channel,
            id,
            outcome: Outcome::Unsent { cause },
        });
    }

    fn open_channel(&mut self, id: ChannelId, now: Instant) {
        if id.0 == 0 || id.0 > self.agreed.channels_max {
            let cause = format!(
                "channel {} is none of the connection's, which has 1 to {}",
                id.0, self.agreed.channels_max
            );
            let end = ChannelEnd::Lost { cause };
            self.events
                .push_back(Event::ChannelEnded { channel: id, end });
            return;
        }
        if self.channels.contains_key(&id) {
            debug_assert!(false, "channel {} is open already", id.0);
            return;
        }
        let mut io = Io {
            output: &mut self.output,
            events: &mut self.events,
            frame_bytes_max: self.agreed.frame_bytes_max,
            body_bytes_max: self.settings.body_bytes_max,
            token_header: self.settings.token_header,
            now,
        };
        let channel = Channel::open(id, &mut io);
        self.channels.insert(id, channel);
    }

    fn close_channel(&mut self, id: ChannelId, now: Instant) {
        let Some((channel, mut io)) = self.channel(id, now) else {
            return;
        };
        if channel.is_within_a_body() {
            // A method within a body is a fault that ends the connection (505); to end it in order comes to the same.
            self.close(now);
        } else {
            channel.close(ChannelEnd::Closed, &mut io);
        }
    }

    fn publish_piece(&mut self, id: ChannelId, piece: Bytes, now: Instant) {
        let Some((channel, mut io)) = self.channel(id, now) else {
            return;
        };
        match channel.publish_piece(piece, &mut io) {
            Pieced::Taken => {}
            Pieced::TooMuch => self.end(Ended::Lost {
                cause: "more of a body was given than announced, and AMQP can't take it back"
                    .to_owned(),
            }),
        }
    }

    fn close(&mut self, now: Instant) {
        match self.life {
            // There is nothing to close in order yet.
            Life::Starting { .. } | Life::Tuning { .. } => self.end(Ended::Closed),
            Life::Opening { .. } | Life::Open => {
                self.output.connection_close(200, "");
                self.life = Life::Closing { since: now };
            }
            Life::Closing { .. } | Life::Ended { .. } => {}
        }
    }

    fn lost(&mut self, cause: String) {
        let cause = match self.life.waits() {
            Some((_, answer)) => format!("{cause} (while {answer} was awaited)"),
            None => cause,
        };
        self.end(Ended::Lost { cause });
    }

    /// The peer broke a rule. It is told so where it is so far that it can be (section 4.10: not before it has been
    /// opened), and nothing more is heard.
    fn fault(&mut self, fault: Fault) {
        match self.life {
            Life::Opening { .. } | Life::Open => {
                self.output
                    .connection_close(fault.code.number(), &fault.what);
            }
            Life::Starting { .. }
            | Life::Tuning { .. }
            | Life::Closing { .. }
            | Life::Ended { .. } => {}
        }
        self.end(fault.end());
    }

    /// The end of everything, once.
    fn end(&mut self, ended: Ended) {
        if self.is_ended() {
            return;
        }
        let cause = ended.to_string();
        for (_, mut channel) in std::mem::take(&mut self.channels) {
            let end = ChannelEnd::Lost {
                cause: cause.clone(),
            };
            channel.end(end, &cause, &mut self.events);
        }
        self.events.push_back(Event::Ended(ended));
        self.life = Life::Ended { cause };
    }

    fn check_invariants(&self) {
        debug_assert!(
            !self.is_ended() || self.channels.is_empty(),
            "a channel outlives its connection"
        );
        debug_assert!(self.channels.len() <= usize::from(self.agreed.channels_max));
        if cfg!(debug_assertions) {
            for channel in self.channels.values() {
                channel.check_invariants();
            }
        }
    }
}
