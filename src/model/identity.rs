//! By what a receiver knows that it has had a parcel before.

use std::hash::{BuildHasherDefault, Hasher};

/// One message as its target's unit knows it, in two keyed hashes of 64 bits.
///
/// Two parcels are the same when both agree: 128 bits under a secret key, so that neither chance (6 million known ids: one
/// wrong match in 10^31) nor a publisher who tries makes one message pass for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Of space, origin unit, source, id, round and retry: whose it is.
    pub who: u64,
    /// Of exchange, routing key and body: what it is.
    pub what: u64,
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
