//! A message in the park as an operator sees it, and what is asked for.

use crate::amqp::{FieldTable, FieldValue, Properties, RawValue};
use crate::lane::{Kept, NotWrapped, Unwrapped, unwrap, unwrap_head};
use crate::model::marks::X_SET_SEAL;
use crate::model::{Message, Reason, RuleName, SealKeys, SourceName, UnitId};
use base64::Engine as _;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Which parked messages are meant: those for which all holds that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Parked by this rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleName>,
    /// For this reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Taken by this source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceName>,
    /// Parked at this second since 1970 or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// With this id, or this handle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// One parked message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its application's id, absent when it has none.
    pub id: Option<String>,
    /// Names it whether it has an id or not, for as long as it lies there.
    pub handle: String,
    /// The unit in whose park it lies.
    pub unit: UnitId,
    /// The virtual host.
    pub vhost: String,
    /// What took it.
    pub source: Option<SourceName>,
    /// The rule that sent it here, where one did.
    pub rule: Option<RuleName>,
    /// Why it lies here. Absent when its seal doesn't hold, and with it all that its marks say.
    pub reason: Option<Reason>,
    /// The unit where it was published first.
    pub origin: Option<UnitId>,
    /// Since when, as RFC 3339 has it.
    pub at: Option<String>,
    /// Of its body.
    pub bytes: u64,
    /// How often it has been retried.
    pub retry: u32,
}

/// A delivery of the park queue, read.
pub(super) struct Read {
    pub(super) entry: Entry,
    /// What its marks say, or why they don't count.
    pub(super) wrapped: Result<Unwrapped, NotWrapped>,
}

/// What of a parked message's body there is.
#[derive(Debug, Clone, Copy)]
pub(super) enum BodyAt {
    /// All of it, in the message.
    Hand,
    /// It comes in pieces, so many bytes of them.
    Pieces(u64),
}

/// Reads a delivery of the park queue.
pub(super) fn read(
    message: &Message,
    body: BodyAt,
    keys: &SealKeys,
    unit: &UnitId,
    vhost: &str,
) -> Read {
    let (wrapped, outer_bytes) = match body {
        BodyAt::Hand => (unwrap(message, keys), message.body.len() as u64),
        BodyAt::Pieces(bytes) => (unwrap_head(message, bytes, keys), bytes),
    };
    let known = wrapped.as_ref().ok();
    let parked = known.and_then(|known| match &known.kept {
        Kept::Parked { reason, rule } => Some((reason, rule)),
        Kept::Diverted(_) | Kept::Replayed | Kept::Marker { .. } => None,
    });
    let bytes = match (known, body) {
        (Some(known), BodyAt::Hand) => known.message.body.len() as u64,
        (_, _) => outer_bytes,
    };
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let entry = Entry {
        id: known.and_then(|known| known.id.as_ref().map(|id| text(&id.0))),
        handle: handle(message, outer_bytes),
        unit: unit.clone(),
        vhost: vhost.to_owned(),
        source: known.map(|known| known.source.clone()),
        rule: parked.and_then(|(_, rule)| rule.clone()),
        reason: parked.map(|(reason, _)| *reason),
        origin: known.map(|known| known.path.first().unwrap_or(&known.from).clone()),
        at: known.map(|known| time(known.at)),
        bytes,
        retry: known.map_or(0, |known| known.retry.0),
    };
    Read { entry, wrapped }
}

impl Read {
    pub(super) fn is_meant(&self, filter: &Filter) -> bool {
        let Filter {
            rule,
            reason,
            source,
            since,
            id,
        } = filter;
        let entry = &self.entry;
        let at = self.wrapped.as_ref().ok().map(|known| known.at);
        (rule.is_none() || entry.rule == *rule)
            && (reason.is_none() || entry.reason == *reason)
            && (source.is_none() || entry.source == *source)
            && since.is_none_or(|since| at.is_some_and(|at| at >= since))
            && id
                .as_ref()
                .is_none_or(|id| entry.handle == *id || entry.id.as_ref() == Some(id))
    }
}

