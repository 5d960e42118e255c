//! The methods that are spoken: the server's as values, ours as frames.
//!
//! Owns their layouts, and knows nothing of when each may come. Promises that arguments are read within their frame and
//! to its last byte; strings stay slices of the frame. Numbers and layouts are those of the specification's class
//! reference (sections 1.2 to 1.5 of `amqp0-9-1.xml`), and of RabbitMQ's extensions: `connection.blocked`,
//! `connection.unblocked`, `basic.nack` and class `confirm`.

use super::fault::{Code, Fault};
use super::output::Output;
use bytes::{BufMut, Bytes, BytesMut};

/// Class and method.
pub(super) type Id = (u16, u16);

pub(super) const BASIC: u16 = 60;

const CONNECTION_START: Id = (10, 10);
const CONNECTION_START_OK: Id = (10, 11);
const CONNECTION_SECURE: Id = (10, 20);
const CONNECTION_TUNE: Id = (10, 30);
const CONNECTION_TUNE_OK: Id = (10, 31);
const CONNECTION_OPEN: Id = (10, 40);
const CONNECTION_OPEN_OK: Id = (10, 41);
const CONNECTION_CLOSE: Id = (10, 50);
const CONNECTION_CLOSE_OK: Id = (10, 51);
const CONNECTION_BLOCKED: Id = (10, 60);
const CONNECTION_UNBLOCKED: Id = (10, 61);
const CHANNEL_OPEN: Id = (20, 10);
const CHANNEL_OPEN_OK: Id = (20, 11);
const CHANNEL_FLOW: Id = (20, 20);
const CHANNEL_FLOW_OK: Id = (20, 21);
const CHANNEL_CLOSE: Id = (20, 40);
const CHANNEL_CLOSE_OK: Id = (20, 41);
const QUEUE_DECLARE: Id = (50, 10);
const QUEUE_DECLARE_OK: Id = (50, 11);
const BASIC_QOS: Id = (60, 10);
const BASIC_QOS_OK: Id = (60, 11);
const BASIC_CONSUME: Id = (60, 20);
const BASIC_CONSUME_OK: Id = (60, 21);
const BASIC_CANCEL: Id = (60, 30);
const BASIC_CANCEL_OK: Id = (60, 31);
const BASIC_PUBLISH: Id = (60, 40);
const BASIC_RETURN: Id = (60, 50);
const BASIC_DELIVER: Id = (60, 60);
const BASIC_ACK: Id = (60, 80);
const BASIC_NACK: Id = (60, 120);
const CONFIRM_SELECT: Id = (85, 10);
const CONFIRM_SELECT_OK: Id = (85, 11);

/// Why a server closes a connection or a channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Close {
    pub(super) code: u16,
    pub(super) text: Bytes,
}

/// A server's method.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Method {
    ConnectionStart {
        version: (u8, u8),
        server_properties: Bytes,
        mechanisms: Bytes,
    },
    ConnectionSecure,
    ConnectionTune {
        channels_max: u16,
        frame_bytes_max: u32,
    },
    ConnectionOpenOk,
    ConnectionClose(Close),
    ConnectionCloseOk,
    ConnectionBlocked {
        reason: Bytes,
    },
    ConnectionUnblocked,
    ChannelOpenOk,
    ChannelFlow {
        active: u8,
    },
    ChannelClose(Close),
    ChannelCloseOk,
    QueueDeclareOk,
    BasicQosOk,
    BasicConsumeOk,
    BasicCancel {
        consumer: Bytes,
        nowait: bool,
    },
    BasicReturn(Close),
    BasicDeliver {
        tag: u64,
        redelivered: bool,
        exchange: Bytes,
        routing_key: Bytes,
    },
    BasicAck {
        tag: u64,
        multiple: bool,
    },
    BasicNack {
        tag: u64,
        multiple: bool,
    },
    ConfirmSelectOk,
}

