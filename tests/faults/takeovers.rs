//! A unit is lost: its slots are served elsewhere, once, in order, and come back when it does.

use crate::harness::{
    DEADLINE, assert_faultless, ended, eventually, hooks, lasting_traffic, more_delivered,
    own_with, status,
};
use serde_json::Value;
use setgate::lab::{Await, Fabric, Node, Ways};
use std::time::Duration;

/// Longer than the detection, the grace, the margin and what gateways need besides, on a loaded machine.
const TAKEOVER: Duration = Duration::from_mins(1);

/// Takeovers within seconds, so that a test needn't wait for half a minute.
const QUICK: (&str, &str) = (
    "detect: 10s                   # a unit without a sign of life for this long is doubtful\n  grace: 15s ",
    "detect: 3s\n  grace: 2s ",
);

/// Who stands in for a unit, by what a gateway says.
async fn seat(fabric: &Fabric, admin: &str, home: &str) -> Option<String> {
    let status = status(fabric, admin).await?;
    let units = status["table"]["units"].as_array()?.clone();
    let seat = units.iter().find(|unit| {
        let homes = unit["seat_of"].as_array();
        homes.is_some_and(|homes| homes.iter().any(|one| one == home))
    })?;
    Some(seat["unit"].as_str()?.to_owned())
}

async fn until_seat(fabric: &Fabric, admin: &str, home: &str, of: &str) {
    let what = format!("{of} serves what {home} owns");
    eventually(&what, TAKEOVER, async || {
        seat(fabric, admin, home).await.as_deref() == Some(of)
    })
    .await;
}

/// Asks for the failback as soon as the unit is up.
async fn given_back(fabric: &mut Fabric) -> Value {
    let lab = fabric.lab();
    let (etcd, space) = (lab.etcd.join(","), lab.space.to_string());
    let words = ["failback", "sh-1", "-m", "it is well", "--etcd", &etcd];
    let words = [&words[..], &["--space", &space, "-o", "json"]].concat();
    let asked = async || fabric.setgate(&words).await.ok();
    let said = crate::eventually::eventually("sh-1 is up", TAKEOVER, asked).await;
    serde_json::from_str(said.0.lines().last().unwrap()).unwrap()
}

async fn setgate(fabric: &mut Fabric, words: &[&str]) -> Value {
    let lab = fabric.lab();
    let (etcd, space) = (lab.etcd.join(","), lab.space.to_string());
    let more = ["--etcd", &etcd, "--space", &space, "-o", "json"];
    let words = [words, &more].concat();
    let said = fabric.setgate(&words).await.unwrap();
    serde_json::from_str(said.lines().last().unwrap()).unwrap()
}

#[tokio::test]
async fn a_killed_unit_is_stood_in_for_in_its_city_unless_it_is_frozen_and_gets_its_seat_back() {
    let mut fabric = own_with("killed-unit", QUICK).await;
    let admin = fabric.gateway("bj-1-a").unwrap().admin;
    let traffic = lasting_traffic(
        fabric.dir(),
        &[
            "--keys", "300", "--rate", "200", "--from", "bj-1", "--from", "sh-2",
        ],
    );
    more_delivered(&fabric, &admin, "sh-1", 50).await;
    let unit: [Node; 2] = ["gateway/sh-1-a", "broker/sh-1"].map(|node| node.parse().unwrap());
    setgate(&mut fabric, &["freeze", "sh-1", "-m", "a new kernel"]).await;
    for node in &unit {
        fabric.kill(node).await.unwrap();
    }
    let down = "setgate_unit_state{state=\"down\",unit=\"sh-1\"} 1";
    let page = format!("http://{admin}/metrics");
    eventually("the unit is down", TAKEOVER, async || {
        let (_, page) = fabric.http().get(&page, None).await.unwrap();
        String::from_utf8_lossy(&page).contains(down)
    })
    .await;
    // It would have been stood in for by now.
    more_delivered(&fabric, &admin, "sh-2", 200).await;
    assert_eq!(seat(&fabric, &admin, "sh-1").await.as_deref(), Some("sh-1"));
    setgate(&mut fabric, &["thaw", "sh-1", "-m", "it has it"]).await;
    until_seat(&fabric, &admin, "sh-1", "sh-2").await;
    more_delivered(&fabric, &admin, "sh-2", 200).await;
    for node in unit.iter().rev() {
        fabric.start(node, Await::Ready).await.unwrap();
    }
    let back = given_back(&mut fabric).await;
    let id = back["id"].to_string();
    let done = setgate(&mut fabric, &["move", "status", &id, "--watch"]).await;
    assert_eq!(done["stage"], "done", "{done}");
    until_seat(&fabric, &admin, "sh-1", "sh-1").await;
    assert_faultless(&ended(traffic).await);
    fabric.down().await.unwrap();
}

