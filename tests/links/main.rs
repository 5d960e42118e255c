//! Links between gateways keep their promises: order, answers, credits, and who may come in.

#![allow(clippy::unwrap_used)] // the lint knows tests, but not their helpers

mod admission;
mod harness;

use harness::{
    Authority, BYTES_MAX, Client, MESSAGE_MAX, Port, Proxy, accept_all, credit, event, hello,
    parcel, send_all, send_all_of, welcome, within,
};
use setgate::lab;
use setgate::link::{Credit, LinkState, RefusalReason};
use setgate::model::{Answer, Parcel, ParcelNumber, Reason};
use setgate::wire::{LinkError, LinkSecurity, StreamEvent, local_pipe};
use std::num::NonZeroU64;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_parcels_cross_in_order_and_each_is_answered_once() {
    let authority = Authority::new();
    let mut port = Port::open("bj-1", authority.security("bj-1")).await;
    let client = Client::start("sh-1", "bj-1", port.address, authority.security("sh-1"));
    client.up().await;
    let mut pipe = client.open(hello("sh-1", "bj-1")).await;
    let remote = port.stream().await;
    assert_eq!(remote.hello, hello("sh-1", "bj-1"));
    let receiver = TaskTracker::new().spawn(accept_all(remote));
    send_all(&mut pipe, 10_000, 512).await;
    drop(pipe.parcels);
    let seen = within("the receiver's end", receiver).await.unwrap();
    assert_eq!(seen, (1..=10_000).collect::<Vec<_>>());
    assert!(matches!(
        event_or_end(pipe.events).await,
        StreamEvent::Down { .. }
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capped_link_carries_its_rate_and_says_so() {
    let authority = Authority::new();
    let mut port = Port::open("bj-1", authority.security("bj-1")).await;
    let client = Client::start("sh-1", "bj-1", port.address, authority.security("sh-1"));
    client.up().await;
    client.cap.set(NonZeroU64::new(512 * 1024));
    let mut pipe = client.open(hello("sh-1", "bj-1")).await;
    let receiver = TaskTracker::new().spawn(accept_all(port.stream().await));
    let begun = Instant::now();
    // 1.5 MiB, of which a tenth of a second is saved up and one frame goes ahead.
    send_all(&mut pipe, 1_536, 1_024).await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(2_700), "{took:?}");
    let status = client.link.status().borrow().clone();
    assert_eq!(status.capped, NonZeroU64::new(512 * 1024));
    drop(pipe);
    within("the receiver's end", receiver).await.unwrap();
}

/// What a link has sent when 200 parcels of 10,000 equal bytes have been answered.
async fn bytes_of_what_compresses(client: &Client, port: &mut Port) -> u64 {
    let mut pipe = client.open(hello("sh-1", "bj-1")).await;
    let receiver = TaskTracker::new().spawn(accept_all(port.stream().await));
    send_all_of(&mut pipe, 200, |number| Parcel {
        body: vec![7; 10_000].into(),
        ..parcel(number, 0)
    })
    .await;
    // Counts are told with each canary that comes back.
    let mut status = client.link.status();
    status.borrow_and_update();
    for _ in 0..2 {
        within("a canary", status.changed()).await.unwrap();
    }
    drop(pipe);
    within("the receiver's end", receiver).await.unwrap();
    client.link.status().borrow().bytes_out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_far_or_capped_link_is_compressed_and_a_near_one_is_not() {
    const WHOLE: u64 = 200 * 10_000;
    let tasks = TaskTracker::new();
    let mut port = Port::open("bj-1", LinkSecurity::Insecure).await;
    let wire = lab::proxy::Proxy::start(port.address, Duration::from_millis(10), &tasks);
    let wire = wire.await.unwrap();

    let near = Client::start("sh-1", "bj-1", port.address, LinkSecurity::Insecure);
    near.up().await;
    // A machine that is busy answers its first canaries late.
    let mut status = near.link.status();
    let is_near = |round_trip| round_trip < Duration::from_millis(2);
    let shown = status.wait_for(|status| status.distance.round_trip().is_some_and(is_near));
    within("a short round trip", shown).await.unwrap();
    assert!(bytes_of_what_compresses(&near, &mut port).await > WHOLE);

    near.cap.set(NonZeroU64::new(1 << 30));
    let before = near.link.status().borrow().bytes_out;
    assert!(bytes_of_what_compresses(&near, &mut port).await - before < WHOLE / 4);

    let far = Client::start("sh-1", "bj-1", wire.address(), LinkSecurity::Insecure);
    let mut status = far.link.status();
    let measured = status.wait_for(|status| status.round_trip.is_some());
    within("the round trip", measured).await.unwrap();
    // It is told a moment before the link is up.
    far.up().await;
    assert!(bytes_of_what_compresses(&far, &mut port).await < WHOLE / 4);
}

async fn event_or_end(mut events: tokio::sync::mpsc::Receiver<StreamEvent>) -> StreamEvent {
    within("the stream's end", events.recv()).await.unwrap()
}

#[tokio::test]
async fn a_local_stream_speaks_the_same_words() {
    let (mut sender, receiver) = local_pipe(hello("bj-1", "bj-1"));
    let receiver = TaskTracker::new().spawn(accept_all(receiver));
    send_all(&mut sender, 10_000, 512).await;
    drop(sender.parcels);
    assert_eq!(within("the end", receiver).await.unwrap().len(), 10_000);
    assert_eq!(within("the end", sender.events.recv()).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_lane_does_not_hold_up_another() {
    let mut port = Port::open("bj-1", LinkSecurity::Insecure).await;
    let client = Client::start("sh-1", "bj-1", port.address, LinkSecurity::Insecure);
    client.up().await;
    let mut stalled = client.open(hello("sh-1", "bj-1")).await;
    let never_answers = port.stream().await;
    welcome(&never_answers).await;
    let granted = credit(&mut stalled).await;
    assert!(granted.bytes <= Credit::MAX.bytes);
    for number in 0..(granted.bytes / (64 * 1024 + 1024)) as u64 {
        within(
            "room within the credit",
            stalled.parcels.send(parcel(number, 64 * 1024)),
        )
        .await
        .unwrap();
    }
    let mut other = client.open(hello("sh-1", "bj-1")).await;
    let receiver = TaskTracker::new().spawn(accept_all(port.stream().await));
    send_all(&mut other, 2_000, 10_000).await;
    drop(other);
    assert_eq!(within("the end", receiver).await.unwrap().len(), 2_000);
    drop(never_answers);
}

#[tokio::test]
async fn a_large_parcel_crosses_alone_and_one_above_the_bound_is_refused_at_home() {
    let mut port = Port::open("bj-1", LinkSecurity::Insecure).await;
    let client = Client::start("sh-1", "bj-1", port.address, LinkSecurity::Insecure);
    client.up().await;
    let mut pipe = client.open(hello("sh-1", "bj-1")).await;
    let mut received = port.stream().await;
    welcome(&received).await;
    credit(&mut pipe).await;
    pipe.parcels.send(parcel(1, 2 * MESSAGE_MAX)).await.unwrap();
    pipe.parcels.send(parcel(2, MESSAGE_MAX)).await.unwrap();
    let Some(StreamEvent::Answers(answers)) = event(&mut pipe).await else {
        panic!("no answer for the parcel that is too large");
    };
    assert!(matches!(
        answers.as_slice(),
        [(
            ParcelNumber(1),
            Answer::Refused {
                reason: Reason::TooLarge,
                ..
            }
        )]
    ));
    let arrived = within("the other parcel", received.parcels.recv())
        .await
        .unwrap();
    assert_eq!(arrived, parcel(2, MESSAGE_MAX));
}

#[tokio::test]
async fn who_sends_beyond_its_credit_is_cut_off() {
    let mut port = Port::open("bj-1", LinkSecurity::Insecure).await;
    let client = Client::start("sh-1", "bj-1", port.address, LinkSecurity::Insecure);
    client.up().await;
    let mut pipe = client.open(hello("sh-1", "bj-1")).await;
    let received = port.stream().await;
    welcome(&received).await;
    let granted = credit(&mut pipe).await;
    for number in 0..=(granted.bytes / (512 * 1024)) as u64 {
        // Fails once the stream has been ended, which is what we are after.
        let _ = pipe.parcels.send(parcel(number, 512 * 1024)).await;
    }
    let Some(StreamEvent::Refused { reason, .. }) = event(&mut pipe).await else {
        panic!("not cut off");
    };
    assert_eq!(reason, RefusalReason::Credit);
    assert_eq!(port.refused.of(RefusalReason::Credit), 1);
}

#[tokio::test]
async fn the_streams_of_all_peers_share_one_budget() {
    let mut port = Port::open("bj-1", LinkSecurity::Insecure).await;
    let mut granted = Vec::new();
    let mut open = Vec::new();
    for unit in ["sh-1", "sh-2"] {
        let client = Client::start(unit, "bj-1", port.address, LinkSecurity::Insecure);
        client.up().await;
        let mut pipe = client.open(hello(unit, "bj-1")).await;
        let received = port.stream().await;
        welcome(&received).await;
        granted.push(credit(&mut pipe).await.bytes);
        open.push((client, pipe, received));
    }
    assert!(granted[1] < granted[0], "{granted:?}");
    assert!(granted.iter().sum::<usize>() <= BYTES_MAX, "{granted:?}");
}

#[tokio::test]
async fn each_side_hears_of_the_others_end() {
    let mut port = Port::open("bj-1", LinkSecurity::Insecure).await;
    let client = Client::start("sh-1", "bj-1", port.address, LinkSecurity::Insecure);
    client.up().await;

    let pipe = client.open(hello("sh-1", "bj-1")).await;
    let mut received = port.stream().await;
    drop(pipe);
    assert_eq!(
        within("the sender's end", received.parcels.recv()).await,
        None
    );

    let mut pipe = client.open(hello("sh-1", "bj-1")).await;
    drop(port.stream().await);
    assert!(matches!(
        event(&mut pipe).await,
        Some(StreamEvent::Down { .. })
    ));
    assert_eq!(event(&mut pipe).await, None);

    let mut pipe = client.open(hello("sh-1", "bj-1")).await;
    let received = port.stream().await;
    let busy = StreamEvent::Refused {
        reason: RefusalReason::LaneBusy,
        cause: "another receiver holds the lock".into(),
    };
    received.words.send(busy.clone()).await.unwrap();
    assert_eq!(event(&mut pipe).await, Some(busy));
    assert_eq!(event(&mut pipe).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_is_noticed_within_seconds_and_a_new_stream_opens_after_it() {
    let authority = Authority::new();
    let mut port = Port::open("bj-1", authority.security("bj-1")).await;
    let proxy = Proxy::before(port.address).await;
    let client = Client::start("sh-1", "bj-1", proxy.address, authority.security("sh-1"));
    client.up().await;
    let mut pipe = client.open(hello("sh-1", "bj-1")).await;
    let mut remote = port.stream().await;
    welcome(&remote).await;
    credit(&mut pipe).await;

    let before = tokio::time::Instant::now();
    proxy.cut();
    client.down_because("no canary came back").await;
    // The stream ends with its link, not when HTTP/2 gives up for itself.
    assert!(matches!(
        event(&mut pipe).await,
        Some(StreamEvent::Down { .. })
    ));
    assert!(
        before.elapsed() < Duration::from_secs(8),
        "{:?}",
        before.elapsed()
    );
    assert!(matches!(
        client.link.open_stream(hello("sh-1", "bj-1")).await,
        Err(LinkError::NotUp { .. })
    ));
    assert_eq!(
        within("the sender's end", remote.parcels.recv()).await,
        None
    );

    proxy.heal();
    client.up().await;
    let mut pipe = client.open(hello("sh-1", "bj-1")).await;
    let receiver = TaskTracker::new().spawn(accept_all(port.stream().await));
    send_all(&mut pipe, 100, 100).await;
    drop(pipe);
    within("the end", receiver).await.unwrap();
}

#[tokio::test]
async fn a_link_measures_its_round_trip_and_tells_the_peers_table() {
    let port = Port::open("bj-1", LinkSecurity::Insecure).await;
    let client = Client::start("sh-1", "bj-1", port.address, LinkSecurity::Insecure);
    client.up().await;
    let status = client.link.status().borrow().clone();
    assert!(
        status
            .round_trip
            .is_some_and(|trip| trip < Duration::from_secs(5))
    );
    assert_eq!(status.peer.map(|peer| peer.epoch.0), Some(3));
}

#[tokio::test]
async fn an_absent_peer_is_tried_again_with_the_cause_shown() {
    let port = Port::open("bj-1", LinkSecurity::Insecure).await;
    let address = port.address;
    drop(port);
    let client = Client::start("sh-1", "bj-1", address, LinkSecurity::Insecure);
    let mut status = client.link.status();
    let thrice = status.wait_for(
        |status| matches!(&status.state, LinkState::Down { attempt, .. } if *attempt >= 3),
    );
    let status = within("three attempts", thrice).await.unwrap().clone();
    let cause = status.state.cause().unwrap();
    assert!(cause.contains(&address.to_string()), "{cause}");
}
