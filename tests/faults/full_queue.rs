//! A destination's queue is full and refuses what is published to it.

use crate::harness::{
    DEADLINE, account, assert_clean, borrowed, broker, eventually, status, traffic,
};
use serde_json::{Value, json};
use setgate::lab::{Fabric, LabBroker};
use std::time::Duration;
use tokio::time::Instant;

/// Has a broker pass what comes for the applications to a queue that nobody consumes and that takes so many.
pub(crate) async fn bind_small_queue(fabric: &Fabric, broker: &LabBroker, name: &str, most: u32) {
    let (at, vhost) = (&broker.management, broker.vhost_encoded());
    let login = broker.operator();
    let arguments = json!({"x-max-length": most, "x-overflow": "reject-publish"});
    let queue = json!({"durable": true, "arguments": arguments});
    let url = format!("{at}/api/queues/{vhost}/{name}");
    fabric.http().put(&url, login, &queue).await.unwrap();
    let url = format!("{at}/api/bindings/{vhost}/e/orders.local/q/{name}");
    let binding = json!({"routing_key": "#"});
    fabric.http().post(&url, login, &binding).await.unwrap();
}

/// Whether some lane of a gateway's says that a queue of this unit refuses its messages.
async fn says_refused(fabric: &Fabric, admin: &str, to: &str) -> bool {
    let status = status(fabric, admin).await.unwrap_or_default();
    let lanes = status["lanes"].as_array().into_iter().flatten();
    let causes: Vec<&Value> = lanes
        .flat_map(|lane| lane["targets"].as_array().into_iter().flatten())
        .filter(|target| target["to"] == to)
        .map(|target| &target["cause"])
        .collect();
    causes
        .iter()
        .filter_map(|cause| cause.as_str())
        .any(|cause| cause.contains("full"))
}

#[tokio::test]
async fn a_full_queue_loses_nothing_and_is_named_within_five_seconds() {
    const ROOM: u32 = 20;
    let mut fabric = borrowed("full-queue", 1).await;
    let admins = ["sh-1-a", "sh-2-a"].map(|name| fabric.gateway(name).unwrap().admin);
    let broker = broker(&mut fabric, "bj-1");
    bind_small_queue(&fabric, &broker, "app.archive", ROOM).await;
    let words = ["--messages", "900", "--keys", "300", "--rate", "100"];
    let from = ["--from", "sh-1", "--from", "sh-2"];
    let traffic = traffic(fabric.dir(), &[&words[..], &from[..]].concat());

    let (at, vhost) = (&broker.management, broker.vhost_encoded());
    let queue = format!("{at}/api/queues/{vhost}/app.archive");
    let login = broker.operator();
    let (page, user) = (format!("{at}/api/queues/{vhost}/app.archive/get"), login);
    let full = async || {
        // What lies there is counted by the broker itself at once; its management page lags behind by seconds.
        let words = json!({"count": ROOM, "ackmode": "ack_requeue_true", "encoding": "auto"});
        let found = fabric.http().ask(&page, user, &words).await;
        found.is_ok_and(|found| found.as_array().map(Vec::len) >= Some(ROOM as usize))
    };
    eventually("the queue is full", DEADLINE, full).await;
    let since = Instant::now();
    eventually("a lane says so", Duration::from_secs(5), async || {
        says_refused(&fabric, &admins[0], "bj-1").await
            || says_refused(&fabric, &admins[1], "bj-1").await
    })
    .await;
    assert!(since.elapsed() < Duration::from_secs(5));

    // Whoever reads that archive has made room for good.
    fabric.http().delete(&queue, login).await.unwrap();
    assert_clean(&account(traffic).await);
    fabric.down().await.unwrap();
}
