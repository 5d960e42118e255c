//! An AMQP 0-9-1 client that sends and receives properties as bytes.
//!
//! For tests of fidelity: client libraries refuse or normalise what RabbitMQ carries (names that aren't UTF-8, repeated
//! headers, rare field types). Promises to send exactly the bytes that it is given and to hand out exactly those that
//! came. One channel, one question at a time, no heartbeats, no recovery: for tests alone.

mod wire;

use super::traffic::Endpoint;
use bytes::{BufMut, Bytes, BytesMut};
use secrecy::{ExposeSecret, SecretString};
use std::net::TcpStream;
use std::time::Duration;
use wire::{FRAME_BODY, FRAME_HEADER, FRAME_METHOD, Frame, Methods};

/// A broker that doesn't answer within this is an error of the test. One with gigabytes of large messages on its way to
/// the disk has taken more than 10 s.
const ANSWER_TIME_MAX: Duration = Duration::from_mins(1);

/// What this client offers at most in `tune`; RabbitMQ's own default.
const FRAME_BYTES_MAX: u32 = 131_072;

/// Frame type, channel, length and end octet around a payload.
const FRAME_OVERHEAD_BYTES: usize = 8;

/// The only channel.
const CHANNEL: u16 = 1;

/// Class *basic*, as a content header names it.
const CLASS_BASIC: u16 = 60;

/// Why a raw conversation ended.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    /// The URI can't be read.
    #[error("the broker's URI can't be read: {0}")]
    Uri(String),
    /// The socket failed.
    #[error("the connection to {address} failed while {doing}: {source}")]
    Io {
        /// `host:port`.
        address: String,
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The broker closed the channel or the connection.
    #[error("the broker closed with {code} {text} while {doing}")]
    Closed {
        /// AMQP's reply code.
        code: u16,
        /// The broker's words.
        text: String,
        /// What was being done.
        doing: &'static str,
    },
    /// Something other than the answer that was due.
    #[error("the broker answered {doing} with {got}")]
    Unexpected {
        /// What was being done.
        doing: &'static str,
        /// What came.
        got: String,
    },
    /// What is to be sent doesn't fit its field.
    #[error("{0} is longer than AMQP has room for")]
    TooLong(&'static str),
}

/// A message as it lay in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawMessage {
    /// Property flags and property list, byte for byte.
    pub properties: Bytes,
    /// Byte for byte.
    pub body: Bytes,
    /// As flagged.
    pub redelivered: bool,
    /// Where it was published.
    pub exchange: Bytes,
    /// Where it was published.
    pub routing_key: Bytes,
}

/// The broker's answer to a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawConfirm {
    /// Taken.
    Ack,
    /// Refused.
    Nack,
    /// Unroutable: `mandatory` is always set.
    Returned,
}

/// A connection with one channel in confirm mode. Blocking: call it in `spawn_blocking` from asynchronous code.
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    address: String,
    frame_bytes_max: usize,
}

impl RawClient {
    /// Connects to `amqp://user:password@host:port/vhost`.
    pub fn connect(uri: &SecretString) -> Result<Self, RawError> {
        Self::connect_to(&Endpoint::parse(uri).map_err(RawError::Uri)?)
    }

    /// Connects, opens the channel and asks for confirms.
    pub fn connect_to(endpoint: &Endpoint) -> Result<Self, RawError> {
        let (host, port, vhost) = endpoint.place();
        let address = format!("{host}:{port}");
        let failed = |source| RawError::Io {
            address: address.clone(),
            doing: "connecting",
            source,
        };
        let stream = TcpStream::connect((host, port)).map_err(failed)?;
        stream
            .set_read_timeout(Some(ANSWER_TIME_MAX))
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let mut client = Self {
            stream,
            address,
            frame_bytes_max: 4_096,
        };
        client.open(&endpoint.plain_response(), vhost)?;
        Ok(client)
    }

