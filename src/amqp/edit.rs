//! Changes to properties, without decoding them.
//!
//! Collects changes and makes them in one pass into one new buffer. Promises that everything else stays byte for byte:
//! order and repetition of headers, and what lies behind a header of unknown type, which no removal reaches. Headers
//! that are set stand in front of the table, so that whoever looks for the first of that name finds them.

use super::field::{FieldValue, put_length, put_long, put_short};
use super::raw::{RawHeaders, RawProperties, TextProperty};
use super::reader::CodecError;
use super::walk::{DELIVERY_MODE, End, Entries, HEADERS, LAST, Parts, RawValue};
use bytes::{BufMut, BytesMut};

/// Room for the marks of a parcel: some 14, of 30 bytes on average.
const FRONT_BYTES: usize = 512;
const FRONT_HEADERS: usize = 20;

/// Changes to properties. Every header that is set takes the place of all of that name.
#[derive(Debug)]
pub struct Edit<'a> {
    /// The headers to be set, as they travel.
    front: BytesMut,
    /// Their names, with where each ends in `front`; one that is to be removed takes no room there.
    named: Vec<(&'a [u8], usize)>,
    remove: fn(&[u8]) -> bool,
    properties: Vec<(u32, Change<'a>)>,
    fault: Option<CodecError>,
}

#[derive(Debug, Clone, Copy)]
enum Change<'a> {
    Clear,
    Text(&'a [u8]),
    Octet(u8),
}

impl Default for Edit<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Edit<'a> {
    /// No change.
    pub fn new() -> Self {
        Self {
            front: BytesMut::new(),
            named: Vec::new(),
            remove: |_| false,
            properties: Vec::new(),
            fault: None,
        }
    }

    /// Sets a header.
    pub fn set(&mut self, name: &'a str, value: &FieldValue) {
        self.put(name, |front| value.encode(front));
    }

    /// Sets a header to a string.
    pub fn set_str(&mut self, name: &'a str, text: impl AsRef<[u8]>) {
        self.put(name, |front| put_string(front, b'S', text.as_ref()));
    }

    /// Sets a header to a byte array.
    pub fn set_bytes(&mut self, name: &'a str, bytes: impl AsRef<[u8]>) {
        self.put(name, |front| put_string(front, b'x', bytes.as_ref()));
    }

    /// Sets a header to an array of strings.
    pub fn set_strings<'s>(&mut self, name: &'a str, strings: impl IntoIterator<Item = &'s str>) {
        self.put(name, |front| {
            front.put_u8(b'A');
            let at = front.len();
            front.put_u32(0);
            for text in strings {
                put_string(front, b'S', text.as_bytes())?;
            }
            put_length(front, at, "an array")
        });
    }

    /// Sets a header to a value from other properties.
    pub fn set_raw(&mut self, name: &'a str, value: RawValue<'_>) {
        self.put(name, |front| {
            front.put_u8(value.kind);
            front.put_slice(value.bytes);
            Ok(())
        });
    }

    fn put(&mut self, name: &'a str, value: impl FnOnce(&mut BytesMut) -> Result<(), CodecError>) {
        let name = name.as_bytes();
        self.unset(name);
        if self.front.is_empty() {
            self.front.reserve(FRONT_BYTES);
            self.named.reserve(FRONT_HEADERS);
        }
        let encoded = put_short(&mut self.front, name, "a header's name")
            .and_then(|()| value(&mut self.front));
        self.named.push((name, self.front.len()));
        if let Err(error) = encoded {
            self.fault.get_or_insert(error);
        }
    }

    /// Takes back what is to be done with a header: the last word counts.
    fn unset(&mut self, name: &[u8]) {
        let Some(at) = self.named.iter().position(|(named, _)| *named == name) else {
            return;
        };
        let (_, end) = self.named.remove(at);
        let start = match at.checked_sub(1).and_then(|before| self.named.get(before)) {
            Some((_, start)) => *start,
            None => 0,
        };
        let behind = self.front.split_off(end);
        self.front.truncate(start);
        self.front.unsplit(behind);
        for (_, later) in self.named.iter_mut().skip(at) {
            *later -= end - start;
        }
    }

    /// Takes off all headers of this name.
    pub fn remove(&mut self, name: &'a str) {
        self.unset(name.as_bytes());
        self.named.push((name.as_bytes(), self.front.len()));
    }

    /// Takes off all headers for whose name this holds, but those that are set here.
    pub fn remove_if(&mut self, remove: fn(&[u8]) -> bool) {
        self.remove = remove;
    }

    /// Sets one of the short strings.
    pub fn set_text(&mut self, property: TextProperty, text: &'a [u8]) {
        self.change(property.flag(), Change::Text(text));
    }

    /// Takes one of the short strings off.
    pub fn clear_text(&mut self, property: TextProperty) {
        self.change(property.flag(), Change::Clear);
    }

    /// 1 transient, 2 persistent.
    pub fn set_delivery_mode(&mut self, mode: u8) {
        self.change(DELIVERY_MODE, Change::Octet(mode));
    }

    /// Takes the delivery mode off.
    pub fn clear_delivery_mode(&mut self) {
        self.change(DELIVERY_MODE, Change::Clear);
    }

    fn change(&mut self, flag: u32, change: Change<'a>) {
        self.properties.retain(|(changed, _)| *changed != flag);
        self.properties.push((flag, change));
    }

    /// The headers that are set so far, for whoever seals them.
    pub fn headers(&self) -> RawHeaders<'_> {
        RawHeaders::of(Entries::of(&self.front))
    }

    /// Makes the changes. An error when one can't be encoded, or when the bytes are damaged (see
    /// [`RawProperties::check`]).
    pub fn apply(&self, properties: &RawProperties) -> Result<RawProperties, CodecError> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let bytes = properties.as_bytes();
        let added: usize = self.properties.iter().map(|(_, one)| one.bytes()).sum();
        // A table's length, where there is none so far, takes four.
        let room = bytes.len() + self.front.len() + added + 4;
        let mut out = BytesMut::with_capacity(room);
        let mut flags = 0_u16;
        out.put_u16(0);
        let mut parts = Parts::of(bytes)?;
        let mut part = parts.next().transpose()?;
        for flag in (LAST..=15).rev() {
            let mut came = None;
            if let Some((due, bytes)) = part
                && due == flag
            {
                came = Some(bytes);
                part = parts.next().transpose()?;
            }
            if self.put_property(flag, came, &mut out)? {
                flags |= 1 << flag;
            }
        }
        if !parts.rest().is_empty() {
            return Err(CodecError::Trailing(parts.rest().len()));
        }
        out[..2].copy_from_slice(&flags.to_be_bytes());
        debug_assert!(out.len() <= room, "the room was reckoned too small");
        Ok(RawProperties::from_wire(out.freeze()))
    }

    /// Writes one property; whether there is one now.
    fn put_property(
        &self,
        flag: u32,
        came: Option<&[u8]>,
        out: &mut BytesMut,
    ) -> Result<bool, CodecError> {
        if flag == HEADERS {
            if came.is_none() && self.front.is_empty() {
                return Ok(false);
            }
            let table = came.and_then(|table| table.get(4..)).unwrap_or_default();
            return self.put_table(table, out).map(|()| true);
        }
        let changed = self.properties.iter().find(|(changed, _)| *changed == flag);
        match (changed, came) {
            (Some((_, Change::Clear)), _) | (None, None) => return Ok(false),
            (Some((_, Change::Text(text))), _) => put_short(out, text, "a property")?,
            (Some((_, Change::Octet(octet))), _) => out.put_u8(*octet),
            (None, Some(came)) => out.put_slice(came),
        }
        Ok(true)
    }

    fn put_table(&self, table: &[u8], out: &mut BytesMut) -> Result<(), CodecError> {
        let at = out.len();
        out.put_u32(0);
        out.put_slice(&self.front);
        let mut entries = Entries::of(table);
        for entry in entries.by_ref() {
            if !self.removes(entry.name) {
                out.put_slice(entry.whole);
            }
        }
        match entries.end() {
            End::Complete => {}
            End::Opaque(tail) => out.put_slice(tail),
            End::Damaged(error) => return Err(error),
        }
        put_length(out, at, "a table")
    }

    fn removes(&self, name: &[u8]) -> bool {
        (self.remove)(name) || self.named.iter().any(|(named, _)| *named == name)
    }
}

