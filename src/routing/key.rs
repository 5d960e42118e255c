//! A message's key, and the slot that it falls into.
//!
//! Owns the four maps from key to slot. Promises that they never change: the owner of every key in every running space
//! hangs on them. Each yields a number that is taken, unsigned, modulo the space's slots.
//!
//! | map | number |
//! |---|---|
//! | `hash` | xxh3-64, seed 0, of the key's bytes |
//! | `crc32` | CRC-32/ISO-HDLC of the key's bytes (that of zlib, PNG, Ethernet) |
//! | `digits` | the whole key, `[+-]?[0-9]+` of any length, its sign ignored |
//! | `last_digits: N` | the digits that the key ends in, at most N of them; a key that ends in none doesn't fit |
//!
//! Test vectors, with 10,000 slots:
//!
//! | key | `hash` | `crc32` | `digits` | `last_digits: 4` |
//! |---|---|---|---|---|
//! | `1` | 3464 | 4583 | 1 | 1 |
//! | `10086` | 9024 | 4904 | 86 | 86 |
//! | `-10086` | 1440 | 9550 | 86 | 86 |
//! | `user-20250042` | 5973 | 3006 | doesn't fit | 42 |
//! | `123456789` | 6319 | 262 | 6789 | 6789 |
//! | `340282366920938463463374607431768211457` | 5511 | 4444 | 1457 | 1457 |
//! | `张三` (UTF-8) | 8802 | 9146 | doesn't fit | doesn't fit |

use super::json_key::{self, Pointed};
use crate::model::{Message, Slot};
use crate::rules::{Key, KeyFrom, KeyMap, Words};
use bytes::Bytes;

/// What was found where a key may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Candidate {
    /// Nothing there.
    Absent,
    /// Something that can't be a key.
    Malformed(Unfit),
    /// A key, and its slot.
    Key(Bytes, Slot),
}

/// Why something can't be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// No byte in it.
    Empty,
    /// A type that is neither text nor whole number.
    Type,
    /// Not what the map takes.
    Map,
    /// The body isn't JSON, up to where the key would be.
    BodyNotJson,
    /// The body is larger than what is looked into.
    BodyTooLarge,
}

impl Unfit {
    /// For the steps of a decision.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "it is empty",
            Self::Type => "it is neither a text nor a whole number",
            Self::Map => "the map doesn't take it",
            Self::BodyNotJson => "the body is not JSON",
            Self::BodyTooLarge => "the body has more than 64 KiB",
        }
    }
}

/// Looks at one place.
pub(super) fn look(from: &KeyFrom, map: KeyMap, slots: u32, message: &Message) -> Candidate {
    let routing_key = &message.address.routing_key;
    let found = match from {
        KeyFrom::Header(name) => match message.header(name) {
            None => return Candidate::Absent,
            Some(value) => match (value.as_bytes(), value.as_integer()) {
                (Some(bytes), _) => message.properties.share(bytes),
                (None, Some(integer)) => Bytes::from(integer.to_string()),
                (None, None) => return Candidate::Malformed(Unfit::Type),
            },
        },
        KeyFrom::RoutingKeyWord(word) => {
            match Words::of(routing_key).nth(usize::from(*word).saturating_sub(1)) {
                Some(word) => routing_key.slice_ref(word),
                None => return Candidate::Absent,
            }
        }
        KeyFrom::RoutingKey => routing_key.clone(),
        KeyFrom::Json(pointer) => match json_key::look(pointer, &message.body) {
            Pointed::Nothing => return Candidate::Absent,
            Pointed::Unfit(unfit) => return Candidate::Malformed(unfit),
            Pointed::Key(key) => key,
        },
    };
    if found.is_empty() {
        return Candidate::Malformed(Unfit::Empty);
    }
    match slot(&found, map, slots) {
        Some(slot) => Candidate::Key(found, slot),
        None => Candidate::Malformed(Unfit::Map),
    }
}

/// The first key that is present; where there is none, whether something malformed was. What doesn't fit counts as
/// absent, so the next place is looked at.
pub(super) fn find(
    key: &Key,
    slots: u32,
    message: &Message,
    mut seen: impl FnMut(&KeyFrom, &Candidate),
) -> Candidate {
    let mut outcome = Candidate::Absent;
    for from in &key.from {
        let candidate = look(from, key.map, slots, message);
        seen(from, &candidate);
        match candidate {
            Candidate::Key(..) => return candidate,
            Candidate::Malformed(_) => outcome = candidate,
            Candidate::Absent => {}
        }
    }
    outcome
}

