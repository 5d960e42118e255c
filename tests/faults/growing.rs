//! A space grows from one unit to three and loses one again under traffic, by the very commands of `docs/growing.md`.

use crate::harness::{
    DEADLINE, assert_clean, broker, ended, eventually, lasting_traffic, more_delivered,
};
use serde_json::{Value, json};
use setgate::lab::fabric::test_lab_dir;
use setgate::lab::http::encode;
use setgate::lab::{Fabric, FabricSpec, LabBroker, Reporter};
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

/// The blocks of commands below each heading, by its text; those of the lab aside.
fn chapters() -> Vec<(String, Vec<String>)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/growing.md");
    let text = std::fs::read_to_string(file).unwrap();
    let mut chapters: Vec<(String, Vec<String>)> = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        match (&mut block, line) {
            (None, "```sh") => block = Some(String::new()),
            (Some(commands), "```") => {
                if !commands.contains("setgate-lab") {
                    let last = chapters.last_mut().unwrap();
                    last.1.push(std::mem::take(commands));
                }
                block = None;
            }
            (Some(commands), line) => {
                commands.push_str(line);
                commands.push('\n');
            }
            (None, line) => {
                if let Some(heading) = line.strip_prefix("## ") {
                    chapters.push((heading.to_owned(), Vec::new()));
                }
            }
        }
    }
    chapters
}

/// Runs a block as a person would paste it, and fails with what it printed.
async fn run(commands: &str, folder: &Path, gateway: &Path) {
    let setgate = Path::new(env!("CARGO_BIN_EXE_setgate")).parent().unwrap();
    let output = Command::new("bash")
        .args(["-e", "-c"])
        .arg(format!(
            "export PATH={}:$PATH\n{commands}",
            setgate.display()
        ))
        .env("GATEWAY", gateway)
        .current_dir(folder)
        .output()
        .await
        .unwrap();
    assert!(
        output.status.success(),
        "{commands}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Items that were shared while there was nobody to share them with.
const KEPT: usize = 30;

/// An application of `sh-1` keeps what is shared in a stream, which the gateway may read.
async fn keep_items(fabric: &mut Fabric) {
    let broker = broker(fabric, "sh-1");
    let (at, vhost, login) = (
        &broker.management,
        broker.vhost_encoded(),
        broker.operator(),
    );
    let stream = json!({"durable": true, "arguments": {"x-queue-type": "stream"}});
    bind(fabric, &broker, "catalog.kept", &stream).await;
    let url = format!("{at}/api/permissions/{vhost}/{}", encode(&broker.user));
    let mut rights = fabric.http().get_json(&url, Some(login)).await.unwrap();
    let read = rights["read"].as_str().unwrap().to_owned();
    rights["read"] = format!(r"{read}|^catalog\.kept$").into();
    fabric.http().put(&url, login, &rights).await.unwrap();
    let url = format!("{at}/api/exchanges/{vhost}/catalog/publish");
    for number in 0..KEPT {
        let item = json!({
            "properties": {"message_id": format!("item-{number}"), "delivery_mode": 2},
            "routing_key": "item.changed", "payload": number.to_string(), "payload_encoding": "string",
        });
        fabric.http().ask(&url, login, &item).await.unwrap();
    }
}

/// Declares a queue and binds it to the catalog.
async fn bind(fabric: &Fabric, broker: &LabBroker, name: &str, queue: &Value) {
    let (at, vhost, login) = (
        &broker.management,
        broker.vhost_encoded(),
        broker.operator(),
    );
    let url = format!("{at}/api/queues/{vhost}/{name}");
    fabric.http().put(&url, login, queue).await.unwrap();
    let url = format!("{at}/api/bindings/{vhost}/e/catalog/q/{name}");
    let binding = json!({"routing_key": "#"});
    fabric.http().post(&url, login, &binding).await.unwrap();
}

/// What lies in the queue of an application: of each, its content and whether it was sent again.
async fn items(fabric: &Fabric, broker: &LabBroker, name: &str) -> Vec<(String, bool)> {
    let (at, vhost, login) = (
        &broker.management,
        broker.vhost_encoded(),
        broker.operator(),
    );
    let url = format!("{at}/api/queues/{vhost}/{name}/get");
    let words = json!({"count": 1_000, "ackmode": "ack_requeue_true", "encoding": "auto"});
    let found = fabric.http().ask(&url, login, &words).await.unwrap();
    let of = |one: &Value| {
        let again = one["properties"]["headers"]["x-set-replay"] == true;
        (one["payload"].as_str().unwrap().to_owned(), again)
    };
    found.as_array().unwrap().iter().map(of).collect()
}

#[tokio::test]
async fn one_unit_becomes_active_active_then_two_sites_and_three_centers_and_one_is_retired_under_traffic()
 {
    let dir = test_lab_dir().with_file_name("fault-labs").join("growing");
    let spec = FabricSpec::profile("two-sites-three-centers")
        .begins_with("single")
        .rtt(Duration::from_millis(20))
        .binary(env!("CARGO_BIN_EXE_setgate"))
        .dir(dir);
    let mut fabric = Fabric::up(spec, Reporter::Quiet).await.unwrap();
    let gateway = fabric.gateway("sh-1-a").unwrap();
    let (admin, config) = (gateway.admin, gateway.config);
    let folder = tempfile::tempdir().unwrap();
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("routing-rules");
    std::os::unix::fs::symlink(rules, folder.path().join("routing-rules")).unwrap();
    let traffic = lasting_traffic(
        fabric.dir(),
        &["--from", "sh-1", "--keys", "300", "--rate", "200"],
    );
    more_delivered(&fabric, &admin, "sh-1", 50).await;
    keep_items(&mut fabric).await;
    let new = broker(&mut fabric, "sh-2");
    let other = broker(&mut fabric, "bj-1");
    for broker in [&new, &other] {
        bind(&fabric, broker, "catalog.app", &json!({"durable": true})).await;
    }
    for (heading, blocks) in chapters() {
        for commands in &blocks {
            if commands.contains("members retire") {
                let away = "gateway/bj-1-a".parse().unwrap();
                fabric.stop(&away).await.unwrap();
            }
            run(commands, folder.path(), Path::new(&config)).await;
            if commands.contains("backfill") {
                let expected: Vec<_> = (0..KEPT).map(|number| (number.to_string(), true)).collect();
                eventually("it has what was kept, in order", DEADLINE, async || {
                    items(&fabric, &new, "catalog.app").await == expected
                })
                .await;
                // A second time, it is known there.
                run(commands, folder.path(), Path::new(&config)).await;
                let known =
                    format!("setgate_duplicates_total{{from=\"sh-1\",source=\"catalog\"}} {KEPT}");
                let url = format!("http://{}/metrics", fabric.gateway("sh-2-a").unwrap().admin);
                eventually("it knows them", DEADLINE, async || {
                    let (_, page) = fabric.http().get(&url, None).await.unwrap();
                    String::from_utf8_lossy(&page).contains(&known)
                })
                .await;
                assert_eq!(items(&fabric, &new, "catalog.app").await, expected);
                assert_eq!(items(&fabric, &other, "catalog.app").await, []);
            }
        }
        // Each of them serves its share before the next step.
        let serving: &[&str] = match heading.as_str() {
            "One unit becomes three" | "What was shared before" | "Two sites, three centers" => {
                &["sh-1", "sh-2", "bj-1"]
            }
            _ => &["sh-1", "sh-2"],
        };
        for unit in serving {
            more_delivered(&fabric, &admin, unit, 50).await;
        }
    }
    assert_clean(&ended(traffic).await);
    fabric.down().await.unwrap();
}
