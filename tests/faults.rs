//! Gateways and etcd break under traffic; the account stays clean. On the brokers that `make test-lab` has started.

#![allow(clippy::unwrap_used)] // tests and their helpers panic at what must hold

use serde_json::Value;
use setgate::lab::http::Login;
use setgate::lab::{Await, Fabric, FabricSpec, Node, Place, Ways};
use std::future::Future;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Waits until `state` holds; panics with what was awaited when it doesn't within `deadline`.
async fn eventually<F: Future<Output = bool>>(
    what: &str,
    deadline: Duration,
    mut state: impl FnMut() -> F,
) {
    let end = Instant::now() + deadline;
    let mut tick = interval(Duration::from_millis(50));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !state().await {
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        tick.tick().await;
    }
}

async fn status(fabric: &Fabric, admin: &str) -> Option<Value> {
    let (_, body) = fabric
        .http()
        .get(&format!("http://{admin}/v1/status"), None)
        .await
        .ok()?;
    serde_json::from_slice(&body).ok()
}

/// Whether this gateway's lane of a source takes messages.
async fn takes(fabric: &Fabric, admin: &str, source: &str) -> bool {
    let Some(status) = status(fabric, admin).await else {
        return false;
    };
    status["lanes"].as_array().is_some_and(|lanes| {
        lanes
            .iter()
            .any(|lane| lane["source"] == source && lane["state"] == "taking")
    })
}

