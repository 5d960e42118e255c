//! RabbitMQ nodes of a lab: real processes, bound to loopback, with names, cookies, ports and data of their own.

use super::http::{HttpClient, Login, encode};
use super::lab_file::{LabBroker, write_private};
use super::ports;
use super::process::{Launch, Processes};
use super::profile::Application;
use super::spec::Nodes;
use super::{LabError, Node};
use crate::model::UnitId;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Debian's and RabbitMQ's own place; the wrapper in `/usr/sbin` changes the user, which a lab must not.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// How often a broker is asked again to close a user's connections.
const CLOSE_ATTEMPTS: u32 = 5;

/// How much memory a broker believes that it may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Less than it uses in any case: its alarm blocks all publishers. A full disk has the same effect.
    Short,
    /// RabbitMQ's own default.
    Enough,
}

/// Calls a function in a node; comes with Erlang.
const CALL: &str = "erl_call";
const CALL_SECONDS: &str = "20";
/// Five nodes booting on two cores take 40 s.
const READY: Duration = Duration::from_mins(3);
/// No busy waiting: nodes of a lab share few cores.
const ERLANG: &str = "+SDio 8 +sbwt none +sbwtdcpu none +sbwtdio none \
    -kernel inet_dist_use_interface {127,0,0,1}";

/// The Erlang port mapper of one lab.
#[derive(Debug, Clone)]
pub struct PortMapper {
    port: u16,
    dir: PathBuf,
}

impl PortMapper {
    /// Plans it.
    pub fn plan(dir: &Path) -> Result<Self, LabError> {
        Ok(Self {
            port: ports::free()?,
            dir: dir.to_owned(),
        })
    }

    /// Starts it before any node, so that none starts a daemon of its own, which would outlive the lab.
    pub async fn start(&self, processes: &mut Processes) -> Result<(), LabError> {
        let launch = Launch {
            program: "epmd".into(),
            package: "erlang-base",
            args: ["-port", &self.port.to_string(), "-address", "127.0.0.1"]
                .map(Into::into)
                .into(),
            env: Vec::new(),
            log: self.dir.join("epmd.log"),
        };
        processes.spawn(&Node::PortMapper, launch)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let patience = Duration::from_secs(10);
        processes
            .wait_ready(&Node::PortMapper, patience, || connects(address))
            .await
    }
}

/// The users of one cluster.
#[derive(Debug, Clone)]
pub struct Users {
    password: String,
    app_password: String,
}

/// The cluster of one unit.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its unit.
    pub unit: UnitId,
    /// Its nodes; at least one.
    pub nodes: Vec<BrokerNode>,
    kind: Nodes,
    users: Users,
    mapper: u16,
    cookie: String,
    dir: PathBuf,
}

/// One node.
#[derive(Debug, Clone)]
pub struct BrokerNode {
    number: usize,
    name: String,
    amqp: u16,
    management: u16,
    distribution: u16,
    dir: PathBuf,
}

impl Cluster {
    /// Plans a cluster of `count` nodes.
    pub fn plan(
        unit: &UnitId,
        count: usize,
        kind: Nodes,
        mapper: &PortMapper,
        dir: &Path,
    ) -> Result<Self, LabError> {
        let nodes = (1..=count).map(|number| {
            Ok(BrokerNode {
                number,
                name: format!("{unit}-{number}@localhost"),
                amqp: ports::free()?,
                management: ports::free()?,
                distribution: ports::free()?,
                dir: dir.join(format!("broker-{number}")),
            })
        });
        Ok(Self {
            unit: unit.clone(),
            nodes: nodes.collect::<Result<_, LabError>>()?,
            kind,
            users: Users {
                password: secret()?,
                app_password: secret()?,
            },
            mapper: mapper.port,
            cookie: secret()?,
            dir: dir.to_owned(),
        })
    }

    /// Starts all nodes; they find each other.
    pub fn start(&self, processes: &mut Processes) -> Result<(), LabError> {
        let home = self.home();
        std::fs::create_dir_all(&home).map_err(LabError::file("create", &home))?;
        // Erlang takes a cookie that its owner alone can read.
        write_private(&home.join(".erlang.cookie"), self.cookie.as_bytes())?;
        write_private(
            &self.dir.join("definitions.json"),
            self.definitions().to_string().as_bytes(),
        )?;
        for node in &self.nodes {
            std::fs::create_dir_all(&node.dir).map_err(LabError::file("create", &node.dir))?;
            write_private(
                &node.dir.join("rabbitmq.conf"),
                self.config(node).as_bytes(),
            )?;
            write_private(&node.dir.join("enabled_plugins"), self.plugins().as_bytes())?;
            // An empty one, so that the machine's own in /etc/rabbitmq is not read.
            write_private(&node.dir.join("rabbitmq-env.conf"), b"")?;
            processes.spawn(&self.node(node), self.launch(node))?;
        }
        Ok(())
    }

