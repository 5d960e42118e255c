//! A fabric of one test, the rules that it runs, and what its gateways say of themselves.

use crate::broker::Broker;
pub(crate) use crate::eventually::eventually;
use serde_json::Value;
use setgate::lab::http::Login;
use setgate::lab::{Fabric, FabricSpec};
use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Longer than the slowest thing waited for: a lane that comes back after some failed attempts, on a loaded machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(40);

/// A topology of these units, each at a site of its own, and a placement of 100 slots that gives each an equal share in
/// their order. With keys mapped by `digits`, key and slot are the same number.
pub(crate) fn world(units: &[&str]) -> String {
    let mut text = "kind: topology\nspace: t\ncities: {here: {}}\nsites:\n".to_owned();
    for unit in units {
        let _ = writeln!(text, "  site-{unit}: {{city: here}}");
    }
    text.push_str("units:\n");
    for unit in units {
        let _ = writeln!(text, "  {unit}: {{site: site-{unit}}}");
    }
    let _ = writeln!(text, "center: {}", units[0]);
    text.push_str("---\nkind: placement\nslots: 100\nranges:\n");
    let share = 100 / units.len();
    for (index, unit) in units.iter().enumerate() {
        let first = index * share;
        let last = match index + 1 {
            next if next == units.len() => 99,
            next => next * share - 1,
        };
        let _ = writeln!(text, "  - {{slots: {first}-{last}, unit: {unit}}}");
    }
    text
}

