//! Brokers die, close connections and block publishers under traffic.

use crate::harness::{
    DEADLINE, account, assert_clean, assert_faultless, borrowed, broker, delivered,
    delivered_in_all, ended, eventually, in_flight, lasting_traffic, more_delivered, own, takes,
    traffic, unanswered,
};
use futures_util::future::join_all;
use serde_json::Value;
use setgate::lab::broker::close_connections;
use setgate::lab::fabric::test_lab_dir;
use setgate::lab::{Await, Fabric, Memory, Node, Place, Ways};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test]
async fn after_a_brokers_crash_lanes_and_receivers_come_back_by_themselves() {
    let mut fabric = own("broker-killed", 2).await;
    let [near, far] = ["sh-1-a", "sh-2-a"].map(|name| fabric.gateway(name).unwrap().admin);
    let traffic = lasting_traffic(fabric.dir(), &["--keys", "400", "--rate", "400"]);
    more_delivered(&fabric, &near, "sh-2", 100).await;
    more_delivered(&fabric, &far, "sh-1", 100).await;
    // The source of one half of it, the destination of the other.
    let node: Node = "broker/sh-1".parse().unwrap();
    fabric.kill(&node).await.unwrap();
    eventually("the far lane waits for it", DEADLINE, async || {
        in_flight(&fabric, &far).await > 50
    })
    .await;
    more_delivered(&fabric, &far, "sh-2", 20).await;
    // Counted from now: by the time that the broker is ready to be managed, it may all have come.
    let mut awaited = Vec::new();
    for (admin, to) in [(&far, "sh-1"), (&near, "sh-2"), (&near, "sh-1")] {
        awaited.push((admin, to, delivered(&fabric, admin, to).await + 100));
    }
    fabric.start(&node, Await::Ready).await.unwrap();
    for (admin, to, count) in awaited {
        delivered_in_all(&fabric, admin, to, count).await;
    }
    assert_faultless(&ended(traffic).await);
    fabric.down().await.unwrap();
}

/// How often a user of the shared brokers has logged in to one of them.
fn logins(unit: &str, user: &str) -> usize {
    let log = test_lab_dir().join(format!("units/{unit}/broker-1/rabbitmq.log"));
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned();
    text.matches(&format!("user '{user}' authenticated"))
        .count()
}

#[tokio::test]
async fn a_broker_that_closes_every_connection_ten_times_costs_nothing_and_meets_no_storm() {
    const CLOSED_WHILE_UP: usize = 4;
    const CLOSED_WHILE_OPENED: usize = 6;
    let mut fabric = borrowed("connections-closed", 1).await;
    let [near, far] = ["sh-1-a", "bj-1-a"].map(|name| fabric.gateway(name).unwrap().admin);
    let broker = broker(&mut fabric, "sh-1");
    let close_all = async || {
        close_connections(fabric.http(), &broker, &broker.user)
            .await
            .unwrap();
    };
    let traffic = lasting_traffic(fabric.dir(), &["--keys", "300", "--rate", "200"]);
    for _ in 0..CLOSED_WHILE_UP {
        more_delivered(&fabric, &near, "bj-1", 10).await;
        more_delivered(&fabric, &far, "sh-1", 10).await;
        close_all().await;
    }
    more_delivered(&fabric, &near, "bj-1", 10).await;
    // All that it opens in traffic: one to ask by, one for each lane, one for each lane that is received here.
    let opened = logins("sh-1", &broker.user) / CLOSED_WHILE_UP;
    assert!(opened >= 5, "{opened}");
    for _ in 0..CLOSED_WHILE_OPENED {
        let before = logins("sh-1", &broker.user);
        close_all().await;
        eventually("it connects again", DEADLINE, async || {
            logins("sh-1", &broker.user) > before
        })
        .await;
    }
    assert_clean(&ended(traffic).await);
    // Each one that was closed is opened once, or twice when what it needs isn't there yet.
    let logins = logins("sh-1", &broker.user);
    let most = 2 * opened * (1 + CLOSED_WHILE_UP + CLOSED_WHILE_OPENED);
    assert!(
        logins <= most,
        "{logins} connections were opened, {most} at most"
    );
    fabric.down().await.unwrap();
}

/// Has a broker stop its publishers, or take them again.
async fn alarm(fabric: &Fabric, unit: &str, memory: Memory) {
    let node: Node = format!("broker/{unit}").parse().unwrap();
    fabric.set_memory(&node, memory).await.unwrap();
}

