//! An export with something of everything, and what becomes of it.

use super::convert::{Converted, Fate, Setting, convert};
use super::definitions::Definitions;
use serde_json::{Value, json};

fn converted(export: &Value) -> Converted {
    let definitions: Definitions = serde_json::from_value(export.clone()).unwrap();
    convert(
        &definitions,
        Setting {
            space: "trade",
            unit: "sh-1",
            peers: &[],
        },
    )
}

fn upstream(name: &str, uri: &str) -> Value {
    json!({"component": "federation-upstream", "vhost": "/", "name": name, "value": {"uri": uri}})
}

fn shovel(name: &str, value: &Value) -> Value {
    json!({"component": "shovel", "vhost": "/", "name": name, "value": value})
}

fn export() -> Value {
    json!({
        "parameters": [
            upstream("bj", "amqp://meddler:s3cret@bj.example.net"),
            upstream("gz", "amqps://meddler:s3cret@gz.example.net:5681/%2f?heartbeat=5"),
            json!({"component": "federation-upstream-set", "vhost": "/", "name": "south",
                "value": [{"upstream": "gz", "exchange": "orders.gz"}]}),
            shovel("audit", &json!({"src-uri": "amqp://", "src-queue": "audit.out",
                "dest-uri": "amqp://meddler:s3cret@bj.example.net/%2f", "dest-exchange": "audit", "ack-mode": "on-publish"})),
            shovel("old", &json!({"src-protocol": "amqp10", "src-uri": "amqp://x.example.net", "dest-uri": "amqp://"})),
        ],
        "policies": [
            {"vhost": "/", "name": "all", "pattern": "^orders", "apply-to": "exchanges", "priority": 1,
                "definition": {"federation-upstream-set": "all"}},
            {"vhost": "/", "name": "gz-alone", "pattern": "^orders.gz$", "apply-to": "exchanges", "priority": 5,
                "definition": {"federation-upstream-set": "south"}},
            {"vhost": "/", "name": "nobody", "pattern": "^nothing", "apply-to": "exchanges",
                "definition": {"federation-upstream": "bj"}},
            {"vhost": "/", "name": "queues", "pattern": "^work$", "apply-to": "queues",
                "definition": {"federation-upstream": "bj"}},
        ],
        "exchanges": [
            {"vhost": "/", "name": "orders", "type": "topic"},
            {"vhost": "/", "name": "orders.gz", "type": "fanout"},
        ],
        "queues": [{"vhost": "/", "name": "work"}],
        "bindings": [
            {"vhost": "/", "source": "orders", "destination": "a", "routing_key": "order.#"},
            {"vhost": "/", "source": "orders", "destination": "b", "routing_key": "order.#"},
            {"vhost": "/", "source": "orders.gz", "destination": "a", "routing_key": "whatever"},
        ],
    })
}

#[test]
fn upstreams_sets_policies_and_shovels_become_sources_and_the_rest_is_named() {
    let converted = converted(&export());
    let sources = &converted.files["imported.yaml"];
    let of = |name: &str| {
        let at = sources
            .find(&format!("kind: source\nname: {name}\n"))
            .unwrap();
        sources[at..].split("---\nkind: source").next().unwrap()
    };
    let orders = of("orders-from-bj-example-net");
    assert!(orders.contains("units: [bj-example-net]"), "{orders}");
    assert!(
        orders.contains("take: {exchange: \"orders\", bindings: [{routing_key: \"order.#\"}]}")
    );
    assert!(
        orders.contains("deliver: {exchange: \"orders\"}")
            && orders.contains("route: {units: [sh-1]}")
    );
    assert!(of("orders-from-gz-example-net-5681").contains("units: [gz-example-net-5681]"));
    let gz = of("orders-gz-from-gz-example-net-5681");
    assert!(
        gz.contains("take: {exchange: \"orders.gz\", bindings: [{routing_key: \"\"}]}"),
        "{gz}"
    );
    let audit = of("audit");
    assert!(
        audit.contains("take: {queue: \"audit.out\"}")
            && audit.contains("route: {units: [bj-example-net]}")
    );
    assert_eq!(
        sources.matches("kind: source").count(),
        4,
        "the policy of higher priority counts alone"
    );
    let said: Vec<_> = converted
        .report
        .iter()
        .filter(|line| line.fate != Fate::Maps)
        .map(|line| (line.fate, line.what.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            (Fate::Cannot, "policy nobody"),
            (Fate::Cannot, "queue work"),
            (Fate::Differs, "shovel audit"),
            (Fate::Cannot, "shovel old"),
        ]
    );
}

#[test]
fn no_password_goes_on() {
    let converted = converted(&export());
    for text in converted.files.values() {
        assert!(
            !text.contains("s3cret") && !text.contains("meddler"),
            "{text}"
        );
    }
    assert!(!format!("{:?}", converted.report).contains("s3cret"));
}

#[test]
fn what_was_imported_validates() {
    use crate::rules::{Context, DocumentFile, validate};
    let files = converted(&export()).files.into_iter();
    let files: Vec<DocumentFile> = files
        .map(|(name, text)| DocumentFile {
            name,
            text: text.into_bytes(),
        })
        .collect();
    assert_eq!(validate(&files, &Context::default()).faults, []);
}
