//! A broker that blocks, freezes and dies.

use crate::node::{Node, delivery, lost, settlement, to_queue, within};
use bytes::Bytes;
use rustix::process::Signal;
use setgate::broker::{
    ConnectionState, Consumer, ConsumerKind, LanePublisher, Outcome, QueueType, Role,
    ensure_lane_queue,
};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_dies_or_blocks_costs_no_message_and_is_told() {
    let mut node = Node::start();
    let publishing = node.connect(Role::Publish).await;
    let consuming = node.connect(Role::Consume).await;
    let lane = "setgate.t.lane";
    ensure_lane_queue(&publishing, lane, QueueType::Quorum, "", &[])
        .await
        .unwrap();
    let mut publisher = LanePublisher::open(&publishing, Some("setgate.t.lock"))
        .await
        .unwrap();
    assert_eq!(
        within(publisher.publish(vec![to_queue(lane, 0)])).await,
        [Outcome::Confirmed]
    );

    // More returns to the queue than RabbitMQ's own limit of 20.
    for round in 0..25 {
        let mut consumer = Consumer::open(&consuming, lane, ConsumerKind::SingleActive, 5)
            .await
            .unwrap();
        let (_, message) = delivery(&mut consumer).await;
        assert_eq!(
            (message.body, message.redelivered),
            (Bytes::from_static(b"message 0"), round > 0)
        );
    }

    // Blocked: nothing is dropped, nothing is answered, and the state says so.
    node.ctl(&["set_vm_memory_high_watermark", "0"]);
    let mut publish = Box::pin(publisher.publish((1..4).map(|n| to_queue(lane, n)).collect()));
    let mut state = publishing.watch();
    let blocked = within(async {
        tokio::select! {
            outcomes = &mut publish => panic!("answered while blocked: {outcomes:?}"),
            state = state.wait_for(|state| state.blocked().is_some()) => state.unwrap().clone(),
        }
    })
    .await;
    assert!(
        matches!(&blocked, ConnectionState::Up { blocked: Some(reason), .. } if reason.contains("memory"))
    );
    let pending = tokio::time::timeout(Duration::from_secs(2), &mut publish).await;
    assert!(pending.is_err(), "{pending:?}");
    node.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    assert_eq!(within(publish).await, vec![Outcome::Confirmed; 3]);
    assert!(publishing.state().blocked().is_none());

    // Frozen, then killed, with a batch in flight: each is unknown, once; the consumer ends.
    let mut consumer = Consumer::open(&consuming, lane, ConsumerKind::SingleActive, 100)
        .await
        .unwrap();
    let (tag, _) = delivery(&mut consumer).await;
    node.signal(Signal::STOP);
    let mut publish = Box::pin(publisher.publish((4..304).map(|n| to_queue(lane, n)).collect()));
    let pending = tokio::time::timeout(Duration::from_millis(300), &mut publish).await;
    assert!(pending.is_err(), "{pending:?}");
    node.kill();
    let killed = Instant::now();
    let outcomes = within(publish).await;
    assert!(
        killed.elapsed() < Duration::from_secs(3),
        "{:?}",
        killed.elapsed()
    );
    assert_eq!(outcomes.len(), 300);
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, Outcome::Unknown { .. })),
        "{outcomes:?}"
    );
    lost(&mut consumer).await;
    assert!(consumer.acknowledge(&settlement(tag)).is_err());
    let mut state = publishing.watch();
    let down = within(
        state.wait_for(|state| state.cause().is_some_and(|cause| cause.contains("refused"))),
    )
    .await
    .unwrap()
    .clone();
    assert!(!format!("{down:?}").contains("guest:"), "{down:?}");

    // Back by itself; what was confirmed is there, what was unknown is there at most once.
    node.boot();
    within(publishing.up()).await;
    within(consuming.up()).await;
    assert!(!publisher.is_open());
    drop(publisher);
    let mut publisher = within(LanePublisher::open(&publishing, Some("setgate.t.lock")))
        .await
        .unwrap();
    assert_eq!(
        within(publisher.publish(vec![to_queue(lane, 1_000)])).await,
        [Outcome::Confirmed]
    );
    let mut consumer = Consumer::open(&consuming, lane, ConsumerKind::SingleActive, 100)
        .await
        .unwrap();
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
