//! A channel's life: what was asked on it and is not yet answered, what is coming, what was published.
//!
//! Promises that answers come in the order of their commands, that whatever ends the channel each of its publishes has
//! its outcome before the end is told, and that a channel being closed hears nothing but its close. Writes its own
//! frames; the connection finds the channel, and takes it away when it has ended.

mod publish;

use super::ChannelId;
use super::command::PublishId;
use super::content::{Announced, Header, Incoming};
use super::event::{ChannelEnd, Delivered, Done, Event, Outcome};
use super::fault::{Code, Fault, shown};
use super::frames::{Frame, Kind};
use super::methods::{Close, Method, SHORT_BYTES_MAX};
use super::output::Output;
use super::publishes::{Publishes, Token, Verdict};
use crate::amqp::{FieldTable, RawProperties};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::time::Instant;

/// What a channel works with, of its connection.
pub(super) struct Io<'a> {
    pub(super) output: &'a mut Output,
    pub(super) events: &'a mut VecDeque<Event>,
    pub(super) frame_bytes_max: usize,
    pub(super) body_bytes_max: usize,
    pub(super) token_header: &'static str,
    pub(super) now: Instant,
}

/// Whether a channel still is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Still {
    There,
    Ended,
}

/// What has become of a piece of a body.
#[derive(Debug)]
pub(super) enum Pieced {
    Taken,
    /// More than was announced: the caller's fault. The body can't be finished, and AMQP has no way to take it back but
    /// to end the connection.
    TooMuch,
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct Channel {
    id: ChannelId,
    life: Life,
    awaited: VecDeque<Awaited>,
    incoming: Incoming,
    confirms: Confirms,
    outgoing: Outgoing,
    consumer: Consumer,
}

#[derive(Debug)]
enum Life {
    /// Commands are taken; its `channel.open-ok` may be among what is awaited.
    Open,
    /// `channel.close` has been sent: `end` is told when it is answered.
    Closing { since: Instant, end: ChannelEnd },
}

/// A synchronous command.
#[derive(Debug)]
struct Awaited {
    done: Done,
    since: Instant,
}

#[derive(Debug)]
enum Confirms {
    /// `confirm.select` hasn't been sent: nothing can be published.
    Off,
    On(Publishes),
}

/// A publish whose body is still to come. It takes its number when it is whole: until then the broker can't have it.
#[derive(Debug)]
enum Outgoing {
    Nothing,
    Unfinished {
        id: PublishId,
        token: Option<Token>,
        left: u64,
    },
}

#[derive(Debug)]
enum Consumer {
    Never,
    Asked,
}

impl Channel {
    pub(super) fn open(id: ChannelId, io: &mut Io) -> Self {
        io.output.channel_open(id.0);
        let mut channel = Self {
            id,
            life: Life::Open,
            awaited: VecDeque::new(),
            incoming: Incoming::Nothing,
            confirms: Confirms::Off,
            outgoing: Outgoing::Nothing,
            consumer: Consumer::Never,
        };
        channel.awaits(Done::ChannelOpened, io);
        channel
    }

    fn awaits(&mut self, done: Done, io: &Io) {
        self.awaited.push_back(Awaited {
            done,
            since: io.now,
        });
    }

    /// Since when an answer is awaited, and which.
    pub(super) fn waits(&self) -> Option<(Instant, &'static str)> {
        match &self.life {
            Life::Open => self
                .awaited
                .front()
                .map(|awaited| (awaited.since, awaited.done.answer())),
            Life::Closing { since, .. } => Some((*since, "channel.close-ok")),
        }
    }

    /// Commands. What comes after a close has been asked for is passed over, but for publishes.
    fn takes(&self) -> bool {
        match self.life {
            Life::Open => {
                debug_assert!(
                    matches!(self.outgoing, Outgoing::Nothing),
                    "a command within a publish's body"
                );
                true
            }
            Life::Closing { .. } => false,
        }
    }

    pub(super) fn qos(&mut self, prefetch: u16, io: &mut Io) {
        if self.takes() {
            io.output.qos(self.id.0, prefetch);
            self.awaits(Done::QosSet, io);
        }
    }

