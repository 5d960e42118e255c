//! What is imported from RabbitMQ's definitions moves the same messages as its plugins did, on the same brokers.

#![allow(clippy::unwrap_used, clippy::panic)] // tests and their helpers panic at what must hold

#[path = "shared/eventually.rs"]
mod eventually;

use bytes::Bytes;
use eventually::eventually;
use serde_json::{Value, json};
use setgate::lab::fabric::test_lab_dir;
use setgate::lab::http::encode;
use setgate::lab::raw::{RawClient, RawConfirm};
use setgate::lab::{Fabric, FabricSpec, LabBroker, Nodes, Reporter};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::task::block_in_place;

const DEADLINE: Duration = Duration::from_mins(1);

/// The broker whose plugins are replaced, and two that it federates and shovels with.
const WORLD: &str = "kind: topology
space: t
cities: {here: {}}
sites: {a: {city: here}, b: {city: here}, c: {city: here}}
units: {hub: {site: a}, east: {site: b}, west: {site: c}}
---
kind: placement
slots: 100
ranges: [{slots: 0-99, unit: hub}]
";

/// Exchanges in every broker, by name and type.
const EXCHANGES: [(&str, &str); 7] = [
    ("orders", "topic"),
    ("prices", "direct"),
    ("news", "fanout"),
    ("news.west", "fanout"),
    ("audit", "topic"),
    ("audit.in", "topic"),
    ("metrics", "topic"),
];

/// A queue by its unit, and the exchange and key that it is bound to.
type Queue = (
    &'static str,
    &'static str,
    Option<(&'static str, &'static str)>,
);

const QUEUES: [Queue; 7] = [
    ("hub", "app.orders", Some(("orders", "order.#"))),
    ("hub", "app.prices", Some(("prices", "eur"))),
    ("hub", "app.news", Some(("news", ""))),
    ("east", "app.audit", Some(("audit.in", "#"))),
    ("hub", "app.jobs", None),
    ("hub", "app.metrics", None),
    ("west", "app.tail", Some(("audit.in", "tail.#"))),
];

/// Queues that are carried away: unit and name.
const CARRIED: [(&str, &str); 2] = [("hub", "app.audit.out"), ("east", "app.jobs.out")];

/// What is published: unit, exchange, routing key.
const PUBLISHED: [(&str, &str, &str); 13] = [
    ("east", "orders", "order.created"),
    ("west", "orders", "order.created.vip"),
    ("west", "orders", "refund.created"),
    ("hub", "orders", "order.here"),
    ("east", "prices", "eur"),
    ("east", "prices", "usd"),
    ("west", "prices", "eur"),
    ("west", "news.west", "anything"),
    ("hub", "", "app.audit.out"),
    ("east", "", "app.jobs.out"),
    ("west", "metrics", "cpu.load"),
    ("west", "metrics", "disk.free"),
    ("hub", "audit", "tail.one"),
];

/// Of what is published, so much is taken elsewhere or arrives where it was published: order.created, order.created.vip,
/// order.here, eur from the east, news, audit, jobs, cpu.load, tail.one.
const MOVED: usize = 9;

/// By the queue where they arrive: exchange, routing key and body of each.
type Arrived = BTreeMap<String, Vec<(String, String, String)>>;

struct World {
    fabric: Fabric,
}

impl World {
    fn broker(&mut self, unit: &str) -> LabBroker {
        self.fabric.lab().unit(unit).unwrap().brokers[0].clone()
    }

    fn client(&mut self, unit: &str) -> RawClient {
        let uri = self.broker(unit).app_uri();
        block_in_place(|| RawClient::connect(&uri.into())).unwrap()
    }

    fn declare(&mut self) {
        for unit in ["hub", "east", "west"] {
            let mut client = self.client(unit);
            for (name, kind) in EXCHANGES {
                block_in_place(|| client.declare_exchange(name, kind)).unwrap();
            }
            for (_, queue) in CARRIED.iter().filter(|(at, _)| *at == unit) {
                block_in_place(|| client.declare_queue(queue)).unwrap();
            }
            for (_, queue, bound) in QUEUES.iter().filter(|(at, ..)| *at == unit) {
                block_in_place(|| client.declare_queue(queue)).unwrap();
                if let Some((exchange, key)) = bound {
                    block_in_place(|| client.bind(queue, exchange, key)).unwrap();
                }
            }
        }
    }

