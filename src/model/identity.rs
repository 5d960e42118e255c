//! By what a receiver knows that it has had a parcel before.

use super::Slot;
use std::hash::{BuildHasherDefault, Hasher};

/// One message as its target's unit knows it, in two keyed hashes, of 64 and of 43 bits; the other 21 bits of the second say
/// which slot it falls into.
///
/// Two parcels are the same when both agree: 107 bits under a secret key, so that neither chance (6 million known ids: one
/// wrong match in 10^25) nor a publisher who tries makes one message pass for another. A key's slot never changes, so the
/// same message always has the same; by it, what is known of slots that move can be told to their new owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Of space, origin unit, source, id, round and retry: whose it is.
    pub who: u64,
    /// Its slot, then of exchange, routing key and body: what it is.
    pub what: u64,
}

/// Bits below the slot.
const HASH_BITS: u32 = 43;
/// Above every slot: a space has 2^20 at most.
const NO_SLOT: u64 = (1 << (u64::BITS - HASH_BITS)) - 1;

impl Identity {
    /// With this slot in its place.
    #[must_use]
    pub fn in_slot(self, slot: Option<Slot>) -> Self {
        let slot = slot.map_or(NO_SLOT, |slot| u64::from(slot.0).min(NO_SLOT));
        Self {
            what: (slot << HASH_BITS) | (self.what & ((1 << HASH_BITS) - 1)),
            ..self
        }
    }

    /// The slot that its message falls into; none without a key.
    pub fn slot(&self) -> Option<Slot> {
        let slot = self.what >> HASH_BITS;
        (slot != NO_SLOT).then(|| Slot(u32::try_from(slot).unwrap_or(u32::MAX)))
    }
}

/// A parcel's identity under the key that seals, and under those that did before a rotation: what was known then is known
/// still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identities {
    /// By which it is remembered.
    pub current: Identity,
    /// By which it may be known; none but during a rotation.
    pub former: Vec<Identity>,
}

impl Identities {
    /// All, the current one first.
    pub fn iter(&self) -> impl Iterator<Item = &Identity> {
        std::iter::once(&self.current).chain(&self.former)
    }
}

/// For tables of identities: they are keyed hashes already, and need no other.
pub type AsItIs = BuildHasherDefault<Passed>;

/// See [`AsItIs`].
#[derive(Debug, Default)]
pub struct Passed(u64);

impl Hasher for Passed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        debug_assert!(false, "only u64 are hashed as they are");
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = self.0.rotate_left(32) ^ number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_says_its_slot_and_keeps_its_hash() {
        let id = Identity {
            who: 7,
            what: u64::MAX,
        };
        for slot in [0, 1, 9_999, (1 << 20) - 1] {
            let placed = id.in_slot(Some(Slot(slot)));
            assert_eq!((placed.who, placed.slot()), (7, Some(Slot(slot))));
            assert_eq!(placed.what & 0xff, 0xff);
        }
        assert_eq!(id.in_slot(None).slot(), None);
        let other = Identity { what: 1, ..id };
        assert_ne!(id.in_slot(Some(Slot(3))), other.in_slot(Some(Slot(3))));
    }
}
