//! Bytes in, frames out, however the bytes were split.
//!
//! Owns the part of a frame that has come so far. Promises to hold no more than one frame's bound and one piece. After
//! an error it is of no more use: where the next frame begins is unknown.

use super::frame::{Frame, FrameError, HEAD_BYTES, Kind, SMALL_FRAME_BYTES_MAX};
use bytes::{Buf, Bytes, BytesMut};

/// Reads frames from one direction of one stream.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    batch_bytes_max: usize,
}

impl Decoder {
    /// Takes batches up to [`super::frame_bytes_max`] of what it is given, other frames up to
    /// [`SMALL_FRAME_BYTES_MAX`].
    pub fn new(message_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            batch_bytes_max: super::frame_bytes_max(message_max),
        }
    }

    /// Takes one piece. Call [`Decoder::frame`] until it has none, before the next.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next whole frame, if there is one.
    pub fn frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((head, rest)) = self.buffer.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*head) as usize;
        if length == 0 {
            return Err(FrameError::Empty);
        }
        let Some(octet) = rest.first() else {
            return Ok(None);
        };
        let kind = Kind::from_octet(*octet)?;
        let bytes_max = match kind {
            Kind::Batch => self.batch_bytes_max,
            Kind::Hello
            | Kind::Welcome
            | Kind::Refusal
            | Kind::Answers
            | Kind::Canary
            | Kind::CanaryEcho => SMALL_FRAME_BYTES_MAX,
        };
        if length > bytes_max {
            return Err(FrameError::TooLong {
                bytes: length,
                bytes_max,
            });
        }
        if rest.len() < length {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(HEAD_BYTES + length).freeze();
        frame.advance(HEAD_BYTES + 1);
        Frame::decode(kind, frame).map(Some)
    }

    /// Reads everything in a buffer, for tests and tools.
    pub fn frames(&mut self, piece: &Bytes) -> Result<Vec<Frame>, FrameError> {
        self.push(piece);
        let mut frames = Vec::new();
        while let Some(frame) = self.frame()? {
            frames.push(frame);
        }
        Ok(frames)
    }
}
