//! Names and the arguments of declarations in the client library's form.
//!
//! What can't go across is said, never dropped in silence: short strings must be UTF-8 for the library, and tables may
//! nest up to a limit.

use super::Server;
use crate::amqp::{FieldTable, FieldValue, NESTING_MAX};
use lapin::types::{
    AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable as LapinTable, LongString,
    ShortString,
};

/// Why something can't be written: a sentence.
pub(super) type Unencodable = String;

/// A name in the library's form.
pub(super) fn short(bytes: &[u8], what: &str) -> Result<ShortString, Unencodable> {
    let text = std::str::from_utf8(bytes).map_err(|_| format!("{what} is not UTF-8"))?;
    ShortString::try_new(text)
        .map_err(|_| format!("{what} has {} bytes, AMQP takes 255", bytes.len()))
}

/// The arguments of a declaration.
pub(super) fn table_to_library(table: &FieldTable) -> Result<LapinTable, Unencodable> {
    table_out(table, 0)
}

fn table_out(table: &FieldTable, depth: usize) -> Result<LapinTable, Unencodable> {
    if depth > NESTING_MAX {
        return Err(format!("arguments nest deeper than {NESTING_MAX} levels"));
    }
    let mut out = LapinTable::default();
    for (name, value) in table.iter() {
        out.insert(short(name, "an argument's name")?, value_out(value, depth)?);
    }
    Ok(out)
}

fn value_out(value: &FieldValue, depth: usize) -> Result<AMQPValue, Unencodable> {
    if depth > NESTING_MAX {
        return Err(format!("arguments nest deeper than {NESTING_MAX} levels"));
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

/// The limit of deliveries that takes RabbitMQ's own default away, where its version has one: 4.x drops a message of a
/// quorum queue after 20 returns to it, 3.x has no limit, and would take −1 for one that is always reached.
pub(super) fn no_delivery_limit(server: &Server) -> Option<FieldValue> {
    (major(server)? >= 4).then_some(FieldValue::I64(-1))
}

/// The first number of the version.
fn major(server: &Server) -> Option<u32> {
    server.version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(levels: usize) -> FieldValue {
        (0..levels).fold(FieldValue::Void, |inner, _| FieldValue::Array(vec![inner]))
    }

    #[test]
    fn nesting_up_to_the_limit_crosses_and_deeper_is_said() {
        let mut arguments = FieldTable::new();
        arguments.set("x", nested(NESTING_MAX));
        table_to_library(&arguments).unwrap();
        arguments.set("x", nested(NESTING_MAX + 1));
        assert!(table_to_library(&arguments).unwrap_err().contains("deeper"));
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
