//! A connection's life, as far as channel 0 tells it: handshake, close, blocked.
//!
//! Owns what is agreed on in the handshake. Promises that a handshake that fails says why in words that help: another
//! protocol, a mechanism that isn't offered, a refused login, an unknown vhost. Sources: specification, section 2.2.4
//! and class `connection`; RabbitMQ's extensions for `connection.blocked` and for failed logins.

use super::Engine;
use super::command::{Credentials, EngineSettings};
use super::event::{Ended, Event, Server};
use super::fault::{Code, Fault, shown};
use super::frames::{Frame, Kind};
use super::methods::{Close, Method, SHORT_BYTES_MAX};
use crate::amqp::{FieldTable, FieldValue};
use bytes::{Bytes, BytesMut};
use secrecy::ExposeSecret;
use std::time::{Duration, Instant};

/// AMQP 0-9-1.
pub(super) const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";
/// The specification's `frame-min-size`: both sides must take frames so large.
pub(super) const FRAME_BYTES_MIN: u32 = 4096;
/// What RabbitMQ may do that it does for those who say that they know of it. `authentication_failure_close`: it says why
/// a login fails, where it would only close the socket.
const CAPABILITIES: [&str; 5] = [
    "publisher_confirms",
    "consumer_cancel_notify",
    "basic.nack",
    "connection.blocked",
    "authentication_failure_close",
];

/// How far a connection is.
#[derive(Debug)]
pub(super) enum Life {
    /// The protocol header has been sent.
    Starting { since: Instant },
    /// `connection.start-ok` has been sent.
    Tuning { since: Instant, server: Server },
    /// `connection.tune-ok` and `connection.open` have been sent.
    Opening { since: Instant, server: Server },
    /// Commands are taken.
    Open,
    /// `connection.close` has been sent.
    Closing { since: Instant },
    /// [`Event::Ended`] has been told.
    Ended { cause: String },
}

/// What is agreed on. Before `connection.tune` nothing is.
#[derive(Debug, Default)]
pub(super) struct Agreed {
    pub(super) frame_bytes_max: usize,
    pub(super) channels_max: u16,
    /// Absent: no heartbeats.
    pub(super) heartbeat: Option<Duration>,
}

impl Life {
    /// Since when the peer owes a method of channel 0, and which.
    pub(super) fn waits(&self) -> Option<(Instant, &'static str)> {
        match self {
            Self::Starting { since } => Some((*since, "connection.start")),
            Self::Tuning { since, .. } => Some((*since, "connection.tune")),
            Self::Opening { since, .. } => Some((*since, "connection.open-ok")),
            Self::Open | Self::Ended { .. } => None,
            Self::Closing { since } => Some((*since, "connection.close-ok")),
        }
    }
}

impl Engine {
    /// A frame of channel 0.
    pub(super) fn connection_frame(&mut self, frame: &Frame, now: Instant) -> Result<(), Fault> {
        let closing = match self.life {
            Life::Closing { .. } => true,
            Life::Starting { .. }
            | Life::Tuning { .. }
            | Life::Opening { .. }
            | Life::Open
            | Life::Ended { .. } => false,
        };
        match frame.kind {
            Kind::Heartbeat => Ok(()),
            // Section 1.4 of the class reference, as of channels: what is still on its way is of no interest.
            Kind::Method if closing && !Method::ends_connection(&frame.payload) => Ok(()),
            Kind::Header | Kind::Body if closing => Ok(()),
            Kind::Method => self.connection_method(Method::read(&frame.payload)?, now),
            Kind::Header | Kind::Body => Err(Fault::new(
                Code::UnexpectedFrame,
                "content on channel 0, which has none",
            )),
        }
    }

    fn connection_method(&mut self, method: Method, now: Instant) -> Result<(), Fault> {
        match (method, &mut self.life) {
            (
                Method::ConnectionStart {
                    version,
                    server_properties,
                    mechanisms,
                },
                Life::Starting { .. },
            ) => self.start(version, server_properties, &mechanisms, now),
            (
                Method::ConnectionTune {
                    channels_max,
                    frame_bytes_max,
                },
                Life::Tuning { server, .. },
            ) => {
                let server = server.clone();
                self.tune(channels_max, frame_bytes_max, server, now)
            }
            (Method::ConnectionOpenOk, Life::Opening { server, .. }) => {
                let server = server.clone();
                self.life = Life::Open;
                self.events.push_back(Event::Opened { server });
                Ok(())
            }
            // In every state: a server that has enough says so, and is answered.
            (Method::ConnectionClose(Close { code, text }), _) => {
                self.output.connection_close_ok();
                let text = shown(&text);
                self.end(Ended::Refused { code, text });
                Ok(())
            }
            (Method::ConnectionCloseOk, Life::Closing { .. }) => {
                self.end(Ended::Closed);
                Ok(())
            }
            // RabbitMQ blocks before it opens, too, where an alarm is on.
            (Method::ConnectionBlocked { reason }, Life::Opening { .. } | Life::Open) => {
                let reason = shown(&reason);
                self.events.push_back(Event::Blocked { reason });
                Ok(())
            }
            (Method::ConnectionUnblocked, Life::Opening { .. } | Life::Open) => {
                self.events.push_back(Event::Unblocked);
                Ok(())
            }
            (Method::ConnectionSecure, Life::Tuning { .. }) => Err(Fault::new(
                Code::NotImplemented,
                "it asks for more than PLAIN and EXTERNAL need (connection.secure)",
            )),
            (other, life) => {
                let awaited = life
                    .waits()
                    .map(|(_, answer)| format!(" ({answer} is awaited)"))
                    .unwrap_or_default();
                Err(Fault::new(
                    Code::CommandInvalid,
                    format!("{} on channel 0 out of place{awaited}", other.name()),
                ))
            }
        }
    }

