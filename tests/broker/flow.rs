//! Back-pressure, and bodies that are held whole nowhere.

use crate::eventually::eventually;
use crate::node::{
    DEADLINE, Node, consume, delivery, dialer, outcomes, publish, publisher, settlement, to_queue,
    within,
};
use bytes::{Bytes, BytesMut};
use setgate::broker::{
    Consumer, ConsumerEvent, ConsumerKind, Outcome, PublishId, QueueType, ensure_lane_queue,
};
use std::time::Duration;

const LANE: &str = "setgate.t.lane";

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_takes_nothing_stays_connected_and_goes_on() {
    const COUNT: usize = 400;
    let node = Node::start();
    let declaring = node.connect().await;
    ensure_lane_queue(&declaring, LANE, QueueType::Classic, "", &[])
        .await
        .unwrap();
    let mut settings = node.settings("guest");
    settings.heartbeat = Duration::from_secs(1);
    let dialer = dialer(&settings);
    let mut sender = publisher(&dialer, None).await;
    // 40 MB: more than what the kernel's buffers take.
    let body = Bytes::from(vec![7; 100_000]);
    let batch = (0..COUNT).map(|n| {
        let mut publish = to_queue(LANE, n);
        publish.body = body.clone();
        publish
    });
    let outcomes = publish(&mut sender, batch.collect()).await;
    assert!(outcomes.iter().all(|one| *one == Outcome::Confirmed));

    let mut consumer = consume(&dialer, LANE, 1_000).await;
    stalls(&consumer).await;
    // Six heartbeats: the broker closes after two without one, and so would we.
    let ended = tokio::time::timeout(Duration::from_secs(6), consumer.ended()).await;
    assert!(ended.is_err(), "{ended:?}");
    assert!(consumer.stalled_since().is_some());
    // It may hold more, and reads on.
    consumer.hold_at_most(2 << 20);
    stalls(&consumer).await;
    consumer.hold_at_most(64 << 20);
    assert_eq!(consumer.stalled_since(), None);
    for n in 0..COUNT {
        let (tag, message) = delivery(&mut consumer).await;
        assert_eq!(
            (tag.0, message.body.len()),
            (n as u64 + 1, body.len()),
            "{n}"
        );
        assert!(!message.redelivered);
        if n % 64 == 63 || n == COUNT - 1 {
            consumer.acknowledge(&settlement(tag)).unwrap();
        }
    }
    assert_eq!(consumer.stalled_since(), None);
    // All was acknowledged, in order before the close.
    consumer.close().await.unwrap();
    assert_eq!(setgate::broker::depth(&declaring, LANE).await, Ok(Some(0)));

    // One that is stalled can be closed, and nothing is lost.
    let batch = (0..COUNT).map(|n| {
        let mut publish = to_queue(LANE, n);
        publish.body = body.clone();
        publish
    });
    publish(&mut sender, batch.collect()).await;
    let consumer = consume(&dialer, LANE, 1_000).await;
    stalls(&consumer).await;
    consumer.close().await.unwrap();
    assert_eq!(
        setgate::broker::depth(&declaring, LANE).await,
        Ok(Some(u32::try_from(COUNT).unwrap()))
    );
}

/// Returns once the consumer's socket isn't read, because nothing is taken.
async fn stalls(consumer: &Consumer) {
    eventually("a stall", DEADLINE, async || consumer.stalled_since()).await;
}

/// The next message, whole, whichever way it comes.
async fn whole(consumer: &mut Consumer) -> (u64, Bytes, usize) {
    match within(consumer.next()).await {
        ConsumerEvent::Delivery { tag, message } => (tag.0, message.body, 0),
        ConsumerEvent::Large {
            tag,
            message,
            body_bytes,
        } => {
            assert!(message.body.is_empty());
            let mut body = BytesMut::new();
            let mut pieces = 0;
            loop {
                match within(consumer.next()).await {
                    ConsumerEvent::Piece { piece, left } => {
                        body.extend_from_slice(&piece);
                        pieces += 1;
                        assert_eq!(body.len() as u64 + left, body_bytes);
                        if left == 0 {
                            break (tag.0, body.freeze(), pieces);
                        }
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_comes_and_goes_in_pieces() {
    let node = Node::start();
    let declaring = node.connect().await;
    ensure_lane_queue(&declaring, LANE, QueueType::Classic, "", &[])
        .await
        .unwrap();
    let dialer = node.dialer();
    let mut sender = publisher(&dialer, None).await.of_any_size();
    let body: Bytes = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();

    // In pieces and at once, a small one and an empty one between.
    let mut first = to_queue(LANE, 0);
    first.body = body.slice(..10);
    sender.publish_in_pieces(first, body.len() as u64);
    for at in (10..body.len()).step_by(50_000) {
        sender.piece(body.slice(at..(at + 50_000).min(body.len())));
    }
    sender.publish(to_queue(LANE, 1));
    let mut empty = to_queue(LANE, 2);
    empty.body = Bytes::new();
    sender.publish(empty);
    let mut last = to_queue(LANE, 3);
    last.body = body.clone();
    sender.publish(last);
    let confirmed = outcomes(&mut sender).await;
    assert!(confirmed.values().all(|one| *one == Outcome::Confirmed));
    assert_eq!(confirmed.len(), 4);

    let kind = ConsumerKind::SingleActive;
    let open = Consumer::open(&dialer, "lane t/0", LANE, kind, 10, 65_536);
    let mut consumer = within(open).await.unwrap();
    for (at, expected) in [
        body.clone(),
        Bytes::from_static(b"message 1"),
        Bytes::new(),
        body.clone(),
    ]
    .into_iter()
    .enumerate()
    {
        let (tag, body, pieces) = whole(&mut consumer).await;
        assert_eq!(tag, at as u64 + 1);
        assert!(body == expected, "{at}");
        assert_eq!(pieces > 1, expected.len() > 65_536, "{at}: {pieces}");
    }
    consumer.close().await.unwrap();

    // One that is above message_max is not sent, and its pieces are nobody else's.
    let mut sender = publisher(&dialer, None).await;
    sender.publish_in_pieces(to_queue(LANE, 4), body.len() as u64);
    sender.piece(body.slice(9..));
    sender.publish(to_queue(LANE, 5));
    let outcomes = outcomes(&mut sender).await;
    assert!(matches!(outcomes[&PublishId(4)], Outcome::TooLarge { .. }));
    assert_eq!(outcomes[&PublishId(5)], Outcome::Confirmed);
}