    fn open(&mut self, response: &SecretString, vhost: &str) -> Result<(), RawError> {
        self.write(b"AMQP\0\0\x09\x01", "connecting")?;
        self.expect(Methods::CONNECTION_START, "connecting")?;
        let mut start_ok = BytesMut::new();
        // No client properties: RabbitMQ then sends none of its extensions but those asked for by a method.
        start_ok.put_u32(0);
        put_short(&mut start_ok, b"PLAIN", "a mechanism")?;
        put_long(
            &mut start_ok,
            response.expose_secret().as_bytes(),
            "a password",
        )?;
        put_short(&mut start_ok, b"en_US", "a locale")?;
        self.method(0, Methods::CONNECTION_START_OK, &start_ok, "logging in")?;
        let tune = self.expect(Methods::CONNECTION_TUNE, "logging in")?;
        let offered = tune.get(2..6).and_then(|bytes| bytes.try_into().ok());
        let frame_max = match offered.map_or(FRAME_BYTES_MAX, u32::from_be_bytes) {
            0 => FRAME_BYTES_MAX,
            offered => offered.min(FRAME_BYTES_MAX),
        };
        self.frame_bytes_max = frame_max as usize;
        let mut tune_ok = BytesMut::new();
        tune_ok.put_u16(1);
        tune_ok.put_u32(frame_max);
        tune_ok.put_u16(0);
        self.method(0, Methods::CONNECTION_TUNE_OK, &tune_ok, "tuning")?;
        let mut open = BytesMut::new();
        put_short(&mut open, vhost.as_bytes(), "a vhost's name")?;
        open.put_u8(0);
        open.put_u8(0);
        self.method(0, Methods::CONNECTION_OPEN, &open, "opening the vhost")?;
        self.expect(Methods::CONNECTION_OPEN_OK, "opening the vhost")?;
        self.method(CHANNEL, Methods::CHANNEL_OPEN, &[0], "opening a channel")?;
        self.expect(Methods::CHANNEL_OPEN_OK, "opening a channel")?;
        self.method(
            CHANNEL,
            Methods::CONFIRM_SELECT,
            &[0],
            "asking for confirms",
        )?;
        self.expect(Methods::CONFIRM_SELECT_OK, "asking for confirms")?;
        Ok(())
    }

    /// Declares a durable exchange of this kind.
    pub fn declare_exchange(&mut self, name: &str, kind: &str) -> Result<(), RawError> {
        let doing = "declaring an exchange";
        let mut out = BytesMut::new();
        out.put_u16(0);
        put_short(&mut out, name.as_bytes(), "an exchange's name")?;
        put_short(&mut out, kind.as_bytes(), "an exchange's kind")?;
        out.put_u8(DURABLE);
        out.put_u32(0);
        self.method(CHANNEL, Methods::EXCHANGE_DECLARE, &out, doing)?;
        self.expect(Methods::EXCHANGE_DECLARE_OK, doing).map(drop)
    }

    /// Declares a durable classic queue.
    pub fn declare_queue(&mut self, name: &str) -> Result<(), RawError> {
        let doing = "declaring a queue";
        let mut out = BytesMut::new();
        out.put_u16(0);
        put_short(&mut out, name.as_bytes(), "a queue's name")?;
        out.put_u8(DURABLE);
        out.put_u32(0);
        self.method(CHANNEL, Methods::QUEUE_DECLARE, &out, doing)?;
        self.expect(Methods::QUEUE_DECLARE_OK, doing).map(drop)
    }

    /// Binds a queue to an exchange.
    pub fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> Result<(), RawError> {
        let doing = "binding a queue";
        let mut out = BytesMut::new();
        out.put_u16(0);
        put_short(&mut out, queue.as_bytes(), "a queue's name")?;
        put_short(&mut out, exchange.as_bytes(), "an exchange's name")?;
        put_short(&mut out, key.as_bytes(), "a routing key")?;
        out.put_u8(0);
        out.put_u32(0);
        self.method(CHANNEL, Methods::QUEUE_BIND, &out, doing)?;
        self.expect(Methods::QUEUE_BIND_OK, doing).map(drop)
    }