    fn plugins(&self) -> &'static str {
        match self.kind {
            Nodes::Lean => "[rabbitmq_management,rabbitmq_consistent_hash_exchange].\n",
            Nodes::Compared => {
                "[rabbitmq_management,rabbitmq_consistent_hash_exchange,\
                 rabbitmq_shovel_management,rabbitmq_federation_management].\n"
            }
        }
    }

    /// Of the quorum queues' shared log. Beside a diversion that grew for minutes, confirms waited 350 ms (p99) each time
    /// that 64 MiB of it were written out, and no longer than without one where it was 16.
    fn wal_bytes_max(&self) -> u32 {
        match self.kind {
            Nodes::Lean => 16 << 20,
            Nodes::Compared => 64 << 20,
        }
    }

    fn erlang(&self) -> String {
        match self.kind {
            Nodes::Lean => format!("+S 1:1 {ERLANG}"),
            Nodes::Compared => ERLANG.to_owned(),
        }
    }

    /// A node's name in the lab.
    pub fn node(&self, node: &BrokerNode) -> Node {
        Node::Broker(self.unit.clone(), node.number)
    }

    /// Waits until a node takes AMQP, answers HTTP, and sees its whole cluster.
    pub async fn wait_ready(
        &self,
        node: &BrokerNode,
        processes: &mut Processes,
        http: &HttpClient,
    ) -> Result<(), LabError> {
        let amqp = SocketAddr::from((Ipv4Addr::LOCALHOST, node.amqp));
        let broker = self.describe(node, "/");
        let url = format!("{}/api/nodes/{}", broker.management, encode(&node.name));
        let login = broker.operator();
        let ready = || async {
            connects(amqp).await?;
            let answer = http.get_json(&url, Some(login)).await;
            match answer.map_err(|error| error.render())?["running"] {
                Value::Bool(true) => Ok(()),
                _ => Err("it does not say that it is running".to_owned()),
            }
        };
        processes.wait_ready(&self.node(node), READY, ready).await
    }

    /// The nodes for `lab.json`.
    pub fn brokers(&self, vhost: &str) -> Vec<LabBroker> {
        self.nodes
            .iter()
            .map(|node| self.describe(node, vhost))
            .collect()
    }

    fn describe(&self, node: &BrokerNode, vhost: &str) -> LabBroker {
        LabBroker {
            node: node.name.clone(),
            uri: format!(
                "amqp://127.0.0.1:{}/{}",
                node.amqp,
                encode(vhost).to_lowercase()
            ),
            management: format!("http://127.0.0.1:{}", node.management),
            user: "setgate".to_owned(),
            password: self.users.password.clone(),
            app_user: "app".to_owned(),
            app_password: self.users.app_password.clone(),
        }
    }

    /// Read at boot: users without a call of rabbitmqctl, each of which takes a second, and no guest.
    fn definitions(&self) -> Value {
        json!({
            "users": [
                {"name": "setgate", "password": self.users.password, "tags": "management"},
                {"name": "app", "password": self.users.app_password, "tags": "administrator"},
            ],
            "vhosts": [{"name": "/"}],
            "permissions": [all_permissions("app", "/")],
        })
    }

    fn config(&self, node: &BrokerNode) -> String {
        let mut text = format!(
            "# Written by setgate-lab.\n\
             listeners.tcp.1 = 127.0.0.1:{}\n\
             management.tcp.ip = 127.0.0.1\n\
             management.tcp.port = {}\n\
             management.rates_mode = basic\n\
             load_definitions = {definitions}\n\
             log.console = true\n\
             log.console.level = info\n\
             log.file = false\n\
             disk_free_limit.absolute = 50MB\n\
             # 512 MiB by default, per node, in memory; what a full one holds is written out at once.\n\
             raft.wal_max_size_bytes = {wal}\n",
            node.amqp,
            node.management,
            definitions = self.dir.join("definitions.json").display(),
            wal = self.wal_bytes_max(),
        );
        if self.nodes.len() > 1 {
            text.push_str("cluster_formation.peer_discovery_backend = classic_config\n");
            for other in &self.nodes {
                let _ = writeln!(
                    text,
                    "cluster_formation.classic_config.nodes.{} = {}",
                    other.number, other.name
                );
            }
            // Half of two nodes is a minority: both would pause.
            let handling = if self.nodes.len() > 2 {
                "pause_minority"
            } else {
                "autoheal"
            };
            let _ = writeln!(text, "cluster_partition_handling = {handling}");
        }
        text
    }

    fn launch(&self, node: &BrokerNode) -> Launch {
        let path = |name: &str| node.dir.join(name).into_os_string();
        let mut env = self.names(node);
        env.extend([
            ("RABBITMQ_CONF_ENV_FILE", path("rabbitmq-env.conf")),
            ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", path("advanced.config")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins")),
            ("RABBITMQ_MNESIA_BASE", path("data")),
            ("RABBITMQ_LOG_BASE", path("log")),
            ("RABBITMQ_PID_FILE", path("pid")),
            ("RABBITMQ_LOG", "info,-color".into()),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".into()),
            ("RABBITMQ_DIST_PORT", node.distribution.to_string().into()),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", self.erlang().into()),
        ]);
        Launch {
            program: SERVER.into(),
            package: "rabbitmq-server",
            args: Vec::new(),
            env,
            log: node.dir.join("rabbitmq.log"),
        }
    }

    /// How a node is called, and how it is found.
    fn names(&self, node: &BrokerNode) -> Vec<(&'static str, OsString)> {
        vec![
            ("HOME", self.home().into()),
            ("RABBITMQ_NODENAME", node.name.clone().into()),
            ("ERL_EPMD_PORT", self.mapper.to_string().into()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
        ]
    }

    /// Calls a function in a node, for what the management API can't do: module, function, and arguments as Erlang writes
    /// them. It takes milliseconds; `rabbitmqctl` takes seconds to start.
    pub fn call(&self, node: &BrokerNode, function: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(CALL);
        command
            .args(["-sname", &node.name, "-timeout", CALL_SECONDS])
            .args(["-a", function])
            .envs(self.names(node));
        command
    }

    fn home(&self) -> PathBuf {
        self.dir.join("home")
    }
}

