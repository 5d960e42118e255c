//! A message that somebody asks about: what `explain` is given, made into what the table routes.
//!
//! Shared by the admin endpoint and the command, so that both mean the same by `uid=10086`.

use crate::amqp::{FieldTable, FieldValue, Properties, RawProperties};
use crate::model::{Address, Message, SourceName, UnitId};
use crate::routing::{Explanation, Table, explain};
use crate::rules::Take;
use bytes::Bytes;
use std::str::FromStr;

/// A header of the message: `name=text` is a string, `name:=value` a JSON value (number, true, false, null, array,
/// object), as HTTPie writes them.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value, typed.
    pub value: FieldValue,
}

/// The message asked about.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// As published.
    pub routing_key: String,
    /// In the order given.
    pub headers: Vec<Header>,
    /// For keys that are taken from it.
    pub body: Vec<u8>,
}

impl Question {
    /// As files of messages have it: headers by name, as JSON; a body that is a text is that text, any other is JSON.
    pub fn of(
        routing_key: String,
        headers: &serde_json::Map<String, serde_json::Value>,
        body: &serde_json::Value,
    ) -> Result<Self, QuestionError> {
        let headers = headers
            .iter()
            .map(|(name, value)| Header::from_json(name, value));
        Ok(Self {
            routing_key,
            headers: headers.collect::<Result<_, _>>()?,
            body: match body {
                serde_json::Value::Null => Vec::new(),
                serde_json::Value::String(text) => text.clone().into_bytes(),
                other => other.to_string().into_bytes(),
            },
        })
    }
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// Not in the table.
    #[error("there is no source {source:?}; the table has: {known}", source = .source_name.as_str())]
    UnknownSource {
        /// As asked.
        source_name: SourceName,
        /// Those that exist.
        known: String,
    },
    /// Not in the table.
    #[error("there is no unit {unit}; the table has: {known}")]
    UnknownUnit {
        /// As asked.
        unit: UnitId,
        /// Those that exist.
        known: String,
    },
    /// No `=`, JSON that is none, or what AMQP has no room for.
    #[error("{text:?} is no header: {why}")]
    BadHeader {
        /// As given.
        text: String,
        /// What is wrong.
        why: String,
    },
    /// AMQP allows 255 bytes.
    #[error("the {what} has {bytes} bytes; AMQP allows 255")]
    TooLong {
        /// Routing key or header name.
        what: &'static str,
        /// How many.
        bytes: usize,
    },
}

impl QuestionError {
    /// What to do about it.
    pub fn mend(&self) -> &'static str {
        match self {
            Self::UnknownSource { .. } => "name one of these sources",
            Self::UnknownUnit { .. } => "name one of these units",
            Self::BadHeader { .. } => {
                "write name=text for a string, name:=5 or name:=true for a JSON value"
            }
            Self::TooLong { .. } => "shorten it",
        }
    }
}

impl FromStr for Header {
    type Err = QuestionError;

    fn from_str(text: &str) -> Result<Self, QuestionError> {
        let refuse = |why: String| QuestionError::BadHeader {
            text: text.to_owned(),
            why,
        };
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| refuse("there is no '='".to_owned()))?;
        let Some(typed) = name.strip_suffix(':') else {
            return Self::named(name, FieldValue::str(value));
        };
        let json = serde_json::from_str(value)
            .map_err(|error| refuse(format!("{value:?} is no JSON: {error}")))?;
        Self::from_json(typed, &json)
    }
}

impl Header {
    fn named(name: &str, value: FieldValue) -> Result<Self, QuestionError> {
        match name.len() {
            0 => Err(QuestionError::BadHeader {
                text: String::new(),
                why: "its name is empty".to_owned(),
            }),
            1..=255 => Ok(Self {
                name: name.to_owned(),
                value,
            }),
            bytes => Err(QuestionError::TooLong {
                what: "header name",
                bytes,
            }),
        }
    }