    pub(super) fn consume(
        &mut self,
        queue: &[u8],
        exclusive: bool,
        arguments: &FieldTable,
        io: &mut Io,
    ) {
        if self.takes() && self.can_name(queue, io) {
            let mut table = BytesMut::new();
            if let Err(error) = arguments.encode(&mut table) {
                let cause = format!("the consumer's arguments can't be written: {error}");
                return self.close(ChannelEnd::Lost { cause }, io);
            }
            io.output.consume(self.id.0, queue, exclusive, &table);
            self.consumer = Consumer::Asked;
            self.awaits(Done::Consuming, io);
        }
    }

    pub(super) fn confirm_select(&mut self, io: &mut Io) {
        if self.takes() {
            io.output.confirm_select(self.id.0);
            match self.confirms {
                Confirms::Off => self.confirms = Confirms::On(Publishes::default()),
                // Asked for again, it doesn't count anew.
                Confirms::On(_) => {}
            }
            self.awaits(Done::Confirming, io);
        }
    }

    pub(super) fn declare_exclusive(&mut self, queue: &[u8], io: &mut Io) {
        if self.takes() && self.can_name(queue, io) {
            io.output.declare_exclusive(self.id.0, queue);
            self.awaits(Done::Declared, io);
        }
    }

    pub(super) fn acknowledge(&mut self, tag: u64, multiple: bool, io: &mut Io) {
        if self.takes() {
            io.output.ack(self.id.0, tag, multiple);
        }
    }

    pub(super) fn reject(&mut self, tag: u64, multiple: bool, requeue: bool, io: &mut Io) {
        if self.takes() {
            io.output.nack(self.id.0, tag, multiple, requeue);
        }
    }

    /// A queue whose name can't be written can't be asked for: the channel ends, as it would by the broker's 404.
    fn can_name(&mut self, queue: &[u8], io: &mut Io) -> bool {
        if queue.len() <= SHORT_BYTES_MAX {
            return true;
        }
        let cause = format!(
            "the queue's name has {} bytes, {SHORT_BYTES_MAX} at most can be written: {}",
            queue.len(),
            shown(queue)
        );
        self.close(ChannelEnd::Lost { cause }, io);
        false
    }

    /// Whether a body was begun and isn't finished.
    pub(super) fn is_within_a_body(&self) -> bool {
        match self.outgoing {
            Outgoing::Nothing => false,
            Outgoing::Unfinished { .. } => true,
        }
    }

    pub(super) fn close(&mut self, end: ChannelEnd, io: &mut Io) {
        match self.life {
            Life::Open => {
                io.output.channel_close(self.id.0, 200, "");
                self.life = Life::Closing { since: io.now, end };
            }
            Life::Closing { .. } => {}
        }
    }

    /// A frame of this channel's.
    pub(super) fn frame(&mut self, frame: Frame, io: &mut Io) -> Result<Still, Fault> {
        match self.life {
            Life::Open => {}
            // Section 1.4.2.6 of the class reference: whatever else was on its way is of no interest any more.
            Life::Closing { .. } => match frame.kind {
                Kind::Method if Method::ends_channel(&frame.payload) => {
                    return self.closing(Method::read(&frame.payload)?, io);
                }
                Kind::Method | Kind::Header | Kind::Body | Kind::Heartbeat => {
                    return Ok(Still::There);
                }
            },
        }
        match frame.kind {
            Kind::Method => {
                if let Some(due) = self.incoming.due() {
                    return Err(Fault::new(
                        Code::UnexpectedFrame,
                        format!("a method on channel {} where {due} is due", self.id.0),
                    ));
                }
                self.method(Method::read(&frame.payload)?, io)
            }
            Kind::Header => {
                self.header(&frame.payload, io)?;
                Ok(Still::There)
            }
            Kind::Body => {
                self.incoming.body(self.id, frame.payload, io.events)?;
                Ok(Still::There)
            }
            // Only on channel 0: the reader has looked.
            Kind::Heartbeat => Ok(Still::There),
        }
    }

