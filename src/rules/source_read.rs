//! How the document `source` is read.
//!
//! Fields that exist and aren't enforced by this version are read too, and refused when they say anything but their
//! default.

use super::fault::{Fault, FaultCode, Placed};
use super::fields::{self, Fields};
use super::json_pointer::{JsonPointer, PointerFault};
use super::source::{
    Binding, Deliver, Divert, DivertFull, Duplicates, IdFrom, Key, KeyFrom, KeyMap, PARTITIONS_MAX,
    QueueType, Source, Take,
};
use super::tree::{Node, Value};
use crate::amqp::{FieldTable, FieldValue};
use crate::model::{SourceName, UnitId};
use std::time::Duration;

/// Longest last digits: what 64 bits hold.
const LAST_DIGITS_MAX: i64 = 18;

pub(super) fn read(mut fields: Fields, faults: &mut Vec<Fault>) -> Option<Source> {
    let place = fields.place().clone();
    let name = fields.must("name", faults, |node, faults| {
        fields::name(node, "the source", SourceName::parse, faults)
    });
    let units = fields
        .optional("units")
        .and_then(|node| fields::names(node, "unit", UnitId::parse, faults));
    let vhost = fields
        .optional("vhost")
        .and_then(|node| fields::short(node, "the vhost", faults))
        .map(|vhost| vhost.value);
    let take = fields.must("take", faults, read_take);
    let deliver = fields
        .optional("deliver")
        .and_then(|node| read_deliver(node, faults));
    let returns = fields
        .optional("returns")
        .and_then(|node| read_returns(node, faults));
    let queue_type = fields.or("queue_type", QueueType::Quorum, faults, |node, faults| {
        let words = [
            ("quorum", QueueType::Quorum),
            ("classic", QueueType::Classic),
        ];
        fields::word(node, "`queue_type`", &words, faults)
    });
    let one = Placed {
        value: 1,
        place: place.clone(),
    };
    let partitions = fields.or("partitions", one, faults, read_partitions);
    let mut key_place = place;
    let key = fields.optional("key").map(|node| {
        key_place = node.place.clone();
        read_key(node, faults)
    });
    let duplicates = fields.or("duplicates", Duplicates::default(), faults, read_duplicates);
    let divert = fields.or("divert", Divert::default(), faults, read_divert);
    let retired = fields.or("retired", false, faults, |node, faults| {
        fields::truth(node, "`retired`", faults)
    });
    refuse_later(&mut fields, faults);
    fields.end(faults);
    Some(Source {
        name: name?,
        units,
        vhost,
        take: take?,
        deliver,
        returns,
        partitions,
        queue_type,
        // A key that can't be read has its fault already; the default keeps the source for the other checks.
        key: key.flatten().unwrap_or_default(),
        key_place: Placed {
            value: (),
            place: key_place,
        },
        duplicates,
        divert,
        retired,
    })
}

/// What a source may say one day.
fn refuse_later(fields: &mut Fields, faults: &mut Vec<Fault>) {
    if let Some(node) = fields.optional("messages_per_second")
        && node.value != Value::Text("unlimited".to_owned())
    {
        faults.push(fields::not_yet(
            &node.place,
            "`messages_per_second`",
            "unlimited",
        ));
    }
}

fn read_partitions(node: Node, faults: &mut Vec<Fault>) -> Option<Placed<u16>> {
    let range = (1, i64::from(PARTITIONS_MAX));
    let read = fields::whole(node, "`partitions`", range, faults)?;
    Some(Placed {
        value: u16::try_from(read.value).ok()?,
        place: read.place,
    })
}

fn read_take(node: Node, faults: &mut Vec<Fault>) -> Option<Placed<Take>> {
    let mut fields = Fields::of(node, "`take`", faults)?;
    let place = fields.place().clone();
    let exchange = fields
        .optional("exchange")
        .map(|node| fields::short(node, "the exchange", faults));
    let queue = fields
        .optional("queue")
        .map(|node| fields::short(node, "the queue", faults));
    let bindings = fields.optional("bindings").map(|node| {
        let place = node.place.clone();
        let items = fields::list(node, "`bindings`", faults)?;
        if items.is_empty() {
            faults.push(fields::bad_value(
                &place,
                "no binding, so nothing would be taken",
                "add one, such as {routing_key: \"#\"}",
            ));
        }
        let read: Vec<_> = items
            .into_iter()
            .map(|item| read_binding(item, faults))
            .collect();
        read.into_iter().collect::<Option<Vec<_>>>()
    });
    fields.end(faults);
    let fault = |message, mend| Fault::at(&place, FaultCode::MissingField, message, mend);
    let take = match (exchange, queue, bindings) {
        (Some(exchange), None, Some(bindings)) => {
            let exchange = exchange?;
            if exchange.value.is_empty() {
                faults.push(fields::bad_value(
                    &exchange.place,
                    "the default exchange takes no bindings",
                    "take from the queue instead: {queue: NAME}",
                ));
                return None;
            }
            Take::Exchange {
                exchange: exchange.value,
                bindings: bindings?,
            }
        }
        (None, Some(queue), None) => {
            let queue = queue?;
            if queue.value.is_empty() {
                faults.push(fields::bad_value(
                    &queue.place,
                    "a queue has a name",
                    "name a queue that exists",
                ));
                return None;
            }
            Take::Queue { queue: queue.value }
        }
        (Some(_), None, None) => {
            faults.push(fault(
                "an exchange is taken through bindings",
                "add bindings, such as [{routing_key: \"#\"}]",
            ));
            return None;
        }
        (None, None, _) => {
            faults.push(fault(
                "`take` needs an `exchange` or a `queue`",
                "write {exchange: NAME, bindings: [..]} or {queue: NAME}",
            ));
            return None;
        }
        (Some(_), Some(_), _) | (None, Some(_), Some(_)) => {
            faults.push(fields::bad_value(
                &place,
                "`take` is either an exchange with bindings or a queue",
                "keep one of them",
            ));
            return None;
        }
    };
    Some(Placed { value: take, place })
}