    /// Publishes one of each in two rounds, and gives what has arrived. What came once too often in the first round would
    /// have arrived before the second.
    async fn carried(&mut self, word: &str) -> Arrived {
        for round in 1..=2 {
            self.publish(&format!("{word}{round}"));
        }
        let mut arrived = Arrived::new();
        let mut clients: Vec<(RawClient, &str)> = Vec::new();
        for (unit, queue, _) in QUEUES {
            clients.push((self.client(unit), queue));
        }
        let what = format!("{} messages have arrived", 2 * MOVED);
        eventually(&what, DEADLINE, async || {
            for (client, queue) in &mut clients {
                while let Some(got) = block_in_place(|| client.get(queue)).unwrap() {
                    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
                    let body = text(&got.body);
                    let of_round = body.strip_prefix(word).unwrap().to_owned();
                    let one = (text(&got.exchange), text(&got.routing_key), of_round);
                    println!("in {queue}: {one:?}");
                    arrived.entry((*queue).to_owned()).or_default().push(one);
                }
            }
            let count: usize = arrived.values().map(Vec::len).sum();
            (count >= 2 * MOVED).then_some(())
        })
        .await;
        for list in arrived.values_mut() {
            list.sort();
        }
        arrived
    }

    fn publish(&mut self, word: &str) {
        let properties = setgate::amqp::Properties::default().encode().unwrap();
        for (unit, exchange, key) in PUBLISHED {
            let mut client = self.client(unit);
            let body = format!("{word} {unit} {exchange} {key}");
            let (exchange, key) = (exchange.as_bytes(), key.as_bytes());
            let confirm =
                block_in_place(|| client.publish(exchange, key, &properties, body.as_bytes()));
            // Some are for nobody.
            let taken = matches!(confirm, Ok(RawConfirm::Ack | RawConfirm::Returned));
            assert!(taken, "{confirm:?}");
        }
    }

    async fn put(&mut self, unit: &str, path: &str, body: &Value) {
        let broker = self.broker(unit);
        let url = format!("{}/api/{path}", broker.management);
        self.fabric
            .http()
            .put(&url, broker.operator(), body)
            .await
            .unwrap();
    }

    async fn delete(&mut self, unit: &str, path: &str) {
        let broker = self.broker(unit);
        let url = format!("{}/api/{path}", broker.management);
        self.fabric
            .http()
            .delete(&url, broker.operator())
            .await
            .unwrap();
    }

    async fn get(&mut self, unit: &str, path: &str) -> Value {
        let broker = self.broker(unit);
        let url = format!("{}/api/{path}", broker.management);
        let got = self.fabric.http().get_json(&url, Some(broker.operator()));
        got.await.unwrap()
    }

    /// A URI with user and password, as plugins want it.
    fn uri(&mut self, unit: &str) -> String {
        let broker = self.broker(unit);
        let address = address(&broker);
        format!(
            "amqp://{}:{}@{address}",
            broker.app_user, broker.app_password
        )
    }

    /// Five upstreams, a set, three policies and four shovels, all in `hub`.
    async fn plug_in(&mut self) {
        let (east, west) = (self.uri("east"), self.uri("west"));
        let upstreams = [
            ("east", json!({"uri": east})),
            ("west", json!({"uri": west, "prefetch-count": 50})),
            ("east-fast", json!({"uri": east, "ack-mode": "on-publish"})),
            ("west-news", json!({"uri": west, "exchange": "news.west"})),
            ("spare", json!({"uri": west, "reconnect-delay": 7})),
        ];
        for (name, value) in upstreams {
            let path = format!("parameters/federation-upstream/%2f/{name}");
            self.put("hub", &path, &json!({"value": value})).await;
        }
        let both = json!({"value": [{"upstream": "east"}, {"upstream": "west"}]});
        self.put("hub", "parameters/federation-upstream-set/%2f/both", &both)
            .await;
        let policies = [
            (
                "orders",
                "^orders$",
                json!({"federation-upstream-set": "both"}),
            ),
            (
                "prices",
                "^prices$",
                json!({"federation-upstream": "east-fast"}),
            ),
            (
                "news",
                "^news$",
                json!({"federation-upstream": "west-news"}),
            ),
        ];
        for (name, pattern, definition) in policies {
            let policy =
                json!({"pattern": pattern, "apply-to": "exchanges", "definition": definition});
            self.put("hub", &format!("policies/%2f/{name}"), &policy)
                .await;
        }
        let shovels = [
            (
                "audit",
                json!({"src-uri": "amqp://", "src-queue": "app.audit.out",
                "dest-uri": east, "dest-exchange": "audit.in", "dest-exchange-key": "audit.hub"}),
            ),
            (
                "jobs",
                json!({"src-uri": east, "src-queue": "app.jobs.out",
                "dest-uri": "amqp://", "dest-queue": "app.jobs"}),
            ),
            (
                "metrics",
                json!({"src-uri": west, "src-exchange": "metrics", "src-exchange-key": "cpu.#",
                "dest-uri": "amqp://", "dest-queue": "app.metrics"}),
            ),
            (
                "tail",
                json!({"src-uri": "amqp://", "src-exchange": "audit", "src-exchange-key": "tail.#",
                "dest-uri": west, "dest-exchange": "audit.in"}),
            ),
        ];
        for (name, value) in shovels {
            let path = format!("parameters/shovel/%2f/{name}");
            self.put("hub", &path, &json!({"value": value})).await;
        }
        // orders from two, prices and news from one each.
        self.until_running("federation-links", "status", 4).await;
        self.until_running("shovels", "state", 4).await;
    }

