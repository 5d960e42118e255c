//! Messages between our types and the client library's.
//!
//! Every property and every field type goes across unchanged, with two limits of the library: it holds a table as a
//! sorted map (the order of headers and repeated names are lost on the way in), and short strings must be UTF-8. What
//! can't go across is said, never dropped in silence.

use super::Server;
use crate::amqp::{FieldTable, FieldValue, NESTING_MAX, Properties};
use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{
    AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable as LapinTable, LongString,
    ShortString,
};

/// Why something can't be written: a sentence.
pub(super) type Unencodable = String;

/// A name or property in the library's form.
pub(super) fn short(bytes: &[u8], what: &str) -> Result<ShortString, Unencodable> {
    let text = std::str::from_utf8(bytes).map_err(|_| format!("{what} is not UTF-8"))?;
    ShortString::try_new(text)
        .map_err(|_| format!("{what} has {} bytes, AMQP takes 255", bytes.len()))
}

/// Properties on the way out.
pub(super) fn to_library(properties: &Properties) -> Result<BasicProperties, Unencodable> {
    let mut out = BasicProperties::default();
    if let Some(v) = &properties.content_type {
        out = out.with_content_type(short(v, "content-type")?);
    }
    if let Some(v) = &properties.content_encoding {
        out = out.with_content_encoding(short(v, "content-encoding")?);
    }
    if let Some(v) = &properties.headers {
        out = out.with_headers(table_to_library(v)?);
    }
    if let Some(v) = properties.delivery_mode {
        out = out.with_delivery_mode(v);
    }
    if let Some(v) = properties.priority {
        out = out.with_priority(v);
    }
    if let Some(v) = &properties.correlation_id {
        out = out.with_correlation_id(short(v, "correlation-id")?);
    }
    if let Some(v) = &properties.reply_to {
        out = out.with_reply_to(short(v, "reply-to")?);
    }
    if let Some(v) = &properties.expiration {
        out = out.with_expiration(short(v, "expiration")?);
    }
    if let Some(v) = &properties.message_id {
        out = out.with_message_id(short(v, "message-id")?);
    }
    if let Some(v) = properties.timestamp {
        out = out.with_timestamp(v);
    }
    if let Some(v) = &properties.kind {
        out = out.with_type(short(v, "type")?);
    }
    if let Some(v) = &properties.user_id {
        out = out.with_user_id(short(v, "user-id")?);
    }
    if let Some(v) = &properties.app_id {
        out = out.with_app_id(short(v, "app-id")?);
    }
    if let Some(v) = &properties.cluster_id {
        out = out.with_cluster_id(short(v, "cluster-id")?);
    }
    Ok(out)
}

/// A table on the way out: a message's headers, or the arguments of a declaration.
pub(super) fn table_to_library(table: &FieldTable) -> Result<LapinTable, Unencodable> {
    table_out(table, 0)
}

fn table_out(table: &FieldTable, depth: usize) -> Result<LapinTable, Unencodable> {
    if depth > NESTING_MAX {
        return Err(format!("headers nest deeper than {NESTING_MAX} levels"));
    }
    let mut out = LapinTable::default();
    for (name, value) in table.iter() {
        out.insert(short(name, "a header's name")?, value_out(value, depth)?);
    }
    Ok(out)
}

fn value_out(value: &FieldValue, depth: usize) -> Result<AMQPValue, Unencodable> {
    if depth > NESTING_MAX {
        return Err(format!("headers nest deeper than {NESTING_MAX} levels"));
    }
    Ok(match value {
        FieldValue::Bool(v) => AMQPValue::Boolean(*v),
        FieldValue::I8(v) => AMQPValue::ShortShortInt(*v),
        FieldValue::U8(v) => AMQPValue::ShortShortUInt(*v),
        FieldValue::I16(v) => AMQPValue::ShortInt(*v),
        FieldValue::U16(v) => AMQPValue::ShortUInt(*v),
        FieldValue::I32(v) => AMQPValue::LongInt(*v),
        FieldValue::U32(v) => AMQPValue::LongUInt(*v),
        FieldValue::I64(v) => AMQPValue::LongLongInt(*v),
        FieldValue::F32(v) => AMQPValue::Float(*v),
        FieldValue::F64(v) => AMQPValue::Double(*v),
        FieldValue::Decimal { scale, value } => AMQPValue::DecimalValue(DecimalValue {
            scale: *scale,
            value: *value,
        }),
        FieldValue::Str(v) => AMQPValue::LongString(LongString::from(v.to_vec())),
        FieldValue::Array(values) => AMQPValue::FieldArray(FieldArray::from(
            values
                .iter()
                .map(|value| value_out(value, depth + 1))
                .collect::<Result<Vec<_>, _>>()?,
        )),
        FieldValue::Timestamp(v) => AMQPValue::Timestamp(*v),
        FieldValue::Table(v) => AMQPValue::FieldTable(table_out(v, depth + 1)?),
        FieldValue::Void => AMQPValue::Void,
        FieldValue::Bytes(v) => AMQPValue::ByteArray(ByteArray::from(v.to_vec())),
    })
}

