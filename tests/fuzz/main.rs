//! What strangers can send, by the thousand: documents, keys, patterns, headers, link frames. A short run in every
//! `cargo test`, from the corpus beside this file; `cargo bolero test --test fuzz NAME` goes on for as long as one likes.

#![allow(clippy::unwrap_used, clippy::panic)] // tests and their helpers panic at what must hold

use bolero::check;
use bytes::Bytes;
use setgate::amqp::{FieldTable, Properties, RawProperties};
use setgate::link::Decoder;
use setgate::rules::{Context, DocumentFile, KeyMap, TopicPattern, validate};

const SLOTS: u32 = 10_000;
const MESSAGE_MAX: usize = 1 << 20;

fn file(name: &str, text: &[u8]) -> DocumentFile {
    DocumentFile {
        name: name.to_owned(),
        text: text.to_vec(),
    }
}

/// Whatever the bytes: an answer, and each fault at a line that the file has.
#[test]
fn documents() {
    check!().with_max_len(4_096).for_each(|text: &[u8]| {
        // YAML ends a line at a lone carriage return too.
        let lines = text.split(|byte| matches!(byte, b'\n' | b'\r')).count();
        let found = validate(&[file("f.yaml", text)], &Context::default());
        for fault in found.faults.iter().chain(&found.warnings) {
            assert!(fault.line as usize <= lines, "{fault}");
            assert!(!fault.mend.is_empty(), "{fault}");
        }
    });
}

/// A key has one slot for ever, or none: below the number of slots, and the same each time.
#[test]
fn keys() {
    check!().with_max_len(300).for_each(|key: &[u8]| {
        let maps = [
            KeyMap::Hash,
            KeyMap::Crc32,
            KeyMap::Digits,
            KeyMap::LastDigits(4),
        ];
        for map in maps {
            let slot = setgate::routing::slot(key, map, SLOTS);
            assert_eq!(slot, setgate::routing::slot(key, map, SLOTS));
            assert!(slot.is_none_or(|slot| slot.0 < SLOTS), "{map} of {key:?}");
        }
    });
}

/// By the definition, without any cleverness.
fn naive(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern.split_first(), key.split_first()) {
        (None, None) => true,
        (Some((&"#", rest)), None) => naive(rest, key),
        (Some((&"#", rest)), Some((_, later))) => naive(rest, key) || naive(pattern, later),
        (Some((&"*", rest)), Some((_, later))) => naive(rest, later),
        (Some((word, rest)), Some((other, later))) => word == other && naive(rest, later),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

fn words(text: &str) -> Vec<&str> {
    if text.is_empty() {
        Vec::new()
    } else {
        text.split('.').collect()
    }
}

/// Each byte is a word of a small alphabet: what is found by chance in it is what could be found at all.
#[test]
fn patterns() {
    check!()
        .with_type::<(Vec<u8>, Vec<u8>)>()
        .for_each(|(pattern, key)| {
            let spell = |bytes: &[u8], alphabet: &[&str]| {
                let words = bytes.iter().take(9);
                let words: Vec<&str> = words
                    .map(|byte| alphabet[usize::from(*byte) % alphabet.len()])
                    .collect();
                words.join(".")
            };
            let pattern = spell(pattern, &["a", "b", "", "*", "#"]);
            let key = spell(key, &["a", "b", ""]);
            let compiled = TopicPattern::parse(&pattern).unwrap();
            let matches = compiled.matches(key.as_bytes());
            let defined = naive(&words(&pattern), &words(&key));
            assert_eq!(matches, defined, "{pattern:?} and {key:?}");
        });
}

/// Whatever can be read of headers can be written again, and is the same then.
#[test]
fn headers() {
    check!().with_max_len(2_048).for_each(|bytes: &[u8]| {
        let bytes = Bytes::copy_from_slice(bytes);
        if let Ok(table) = FieldTable::decode(bytes.clone()) {
            let mut again = bytes::BytesMut::new();
            if table.encode(&mut again).is_ok() {
                assert_eq!(
                    FieldTable::decode(again.split_off(4).freeze()).unwrap(),
                    table
                );
            }
        }
        if let Ok(properties) = Properties::decode(bytes) {
            let raw = RawProperties::of(&properties).unwrap();
            assert_eq!(raw.decode().unwrap(), properties);
        }
    });
}

/// A peer's bytes make frames or an error, however they come in pieces.
#[test]
fn link_frames() {
    check!().with_max_len(4_096).for_each(|bytes: &[u8]| {
        let whole = Decoder::new(MESSAGE_MAX).frames(&Bytes::copy_from_slice(bytes));
        let mut pieces = Decoder::new(MESSAGE_MAX);
        let mut frames = Vec::new();
        let mut failed = false;
        for piece in bytes.chunks(7) {
            if let Ok(more) = pieces.frames(&Bytes::copy_from_slice(piece)) {
                frames.extend(more);
            } else {
                failed = true;
                break;
            }
        }
        match whole {
            Ok(whole) => assert!(!failed && whole == frames, "pieces make another thing"),
            Err(error) => assert!(failed, "only the whole fails: {error}"),
        }
    });
}