/// The slot of a key; `None` when the map doesn't take it.
pub fn slot(key: &[u8], map: KeyMap, slots: u32) -> Option<Slot> {
    let wide = u64::from(slots.max(1));
    let number = match map {
        KeyMap::Hash => xxhash_rust::xxh3::xxh3_64(key) % wide,
        KeyMap::Crc32 => u64::from(crc32fast::hash(key)) % wide,
        KeyMap::Digits => {
            let unsigned = key
                .strip_prefix(b"+")
                .or(key.strip_prefix(b"-"))
                .unwrap_or(key);
            if !unsigned.iter().all(u8::is_ascii_digit) {
                return None;
            }
            remainder(unsigned, wide)?
        }
        KeyMap::LastDigits(most) => {
            let trailing = key.iter().rev().take_while(|byte| byte.is_ascii_digit());
            let taken = trailing.take(usize::from(most)).count();
            remainder(&key[key.len() - taken..], wide)?
        }
    };
    // Below `slots`, which is 32 bits wide.
    u32::try_from(number).ok().map(Slot)
}

/// A decimal number of any length, modulo `wide`; `None` for no digit. Neither step can overflow: the remainder is below
/// 2^32.
fn remainder(digits: &[u8], wide: u64) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    Some(digits.iter().fold(0, |left, digit| {
        (left * 10 + u64::from(digit - b'0')) % wide
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: u32 = 10_000;

    #[test]
    fn the_published_vectors_hold() {
        type Vector = (&'static str, u32, u32, Option<u32>, Option<u32>);
        let vectors: &[Vector] = &[
            ("1", 3464, 4583, Some(1), Some(1)),
            ("10086", 9024, 4904, Some(86), Some(86)),
            ("-10086", 1440, 9550, Some(86), Some(86)),
            ("user-20250042", 5973, 3006, None, Some(42)),
            ("123456789", 6319, 262, Some(6789), Some(6789)),
            (
                "340282366920938463463374607431768211457",
                5511,
                4444,
                Some(1457),
                Some(1457),
            ),
            ("张三", 8802, 9146, None, None),
        ];
        for (key, hash, crc32, digits, last) in vectors {
            let slot = |map| slot(key.as_bytes(), map, SLOTS).map(|slot| slot.0);
            assert_eq!(slot(KeyMap::Hash), Some(*hash), "{key}");
            assert_eq!(slot(KeyMap::Crc32), Some(*crc32), "{key}");
            assert_eq!(slot(KeyMap::Digits), *digits, "{key}");
            assert_eq!(slot(KeyMap::LastDigits(4)), *last, "{key}");
        }
    }

    /// Values that the algorithms' authors publish: should a library change, the owner of every key would.
    #[test]
    fn the_hashes_are_those_of_their_authors() {
        assert_eq!(xxhash_rust::xxh3::xxh3_64(b""), 0x2D06_8005_38D3_94C2);
        assert_eq!(xxhash_rust::xxh3::xxh3_64(b"abc"), 0x78AF_5F94_892F_3950);
        assert_eq!(crc32fast::hash(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn digits_take_signs_and_leading_zeros_and_nothing_else() {
        let digits = |key: &str| slot(key.as_bytes(), KeyMap::Digits, SLOTS).map(|slot| slot.0);
        assert_eq!(digits("+0042"), Some(42));
        assert_eq!(digits(&"9".repeat(255)), Some(9999));
        for unfit in ["", "+", "-", "--1", "1-", " 1", "1.0", "１"] {
            assert_eq!(digits(unfit), None, "{unfit:?}");
        }
    }

    #[test]
    fn a_key_that_ends_in_fewer_digits_counts_with_those_it_has() {
        let last =
            |key: &str| slot(key.as_bytes(), KeyMap::LastDigits(4), SLOTS).map(|slot| slot.0);
        assert_eq!(last("user-7"), last("user-0007"));
        assert_eq!(last("123450007"), Some(7));
        assert_eq!(last("user7x"), None);
        assert_eq!(last(""), None);
    }
}