/// Makes a vhost with what applications have in it: exchanges, the queues that gateways take from, and a queue
/// `app.<exchange>` behind each exchange that they deliver to. Whatever is there already stays.
pub async fn declare(
    http: &HttpClient,
    broker: &LabBroker,
    vhost: &str,
    application: &Application,
    queues: QueueKind,
) -> Result<(), LabError> {
    let login = broker.operator();
    let api = format!("{}/api", broker.management);
    let encoded = encode(vhost);
    http.put(&format!("{api}/vhosts/{encoded}"), login, &json!({}))
        .await?;
    for (user, permissions) in [
        (&broker.app_user, all_permissions(&broker.app_user, vhost)),
        (&broker.user, least_permissions(application)),
    ] {
        let url = format!("{api}/permissions/{encoded}/{}", encode(user));
        http.put(&url, login, &permissions).await?;
    }
    let definitions = application_definitions(application, queues);
    http.post(&format!("{api}/definitions/{encoded}"), login, &definitions)
        .await
}

/// Deletes a vhost and all in it.
pub async fn delete_vhost(
    http: &HttpClient,
    broker: &LabBroker,
    vhost: &str,
) -> Result<(), LabError> {
    let login = broker.operator();
    let url = format!("{}/api/vhosts/{}", broker.management, encode(vhost));
    http.delete(&url, login).await
}

/// Closes every connection of a user, as an operator does. By the user, whose connections the broker knows at once: it
/// lists a new connection some seconds later. It says 500 when one of them is gone before its turn comes, and leaves the
/// others: then it is asked again.
pub async fn close_connections(
    http: &HttpClient,
    broker: &LabBroker,
    user: &str,
) -> Result<(), LabError> {
    let login = broker.operator();
    let of_user = format!("{}/api/connections/username", broker.management);
    let url = format!("{of_user}/{}", encode(user));
    let mut attempts = 0..CLOSE_ATTEMPTS;
    while let Err(error) = http.delete(&url, login).await {
        attempts.next().ok_or(error)?;
    }
    Ok(())
}

/// Makes the gateways' user of one test, or gives it another password.
pub async fn make_user(http: &HttpClient, broker: &LabBroker) -> Result<(), LabError> {
    let (url, login) = user_url(broker);
    let user = json!({"password": broker.password, "tags": "management"});
    http.put(&url, login, &user).await
}

/// Deletes the gateways' user of one test.
pub async fn delete_user(http: &HttpClient, broker: &LabBroker) -> Result<(), LabError> {
    let (url, login) = user_url(broker);
    http.delete(&url, login).await
}

fn user_url(broker: &LabBroker) -> (String, Login<'_>) {
    let login = broker.operator();
    let url = format!("{}/api/users/{}", broker.management, encode(&broker.user));
    (url, login)
}

