//! Gateways of a lab: their gateway.yaml, certificates and processes.

use super::broker::secret;
use super::ca::{Authority, Validity};
use super::error::tail;
use super::http::HttpClient;
use super::lab_file::{LabBroker, LabGateway, write_private};
use super::ports;
use super::process::{Launch, Processes};
use super::{LabError, Node};
use crate::model::{GatewayId, SpaceId, UnitId};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// It connects, reads its table and declares its lanes; a loaded machine with five brokers takes its time.
const READY: Duration = Duration::from_mins(1);

/// One gateway.
#[derive(Debug, Clone)]
pub struct GatewayPlan {
    /// Its unit.
    pub unit: UnitId,
    /// Its name.
    pub name: GatewayId,
    /// Its folder.
    pub dir: PathBuf,
    link: u16,
    admin: u16,
}

/// What a gateway.yaml is made of.
#[derive(Debug)]
pub struct GatewayWorld<'a> {
    /// The space.
    pub space: &'a SpaceId,
    /// Its way to etcd.
    pub etcd: Vec<String>,
    /// The nodes of its unit's cluster.
    pub brokers: &'a [LabBroker],
    /// Peers, as `unit/gateway`, and where to reach them instead of where they say.
    pub via: BTreeMap<String, SocketAddr>,
    /// Further fields of gateway.yaml, or others in place of the lab's.
    pub settings: &'a BTreeMap<String, String>,
}

impl GatewayPlan {
    /// Plans the gateways of a unit: `sh-1-a`, `sh-1-b`, …
    pub fn plan(unit: &UnitId, count: usize, dir: &Path) -> Result<Vec<Self>, LabError> {
        let letters = ('a'..='z').take(count);
        letters
            .map(|letter| {
                let text = format!("{unit}-{letter}");
                let name = GatewayId::parse(&text).map_err(|error| LabError::Rules {
                    dir: dir.to_owned(),
                    fault: format!("unit {unit} has too long a name for a gateway's: {error}"),
                })?;
                Ok(Self {
                    unit: unit.clone(),
                    dir: dir.join(name.as_str()),
                    name,
                    link: ports::free()?,
                    admin: ports::free()?,
                })
            })
            .collect()
    }

    /// Its name in the lab.
    pub fn node(&self) -> Node {
        Node::Gateway(self.name.clone())
    }

    /// How `link.via` names it.
    pub fn peer_name(&self) -> String {
        format!("{}/{}", self.unit, self.name)
    }

    /// Where its links listen.
    pub fn link(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.link))
    }

    /// Its gateway.yaml.
    pub fn config(&self) -> PathBuf {
        self.dir.join("gateway.yaml")
    }

    /// For `lab.json`.
    pub fn describe(&self, pid: Option<u32>) -> LabGateway {
        LabGateway {
            name: self.name.clone(),
            config: self.config(),
            admin: format!("127.0.0.1:{}", self.admin),
            link: self.link().to_string(),
            pid,
        }
    }

    /// Writes gateway.yaml and all that it names.
    pub fn write(&self, world: &GatewayWorld<'_>, authority: &Authority) -> Result<(), LabError> {
        std::fs::create_dir_all(&self.dir).map_err(LabError::file("create", &self.dir))?;
        authority.write(&self.dir)?;
        let identity = authority.issue(world.space, &self.unit, Validity::Good)?;
        identity.write(&self.dir, self.unit.as_str())?;
        let password = world.brokers.first().map(|broker| broker.password.as_str());
        write_private(
            &self.dir.join("broker.password"),
            password.unwrap_or_default().as_bytes(),
        )?;
        write_private(&self.dir.join("admin.token"), secret()?.as_bytes())?;
        write_private(&self.config(), self.yaml(world).as_bytes())
    }

    /// Starts `setgate run`.
    pub fn start(&self, binary: &Path, processes: &mut Processes) -> Result<u32, LabError> {
        let launch = Launch {
            program: binary.to_owned(),
            package: "this project's",
            args: vec!["run".into(), "--config".into(), self.config().into()],
            env: Vec::new(),
            log: self.log(),
        };
        processes.spawn(&self.node(), launch)
    }

    /// Waits until `/readyz` says so.
    pub async fn wait_ready(
        &self,
        processes: &mut Processes,
        http: &HttpClient,
    ) -> Result<(), LabError> {
        let url = format!("http://127.0.0.1:{}/readyz", self.admin);
        let ready = || async {
            match http.get(&url, None).await {
                Ok((status, _)) if status.is_success() => Ok(()),
                Ok((status, body)) => Err(format!(
                    "/readyz says {status}: {}",
                    String::from_utf8_lossy(&body)
                )),
                Err(error) => Err(error.render()),
            }
        };
        processes.wait_ready(&self.node(), READY, ready).await
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        tail(&self.log())
    }

    fn log(&self) -> PathBuf {
        self.dir.join("gateway.log")
    }

    fn yaml(&self, world: &GatewayWorld<'_>) -> String {
        // JSON strings are YAML strings.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let list = |items: Vec<String>| {
            let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
            format!("[{}]", items.join(", "))
        };
        let user = |broker: &LabBroker| {
            broker
                .uri
                .replacen("amqp://", &format!("amqp://{}@", broker.user), 1)
        };
        let uris = list(world.brokers.iter().map(user).collect());
        let management = list(
            world
                .brokers
                .iter()
                .map(|broker| broker.management.clone())
                .collect(),
        );
        let unit = self.unit.as_str();
        let mut link = format!(
            "\n  listen: {address}\n  advertise: {address}\n  tls: {{ca: ca.pem, cert: {cert}, key: {key}}}",
            address = quoted(&self.link().to_string()),
            cert = quoted(&format!("{unit}.pem")),
            key = quoted(&format!("{unit}.key")),
        );
        if !world.via.is_empty() {
            link.push_str("\n  # The lab's wires: proxies with delay and cuts.\n  via:");
            for (peer, address) in &world.via {
                let _ = write!(
                    link,
                    "\n    {}: {}",
                    quoted(peer),
                    quoted(&address.to_string())
                );
            }
        }
        let mut fields: Vec<(&str, String)> = vec![
            ("space", quoted(world.space.as_str())),
            ("unit", quoted(unit)),
            ("gateway", quoted(self.name.as_str())),
            (
                "etcd",
                format!("{{endpoints: {}}}", list(world.etcd.clone())),
            ),
            (
                "broker",
                format!(
                    "\n  uris: {uris}\n  password_file: broker.password\n  management: {management}"
                ),
            ),
            ("link", link),
            (
                "admin",
                format!(
                    "{{listen: \"127.0.0.1:{}\", token_file: admin.token}}",
                    self.admin
                ),
            ),
            ("state_dir", "state".to_owned()),
            ("memory", "256MiB".to_owned()),
            ("log", "{format: text, level: info}".to_owned()),
        ];
        for (name, value) in world.settings {
            fields.retain(|(field, _)| field != name);
            fields.push((name, value.clone()));
        }
        let mut text = "# Written by setgate-lab.\n".to_owned();
        for (name, value) in fields {
            let space = if value.starts_with('\n') { "" } else { " " };
            let _ = writeln!(text, "{name}:{space}{value}");
        }
        text
    }
}
