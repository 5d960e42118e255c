//! A message that can't be delivered is parked with its reason, and the lane goes on.

use crate::broker::{Received, headers, keyed};
use crate::harness::{ORDERS, World, folder, world};
use bytes::Bytes;
use setgate::amqp::{FieldValue, Properties};
use setgate::lab::FabricSpec;
use setgate::lane::WRAPPED_CONTENT_TYPE;
use setgate::model::MessageId;
use std::collections::BTreeMap;

const RULES: &str = "kind: rule
name: good
source: orders
order: 100
when: {routing_key: order.good}
route: owner
---
kind: rule
name: nowhere
source: orders
order: 200
when: {routing_key: order.nowhere}
route: owner
deliver: {exchange: orders.nowhere}
";

/// Owned by sh-2, while all is published in sh-1.
const UID: u32 = 60;

const BODY_BYTES_MAX: usize = 1024 * 1024;

fn padded(bytes: usize) -> Properties {
    let mut properties = keyed(UID);
    let pad = FieldValue::Str(Bytes::from(vec![b'p'; bytes]));
    properties.headers_mut().set("pad", pad);
    properties
}

/// A message that nothing is bound for, with all that would lead it elsewhere, or to its death, from the park queue.
fn unroutable() -> Properties {
    let mut properties = keyed(UID);
    let copies = FieldValue::Array(vec![FieldValue::str("elsewhere.copy")]);
    properties.headers_mut().set("CC", copies);
    properties.expiration = Some(Bytes::from_static(b"600000"));
    properties.delivery_mode = Some(1);
    properties.message_id = Some(Bytes::from_static(b"an id"));
    properties
}