/// The source `orders`: taken from the exchange of that name, delivered to `orders.local`, keyed by the header `uid`.
pub(crate) const ORDERS: &str = "kind: source
name: orders
take: {exchange: orders, bindings: [{routing_key: \"order.#\"}]}
deliver: {exchange: orders.local}
key: {from: [{header: uid}], map: digits}
";

/// Each order to the unit that owns it.
pub(crate) const BY_OWNER: &str = "kind: rule
name: orders-by-owner
source: orders
order: 100
when: {routing_key: \"order.*\"}
route: owner
";

/// A rules folder of these files.
pub(crate) fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// A running fabric.
pub(crate) struct World {
    pub(crate) fabric: Fabric,
}

impl World {
    /// Starts gateways with these rules.
    pub(crate) async fn start(test: &str, files: &[(&str, &str)]) -> Self {
        let rules = folder(files);
        Self::of(test, FabricSpec::folder(rules.path())).await
    }

    /// Starts what is described.
    pub(crate) async fn of(test: &str, spec: FabricSpec) -> Self {
        let fabric = Fabric::borrowed(test, spec).await;
        let fabric = fabric.unwrap_or_else(|error| panic!("{error}"));
        let mut world = Self { fabric };
        world.lanes_are_open().await;
        world
    }

    /// A gateway is ready before its lanes have bound their queues; what was published before that would be unroutable.
    async fn lanes_are_open(&mut self) {
        let mut sources = Vec::new();
        for entry in std::fs::read_dir(&self.fabric.profile().dir).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
            sources.extend(documents.into_iter().filter(|it| it["kind"] == "source"));
        }
        for unit in self.fabric.lab().units {
            let taken = |source: &&Value| {
                let units = source["units"].as_array();
                units.is_none_or(|units| units.iter().any(|one| *one == unit.unit.as_str()))
            };
            for source in sources.iter().filter(taken) {
                let name = source["name"].as_str().unwrap();
                self.lane(unit.unit.as_str(), name, &["taking", "waiting"])
                    .await;
            }
        }
    }

    /// Ends gateways and vhosts. A test that fails leaves them to the next run.
    pub(crate) async fn end(self) {
        self.fabric.down().await.unwrap();
    }

    /// An application's connection to a unit's broker.
    pub(crate) fn app(&mut self, unit: &str) -> Broker {
        let lab = self.fabric.lab();
        Broker::connect(&lab.unit(unit).unwrap().brokers[0].app_uri())
    }

    /// The name of a queue of the space's own.
    pub(crate) fn own_queue(&mut self, rest: &str) -> String {
        format!("setgate.{}.{rest}", self.fabric.lab().space)
    }

    /// What a page of a unit's gateway says.
    pub(crate) async fn page(&mut self, unit: &str, page: &str) -> String {
        let gateway = self.fabric.gateway(&format!("{unit}-a")).unwrap();
        let url = format!("http://{}{page}", gateway.admin);
        let (status, body) = self.fabric.http().get(&url, None).await.unwrap();
        assert!(status.is_success(), "{url} says {status}");
        String::from_utf8(body.to_vec()).unwrap()
    }

    /// `/v1/status` of a unit's gateway.
    pub(crate) async fn status(&mut self, unit: &str) -> Value {
        serde_json::from_str(&self.page(unit, "/v1/status").await).unwrap()
    }

    /// The sum of a metric over its labels.
    pub(crate) async fn metric(&mut self, unit: &str, name: &str) -> f64 {
        let text = self.page(unit, "/metrics").await;
        let of_name = text.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        of_name
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until a lane of a unit's gateway says this, and gives what it says.
    pub(crate) async fn lane(&mut self, unit: &str, source: &str, state: &[&str]) -> Value {
        let what = format!("the lane of {source} in {unit} is {state:?}");
        let look = async || {
            let status = self.status(unit).await;
            let lanes = status["lanes"].as_array().unwrap();
            let lane = lanes.iter().find(|lane| lane["source"] == source)?;
            let said = lane["state"].as_str().unwrap();
            state.contains(&said).then(|| lane.clone())
        };
        eventually(&what, DEADLINE, look).await.0
    }

    /// Writes a document as an operator would.
    pub(crate) fn put(&mut self, file: &str, text: &str) {
        let lab = self.fabric.lab();
        let key = format!("/setgate/{}/documents/{file}", lab.space);
        etcdctl(&lab.etcd, &["put", &key, "--", text]);
    }

    /// Applies a changed file of the rules, whatever owners it gives to keys.
    pub(crate) async fn apply(&mut self, file: &str, text: &str) {
        let dir = self.fabric.profile().dir.clone();
        std::fs::write(dir.join(file), text).unwrap();
        self.fabric.apply(&dir, "a test").await.unwrap();
    }

    /// The space's seal key, as gateways read it.
    pub(crate) fn seal(&mut self) -> setgate::model::SealKeys {
        let lab = self.fabric.lab();
        let key = format!("/setgate/{}/seal", lab.space);
        let json = etcdctl(&lab.etcd, &["get", &key, "--print-value-only"]);
        setgate::model::SealKeys::parse(json.trim().as_bytes()).unwrap()
    }

    /// Makes a queue anew, with these arguments.
    pub(crate) async fn queue(&mut self, unit: &str, name: &str, arguments: Value) {
        self.delete_queue(unit, name).await;
        let (url, user, password) = self.management(unit, "queues", name);
        let body = serde_json::json!({"durable": true, "arguments": arguments});
        let login = Login {
            user: &user,
            password: &password,
        };
        self.fabric.http().put(&url, login, &body).await.unwrap();
    }

    /// Deletes a queue.
    pub(crate) async fn delete_queue(&mut self, unit: &str, name: &str) {
        let (url, user, password) = self.management(unit, "queues", name);
        let login = Login {
            user: &user,
            password: &password,
        };
        self.fabric.http().delete(&url, login).await.unwrap();
    }

    /// Deletes an exchange.
    pub(crate) async fn delete_exchange(&mut self, unit: &str, name: &str) {
        let (url, user, password) = self.management(unit, "exchanges", name);
        let login = Login {
            user: &user,
            password: &password,
        };
        self.fabric.http().delete(&url, login).await.unwrap();
    }

    /// What the gateways' user may do in a unit; returns what it might before.
    pub(crate) async fn permit(&mut self, unit: &str, rights: impl Fn(Value) -> Value) -> Value {
        let gateway = self.fabric.lab().unit(unit).unwrap().brokers[0]
            .user
            .clone();
        let (url, user, password) = self.management(unit, "permissions", &gateway);
        let login = Login {
            user: &user,
            password: &password,
        };
        let http = self.fabric.http();
        let before = http.get_json(&url, Some(login)).await.unwrap();
        http.put(&url, login, &rights(before.clone()))
            .await
            .unwrap();
        before
    }

    /// Where a thing of a unit's broker is managed, with whose user and password.
    pub(crate) fn management(
        &mut self,
        unit: &str,
        kind: &str,
        name: &str,
    ) -> (String, String, String) {
        let lab = self.fabric.lab();
        let broker = &lab.unit(unit).unwrap().brokers[0];
        let vhost = broker.vhost_encoded();
        let url = format!("{}/api/{kind}/{vhost}/{name}", broker.management);
        (url, broker.app_user.clone(), broker.app_password.clone())
    }
}

fn etcdctl(urls: &[String], words: &[&str]) -> String {
    let output = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints={}", urls.join(",")))
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success(), "etcdctl {words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