    /// What ends a channel that is being closed.
    fn closing(&mut self, method: Method, io: &mut Io) -> Result<Still, Fault> {
        match method {
            // Both sides closed it at once: ours will be answered too.
            Method::ChannelClose(_) => {
                io.output.channel_close_ok(self.id.0);
                Ok(Still::There)
            }
            Method::ChannelCloseOk => {
                let end = match std::mem::replace(&mut self.life, Life::Open) {
                    Life::Closing { end, .. } => end,
                    Life::Open => return Err(self.out_of_place(&method)),
                };
                let cause = match &end {
                    ChannelEnd::Closed => {
                        "the channel was closed before it was answered".to_owned()
                    }
                    ChannelEnd::Refused { code, text } => format!("{code} {text}"),
                    ChannelEnd::Lost { cause } => cause.clone(),
                };
                self.end(end, &cause, io.events);
                Ok(Still::Ended)
            }
            other => Err(self.out_of_place(&other)),
        }
    }

    fn method(&mut self, method: Method, io: &mut Io) -> Result<Still, Fault> {
        match method {
            Method::BasicDeliver {
                tag,
                redelivered,
                exchange,
                routing_key,
            } => match self.consumer {
                Consumer::Never => Err(Fault::new(
                    Code::CommandInvalid,
                    format!(
                        "a delivery on channel {}, which consumes nothing",
                        self.id.0
                    ),
                )),
                Consumer::Asked => {
                    self.incoming = Incoming::Method(Announced::Delivery {
                        tag,
                        redelivered,
                        exchange,
                        routing_key,
                    });
                    Ok(Still::There)
                }
            },
            Method::BasicReturn(Close { code, text }) => {
                self.incoming = Incoming::Method(Announced::Return {
                    code,
                    text: shown(&text),
                });
                Ok(Still::There)
            }
            Method::BasicAck { tag, multiple } => self.confirm(tag, multiple, Verdict::Ack, io),
            Method::BasicNack { tag, multiple } => self.confirm(tag, multiple, Verdict::Nack, io),
            Method::ChannelClose(Close { code, text }) => {
                io.output.channel_close_ok(self.id.0);
                let text = shown(&text);
                let cause = format!("{code} {text}");
                self.end(ChannelEnd::Refused { code, text }, &cause, io.events);
                Ok(Still::Ended)
            }
            // RabbitMQ has not sent it for long; what it asks for is agreed to, and what waits is written all the same.
            Method::ChannelFlow { active } => {
                io.output.channel_flow_ok(self.id.0, active);
                Ok(Still::There)
            }
            Method::BasicCancel { consumer, nowait } => {
                if !nowait {
                    io.output.cancel_ok(self.id.0, &consumer);
                }
                io.events
                    .push_back(Event::ConsumerCancelled { channel: self.id });
                Ok(Still::There)
            }
            Method::ChannelOpenOk => self.answer(&method, Done::ChannelOpened, io),
            Method::QueueDeclareOk => self.answer(&method, Done::Declared, io),
            Method::BasicQosOk => self.answer(&method, Done::QosSet, io),
            Method::BasicConsumeOk => self.answer(&method, Done::Consuming, io),
            Method::ConfirmSelectOk => self.answer(&method, Done::Confirming, io),
            Method::ChannelCloseOk
            | Method::ConnectionStart { .. }
            | Method::ConnectionSecure
            | Method::ConnectionTune { .. }
            | Method::ConnectionOpenOk
            | Method::ConnectionClose(_)
            | Method::ConnectionCloseOk
            | Method::ConnectionBlocked { .. }
            | Method::ConnectionUnblocked => Err(self.out_of_place(&method)),
        }
    }

    fn answer(&mut self, method: &Method, done: Done, io: &mut Io) -> Result<Still, Fault> {
        if self.awaited.front().map(|awaited| awaited.done) != Some(done) {
            return Err(self.out_of_place(method));
        }
        self.awaited.pop_front();
        // The next one has been waiting behind this one.
        if let Some(next) = self.awaited.front_mut() {
            next.since = io.now;
        }
        io.events.push_back(Event::Done {
            channel: self.id,
            done,
        });
        Ok(Still::There)
    }

    fn out_of_place(&self, method: &Method) -> Fault {
        let awaited = self
            .waits()
            .map(|(_, answer)| format!(" ({answer} is awaited)"))
            .unwrap_or_default();
        Fault::new(
            Code::CommandInvalid,
            format!(
                "{} on channel {} out of place{awaited}",
                method.name(),
                self.id.0
            ),
        )
    }

