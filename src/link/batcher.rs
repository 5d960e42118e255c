//! Parcels coalesced into frames.
//!
//! Owns the parcels of the frame that is being filled. Promises that a frame leaves once it is full or its first
//! parcel has waited two milliseconds, that an idle stream sends nothing, and that order is kept. Never reads a clock.

use super::frame::{FrameError, Kind, enclose, frame_bytes_max};
use super::parcels::encode_parcel;
use crate::model::{Parcel, ParcelNumber, Reason};
use bytes::{Bytes, BytesMut};
use std::time::{Duration, Instant};

/// A frame of this size is closed: between 16 and 64 KiB the cost per message hardly changes any more, and smaller
/// frames reach the other side sooner.
const FRAME_FULL_BYTES: usize = 32 * 1_024;

/// What a parcel may bring a frame to; a larger one goes in a frame of its own.
const FRAME_BYTES_MAX: usize = 64 * 1_024;

/// How long a parcel waits for company.
const WAIT_MAX: Duration = Duration::from_millis(2);

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

/// Fills frames for one stream.
#[derive(Debug)]
pub struct Batcher {
    frame_bytes_max: usize,
    payload: BytesMut,
    since: Option<Instant>,
}

impl Batcher {
    /// For messages up to this size.
    pub fn new(message_max: usize) -> Self {
        Self {
            frame_bytes_max: frame_bytes_max(message_max),
            payload: BytesMut::new(),
            since: None,
        }
    }

    /// Adds a parcel; whole frames that it completes go to `out`.
    pub fn push(
        &mut self,
        parcel: &Parcel,
        now: Instant,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Unsendable> {
        let before = self.payload.len();
        let unsendable = |reason, cause| Unsendable {
            number: parcel.number,
            reason,
            cause,
        };
        encode_parcel(parcel, &mut self.payload);
        let size = self.payload.len() - before;
        if size >= self.frame_bytes_max {
            self.payload.truncate(before);
            return Err(unsendable(
                Reason::TooLarge,
                format!(
                    "{size} bytes with its headers are above the link's bound of {}: raise message_max in every unit",
                    self.frame_bytes_max
                ),
            ));
        }
        if before > 0 && self.payload.len() > FRAME_BYTES_MAX {
            let last = self.payload.split_off(before);
            out.extend(self.take());
            self.payload = last;
        }
        self.since.get_or_insert(now);
        if self.payload.len() >= FRAME_FULL_BYTES {
            out.extend(self.take());
        }
        Ok(())
    }

    /// When the frame that is being filled must leave; none when there is nothing in it.
    pub fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + WAIT_MAX)
    }

    /// Closes the frame that is being filled.
    pub fn take(&mut self) -> Option<Bytes> {
        self.since = None;
        if self.payload.is_empty() {
            return None;
        }
        let payload = self.payload.split();
        // The one error of `enclose` is a length above 4 GiB, which `push` has ruled out.
        let frame: Result<Bytes, FrameError> = enclose(Kind::Batch, &payload);
        debug_assert!(frame.is_ok(), "a batch above the frame's bound");
        frame.ok()
    }
}