fn read_binding(node: Node, faults: &mut Vec<Fault>) -> Option<Binding> {
    let mut fields = Fields::of(node, "a binding", faults)?;
    let routing_key = fields.or(
        "routing_key",
        Some(String::new()),
        faults,
        |node, faults| {
            let read = fields::short(node, "the binding's routing key", faults);
            Some(read.map(|key| key.value))
        },
    );
    let arguments = fields.or(
        "arguments",
        Some(FieldTable::new()),
        faults,
        |node, faults| Some(read_arguments(node, faults)),
    );
    fields.end(faults);
    Some(Binding {
        routing_key: routing_key?,
        arguments: arguments?,
    })
}

fn read_arguments(node: Node, faults: &mut Vec<Fault>) -> Option<FieldTable> {
    let entries = match node.value {
        Value::Map(entries) => entries,
        other => {
            let fault = fields::wrong_type(&node.place, "`arguments`", &other, "a mapping");
            faults.push(fault);
            return None;
        }
    };
    let mut table = FieldTable::new();
    for (name, value) in entries {
        if !fields::fits_short(&name, "the argument's name", faults) {
            return None;
        }
        let field = match value.value {
            Value::Bool(v) => FieldValue::Bool(v),
            // The widths that clients choose: what binds and what is published then compare equal.
            Value::Int(v) => match (i32::try_from(v), i64::try_from(v)) {
                (Ok(v), _) => FieldValue::I32(v),
                (Err(_), Ok(v)) => FieldValue::I64(v),
                (Err(_), Err(_)) => {
                    faults.push(fields::bad_value(
                        &value.place,
                        "the number is wider than 64 bits",
                        "put it in quotes, or choose a smaller one",
                    ));
                    return None;
                }
            },
            Value::Float(v) => FieldValue::F64(v),
            Value::Text(v) => FieldValue::str(v),
            other @ (Value::Null | Value::List(_) | Value::Map(_)) => {
                let what = format!("the argument {}", name.value);
                faults.push(fields::wrong_type(
                    &value.place,
                    &what,
                    &other,
                    "a text, a number, true or false",
                ));
                return None;
            }
        };
        table.set(&name.value, field);
    }
    Some(table)
}

/// `{exchange: NAME}`, with `routing_key: keep` or another.
pub(super) fn read_deliver(node: Node, faults: &mut Vec<Fault>) -> Option<Placed<Deliver>> {
    let mut fields = Fields::of(node, "`deliver`", faults)?;
    let place = fields.place().clone();
    let exchange = fields.must("exchange", faults, |node, faults| {
        fields::short(node, "the exchange", faults)
    });
    let routing_key = fields
        .optional("routing_key")
        .map(|node| fields::short(node, "the routing key", faults));
    fields.end(faults);
    let routing_key = match routing_key {
        None => None,
        Some(read) => Some(read?.value).filter(|key| key != "keep"),
    };
    Some(Placed {
        value: Deliver {
            exchange: exchange?.value,
            routing_key,
        },
        place,
    })
}

/// `{exchange: NAME}`: the routing key of what is returned stays its own.
fn read_returns(node: Node, faults: &mut Vec<Fault>) -> Option<Placed<String>> {
    let mut fields = Fields::of(node, "`returns`", faults)?;
    let exchange = fields.must("exchange", faults, |node, faults| {
        fields::short(node, "the exchange", faults)
    });
    fields.end(faults);
    exchange
}

fn read_key(node: Node, faults: &mut Vec<Fault>) -> Option<Key> {
    let mut fields = Fields::of(node, "`key`", faults)?;
    let from = fields.must("from", faults, |node, faults| {
        let place = node.place.clone();
        let items = fields::list(node, "`from`", faults)?;
        if items.is_empty() {
            faults.push(fields::bad_value(
                &place,
                "the key comes from nowhere",
                "add a place, such as {header: uid}",
            ));
        }
        let mut found = Vec::new();
        for item in items {
            found.extend(read_key_from(item, faults));
        }
        Some(found)
    });
    let map = fields.or("map", KeyMap::Hash, faults, read_map);
    fields.end(faults);
    Some(Key { from: from?, map })
}