/// Marks that would lead a message astray if they counted: it has been everywhere, many times.
fn forged() -> Properties {
    let mut properties = keyed(UID);
    let path = ["sh-1", "sh-2"].map(FieldValue::str).to_vec();
    for (name, value) in [
        ("x-set-path", FieldValue::Array(path)),
        ("x-set-round", FieldValue::I32(1_000)),
        ("x-set-retry", FieldValue::I32(0)),
        ("x-set-why", FieldValue::str("shared")),
        (
            "x-set-delivered",
            FieldValue::Bytes(Bytes::from_static(&[7; 16])),
        ),
        (
            "x-set-seal",
            FieldValue::Bytes(Bytes::from_static(&[7; 16])),
        ),
        ("x-set-of-my-own", FieldValue::str("mine")),
    ] {
        properties.headers_mut().set(name, value);
    }
    properties
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_delivered_is_parked_with_its_reason_and_the_lane_goes_on_in_order() {
    let rules = folder(&[
        ("world.yaml", &world(&["sh-1", "sh-2"])),
        ("orders.yaml", &format!("{ORDERS}---\n{RULES}")),
    ]);
    let spec = FabricSpec::folder(rules.path()).setting("message_max", "1MiB");
    let mut world = World::of("parking", spec).await;
    // The lab binds a queue to whatever is delivered to.
    world.delete_queue("sh-2", "app.orders.nowhere").await;

    let boolean = headers([("uid", FieldValue::Bool(true))]);
    let large = vec![b'l'; BODY_BYTES_MAX + 1];
    let bad: Vec<(&str, Properties, &[u8])> = vec![
        ("order.nowhere", unroutable(), b"unroutable"),
        ("order.good", Properties::default(), b"key_absent"),
        ("order.good", boolean, b"key_malformed"),
        ("order.other", keyed(UID), b"no_rule"),
        ("order.good", keyed(UID), &large),
        ("order.good", padded(128_500), b"little room"),
        ("order.good", padded(130_900), b"no room"),
    ];
    let mut publisher = world.app("sh-1");
    for (number, (key, properties, body)) in bad.iter().enumerate() {
        publisher.publish("orders", key, properties, body);
        publisher.publish(
            "orders",
            "order.good",
            &keyed(UID),
            format!("good {number}"),
        );
    }
    publisher.publish("orders", "order.good", &forged(), "forged");

    let mut consumer = world.app("sh-2");
    for number in 0..bad.len() {
        let got = consumer.get("app.orders.local").await;
        assert_eq!(got.body_text(), format!("good {number}"));
    }
    let got = consumer.get("app.orders.local").await;
    assert_eq!(got.body_text(), "forged");
    assert_eq!(got.path(), ["sh-1", "sh-2"]);
    assert_eq!(got.text("x-set-why").as_deref(), Some("owner"));
    assert_eq!(
        got.properties.header("x-set-round"),
        Some(&FieldValue::I32(1))
    );
    assert_eq!(got.properties.header("x-set-of-my-own"), None);
    let seal = world.seal();
    assert!(got.is_sealed(&seal, None));
    assert!(world.metric("sh-1", "setgate_seal_refused_total").await >= 1.0);

    let park = world.own_queue("park");
    let mut parked: BTreeMap<Bytes, Received> = BTreeMap::new();
    for _ in &bad {
        let entry = publisher.get(&park).await;
        assert!(
            parked.insert(entry.body.clone(), entry).is_none(),
            "parked twice"
        );
    }
    assert_eq!(publisher.try_get(&park).unwrap(), None);

    // What leaves no room even for the wrapping is wrapped whole, as a body.
    let is_whole = |entry: &&Received| {
        let kind = entry.properties.content_type.as_deref();
        kind == Some(WRAPPED_CONTENT_TYPE.as_bytes())
    };
    let whole = parked.values().find(is_whole).unwrap();
    let (properties, body) = unwrapped(&whole.body);
    assert_eq!(body, "no room");
    for name in ["uid", "pad"] {
        assert_eq!(properties.header(name), bad[6].1.header(name), "{name}");
    }
    for (number, reason) in [
        "unroutable",
        "key_absent",
        "key_malformed",
        "no_rule",
        "too_large",
        "too_large",
        "too_large",
    ]
    .into_iter()
    .enumerate()
    {
        let (key, properties, body) = &bad[number];
        let body = if number == 6 { &whole.body } else { *body };
        let entry = parked
            .get(body)
            .unwrap_or_else(|| panic!("{reason} {number} isn't parked"));
        assert_eq!(
            entry.text("x-set-reason").as_deref(),
            Some(reason),
            "{number}"
        );
        assert_eq!(entry.text("x-set-exchange").as_deref(), Some("orders"));
        assert_eq!(entry.text("x-set-routing-key").as_deref(), Some(*key));
        assert_eq!(entry.text("x-set-from").as_deref(), Some("sh-1"));
        assert!(matches!(
            entry.properties.header("x-set-at"),
            Some(FieldValue::Timestamp(_))
        ));
        assert_eq!(
            entry.properties.delivery_mode,
            Some(2),
            "it outlives a restart"
        );
        let id = properties.message_id.clone().map(MessageId);
        assert!(entry.is_sealed(&seal, id.as_ref()), "{reason} is sealed");
        if number != 6 {
            let uid = |of: &Properties| of.header("uid").cloned();
            assert_eq!(uid(&entry.properties), uid(properties));
        }
    }
    let entry = &parked[&b"unroutable"[..]];
    assert_eq!(entry.properties.expiration, None);
    assert_eq!(entry.properties.header("CC"), None);
    assert_eq!(
        entry.properties.header("x-set-cc"),
        unroutable().header("CC")
    );
    assert_eq!(entry.text("x-set-expiration").as_deref(), Some("600000"));
    assert_eq!(entry.text("x-set-delivery-mode").as_deref(), Some("1"));
    assert_eq!(entry.text("x-set-rule").as_deref(), Some("nowhere"));
    world.end().await;
}

/// The properties and the body in a wrapped body: the length of the properties, they, the body.
fn unwrapped(whole: &Bytes) -> (Properties, Bytes) {
    let bytes = u32::from_be_bytes(whole[..4].try_into().unwrap());
    let end = 4 + usize::try_from(bytes).unwrap();
    let properties = Properties::decode(whole.slice(4..end)).unwrap();
    (properties, whole.slice(end..))
}