impl Method {
    /// Its name.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::ConnectionStart { .. } => "connection.start",
            Self::ConnectionSecure => "connection.secure",
            Self::ConnectionTune { .. } => "connection.tune",
            Self::ConnectionOpenOk => "connection.open-ok",
            Self::ConnectionClose(_) => "connection.close",
            Self::ConnectionCloseOk => "connection.close-ok",
            Self::ConnectionBlocked { .. } => "connection.blocked",
            Self::ConnectionUnblocked => "connection.unblocked",
            Self::ChannelOpenOk => "channel.open-ok",
            Self::ChannelFlow { .. } => "channel.flow",
            Self::ChannelClose(_) => "channel.close",
            Self::ChannelCloseOk => "channel.close-ok",
            Self::QueueDeclareOk => "queue.declare-ok",
            Self::BasicQosOk => "basic.qos-ok",
            Self::BasicConsumeOk => "basic.consume-ok",
            Self::BasicCancel { .. } => "basic.cancel",
            Self::BasicReturn(_) => "basic.return",
            Self::BasicDeliver { .. } => "basic.deliver",
            Self::BasicAck { .. } => "basic.ack",
            Self::BasicNack { .. } => "basic.nack",
            Self::ConfirmSelectOk => "confirm.select-ok",
        }
    }

    /// Whether a frame's payload is `channel.close` or `channel.close-ok`: all that counts on a channel being closed.
    pub(super) fn ends_channel(payload: &[u8]) -> bool {
        payload.first_chunk::<4>().is_some_and(|id| {
            let id = split_id(*id);
            id == CHANNEL_CLOSE || id == CHANNEL_CLOSE_OK
        })
    }

    /// The same of a connection.
    pub(super) fn ends_connection(payload: &[u8]) -> bool {
        payload.first_chunk::<4>().is_some_and(|id| {
            let id = split_id(*id);
            id == CONNECTION_CLOSE || id == CONNECTION_CLOSE_OK
        })
    }

    /// Reads a method frame's payload.
    pub(super) fn read(payload: &Bytes) -> Result<Self, Fault> {
        let mut arguments = Arguments::new(payload, Of::Method);
        let id = (arguments.u16()?, arguments.u16()?);
        let method = match id {
            BASIC_DELIVER => {
                // The consumer's tag says nothing: a channel has one consumer.
                arguments.skip_short()?;
                Self::BasicDeliver {
                    tag: arguments.u64()?,
                    redelivered: arguments.bits()? & 1 != 0,
                    exchange: arguments.short()?,
                    routing_key: arguments.short()?,
                }
            }
            BASIC_ACK => Self::BasicAck {
                tag: arguments.u64()?,
                multiple: arguments.bits()? & 1 != 0,
            },
            BASIC_NACK => Self::BasicNack {
                tag: arguments.u64()?,
                multiple: arguments.bits()? & 1 != 0,
            },
            BASIC_RETURN => {
                let close = Close {
                    code: arguments.u16()?,
                    text: arguments.short()?,
                };
                arguments.skip_short()?;
                arguments.skip_short()?;
                Self::BasicReturn(close)
            }
            CONNECTION_START => Self::ConnectionStart {
                version: (arguments.u8()?, arguments.u8()?),
                server_properties: arguments.table()?,
                mechanisms: arguments.long()?,
            }
            .then(arguments.long().map(drop))?,
            CONNECTION_SECURE => Self::ConnectionSecure.then(arguments.long().map(drop))?,
            CONNECTION_TUNE => Self::ConnectionTune {
                channels_max: arguments.u16()?,
                frame_bytes_max: arguments.u32()?,
            }
            // The heartbeat that it would like: ours counts.
            .then(arguments.u16().map(drop))?,
            CONNECTION_OPEN_OK => Self::ConnectionOpenOk.then(arguments.skip_short())?,
            CONNECTION_CLOSE => Self::ConnectionClose(arguments.close()?),
            CONNECTION_CLOSE_OK => Self::ConnectionCloseOk,
            CONNECTION_BLOCKED => Self::ConnectionBlocked {
                reason: arguments.short()?,
            },
            CONNECTION_UNBLOCKED => Self::ConnectionUnblocked,
            CHANNEL_OPEN_OK => Self::ChannelOpenOk.then(arguments.long().map(drop))?,
            CHANNEL_FLOW => Self::ChannelFlow {
                active: arguments.bits()? & 1,
            },
            CHANNEL_CLOSE => Self::ChannelClose(arguments.close()?),
            CHANNEL_CLOSE_OK => Self::ChannelCloseOk,
            QUEUE_DECLARE_OK => Self::QueueDeclareOk
                .then(arguments.skip_short())?
                .then(arguments.u64().map(drop))?,
            BASIC_QOS_OK => Self::BasicQosOk,
            BASIC_CONSUME_OK => Self::BasicConsumeOk.then(arguments.skip_short())?,
            BASIC_CANCEL => Self::BasicCancel {
                consumer: arguments.short()?,
                nowait: arguments.bits()? & 1 != 0,
            },
            CONFIRM_SELECT_OK => Self::ConfirmSelectOk,
            (class, method) => {
                let what = format!("a method that this client doesn't know: {class}.{method}");
                return Err(Fault::new(Code::NotImplemented, what));
            }
        };
        match payload.len() - arguments.at {
            0 => Ok(method),
            left => Err(Fault::new(
                Code::SyntaxError,
                format!("{left} bytes behind the arguments of {}", method.name()),
            )),
        }
    }

    /// Itself, when what follows in the frame and isn't kept could be read too.
    fn then(self, skipped: Result<(), Fault>) -> Result<Self, Fault> {
        skipped.map(|()| self)
    }
}

