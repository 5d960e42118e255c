//! One message of the traffic: what its body says, and how its key is spelled.

use crate::lab::checker::{KeyIndex, Number, Tag, UnitIndex};
use serde::Deserialize;
use std::fmt::Write as _;

/// Regions in routing keys, one per key, so that rules by routing key see a mixture.
const REGIONS: [&str; 4] = ["cn", "us", "eu", "sg"];

/// First key. Decimal text, so that every map of keys (hash, crc32, digits, last digits) takes it.
const KEY_BASE: u32 = 10_000;

/// Tells this run's messages from those that an earlier one left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunId(String);

impl RunId {
    pub(super) fn new() -> Self {
        Self(uuid::Uuid::now_v7().simple().to_string())
    }
}

/// The key as it stands in the header.
pub(super) fn key_text(key: KeyIndex) -> String {
    (u64::from(KEY_BASE) + u64::from(key.0)).to_string()
}

/// The region of a key.
pub(super) fn region(key: KeyIndex) -> &'static str {
    REGIONS[key.0 as usize % REGIONS.len()]
}

/// Writes a body of at least `body_bytes` into `out`.
pub(super) fn write_body(
    out: &mut String,
    run: &RunId,
    tag: Tag,
    sent_micros: u64,
    body_bytes: usize,
) {
    out.clear();
    // Writing to a String can't fail.
    let _ = write!(
        out,
        r#"{{"run":"{}","unit":{},"key":{},"number":{},"at":{sent_micros},"pad":""#,
        run.0, tag.publisher.0, tag.key.0, tag.number.0
    );
    let pad = body_bytes.saturating_sub(out.len() + 2);
    out.extend(std::iter::repeat_n('.', pad));
    out.push_str("\"}");
}

#[derive(Deserialize)]
struct Body<'a> {
    run: &'a str,
    unit: u8,
    key: u32,
    number: u32,
    at: u64,
}

/// What a body of this run says: which message it is, and when it was sent, in microseconds of the run. `None` for
/// everything else that lies in an application's queue.
pub(super) fn read_body(run: &RunId, body: &[u8]) -> Option<(Tag, u64)> {
    let body: Body<'_> = serde_json::from_slice(body).ok()?;
    (body.run == run.0).then_some((
        Tag {
            publisher: UnitIndex(body.unit),
            key: KeyIndex(body.key),
            number: Number(body.number),
        },
        body.at,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: Tag = Tag {
        publisher: UnitIndex(2),
        key: KeyIndex(7),
        number: Number(41),
    };

    #[test]
    fn a_body_says_which_message_it_is_and_has_the_size_asked_for() {
        let run = RunId::new();
        let mut body = String::new();
        write_body(&mut body, &run, TAG, 12, 512);
        assert_eq!(body.len(), 512);
        assert_eq!(read_body(&run, body.as_bytes()), Some((TAG, 12)));
        write_body(&mut body, &run, TAG, 13, 0);
        assert_eq!(read_body(&run, body.as_bytes()), Some((TAG, 13)));
    }

    #[test]
    fn another_runs_message_and_a_strangers_are_not_ours() {
        let mut body = String::new();
        write_body(&mut body, &RunId::new(), TAG, 12, 64);
        assert_eq!(read_body(&RunId::new(), body.as_bytes()), None);
        assert_eq!(read_body(&RunId::new(), b"\xff{"), None);
    }
}
