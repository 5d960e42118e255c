//! Rules change under traffic, and back: no message notices, and the history has both.

use crate::harness::{
    DEADLINE, account, assert_clean, borrowed, broker, delivered, ended, etcdctl, eventually,
    lasting_traffic, more_delivered, status, traffic, unanswered,
};
use serde_json::{Value, json};
use setgate::lab::{Fabric, LabBroker, LabFile, Ways};

/// It gives no key another owner: a rule in front, and a source beside.
const MORE: &str = "kind: rule
name: no-tests
source: orders
order: 1
when: {headers: {env: test}}
route: drop
---
kind: source
name: refunds
take: {exchange: orders, bindings: [{routing_key: \"refund.#\"}]}
deliver: {exchange: orders.local}
---
kind: rule
name: refunds-stay
source: refunds
order: 1
route: local
";

async fn rules(fabric: &mut Fabric, words: &[&str]) -> Value {
    command(fabric, &[&["rules"], words].concat()).await
}

/// A command about the space of a fabric, and what it says for programs.
async fn command(fabric: &mut Fabric, words: &[&str]) -> Value {
    let lab = fabric.lab();
    let (etcd, space) = (lab.etcd.join(","), lab.space.to_string());
    let more = ["--etcd", &etcd, "--space", &space, "-o", "json"];
    let words = [words, &more].concat();
    let said = fabric.setgate(&words).await.unwrap();
    serde_json::from_str(said.lines().last().unwrap()).unwrap()
}

/// The sources that a gateway has lanes of.
async fn sources(fabric: &Fabric, admin: &str) -> Vec<String> {
    let status = status(fabric, admin).await.unwrap_or_default();
    let lanes = status["lanes"].as_array().cloned().unwrap_or_default();
    let mut names: Vec<String> = lanes
        .iter()
        .filter_map(|lane| lane["source"].as_str().map(str::to_owned))
        .collect();
    names.dedup();
    names
}

async fn until_source(fabric: &Fabric, admin: &str, source: &str, there: Presence) {
    let what = format!("source {source} is {there:?}");
    eventually(&what, DEADLINE, async || {
        let has = sources(fabric, admin).await.iter().any(|one| one == source);
        has == (there == Presence::There)
    })
    .await;
}

/// Waits until a gateway's table sends some of twenty keys to a gray share, or none.
async fn until_gray(fabric: &Fabric, admin: &str, there: Presence) {
    let page = "/v1/explain?source=orders&routing_key=order.cn.created&header=uid%3D";
    let what = format!("a gray share is {there:?}");
    eventually(&what, DEADLINE, async || {
        let mut gray = false;
        for key in 0..20 {
            let url = format!("http://{admin}{page}{key}");
            let said = fabric.http().get_json(&url, None).await.unwrap_or_default();
            gray |= said["why"] == "gray";
        }
        gray == (there == Presence::There)
    })
    .await;
}

/// As an operator would, without setgate.
async fn put_by_hand(lab: &LabFile, file: &str, text: &str) {
    etcdctl(lab, &["put"], &format!("documents/{file}"), &["--", text]).await;
}

/// What gateways compile of a file.
async fn in_force(lab: &LabFile, file: &str) -> String {
    let key = format!("in-force/{file}");
    etcdctl(lab, &["get"], &key, &["--print-value-only"]).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    There,
    Gone,
}

#[tokio::test]
async fn rules_applied_and_rolled_back_under_traffic_cost_no_message_and_stand_in_the_history() {
    let mut fabric = borrowed("rules-changed", 1).await;
    let admin = fabric.gateway("sh-1-a").unwrap().admin;
    let pid = fabric.gateway("sh-1-a").unwrap().pid;
    let before = rules(&mut fabric, &["history"]).await;
    let before = before["history"][0]["revision"].as_i64().unwrap();
    let traffic = lasting_traffic(fabric.dir(), &["--keys", "300", "--rate", "200"]);
    more_delivered(&fabric, &admin, "bj-1", 50).await;

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("more.yaml"), MORE).unwrap();
    let dir = folder.path().display().to_string();
    let applied = rules(&mut fabric, &["apply", &dir, "-m", "tests are noise"]).await;
    assert_eq!(applied["applied"], true, "{applied}");
    until_source(&fabric, &admin, "refunds", Presence::There).await;
    more_delivered(&fabric, &admin, "bj-1", 100).await;

    let back = ["rollback", &before.to_string(), "-m", "tests are needed"];
    let rolled_back = rules(&mut fabric, &back).await;
    assert_eq!(rolled_back["applied"], true, "{rolled_back}");
    until_source(&fabric, &admin, "refunds", Presence::Gone).await;
    let so_far = delivered(&fabric, &admin, "bj-1").await;
    more_delivered(&fabric, &admin, "bj-1", 50).await;
    assert!(so_far > 0);

    let history = rules(&mut fabric, &["history", "-n", "2"]).await;
    let reasons: Vec<&str> = history["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["why"].as_str().unwrap())
        .collect();
    assert!(
        reasons[0].contains("tests are needed") && reasons[1].contains("tests are noise"),
        "{history}"
    );
    assert_eq!(fabric.gateway("sh-1-a").unwrap().pid, pid, "no restart");
    assert_clean(&ended(traffic).await);
    fabric.down().await.unwrap();
}

#[tokio::test]
async fn a_gray_share_put_into_etcd_by_hand_and_rolled_back_moves_its_keys_and_costs_no_order() {
    let mut fabric = borrowed("gray-changed", 1).await;
    let admin = fabric.gateway("sh-1-a").unwrap().admin;
    let pid = fabric.gateway("sh-1-a").unwrap().pid;
    let file = fabric.profile().dir.join("orders.yaml");
    let without = std::fs::read_to_string(&file).unwrap();
    let with = without.replace(
        "route: owner\n",
        "route: owner\ngray: {percent: 50, salt: g1, unit: bj-1}\n",
    );
    assert_ne!(with, without);
    let traffic = lasting_traffic(fabric.dir(), &["--keys", "300", "--rate", "200"]);
    more_delivered(&fabric, &admin, "sh-2", 50).await;
    let lab = fabric.lab();
    let before = rules(&mut fabric, &["history"]).await;
    let before = before["history"][0]["revision"].as_i64().unwrap();
    put_by_hand(&lab, "orders.yaml", &with).await;
    until_gray(&fabric, &admin, Presence::There).await;
    more_delivered(&fabric, &admin, "bj-1", 200).await;
    // Fewer of them, by the command for it.
    let step = ["--gray", "orders-by-user=20"];
    let plan = command(&mut fabric, &[&["move", "plan"], &step[..]].concat()).await;
    assert_eq!(
        (&plan["applied"], &plan["move"]),
        (&false.into(), &2.into())
    );
    assert_eq!(in_force(&lab, "orders.yaml").await.trim(), with.trim());
    let start = [&["move", "start"], &step[..], &["-m", "fewer"]].concat();
    assert_eq!(command(&mut fabric, &start).await["move"], 2);
    let fewer = with.replace("percent: 50", "percent: 20");
    eventually("the step is done", DEADLINE, async || {
        let told = etcdctl(&lab, &["get"], "moves/2", &["--print-value-only"]).await;
        told.contains("\"done\"")
    })
    .await;
    assert_eq!(in_force(&lab, "orders.yaml").await.trim(), fewer.trim());
    let back = ["rollback", &before.to_string(), "-m", "and back"];
    let rolled_back = rules(&mut fabric, &back).await;
    assert_eq!(rolled_back["move"], 3, "{rolled_back}");
    until_gray(&fabric, &admin, Presence::Gone).await;
    more_delivered(&fabric, &admin, "sh-2", 50).await;
    assert_eq!(fabric.gateway("sh-1-a").unwrap().pid, pid, "no restart");
    let history = rules(&mut fabric, &["history", "-n", "2"]).await;
    let why = |at: usize| history["history"][at]["why"].as_str().unwrap();
    assert!(
        why(0).contains("and back") && why(1).contains("move 2"),
        "{history}"
    );
    assert_clean(&ended(traffic).await);
    fabric.down().await.unwrap();
}

#[tokio::test]
async fn documents_that_change_during_their_move_are_judged_anew_and_the_newest_come_in_force() {
    let mut fabric = borrowed("rules-put-twice", 1).await;
    let admin = fabric.gateway("sh-1-a").unwrap().admin;
    let file = fabric.profile().dir.join("orders.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let gray = |percent: u8| {
        let share = format!("route: owner\ngray: {{percent: {percent}, salt: g1, unit: bj-1}}\n");
        text.replace("route: owner\n", &share)
    };
    let traffic = lasting_traffic(fabric.dir(), &["--keys", "300", "--rate", "200"]);
    more_delivered(&fabric, &admin, "sh-2", 50).await;
    let lab = fabric.lab();
    for percent in [10, 20, 30, 40, 50] {
        put_by_hand(&lab, "orders.yaml", &gray(percent)).await;
    }
    let newest = gray(50);
    let came = async || in_force(&lab, "orders.yaml").await.trim() == newest.trim();
    eventually("the newest are in force", DEADLINE, came).await;
    assert_clean(&ended(traffic).await);
    fabric.down().await.unwrap();
}

#[tokio::test]
async fn a_change_of_rules_waits_for_what_is_diverted_and_keeps_its_order() {
    let mut fabric = borrowed("rules-diverted", 1).await;
    let admin = fabric.gateway("sh-1-a").unwrap().admin;
    let file = fabric.profile().dir.join("orders.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let gray = "route: owner\ngray: {percent: 50, salt: g1, unit: sh-2}\n";
    let traffic = lasting_traffic(fabric.dir(), &["--keys", "300", "--rate", "200"]);
    more_delivered(&fabric, &admin, "bj-1", 50).await;
    let (near, far) = ("sh-1".parse().unwrap(), "bj-1".parse().unwrap());
    fabric.cut(&near, &far, Ways::Both).unwrap();
    let diverted = async || unanswered(&fabric, &admin, "bj-1").await > 100;
    eventually("some are diverted", DEADLINE, diverted).await;
    put_by_hand(
        &fabric.lab(),
        "orders.yaml",
        &text.replace("route: owner\n", gray),
    )
    .await;
    let fenced = async || {
        let page = format!("http://{admin}/v1/status");
        let status = fabric
            .http()
            .get_json(&page, None)
            .await
            .unwrap_or_default();
        status["table"]["moves"][0]["stage"] == "fenced"
    };
    eventually("its source is fenced", DEADLINE, fenced).await;
    fabric.heal(&near, &far, Ways::Both).unwrap();
    until_gray(&fabric, &admin, Presence::There).await;
    assert_clean(&ended(traffic).await);
    fabric.down().await.unwrap();
}

/// Takes the binding of what applications get away, or makes it again.
async fn bound(fabric: &Fabric, broker: &LabBroker, there: Presence) {
    let (at, vhost, login) = (
        &broker.management,
        broker.vhost_encoded(),
        broker.operator(),
    );
    let url = format!("{at}/api/bindings/{vhost}/e/orders.local/q/app.orders.local");
    let every = json!({"routing_key": "#"});
    let done = match there {
        Presence::There => fabric.http().post(&url, login, &every).await,
        Presence::Gone => fabric.http().delete(&format!("{url}/%23"), login).await,
    };
    done.unwrap();
}

#[tokio::test]
async fn where_nothing_is_bound_at_its_owner_an_order_waits_as_its_rule_says_and_goes_on_in_order()
{
    let mut fabric = borrowed("owner-absent", 1).await;
    let admin = fabric.gateway("sh-1-a").unwrap().admin;
    let file = fabric.profile().dir.join("orders.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let waits = text.replace(
        "owner_down: standby\n",
        "owner_down: standby\nowner_absent: {wait: 10m, then: park}\n",
    );
    assert_ne!(waits, text);
    put_by_hand(&fabric.lab(), "orders.yaml", &waits).await;
    let lab = fabric.lab();
    eventually("it is in force", DEADLINE, async || {
        in_force(&lab, "orders.yaml").await.contains("owner_absent")
    })
    .await;
    let history = rules(&mut fabric, &["history"]).await;
    let since = history["history"][0]["revision"].as_i64().unwrap();
    let page = format!("http://{admin}/metrics");
    eventually("its gateway routes by it", DEADLINE, async || {
        let (_, page) = fabric.http().get(&page, None).await.unwrap();
        let page = String::from_utf8_lossy(&page).into_owned();
        let mut lines = page.lines();
        let revision = lines.find_map(|line| line.strip_prefix("setgate_table_revision "));
        revision.and_then(|text| text.parse().ok()) >= Some(since)
    })
    .await;
    let broker = broker(&mut fabric, "bj-1");
    bound(&fabric, &broker, Presence::Gone).await;
    let traffic = traffic(
        fabric.dir(),
        &[
            "--messages",
            "600",
            "--keys",
            "100",
            "--rate",
            "300",
            "--from",
            "sh-1",
        ],
    );
    eventually("the lane says what it waits for", DEADLINE, async || {
        let status = status(&fabric, &admin).await.unwrap_or_default();
        status["lanes"]
            .to_string()
            .contains("by owner_absent of rule orders-by-user")
    })
    .await;
    more_delivered(&fabric, &admin, "sh-2", 50).await;
    bound(&fabric, &broker, Presence::There).await;
    assert_clean(&account(traffic).await);
    fabric.down().await.unwrap();
}
