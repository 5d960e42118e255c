//! A gray share: some of a rule's messages go to another unit than their owner, so that a change can be tried on few.
//!
//! Owns its shape, how it is read, and which keys are in it. Promises that the same key under the same salt is always on
//! the same side, and that a larger percentage keeps everybody who was in a smaller one.

use super::condition::HeaderCondition;
use super::condition_read::read_headers;
use super::fault::{Fault, Placed};
use super::fields::{self, Fields};
use super::tree::{Node, Value};
use crate::model::{Message, UnitId};
use std::fmt;

/// Parts of the whole: a hundredth of a percent.
const PARTS: u64 = 10_000;

/// Which messages of a rule go to another unit than their owner.
#[derive(Debug, Clone, PartialEq)]
pub struct Gray {
    /// Where it is written; no part of what it says.
    pub place: Placed<()>,
    /// Which of them.
    pub share: Share,
    /// Where they go: to whoever sits for this unit.
    pub unit: Placed<UnitId>,
}

/// Which messages.
#[derive(Debug, Clone, PartialEq)]
pub enum Share {
    /// So many of 10,000 keys, by `xxh3-64(salt, 0, key) mod 10,000`.
    Keys {
        /// From 0 to 10,000.
        parts: u16,
        /// Another one takes other keys.
        salt: String,
    },
    /// Those of which all of these hold.
    Headers(Vec<HeaderCondition>),
}

impl Gray {
    /// Whether a message with this key is in the share.
    pub fn takes(&self, key: &[u8], message: &Message) -> bool {
        match &self.share {
            Share::Keys { parts, salt } => part(salt, key) < u64::from(*parts),
            Share::Headers(conditions) => conditions
                .iter()
                .all(|condition| condition.test.holds(message.header(&condition.name))),
        }
    }
}

/// From 0 to 9,999, for ever the same.
fn part(salt: &str, key: &[u8]) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(salt.as_bytes());
    hasher.update(&[0]);
    hasher.update(key);
    hasher.digest() % PARTS
}

impl fmt::Display for Gray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.share {
            Share::Keys { parts, salt } => {
                write!(f, "{} % of keys, salt {salt:?}", f64::from(*parts) / 100.0)
            }
            Share::Headers(conditions) => {
                for (n, condition) in conditions.iter().enumerate() {
                    write!(f, "{}{condition}", if n == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}

pub(super) fn read(node: Node, faults: &mut Vec<Fault>) -> Option<Gray> {
    let mut fields = Fields::of(node, "`gray`", faults)?;
    let place = fields.place().clone();
    let percent = fields.optional("percent");
    let salt = fields.optional("salt");
    let header = fields.optional("header");
    let unit = fields.must("unit", faults, |node, faults| {
        fields::name(node, "the unit", UnitId::parse, faults)
    });
    fields.end(faults);
    let share = match (percent, header) {
        (Some(percent), None) => read_keys(&percent, salt, faults),
        (None, Some(header)) => {
            if let Some(salt) = salt {
                faults.push(fields::bad_value(
                    &salt.place,
                    "a share by headers has no salt",
                    "leave `salt` out",
                ));
            }
            read_headers(header, faults).map(Share::Headers)
        }
        (Some(_), Some(header)) => {
            faults.push(fields::bad_value(
                &header.place,
                "a gray share is by keys or by headers, not by both",
                "keep `percent` with `salt`, or `header`",
            ));
            None
        }
        (None, None) => {
            faults.push(fields::bad_value(
                &place,
                "`gray` doesn't say which messages it is about",
                "add `percent: 5` with a `salt:`, or `header: {NAME: VALUE}`",
            ));
            None
        }
    };
    Some(Gray {
        share: share?,
        unit: unit?,
        place: Placed { value: (), place },
    })
}

fn read_keys(percent: &Node, salt: Option<Node>, faults: &mut Vec<Fault>) -> Option<Share> {
    let parts = match percent.value {
        Value::Int(whole) => u16::try_from(whole)
            .ok()
            .and_then(|one| one.checked_mul(100)),
        Value::Float(share) => hundredths(share),
        _ => None,
    };
    let parts = parts.filter(|parts| u64::from(*parts) <= PARTS);
    if parts.is_none() {
        faults.push(fields::bad_value(
            &percent.place,
            "`percent` is a number from 0 to 100 with at most two digits behind the point",
            "write it like 5 or 0.25",
        ));
    }
    let salt = match salt {
        Some(node) => fields::short(node, "the salt", faults)?.value,
        None => String::new(),
    };
    Some(Share::Keys {
        parts: parts?,
        salt,
    })
}

/// Of a percentage; none where it has more than two digits behind the point.
pub(super) fn hundredths(percent: f64) -> Option<u16> {
    (0..=10_000_u16).find(|parts| (f64::from(*parts) / 100.0 - percent).abs() < 1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_what_it_says_and_a_larger_one_keeps_who_was_in_a_smaller() {
        let keys: Vec<String> = (0..100_000).map(|key: u32| key.to_string()).collect();
        let share = |salt: &str, parts: u64| {
            let inside = keys.iter().filter(|key| part(salt, key.as_bytes()) < parts);
            inside.collect::<Vec<_>>()
        };
        let (small, large) = (share("g1", 500), share("g1", 1_000));
        assert!((4_800..5_200).contains(&small.len()), "{}", small.len());
        assert!(small.iter().all(|key| large.contains(key)));
        let other = share("g2", 500);
        let both = small.iter().filter(|key| other.contains(key)).count();
        assert!(
            (150..350).contains(&both),
            "another salt takes others: {both}"
        );
        assert!(share("g1", 0).is_empty());
        assert_eq!(share("g1", PARTS).len(), keys.len());
    }

    #[test]
    fn a_keys_part_never_changes() {
        let parts = ["1", "10086", "user-20250042"].map(|key| part("g1", key.as_bytes()));
        assert_eq!(parts, PINNED);
    }

    #[test]
    fn percentages_have_two_digits_behind_the_point() {
        assert_eq!(hundredths(0.25), Some(25));
        assert_eq!(hundredths(99.99), Some(9_999));
        assert_eq!(hundredths(0.123), None);
        assert_eq!(hundredths(100.5), None);
        assert_eq!(hundredths(-1.0), None);
    }

    /// By another implementation of xxh3; running spaces hang on them.
    const PINNED: [u64; 3] = [8_946, 7_968, 1_918];
}
