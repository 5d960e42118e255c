//! RabbitMQ's definitions export, as far as it is about carrying messages elsewhere.

use serde::Deserialize;
use serde_json::{Map, Value};

/// What is read of an export; all else stays in the broker.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Definitions {
    #[serde(default)]
    pub(super) parameters: Vec<Parameter>,
    #[serde(default)]
    pub(super) policies: Vec<Policy>,
    #[serde(default)]
    pub(super) exchanges: Vec<Exchange>,
    #[serde(default)]
    pub(super) queues: Vec<Queue>,
    #[serde(default)]
    pub(super) bindings: Vec<Binding>,
}

/// A runtime parameter: an upstream, a set of them, a dynamic shovel, or something else.
#[derive(Debug, Deserialize)]
pub(super) struct Parameter {
    pub(super) component: String,
    pub(super) vhost: String,
    pub(super) name: String,
    pub(super) value: Value,
}

#[derive(Debug, Deserialize)]
pub(super) struct Policy {
    pub(super) vhost: String,
    pub(super) name: String,
    pub(super) pattern: String,
    #[serde(rename = "apply-to", default = "all")]
    pub(super) apply_to: String,
    #[serde(default)]
    pub(super) priority: i64,
    pub(super) definition: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Exchange {
    pub(super) vhost: String,
    pub(super) name: String,
    #[serde(rename = "type", default)]
    pub(super) kind: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Queue {
    pub(super) vhost: String,
    pub(super) name: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Binding {
    pub(super) vhost: String,
    pub(super) source: String,
    #[serde(default)]
    pub(super) routing_key: String,
    #[serde(default)]
    pub(super) arguments: Map<String, Value>,
}

fn all() -> String {
    "all".to_owned()
}

impl Policy {
    /// Whether it is about exchanges, or about queues.
    pub(super) fn applies_to(&self, what: &str) -> bool {
        self.apply_to == "all" || self.apply_to == what
    }

    /// The upstreams that it names, by itself or by a set.
    pub(super) fn federates(&self) -> Option<Federated<'_>> {
        let text = |field: &str| self.definition.get(field).and_then(Value::as_str);
        text("federation-upstream")
            .map(Federated::Upstream)
            .or_else(|| text("federation-upstream-set").map(Federated::Set))
    }
}

/// What a policy federates from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Federated<'a> {
    Upstream(&'a str),
    /// `all` is every upstream of the vhost.
    Set(&'a str),
}

/// A value's field as a text; of a list, the first.
pub(super) fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    match value.get(field)? {
        Value::Array(several) => several.first()?.as_str(),
        one => one.as_str(),
    }
}
