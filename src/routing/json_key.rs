//! A key in a JSON body.
//!
//! Reads a body up to the value that a pointer names and no further: a key near the top of a large body costs little, and
//! what follows it, right or wrong, doesn't count. Of members with one name the first counts. A number is a key as it is
//! written, so that one beyond 64 bits, or with a leading minus, keeps every digit. Allocates only for texts with
//! escapes. Goes down no deeper than its pointer, so no body can exhaust the stack.

use super::key::Unfit;
use crate::rules::JsonPointer;
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Largest body that is looked into: it is read at half a gigabyte a second or so, and a lane waits meanwhile.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;

/// What a pointer names in a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pointed {
    /// Nothing, in a body that is JSON.
    Nothing,
    /// No key can be had.
    Unfit(Unfit),
    /// A text, or a number as it is written.
    Key(Bytes),
}

pub(super) fn look(pointer: &JsonPointer, body: &Bytes) -> Pointed {
    if body.len() > BODY_BYTES_MAX {
        return Pointed::Unfit(Unfit::BodyTooLarge);
    }
    let mut found = None;
    let mut json = serde_json::Deserializer::from_slice(body);
    let descent = Descent {
        steps: pointer.steps(),
        found: &mut found,
    };
    // An error after something was found only means that the rest wasn't read.
    let read = descent.deserialize(&mut json).and_then(|()| json.end());
    match (found, read) {
        (Some(raw), Ok(()) | Err(_)) => key(raw.get(), body),
        (None, Ok(())) => Pointed::Nothing,
        (None, Err(_)) => Pointed::Unfit(Unfit::BodyNotJson),
    }
}

/// A value as it is written, as a key.
fn key(raw: &str, body: &Bytes) -> Pointed {
    match raw.as_bytes().first() {
        Some(b'"') => match serde_json::from_str::<Text<'_>>(raw) {
            Ok(Text(Cow::Borrowed(text))) => Pointed::Key(body.slice_ref(text.as_bytes())),
            Ok(Text(Cow::Owned(text))) => Pointed::Key(text.into()),
            Err(_) => Pointed::Unfit(Unfit::BodyNotJson),
        },
        Some(b'-' | b'0'..=b'9') => Pointed::Key(body.slice_ref(raw.as_bytes())),
        Some(_) | None => Pointed::Unfit(Unfit::Type),
    }
}

/// A text, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// One level of the way down. Ends the reading by an error once the value is found.
struct Descent<'p, 'out, 'de> {
    steps: &'p [String],
    found: &'out mut Option<&'de RawValue>,
}

