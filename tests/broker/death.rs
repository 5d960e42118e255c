//! A broker that blocks, freezes and dies.

use crate::node::{
    Node, consume, delivery, lost, outcomes, publish, publisher, settlement, to_queue, within,
};
use bytes::Bytes;
use rustix::process::Signal;
use setgate::broker::{LanePublisher, Outcome, QueueType, ensure_lane_queue};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_dies_or_blocks_costs_no_message_and_is_told() {
    let mut node = Node::start();
    let declaring = node.connect().await;
    let dialer = node.dialer();
    let lane = "setgate.t.lane";
    let lock = Some("setgate.t.lock");
    ensure_lane_queue(&declaring, lane, QueueType::Quorum, "", &[])
        .await
        .unwrap();
    let mut sender = publisher(&dialer, lock).await;
    assert_eq!(
        publish(&mut sender, vec![to_queue(lane, 0)]).await,
        [Outcome::Confirmed]
    );

    // More returns to the queue than RabbitMQ's own limit of 20.
    for round in 0..25 {
        let mut consumer = consume(&dialer, lane, 5).await;
        let (_, message) = delivery(&mut consumer).await;
        assert_eq!(
            (message.body, message.redelivered),
            (Bytes::from_static(b"message 0"), round > 0)
        );
    }

    // Blocked: nothing is dropped, nothing is answered, and it is told.
    node.ctl(&["set_vm_memory_high_watermark", "0"]);
    for n in 1..4 {
        sender.publish(to_queue(lane, n));
    }
    let mut blocked = dialer.blocked();
    let reason = within(blocked.wait_for(Option::is_some)).await;
    assert!(reason.unwrap().as_ref().unwrap().contains("memory"));
    within(async {
        while sender.has_room() {
            assert_eq!(sender.next().await, []);
        }
    })
    .await;
    let pending = tokio::time::timeout(Duration::from_secs(2), outcomes(&mut sender)).await;
    assert!(pending.is_err(), "{pending:?}");
    node.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    let confirmed = outcomes(&mut sender).await;
    assert!(confirmed.values().all(|one| *one == Outcome::Confirmed));
    assert_eq!(confirmed.len(), 3);
    within(blocked.wait_for(Option::is_none)).await.unwrap();
    assert!(sender.has_room());

    // Frozen, then killed, with 300 in flight: each is unknown, once; the consumer ends.
    let mut consumer = consume(&dialer, lane, 100).await;
    let (tag, _) = delivery(&mut consumer).await;
    node.signal(Signal::STOP);
    for n in 4..304 {
        sender.publish(to_queue(lane, n));
    }
    let pending = tokio::time::timeout(Duration::from_millis(300), outcomes(&mut sender)).await;
    assert!(pending.is_err(), "{pending:?}");
    node.kill();
    let killed = Instant::now();
    let unknown = outcomes(&mut sender).await;
    assert!(
        killed.elapsed() < Duration::from_secs(3),
        "{:?}",
        killed.elapsed()
    );
    assert_eq!(unknown.len(), 300);
    assert!(
        unknown
            .values()
            .all(|outcome| matches!(outcome, Outcome::Unknown { .. })),
        "{unknown:?}"
    );
    within(consumer.ended()).await;
    lost(&mut consumer).await;
    assert!(consumer.acknowledge(&settlement(tag)).is_err());
    let mut state = declaring.watch();
    let down = within(
        state.wait_for(|state| state.cause().is_some_and(|cause| cause.contains("refused"))),
    )
    .await
    .unwrap()
    .clone();
    assert!(!format!("{down:?}").contains("guest:"), "{down:?}");
    let refused = within(LanePublisher::open(&dialer, "t", lock)).await;
    let words = refused.unwrap_err().to_string();
    assert!(words.contains("connection refused") && !words.contains("guest:"));

    // Back by itself; what was confirmed is there, what was unknown is there at most once.
    node.boot();
    within(declaring.up()).await;
    assert!(!sender.is_open());
    drop(sender);
    let mut sender = publisher(&dialer, lock).await;
    assert_eq!(
        publish(&mut sender, vec![to_queue(lane, 1_000)]).await,
        [Outcome::Confirmed]
    );
    let mut consumer = consume(&dialer, lane, 100).await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| *last != 1_000) {
        let (tag, message) = delivery(&mut consumer).await;
        let text = String::from_utf8(message.body.to_vec()).unwrap();
        seen.push(
            text.trim_start_matches("message ")
                .parse::<usize>()
                .unwrap(),
        );
        consumer.acknowledge(&settlement(tag)).unwrap();
    }
    assert_eq!(seen[..4], [0, 1, 2, 3]);
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
}
