//! The JSON Schema of the documents, by which an editor completes and checks them while they are written.
//!
//! Owns what the readers of this folder accept, once more, as a schema: a test holds every mapping of it against the
//! fields that its reader knows. It says less than the validator: names that must exist, ranges that must be total.

mod rule;

use super::fields::SHORT_BYTES_MAX;
use super::placement::SLOTS_MAX;
use super::source::PARTITIONS_MAX;
use serde_json::{Map, Value, json};

/// The schema of one document of any kind; JSON Schema, draft 2020-12.
pub fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A routing document of setgate",
        "oneOf": [
            {"$ref": "#/$defs/topology"},
            {"$ref": "#/$defs/placement"},
            {"$ref": "#/$defs/source"},
            {"$ref": "#/$defs/rule"},
        ],
        "$defs": {
            "topology": topology(),
            "placement": placement(),
            "source": source(),
            "rule": rule::rule(),
            "name": {
                "description": "Letters, digits, hyphens and underscores; it becomes part of queues' names.",
                "type": "string",
                "pattern": "^[A-Za-z0-9_-]{1,64}$",
            },
            "short": {"type": "string", "maxLength": SHORT_BYTES_MAX},
            "duration": {"type": "string", "pattern": "^[0-9]+ ?(ms|s|m|h|d)$"},
            "bytes": {"type": "string", "pattern": "^[0-9]+ ?(B|KiB|MiB|GiB|TiB)$"},
            "scalar": {"type": ["string", "number", "boolean"]},
            "deliver": mapping("Where messages are published.", &["exchange"], &[
                ("exchange", short("An exchange; setgate never declares one.")),
                ("routing_key", with(&short("`keep`, or another than the message's own."), "default", json!("keep"))),
            ]),
            "headers": {
                "description": "By header: a value that it equals, or tests of which all must hold.",
                "type": "object",
                "additionalProperties": {"anyOf": [reference("scalar"), test()]},
            },
        },
    })
}

fn topology() -> Value {
    let site = mapping(
        "A data center.",
        &["city"],
        &[("city", name("The city that it is in."))],
    );
    let unit = mapping(
        "One RabbitMQ cluster and its gateways.",
        &["site"],
        &[
            ("site", name("Where it is.")),
            (
                "standby",
                list(
                    "Who takes over, in this order; never transitive.",
                    reference("name"),
                ),
            ),
            (
                "access",
                words(
                    "What it does: take, deliver, both or neither.",
                    &["rw", "produce-only", "consume-only", "none"],
                    "rw",
                ),
            ),
        ],
    );
    let takeover = |text: &str, default: &str| words(text, &["automatic", "manual"], default);
    let failover = mapping(
        "Who decides about a takeover, and when.",
        &[],
        &[
            (
                "within_city",
                takeover("To a stand-in in the same city.", "automatic"),
            ),
            (
                "across_cities",
                takeover("To a stand-in in another city.", "manual"),
            ),
            (
                "detect",
                duration(
                    "A unit without a sign of life for so long is doubtful: the lease's time to live.",
                    "10s",
                ),
            ),
            (
                "grace",
                duration("And after so much more it is down.", "15s"),
            ),
            (
                "hold_down",
                duration(
                    "No second change of the coordinator's own accord before that.",
                    "10m",
                ),
            ),
            (
                "sites_down_max",
                described(
                    "More sites down at once are for a person.",
                    &json!({"type": "integer", "minimum": 0, "default": 1}),
                ),
            ),
            (
                "isolated",
                words(
                    "What a unit does that is cut off from etcd and from one of its stand-ins.",
                    &["fence", "continue"],
                    "fence",
                ),
            ),
        ],
    );
    let link = mapping(
        "What links from one unit to another may use; the first that is about them counts.",
        &["from", "to"],
        &[
            (
                "from",
                described("A unit, or `*`.", &json!({"type": "string"})),
            ),
            (
                "to",
                described("A unit, or `*`.", &json!({"type": "string"})),
            ),
            (
                "compression",
                words("How frames are packed.", &["auto"], "auto"),
            ),
            (
                "bytes_per_second",
                described(
                    "What one gateway may send over it.",
                    &json!({
                        "anyOf": [{"const": "unlimited"}, {"type": "integer", "minimum": 1}, reference("bytes")],
                        "default": "unlimited",
                    }),
                ),
            ),
        ],
    );
    document(
        "topology",
        "Which units there are, where, and who stands by for whom.",
        &["space", "sites", "units"],
        &[
            (
                "space",
                name("The routing world; etcd keeps it under /setgate/SPACE/."),
            ),
            ("cities", by_name("Cities.", &mapping("A city.", &[], &[]))),
            ("sites", by_name("Sites.", &site)),
            ("units", by_name("Units.", &unit)),
            (
                "center",
                name("Where `route: center` leads; the first unit by default."),
            ),
            ("failover", failover),
            ("links", list("Policies of links.", link)),
        ],
    )
}