fn read_key_from(node: Node, faults: &mut Vec<Fault>) -> Option<KeyFrom> {
    let mut fields = Fields::of(node, "a place of the key", faults)?;
    let place = fields.place().clone();
    let mut found = Vec::new();
    let mut broken = false;
    if let Some(node) = fields.optional("header") {
        match fields::short(node, "the header's name", faults) {
            Some(name) => found.push(KeyFrom::Header(name.value)),
            None => broken = true,
        }
    }
    if let Some(node) = fields.optional("routing_key_word") {
        // A routing key of 255 bytes has at most 256 words.
        match fields::whole(node, "`routing_key_word`", (1, 255), faults)
            .and_then(|word| u8::try_from(word.value).ok())
        {
            Some(word) => found.push(KeyFrom::RoutingKeyWord(word)),
            None => broken = true,
        }
    }
    if let Some(node) = fields.optional("routing_key") {
        match fields::word(node, "`routing_key`", &[("whole", ())], faults) {
            Some(()) => found.push(KeyFrom::RoutingKey),
            None => broken = true,
        }
    }
    if let Some(node) = fields.optional("json") {
        match read_pointer(node, faults) {
            Some(pointer) => found.push(KeyFrom::Json(pointer)),
            None => broken = true,
        }
    }
    fields.end(faults);
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Some(one),
        (None, _) if broken => None,
        _ => {
            faults.push(fields::bad_value(
                &place,
                "a place of the key is one of header, routing_key_word, routing_key, json",
                "write one of them per entry of the list",
            ));
            None
        }
    }
}

fn read_pointer(node: Node, faults: &mut Vec<Fault>) -> Option<JsonPointer> {
    let text = fields::short(node, "`json`", faults)?;
    let (message, mend) = match JsonPointer::parse(&text.value) {
        Ok(pointer) => return Some(pointer),
        Err(PointerFault::NoSlash) => (
            "a JSON pointer begins with a slash",
            "write a path from the top of the body, such as /user/id",
        ),
        Err(PointerFault::Tilde) => (
            "a tilde in a JSON pointer stands before 0 or 1",
            "write ~0 for a tilde and ~1 for a slash in a name",
        ),
        Err(PointerFault::Deep) => (
            "the JSON pointer goes down more than 64 levels",
            "have the publisher put the key nearer to the top, or into a header",
        ),
    };
    faults.push(fields::bad_value(&text.place, message, mend));
    None
}

fn read_map(node: Node, faults: &mut Vec<Fault>) -> Option<KeyMap> {
    if matches!(node.value, Value::Map(_)) {
        let mut fields = Fields::of(node, "`map`", faults)?;
        let digits = fields.must("last_digits", faults, |node, faults| {
            fields::whole(node, "`last_digits`", (1, LAST_DIGITS_MAX), faults)
        });
        fields.end(faults);
        return u8::try_from(digits?.value).ok().map(KeyMap::LastDigits);
    }
    let words = [
        ("hash", KeyMap::Hash),
        ("crc32", KeyMap::Crc32),
        ("digits", KeyMap::Digits),
    ];
    fields::word(node, "`map`", &words, faults)
}

fn read_duplicates(node: Node, faults: &mut Vec<Fault>) -> Option<Duplicates> {
    if matches!(node.value, Value::Text(_)) {
        return fields::word(node, "`duplicates`", &[("off", ())], faults)
            .map(|()| Duplicates::Off);
    }
    let mut fields = Fields::of(node, "`duplicates`", faults)?;
    let id = fields.or("id", IdFrom::MessageId, faults, |node, faults| {
        if !matches!(node.value, Value::Map(_)) {
            return fields::word(node, "`id`", &[("message-id", ())], faults)
                .map(|()| IdFrom::MessageId);
        }
        let mut fields = Fields::of(node, "`id`", faults)?;
        let header = fields.must("header", faults, |node, faults| {
            fields::short(node, "the header's name", faults)
        });
        fields.end(faults);
        Some(IdFrom::Header(header?.value))
    });
    let window = fields.or("window", Duration::from_mins(10), faults, |node, faults| {
        fields::duration(&node, "`window`", faults)
    });
    fields.end(faults);
    Some(Duplicates::ById { id, window })
}

fn read_divert(node: Node, faults: &mut Vec<Fault>) -> Option<Divert> {
    let mut fields = Fields::of(node, "`divert`", faults)?;
    let default = Divert::default();
    let bytes_max = fields.or("max", default.bytes_max, faults, |node, faults| {
        fields::bytes(&node, "`max`", faults)
    });
    let full = fields.or("full", default.full, faults, |node, faults| {
        let words = [("stop", DivertFull::Stop), ("park", DivertFull::Park)];
        fields::word(node, "`full`", &words, faults)
    });
    fields.end(faults);
    Some(Divert { bytes_max, full })
}
