//! Content that comes on a channel: a method, its header, its body (specification, section 4.2.6).
//!
//! Owns what of it is there. Promises that nothing else of the channel's comes between; that a body in one frame is a
//! slice of it, that one in several is assembled once, and that one above the limit is passed on piece by piece.

use super::ChannelId;
use super::event::{Delivered, Event};
use super::fault::{Code, Fault};
use super::methods::{Arguments, BASIC, Of};
use crate::amqp::RawProperties;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// What of a content has come.
#[derive(Debug)]
pub(super) enum Incoming {
    /// Nothing: a method is due.
    Nothing,
    /// The method; its header is due.
    Method(Announced),
    /// Method and header; so many bytes of the body are due, at least one.
    Header { begun: Begun, left: u64 },
}

/// A method that content follows.
#[derive(Debug)]
pub(super) enum Announced {
    Delivery {
        tag: u64,
        redelivered: bool,
        exchange: Bytes,
        routing_key: Bytes,
    },
    Return {
        code: u16,
        text: String,
    },
}

/// Where a body goes.
#[derive(Debug)]
pub(super) enum Begun {
    /// Held until it is whole.
    Held {
        delivered: Delivered,
        body: BytesMut,
    },
    /// Passed on.
    Passed,
    /// A returned body: the publisher has it.
    Dropped,
}

/// A content header.
pub(super) struct Header {
    pub(super) body_bytes: u64,
    pub(super) properties: RawProperties,
}

impl Header {
    /// The weight is not looked at: it says nothing, and RabbitMQ passes over it too.
    pub(super) fn read(payload: &Bytes) -> Result<Self, Fault> {
        let mut arguments = Arguments::new(payload, Of::ContentHeader);
        let class = arguments.u16()?;
        let _weight = arguments.u16()?;
        let body_bytes = arguments.u64()?;
        if class != BASIC {
            let what = format!("a content header of class {class} for content of class {BASIC}");
            return Err(Fault::new(Code::FrameError, what));
        }
        let properties = RawProperties::from_wire(arguments.rest());
        Ok(Self {
            body_bytes,
            properties,
        })
    }
}

impl Incoming {
    /// What is due instead of a method, if one may not come.
    pub(super) fn due(&self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Method(_) => Some("a content header"),
            Self::Header { .. } => Some("a content body"),
        }
    }

    /// Takes what was announced, for its header has come.
    pub(super) fn announced(&mut self) -> Result<Announced, Fault> {
        match std::mem::replace(self, Self::Nothing) {
            Self::Method(announced) => Ok(announced),
            Self::Nothing => Err(Fault::new(
                Code::UnexpectedFrame,
                "a content header where a method is due",
            )),
            Self::Header { .. } => Err(Fault::new(
                Code::UnexpectedFrame,
                "a content header where a content body is due",
            )),
        }
    }

    /// The header of a delivery has come.
    pub(super) fn deliver(
        &mut self,
        channel: ChannelId,
        delivered: Delivered,
        body_bytes_max: usize,
        events: &mut VecDeque<Event>,
    ) {
        let left = delivered.body_bytes;
        let begun = if left > body_bytes_max as u64 {
            events.push_back(Event::Delivered {
                channel,
                delivered,
                body: None,
            });
            Begun::Passed
        } else if left == 0 {
            events.push_back(Event::Delivered {
                channel,
                delivered,
                body: Some(Bytes::new()),
            });
            return;
        } else {
            Begun::Held {
                delivered,
                body: BytesMut::new(),
            }
        };
        *self = Self::Header { begun, left };
    }

    /// The header of a return has come: its body is read past.
    pub(super) fn drop_body(&mut self, body_bytes: u64) {
        if body_bytes > 0 {
            *self = Self::Header {
                begun: Begun::Dropped,
                left: body_bytes,
            };
        }
    }

    /// A body frame.
    pub(super) fn body(
        &mut self,
        channel: ChannelId,
        piece: Bytes,
        events: &mut VecDeque<Event>,
    ) -> Result<(), Fault> {
        let Self::Header { begun, left } = self else {
            let due = self.due().unwrap_or("a method");
            return Err(Fault::new(
                Code::UnexpectedFrame,
                format!("a content body on channel {} where {due} is due", channel.0),
            ));
        };
        let Some(still) = left.checked_sub(piece.len() as u64) else {
            return Err(Fault::new(
                Code::FrameError,
                format!(
                    "a content body on channel {} that is longer than announced",
                    channel.0
                ),
            ));
        };
        let is_first = match begun {
            Begun::Held { delivered, .. } => *left == delivered.body_bytes,
            Begun::Passed | Begun::Dropped => false,
        };
        *left = still;
        if let Begun::Passed = begun
            && !piece.is_empty()
        {
            events.push_back(Event::Piece {
                channel,
                piece: piece.clone(),
                left: still,
            });
        }
        if still > 0 {
            if let Begun::Held { body, .. } = begun {
                if is_first {
                    // The whole size, which is at most `body_bytes_max`.
                    let bytes = usize::try_from(still).unwrap_or(0) + piece.len();
                    body.reserve(bytes.saturating_sub(body.len()));
                }
                body.extend_from_slice(&piece);
            }
            return Ok(());
        }
        let whole = std::mem::replace(self, Self::Nothing);
        if let Self::Header {
            begun: Begun::Held {
                delivered,
                mut body,
            },
            ..
        } = whole
        {
            let body = if is_first {
                piece
            } else {
                body.extend_from_slice(&piece);
                body.freeze()
            };
            events.push_back(Event::Delivered {
                channel,
                delivered,
                body: Some(body),
            });
        }
        Ok(())
    }
}