    /// A header with a JSON value: integers become AMQP's signed 64 bits, other numbers doubles.
    pub fn from_json(name: &str, value: &serde_json::Value) -> Result<Self, QuestionError> {
        let value = field(value).ok_or_else(|| QuestionError::BadHeader {
            text: name.to_owned(),
            why: "an integer beyond 64 signed bits, or too many levels".to_owned(),
        })?;
        Self::named(name, value)
    }
}

/// `None` for what AMQP has no type for. serde_json stops at 128 levels by itself.
fn field(value: &serde_json::Value) -> Option<FieldValue> {
    use serde_json::Value;
    Some(match value {
        Value::Null => FieldValue::Void,
        Value::Bool(value) => FieldValue::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.is_u64()) {
            (Some(integer), _) => FieldValue::I64(integer),
            (None, true) => return None,
            (None, false) => FieldValue::F64(number.as_f64()?),
        },
        Value::String(text) => FieldValue::str(text),
        Value::Array(items) => FieldValue::Array(items.iter().map(field).collect::<Option<_>>()?),
        Value::Object(entries) => {
            let mut table = FieldTable::new();
            for (name, value) in entries {
                table.push(Bytes::copy_from_slice(name.as_bytes()), field(value)?);
            }
            FieldValue::Table(table)
        }
    })
}

/// Answers a question by a table, for a message published in unit `from`.
pub fn answer(
    table: &Table,
    source: &SourceName,
    from: &UnitId,
    question: Question,
) -> Result<Explanation, QuestionError> {
    let known = |names: Vec<&str>| names.join(", ");
    let found = table
        .source(source)
        .ok_or_else(|| QuestionError::UnknownSource {
            source_name: source.clone(),
            known: known(
                table
                    .sources()
                    .iter()
                    .map(|source| source.name.as_str())
                    .collect(),
            ),
        })?;
    if table.unit(from).is_none() {
        return Err(QuestionError::UnknownUnit {
            unit: from.clone(),
            known: known(
                table
                    .units()
                    .iter()
                    .map(|unit| unit.name.as_str())
                    .collect(),
            ),
        });
    }
    if question.routing_key.len() > 255 {
        return Err(QuestionError::TooLong {
            what: "routing key",
            bytes: question.routing_key.len(),
        });
    }
    let exchange = match &found.take {
        Take::Exchange { exchange, .. } => Bytes::copy_from_slice(exchange.as_bytes()),
        // What lies in a queue may have come from anywhere.
        Take::Queue { .. } => Bytes::new(),
    };
    let mut properties = Properties::default();
    if !question.headers.is_empty() {
        let headers = properties.headers_mut();
        for Header { name, value } in question.headers {
            headers.push(Bytes::from(name.into_bytes()), value);
        }
    }
    let properties = RawProperties::of(&properties).map_err(|error| QuestionError::BadHeader {
        text: "one of the headers".to_owned(),
        why: error.to_string(),
    })?;
    let message = Message {
        address: Address {
            exchange,
            routing_key: Bytes::from(question.routing_key.into_bytes()),
        },
        properties,
        body: Bytes::from(question.body),
        redelivered: false,
    };
    Ok(explain(table, found, from, &message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_a_string_unless_it_says_otherwise() {
        let parse = |text: &str| {
            text.parse::<Header>()
                .map(|header| (header.name, header.value))
        };
        assert_eq!(
            parse("uid=10086"),
            Ok(("uid".to_owned(), FieldValue::str("10086")))
        );
        assert_eq!(
            parse("uid:=10086"),
            Ok(("uid".to_owned(), FieldValue::I64(10086)))
        );
        assert_eq!(
            parse("vip:=true"),
            Ok(("vip".to_owned(), FieldValue::Bool(true)))
        );
        assert_eq!(parse("a=b=c"), Ok(("a".to_owned(), FieldValue::str("b=c"))));
        assert_eq!(
            parse("empty="),
            Ok(("empty".to_owned(), FieldValue::str("")))
        );
        for wrong in ["uid", "=5", "uid:=ten", "n:=18446744073709551615"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