#[tokio::test]
async fn a_unit_cut_off_from_everybody_fences_itself_before_another_takes_over() {
    let mut fabric = own_with("cut-off-unit", QUICK).await;
    let admin = fabric.gateway("bj-1-a").unwrap().admin;
    let cut = fabric.gateway("sh-1-a").unwrap().admin;
    let traffic = lasting_traffic(fabric.dir(), &["--keys", "300", "--rate", "200"]);
    more_delivered(&fabric, &admin, "sh-1", 50).await;
    let ends = ["etcd", "sh-2", "bj-1"].map(|end| end.parse().unwrap());
    let near = "sh-1".parse().unwrap();
    for end in &ends {
        fabric.cut(&near, end, Ways::Both).unwrap();
    }
    eventually("it may not deliver", TAKEOVER, async || {
        let status = status(&fabric, &cut).await.unwrap_or_default();
        let faults = status["faults"].as_array().cloned().unwrap_or_default();
        faults
            .iter()
            .any(|fault| fault["subject"] == "right to deliver")
    })
    .await;
    until_seat(&fabric, &admin, "sh-1", "sh-2").await;
    more_delivered(&fabric, &admin, "sh-2", 100).await;
    for end in &ends {
        fabric.heal(&near, end, Ways::Both).unwrap();
    }
    until_seat(&fabric, &cut, "sh-1", "sh-2").await;
    assert_eq!(hooks(&fabric), ["sh-1-a fenced all"]);
    given_back(&mut fabric).await;
    until_seat(&fabric, &admin, "sh-1", "sh-1").await;
    eventually("its hook has run", DEADLINE, async || {
        hooks(&fabric).iter().any(|line| line == "sh-1-a free")
    })
    .await;
    assert_faultless(&ended(traffic).await);
    fabric.down().await.unwrap();
}

#[tokio::test]
async fn a_unit_cut_off_from_etcd_alone_goes_on_by_leave_and_a_move_is_refused_without_etcd() {
    let mut fabric = own_with("etcd-gone", QUICK).await;
    let admin = fabric.gateway("bj-1-a").unwrap().admin;
    let traffic = lasting_traffic(fabric.dir(), &["--keys", "300", "--rate", "200"]);
    more_delivered(&fabric, &admin, "sh-1", 50).await;
    let lab = fabric.lab();
    let (etcd, space) = (lab.etcd.join(","), lab.space.to_string());
    fabric.kill(&"etcd/1".parse().unwrap()).await.unwrap();
    let asked = tokio::process::Command::new(env!("CARGO_BIN_EXE_setgate"))
        .args(["move", "start", "--slots", "0-9", "--to", "sh-2", "-m", "x"])
        .args(["--etcd", &etcd, "--space", &space])
        .output()
        .await
        .unwrap();
    assert_eq!(asked.status.code(), Some(3), "{asked:?}");
    // Leases of three seconds are long over when so many more have come.
    more_delivered(&fabric, &admin, "sh-1", 400).await;
    let account = ended(traffic).await;
    assert_faultless(&account);
    assert_eq!(account["confirmed"], account["delivered"], "{account}");
    fabric.down().await.unwrap();
}
