//! Batches made smaller: zstd over a whole frame's parcels, never over one of them.
//!
//! A packed payload is four octets of the length that it unpacks to (big-endian), and a zstd frame. Promises that
//! nothing unpacks to more than its bound, which is checked before anything is allocated for it.

use super::frame::FrameError;
use bytes::{BufMut, Bytes, BytesMut};
use std::cell::RefCell;
use zstd::bulk::{Compressor, Decompressor};

/// The fastest of zstd's own levels; higher ones bring nothing (ADR 27).
const LEVEL: i32 = 1;

/// Below this, a frame's own costs are most of it.
const WORTH_BYTES: usize = 256;

/// Octets before the zstd frame.
const HEAD_BYTES: usize = 4;

// Scratch of the codec: one per thread instead of one per stream.
thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The payload made smaller; `None` when that brings less than a tenth.
pub(super) fn pack(payload: &[u8]) -> Option<Bytes> {
    let length = u32::try_from(payload.len()).ok()?;
    if payload.len() < WORTH_BYTES {
        return None;
    }
    let packed = COMPRESSOR.with_borrow_mut(|kept| {
        // Fails for want of memory alone; then the payload goes as it is.
        let codec = match kept {
            Some(codec) => codec,
            None => kept.insert(Compressor::new(LEVEL).ok()?),
        };
        codec.compress(payload).ok()
    })?;
    if HEAD_BYTES + packed.len() > payload.len() - payload.len() / 10 {
        return None;
    }
    let mut out = BytesMut::with_capacity(HEAD_BYTES + packed.len());
    out.put_u32(length);
    out.put_slice(&packed);
    Some(out.freeze())
}

/// What a packed payload was, if that is no more than `bytes_max`.
pub(super) fn unpack(payload: &[u8], bytes_max: usize) -> Result<Bytes, FrameError> {
    let (head, packed) = payload
        .split_first_chunk::<HEAD_BYTES>()
        .ok_or_else(|| FrameError::Unpackable("it has no length".to_owned()))?;
    let length = u32::from_be_bytes(*head) as usize;
    if length > bytes_max {
        return Err(FrameError::TooLong {
            bytes: length,
            bytes_max,
        });
    }
    let unpackable = |error: std::io::Error| FrameError::Unpackable(error.to_string());
    let unpacked = DECOMPRESSOR.with_borrow_mut(|kept| {
        let codec = match kept {
            Some(codec) => codec,
            None => kept.insert(Decompressor::new().map_err(unpackable)?),
        };
        codec.decompress(packed, length).map_err(unpackable)
    })?;
    if unpacked.len() != length {
        let found = unpacked.len();
        return Err(FrameError::Unpackable(format!(
            "{found} bytes where {length} were announced"
        )));
    }
    Ok(unpacked.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders() -> Vec<u8> {
        (0..200_u32)
            .flat_map(|number| format!("{{\"order\":{number},\"state\":\"paid\"}}").into_bytes())
            .collect()
    }

    #[test]
    fn what_is_packed_unpacks_to_the_same_and_is_smaller() {
        let orders = orders();
        let packed = pack(&orders).unwrap();
        assert!(packed.len() * 3 < orders.len());
        assert_eq!(unpack(&packed, orders.len()).unwrap(), orders);
    }

    #[test]
    fn what_gains_nothing_stays_as_it_is() {
        let mut noise = vec![0; 4096];
        fastrand::Rng::with_seed(1).fill(&mut noise);
        assert_eq!(pack(&noise), None);
        assert_eq!(pack(b"short"), None);
    }

    #[test]
    fn nothing_unpacks_to_more_than_its_bound_or_to_another_length_than_it_says() {
        let zeros = pack(&vec![0; 1 << 20]).unwrap();
        assert!(zeros.len() < 1024);
        assert!(matches!(
            unpack(&zeros, (1 << 20) - 1),
            Err(FrameError::TooLong { .. })
        ));
        for announced in [1_u32 << 19, (1 << 20) + 1] {
            let mut lying = announced.to_be_bytes().to_vec();
            lying.extend_from_slice(&zeros[HEAD_BYTES..]);
            assert!(matches!(
                unpack(&lying, 1 << 21),
                Err(FrameError::Unpackable(_))
            ));
        }
        assert!(unpack(&zeros[..2], 1 << 20).is_err());
        assert!(unpack(&zeros[..20], 1 << 20).is_err());
    }
}