    /// Publishes with `mandatory`, and waits for the confirm. `properties` are property flags and property list as they
    /// are to stand in the content header; they must fit one frame.
    pub fn publish(
        &mut self,
        exchange: &[u8],
        routing_key: &[u8],
        properties: &[u8],
        body: &[u8],
    ) -> Result<RawConfirm, RawError> {
        let doing = "publishing";
        let mut publish = BytesMut::new();
        publish.put_u16(0);
        put_short(&mut publish, exchange, "an exchange's name")?;
        put_short(&mut publish, routing_key, "a routing key")?;
        publish.put_u8(MANDATORY);
        let mut header = BytesMut::new();
        header.put_u16(CLASS_BASIC);
        header.put_u16(0);
        header.put_u64(body.len() as u64);
        header.put_slice(properties);
        let mut out = BytesMut::new();
        let method = wire::method_payload(Methods::BASIC_PUBLISH, &publish);
        wire::put_frame(&mut out, FRAME_METHOD, CHANNEL, &method)?;
        wire::put_frame(&mut out, FRAME_HEADER, CHANNEL, &header)?;
        for part in body.chunks(self.frame_bytes_max - FRAME_OVERHEAD_BYTES) {
            wire::put_frame(&mut out, FRAME_BODY, CHANNEL, part)?;
        }
        self.write(&out, doing)?;
        self.confirm(doing)
    }

    /// A return comes before its confirm, with the content that it returns.
    fn confirm(&mut self, doing: &'static str) -> Result<RawConfirm, RawError> {
        let mut returned = None;
        loop {
            let (method, _) = self.read_method(doing)?;
            match method {
                Methods::BASIC_RETURN => {
                    self.read_content(doing)?;
                    returned = Some(RawConfirm::Returned);
                }
                Methods::BASIC_ACK => return Ok(returned.unwrap_or(RawConfirm::Ack)),
                Methods::BASIC_NACK => return Ok(returned.unwrap_or(RawConfirm::Nack)),
                other => return Err(unexpected(doing, other)),
            }
        }
    }

    /// Takes one message out of a queue for good, if there is one.
    pub fn get(&mut self, queue: &str) -> Result<Option<RawMessage>, RawError> {
        let doing = "getting a message";
        let mut out = BytesMut::new();
        out.put_u16(0);
        put_short(&mut out, queue.as_bytes(), "a queue's name")?;
        out.put_u8(NO_ACK);
        self.method(CHANNEL, Methods::BASIC_GET, &out, doing)?;
        let (method, arguments) = self.read_method(doing)?;
        match method {
            Methods::BASIC_GET_EMPTY => Ok(None),
            Methods::BASIC_GET_OK => {
                // Delivery tag, redelivered, exchange, routing key, count.
                let short = |at: usize| -> Option<(Bytes, usize)> {
                    let end = at + 1 + usize::from(*arguments.get(at)?);
                    (end <= arguments.len()).then(|| (arguments.slice(at + 1..end), end))
                };
                let address = short(9).and_then(|(exchange, end)| Some((exchange, short(end)?.0)));
                let (exchange, routing_key) = address.ok_or_else(|| unexpected(doing, method))?;
                let redelivered = arguments.get(8).is_some_and(|flag| *flag != 0);
                let (properties, body) = self.read_content(doing)?;
                Ok(Some(RawMessage {
                    properties,
                    body,
                    redelivered,
                    exchange,
                    routing_key,
                }))
            }
            other => Err(unexpected(doing, other)),
        }
    }

    fn method(
        &mut self,
        channel: u16,
        method: (u16, u16),
        arguments: &[u8],
        doing: &'static str,
    ) -> Result<(), RawError> {
        let mut out = BytesMut::new();
        let payload = wire::method_payload(method, arguments);
        wire::put_frame(&mut out, FRAME_METHOD, channel, &payload)?;
        self.write(&out, doing)
    }

