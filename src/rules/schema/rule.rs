//! The schema of a rule.

use super::{
    closed, described, document, duration, duration_of, list, mapping, name, reference, short,
    with, words,
};
use serde_json::{Value, json};

pub(super) fn rule() -> Value {
    let when = mapping(
        "Which messages; all must hold.",
        &[],
        &[
            ("routing_key", short("An AMQP topic pattern.")),
            ("headers", reference("headers")),
        ],
    );
    let gray = mapping(
        "A share that goes to another unit than its owner.",
        &["unit"],
        &[
            (
                "percent",
                described(
                    "Of keys; two digits behind the point.",
                    &json!({"type": "number", "minimum": 0, "maximum": 100}),
                ),
            ),
            ("salt", short("Another one takes other keys.")),
            ("header", reference("headers")),
            ("unit", name("Where they go.")),
        ],
    );
    let owner_absent = mapping(
        "When nothing is bound at its owner, or at who stands in for it.",
        &[],
        &[
            (
                "wait",
                duration("For a binding; what is behind it waits too.", "0s"),
            ),
            (
                "then",
                words(
                    "It is parked, or goes to the center's seat.",
                    &["park", "center"],
                    "park",
                ),
            ),
        ],
    );
    let copies = mapping(
        "Who gets a copy besides its owner. Not enforced by this version.",
        &[],
        &[
            (
                "now",
                list("Before the message counts as sent.", reference("name")),
            ),
            ("later", list("Some time after.", reference("name"))),
            (
                "degrade",
                words("While one of `now` is away.", &["allow", "block"], "allow"),
            ),
        ],
    );
    let max_lag = mapping(
        "How old the oldest message that isn't answered may become. Not enforced by this version.",
        &["age"],
        &[
            ("age", duration_of("By the sender's clock.")),
            (
                "then",
                words("What happens then.", &["alert", "throttle"], "alert"),
            ),
        ],
    );
    document(
        "rule",
        "Where which messages of a source go.",
        &["name", "source", "order", "route"],
        &[
            ("name", name("Its name.")),
            ("source", name("The source whose messages it is about.")),
            (
                "order",
                described(
                    "Ascending; the first that matches decides.",
                    &json!({"type": "integer"}),
                ),
            ),
            ("when", when),
            (
                "route",
                described(
                    "Where they go.",
                    &json!({"anyOf": [
                        {"enum": ["owner", "center", "shared", "local", "park", "drop"]},
                        closed(&["units"], &[("units", with(&list("A copy to each.", reference("name")), "minItems", json!(1)))]),
                    ]}),
                ),
            ),
            ("deliver", reference("deliver")),
            (
                "key_absent",
                words(
                    "What becomes of a message without a key.",
                    &["park", "center", "local"],
                    "park",
                ),
            ),
            ("gray", gray),
            (
                "owner_down",
                words(
                    "While its owner is down: its stand-in gets it, or it waits.",
                    &["standby", "hold"],
                    "standby",
                ),
            ),
            ("owner_absent", owner_absent),
            (
                "in_doubt",
                words(
                    "When the outcome is unknown. This version sends again.",
                    &["resend", "park"],
                    "resend",
                ),
            ),
            (
                "promise",
                words(
                    "When a message counts as sent. This version knows `confirmed`.",
                    &["confirmed", "rapid"],
                    "confirmed",
                ),
            ),
            (
                "receipt",
                described(
                    "Whether its publisher is told. Not enforced by this version.",
                    &json!({"type": "boolean", "default": false}),
                ),
            ),
            ("copies", copies),
            ("max_lag", max_lag),
        ],
    )
}
