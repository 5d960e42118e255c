//! Slots move to another unit under traffic: no message is lost, doubled, overtaken or delivered by two owners.

use crate::harness::{
    DEADLINE, assert_clean, borrowed, ended, etcdctl, eventually, lasting_traffic, more_delivered,
    status,
};
use serde_json::Value;
use setgate::lab::Fabric;

/// Runs `setgate move …` on a fabric; what it prints as JSON.
async fn mv(fabric: &mut Fabric, words: &[&str]) -> Value {
    let lab = fabric.lab();
    let (etcd, space) = (lab.etcd.join(","), lab.space.to_string());
    let more = ["--etcd", &etcd, "--space", &space, "-o", "json"];
    let words = [&["move"], words, &more].concat();
    let said = fabric.setgate(&words).await.unwrap();
    serde_json::from_str(said.lines().last().unwrap()).unwrap()
}

/// A move from its begin to its end.
async fn moved(fabric: &mut Fabric, slots: &str, to: &str) -> Value {
    let id = asked(fabric, &["--slots", slots, "--to", to]).await;
    mv(fabric, &["status", &id, "--watch"]).await
}

/// Asks for a move, as soon as its target is up; its number.
async fn asked(fabric: &mut Fabric, what: &[&str]) -> String {
    let lab = fabric.lab();
    let (etcd, space) = (lab.etcd.join(","), lab.space.to_string());
    let words = [&["move", "start", "-m", "a test"], what].concat();
    let more = ["--etcd", &etcd, "--space", &space, "-o", "json"];
    let words = [&words[..], &more].concat();
    let ask = async || fabric.setgate(&words).await.ok();
    let (said, _) = crate::eventually::eventually("its target is up", DEADLINE, ask).await;
    let said: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    said["id"].to_string()
}

/// Waits until so many gateways have drained a move.
async fn until_drained(fabric: &mut Fabric, id: &str, count: u64) {
    let begun = tokio::time::Instant::now();
    while mv(fabric, &["status", id]).await["drained"] != count {
        assert!(begun.elapsed() < DEADLINE, "{count} gateways drain");
    }
}

/// Waits until a gateway says that so many slots are fenced.
async fn until_fenced(fabric: &Fabric, admin: &str, count: u64) {
    let url = format!("http://{admin}/metrics");
    let what = format!("{count} slots are fenced");
    eventually(&what, DEADLINE, async || {
        let Ok((_, body)) = fabric.http().get(&url, None).await else {
            return false;
        };
        let text = String::from_utf8(body.to_vec()).unwrap();
        let line = format!("setgate_fenced_slots {count}");
        text.lines().any(|one| one == line)
    })
    .await;
}

#[tokio::test]
async fn a_planned_move_there_and_back_under_traffic_costs_no_message_and_no_order() {
    let mut fabric = borrowed("moved", 1).await;
    let admin = fabric.gateway("bj-1-a").unwrap().admin;
    let traffic = lasting_traffic(fabric.dir(), &["--keys", "300", "--rate", "200"]);
    more_delivered(&fabric, &admin, "sh-1", 50).await;
    let there = moved(&mut fabric, "0-3999", "sh-2").await;
    assert_eq!(there["stage"], "done", "{there}");
    more_delivered(&fabric, &admin, "sh-2", 100).await;
    let back = moved(&mut fabric, "2000-3999", "sh-1").await;
    assert_eq!(back["stage"], "done", "{back}");
    println!("pauses: {} and {} ms", there["pause_ms"], back["pause_ms"]);
    assert_clean(&ended(traffic).await);
    fabric.down().await.unwrap();
}

