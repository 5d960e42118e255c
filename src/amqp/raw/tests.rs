//! The lazy view against the full decode, and against bytes of every kind.

use super::*;
use crate::amqp::strategies::{damaged, properties, unknown_type, value, with_table};
use crate::amqp::{Edit, FieldTable};
use proptest::prelude::*;

fn text_of(properties: &Properties, property: TextProperty) -> Option<&Bytes> {
    match property {
        TextProperty::ContentType => &properties.content_type,
        TextProperty::ContentEncoding => &properties.content_encoding,
        TextProperty::CorrelationId => &properties.correlation_id,
        TextProperty::ReplyTo => &properties.reply_to,
        TextProperty::Expiration => &properties.expiration,
        TextProperty::MessageId => &properties.message_id,
        TextProperty::Kind => &properties.kind,
        TextProperty::UserId => &properties.user_id,
        TextProperty::AppId => &properties.app_id,
        TextProperty::ClusterId => &properties.cluster_id,
    }
    .as_ref()
}

/// Everything that can be asked of properties: none of it may panic, and what is found lies within the bytes.
fn ask_everything(raw: &RawProperties) {
    let _ = (raw.delivery_mode(), raw.priority(), raw.timestamp());
    for property in TextProperty::ALL {
        if let Some(text) = raw.text(property) {
            assert_eq!(raw.share(text), text);
        }
    }
    for (name, value) in raw.headers() {
        let _ = (value.as_integer(), value.as_float(), value.as_bool());
        let _ = (value.as_bytes(), value.decode());
        assert!(value.as_array().into_iter().flatten().count() <= value.bytes.len());
        assert!(raw.header(name).is_some());
    }
    let sound = raw.check();
    if raw.decode().is_ok() {
        assert_eq!(sound, Ok(()), "what can be decoded is sound");
    }
    let mut edit = Edit::new();
    edit.set("x-set-to", &FieldValue::Void);
    edit.remove_if(|name| name == b"uid");
    edit.set_text(TextProperty::Expiration, b"1");
    match edit.apply(raw) {
        Ok(edited) => assert_eq!(edited.check(), Ok(()), "an edit leaves sound bytes"),
        Err(_) => assert!(sound.is_err(), "only damage is refused"),
    }
}

