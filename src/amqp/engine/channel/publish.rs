//! What is published on a channel: whether it may be, its frames, and the body that comes in pieces.
//!
//! Promises that what may not be sent takes no number, and that a publish counts as sent with its last byte.

use super::super::command::{Content, Destination, PublishId};
use super::super::event::{Event, Outcome};
use super::super::frames::FRAME_OVERHEAD;
use super::super::methods::SHORT_BYTES_MAX;
use super::super::output::CONTENT_HEADER_BYTES;
use super::super::publishes::Token;
use super::{Channel, Confirms, Io, Life, Outgoing, Pieced};
use crate::amqp::RawProperties;
use bytes::Bytes;

impl Channel {
    pub(in super::super) fn publish(
        &mut self,
        id: PublishId,
        to: &Destination,
        properties: &RawProperties,
        content: Content,
        io: &mut Io,
    ) {
        let token = match self.may_publish(to, properties, io) {
            Ok(token) => token,
            Err(outcome) => {
                io.events.push_back(Event::Outcome {
                    channel: self.id,
                    id,
                    outcome,
                });
                return;
            }
        };
        let number = self.id.0;
        let body_bytes = match &content {
            Content::Whole(body) => body.len() as u64,
            Content::InPieces(bytes) => *bytes,
        };
        io.output
            .publish(number, &to.exchange, &to.routing_key, to.mandatory);
        io.output
            .content_header(number, body_bytes, properties.as_bytes());
        match content {
            Content::Whole(body) => {
                io.output
                    .body(number, body, io.frame_bytes_max - FRAME_OVERHEAD);
                self.sent(id, token);
            }
            Content::InPieces(0) => self.sent(id, token),
            Content::InPieces(left) => self.outgoing = Outgoing::Unfinished { id, token, left },
        }
    }

    fn sent(&mut self, id: PublishId, token: Option<Token>) {
        match &mut self.confirms {
            Confirms::On(publishes) => publishes.sent(id, token),
            Confirms::Off => debug_assert!(false, "published without confirms"),
        }
    }

    /// What forbids a publish; else its token, if it is mandatory.
    fn may_publish(
        &self,
        to: &Destination,
        properties: &RawProperties,
        io: &Io,
    ) -> Result<Option<Token>, Outcome> {
        let unencodable = |text: String| Err(Outcome::Unencodable { text });
        match self.life {
            Life::Open => {}
            Life::Closing { .. } => {
                return Err(Outcome::Unsent {
                    cause: "the channel is being closed".to_owned(),
                });
            }
        }
        match (&self.confirms, &self.outgoing) {
            (Confirms::On(_), Outgoing::Nothing) => {}
            (Confirms::Off, _) => {
                return unencodable("the channel isn't in confirm mode".to_owned());
            }
            (Confirms::On(_), Outgoing::Unfinished { .. }) => {
                return unencodable("the body before it isn't finished".to_owned());
            }
        }
        for (name, what) in [(&to.exchange, "exchange"), (&to.routing_key, "routing key")] {
            if name.len() > SHORT_BYTES_MAX {
                return unencodable(format!(
                    "the {what} has {} bytes, {SHORT_BYTES_MAX} at most can be written",
                    name.len()
                ));
            }
        }
        let header_bytes = CONTENT_HEADER_BYTES + properties.as_bytes().len() + FRAME_OVERHEAD;
        if header_bytes > io.frame_bytes_max {
            return Err(Outcome::TooLarge {
                text: format!(
                    "its properties take a frame of {header_bytes} bytes, the connection's have {} at most",
                    io.frame_bytes_max
                ),
            });
        }
        if !to.mandatory {
            return Ok(None);
        }
        match Token::of(properties, io.token_header) {
            Some(token) => Ok(Some(token)),
            None => unencodable(format!(
                "it is mandatory and has no header {}, by which its return would be known",
                io.token_header
            )),
        }
    }

    /// More of a body. Passed over where none is unfinished: then its publish has had its outcome already.
    pub(in super::super) fn publish_piece(&mut self, piece: Bytes, io: &mut Io) -> Pieced {
        let Outgoing::Unfinished { left, .. } = &mut self.outgoing else {
            return Pieced::Taken;
        };
        let Some(still) = left.checked_sub(piece.len() as u64) else {
            debug_assert!(false, "more of a body than was announced");
            return Pieced::TooMuch;
        };
        *left = still;
        io.output
            .body(self.id.0, piece, io.frame_bytes_max - FRAME_OVERHEAD);
        if still == 0
            && let Outgoing::Unfinished { id, token, .. } =
                std::mem::replace(&mut self.outgoing, Outgoing::Nothing)
        {
            self.sent(id, token);
        }
        Pieced::Taken
    }
}
