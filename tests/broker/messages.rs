//! What crosses a broker, and what its answers mean.

use crate::node::{Node, delivery, lost, settlement, to_queue, within};
use bytes::Bytes;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable as LapinTable};
use setgate::amqp::{FieldTable, FieldValue, Properties};
use setgate::broker::{
    Consumer, ConsumerKind, LanePublisher, Outcome, QueueType, Role, ensure_lane_queue,
    ensure_own_queue,
};

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

#[tokio::test(flavor = "multi_thread")]
async fn messages_cross_unchanged_and_every_outcome_is_true() {
    let node = Node::start();
    let publishing = node.connect(Role::Publish).await;
    let consuming = node.connect(Role::Consume).await;
    let application = node.application().await;
    ensure_lane_queue(&publishing, "setgate.t.lane", QueueType::Quorum, "", &[])
        .await
        .unwrap();
    let mut publisher = LanePublisher::open(&publishing, None).await.unwrap();

    // Every property and field type.
    let mut all = to_queue("setgate.t.lane", 0);
    all.properties = every_property();
    all.token = "all".to_owned();
    assert_eq!(
        within(publisher.publish(vec![all])).await,
        [Outcome::Confirmed]
    );
    let mut consumer = Consumer::open(&consuming, "setgate.t.lane", ConsumerKind::SingleActive, 10)
        .await
        .unwrap();
    let (tag, message) = delivery(&mut consumer).await;
    assert_eq!(message.properties.decode().unwrap(), every_property());
    assert_eq!(message.body, Bytes::from_static(b"message 0"));
    assert!(!message.redelivered);
    consumer.acknowledge(&settlement(tag)).unwrap();

    // Returns, among 200 in flight: every 7th has no queue. Of the rest, half is transient in a classic queue, which
    // confirms at once, between returns and their confirms; that is when a return comes along with another's confirm.
    ensure_own_queue(&publishing, "setgate.t.fast", QueueType::Classic)
        .await
        .unwrap();
    let target = |n: usize| match (n % 7, n % 2) {
        (0, _) => "nowhere",
        (_, 0) => "setgate.t.fast",
        (_, _) => "setgate.t.lane",
    };
    for _ in 0..10 {
        let batch = (0..200).map(|n| {
            let mut publish = to_queue(target(n), n);
            publish.properties.delivery_mode = Some(if n % 2 == 0 { 1 } else { 2 });
            publish
        });
        let outcomes = within(publisher.publish(batch.collect())).await;
        for (n, outcome) in outcomes.into_iter().enumerate() {
            match target(n) {
                "nowhere" => assert!(
                    matches!(outcome, Outcome::Returned { code: 312, .. }),
                    "{n}: {outcome:?}"
                ),
                _ => assert_eq!(outcome, Outcome::Confirmed, "{n}"),
            }
        }
        for n in (0..200).filter(|n| target(*n) == "setgate.t.lane") {
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
    let outcomes = within(publisher.publish((0..3).map(|n| to_queue("full", n)).collect())).await;
    assert_eq!(
        outcomes,
        [Outcome::Confirmed, Outcome::Nacked, Outcome::Nacked]
    );

    // What would cost the connection is held back, and the rest of the batch goes its way.
    let mut headers = to_queue("setgate.t.lane", 1);
    headers
        .properties
        .headers_mut()
        .set("big", FieldValue::str("x".repeat(131_072)));
    let mut body = to_queue("setgate.t.lane", 2);
    body.body = Bytes::from(vec![0; (1 << 20) + 1]);
    let mut name = to_queue("setgate.t.lane", 3);
    name.properties.message_id = Some(Bytes::from_static(b"\xff"));
    let outcomes =
        within(publisher.publish(vec![headers, to_queue("setgate.t.lane", 0), body, name])).await;
    assert!(
        matches!(&outcomes[0], Outcome::TooLarge { .. }),
        "{outcomes:?}"
    );
    assert_eq!(outcomes[1], Outcome::Confirmed);
    assert!(
        matches!(&outcomes[2], Outcome::TooLarge { .. }),
        "{outcomes:?}"
    );
    assert!(
        matches!(&outcomes[3], Outcome::Unencodable { .. }),
        "{outcomes:?}"
    );

    // The largest that fits: 20 bytes around the properties, which have 17 + 21 more than the value here.
    let mut edge = to_queue("setgate.t.lane", 4);
    let value = 131_072 - 20 - edge.properties.encode().unwrap().len() - "big".len() - 6;
    edge.properties
        .headers_mut()
        .set("big", FieldValue::str("x".repeat(value)));
    assert_eq!(edge.properties.encode().unwrap().len() + 20, 131_072);
    assert_eq!(
        within(publisher.publish(vec![edge])).await,
        [Outcome::Confirmed]
    );

    // An exchange that isn't there closes the channel: unknown, and of no further use.
    let mut astray = to_queue("x", 5);
    astray.address.exchange = Bytes::from_static(b"no-such-exchange");
    let outcomes = within(publisher.publish(vec![astray])).await;
    assert!(
        matches!(&outcomes[0], Outcome::Unknown { cause } if cause.contains("no-such-exchange")),
        "{outcomes:?}"
    );
    let outcomes = within(publisher.publish(vec![to_queue("setgate.t.lane", 6)])).await;
    assert!(
        matches!(&outcomes[0], Outcome::Unsent { .. }),
        "{outcomes:?}"
    );

    // A consumer that is dropped, or closed, gives its messages back in order, and ends with its queue.
    for kind in [QueueType::Quorum, QueueType::Classic] {
        let queue = format!("setgate.t.order.{}", kind.as_str());
        ensure_lane_queue(&publishing, &queue, kind, "", &[])
            .await
            .unwrap();
        let mut publisher = LanePublisher::open(&publishing, None).await.unwrap();
        within(publisher.publish((0..20).map(|n| to_queue(&queue, n)).collect())).await;
        publisher.close().await.unwrap();
        for close in [true, false] {
            let open = Consumer::open(&consuming, &queue, ConsumerKind::SingleActive, 7);
            let mut consumer = open.await.unwrap();
            for n in 0..5 {
                let (_, message) = delivery(&mut consumer).await;
                assert_eq!(message.body, format!("message {n}"), "{kind:?} {close}");
            }
            if close {
                consumer.close().await.unwrap();
            }
        }
        let open = Consumer::open(&consuming, &queue, ConsumerKind::SingleActive, 7);
        let mut consumer = open.await.unwrap();
        let (_, message) = delivery(&mut consumer).await;
        assert_eq!(message.body, "message 0");
        assert!(message.redelivered);
        application
            .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
            .await
            .unwrap();
        assert!(lost(&mut consumer).await.contains("queue was deleted"));
    }
}
