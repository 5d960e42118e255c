//! Parcels coalesced into frames.
//!
//! Owns the parcels of the frame that is being filled. Promises that a frame leaves once it is full, else as soon as there is
//! nothing more to put into it, or a little later where it is packed and soon full; that an idle stream sends nothing; and
//! that order is kept. Never reads a clock.

use super::frame::{HEAD_BYTES, Kind, enclose, frame_bytes_max, head};
use super::packing::pack;
use super::parcels::{encode_all_but_body, encode_parcel};
use crate::model::{Parcel, ParcelNumber, Reason};
use bytes::{Bytes, BytesMut};
use std::time::{Duration, Instant};

/// A frame of this size is closed: between 16 and 64 KiB the cost per message hardly changes any more, and smaller
/// frames reach the other side sooner.
const FRAME_FULL_BYTES: usize = 32 * 1_024;

/// What a parcel may bring a frame to; a larger one goes in a frame of its own.
const FRAME_BYTES_MAX: usize = 64 * 1_024;

/// What a packed frame is filled to: the more there is in it, the smaller it becomes.
const PACKED_FULL_BYTES: usize = 64 * 1_024;

/// What a frame must come to within its patience: it wouldn't become much smaller with less.
const PACKED_WORTH_BYTES: f64 = 24.0 * 1_024.0;

/// A larger body goes as it is: packing copies it.
const PACKED_BODY_BYTES_MAX: usize = 1_024 * 1_024;

/// After a frame that packing made hardly smaller, so many go as they are.
const AS_IT_IS: u32 = 15;

/// Where a frame's head will be.
const ROOM: [u8; HEAD_BYTES + 1] = [0; HEAD_BYTES + 1];

/// A parcel that can't be put on the wire: to be answered as refused, since no receiver would ever see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsendable {
    /// The parcel.
    pub number: ParcelNumber,
    /// For its answer.
    pub reason: Reason,
    /// For its answer.
    pub cause: String,
}

/// Whether frames are made smaller before they leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Bytes are cheap here.
    Off,
    /// Where it brings a tenth or more.
    On {
        /// So long may a frame wait for company that has much of it by then: orders of 760 bytes take 322 on the wire in
        /// frames of 8 KiB, 259 in 32 KiB, 246 in 64 KiB.
        patience: Duration,
    },
}

/// How fast parcels come, over the last frames.
#[derive(Debug, Default)]
struct Flow {
    bytes: f64,
    seconds: f64,
}

/// Of which the last one counts so much.
const LAST_FRAME: f64 = 1.0 / 8.0;

impl Flow {
    /// A frame has left, so long after the one before.
    fn left(&mut self, bytes: usize, after: Duration) {
        self.bytes += (bytes as f64 - self.bytes) * LAST_FRAME;
        self.seconds += (after.as_secs_f64() - self.seconds) * LAST_FRAME;
    }

    /// Bytes that come in such a time.
    fn within(&self, time: Duration) -> f64 {
        self.bytes / self.seconds.max(1e-6) * time.as_secs_f64()
    }
}

/// Fills frames for one stream.
#[derive(Debug)]
pub struct Batcher {
    packing: Packing,
    /// Frames that go as they are before packing is tried again.
    as_it_is: u32,
    frame_bytes_max: usize,
    /// Room for the frame's head, and the payload behind it.
    frame: BytesMut,
    /// When it must leave; none when there is nothing in it.
    due: Option<Instant>,
    /// When the last one left.
    left: Option<Instant>,
    flow: Flow,
}

impl Batcher {
    /// For messages up to this size.
    pub fn new(message_max: usize) -> Self {
        Self {
            packing: Packing::Off,
            as_it_is: 0,
            frame_bytes_max: frame_bytes_max(message_max),
            frame: BytesMut::new(),
            due: None,
            left: None,
            flow: Flow::default(),
        }
    }

    /// Whether the frames to come are packed; one that is being filled too.
    pub fn set_packing(&mut self, packing: Packing) {
        self.packing = packing;
    }

