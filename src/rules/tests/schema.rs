//! The schema against the readers.

use super::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A document with a mapping that has a field which nobody knows, and where the schema describes that mapping.
const MAPPINGS: &[(&str, &str)] = &[
    ("kind: topology\nzzzz: 1", "/$defs/topology"),
    (
        "kind: topology\ncities: {a: {zzzz: 1}}",
        "/$defs/topology/properties/cities/additionalProperties",
    ),
    (
        "kind: topology\nsites: {a: {zzzz: 1}}",
        "/$defs/topology/properties/sites/additionalProperties",
    ),
    (
        "kind: topology\nunits: {a: {zzzz: 1}}",
        "/$defs/topology/properties/units/additionalProperties",
    ),
    (
        "kind: topology\nfailover: {zzzz: 1}",
        "/$defs/topology/properties/failover",
    ),
    (
        "kind: topology\nlinks: [{zzzz: 1}]",
        "/$defs/topology/properties/links/items",
    ),
    ("kind: placement\nzzzz: 1", "/$defs/placement"),
    (
        "kind: placement\nranges: [{zzzz: 1}]",
        "/$defs/placement/properties/ranges/items",
    ),
    (
        "kind: placement\npins: [{zzzz: 1}]",
        "/$defs/placement/properties/pins/items",
    ),
    ("kind: source\nzzzz: 1", "/$defs/source"),
    (
        "kind: source\ntake: {bindings: [{zzzz: 1}]}",
        "/$defs/source/properties/take/oneOf/0/properties/bindings/items",
    ),
    ("kind: source\ndeliver: {zzzz: 1}", "/$defs/deliver"),
    (
        "kind: source\nreturns: {zzzz: 1}",
        "/$defs/source/properties/returns",
    ),
    (
        "kind: source\nkey: {zzzz: 1}",
        "/$defs/source/properties/key",
    ),
    (
        "kind: source\nduplicates: {zzzz: 1}",
        "/$defs/source/properties/duplicates/anyOf/1",
    ),
    (
        "kind: source\ndivert: {zzzz: 1}",
        "/$defs/source/properties/divert",
    ),
    ("kind: rule\nzzzz: 1", "/$defs/rule"),
    ("kind: rule\nwhen: {zzzz: 1}", "/$defs/rule/properties/when"),
    (
        "kind: rule\nwhen: {headers: {x: {zzzz: 1}}}",
        "/$defs/headers/additionalProperties/anyOf/1",
    ),
    (
        "kind: rule\nwhen: {headers: {x: {range: {zzzz: 1}}}}",
        "/$defs/headers/additionalProperties/anyOf/1/properties/range",
    ),
    ("kind: rule\ngray: {zzzz: 1}", "/$defs/rule/properties/gray"),
    (
        "kind: rule\nowner_absent: {zzzz: 1}",
        "/$defs/rule/properties/owner_absent",
    ),
    (
        "kind: rule\ncopies: {zzzz: 1}",
        "/$defs/rule/properties/copies",
    ),
    (
        "kind: rule\nmax_lag: {zzzz: 1}",
        "/$defs/rule/properties/max_lag",
    ),
];

#[test]
fn the_schema_has_the_fields_that_the_readers_know_and_no_others() {
    let schema = schema();
    for (text, at) in MAPPINGS {
        let file = DocumentFile {
            name: "one.yaml".to_owned(),
            text: text.as_bytes().to_vec(),
        };
        let (_, faults) = parse(&[file]);
        let unknown = faults
            .iter()
            .find(|fault| fault.code == FaultCode::UnknownField);
        let mend = &unknown.unwrap_or_else(|| panic!("{text}: {faults:?}")).mend;
        let known = mend
            .strip_prefix("known are: ")
            .unwrap_or_else(|| panic!("{mend}"));
        let known: BTreeSet<&str> = known.split(", ").filter(|name| !name.is_empty()).collect();
        let described = schema.pointer(at).unwrap_or_else(|| panic!("{at}"));
        let fields = described["properties"].as_object().unwrap();
        let fields: BTreeSet<&str> = fields.keys().map(String::as_str).collect();
        assert_eq!(fields, known, "{text}");
        assert_eq!(described["additionalProperties"], json!(false), "{at}");
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn look(value: &Value, schema: &Value) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(to)) = fields.get("$ref") {
                    let at = to.strip_prefix('#').unwrap();
                    assert!(schema.pointer(at).is_some(), "{to}");
                }
                fields.values().for_each(|value| look(value, schema));
            }
            Value::Array(items) => items.iter().for_each(|value| look(value, schema)),
            _ => {}
        }
    }
    let schema = schema();
    look(&schema, &schema);
}