    async fn until_running(&mut self, page: &str, field: &str, count: usize) {
        let broker = self.broker("hub");
        let url = format!("{}/api/{page}", broker.management);
        let http = self.fabric.http();
        eventually(&format!("{count} {page} run"), DEADLINE, async || {
            let all = http.get_json(&url, Some(broker.operator())).await.ok()?;
            let all = all.as_array()?;
            let running = all.iter().filter(|one| one[field] == "running");
            (running.count() == count).then_some(())
        })
        .await;
    }

    async fn unplug(&mut self) {
        for name in ["orders", "prices", "news"] {
            self.delete("hub", &format!("policies/%2f/{name}")).await;
        }
        for name in ["audit", "jobs", "metrics", "tail"] {
            self.delete("hub", &format!("parameters/shovel/%2f/{name}"))
                .await;
        }
        self.until_running("federation-links", "status", 0).await;
        self.until_running("shovels", "state", 0).await;
    }

    /// The gateways' users may do what the imported sources need: read what they take, write where they deliver.
    async fn permit(&mut self) {
        for unit in ["hub", "east", "west"] {
            let user = encode(&self.broker(unit).user);
            let rights = json!({"configure": r"^setgate\.", "write": ".*", "read": ".*"});
            self.put(unit, &format!("permissions/%2f/{user}"), &rights)
                .await;
        }
    }

    /// Waits until the one who takes a source says so.
    async fn takes(&mut self, unit: &str, source: &str) {
        let gateway = self.fabric.gateway(&format!("{unit}-a")).unwrap();
        let url = format!("http://{}/v1/status", gateway.admin);
        let http = self.fabric.http();
        eventually(&format!("{unit} takes {source}"), DEADLINE, async || {
            let status = http.get_json(&url, None).await.ok()?;
            let mut lanes = status["lanes"].as_array()?.iter();
            let lane = lanes.find(|lane| lane["source"] == source)?;
            (lane["state"] == "taking" || lane["state"] == "waiting").then_some(())
        })
        .await;
    }
}

/// `127.0.0.1:PORT`.
fn address(broker: &LabBroker) -> String {
    let rest = broker.uri.strip_prefix("amqp://").unwrap();
    rest.split('/').next().unwrap().to_owned()
}

/// Writes the folder that the definitions become, and gives the report.
fn import(definitions: &Path, folder: &Path, peers: [(&str, String); 2]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_setgate"));
    command.arg("import").arg(definitions).arg("-o").arg(folder);
    command.args(["--space", "t", "--unit", "hub", "--json"]);
    for (unit, address) in peers {
        command.args(["--peer", &format!("{unit}={address}")]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imported_sources_move_the_same_messages_as_the_plugins_did_on_the_same_brokers() {
    let rules = tempfile::tempdir().unwrap();
    std::fs::write(rules.path().join("world.yaml"), WORLD).unwrap();
    let dir = test_lab_dir().with_file_name("fault-labs").join("imported");
    let spec = FabricSpec::folder(rules.path())
        .dir(dir)
        .nodes(Nodes::Compared)
        .binary(env!("CARGO_BIN_EXE_setgate"));
    let fabric = Fabric::up(spec, Reporter::Quiet).await;
    let fabric = fabric.unwrap_or_else(|error| panic!("{error}"));
    let mut world = World { fabric };
    world.declare();
    world.plug_in().await;
    let by_plugins = world.carried("plugins").await;

    let folder = tempfile::tempdir().unwrap();
    let definitions = folder.path().join("definitions.json");
    let exported = world.get("hub", "definitions").await.to_string();
    std::fs::write(&definitions, &exported).unwrap();
    world.unplug().await;
    let imported = folder.path().join("rules");
    let peers = ["east", "west"].map(|unit| (unit, address(&world.broker(unit))));
    let report = import(&definitions, &imported, peers);
    let fates: Vec<&str> = report["report"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["fate"].as_str().unwrap())
        .collect();
    assert!(!fates.contains(&"cannot"), "{report}");
    let password = world.broker("east").app_password;
    for file in report["files"].as_array().unwrap() {
        let text = std::fs::read_to_string(imported.join(file.as_str().unwrap())).unwrap();
        assert!(!text.contains(&password), "{file} has a password");
    }

    // The space is there already: its own topology and placement stay.
    let sources = std::fs::read_to_string(imported.join("imported.yaml")).unwrap();
    std::fs::write(rules.path().join("imported.yaml"), &sources).unwrap();
    world.permit().await;
    world.fabric.apply(rules.path(), "imported").await.unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&sources).unwrap();
    for source in documents.iter().filter(|one| one["kind"] == "source") {
        let (unit, name) = (&source["units"][0], &source["name"]);
        world
            .takes(unit.as_str().unwrap(), name.as_str().unwrap())
            .await;
    }
    let by_gateways = world.carried("gateways").await;
    assert_eq!(by_gateways, by_plugins);
    world.fabric.down().await.unwrap();
}