    /// Adds a parcel; what it completes goes to `out`: whole frames, the last of them perhaps in two pieces, with a body that
    /// is too large to be copied as the second.
    pub fn push(
        &mut self,
        parcel: &Parcel,
        now: Instant,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Unsendable> {
        let body_bytes = parcel.body.len();
        if body_bytes > FRAME_BYTES_MAX {
            out.extend(self.take(now));
            self.begin();
            encode_all_but_body(parcel, body_bytes, &mut self.frame);
            let size = self.frame.len() - ROOM.len() + body_bytes;
            if size >= self.frame_bytes_max {
                self.frame.clear();
                return Err(self.unsendable(parcel.number, size));
            }
            if self.packing != Packing::Off && body_bytes <= PACKED_BODY_BYTES_MAX {
                if self.packs() {
                    self.frame.extend_from_slice(&parcel.body);
                    out.extend(self.close(0));
                    return Ok(());
                }
                self.as_it_is -= 1;
            }
            out.extend(self.close(body_bytes));
            out.push(parcel.body.clone());
            return Ok(());
        }
        self.begin();
        let before = self.frame.len();
        encode_parcel(parcel, &mut self.frame);
        let size = self.frame.len() - before;
        if size >= self.frame_bytes_max {
            self.frame.truncate(before);
            return Err(self.unsendable(parcel.number, size));
        }
        if before > ROOM.len() && self.frame.len() - ROOM.len() > FRAME_BYTES_MAX {
            let last = self.frame.split_off(before);
            out.extend(self.take(now));
            self.begin();
            self.frame.extend_from_slice(&last);
        }
        let due = self.due_at(now);
        self.due.get_or_insert(due);
        let full_bytes = if self.packs() {
            PACKED_FULL_BYTES
        } else {
            FRAME_FULL_BYTES
        };
        if self.frame.len() - ROOM.len() >= full_bytes {
            out.extend(self.take(now));
        }
        Ok(())
    }

    /// When the frame that is being filled must leave; none when there is nothing in it.
    pub fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Closes the frame that is being filled.
    pub fn take(&mut self, now: Instant) -> Option<Bytes> {
        self.due.take()?;
        if let Some(left) = self.left.replace(now) {
            let after = now.saturating_duration_since(left);
            self.flow.left(self.frame.len(), after);
        }
        self.close(0)
    }

    /// When a frame must leave that begins now.
    fn due_at(&self, now: Instant) -> Instant {
        match (self.packing, self.left) {
            (Packing::On { patience }, Some(left))
                if self.packs() && self.flow.within(patience) >= PACKED_WORTH_BYTES =>
            {
                now.max(left + patience)
            }
            (Packing::On { .. } | Packing::Off, _) => now,
        }
    }

    fn packs(&self) -> bool {
        self.packing != Packing::Off && self.as_it_is == 0
    }

    fn begin(&mut self) {
        if self.frame.is_empty() {
            self.frame.extend_from_slice(&ROOM);
        }
    }

    /// What is in it, with a head for as many bytes more.
    fn close(&mut self, more: usize) -> Option<Bytes> {
        let mut frame = self.frame.split();
        if more == 0 && self.packing != Packing::Off {
            match self.as_it_is.checked_sub(1) {
                Some(left) => self.as_it_is = left,
                None => match pack(&frame[ROOM.len()..]) {
                    Some(packed) => return enclose(Kind::Packed, &packed).ok(),
                    None => self.as_it_is = AS_IT_IS,
                },
            }
        }
        let head = head(Kind::Batch, frame.len() - ROOM.len() + more);
        // The one error is a length above 4 GiB, which `push` has ruled out.
        debug_assert!(head.is_ok(), "a batch above the frame's bound");
        let (room, _) = frame.split_first_chunk_mut()?;
        *room = head.ok()?;
        Some(frame.freeze())
    }

    fn unsendable(&self, number: ParcelNumber, size: usize) -> Unsendable {
        Unsendable {
            number,
            reason: Reason::TooLarge,
            cause: format!(
                "{size} bytes with its headers are above the link's bound of {}: raise message_max in every unit",
                self.frame_bytes_max
            ),
        }
    }
}