/// What `/readyz` and `setgate status` say against a unit's gateway.
async fn complaints(fabric: &mut Fabric, unit: &str) -> (String, String) {
    let lab = fabric.lab();
    let admin = &lab.unit(unit).unwrap().gateways[0].admin;
    let url = format!("http://{admin}/readyz");
    let (_, page) = fabric.http().get(&url, None).await.unwrap();
    let page: Value = serde_json::from_slice(&page).unwrap();
    let (etcd, space) = (lab.etcd.join(","), lab.space.as_str());
    let words = ["status", "-o", "json", "--etcd", &etcd, "--space", space];
    let status: Value = serde_json::from_str(&fabric.setgate(&words).await.unwrap()).unwrap();
    let mut units = status["units"].as_array().unwrap().iter();
    let unit = units.find(|one| one["unit"] == unit).unwrap();
    let cause = &unit["gateways"][0]["cause"];
    (
        page["reasons"].to_string(),
        cause.as_str().unwrap_or_default().to_owned(),
    )
}

#[tokio::test]
async fn an_alarm_stops_what_is_published_to_its_broker_and_nothing_else() {
    let mut fabric = own("alarm", 3).await;
    let [here, other] = ["sh-1-a", "sh-2-a"].map(|name| fabric.gateway(name).unwrap().admin);

    // At the destination. A lane holds all that comes behind the oldest unanswered, 1,024 at most, so each publishes less
    // than that.
    let rate = ["--messages", "2000", "--keys", "400", "--rate", "160"];
    let from = ["--from", "sh-2", "--from", "bj-1"];
    let traffic_there = traffic(fabric.dir(), &[&rate[..], &from[..]].concat());
    more_delivered(&fabric, &other, "sh-1", 20).await;
    alarm(&fabric, "sh-1", Memory::Short).await;
    let blocked = Instant::now();
    loop {
        let (page, status) = complaints(&mut fabric, "sh-1").await;
        if page.contains("blocks publishers") && status.contains("blocks publishers") {
            assert!(
                page.contains("memory") && status.contains("memory"),
                "{page} {status}"
            );
            break;
        }
        let waited = blocked.elapsed();
        assert!(waited < Duration::from_secs(5), "{page} {status}");
    }
    let before = delivered(&fabric, &other, "sh-1").await;
    more_delivered(&fabric, &other, "bj-1", 50).await;
    more_delivered(&fabric, &other, "sh-2", 50).await;
    assert_eq!(delivered(&fabric, &other, "sh-1").await, before);
    let (page, _) = complaints(&mut fabric, "sh-2").await;
    assert_eq!(page, "[]");
    alarm(&fabric, "sh-1", Memory::Enough).await;
    assert_clean(&account(traffic_there).await);
    let (page, status) = complaints(&mut fabric, "sh-1").await;
    assert_eq!((page.as_str(), status.as_str()), ("[]", ""));

    // At the source, with all of it published before.
    let (near, away): (Place, [Place; 2]) = (
        "sh-1".parse().unwrap(),
        ["sh-2", "bj-1"].map(|it| it.parse().unwrap()),
    );
    for far in &away {
        fabric.cut(&near, far, Ways::Both).unwrap();
    }
    let words = ["--messages", "900", "--keys", "300", "--from", "sh-1"];
    let own_before = delivered(&fabric, &here, "sh-1").await;
    let traffic_here = traffic(fabric.dir(), &words);
    eventually(
        "it holds what the others shall have",
        DEADLINE,
        async || {
            let own = delivered(&fabric, &here, "sh-1").await - own_before;
            let away = ["sh-2", "bj-1"].map(|to| unanswered(&fabric, &here, to));
            own > 0 && own + join_all(away).await.into_iter().sum::<u64>() == 900
        },
    )
    .await;
    alarm(&fabric, "sh-1", Memory::Short).await;
    for far in &away {
        fabric.heal(&near, far, Ways::Both).unwrap();
    }
    eventually("all is settled", DEADLINE, async || {
        in_flight(&fabric, &here).await == 0 && takes(&fabric, &here, "orders").await
    })
    .await;
    assert_clean(&account(traffic_here).await);
    let broker = broker(&mut fabric, "sh-1");
    let lane = format!("setgate.{}.lane.orders.0", fabric.lab().space);
    let at = format!("{}/api", broker.management);
    let login = Some(broker.operator());
    let look = async |page: String| fabric.http().get_json(&page, login).await.unwrap();
    eventually("the broker knows it", DEADLINE, async || {
        look(format!("{at}/queues/%2F/{lane}")).await["messages"] == 0
    })
    .await;
    let check = format!("{at}/health/checks/local-alarms");
    let (_, alarms) = fabric.http().get(&check, login).await.unwrap();
    let alarms = String::from_utf8_lossy(&alarms);
    assert!(
        alarms.contains("memory"),
        "all of it under the alarm: {alarms}"
    );
    fabric.down().await.unwrap();
}