/// The beginning of its seal: over all marks, the id and the body, so that only what is alike in all has the same. What
/// has no seal is told apart by its body; its headers change each time that a queue hands it out.
fn handle(message: &Message, body_bytes: u64) -> String {
    let seal = message.properties.header(X_SET_SEAL);
    let seal = seal.and_then(RawValue::as_bytes);
    let hash = match seal.and_then(<[u8]>::first_chunk::<8>) {
        Some(seal) => *seal,
        None => xxhash_rust::xxh3::xxh3_64_with_seed(&message.body, body_bytes).to_be_bytes(),
    };
    hash.iter()
        .fold(String::with_capacity(16), |mut hex, byte| {
            // Writing to a string can't fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok();
    let time = time.and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| seconds.to_string(), |time| time.to_string())
}

/// How much of a body is shown.
pub(super) const SHOWN_BYTES: usize = 4 << 10;

/// All that is known of one parked message; `beginning` is that of its body as it lies there.
pub(super) fn shown(read: &Read, message: &Message, beginning: &[u8]) -> Value {
    let (original, beginning) = match &read.wrapped {
        Ok(unwrapped) if !unwrapped.message.body.is_empty() => {
            (&unwrapped.message, &unwrapped.message.body[..])
        }
        Ok(unwrapped) => (&unwrapped.message, beginning),
        Err(_) => (message, beginning),
    };
    let beginning = beginning.get(..SHOWN_BYTES).unwrap_or(beginning);
    let known = read.wrapped.as_ref().ok();
    let path = known.map(|known| known.path.clone());
    json!({
        "entry": read.entry,
        "unsealed": read.wrapped.as_ref().err().map(ToString::to_string),
        "exchange": String::from_utf8_lossy(&original.address.exchange),
        "routing_key": String::from_utf8_lossy(&original.address.routing_key),
        "user_id": known.and_then(|known| known.user_id.as_ref()).map(|user| String::from_utf8_lossy(user)),
        "path": path,
        "round": known.map(|known| known.round.0),
        "properties": match original.properties.decode() {
            Ok(properties) => properties_json(&properties),
            Err(error) => json!({"unreadable": error.to_string()}),
        },
        "body": std::str::from_utf8(utf8_part(beginning)).ok(),
        "body_base64": base64::engine::general_purpose::STANDARD.encode(beginning),
    })
}

/// Without the character that the end of what is shown has cut in two.
fn utf8_part(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => {
            bytes.get(..error.valid_up_to()).unwrap_or(bytes)
        }
        Ok(_) | Err(_) => bytes,
    }
}

fn properties_json(properties: &Properties) -> Value {
    let Properties {
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
    } = properties;
    let mut out = serde_json::Map::new();
    for (name, text) in [
        ("content_type", content_type),
        ("content_encoding", content_encoding),
        ("correlation_id", correlation_id),
        ("reply_to", reply_to),
        ("expiration", expiration),
        ("message_id", message_id),
        ("type", kind),
        ("user_id", user_id),
        ("app_id", app_id),
        ("cluster_id", cluster_id),
    ] {
        if let Some(text) = text {
            out.insert(name.to_owned(), lossy(text));
        }
    }
    for (name, number) in [
        ("delivery_mode", delivery_mode.map(u64::from)),
        ("priority", priority.map(u64::from)),
        ("timestamp", *timestamp),
    ] {
        if let Some(number) = number {
            out.insert(name.to_owned(), json!(number));
        }
    }
    if let Some(headers) = headers {
        out.insert("headers".to_owned(), table_json(headers));
    }
    Value::Object(out)
}

fn lossy(bytes: &Bytes) -> Value {
    Value::String(String::from_utf8_lossy(bytes).into_owned())
}

/// A name that is repeated shows its first value, as readers of headers see it.
fn table_json(table: &FieldTable) -> Value {
    let mut out = serde_json::Map::new();
    for (name, value) in table.iter() {
        let name = String::from_utf8_lossy(name).into_owned();
        out.entry(name).or_insert_with(|| value_json(value));
    }
    Value::Object(out)
}

/// For people's eyes: widths of integers aren't shown, and bytes that are no text only by what can be read of them.
fn value_json(value: &FieldValue) -> Value {
    match value {
        FieldValue::Bool(value) => json!(value),
        FieldValue::I8(value) => json!(value),
        FieldValue::U8(value) => json!(value),
        FieldValue::I16(value) => json!(value),
        FieldValue::U16(value) => json!(value),
        FieldValue::I32(value) => json!(value),
        FieldValue::U32(value) => json!(value),
        FieldValue::I64(value) => json!(value),
        FieldValue::F32(value) => json!(value),
        FieldValue::F64(value) => json!(value),
        FieldValue::Decimal { scale, value } => json!(format!("{value}e-{scale}")),
        FieldValue::Str(bytes) | FieldValue::Bytes(bytes) => lossy(bytes),
        FieldValue::Timestamp(seconds) => json!(time(*seconds)),
        FieldValue::Void => Value::Null,
        FieldValue::Array(values) => values.iter().map(value_json).collect(),
        FieldValue::Table(table) => table_json(table),
    }
}
