//! What is to be written: frames, coalesced.
//!
//! Owns the bytes until they are written. Promises order; that small frames lie together in few buffers, however many
//! they are; and that a large body is put between them as it is, never copied. Its size is for the caller to watch: it
//! grows with the commands, not with what the peer sends (a peer's frame is answered by at most one small one).

use super::frames::{FRAME_END, FRAME_OVERHEAD, HEAD_BYTES, Kind};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::IoSlice;

/// Bodies from here on are pieces of their own. Copying 4 KiB costs about as much as one more piece in a vectored write.
const COPIED_BYTES_MAX: usize = 4096;
/// How large a buffer of small frames grows: a second full one is begun rather than copying the first into a larger.
const BUFFER_BYTES: usize = 32 * 1024;

/// See the file's head. Written through [`Buf`]: `chunks_vectored` for a vectored write, `advance` by what was written.
#[derive(Debug, Default)]
pub struct Output {
    /// In front of `tail`, in order, none of them empty.
    pieces: VecDeque<Bytes>,
    pieces_bytes: usize,
    /// Small frames, still growing.
    tail: BytesMut,
}

impl Output {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Bytes that are no frame: the protocol header.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.room(bytes.len());
        self.tail.put_slice(bytes);
    }

    pub(super) fn heartbeat(&mut self) {
        self.room(FRAME_OVERHEAD);
        self.begin_frame(Kind::Heartbeat, 0, 0);
        self.tail.put_u8(FRAME_END);
    }

    /// A method frame: class and method, and what `arguments` writes.
    pub(super) fn method(
        &mut self,
        channel: u16,
        (class, method): (u16, u16),
        arguments: impl FnOnce(&mut BytesMut),
    ) {
        // The largest method that is sent often, basic.publish, takes 519 bytes with two names of 255.
        self.room(528);
        let at = self.tail.len();
        self.begin_frame(Kind::Method, channel, 0);
        self.tail.put_u16(class);
        self.tail.put_u16(method);
        arguments(&mut self.tail);
        let size = self.tail.len() - at - HEAD_BYTES;
        self.tail[at + 3..at + HEAD_BYTES].copy_from_slice(&size_field(size));
        self.tail.put_u8(FRAME_END);
    }

    /// The content header of class `basic` (section 4.2.6.1). Fits a frame: the caller has looked.
    pub(super) fn content_header(&mut self, channel: u16, body_bytes: u64, properties: &[u8]) {
        let size = CONTENT_HEADER_BYTES + properties.len();
        self.room(size + FRAME_OVERHEAD);
        self.begin_frame(Kind::Header, channel, size);
        self.tail.put_u16(super::methods::BASIC);
        self.tail.put_u16(0);
        self.tail.put_u64(body_bytes);
        self.tail.put_slice(properties);
        self.tail.put_u8(FRAME_END);
    }

    /// Body frames of at most so many bytes each. No frame for an empty body.
    pub(super) fn body(&mut self, channel: u16, mut body: Bytes, payload_bytes_max: usize) {
        while !body.is_empty() {
            let size = body.len().min(payload_bytes_max);
            if size < COPIED_BYTES_MAX {
                self.room(size + FRAME_OVERHEAD);
                self.begin_frame(Kind::Body, channel, size);
                self.tail.put_slice(&body[..size]);
                body.advance(size);
            } else {
                self.room(HEAD_BYTES);
                self.begin_frame(Kind::Body, channel, size);
                self.end_tail();
                self.pieces_bytes += size;
                self.pieces.push_back(body.split_to(size));
                self.room(1);
            }
            self.tail.put_u8(FRAME_END);
        }
    }

    fn begin_frame(&mut self, kind: Kind, channel: u16, size: usize) {
        self.tail.put_u8(kind.octet());
        self.tail.put_u16(channel);
        self.tail.put_slice(&size_field(size));
    }

    /// Makes room for so many bytes behind the tail, without moving what is there.
    fn room(&mut self, bytes: usize) {
        if self.tail.capacity() - self.tail.len() >= bytes {
            return;
        }
        self.end_tail();
        self.tail.reserve(bytes.max(BUFFER_BYTES));
    }

    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces_bytes += self.tail.len();
            self.pieces.push_back(self.tail.split().freeze());
        }
    }
}

/// Class, weight and body size: a content header in front of its properties.
pub(super) const CONTENT_HEADER_BYTES: usize = 12;

/// A frame's size is bounded by `frame_max`, a field of 32 bits.
fn size_field(size: usize) -> [u8; 4] {
    u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes()
}

impl Buf for Output {
    fn remaining(&self) -> usize {
        self.pieces_bytes + self.tail.len()
    }

    fn chunk(&self) -> &[u8] {
        match self.pieces.front() {
            Some(piece) => piece,
            None => &self.tail,
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = (!self.tail.is_empty()).then_some(&self.tail[..]);
        let chunks = self.pieces.iter().map(|piece| &piece[..]).chain(tail);
        let mut filled = 0;
        for (slice, chunk) in slices.iter_mut().zip(chunks) {
            *slice = IoSlice::new(chunk);
            filled += 1;
        }
        filled
    }

    /// # Panics
    /// If there are fewer bytes.
    fn advance(&mut self, mut bytes: usize) {
        while let Some(front) = self.pieces.front_mut() {
            let part = bytes.min(front.len());
            front.advance(part);
            bytes -= part;
            self.pieces_bytes -= part;
            if !front.is_empty() {
                return;
            }
            self.pieces.pop_front();
        }
        self.tail.advance(bytes);
    }
}