fn placement() -> Value {
    let range = mapping(
        "Slots and the unit that owns them.",
        &["slots", "unit"],
        &[
            (
                "slots",
                described(
                    "The first and the last slot, both included, like 0-3999; or one slot.",
                    &json!({"type": ["string", "integer"]}),
                ),
            ),
            ("unit", name("Their owner.")),
        ],
    );
    let pin = mapping(
        "One key and its owner, whatever its slot.",
        &["key", "unit"],
        &[
            (
                "key",
                described(
                    "A text, compared by its bytes.",
                    &json!({"type": "string", "minLength": 1}),
                ),
            ),
            ("unit", name("Its owner.")),
        ],
    );
    document(
        "placement",
        "Which unit owns which slots. It creates a space; from then on moves alone change the live one.",
        &["slots", "ranges"],
        &[
            (
                "slots",
                described(
                    "How many, for the life of the space.",
                    &json!({"type": "integer", "minimum": 1, "maximum": SLOTS_MAX}),
                ),
            ),
            ("ranges", list("Every slot exactly once.", range)),
            ("pins", list("Single keys, before ranges.", pin)),
        ],
    )
}

fn source() -> Value {
    let binding = mapping(
        "A binding of the source's queue to the exchange.",
        &[],
        &[
            (
                "routing_key",
                with(&short("As AMQP has it."), "default", json!("")),
            ),
            (
                "arguments",
                described(
                    "Of a headers exchange.",
                    &json!({"type": "object", "additionalProperties": reference("scalar")}),
                ),
            ),
        ],
    );
    let take = json!({
        "description": "From what messages are taken.",
        "oneOf": [
            closed(&["exchange", "bindings"], &[
                ("exchange", short("An exchange; setgate binds a queue of its own to it.")),
                ("bindings", with(&list("At least one.", binding), "minItems", json!(1))),
            ]),
            closed(&["queue"], &[("queue", short("A queue that exists."))]),
        ],
    });
    let place = |field: &str, value: Value| closed(&[field], &[(field, value)]);
    let key = mapping(
        "What decides a message's owner.",
        &["from"],
        &[
            (
                "from",
                list(
                    "The first that is present.",
                    json!({"oneOf": [
                        place("header", short("A header.")),
                        place("routing_key_word", described("A word of the routing key, from 1.", &json!({"type": "integer", "minimum": 1, "maximum": 255}))),
                        place("routing_key", json!({"const": "whole"})),
                        place("json", described("A JSON pointer into the body, such as /user/id; bodies up to 64 KiB.", &reference("short"))),
                    ]}),
                ),
            ),
            (
                "map",
                described(
                    "How a key becomes a number, which is taken modulo the slots.",
                    &json!({
                        "anyOf": [
                            {"enum": ["hash", "crc32", "digits"]},
                            place("last_digits", json!({"type": "integer", "minimum": 1, "maximum": 18})),
                        ],
                        "default": "hash",
                    }),
                ),
            ),
        ],
    );
    let by_id = closed(
        &[],
        &[
            (
                "id",
                described(
                    "What makes two messages the same.",
                    &json!({
                        "anyOf": [{"const": "message-id"}, place("header", short("A header."))],
                        "default": "message-id",
                    }),
                ),
            ),
            ("window", duration("How long it is remembered.", "10m")),
        ],
    );
    let divert = mapping(
        "The limit of what is kept for a target that is away.",
        &[],
        &[
            (
                "max",
                with(
                    &described("Of each lane and target.", &reference("bytes")),
                    "default",
                    json!("10GiB"),
                ),
            ),
            ("full", words("And then.", &["stop", "park"], "stop")),
        ],
    );
    document(
        "source",
        "What is taken from the local broker.",
        &["name", "take"],
        &[
            ("name", name("Its name.")),
            (
                "units",
                list(
                    "Where it is taken; everywhere by default.",
                    reference("name"),
                ),
            ),
            ("vhost", short("Another virtual host than the gateway's.")),
            ("take", take),
            ("deliver", reference("deliver")),
            (
                "returns",
                mapping(
                    "Where publishers get back what no rule is about or what has no key.",
                    &["exchange"],
                    &[(
                        "exchange",
                        short("An exchange that publishers' queues are bound to."),
                    )],
                ),
            ),
            (
                "partitions",
                described(
                    "Lanes side by side.",
                    &json!({"type": "integer", "minimum": 1, "maximum": PARTITIONS_MAX, "default": 1}),
                ),
            ),
            (
                "queue_type",
                words(
                    "Of queues that setgate declares for it.",
                    &["quorum", "classic"],
                    "quorum",
                ),
            ),
            ("key", key),
            (
                "duplicates",
                described(
                    "What is delivered once.",
                    &json!({"anyOf": [{"const": "off"}, by_id]}),
                ),
            ),
            (
                "messages_per_second",
                words("Not enforced by this version.", &["unlimited"], "unlimited"),
            ),
            ("divert", divert),
            (
                "retired",
                described(
                    "Nothing more is taken; what is in its queues is carried, and then they go.",
                    &json!({"type": "boolean", "default": false}),
                ),
            ),
        ],
    )
}

