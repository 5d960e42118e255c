//! What crosses a broker, and what its answers mean.

use crate::node::{Node, consume, delivery, lost, publish, publisher, raw, settlement, to_queue};
use bytes::Bytes;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable as LapinTable};
use setgate::amqp::{Edit, FieldTable, FieldValue, Properties};
use setgate::broker::{Outcome, Publish, QueueType, ensure_lane_queue, ensure_own_queue};

fn every_property() -> Properties {
    let every_type = [
        ("a-bool", FieldValue::Bool(true)),
        ("b-i8", FieldValue::I8(-8)),
        ("c-u8", FieldValue::U8(200)),
        ("d-i16", FieldValue::I16(-1_600)),
        ("e-u16", FieldValue::U16(60_000)),
        ("f-i32", FieldValue::I32(-320_000)),
        ("g-u32", FieldValue::U32(4_000_000_000)),
        ("h-i64", FieldValue::I64(i64::MIN)),
        ("i-f32", FieldValue::F32(1.5)),
        ("j-f64", FieldValue::F64(-2.25)),
        (
            "k-decimal",
            FieldValue::Decimal {
                scale: 2,
                value: 1_999,
            },
        ),
        ("l-str", FieldValue::str("ünï")),
        ("m-not-utf-8", FieldValue::str([0xff, 0x00])),
        ("n-time", FieldValue::Timestamp(1_700_000_000)),
        ("o-void", FieldValue::Void),
        (
            "p-bytes",
            FieldValue::Bytes(Bytes::from_static(&[0, 1, 255])),
        ),
    ];
    let flat: FieldTable = every_type
        .iter()
        .map(|(name, value)| (Bytes::from_static(name.as_bytes()), value.clone()))
        .collect();
    let mut headers = flat.clone();
    let values = every_type.iter().map(|(_, value)| value.clone());
    headers.set(
        "q-array",
        FieldValue::Array(values.chain([FieldValue::Array(vec![])]).collect()),
    );
    let mut inner = FieldTable::new();
    inner.set("deep", FieldValue::Table(flat));
    inner.set("empty", FieldValue::Table(FieldTable::new()));
    headers.set("r-table", FieldValue::Table(inner));
    headers.set("x-set-parcel", FieldValue::str("all"));
    let text = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    Properties {
        content_type: text("application/json"),
        content_encoding: text("gzip"),
        headers: Some(headers),
        delivery_mode: Some(2),
        priority: Some(7),
        correlation_id: text("correlation"),
        reply_to: text("replies"),
        expiration: text("600000"),
        message_id: text("m-1"),
        timestamp: Some(1_700_000_001),
        kind: text("order.created"),
        user_id: text("guest"),
        app_id: text("shop"),
        cluster_id: text("old"),
    }
}

