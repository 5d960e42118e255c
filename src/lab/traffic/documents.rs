//! The documents in etcd, read as a bystander would: as plain YAML, over etcd's own HTTP gateway.
//!
//! Owns no more than one reading. Never uses the gateways' etcd shell, parser or routing: what judges them must not
//! share their faults.

use super::TrafficError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A space's documents are a few hundred KiB; etcd's answer wraps them in base64.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// On loopback etcd answers in a millisecond; one that is frozen never does.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);

/// Where a space's documents are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdPlace {
    /// `http://host:port`, tried in turn.
    pub urls: Vec<String>,
    /// The space.
    pub space: String,
    /// Gateways' last good tables on disk, for when no endpoint answers: traffic goes on without etcd, and so must its
    /// account.
    pub saved: Vec<PathBuf>,
}

impl EtcdPlace {
    fn prefix(&self) -> String {
        format!("/setgate/{}/", self.space)
    }
}

/// How a source makes a slot of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyMap {
    /// xxh3-64, seed 0.
    #[default]
    Hash,
    /// CRC-32/ISO-HDLC.
    Crc32,
    /// The whole key is a number.
    Digits,
    /// The number that its last digits are.
    LastDigits(usize),
}

/// What the run needs of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) exchange: String,
    /// That of the source, and those of its rules.
    pub(super) deliver: Vec<String>,
    /// A routing key that the source takes, with `{region}` in it.
    pub(super) routing_key: String,
    pub(super) map: KeyMap,
}

/// The live placement and seats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) epoch: Option<u64>,
    pub(super) slots: u64,
    /// First slot, last slot, unit.
    pub(super) ranges: Vec<(u64, u64, String)>,
    pub(super) pins: BTreeMap<String, String>,
    pub(super) stand_ins: BTreeMap<String, String>,
}

/// One reading of everything below a space's prefix, at one revision.
#[derive(Debug)]
pub(super) struct Documents {
    prefix: String,
    entries: BTreeMap<String, String>,
}

/// Reads a space from the first endpoint that answers.
pub(super) async fn fetch(place: &EtcdPlace) -> Result<Documents, TrafficError> {
    let prefix = place.prefix();
    let mut failure = TrafficError::Etcd {
        url: "no endpoint".to_owned(),
        prefix: prefix.clone(),
        cause: "lab.json names no etcd".to_owned(),
    };
    for url in &place.urls {
        match tokio::time::timeout(ANSWER_TIME_MAX, range(url, &prefix)).await {
            Ok(Ok(entries)) => return Ok(Documents { prefix, entries }),
            Ok(Err(cause)) => {
                failure = TrafficError::Etcd {
                    url: url.clone(),
                    prefix: prefix.clone(),
                    cause,
                }
            }
            Err(_) => {
                failure = TrafficError::Etcd {
                    url: url.clone(),
                    prefix: prefix.clone(),
                    cause: format!("no answer within {} s", ANSWER_TIME_MAX.as_secs()),
                }
            }
        }
    }
    let saved = place.saved.iter().find_map(|path| saved(path, &prefix));
    saved.ok_or(failure)
}

/// The part of a gateway's `table.json` that is read here.
#[derive(Deserialize)]
struct SavedTable {
    files: BTreeMap<String, String>,
    placement: String,
    seats: Value,
}

fn saved(path: &Path, prefix: &str) -> Option<Documents> {
    let text = std::fs::read(path).ok()?;
    let table: SavedTable = serde_json::from_slice(&text).ok()?;
    let files = table.files.into_iter();
    let mut entries: BTreeMap<_, _> = files
        .map(|(name, text)| (format!("{prefix}in-force/{name}"), text))
        .collect();
    entries.insert(format!("{prefix}placement"), table.placement);
    entries.insert(format!("{prefix}seats"), table.seats.to_string());
    Some(Documents {
        prefix: prefix.to_owned(),
        entries,
    })
}