/// Properties on the way in. Headers that nest too deep are left out and said: the rest is still of use to whoever parks
/// the message.
pub(super) fn from_library(properties: &BasicProperties) -> (Properties, Option<String>) {
    let bytes = |text: &Option<ShortString>| {
        text.as_ref()
            .map(|text| Bytes::copy_from_slice(text.as_str().as_bytes()))
    };
    let (headers, fault) = match properties.headers() {
        None => (None, None),
        Some(table) => match table_in(table, 0) {
            Some(table) => (Some(table), None),
            None => (
                None,
                Some(format!("headers nest deeper than {NESTING_MAX} levels")),
            ),
        },
    };
    let properties = Properties {
        content_type: bytes(properties.content_type()),
        content_encoding: bytes(properties.content_encoding()),
        headers,
        delivery_mode: *properties.delivery_mode(),
        priority: *properties.priority(),
        correlation_id: bytes(properties.correlation_id()),
        reply_to: bytes(properties.reply_to()),
        expiration: bytes(properties.expiration()),
        message_id: bytes(properties.message_id()),
        timestamp: *properties.timestamp(),
        kind: bytes(properties.kind()),
        user_id: bytes(properties.user_id()),
        app_id: bytes(properties.app_id()),
        cluster_id: bytes(properties.cluster_id()),
    };
    (properties, fault)
}

fn table_in(table: &LapinTable, depth: usize) -> Option<FieldTable> {
    if depth > NESTING_MAX {
        return None;
    }
    table
        .into_iter()
        .map(|(name, value)| {
            let name = Bytes::copy_from_slice(name.as_str().as_bytes());
            value_in(value, depth).map(|value| (name, value))
        })
        .collect()
}

fn value_in(value: &AMQPValue, depth: usize) -> Option<FieldValue> {
    if depth > NESTING_MAX {
        return None;
    }
    Some(match value {
        AMQPValue::Boolean(v) => FieldValue::Bool(*v),
        AMQPValue::ShortShortInt(v) => FieldValue::I8(*v),
        AMQPValue::ShortShortUInt(v) => FieldValue::U8(*v),
        AMQPValue::ShortInt(v) => FieldValue::I16(*v),
        AMQPValue::ShortUInt(v) => FieldValue::U16(*v),
        AMQPValue::LongInt(v) => FieldValue::I32(*v),
        AMQPValue::LongUInt(v) => FieldValue::U32(*v),
        AMQPValue::LongLongInt(v) => FieldValue::I64(*v),
        AMQPValue::Float(v) => FieldValue::F32(*v),
        AMQPValue::Double(v) => FieldValue::F64(*v),
        AMQPValue::DecimalValue(v) => FieldValue::Decimal {
            scale: v.scale,
            value: v.value,
        },
        AMQPValue::ShortString(v) => FieldValue::str(v.as_str()),
        AMQPValue::LongString(v) => FieldValue::str(v.as_bytes()),
        AMQPValue::FieldArray(values) => FieldValue::Array(
            values
                .as_slice()
                .iter()
                .map(|value| value_in(value, depth + 1))
                .collect::<Option<Vec<_>>>()?,
        ),
        AMQPValue::Timestamp(v) => FieldValue::Timestamp(*v),
        AMQPValue::FieldTable(v) => FieldValue::Table(table_in(v, depth + 1)?),
        AMQPValue::ByteArray(v) => FieldValue::Bytes(Bytes::copy_from_slice(v.as_slice())),
        AMQPValue::Void => FieldValue::Void,
    })
}

/// The limit of deliveries that takes RabbitMQ's own default away, where its version has one: 4.x drops a message of a
/// quorum queue after 20 returns to it, 3.x has no limit, and would take −1 for one that is always reached.
pub(super) fn no_delivery_limit(server: &Server) -> Option<FieldValue> {
    (server.major()? >= 4).then_some(FieldValue::I64(-1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(levels: usize) -> FieldValue {
        (0..levels).fold(FieldValue::Void, |inner, _| FieldValue::Array(vec![inner]))
    }

    #[test]
    fn nesting_up_to_the_limit_crosses_and_deeper_is_said() {
        let mut properties = Properties::default();
        properties.headers_mut().set("h", nested(NESTING_MAX));
        let library = to_library(&properties).unwrap();
        assert_eq!(from_library(&library), (properties.clone(), None));
        properties.headers_mut().set("h", nested(NESTING_MAX + 1));
        assert!(to_library(&properties).unwrap_err().contains("deeper"));
    }

    #[test]
    fn a_property_that_is_not_utf_8_is_named() {
        let properties = Properties {
            message_id: Some(Bytes::from_static(b"\xff")),
            ..Properties::default()
        };
        assert_eq!(
            to_library(&properties).unwrap_err(),
            "message-id is not UTF-8"
        );
    }

    #[test]
    fn only_version_4_gets_a_delivery_limit() {
        let server = |version: &str| Server {
            product: "RabbitMQ".to_owned(),
            version: version.to_owned(),
        };
        assert_eq!(no_delivery_limit(&server("3.10.8")), None);
        assert_eq!(no_delivery_limit(&server("3.13.7")), None);
        assert_eq!(
            no_delivery_limit(&server("4.0.5")),
            Some(FieldValue::I64(-1))
        );
    }
}