#[tokio::test]
async fn a_single_key_moves_there_and_back_under_traffic_and_costs_no_message_and_no_order() {
    let mut fabric = borrowed("key-moved", 1).await;
    let admin = fabric.gateway("bj-1-a").unwrap().admin;
    let traffic = lasting_traffic(fabric.dir(), &["--keys", "20", "--rate", "200"]);
    more_delivered(&fabric, &admin, "sh-1", 50).await;
    let plan = mv(&mut fabric, &["plan", "--pin", "10001", "--to", "bj-1"]).await;
    let home = plan["from"].as_str().unwrap().to_owned();
    assert_ne!(home, "bj-1", "{plan}");
    for to in ["bj-1", &home] {
        let id = asked(&mut fabric, &["--pin", "10001", "--to", to]).await;
        let moved = mv(&mut fabric, &["status", &id, "--watch"]).await;
        assert_eq!(
            (&moved["stage"], &moved["key"]),
            (&"done".into(), &"10001".into())
        );
        let said = fabric
            .http()
            .get_json(&explained(&admin), None)
            .await
            .unwrap();
        assert_eq!(
            (&said["seat"], &said["why"]),
            (
                &to.into(),
                &if to == "bj-1" { "pin" } else { "owner" }.into()
            )
        );
        more_delivered(&fabric, &admin, to, 50).await;
    }
    assert_clean(&ended(traffic).await);
    fabric.down().await.unwrap();
}

fn explained(admin: &str) -> String {
    format!(
        "http://{admin}/v1/explain?source=orders&routing_key=order.cn.created&header=uid%3D10001"
    )
}

#[tokio::test]
async fn a_move_that_cannot_drain_is_undone_unless_it_is_forced_and_costs_nothing() {
    let mut fabric = borrowed("not-drained", 2).await;
    let admin = fabric.gateway("sh-1-a").unwrap().admin;
    let traffic = lasting_traffic(fabric.dir(), &["--keys", "300", "--rate", "200"]);
    // A member that is away could deliver those slots to their old home, as far as anybody knows.
    fabric
        .stop(&"gateway/bj-1-b".parse().unwrap())
        .await
        .unwrap();
    let what = ["--slots", "0-999", "--to", "sh-2", "--deadline", "3"];
    let id = asked(&mut fabric, &what).await;
    until_fenced(&fabric, &admin, 1_000).await;
    until_fenced(&fabric, &admin, 0).await;
    let undone = mv(&mut fabric, &["status", &id]).await;
    assert_eq!(undone["stage"], "undone", "{undone}");
    let cause = undone["cause"].as_str().unwrap();
    assert!(cause.contains("bj-1/bj-1-b"), "{cause}");
    // Whoever has stopped it knows that it doesn't run.
    let id = asked(&mut fabric, &["--slots", "0-999", "--to", "sh-2"]).await;
    until_fenced(&fabric, &admin, 1_000).await;
    mv(&mut fabric, &["force", &id, "-m", "it is off"]).await;
    let done = mv(&mut fabric, &["status", &id, "--watch"]).await;
    assert_eq!(done["stage"], "done", "{done}");
    assert_clean(&ended(traffic).await);
    fabric.down().await.unwrap();
}

#[tokio::test]
async fn a_move_that_waits_for_consumers_is_placed_after_fifteen_seconds_of_empty_queues() {
    let mut fabric = borrowed("consumed", 1).await;
    let admin = fabric.gateway("bj-1-a").unwrap().admin;
    // All that the old unit serves moves, so nothing new is delivered there.
    let traffic = lasting_traffic(fabric.dir(), &["--keys", "300", "--rate", "200"]);
    more_delivered(&fabric, &admin, "sh-1", 50).await;
    let what = ["--unit", "sh-1", "--to", "sh-2", "--drain", "consumed"];
    let id = asked(&mut fabric, &what).await;
    let done = mv(&mut fabric, &["status", &id, "--watch"]).await;
    assert_eq!(done["stage"], "done", "{done}");
    assert!(done["pause_ms"].as_u64() >= Some(15_000), "{done}");
    assert_clean(&ended(traffic).await);
    fabric.down().await.unwrap();
}