    fn write(&mut self, bytes: &[u8], doing: &'static str) -> Result<(), RawError> {
        std::io::Write::write_all(&mut self.stream, bytes).map_err(|source| RawError::Io {
            address: self.address.clone(),
            doing,
            source,
        })
    }

    fn read(&mut self, doing: &'static str) -> Result<Frame, RawError> {
        wire::read_frame(&mut self.stream).map_err(|source| RawError::Io {
            address: self.address.clone(),
            doing,
            source,
        })
    }

    fn expect(&mut self, due: (u16, u16), doing: &'static str) -> Result<Bytes, RawError> {
        match self.read_method(doing)? {
            (method, arguments) if method == due => Ok(arguments),
            (method, _) => Err(unexpected(doing, method)),
        }
    }

    /// The next method, and its arguments. A close by the broker is an error with its words.
    fn read_method(&mut self, doing: &'static str) -> Result<((u16, u16), Bytes), RawError> {
        let frame = self.read(doing)?;
        let Some((method, arguments)) = frame.method() else {
            return Err(RawError::Unexpected {
                doing,
                got: format!("a frame of type {}", frame.kind),
            });
        };
        if method == Methods::CONNECTION_CLOSE || method == Methods::CHANNEL_CLOSE {
            let code = arguments.get(..2).and_then(|bytes| bytes.try_into().ok());
            return Err(RawError::Closed {
                code: code.map_or(0, u16::from_be_bytes),
                text: arguments
                    .get(3..3 + usize::from(arguments.get(2).copied().unwrap_or(0)))
                    .map(|text| String::from_utf8_lossy(text).into_owned())
                    .unwrap_or_default(),
                doing,
            });
        }
        Ok((method, arguments))
    }

    fn read_content(&mut self, doing: &'static str) -> Result<(Bytes, Bytes), RawError> {
        let header = self.read(doing)?;
        let size = header
            .payload
            .get(4..12)
            .and_then(|bytes| bytes.try_into().ok());
        let (FRAME_HEADER, Some(size)) = (header.kind, size.map(u64::from_be_bytes)) else {
            return Err(RawError::Unexpected {
                doing,
                got: format!("a frame of type {} for a content header", header.kind),
            });
        };
        let mut body = BytesMut::new();
        while (body.len() as u64) < size {
            body.extend_from_slice(&self.read(doing)?.payload);
        }
        Ok((header.payload.slice(12..), body.freeze()))
    }
}

impl Drop for RawClient {
    /// Says goodbye; a broker that is gone doesn't hear it, and needs not to.
    fn drop(&mut self) {
        let mut close = BytesMut::new();
        close.put_u16(200);
        close.put_u8(0);
        close.put_u32(0);
        if self
            .method(0, Methods::CONNECTION_CLOSE, &close, "closing")
            .is_ok()
        {
            let _ = self.read("closing");
        }
    }
}

/// Second bit of `queue.declare` and `exchange.declare`, behind `passive`.
const DURABLE: u8 = 0b10;

/// First bit of `basic.publish`.
const MANDATORY: u8 = 0b1;

/// The bit of `basic.get`.
const NO_ACK: u8 = 0b1;

fn unexpected(doing: &'static str, (class, method): (u16, u16)) -> RawError {
    RawError::Unexpected {
        doing,
        got: format!("method {class}.{method}"),
    }
}

fn put_short(out: &mut BytesMut, bytes: &[u8], what: &'static str) -> Result<(), RawError> {
    out.put_u8(u8::try_from(bytes.len()).map_err(|_| RawError::TooLong(what))?);
    out.put_slice(bytes);
    Ok(())
}

fn put_long(out: &mut BytesMut, bytes: &[u8], what: &'static str) -> Result<(), RawError> {
    out.put_u32(u32::try_from(bytes.len()).map_err(|_| RawError::TooLong(what))?);
    out.put_slice(bytes);
    Ok(())
}