fn split_id([a, b, c, d]: [u8; 4]) -> Id {
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

/// A cursor over a frame's payload.
pub(super) struct Arguments<'a> {
    payload: &'a Bytes,
    of: Of,
    at: usize,
}

/// What a frame carries, in words.
#[derive(Debug, Clone, Copy)]
pub(super) enum Of {
    Method,
    ContentHeader,
}

impl<'a> Arguments<'a> {
    pub(super) fn new(payload: &'a Bytes, of: Of) -> Self {
        Self { payload, of, at: 0 }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let rest = self.payload.get(self.at..).unwrap_or_default();
        let array = rest.first_chunk::<N>().ok_or_else(|| self.truncated())?;
        self.at += N;
        Ok(*array)
    }

    fn slice(&mut self, len: usize) -> Result<Bytes, Fault> {
        if self.payload.len() - self.at < len {
            return Err(self.truncated());
        }
        let slice = self.payload.slice(self.at..self.at + len);
        self.at += len;
        Ok(slice)
    }

    fn truncated(&self) -> Fault {
        let what = match (self.of, self.payload.first_chunk::<4>()) {
            (Of::Method, Some(id)) => {
                let (class, method) = split_id(*id);
                format!("a method frame that ends within the arguments of {class}.{method}")
            }
            (Of::Method, None) => "a method frame too short for a method".to_owned(),
            (Of::ContentHeader, _) => "a header frame too short for a content header".to_owned(),
        };
        Fault::new(Code::SyntaxError, what)
    }

    fn u8(&mut self) -> Result<u8, Fault> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_be_bytes)
    }

    /// An octet of up to eight bits, the first one lowest (section 4.2.5.2).
    fn bits(&mut self) -> Result<u8, Fault> {
        self.u8()
    }

    fn short(&mut self) -> Result<Bytes, Fault> {
        let len = self.u8()?;
        self.slice(usize::from(len))
    }

    fn skip_short(&mut self) -> Result<(), Fault> {
        let len = usize::from(self.u8()?);
        if self.payload.len() - self.at < len {
            return Err(self.truncated());
        }
        self.at += len;
        Ok(())
    }

    fn long(&mut self) -> Result<Bytes, Fault> {
        let len = self.u32()?;
        self.slice(len as usize)
    }

    /// A table with its length in front.
    fn table(&mut self) -> Result<Bytes, Fault> {
        let from = self.at;
        self.long()?;
        Ok(self.payload.slice(from..self.at))
    }

    /// `close`, of a connection or a channel: class and method of what it is about are in the text too.
    fn close(&mut self) -> Result<Close, Fault> {
        let close = Close {
            code: self.u16()?,
            text: self.short()?,
        };
        self.u32()?;
        Ok(close)
    }

    /// What is left.
    pub(super) fn rest(self) -> Bytes {
        self.payload.slice(self.at..)
    }
}

/// A short string. Whoever calls has looked at its length; a longer one would be cut.
fn put_short(out: &mut BytesMut, text: &[u8]) {
    let len = u8::try_from(text.len()).unwrap_or(u8::MAX);
    out.put_u8(len);
    out.put_slice(&text[..usize::from(len)]);
}

fn put_long(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.put_slice(bytes);
}

/// An empty table.
fn put_no_table(out: &mut BytesMut) {
    out.put_u32(0);
}

/// The longest short string.
pub(super) const SHORT_BYTES_MAX: usize = 255;

/// Our methods.
impl Output {
    /// `client_properties` is a whole table.
    pub(super) fn start_ok(&mut self, client_properties: &[u8], mechanism: &str, answer: &[u8]) {
        self.method(0, CONNECTION_START_OK, |out| {
            out.put_slice(client_properties);
            put_short(out, mechanism.as_bytes());
            put_long(out, answer);
            put_short(out, b"en_US");
        });
    }