    fn confirm(
        &mut self,
        number: u64,
        multiple: bool,
        verdict: Verdict,
        io: &mut Io,
    ) -> Result<Still, Fault> {
        let Confirms::On(publishes) = &mut self.confirms else {
            let what = format!("a confirm on channel {}, which has none", self.id.0);
            return Err(Fault::new(Code::CommandInvalid, what));
        };
        let (channel, events) = (self.id, &mut *io.events);
        let tell = |id, outcome| {
            events.push_back(Event::Outcome {
                channel,
                id,
                outcome,
            });
        };
        if multiple {
            publishes.confirm_up_to(number, verdict, tell)?;
        } else {
            publishes.confirm_one(number, verdict, tell)?;
        }
        Ok(Still::There)
    }

    fn header(&mut self, payload: &Bytes, io: &mut Io) -> Result<(), Fault> {
        let announced = self.incoming.announced()?;
        let Header {
            body_bytes,
            properties,
        } = Header::read(payload)?;
        match announced {
            Announced::Delivery {
                tag,
                redelivered,
                exchange,
                routing_key,
            } => {
                let delivered = Delivered {
                    tag,
                    redelivered,
                    exchange,
                    routing_key,
                    properties,
                    body_bytes,
                };
                self.incoming
                    .deliver(self.id, delivered, io.body_bytes_max, io.events);
            }
            Announced::Return { code, text } => {
                self.returned(code, text, &properties, io)?;
                self.incoming.drop_body(body_bytes);
            }
        }
        Ok(())
    }

    /// Which publish a return belongs to is known by its header: the body says no more.
    fn returned(
        &mut self,
        code: u16,
        text: String,
        properties: &RawProperties,
        io: &Io,
    ) -> Result<(), Fault> {
        let Some(token) = Token::of(properties, io.token_header) else {
            return Err(Fault::new(
                Code::CommandInvalid,
                format!(
                    "a basic.return ({code} {text}) without the header {}",
                    io.token_header
                ),
            ));
        };
        match &mut self.confirms {
            Confirms::On(publishes) => publishes.returned(&token, code, text),
            Confirms::Off => Err(Fault::new(
                Code::CommandInvalid,
                format!(
                    "a basic.return on channel {}, where nothing was published",
                    self.id.0
                ),
            )),
        }
    }

    /// Tells what is known of all that is unanswered, then the end.
    pub(super) fn end(&mut self, end: ChannelEnd, cause: &str, events: &mut VecDeque<Event>) {
        let channel = self.id;
        let mut tell = |id, outcome| {
            events.push_back(Event::Outcome {
                channel,
                id,
                outcome,
            });
        };
        if let Confirms::On(publishes) = &mut self.confirms {
            publishes.end(cause, &mut tell);
        }
        if let Outgoing::Unfinished { id, .. } =
            std::mem::replace(&mut self.outgoing, Outgoing::Nothing)
        {
            let cause = format!("its body wasn't finished: {cause}");
            tell(id, Outcome::Unsent { cause });
        }
        events.push_back(Event::ChannelEnded { channel, end });
    }

    pub(super) fn check_invariants(&self) {
        match &self.confirms {
            Confirms::On(publishes) => publishes.check_invariants(),
            Confirms::Off => {
                debug_assert!(matches!(self.outgoing, Outgoing::Nothing));
            }
        }
        match (&self.incoming, &self.outgoing) {
            (Incoming::Header { left: 0, .. }, _) | (_, Outgoing::Unfinished { left: 0, .. }) => {
                debug_assert!(false, "a body of which nothing is left is still unfinished");
            }
            (
                Incoming::Nothing | Incoming::Method(_) | Incoming::Header { .. },
                Outgoing::Nothing | Outgoing::Unfinished { .. },
            ) => {}
        }
    }
}

impl Done {
    /// The method that says it.
    fn answer(self) -> &'static str {
        match self {
            Self::ChannelOpened => "channel.open-ok",
            Self::QosSet => "basic.qos-ok",
            Self::Consuming => "basic.consume-ok",
            Self::Confirming => "confirm.select-ok",
            Self::Declared => "queue.declare-ok",
        }
    }
}