/// The type of the applications' own queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueKind {
    /// For one node.
    Classic,
    /// For several: they survive the loss of one.
    Quorum,
}

impl QueueKind {
    /// What suits a cluster.
    pub fn for_nodes(count: usize) -> Self {
        if count > 1 {
            Self::Quorum
        } else {
            Self::Classic
        }
    }
}

fn application_definitions(application: &Application, queues: QueueKind) -> Value {
    let kind = match queues {
        QueueKind::Classic => "classic",
        QueueKind::Quorum => "quorum",
    };
    let exchange = |name: &String, kind: &str| {
        json!({"name": name, "type": kind, "durable": true, "auto_delete": false,
               "internal": false, "arguments": {}})
    };
    let queue = |name: String, kind: &str| {
        json!({"name": name, "durable": true, "auto_delete": false,
               "arguments": {"x-queue-type": kind}})
    };
    let mut exchanges = Vec::new();
    for (name, headers) in &application.taken {
        exchanges.push(exchange(name, if *headers { "headers" } else { "topic" }));
    }
    let others = application.delivered.iter().chain(&application.returned);
    let others = others.filter(|name| !name.is_empty());
    for name in others.filter(|name| !application.taken.contains_key(*name)) {
        exchanges.push(exchange(name, "topic"));
    }
    let mut all = Vec::new();
    let mut bindings = Vec::new();
    let named = application.delivered.iter().filter(|name| !name.is_empty());
    for name in named {
        all.push(queue(format!("app.{name}"), kind));
        bindings.push(json!({"source": name, "destination": format!("app.{name}"),
            "destination_type": "queue", "routing_key": "#", "arguments": {}}));
    }
    for name in &application.taken_queues {
        all.push(queue(name.clone(), "classic"));
    }
    json!({"exchanges": exchanges, "queues": all, "bindings": bindings})
}

fn all_permissions(user: &str, vhost: &str) -> Value {
    json!({"user": user, "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*"})
}

/// What a gateway needs, and no more.
fn least_permissions(application: &Application) -> Value {
    let pattern = |names: Vec<&String>| {
        let mut text = r"^(setgate\..*".to_owned();
        for name in names {
            text.push('|');
            // What the broker calls the default exchange when it comes to rights.
            let name = if name.is_empty() { "amq.default" } else { name };
            text.push_str(&escape(name));
        }
        text + ")$"
    };
    let write = application
        .delivered
        .iter()
        .chain(&application.returned)
        .collect();
    let read = application
        .taken
        .keys()
        .chain(&application.taken_queues)
        .collect();
    json!({"configure": r"^setgate\..*", "write": pattern(write), "read": pattern(read)})
}

/// A name as a regular expression that matches it alone.
fn escape(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for character in name.chars() {
        if !character.is_alphanumeric() && character != '_' && character != '-' {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

/// Whether something listens there.
async fn connects(address: SocketAddr) -> Result<(), String> {
    let connected = tokio::net::TcpStream::connect(address).await;
    connected
        .map(drop)
        .map_err(|error| format!("{address}: {error}"))
}

/// A throw-away password: 128 bits of the kernel's.
pub(super) fn secret() -> Result<String, LabError> {
    use std::io::Read as _;
    let path = "/dev/urandom";
    let mut bytes = [0; 16];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(LabError::file("read", path))?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn application() -> Application {
        Application {
            taken: [("orders".to_owned(), false), ("catalog".to_owned(), false)].into(),
            taken_queues: ["billing".to_owned()].into(),
            delivered: ["orders.local".to_owned(), "catalog".to_owned()].into(),
            returned: [].into(),
        }
    }

    #[test]
    fn a_gateway_may_do_no_more_than_its_rules_need() {
        let permissions = least_permissions(&application());
        assert_eq!(permissions["configure"], r"^setgate\..*");
        assert_eq!(
            permissions["write"],
            r"^(setgate\..*|catalog|orders\.local)$"
        );
        assert_eq!(
            permissions["read"],
            r"^(setgate\..*|catalog|orders|billing)$"
        );
    }

    #[test]
    fn each_exchange_is_declared_once_and_each_delivery_has_a_queue() {
        let definitions = application_definitions(&application(), QueueKind::Classic);
        let names = |of: &str| -> Vec<String> {
            let all = definitions[of].as_array().unwrap();
            all.iter()
                .map(|one| one["name"].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(names("exchanges"), ["catalog", "orders", "orders.local"]);
        assert_eq!(
            names("queues"),
            ["app.catalog", "app.orders.local", "billing"]
        );
        assert_eq!(definitions["bindings"].as_array().unwrap().len(), 2);
    }
}
