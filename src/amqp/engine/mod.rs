//! AMQP 0-9-1 as a client speaks it with RabbitMQ: a pure machine.
//!
//! Bytes and commands in, events and bytes out. Owns the connection's and its channels' lives, the numbering of
//! publishes, and what each of them still waits for. Promises one outcome for every publish, whatever happens; that
//! every split of the same bytes gives the same events; and that nothing a peer sends makes it panic or grow without a
//! bound. No I/O, no clock, no tasks.
//!
//! Sources: the AMQP 0-9-1 specification (section numbers with each rule) and RabbitMQ's extensions: publisher confirms,
//! `basic.nack`, consumer cancel notification, blocked connection notification, authentication failure.

mod command;
mod event;

pub use command::{Command, Content, Credentials, Destination, EngineSettings, PublishId};
pub use event::{ChannelEnd, Delivered, Done, Ended, Event, Outcome, Server};

use bytes::Bytes;
use std::time::Instant;

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
pub struct Engine {}

impl Engine {
    /// A connection that has just been made: begins with the protocol header.
    pub fn new(_settings: EngineSettings, _now: Instant) -> Self {
        todo!()
    }

    /// Takes one input in.
    pub fn handle(&mut self, _input: Input, _now: Instant) {
        todo!()
    }

    /// The next event, in order.
    pub fn next_event(&mut self) -> Option<Event> {
        todo!()
    }

    /// What is to be written, in order; taken out by whoever writes it. Large bodies are pieces of their own.
    pub fn take_output(&mut self) -> Vec<Bytes> {
        todo!()
    }

    /// How many bytes are to be written.
    pub fn output_bytes(&self) -> usize {
        todo!()
    }

    /// When a [`Input::Tick`] is due: a heartbeat to send, a silence to notice, an answer that is late.
    pub fn deadline(&self) -> Option<Instant> {
        todo!()
    }

    /// The reader stops for a while, or goes on: silence meanwhile isn't the peer's.
    pub fn reading(&mut self, _paused: bool, _now: Instant) {
        todo!()
    }

    /// The connection has ended, in order or not: [`Event::Ended`] has been given, the socket is to be closed once the
    /// output is written.
    pub fn is_ended(&self) -> bool {
        todo!()
    }

    /// Negotiated; 0 before [`Event::Opened`].
    pub fn frame_bytes_max(&self) -> usize {
        todo!()
    }
}