fn traffic(dir: &Path, words: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_setgate-lab"))
        .args(["traffic", "-o", "json", "--settle", "40", "--dir"])
        .arg(dir)
        .args(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn account(traffic: Child) -> Value {
    let output = traffic.wait_with_output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap()
}

fn assert_clean(account: &Value) {
    for fault in [
        "lost",
        "duplicates",
        "reordered",
        "wrong_unit",
        "two_owner",
        "parked",
    ] {
        assert_eq!(account[fault], 0, "{fault} in {account}");
    }
    assert_eq!(account["confirmed"], account["delivered"], "{account}");
}

fn spec(gateways: usize) -> FabricSpec {
    FabricSpec::profile("two-sites-three-centers")
        .gateways(gateways)
        .rtt(Duration::from_millis(20))
        .binary(env!("CARGO_BIN_EXE_setgate"))
}

#[tokio::test]
async fn a_killed_gateway_loses_nothing_and_its_lanes_move_to_the_other_within_five_seconds() {
    let mut fabric = Fabric::borrowed("gateway-killed", spec(2)).await.unwrap();
    let first = fabric.gateway("sh-1-a").unwrap().admin;
    let second = fabric.gateway("sh-1-b").unwrap().admin;
    let traffic = traffic(
        fabric.dir(),
        &["--messages", "6000", "--keys", "500", "--rate", "600"],
    );
    eventually(
        "a gateway of sh-1 takes orders",
        Duration::from_secs(20),
        || async {
            takes(&fabric, &first, "orders").await || takes(&fabric, &second, "orders").await
        },
    )
    .await;
    let (victim, heir) = if takes(&fabric, &first, "orders").await {
        ("sh-1-a", second)
    } else {
        ("sh-1-b", first)
    };
    let killed: Node = format!("gateway/{victim}").parse().unwrap();
    fabric.kill(&killed).await.unwrap();
    eventually(
        "the other gateway takes orders",
        Duration::from_secs(5),
        || takes(&fabric, &heir, "orders"),
    )
    .await;
    assert_clean(&account(traffic).await);
    fabric.down().await.unwrap();
}

#[tokio::test]
async fn without_etcd_a_restarted_gateway_serves_from_its_disk() {
    let mut fabric = Fabric::borrowed("etcd-gone", spec(1)).await.unwrap();
    let admin = fabric.gateway("sh-1-a").unwrap().admin;
    eventually("its links are up", Duration::from_secs(20), || async {
        let Some(status) = status(&fabric, &admin).await else {
            return false;
        };
        let links = status["links"].as_array().cloned().unwrap_or_default();
        links.len() == 2 && links.iter().all(|link| link["state"] == "up")
    })
    .await;
    let etcd: Place = "etcd".parse().unwrap();
    for unit in ["sh-1", "sh-2", "bj-1"] {
        fabric
            .cut(&unit.parse().unwrap(), &etcd, Ways::Both)
            .unwrap();
    }
    let node: Node = "gateway/sh-1-a".parse().unwrap();
    fabric.kill(&node).await.unwrap();
    fabric.start(&node, Await::Ready).await.unwrap();
    eventually(
        "the status page says that etcd is down",
        Duration::from_secs(20),
        || async {
            status(&fabric, &admin)
                .await
                .is_some_and(|status| status["etcd"] == "down")
        },
    )
    .await;
    let traffic = traffic(fabric.dir(), &["--messages", "1500", "--keys", "200"]);
    assert_clean(&account(traffic).await);
    fabric.down().await.unwrap();
}

#[tokio::test]
async fn a_cut_link_holds_its_messages_says_why_and_delivers_them_after_healing() {
    let mut fabric = Fabric::borrowed("link-cut", spec(1)).await.unwrap();
    let (near, far): (Place, Place) = ("sh-1".parse().unwrap(), "bj-1".parse().unwrap());
    fabric.cut(&near, &far, Ways::Both).unwrap();
    let admin = fabric.gateway("sh-1-a").unwrap().admin;
    let traffic = traffic(
        fabric.dir(),
        &["--messages", "900", "--keys", "200", "--from", "sh-1"],
    );
    eventually(
        "the status page says what holds the lane",
        Duration::from_secs(30),
        || async {
            let Some(status) = status(&fabric, &admin).await else {
                return false;
            };
            let lanes = status["lanes"].as_array().cloned().unwrap_or_default();
            lanes.iter().any(|lane| {
                lane["source"] == "orders"
                    && lane["state"] == "held"
                    && lane["cause"]
                        .as_str()
                        .is_some_and(|cause| cause.contains("bj-1"))
            })
        },
    )
    .await;
    fabric.heal(&near, &far, Ways::Both).unwrap();
    assert_clean(&account(traffic).await);
    fabric.down().await.unwrap();
}

/// Messages that this gateway's lane of orders holds.
async fn in_flight(fabric: &Fabric, admin: &str) -> u64 {
    let status = status(fabric, admin).await.unwrap_or_default();
    let lanes = status["lanes"].as_array().cloned().unwrap_or_default();
    let orders = lanes.into_iter().find(|lane| lane["source"] == "orders");
    orders
        .and_then(|lane| lane["in_flight"].as_u64())
        .unwrap_or(0)
}

/// Closes a gateway's consuming connection, as an operator would from the management page.
async fn close_consuming_connection(fabric: &mut Fabric, unit: &str, gateway: &str) {
    let lab = fabric.lab();
    let broker = &lab
        .units
        .iter()
        .find(|one| one.unit.as_str() == unit)
        .unwrap()
        .brokers[0];
    let login = Login {
        user: &broker.app_user,
        password: &broker.app_password,
    };
    let name = format!("setgate {}/{unit}/{gateway} lane orders/0", lab.space);
    let url = format!("{}/api/connections", broker.management);
    let find = async || {
        let open = fabric.http().get_json(&url, Some(login)).await.ok()?;
        let named = |one: &&Value| one["client_properties"]["connection_name"] == name.as_str();
        open.as_array()?.iter().find(named)?["name"]
            .as_str()
            .map(str::to_owned)
    };
    // The management page lags behind by seconds.
    eventually(
        "the connection is listed",
        Duration::from_secs(20),
        || async { find().await.is_some() },
    )
    .await;
    let id = find()
        .await
        .unwrap()
        .replace(' ', "%20")
        .replace('>', "%3E");
    fabric
        .http()
        .delete(&format!("{url}/{id}"), login)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_held_lane_that_loses_its_channel_lets_the_other_gateway_have_its_messages() {
    let mut fabric = Fabric::borrowed("held-lane", spec(2)).await.unwrap();
    let (near, far): (Place, Place) = ("sh-1".parse().unwrap(), "bj-1".parse().unwrap());
    fabric.cut(&near, &far, Ways::Both).unwrap();
    let admins = ["sh-1-a", "sh-1-b"].map(|name| fabric.gateway(name).unwrap().admin);
    // More than a lane has in flight, so that it takes nothing more.
    let traffic = traffic(
        fabric.dir(),
        &["--messages", "6000", "--keys", "300", "--from", "sh-1"],
    );
    eventually("one lane is full", Duration::from_secs(40), || async {
        in_flight(&fabric, &admins[0]).await >= 1_000
            || in_flight(&fabric, &admins[1]).await >= 1_000
    })
    .await;
    let first = usize::from(in_flight(&fabric, &admins[1]).await >= 1_000);
    let (holder, heir) = (["sh-1-a", "sh-1-b"][first], &admins[1 - first]);
    close_consuming_connection(&mut fabric, "sh-1", holder).await;
    eventually(
        "the other gateway's lane is full",
        Duration::from_secs(20),
        || async { in_flight(&fabric, heir).await >= 1_000 },
    )
    .await;
    eventually("the first has let go", Duration::from_secs(5), || async {
        in_flight(&fabric, &admins[first]).await == 0
    })
    .await;
    fabric.heal(&near, &far, Ways::Both).unwrap();
    assert_clean(&account(traffic).await);
    fabric.down().await.unwrap();
}
