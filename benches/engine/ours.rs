//! The engine in its shell, as the gateway drives it.

use super::template::Template;
use super::{
    ACKNOWLEDGED_AT_ONCE, ACKNOWLEDGED_EVERY, BODY_BYTES, Cost, IN_FLIGHT_MAX, Meter, PREFETCH,
    QUEUE,
};
use bytes::Bytes;
use setgate::broker::{
    Consumer, ConsumerEvent, ConsumerKind, Dialer, LanePublisher, Outcome, Publish, PublishId,
    Settings, Unroutable,
};
use setgate::lane::Ledger;
use setgate::model::Address;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::TaskTracker;

fn dialer(uri: &str, tasks: &TaskTracker) -> Dialer {
    let settings = Settings {
        uris: vec![uri.to_owned().into()],
        password: None,
        tls: None,
        heartbeat: Settings::HEARTBEAT,
        message_bytes_max: 1 << 20,
        name: "bench".to_owned(),
    };
    Dialer::new(&settings, None, tasks).unwrap()
}

pub(super) async fn publish(uri: &str, messages: u64) -> Cost {
    let tasks = TaskTracker::new();
    let dialer = dialer(uri, &tasks);
    let mut publisher = LanePublisher::open(&dialer, "bench", None).await.unwrap();
    let template = Template::new();
    let body = Bytes::from(vec![b'x'; BODY_BYTES]);
    let address = Address {
        exchange: Bytes::new(),
        routing_key: Bytes::from_static(QUEUE.as_bytes()),
    };
    let meter = Meter::begin();
    let (mut next, mut confirmed) = (0, 0);
    while confirmed < messages {
        while next < messages && publisher.unanswered() < IN_FLIGHT_MAX && publisher.has_room() {
            publisher.publish(Publish {
                id: PublishId(next),
                address: address.clone(),
                properties: template.of(next),
                body: body.clone(),
                unroutable: Unroutable::Return,
            });
            next += 1;
        }
        for (id, outcome) in publisher.next().await {
            assert_eq!(outcome, Outcome::Confirmed, "{id:?}");
            confirmed += 1;
        }
    }
    let cost = meter.end();
    publisher.close().await.unwrap();
    cost
}

pub(super) async fn consume(uri: &str, messages: u64) -> Cost {
    let tasks = TaskTracker::new();
    let dialer = dialer(uri, &tasks);
    let meter = Meter::begin();
    let kind = ConsumerKind::Exclusive;
    let opened = Consumer::open(&dialer, "bench", QUEUE, kind, PREFETCH, 1 << 20).await;
    let mut consumer = opened.unwrap();
    let mut ticks = interval(ACKNOWLEDGED_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ledger = Ledger::default();
    let mut acknowledge = |consumer: &Consumer, tag| {
        // One entry per acknowledgement: the ledger is the lane's, not the client's.
        let entry = ledger.open(tag, 0, Instant::now().into_std());
        ledger.close(entry);
        consumer.acknowledge(&ledger.settle().unwrap()).unwrap();
    };
    let (mut taken, mut waiting, mut last) = (0, 0, None);
    while taken < messages {
        tokio::select! {
            biased;
            event = consumer.next() => match event {
                ConsumerEvent::Delivery { tag, message } => {
                    assert_eq!(message.body.len(), BODY_BYTES);
                    taken += 1;
                    waiting += 1;
                    last = Some(tag);
                    if waiting < ACKNOWLEDGED_AT_ONCE && taken < messages {
                        continue;
                    }
                }
                other => panic!("{other:?}"),
            },
            _ = ticks.tick() => {}
        }
        waiting = 0;
        if let Some(tag) = last.take() {
            acknowledge(&consumer, tag);
        }
    }
    let cost = meter.end();
    consumer.close().await.unwrap();
    cost
}