fn test() -> Value {
    mapping(
        "Tests of one header; all must hold.",
        &[],
        &[
            ("equals", reference("scalar")),
            ("in", list("One of these.", reference("scalar"))),
            (
                "exists",
                described("Whether it is there at all.", &json!({"type": "boolean"})),
            ),
            (
                "matches",
                described(
                    "A regular expression, unanchored.",
                    &json!({"type": "string"}),
                ),
            ),
            (
                "prefix",
                described("How a text begins.", &json!({"type": "string"})),
            ),
            (
                "range",
                mapping(
                    "A number between these, ends included; one may be left out.",
                    &[],
                    &[
                        ("from", json!({"type": "number"})),
                        ("to", json!({"type": "number"})),
                    ],
                ),
            ),
        ],
    )
}

type Fields<'a> = &'a [(&'a str, Value)];

fn document(kind: &str, text: &str, required: &[&str], fields: Fields<'_>) -> Value {
    let mut all = vec![
        ("kind", json!({"const": kind})),
        ("version", json!({"const": 1})),
    ];
    all.extend_from_slice(fields);
    let required: Vec<&str> = ["kind"].iter().chain(required).copied().collect();
    mapping(text, &required, &all)
}

fn mapping(text: &str, required: &[&str], fields: Fields<'_>) -> Value {
    described(text, &closed(required, fields))
}

/// No other fields than these.
fn closed(required: &[&str], fields: Fields<'_>) -> Value {
    let properties: Map<String, Value> = fields
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn by_name(text: &str, value: &Value) -> Value {
    let mut value = value.clone();
    // An entry may be null: all defaults.
    value["type"] = json!(["object", "null"]);
    described(
        text,
        &json!({"type": "object", "propertyNames": reference("name"), "additionalProperties": value}),
    )
}

fn list(text: &str, items: Value) -> Value {
    let mut list = described(text, &json!({"type": "array"}));
    list["items"] = items;
    list
}

fn words(text: &str, words: &[&str], default: &str) -> Value {
    described(text, &json!({"enum": words, "default": default}))
}

fn name(text: &str) -> Value {
    described(text, &reference("name"))
}

fn short(text: &str) -> Value {
    described(text, &reference("short"))
}

fn duration(text: &str, default: &str) -> Value {
    with(&duration_of(text), "default", json!(default))
}

/// One without a default.
fn duration_of(text: &str) -> Value {
    described(text, &reference("duration"))
}

fn reference(definition: &str) -> Value {
    json!({"$ref": format!("#/$defs/{definition}")})
}

fn described(text: &str, value: &Value) -> Value {
    with(value, "description", json!(text))
}

fn with(value: &Value, field: &str, what: Value) -> Value {
    let mut value = value.clone();
    value[field] = what;
    value
}
