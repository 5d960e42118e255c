//! What is published arrives as it was: every property, every field type, every body.

use crate::broker::Received;
use crate::harness::{BY_OWNER, DEADLINE, ORDERS, World, eventually, world};
use bytes::Bytes;
use setgate::amqp::{FieldTable, FieldValue, Properties};
use std::collections::BTreeMap;

/// Milliseconds; longer than any run of this test.
const EXPIRATION: u64 = 600_000;

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn table(entries: Vec<(&'static str, FieldValue)>) -> FieldTable {
    let entry =
        |(name, value): (&'static str, FieldValue)| (Bytes::from_static(name.as_bytes()), value);
    entries.into_iter().map(entry).collect()
}

/// A header of every field type of AMQP 0-9-1 as RabbitMQ has them, with the extremes of numbers, in no order.
fn every_type() -> Vec<(&'static str, FieldValue)> {
    let inner = table(vec![
        (
            "deep",
            FieldValue::Table(table(vec![(
                "deeper",
                FieldValue::Array(vec![FieldValue::Void]),
            )])),
        ),
        ("empty", FieldValue::Table(FieldTable::new())),
    ]);
    vec![
        ("t", FieldValue::Bool(true)),
        ("b", FieldValue::I8(i8::MIN)),
        ("B", FieldValue::U8(u8::MAX)),
        ("s", FieldValue::I16(i16::MIN)),
        ("u", FieldValue::U16(u16::MAX)),
        ("I", FieldValue::I32(i32::MIN)),
        ("i", FieldValue::U32(u32::MAX)),
        ("l", FieldValue::I64(i64::MIN)),
        ("f", FieldValue::F32(1.5)),
        ("d", FieldValue::F64(-0.1)),
        (
            "D",
            FieldValue::Decimal {
                scale: 2,
                value: 314,
            },
        ),
        ("S", FieldValue::str("text")),
        (
            "S not UTF-8",
            FieldValue::Str(Bytes::from_static(b"\xff\xfe\0")),
        ),
        ("S empty", FieldValue::str("")),
        (
            "A",
            FieldValue::Array(vec![
                FieldValue::U8(1),
                FieldValue::Array(vec![FieldValue::str("x")]),
            ]),
        ),
        ("A empty", FieldValue::Array(Vec::new())),
        ("T", FieldValue::Timestamp(1_700_000_000)),
        ("F", FieldValue::Table(inner)),
        ("F empty", FieldValue::Table(FieldTable::new())),
        ("V", FieldValue::Void),
        ("x", FieldValue::Bytes(Bytes::from_static(b"\0\x01\xff"))),
        ("x empty", FieldValue::Bytes(Bytes::new())),
        // AMQP forbids it, RabbitMQ carries it.
        ("twice", FieldValue::str("first")),
        ("twice", FieldValue::str("second")),
    ]
}

/// All fourteen properties.
fn every_property(uid: i32, id: &str) -> Properties {
    let mut headers = table(every_type());
    headers.set("uid", FieldValue::I32(uid));
    Properties {
        content_type: Some(bytes("application/octet-stream")),
        content_encoding: Some(bytes("identity")),
        headers: Some(headers),
        delivery_mode: Some(2),
        priority: Some(7),
        correlation_id: Some(bytes("correlation")),
        reply_to: Some(bytes("replies")),
        expiration: Some(EXPIRATION.to_string().into()),
        message_id: Some(id.to_owned().into()),
        timestamp: Some(1_700_000_001),
        kind: Some(bytes("order")),
        user_id: Some(bytes("app")),
        app_id: Some(bytes("shop")),
        cluster_id: Some(bytes("cluster")),
    }
}

/// The properties, and the marks that were among their headers.
fn without_marks(properties: &Properties) -> (Properties, BTreeMap<String, FieldValue>) {
    let mut properties = properties.clone();
    let mut marks = BTreeMap::new();
    if let Some(headers) = &mut properties.headers {
        headers.retain(|name, value| {
            let mark = name.starts_with(b"x-set-");
            if mark {
                let name = String::from_utf8(name.to_vec()).unwrap();
                assert!(
                    marks.insert(name.clone(), value.clone()).is_none(),
                    "{name} twice"
                );
            }
            !mark
        });
    }
    (properties, marks)
}

/// Compared octet by octet, so that a float is its bits.
fn assert_same(sent: &Properties, got: &Properties) {
    let (mut due, _) = without_marks(sent);
    let (mut got, _) = without_marks(got);
    let left = got
        .expiration
        .take()
        .map(|text| String::from_utf8(text.to_vec()).unwrap());
    let left: u64 = left.unwrap().parse().unwrap();
    assert!(left <= EXPIRATION && left > EXPIRATION - 60_000, "{left}");
    due.expiration = None;
    // RabbitMQ takes a user-id only from that very user, which the gateway isn't: it travels as a mark.
    due.user_id = None;
    assert_eq!(due, got);
    assert_eq!(due.encode().unwrap(), got.encode().unwrap());
}

fn assert_marks(got: &Received, id: &str, slot: i32, from: &str, to: &str) {
    let (_, marks) = without_marks(&got.properties);
    // The broker may have closed the channel over it, so that nobody there can be sure.
    let names: Vec<&str> = marks
        .keys()
        .map(String::as_str)
        .filter(|name| *name != "x-set-in-doubt")
        .collect();
    let due = [
        "x-set-delivered",
        "x-set-epoch",
        "x-set-from",
        "x-set-id",
        "x-set-parcel",
        "x-set-path",
        "x-set-retry",
        "x-set-round",
        "x-set-seal",
        "x-set-slot",
        "x-set-to",
        "x-set-user-id",
        "x-set-why",
    ];
    assert_eq!(names, due);
    let mut path = vec![FieldValue::str(from)];
    if to != from {
        path.push(FieldValue::str(to));
    }
    for (name, value) in [
        ("x-set-id", FieldValue::str(id)),
        ("x-set-slot", FieldValue::I32(slot)),
        ("x-set-from", FieldValue::str(from)),
        ("x-set-to", FieldValue::str(to)),
        ("x-set-path", FieldValue::Array(path)),
        ("x-set-round", FieldValue::I32(1)),
        ("x-set-retry", FieldValue::I32(0)),
        ("x-set-why", FieldValue::str("owner")),
        ("x-set-user-id", FieldValue::str("app")),
    ] {
        assert_eq!(marks[name], value, "{name}");
    }
    assert!(matches!(marks["x-set-epoch"], FieldValue::I64(_)));
    assert!(matches!(marks["x-set-parcel"], FieldValue::Str(_)));
    assert!(matches!(marks["x-set-delivered"], FieldValue::Bytes(_)));
    assert!(matches!(marks["x-set-seal"], FieldValue::Bytes(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_property_every_field_type_and_every_body_arrive_as_they_were_published() {
    let files = [
        ("world.yaml", world(&["sh-1", "sh-2"])),
        ("orders.yaml", format!("{ORDERS}---\n{BY_OWNER}")),
    ];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let mut world = World::start("fidelity", &files).await;
    let seal = world.seal();
    let mut publisher = world.app("sh-1");
    // More than one frame of 128 KiB, of bytes that are no text.
    let large: Vec<u8> = (0..300 * 1024_u32)
        .map(|at| at.to_le_bytes()[0] ^ 0xa5)
        .collect();
    for (uid, unit) in [(60, "sh-2"), (10, "sh-1")] {
        let mut consumer = world.app(unit);
        for body in [&b""[..], b"\0", &large] {
            let id = format!("{unit}-{}", body.len());
            let sent = every_property(uid, &id);
            publisher.publish("orders", "order.cn", &sent, body);
            let got = consumer.get("app.orders.local").await;
            assert_eq!(got.exchange, "orders.local");
            assert_eq!(got.routing_key, "order.cn");
            assert_same(&sent, &got.properties);
            assert!(got.body == body, "a body of {} bytes differs", body.len());
            assert_marks(&got, &id, uid, "sh-1", unit);
            let id = setgate::model::MessageId(id.into());
            assert!(got.is_sealed(&seal, Some(&id)));
        }
        // No properties but the key: none are invented.
        let sent = crate::broker::keyed(uid.unsigned_abs());
        publisher.publish("orders", "order.cn", &sent, "plain");
        let got = consumer.get("app.orders.local").await;
        assert_eq!(without_marks(&got.properties).0, sent);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_diverted_arrives_with_all_its_properties_too() {
    let files = [
        ("world.yaml", world(&["sh-1", "sh-2"])),
        ("orders.yaml", format!("{ORDERS}---\n{BY_OWNER}")),
    ];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let mut world = World::start("diverted_whole", &files).await;
    let not_here = |mut rights: serde_json::Value| {
        rights["write"] = "^setgate\\..*$".into();
        rights
    };
    let before = world.permit("sh-2", not_here).await;
    let sent = every_property(60, "diverted");
    world
        .app("sh-1")
        .publish("orders", "order.cn", &sent, "whole");
    let diverted = async || {
        let lane = world.lane("sh-1", "orders", &["taking", "held"]).await;
        lane["targets"][0]["diversion"]["messages"].as_u64()
    };
    let (messages, _) = eventually("it is diverted", DEADLINE, diverted).await;
    assert_eq!(messages, 1);
    world.permit("sh-2", |_| before.clone()).await;
    let got = world.app("sh-2").get("app.orders.local").await;
    assert_same(&sent, &got.properties);
    assert_marks(&got, "diverted", 60, "sh-1", "sh-2");
    assert_eq!(got.body_text(), "whole");
    world.end().await;
}