proptest! {
    #[test]
    fn the_lazy_view_says_what_a_full_decode_says(properties in properties()) {
        let raw = RawProperties::of(&properties).unwrap();
        prop_assert_eq!(raw.check(), Ok(()));
        for property in TextProperty::ALL {
            let due = text_of(&properties, property).map(|text| &text[..]);
            prop_assert_eq!(raw.text(property), due);
        }
        prop_assert_eq!(raw.delivery_mode(), properties.delivery_mode);
        prop_assert_eq!(raw.priority(), properties.priority);
        prop_assert_eq!(raw.timestamp(), properties.timestamp);
        prop_assert_eq!(raw.has_headers(), properties.headers.is_some());
        let due = properties.headers.clone().unwrap_or_default();
        prop_assert_eq!(raw.headers().count(), due.len());
        for ((name, value), (due_name, due_value)) in raw.headers().zip(due.iter()) {
            prop_assert_eq!(name, &due_name[..]);
            prop_assert_eq!(&value.decode().unwrap(), due_value);
            let first = raw.header(name).unwrap().decode().unwrap();
            prop_assert_eq!(Some(&first), due.get(name));
        }
        prop_assert!(raw.header("no such header").is_none());
    }

    #[test]
    fn a_values_readings_are_those_of_its_decoded_form(value in value()) {
        let table = FieldTable::from_iter([(Bytes::from_static(b"h"), value.clone())]);
        let raw = with_table(&table);
        let found = raw.header("h").unwrap();
        prop_assert_eq!(found.as_integer(), value.as_integer());
        prop_assert_eq!(found.as_bytes(), value.as_bytes().map(|bytes| &bytes[..]));
        let items: Option<Vec<_>> = found
            .as_array()
            .map(|items| items.map(|item| item.unwrap().decode().unwrap()).collect());
        match value {
            FieldValue::Array(due) => prop_assert_eq!(items, Some(due)),
            FieldValue::Bool(due) => prop_assert_eq!(found.as_bool(), Some(due)),
            FieldValue::F64(due) => prop_assert_eq!(found.as_float(), Some(due)),
            FieldValue::F32(due) => prop_assert_eq!(found.as_float(), Some(f64::from(due))),
            _ => prop_assert!(items.is_none() && found.as_bool().is_none()),
        }
    }

    #[test]
    fn no_bytes_make_the_view_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        ask_everything(&RawProperties::from_wire(bytes.into()));
    }

    #[test]
    fn no_damage_makes_the_view_panic(bytes in damaged()) {
        ask_everything(&RawProperties::from_wire(bytes));
    }

    #[test]
    fn a_byte_more_or_less_is_found(properties in properties()) {
        let bytes = properties.encode().unwrap();
        let mut longer = bytes.to_vec();
        longer.push(0);
        let longer = RawProperties::from_wire(longer.into());
        prop_assert_eq!(longer.check(), Err(CodecError::Trailing(1)));
        let shorter = RawProperties::from_wire(bytes.slice(..bytes.len() - 1));
        prop_assert!(shorter.check().is_err());
    }

    #[test]
    fn look_ups_end_at_a_type_that_nobody_knows(
        (raw, known) in unknown_type()
    ) {
        prop_assert_eq!(raw.check(), Ok(()));
        prop_assert_eq!(raw.headers().count(), known.len());
        prop_assert!(raw.decode().is_err());
    }
}

#[test]
fn nesting_of_any_depth_is_stepped_over() {
    let deep = (0..200).fold(FieldValue::Void, |inner, _| FieldValue::Array(vec![inner]));
    // Far deeper than any decoder's stack: an array in an array, 100 000 times, lengths and all.
    let mut deepest = vec![b'V'];
    let mut lengths = Vec::new();
    for level in 0..100_000_u32 {
        lengths.push(1 + level * 5);
    }
    let mut whole = Vec::new();
    for length in lengths.iter().rev() {
        whole.push(b'A');
        whole.extend(length.to_be_bytes());
    }
    whole.append(&mut deepest);
    let mut table = vec![1, b'd'];
    table.extend(whole);
    table.extend([3, b'u', b'i', b'd', b'b', 7]);
    let mut bytes = vec![0x20, 0];
    bytes.extend(u32::try_from(table.len()).unwrap().to_be_bytes());
    bytes.extend(table);
    let raw = RawProperties::from_wire(bytes.into());
    assert_eq!(raw.check(), Ok(()));
    assert_eq!(raw.header("uid").unwrap().as_integer(), Some(7));
    assert_eq!(raw.decode(), Err(CodecError::TooDeep));
    let raw = with_table(&FieldTable::from_iter([(Bytes::from_static(b"d"), deep)]));
    assert_eq!(raw.check(), Ok(()));
}

#[test]
fn a_header_that_leaves_its_table_is_damage() {
    // A table of three octets that holds the header `h`, a string that says it has nine.
    let bytes: &[u8] = &[0x20, 0, 0, 0, 0, 7, 1, b'h', b'S', 0, 0, 0, 9, 0, 0];
    let raw = RawProperties::from_wire(Bytes::from_static(bytes));
    assert_eq!(raw.check(), Err(CodecError::Truncated("a header's value")));
    assert!(raw.header("h").is_none());
    for bytes in [&[][..], &[0], &[0, 1, 0, 0], &[0, 2]] {
        let raw = RawProperties::from_wire(Bytes::from_static(bytes));
        assert_eq!(
            raw.check(),
            Err(CodecError::Truncated("the property flags"))
        );
        assert_eq!(raw.delivery_mode(), None);
    }
}