    fn start(
        &mut self,
        version: (u8, u8),
        server_properties: Bytes,
        mechanisms: &[u8],
        now: Instant,
    ) -> Result<(), Fault> {
        if version != (0, 9) {
            let what = format!("it speaks AMQP {}-{}, not 0-9", version.0, version.1);
            return Err(Fault::new(Code::NotImplemented, what));
        }
        let (mechanism, answer) = sasl(&self.settings.credentials);
        if !mechanisms
            .split(|octet| *octet == b' ')
            .any(|offered| offered == mechanism.as_bytes())
        {
            self.end(Ended::Lost {
                cause: format!(
                    "the broker doesn't offer to log in by {mechanism}, but by: {}",
                    shown(mechanisms)
                ),
            });
            return Ok(());
        }
        let vhost_bytes = self.settings.vhost.len();
        if vhost_bytes > SHORT_BYTES_MAX {
            self.end(Ended::Lost {
                cause: format!("the vhost's name has {vhost_bytes} bytes, {SHORT_BYTES_MAX} at most can be written"),
            });
            return Ok(());
        }
        let client_properties = match client_properties(&self.settings) {
            Ok(bytes) => bytes,
            Err(cause) => {
                self.end(Ended::Lost { cause });
                return Ok(());
            }
        };
        self.output.start_ok(&client_properties, mechanism, &answer);
        self.life = Life::Tuning {
            since: now,
            server: server(server_properties),
        };
        Ok(())
    }

    fn tune(
        &mut self,
        channels_max: u16,
        frame_bytes_max: u32,
        server: Server,
        now: Instant,
    ) -> Result<(), Fault> {
        if (1..FRAME_BYTES_MIN).contains(&frame_bytes_max) {
            let what =
                format!("it takes frames of {frame_bytes_max} bytes, less than {FRAME_BYTES_MIN}");
            return Err(Fault::new(Code::SyntaxError, what));
        }
        // 0 is no limit, for frames and channels both (specification, `connection.tune`).
        let ours = self.settings.frame_bytes_max.max(FRAME_BYTES_MIN);
        let frame_bytes_max = match frame_bytes_max {
            0 => ours,
            theirs => theirs.min(ours),
        };
        let channels_max = match channels_max {
            0 => u16::MAX,
            theirs => theirs,
        };
        let heartbeat = heartbeat_seconds(self.settings.heartbeat);
        self.agreed = Agreed {
            frame_bytes_max: frame_bytes_max as usize,
            channels_max,
            heartbeat: (heartbeat > 0).then(|| Duration::from_secs(u64::from(heartbeat))),
        };
        self.frames.negotiated(frame_bytes_max as usize);
        self.output
            .tune_ok(channels_max, frame_bytes_max, heartbeat);
        self.output.open(self.settings.vhost.as_bytes());
        self.life = Life::Opening { since: now, server };
        Ok(())
    }
}

/// Mechanism and first answer (RFC 4616, RFC 4422 appendix A).
fn sasl(credentials: &Credentials) -> (&'static str, Vec<u8>) {
    match credentials {
        Credentials::Plain { user, password } => {
            let password = password.expose_secret();
            let mut answer = Vec::with_capacity(2 + user.len() + password.len());
            answer.push(0);
            answer.extend_from_slice(user.as_bytes());
            answer.push(0);
            answer.extend_from_slice(password.as_bytes());
            ("PLAIN", answer)
        }
        // No identity beside the certificate's.
        Credentials::External => ("EXTERNAL", Vec::new()),
    }
}

/// What we say of ourselves, our capabilities included.
fn client_properties(settings: &EngineSettings) -> Result<Bytes, String> {
    let capabilities = CAPABILITIES
        .iter()
        .map(|name| (Bytes::from_static(name.as_bytes()), FieldValue::Bool(true)))
        .collect();
    let mut table = settings.client_properties.clone();
    table.set("capabilities", FieldValue::Table(capabilities));
    let mut out = BytesMut::new();
    table
        .encode(&mut out)
        .map_err(|error| format!("the client properties can't be written: {error}"))?;
    Ok(out.freeze())
}

/// What a server says of itself is for people: what can't be read is left empty.
fn server(properties: Bytes) -> Server {
    let table = FieldTable::decode(properties).unwrap_or_default();
    let text = |name| {
        table
            .get(name)
            .and_then(FieldValue::as_bytes)
            .map(|bytes| shown(bytes))
            .unwrap_or_default()
    };
    Server {
        product: text("product"),
        version: text("version"),
    }
}

/// In whole seconds, at least one; 0 for none.
fn heartbeat_seconds(heartbeat: Duration) -> u16 {
    let up = u64::from(heartbeat.subsec_nanos() > 0);
    u16::try_from(heartbeat.as_secs().saturating_add(up)).unwrap_or(u16::MAX)
}