#[tokio::test]
async fn a_gateway_killed_with_a_fence_on_its_disk_drains_when_it_is_back() {
    let mut fabric = borrowed("fenced-killed", 2).await;
    let admin = fabric.gateway("sh-1-a").unwrap().admin;
    let away = "gateway/bj-1-b".parse().unwrap();
    let killed = "gateway/sh-1-a".parse().unwrap();
    let traffic = lasting_traffic(fabric.dir(), &["--keys", "300", "--rate", "200"]);
    // The move stays where it is while a member is away.
    fabric.stop(&away).await.unwrap();
    let id = asked(&mut fabric, &["--slots", "0-999", "--to", "sh-2"]).await;
    until_drained(&mut fabric, &id, 5).await;
    fabric.kill(&killed).await.unwrap();
    let start = setgate::lab::Await::Ready;
    fabric.start(&killed, start).await.unwrap();
    until_fenced(&fabric, &admin, 1_000).await;
    fabric.start(&away, start).await.unwrap();
    let done = mv(&mut fabric, &["status", &id, "--watch"]).await;
    assert_eq!(done["stage"], "done", "{done}");
    crate::harness::assert_faultless(&ended(traffic).await);
    fabric.down().await.unwrap();
}

/// What a refused command says.
async fn refused(fabric: &mut Fabric, words: &[&str]) -> String {
    let lab = fabric.lab();
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_setgate"))
        .args(words)
        .args(["--etcd", &lab.etcd.join(","), "--space", lab.space.as_str()])
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn what_cannot_be_moved_is_refused_with_the_reason_and_changes_nothing() {
    let mut fabric = borrowed("not-moved", 1).await;
    let admin = fabric.gateway("sh-1-a").unwrap().admin;
    more_than_asked(&fabric, &admin).await;
    let start = ["move", "start", "-m", "a test"];
    for (more, says) in [
        (["--slots", "0-9", "--to", "sh-9"], "there is no unit sh-9"),
        (["--slots", "0-9", "--to", "sh-1"], "from sh-1 to sh-1"),
        (
            ["--slots", "9990-10009", "--to", "sh-1"],
            "no slots 10000-10009",
        ),
    ] {
        let said = refused(&mut fabric, &[&start[..], &more].concat()).await;
        assert!(said.contains(says), "{said}");
    }
    for (words, says) in [
        (
            &["failback", "sh-1", "-m", "x"][..],
            "no unit stands in for sh-1",
        ),
        (
            &["failover", "sh-9", "-m", "x", "--yes"],
            "there is no unit sh-9",
        ),
        (
            &["members", "retire", "sh-1/sh-1-a", "-m", "x"],
            "holds its lease",
        ),
        (
            &["members", "retire", "sh-1/sh-1-z", "-m", "x"],
            "knows no gateway",
        ),
        (&["move", "undo", "7", "-m", "x"], "there is no move 7"),
    ] {
        let said = refused(&mut fabric, words).await;
        assert!(said.contains(says), "{said}");
    }
    let none = mv(&mut fabric, &["status"]).await;
    assert_eq!(none["moves"].as_array().unwrap().len(), 0, "{none}");
    fabric.down().await.unwrap();
}

/// Waits until a gateway has registered, with its lease.
async fn more_than_asked(fabric: &Fabric, admin: &str) {
    eventually("the gateway has a table", DEADLINE, async || {
        let status = crate::harness::status(fabric, admin).await;
        status.is_some_and(|status| status["table"].is_object())
    })
    .await;
}

/// The gateway that leads, by its own word.
async fn coordinator(fabric: &mut Fabric) -> Option<String> {
    let units = fabric.lab().units;
    for gateway in units.iter().flat_map(|unit| &unit.gateways) {
        let url = format!("http://{}/metrics", gateway.admin);
        let Ok((_, body)) = fabric.http().get(&url, None).await else {
            continue;
        };
        let text = String::from_utf8(body.to_vec()).unwrap();
        if text.lines().any(|line| line == "setgate_coordinator 1") {
            return Some(gateway.name.to_string());
        }
    }
    None
}

#[tokio::test]
async fn a_move_whose_coordinator_is_killed_in_any_stage_ends_done_or_undone() {
    let mut fabric = borrowed("coordinator-killed", 1).await;
    let admin = fabric.gateway("bj-1-a").unwrap().admin;
    let traffic = lasting_traffic(fabric.dir(), &["--keys", "300", "--rate", "200"]);
    more_delivered(&fabric, &admin, "sh-1", 20).await;
    for (number, stage) in ["asked", "fenced", "drained", "placed"].iter().enumerate() {
        let to = ["sh-2", "sh-1"][number % 2];
        let leader = coordinator(&mut fabric).await;
        let id = asked(&mut fabric, &["--slots", "0-999", "--to", to]).await;
        // That stage, or a later one: they pass in some hundred milliseconds.
        let order = ["asked", "fenced", "drained", "placed", "done", "undone"];
        let least = order.iter().position(|one| one == stage).unwrap();
        loop {
            let status = mv(&mut fabric, &["status", &id]).await;
            let at = order
                .iter()
                .position(|one| status["stage"] == *one)
                .unwrap();
            if at >= least {
                break;
            }
        }
        if let Some(leader) = leader {
            let node = format!("gateway/{leader}").parse().unwrap();
            fabric.kill(&node).await.unwrap();
            fabric
                .start(&node, setgate::lab::Await::Ready)
                .await
                .unwrap();
        }
        let mut over = mv(&mut fabric, &["status", &id]).await;
        while over["stage"] != "done" && over["stage"] != "undone" {
            over = mv(&mut fabric, &["status", &id]).await;
        }
        if over["stage"] == "undone" {
            let done = moved(&mut fabric, "0-999", to).await;
            assert_eq!(done["stage"], "done", "{done}");
        }
    }
    crate::harness::assert_faultless(&ended(traffic).await);
    fabric.down().await.unwrap();
}

/// Waits until the status page of each unit's gateway says, or doesn't, that a key was changed without a move.
async fn until_edited(fabric: &Fabric, admins: &[String], key: &str, edited: Edited) {
    let what = format!("{key} is {edited:?}");
    let fault = format!("the key {key} of the space was changed without a move");
    eventually(&what, DEADLINE, async || {
        for admin in admins {
            let page = status(fabric, admin).await.unwrap_or_default();
            if page["faults"].to_string().contains(&fault) != (edited == Edited::ByHand) {
                return false;
            }
        }
        true
    })
    .await;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edited {
    ByHand,
    Back,
}

#[tokio::test]
async fn what_moves_alone_change_is_not_taken_from_anybodys_hand_and_traffic_goes_on() {
    let mut fabric = borrowed("edited-by-hand", 1).await;
    let admins = ["sh-1-a", "sh-2-a", "bj-1-a"].map(|name| fabric.gateway(name).unwrap().admin);
    let lab = fabric.lab();
    let traffic = lasting_traffic(fabric.dir(), &["--keys", "300", "--rate", "200"]);
    more_delivered(&fabric, &admins[0], "sh-1", 20).await;
    let put = async |key: &str, text: &str| {
        etcdctl(&lab, &["put"], key, &["--", text]).await;
    };
    let edits = [
        ("placement", "unit: sh-1}", "unit: sh-2}"),
        (
            "seats",
            "\"stand_ins\":{}",
            "\"stand_ins\":{\"sh-1\":\"sh-2\"}",
        ),
    ];
    for (key, that, this) in edits {
        let text = etcdctl(&lab, &["get"], key, &["--print-value-only"]).await;
        let text = text.trim_end().to_owned();
        let edited = text.replace(that, this);
        assert_ne!(edited, text);
        put(key, &edited).await;
        until_edited(&fabric, &admins, key, Edited::ByHand).await;
        // Longer than a lease lives: nobody has lost the right to deliver.
        more_delivered(&fabric, &admins[0], "sh-1", 300).await;
        put(key, &text).await;
        until_edited(&fabric, &admins, key, Edited::Back).await;
    }
    let done = moved(&mut fabric, "0-99", "sh-2").await;
    assert_eq!(done["stage"], "done", "{done}");
    assert_clean(&ended(traffic).await);
    fabric.down().await.unwrap();
}
