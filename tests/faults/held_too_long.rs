//! Messages are held for longer than their broker lets a consumer hold them.

use crate::full_queue::bind_small_queue;
use crate::harness::{DEADLINE, account, assert_clean, broker, eventually, own, takes, traffic};
use serde_json::json;
use setgate::lab::{Await, Fabric, Node};

/// Half an hour by default, and looked at once a minute; for channels to come.
const SHORT: [&str; 2] = [
    "application set_env [rabbit, consumer_timeout, 5000]",
    "application set_env [rabbit, channel_tick_interval, 500]",
];

fn broker_log(fabric: &Fabric) -> String {
    let log = fabric.dir().join("units/sh-1/broker-1/rabbitmq.log");
    String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned()
}

/// How often the broker found that something was held for too long.
fn timed_out(fabric: &Fabric) -> usize {
    broker_log(fabric)
        .matches("has timed out waiting for delivery acknowledgement")
        .count()
}

/// How many connections of this name have ended.
fn closed(fabric: &Fabric, name: &str) -> usize {
    let log = broker_log(fabric);
    let ended = |line: &&str| line.contains("closing AMQP connection") && line.contains(name);
    log.lines().filter(ended).count()
}

#[tokio::test]
async fn what_is_held_for_longer_than_the_broker_allows_comes_again_and_is_delivered_once() {
    let mut fabric = own("held-too-long", 1).await;
    let node: Node = "broker/sh-1".parse().unwrap();
    for setting in SHORT {
        fabric.call(&node, setting).await.unwrap();
    }
    let gateway: Node = "gateway/sh-1-a".parse().unwrap();
    fabric.stop(&gateway).await.unwrap();
    fabric.start(&gateway, Await::Ready).await.unwrap();

    // The destination is full, and there may be no diversion: what the lane has in hand it must keep.
    let broker = broker(&mut fabric, "sh-1");
    let (at, vhost, user) = (&broker.management, broker.vhost_encoded(), &broker.user);
    let login = broker.operator();
    let rights = format!("{at}/api/permissions/{vhost}/{user}");
    let may = fabric.http().get_json(&rights, Some(login)).await.unwrap();
    let mut may_less = may.clone();
    may_less["configure"] = json!("^setgate\\.(?!.*\\.divert\\.)");
    fabric.http().put(&rights, login, &may_less).await.unwrap();
    bind_small_queue(&fabric, &broker, "app.archive", 20).await;
    let before = closed(&fabric, "lane orders/0");
    let words = ["--messages", "300", "--keys", "100", "--rate", "100"];
    let traffic = traffic(fabric.dir(), &words);

    eventually("the broker takes the lane away", DEADLINE, async || {
        closed(&fabric, "lane orders/0") > before && timed_out(&fabric) > 0
    })
    .await;
    fabric.http().put(&rights, login, &may).await.unwrap();
    let archive = format!("{at}/api/queues/{vhost}/app.archive");
    fabric.http().delete(&archive, login).await.unwrap();
    assert_clean(&account(traffic).await);
    let admin = fabric.gateway("sh-1-a").unwrap().admin;
    eventually("the lane takes", DEADLINE, async || {
        takes(&fabric, &admin, "orders").await
    })
    .await;
    fabric.down().await.unwrap();
}