impl<'de> DeserializeSeed<'de> for Descent<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.steps.is_empty() {
            let raw = <&RawValue as serde::Deserialize>::deserialize(deserializer)?;
            *self.found = Some(raw);
            return Err(D::Error::custom("read no further"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Descent<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((name, below)) = self.steps.split_first() else {
            return Ok(());
        };
        let mut first = true;
        while let Some(same) = map.next_key_seed(Is(name))? {
            if same && first {
                first = false;
                map.next_value_seed(Descent {
                    steps: below,
                    found: &mut *self.found,
                })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((index, below)) = self.steps.split_first() else {
            return Ok(());
        };
        let mut left = index_of(index);
        loop {
            let more = match left {
                Some(0) => items.next_element_seed(Descent {
                    steps: below,
                    found: &mut *self.found,
                })?,
                Some(_) | None => items.next_element::<IgnoredAny>()?.map(|IgnoredAny| ()),
            };
            if more.is_none() {
                return Ok(());
            }
            left = left.and_then(|left| left.checked_sub(1));
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Digits without a leading zero: what an item's index is in a pointer.
fn index_of(step: &str) -> Option<usize> {
    let digits = step.bytes().all(|byte| byte.is_ascii_digit());
    let leads = step.len() > 1 && step.starts_with('0');
    (digits && !leads).then(|| step.parse().ok()).flatten()
}

/// Whether a member's name is this one.
struct Is<'p>(&'p str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(pointer: &str, body: &str) -> Pointed {
        let pointer = JsonPointer::parse(pointer).expect("a pointer");
        look(&pointer, &Bytes::copy_from_slice(body.as_bytes()))
    }

    fn key(text: &'static str) -> Pointed {
        Pointed::Key(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn texts_and_numbers_are_keys_as_they_are_written() {
        let body = r#" {"a": [1, {"b": "x"}], "user": {"name": "\u5f20", "id": 10086, "big": 340282366920938463463374607431768211457,
            "minus": -7, "float": 1.50, "exp": 1E2, "e/s": "~"} } "#;
        for (pointer, expected) in [
            ("/user/id", "10086"),
            ("/user/big", "340282366920938463463374607431768211457"),
            ("/user/minus", "-7"),
            ("/user/float", "1.50"),
            ("/user/exp", "1E2"),
            ("/user/name", "张"),
            ("/user/e~1s", "~"),
            ("/a/0", "1"),
            ("/a/1/b", "x"),
        ] {
            assert_eq!(at(pointer, body), key(expected), "{pointer}");
        }
        for absent in [
            "/user/nobody",
            "/user/id/0",
            "/a/2",
            "/a/01",
            "/a/-",
            "/a/b",
            "/user/name/x",
        ] {
            assert_eq!(at(absent, body), Pointed::Nothing, "{absent}");
        }
    }

    #[test]
    fn any_other_type_is_no_key() {
        let body = r#"{"t": true, "n": null, "o": {}, "l": ["x"]}"#;
        for pointer in ["/t", "/n", "/o", "/l"] {
            assert_eq!(at(pointer, body), Pointed::Unfit(Unfit::Type), "{pointer}");
        }
    }

    #[test]
    fn a_body_that_is_no_json_has_no_key() {
        for body in [
            "",
            "{",
            "hello",
            r#"{"a": 1} x"#,
            r#"{"id" 1}"#,
            r#"{"id": "x"#,
            "\u{feff}{}",
        ] {
            let expected = Pointed::Unfit(Unfit::BodyNotJson);
            assert_eq!(at("/id", body), expected, "{body}");
        }
        let bytes = Bytes::from_static(b"{\"id\": \"\xff\"}");
        let pointer = JsonPointer::parse("/id").expect("a pointer");
        assert_eq!(look(&pointer, &bytes), Pointed::Unfit(Unfit::BodyNotJson));
    }

    #[test]
    fn what_follows_the_key_does_not_count() {
        assert_eq!(at("/id", r#"{"id": "7", "id": "8"}"#), key("7"));
        assert_eq!(at("/id", r#"{"id": "7", broken"#), key("7"));
        assert_eq!(at("/id", r#"{"id": 7x}"#), key("7"));
    }

    #[test]
    fn a_body_beyond_64_kib_is_not_looked_into() {
        let body = |bytes: usize| {
            let filler = "x".repeat(bytes - r#"{"id":"7","f":""}"#.len());
            format!(r#"{{"id":"7","f":"{filler}"}}"#)
        };
        assert_eq!(at("/id", &body(BODY_BYTES_MAX)), key("7"));
        let large = body(BODY_BYTES_MAX + 1);
        assert_eq!(at("/id", &large), Pointed::Unfit(Unfit::BodyTooLarge));
    }

    #[test]
    fn no_depth_exhausts_the_stack() {
        let deep = format!(
            r#"{{"x": {}{}, "id": "7"}}"#,
            "[".repeat(30_000),
            "]".repeat(30_000)
        );
        assert_eq!(at("/id", &deep), key("7"));
        let open = "[".repeat(60_000);
        let pointer = "/0".repeat(64);
        assert_eq!(at(&pointer, &open), Pointed::Unfit(Unfit::BodyNotJson));
    }
}
