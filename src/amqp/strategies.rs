//! Arbitrary values for the codec's property tests: every field type, nested, repeated and odd names included.

use super::{FieldTable, FieldValue, Properties, RawProperties};
use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// Bytes of up to so many.
fn bytes(len_max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..=len_max).prop_map(Bytes::from)
}

/// Few distinct names, so that they repeat, beside any bytes at all.
fn name() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        prop::sample::select(&["uid", "x-set-to", ""][..]).prop_map(Bytes::from),
        bytes(255),
    ]
}

/// Entries in any order, names repeated.
pub(super) fn table_of(
    value: impl Strategy<Value = FieldValue>,
) -> impl Strategy<Value = FieldTable> {
    vec((name(), value), 0..6).prop_map(|entries| entries.into_iter().collect())
}

/// Any value, to a few levels of nesting. No NaN, which equals nothing; its bits have a test of their own.
pub(super) fn value() -> impl Strategy<Value = FieldValue> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(FieldValue::Bool),
        any::<i8>().prop_map(FieldValue::I8),
        any::<u8>().prop_map(FieldValue::U8),
        any::<i16>().prop_map(FieldValue::I16),
        any::<u16>().prop_map(FieldValue::U16),
        any::<i32>().prop_map(FieldValue::I32),
        any::<u32>().prop_map(FieldValue::U32),
        any::<i64>().prop_map(FieldValue::I64),
        any::<f32>().prop_map(FieldValue::F32),
        any::<f64>().prop_map(FieldValue::F64),
        (any::<u8>(), any::<u32>()).prop_map(|(scale, value)| FieldValue::Decimal { scale, value }),
        bytes(300).prop_map(FieldValue::Str),
        any::<u64>().prop_map(FieldValue::Timestamp),
        Just(FieldValue::Void),
        bytes(300).prop_map(FieldValue::Bytes),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(FieldValue::Array),
            table_of(inner).prop_map(FieldValue::Table),
        ]
    })
}

/// Any of the fourteen, each there or not.
pub(crate) fn properties() -> impl Strategy<Value = Properties> {
    let short = || option::of(bytes(255));
    let first = (
        short(),
        short(),
        option::of(table_of(value())),
        option::of(any::<u8>()),
        option::of(any::<u8>()),
        short(),
        short(),
    );
    let second = (
        short(),
        short(),
        option::of(any::<u64>()),
        short(),
        short(),
        short(),
        short(),
    );
    (first, second).prop_map(|(first, second)| {
        let (
            content_type,
            content_encoding,
            headers,
            delivery_mode,
            priority,
            correlation_id,
            reply_to,
        ) = first;
        let (expiration, message_id, timestamp, kind, user_id, app_id, cluster_id) = second;
        Properties {
            content_type,
            content_encoding,
            headers,
            delivery_mode,
            priority,
            correlation_id,
            reply_to,
            expiration,
            message_id,
            timestamp,
            kind,
            user_id,
            app_id,
            cluster_id,
        }
    })
}

/// Properties with this header table alone.
pub(super) fn with_table(table: &FieldTable) -> RawProperties {
    RawProperties::of(&Properties {
        headers: Some(table.clone()),
        ..Properties::default()
    })
    .unwrap()
}

/// Encoded properties with one octet changed, or their end cut off.
pub(super) fn damaged() -> impl Strategy<Value = Bytes> {
    let place = any::<prop::sample::Index>();
    (properties(), place, option::of(any::<u8>())).prop_map(|(properties, place, octet)| {
        let mut bytes = properties.encode().unwrap().to_vec();
        let at = place.index(bytes.len());
        match octet {
            Some(octet) => bytes[at] = octet,
            None => bytes.truncate(at),
        }
        Bytes::from(bytes)
    })
}

/// Properties with a header of a type that nobody knows, with anything behind it in the table, and the headers before it.
pub(crate) fn unknown_type() -> impl Strategy<Value = (RawProperties, FieldTable)> {
    let kind = any::<u8>().prop_filter("known", |kind| !b"tbBsuIilfdDSATFVx".contains(kind));
    (properties(), table_of(value()), kind, bytes(60)).prop_map(
        |(mut properties, table, kind, tail)| {
            let mut entries = BytesMut::new();
            table.encode(&mut entries).unwrap();
            entries.extend_from_slice(&[3, b'o', b'd', b'd', kind]);
            entries.extend_from_slice(&tail);
            let length = u32::try_from(entries.len() - 4).unwrap();
            entries[..4].copy_from_slice(&length.to_be_bytes());
            // The table goes where an empty one would be: behind flags, content type and content encoding.
            properties.headers = Some(FieldTable::new());
            let whole = properties.encode().unwrap();
            let front = [&properties.content_type, &properties.content_encoding];
            let at = 2 + front
                .into_iter()
                .flatten()
                .map(|text| 1 + text.len())
                .sum::<usize>();
            let bytes = [&whole[..at], &entries, &whole[at + 4..]].concat();
            (RawProperties::from_wire(bytes.into()), table)
        },
    )
}