    pub(super) fn tune_ok(&mut self, channels_max: u16, frame_bytes_max: u32, heartbeat: u16) {
        self.method(0, CONNECTION_TUNE_OK, |out| {
            out.put_u16(channels_max);
            out.put_u32(frame_bytes_max);
            out.put_u16(heartbeat);
        });
    }

    pub(super) fn open(&mut self, vhost: &[u8]) {
        self.method(0, CONNECTION_OPEN, |out| {
            put_short(out, vhost);
            // Two fields that are reserved.
            put_short(out, b"");
            out.put_u8(0);
        });
    }

    pub(super) fn connection_close(&mut self, code: u16, text: &str) {
        self.method(0, CONNECTION_CLOSE, |out| put_close(out, code, text));
    }

    pub(super) fn connection_close_ok(&mut self) {
        self.method(0, CONNECTION_CLOSE_OK, |_| {});
    }

    pub(super) fn channel_open(&mut self, channel: u16) {
        self.method(channel, CHANNEL_OPEN, |out| put_short(out, b""));
    }

    pub(super) fn channel_flow_ok(&mut self, channel: u16, active: u8) {
        self.method(channel, CHANNEL_FLOW_OK, |out| out.put_u8(active));
    }

    pub(super) fn channel_close(&mut self, channel: u16, code: u16, text: &str) {
        self.method(channel, CHANNEL_CLOSE, |out| put_close(out, code, text));
    }

    pub(super) fn channel_close_ok(&mut self, channel: u16) {
        self.method(channel, CHANNEL_CLOSE_OK, |_| {});
    }

    pub(super) fn confirm_select(&mut self, channel: u16) {
        self.method(channel, CONFIRM_SELECT, |out| out.put_u8(0));
    }

    pub(super) fn declare_exclusive(&mut self, channel: u16, queue: &[u8]) {
        self.method(channel, QUEUE_DECLARE, |out| {
            out.put_u16(0);
            put_short(out, queue);
            // passive, durable, exclusive, auto-delete, no-wait: the third.
            out.put_u8(0b0_0100);
            put_no_table(out);
        });
    }

    pub(super) fn qos(&mut self, channel: u16, prefetch: u16) {
        self.method(channel, BASIC_QOS, |out| {
            out.put_u32(0);
            out.put_u16(prefetch);
            // Not global: per consumer, as RabbitMQ reads it.
            out.put_u8(0);
        });
    }

    /// `arguments` is a whole table.
    pub(super) fn consume(
        &mut self,
        channel: u16,
        queue: &[u8],
        exclusive: bool,
        arguments: &[u8],
    ) {
        self.method(channel, BASIC_CONSUME, |out| {
            out.put_u16(0);
            put_short(out, queue);
            // The server makes up the consumer's tag.
            put_short(out, b"");
            // no-local, no-ack, exclusive, no-wait: the third.
            out.put_u8(u8::from(exclusive) << 2);
            out.put_slice(arguments);
        });
    }

    pub(super) fn cancel_ok(&mut self, channel: u16, consumer: &[u8]) {
        self.method(channel, BASIC_CANCEL_OK, |out| put_short(out, consumer));
    }

    pub(super) fn publish(&mut self, channel: u16, exchange: &[u8], key: &[u8], mandatory: bool) {
        self.method(channel, BASIC_PUBLISH, |out| {
            out.put_u16(0);
            put_short(out, exchange);
            put_short(out, key);
            out.put_u8(u8::from(mandatory));
        });
    }

    pub(super) fn ack(&mut self, channel: u16, tag: u64, multiple: bool) {
        self.method(channel, BASIC_ACK, |out| {
            out.put_u64(tag);
            out.put_u8(u8::from(multiple));
        });
    }

    /// RabbitMQ's, which is `basic.reject` with a bit more.
    pub(super) fn nack(&mut self, channel: u16, tag: u64, multiple: bool, requeue: bool) {
        self.method(channel, BASIC_NACK, |out| {
            out.put_u64(tag);
            out.put_u8(u8::from(multiple) | u8::from(requeue) << 1);
        });
    }
}

/// The text is cut to a short string. No class and method: it is about none that a peer could find.
fn put_close(out: &mut BytesMut, code: u16, text: &str) {
    out.put_u16(code);
    let cut = text
        .char_indices()
        .map(|(at, c)| at + c.len_utf8())
        .take_while(|end| *end <= SHORT_BYTES_MAX)
        .last()
        .unwrap_or(0);
    put_short(out, &text.as_bytes()[..cut]);
    out.put_u32(0);
}
