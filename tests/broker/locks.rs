//! One publisher at a time under a lock.

use crate::node::{Node, dialer, publish, publisher, to_queue, within};
use setgate::broker::{Dialer, LanePublisher, OpenError, Outcome};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

const LOCK: Option<&str> = Some("setgate.t.lock");

async fn is_locked(dialer: &Dialer) -> bool {
    match within(LanePublisher::open(dialer, "receiver t/0", LOCK)).await {
        Ok(_) => false,
        Err(OpenError::Locked { queue }) => {
            assert_eq!(queue, "setgate.t.lock");
            true
        }
        Err(other) => panic!("{other}"),
    }
}

/// Opens as soon as the holder is gone.
async fn after_holder(dialer: &Dialer) -> LanePublisher {
    within(async {
        loop {
            match LanePublisher::open(dialer, "receiver t/0", LOCK).await {
                Ok(holder) => break holder,
                Err(OpenError::Locked { .. }) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        }
    })
    .await
}

/// Hands bytes on both ways, until it is aborted: then both sockets are cut.
async fn relay(to: u16) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let relay = TaskTracker::new().spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    });
    (port, relay)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_has_one_holder_and_is_free_when_its_connection_is_gone() {
    let node = Node::start();
    // The node is up once somebody could connect.
    let _declaring = node.connect().await;
    let dialers = [node.dialer(), node.dialer()];

    // Free at once after each close, though messages were on their way.
    for round in 0..20 {
        let mut holder = publisher(&dialers[round % 2], LOCK).await;
        for dialer in &dialers {
            assert!(is_locked(dialer).await);
        }
        for n in 0..200 {
            holder.publish(to_queue("nowhere", n));
        }
        holder.close().await.unwrap();
    }

    // And soon after a drop, and after the holder's socket is cut.
    drop(publisher(&dialers[0], LOCK).await);
    let holder = after_holder(&dialers[1]).await;
    holder.close().await.unwrap();
    let (port, relay) = relay(node.amqp).await;
    let mut settings = node.settings("guest");
    settings.uris = vec![format!("amqp://guest:guest@127.0.0.1:{port}/%2f").into()];
    let mut cut = publisher(&dialer(&settings), LOCK).await;
    assert!(is_locked(&dialers[0]).await);
    relay.abort();
    let mut holder = after_holder(&dialers[0]).await;
    let outcomes = publish(&mut cut, vec![to_queue("nowhere", 0)]).await;
    assert!(
        matches!(
            &outcomes[0],
            Outcome::Unsent { .. } | Outcome::Unknown { .. }
        ),
        "{outcomes:?}"
    );
    assert!(!cut.is_open());
    cut.close().await.unwrap();
    let outcomes = publish(&mut holder, vec![to_queue("nowhere", 0)]).await;
    assert!(matches!(&outcomes[0], Outcome::Returned { .. }));
}
