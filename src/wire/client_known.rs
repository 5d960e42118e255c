//! The answer to what another unit has delivered, as it comes.
//!
//! Promises an end: the whole of it, or an error that says what broke off.

use super::body::{chain, next_piece};
use super::client::LinkBytes;
use crate::link::receiver::Record;
use crate::link::{Decoder, Frame};
use bytes::Bytes;
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// It begins within so long, and each further piece of it comes: its unit may have to read its journal first.
const PIECE_MAX: Duration = Duration::from_secs(15);

/// See the file's head.
#[derive(Debug)]
pub struct KnownAnswer {
    /// Dropped, it would end the question.
    _question: mpsc::Sender<Bytes>,
    body: Incoming,
    decoder: Decoder,
    bytes: Arc<LinkBytes>,
}

impl KnownAnswer {
    pub(super) fn new(
        question: mpsc::Sender<Bytes>,
        body: Incoming,
        bytes: Arc<LinkBytes>,
    ) -> Self {
        Self {
            _question: question,
            body,
            decoder: Decoder::new(0),
            bytes,
        }
    }

    /// The next piece; none when it is whole. The error says in words why it never will be.
    pub async fn next(&mut self) -> Result<Option<Vec<Record>>, String> {
        loop {
            match self.decoder.frame() {
                Ok(Some(Frame::Known(records))) => {
                    return Ok((!records.is_empty()).then_some(records));
                }
                Ok(Some(Frame::Refusal(refusal))) => return Err(refusal.to_string()),
                Ok(Some(_)) => return Err("a frame that is no answer".to_owned()),
                Err(error) => return Err(chain(&error)),
                Ok(None) => {}
            }
            match timeout(PIECE_MAX, next_piece(&mut self.body)).await {
                Ok(Some(Ok(piece))) => {
                    self.bytes.add_in(piece.len());
                    self.decoder.push(&piece);
                }
                Ok(Some(Err(error))) => return Err(chain(&error)),
                Ok(None) => return Err("the answer broke off".to_owned()),
                Err(_) => return Err(format!("nothing of an answer for {PIECE_MAX:?}")),
            }
        }
    }
}