impl Change<'_> {
    /// Bytes that it adds at most.
    fn bytes(self) -> usize {
        match self {
            Self::Clear => 0,
            Self::Text(text) => 1 + text.len(),
            Self::Octet(_) => 1,
        }
    }
}

/// A string or a byte array, its type octet in front.
fn put_string(out: &mut BytesMut, kind: u8, bytes: &[u8]) -> Result<(), CodecError> {
    out.put_u8(kind);
    put_long(out, bytes, "a string")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::strategies::{properties, unknown_type, value, with_table};
    use crate::amqp::{FieldTable, Properties};
    use bytes::Bytes;
    use proptest::prelude::*;

    const NAMES: [&str; 4] = ["uid", "x-set-to", "x-set-path", ""];

    /// Headers to set, or to remove.
    fn sets() -> impl Strategy<Value = Vec<(&'static str, Option<FieldValue>)>> {
        let value = prop::option::weighted(0.8, value());
        prop::collection::vec((prop::sample::select(&NAMES[..]), value), 0..6)
    }

    fn removes(name: &[u8]) -> bool {
        name.starts_with(b"x-") || name.first().is_some_and(|octet| *octet > 200)
    }

    /// What an edit is, said of the decoded form: what is set stands in front, in the order of the last words.
    fn edited(properties: &Properties, sets: &[(&str, Option<FieldValue>)]) -> Properties {
        let mut front: Vec<(Bytes, Option<FieldValue>)> = Vec::new();
        for (name, value) in sets {
            front.retain(|(set, _)| set != name);
            front.push((Bytes::copy_from_slice(name.as_bytes()), value.clone()));
        }
        let names: Vec<_> = front.iter().map(|(name, _)| name.clone()).collect();
        let mut out = properties.clone();
        let kept = properties.headers.iter().flat_map(FieldTable::iter);
        let kept = kept.filter(|(name, _)| !removes(name) && !names.contains(name));
        let kept: Vec<_> = kept.map(|(n, v)| (n.clone(), v.clone())).collect();
        let set = front.into_iter().filter_map(|(n, v)| Some((n, v?)));
        let set: Vec<_> = set.collect();
        if properties.headers.is_some() || !set.is_empty() {
            out.headers = Some(set.into_iter().chain(kept).collect());
        }
        out
    }

    proptest! {
        #[test]
        fn an_edit_of_the_bytes_is_that_edit_of_the_decoded_form(
            properties in properties(),
            sets in sets(),
            text in prop::option::of(prop::collection::vec(any::<u8>(), 0..=255)),
            mode in prop::option::of(any::<u8>()),
        ) {
            let raw = RawProperties::of(&properties).unwrap();
            let mut due = edited(&properties, &sets);
            let mut edit = Edit::new();
            edit.remove_if(removes);
            for (name, value) in &sets {
                match value {
                    Some(value) => edit.set(name, value),
                    None => edit.remove(name),
                }
            }
            match &text {
                Some(text) => edit.set_text(TextProperty::UserId, text),
                None => edit.clear_text(TextProperty::UserId),
            }
            due.user_id = text.clone().map(Bytes::from);
            if let Some(mode) = mode {
                edit.set_delivery_mode(mode);
                due.delivery_mode = Some(mode);
            }
            let set: Vec<_> = edit.headers().map(|(name, _)| name.to_vec()).collect();
            let edited = edit.apply(&raw).unwrap();
            prop_assert_eq!(&edited.decode().unwrap(), &due);
            prop_assert_eq!(edited.as_bytes(), &due.encode().unwrap());
            let front: Vec<_> = edited.headers().map(|(name, _)| name.to_vec()).collect();
            prop_assert!(front.starts_with(&set));
        }

        #[test]
        fn no_change_changes_nothing(properties in properties()) {
            let raw = RawProperties::of(&properties).unwrap();
            prop_assert_eq!(Edit::new().apply(&raw).unwrap(), raw);
        }

        #[test]
        fn a_type_that_nobody_knows_goes_through_with_all_behind_it(
            (raw, known) in unknown_type(),
        ) {
            let mut edit = Edit::new();
            prop_assert_eq!(&edit.apply(&raw).unwrap(), &raw);
            edit.set_str("front", "set");
            edit.remove_if(|_| true);
            let edited = edit.apply(&raw).unwrap();
            prop_assert_eq!(edited.headers().count(), 1);
            // The known headers are off, and `front` (1 + 5 + 1 + 4 + 3 octets) is on; all else is there.
            let mut entries = BytesMut::new();
            known.encode(&mut entries).unwrap();
            prop_assert_eq!(edited.as_bytes().len() + entries.len() - 4, raw.as_bytes().len() + 14);
            let from = raw.as_bytes().windows(4).position(|window| window == b"\x03odd").unwrap();
            prop_assert!(edited.as_bytes().ends_with(&raw.as_bytes()[from..]));
        }
    }

    #[test]
    fn every_way_to_set_a_header_is_the_encoding_of_its_value() {
        let mut edit = Edit::new();
        edit.set_str("s", "text");
        edit.set_bytes("x", [1, 2]);
        edit.set_strings("a", ["sh-1", "bj-1"]);
        let other = with_table(
            &[(Bytes::from_static(b"c"), FieldValue::I16(-1))]
                .into_iter()
                .collect(),
        );
        edit.set_raw("r", other.header("c").unwrap());
        let due: FieldTable = [
            ("s", FieldValue::str("text")),
            ("x", FieldValue::Bytes(Bytes::from_static(&[1, 2]))),
            (
                "a",
                FieldValue::Array(vec![FieldValue::str("sh-1"), FieldValue::str("bj-1")]),
            ),
            ("r", FieldValue::I16(-1)),
        ]
        .map(|(name, value)| (Bytes::from(name), value))
        .into_iter()
        .collect();
        let edited = edit.apply(&RawProperties::default()).unwrap();
        assert_eq!(edited, with_table(&due));
    }

    #[test]
    fn a_table_without_its_last_header_is_there_and_empty() {
        let raw = with_table(
            &[(Bytes::from_static(b"h"), FieldValue::Void)]
                .into_iter()
                .collect(),
        );
        let mut edit = Edit::new();
        edit.remove_if(|name| name == b"h");
        let edited = edit.apply(&raw).unwrap();
        assert_eq!(edited, with_table(&FieldTable::new()));
        let none = edit.apply(&RawProperties::default()).unwrap();
        assert!(!none.has_headers());
    }

    #[test]
    fn what_cannot_be_encoded_is_said() {
        let long = "n".repeat(256);
        let mut edit = Edit::new();
        edit.set(&long, &FieldValue::Void);
        let none = RawProperties::default();
        assert_eq!(
            edit.apply(&none),
            Err(CodecError::ShortStringTooLong("a header's name"))
        );
        let mut edit = Edit::new();
        edit.set_text(TextProperty::Expiration, long.as_bytes());
        assert_eq!(
            edit.apply(&none),
            Err(CodecError::ShortStringTooLong("a property"))
        );
        let damaged = RawProperties::from_wire(Bytes::from_static(&[0x80, 0, 9, b'x']));
        assert!(Edit::new().apply(&damaged).is_err());
    }
}