/// With this header.
fn with(mut publish: Publish, name: &str, value: &FieldValue) -> Publish {
    let mut edit = Edit::new();
    edit.set(name, value);
    publish.properties = edit.apply(&publish.properties).unwrap();
    publish
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_cross_unchanged_and_every_outcome_is_true() {
    let node = Node::start();
    let declaring = node.connect().await;
    let dialer = node.dialer();
    let application = node.application().await;
    let lane = "setgate.t.lane";
    ensure_lane_queue(&declaring, lane, QueueType::Quorum, "", &[])
        .await
        .unwrap();
    let mut publisher = publisher(&dialer, None).await;
    let mut consumer = consume(&dialer, lane, 1_000).await;

    // Every property and field type, and what is no text.
    let mut strange = every_property();
    strange.message_id = Some(Bytes::from_static(b"id \xff\xfe"));
    strange
        .headers_mut()
        .set(b"\xc3\x28 name", FieldValue::Void);
    for properties in [every_property(), strange] {
        let mut all = to_queue(lane, 0);
        all.properties = raw(&properties);
        let sent = all.properties.clone();
        assert_eq!(
            publish(&mut publisher, vec![all]).await,
            [Outcome::Confirmed]
        );
        let (tag, message) = delivery(&mut consumer).await;
        assert_eq!(message.properties, sent);
        assert_eq!(message.properties.decode().unwrap(), properties);
        assert_eq!(message.body, Bytes::from_static(b"message 0"));
        assert!(!message.redelivered);
        consumer.acknowledge(&settlement(tag)).unwrap();
    }

    // Returns, among 1,000 in flight: every 7th has no queue. Of the rest, half is transient in a classic queue, which
    // confirms at once, between returns and their confirms.
    ensure_own_queue(&declaring, "setgate.t.fast", QueueType::Classic)
        .await
        .unwrap();
    let target = |n: usize| match (n % 7, n % 2) {
        (0, _) => "nowhere",
        (_, 0) => "setgate.t.fast",
        (_, _) => lane,
    };
    for _ in 0..5 {
        let batch = (0..1_000).map(|n| {
            let mut publish = to_queue(target(n), n);
            let mut edit = Edit::new();
            edit.set_delivery_mode(if n % 2 == 0 { 1 } else { 2 });
            publish.properties = edit.apply(&publish.properties).unwrap();
            publish
        });
        let outcomes = publish(&mut publisher, batch.collect()).await;
        for (n, outcome) in outcomes.into_iter().enumerate() {
            match target(n) {
                "nowhere" => assert!(
                    matches!(outcome, Outcome::Returned { code: 312, .. }),
                    "{n}: {outcome:?}"
                ),
                _ => assert_eq!(outcome, Outcome::Confirmed, "{n}"),
            }
        }
        for n in (0..1_000).filter(|n| target(*n) == lane) {
            let (tag, message) = delivery(&mut consumer).await;
            assert_eq!(message.body, format!("message {n}"));
            consumer.acknowledge(&settlement(tag)).unwrap();
        }
    }

    // A queue that is full.
    let mut full = LapinTable::default();
    full.insert("x-max-length".into(), AMQPValue::LongInt(1));
    full.insert(
        "x-overflow".into(),
        AMQPValue::LongString("reject-publish".into()),
    );
    application
        .queue_declare("full".into(), QueueDeclareOptions::durable(), full)
        .await
        .unwrap();
    let batch = (0..3).map(|n| to_queue("full", n));
    assert_eq!(
        publish(&mut publisher, batch.collect()).await,
        [Outcome::Confirmed, Outcome::Nacked, Outcome::Nacked]
    );

    // What would cost the connection is held back, and the rest goes its way.
    let big = FieldValue::str("x".repeat(131_072));
    let headers = with(to_queue(lane, 1), "big", &big);
    let mut body = to_queue(lane, 2);
    body.body = Bytes::from(vec![0; (1 << 20) + 1]);
    let mut key = to_queue(lane, 3);
    key.address.routing_key = Bytes::from(vec![b'k'; 256]);
    let batch = vec![headers, to_queue(lane, 0), body, key];
    let outcomes = publish(&mut publisher, batch).await;
    assert!(
        matches!(
            &outcomes[..],
            [
                Outcome::TooLarge { .. },
                Outcome::Confirmed,
                Outcome::TooLarge { .. },
                Outcome::Unencodable { .. }
            ]
        ),
        "{outcomes:?}"
    );

    // The largest that fits: 20 bytes around the properties, which have 6 more and the name than the value here.
    let edge = to_queue(lane, 4);
    let value = 131_072 - 20 - edge.properties.as_bytes().len() - "big".len() - 6;
    let edge = with(edge, "big", &FieldValue::str("x".repeat(value)));
    assert_eq!(edge.properties.as_bytes().len() + 20, 131_072);
    assert_eq!(
        publish(&mut publisher, vec![edge]).await,
        [Outcome::Confirmed]
    );

    // An exchange that isn't there closes the channel: unknown, and of no further use.
    let mut astray = to_queue("x", 5);
    astray.address.exchange = Bytes::from_static(b"no-such-exchange");
    let outcomes = publish(&mut publisher, vec![astray]).await;
    assert!(
        matches!(&outcomes[0], Outcome::Unknown { cause } if cause.contains("no-such-exchange")),
        "{outcomes:?}"
    );
    assert!(!publisher.is_open());
    let outcomes = publish(&mut publisher, vec![to_queue(lane, 6)]).await;
    assert!(
        matches!(&outcomes[0], Outcome::Unsent { .. }),
        "{outcomes:?}"
    );
    publisher.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_given_up_is_in_order_for_whoever_comes_next() {
    let node = Node::start();
    let declaring = node.connect().await;
    let dialer = node.dialer();
    let application = node.application().await;
    for kind in [QueueType::Quorum, QueueType::Classic] {
        let queue = format!("setgate.t.order.{}", kind.as_str());
        ensure_lane_queue(&declaring, &queue, kind, "", &[])
            .await
            .unwrap();
        let mut publisher = publisher(&dialer, None).await;
        let batch = (0..2_000).map(|n| to_queue(&queue, n)).collect();
        let outcomes = publish(&mut publisher, batch).await;
        assert!(outcomes.iter().all(|one| *one == Outcome::Confirmed));
        publisher.close().await.unwrap();
        // Each round acknowledges two of the deliveries that it sees, with a thousand more on their way.
        for (round, close) in [true, false, true, false].into_iter().enumerate() {
            let mut consumer = consume(&dialer, &queue, 1_000).await;
            for n in 0..5 {
                let (tag, message) = delivery(&mut consumer).await;
                let expected = format!("message {}", round * 2 + n);
                assert_eq!(message.body, expected, "{kind:?} {round}");
                if n == 1 {
                    consumer.acknowledge(&settlement(tag)).unwrap();
                }
            }
            if close {
                consumer.close().await.unwrap();
            }
        }
        let mut consumer = consume(&dialer, &queue, 1_000).await;
        for n in 8..2_000 {
            let (tag, message) = delivery(&mut consumer).await;
            assert_eq!(message.body, format!("message {n}"));
            assert!(message.redelivered || n > 12, "{n}");
            consumer.acknowledge(&settlement(tag)).unwrap();
        }
        application
            .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
            .await
            .unwrap();
        assert!(lost(&mut consumer).await.contains("queue was deleted"));
        assert!(lost(&mut consumer).await.contains("queue was deleted"));
        consumer.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_asks_for_less_gives_back_in_order_once_something_new_has_come() {
    let node = Node::start();
    let declaring = node.connect().await;
    let dialer = node.dialer();
    for kind in [QueueType::Quorum, QueueType::Classic] {
        // Where the third one begins when the second ends: at once, or with something new in hand.
        for early in [true, false] {
            let queue = format!("setgate.t.less.{}.{early}", kind.as_str());
            ensure_lane_queue(&declaring, &queue, kind, "", &[])
                .await
                .unwrap();
            let mut publisher = publisher(&dialer, None).await;
            let batch = (0..60).map(|n| to_queue(&queue, n)).collect();
            let outcomes = publish(&mut publisher, batch).await;
            assert!(outcomes.iter().all(|one| *one == Outcome::Confirmed));
            publisher.close().await.unwrap();

            let mut consumer = consume(&dialer, &queue, 40).await;
            delivery(&mut consumer).await;
            consumer.close().await.unwrap();
            let mut consumer = consume(&dialer, &queue, 10).await;
            let mut settled = 0;
            loop {
                let (tag, message) = delivery(&mut consumer).await;
                if early || !message.redelivered {
                    break;
                }
                consumer.acknowledge(&settlement(tag)).unwrap();
                settled += 1;
            }
            assert_eq!(settled, if early { 0 } else { 40 }, "{kind:?}");
            consumer.close().await.unwrap();

            let mut consumer = consume(&dialer, &queue, 100).await;
            // A quorum queue gives out the rest of what it was given back first.
            let first = match (kind, early) {
                (QueueType::Quorum, true) => 10,
                _ => settled,
            };
            for n in first..first + 20 {
                let (_, message) = delivery(&mut consumer).await;
                assert_eq!(message.body, format!("message {n}"), "{kind:?} {early}");
            }
            consumer.close().await.unwrap();
        }
    }
}
