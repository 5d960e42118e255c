//! Messages are held for longer than their broker, or the lane's memory, lets a consumer hold them.

use crate::full_queue::bind_small_queue;
use crate::harness::{
    DEADLINE, account, assert_clean, broker, eventually, in_flight, more_delivered, own, takes,
    traffic,
};
use serde_json::{Value, json};
use setgate::lab::{Await, Fabric, LabBroker, Node};

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

/// A broker whose destination is full, and whose gateways may make no diversion: what a lane has in hand it must keep.
struct Full {
    broker: LabBroker,
    /// What its gateways may do otherwise.
    may: Value,
}

impl Full {
    async fn fill(fabric: &mut Fabric) -> Self {
        let broker = broker(fabric, "sh-1");
        let (rights, login) = (Self::rights(&broker), broker.operator());
        let may = fabric.http().get_json(&rights, Some(login)).await.unwrap();
        let mut may_less = may.clone();
        may_less["configure"] = json!("^setgate\\.(?!.*\\.divert\\.)");
        fabric.http().put(&rights, login, &may_less).await.unwrap();
        bind_small_queue(fabric, &broker, "app.archive", 20).await;
        Self { broker, may }
    }

    fn rights(broker: &LabBroker) -> String {
        let (at, vhost, user) = (&broker.management, broker.vhost_encoded(), &broker.user);
        format!("{at}/api/permissions/{vhost}/{user}")
    }

    async fn empty(self, fabric: &Fabric) {
        let Self { broker, may } = self;
        let (at, login) = (&broker.management, broker.operator());
        let rights = Self::rights(&broker);
        fabric.http().put(&rights, login, &may).await.unwrap();
        let archive = format!("{at}/api/queues/{}/app.archive", broker.vhost_encoded());
        fabric.http().delete(&archive, login).await.unwrap();
    }
}

#[tokio::test]
async fn a_lane_that_had_to_ask_for_less_keeps_its_order_through_a_restart() {
    let mut fabric = own("asks-for-less", 1).await;
    let full = Full::fill(&mut fabric).await;
    let before = closed(&fabric, "lane orders/0");
    // Some four times what one lane may have of the memory.
    let words = ["--messages", "400", "--keys", "40", "--size", "300000"];
    let traffic = traffic(fabric.dir(), &[&words[..], &["--rate", "100"]].concat());
    eventually("the lane gives its queue up", DEADLINE, async || {
        closed(&fabric, "lane orders/0") > before
    })
    .await;
    let admin = fabric.gateway("sh-1-a").unwrap().admin;
    eventually("it has what it may have", DEADLINE, async || {
        in_flight(&fabric, &admin).await > 50
    })
    .await;
    full.empty(&fabric).await;
    more_delivered(&fabric, &admin, "sh-1", 1).await;
    let gateway: Node = "gateway/sh-1-a".parse().unwrap();
    fabric.stop(&gateway).await.unwrap();
    fabric.start(&gateway, Await::Ready).await.unwrap();
    assert_clean(&account(traffic).await);
    fabric.down().await.unwrap();
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

    let full = Full::fill(&mut fabric).await;
    let before = closed(&fabric, "lane orders/0");
    let words = ["--messages", "300", "--keys", "100", "--rate", "100"];
    let traffic = traffic(fabric.dir(), &words);

    eventually("the broker takes the lane away", DEADLINE, async || {
        closed(&fabric, "lane orders/0") > before && timed_out(&fabric) > 0
    })
    .await;
    full.empty(&fabric).await;
    assert_clean(&account(traffic).await);
    let admin = fabric.gateway("sh-1-a").unwrap().admin;
    eventually("the lane takes", DEADLINE, async || {
        takes(&fabric, &admin, "orders").await
    })
    .await;
    fabric.down().await.unwrap();
}