#[derive(Deserialize)]
struct RangeAnswer {
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

#[derive(Deserialize)]
struct KeyValue {
    key: String,
    #[serde(default)]
    value: String,
}

/// One `range` over etcd's JSON gateway. Errors are causes, for the caller to say what was asked of whom.
async fn range(url: &str, prefix: &str) -> Result<BTreeMap<String, String>, String> {
    // The prefix ends in '/', so the first key behind it ends in the next character.
    let end = format!("{}0", prefix.trim_end_matches('/'));
    let question = json!({"key": BASE64.encode(prefix), "range_end": BASE64.encode(end)});
    let request = http::Request::post(format!("{}/v3/kv/range", url.trim_end_matches('/')))
        .body(Full::new(Bytes::from(question.to_string())))
        .map_err(|error| error.to_string())?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = client
        .request(request)
        .await
        .map_err(|error| in_full(&error))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await.map_err(|error| error.to_string())?;
    if !status.is_success() {
        return Err(format!("it answered {status}"));
    }
    let answer: RangeAnswer =
        serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string())?;
    let text = |encoded: &str| -> Result<String, String> {
        let bytes = BASE64.decode(encoded).map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    answer
        .kvs
        .iter()
        .map(|entry| Ok((text(&entry.key)?, text(&entry.value)?)))
        .collect()
}

/// hyper-util's `Display` says "client error (Connect)"; the reason is in its sources.
fn in_full(error: &hyper_util::client::legacy::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

impl Documents {
    /// The source of this name, from the files in force, or from the wished ones where none is in force yet.
    pub(super) fn source(&self, name: &str) -> Result<Source, TrafficError> {
        let mut documents = self.parse("in-force/")?;
        if documents.is_empty() {
            documents = self.parse("documents/")?;
        }
        let of_kind = |kind: &'static str| {
            documents
                .iter()
                .filter(move |document| document["kind"] == kind)
        };
        let Some(source) = of_kind("source").find(|document| document["name"] == name) else {
            let known: Vec<_> = of_kind("source")
                .filter_map(|s| s["name"].as_str())
                .collect();
            return Err(TrafficError::NoSource {
                name: name.to_owned(),
                prefix: self.prefix.clone(),
                known: known.join(", "),
            });
        };
        let Some(exchange) = source["take"]["exchange"].as_str() else {
            return Err(TrafficError::QueueSource {
                name: name.to_owned(),
            });
        };
        let deliveries = of_kind("rule")
            .filter(|rule| rule["source"] == name)
            .map(|rule| &rule["deliver"]["exchange"]);
        let mut deliver: Vec<String> = Vec::new();
        for at in std::iter::once(&source["deliver"]["exchange"]).chain(deliveries) {
            if let Some(at) = at.as_str()
                && !deliver.iter().any(|known| known == at)
            {
                deliver.push(at.to_owned());
            }
        }
        if deliver.is_empty() {
            // A shared source without `deliver` is consumed where it is published.
            deliver.push(exchange.to_owned());
        }
        let pattern = source["take"]["bindings"][0]["routing_key"].as_str();
        Ok(Source {
            exchange: exchange.to_owned(),
            deliver,
            routing_key: sample_routing_key(pattern.unwrap_or("#")),
            map: key_map(&source["key"]["map"]),
        })
    }

    /// The live placement and seats; `None` in a space that nobody has created.
    pub(super) fn placed(&self) -> Result<Option<Placed>, TrafficError> {
        let placement = self.parse("placement")?;
        let Some(placement) = placement.first() else {
            return Ok(None);
        };
        let seats = self
            .parse("seats")?
            .into_iter()
            .next()
            .unwrap_or(Value::Null);
        let fault = |cause: &str| TrafficError::Document {
            key: format!("{}placement", self.prefix),
            cause: cause.to_owned(),
        };
        let slots = placement["slots"].as_u64().filter(|slots| *slots > 0);
        let ranges = placement["ranges"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let ranges = ranges.iter().map(|range| {
            let unit = range["unit"].as_str()?.to_owned();
            let (first, last) = slot_range(&range["slots"])?;
            Some((first, last, unit))
        });
        let pins = placement["pins"].as_array().map_or(&[][..], Vec::as_slice);
        Ok(Some(Placed {
            epoch: seats["epoch"].as_u64(),
            slots: slots.ok_or_else(|| fault("`slots` is no number above 0"))?,
            ranges: ranges
                .collect::<Option<_>>()
                .ok_or_else(|| fault("a range lacks `slots: FIRST-LAST` or `unit`"))?,
            pins: pins
                .iter()
                .filter_map(|pin| pair(&pin["key"], &pin["unit"]))
                .collect(),
            stand_ins: seats["stand_ins"]
                .as_object()
                .into_iter()
                .flatten()
                .filter_map(|(home, seat)| Some((home.clone(), seat.as_str()?.to_owned())))
                .collect(),
        }))
    }

    /// Every YAML document whose key below the prefix is this one, or lies under it where it ends in '/'.
    fn parse(&self, under: &str) -> Result<Vec<Value>, TrafficError> {
        let at = format!("{}{under}", self.prefix);
        let mut documents = Vec::new();
        for (key, text) in &self.entries {
            if *key == at || (at.ends_with('/') && key.starts_with(&at)) {
                let parsed: Vec<Value> =
                    serde_saphyr::from_multiple(text).map_err(|error| TrafficError::Document {
                        key: key.clone(),
                        cause: error.to_string(),
                    })?;
                documents.extend(parsed);
            }
        }
        Ok(documents)
    }
}

fn pair(key: &Value, unit: &Value) -> Option<(String, String)> {
    Some((key.as_str()?.to_owned(), unit.as_str()?.to_owned()))
}

/// `0-3999`, or one slot alone.
fn slot_range(value: &Value) -> Option<(u64, u64)> {
    if let Some(slot) = value.as_u64() {
        return Some((slot, slot));
    }
    let text = value.as_str()?;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
}

fn key_map(map: &Value) -> KeyMap {
    let last_digits = map["last_digits"].as_u64();
    match (map.as_str(), last_digits) {
        (_, Some(count)) => KeyMap::LastDigits(usize::try_from(count).unwrap_or(usize::MAX)),
        (Some("crc32"), None) => KeyMap::Crc32,
        (Some("digits"), None) => KeyMap::Digits,
        (_, None) => KeyMap::Hash,
    }
}

/// A routing key that a topic pattern matches: `order.#` → `order.{region}.created`.
fn sample_routing_key(pattern: &str) -> String {
    let words: Vec<&str> = pattern
        .split('.')
        .map(|word| match word {
            "#" => "{region}.created",
            "*" => "{region}",
            word => word,
        })
        .collect();
    words.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(entries: &[(&str, &str)]) -> Documents {
        Documents {
            prefix: "/setgate/t/".to_owned(),
            entries: entries
                .iter()
                .map(|(key, text)| (format!("/setgate/t/{key}"), (*text).to_owned()))
                .collect(),
        }
    }

    const ORDERS: &str = "kind: source\nname: orders\ntake: {exchange: orders, bindings: [{routing_key: \"order.#\"}]}\n\
                          deliver: {exchange: orders.local}\nkey: {from: [{header: uid}], map: digits}\n---\n\
                          kind: rule\nname: vip\nsource: orders\norder: 1\nroute: owner\ndeliver: {exchange: orders.vip}\n";

    #[test]
    fn a_source_and_its_rules_say_where_to_publish_and_consume() {
        let source = documents(&[("in-force/all.yaml", ORDERS)])
            .source("orders")
            .unwrap();
        assert_eq!(
            source,
            Source {
                exchange: "orders".to_owned(),
                deliver: vec!["orders.local".to_owned(), "orders.vip".to_owned()],
                routing_key: "order.{region}.created".to_owned(),
                map: KeyMap::Digits,
            }
        );
    }

    #[test]
    fn an_unknown_source_is_named_with_those_that_are_there() {
        let error = documents(&[("in-force/all.yaml", ORDERS)])
            .source("catalog")
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("catalog") && text.contains("orders"),
            "{text}"
        );
    }

    #[test]
    fn the_live_placement_is_read_with_its_seats() {
        let read = documents(&[
            (
                "placement",
                "kind: placement\nslots: 10\nranges:\n  - {slots: 0-7, unit: a}\n  - {slots: 8-9, unit: b}\n",
            ),
            (
                "seats",
                r#"{"lineage":"x","epoch":4,"stand_ins":{"b":"a"}}"#,
            ),
        ]);
        let placed = read.placed().unwrap().unwrap();
        assert_eq!((placed.epoch, placed.slots), (Some(4), 10));
        assert_eq!(placed.ranges[1], (8, 9, "b".to_owned()));
        assert_eq!(placed.stand_ins["b"], "a");
        assert_eq!(documents(&[]).placed().unwrap(), None);
    }
}
