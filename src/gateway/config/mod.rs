//! gateway.yaml, parsed once into what is meant.
//!
//! Owns the meaning of every field, its default, and its place in the file. Promises that a [`Config`] is whole: names
//! are checked, addresses parsed, secrets read, certificates readable; and that all faults are reported together, each
//! with its place and the mend. Never connects to anything, never reads the process's environment (it is given one),
//! never shows a secret.

mod address;
mod fault;
mod fields;
mod files;
mod parts;
mod reader;
mod size;
mod yaml;

pub use address::{BrokerUri, HostPort};
pub use fault::ConfigFault;
pub use fields::{FIELDS, Field, fields_table};
pub use files::TlsPaths;
pub use size::{ByteSize, parse_duration};

use crate::model::{GatewayId, SpaceId, UnitId};
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a gateway is told at its start. Callers take it apart and hand on only what a part needs.
#[derive(Debug)]
pub struct Config {
    /// The routing world.
    pub space: SpaceId,
    /// The unit that this gateway serves.
    pub unit: UnitId,
    /// This process's name, unique within its unit.
    pub gateway: GatewayId,
    /// Where the routing documents are.
    pub rules: RulesFrom,
    /// The unit's own RabbitMQ cluster.
    pub broker: BrokerPart,
    /// Parcels to and from other units.
    pub link: LinkPart,
    /// Metrics, health and reads.
    pub admin: AdminPart,
    /// Last good table, seal, identity. Made at start when absent.
    pub state_dir: PathBuf,
    /// What is bounded.
    pub limits: Limits,
    /// How long lanes may take to settle what they hold, at SIGTERM.
    pub drain: Duration,
    /// What the process says of itself.
    pub log: LogPart,
    /// What is run when the unit may not deliver any more, and when it may again.
    pub hooks: HooksPart,
    /// Things that are no fault but probably not meant, for the log.
    pub warnings: Vec<String>,
}

/// Where the routing documents are.
#[derive(Debug)]
pub enum RulesFrom {
    /// In etcd, shared by all gateways of the space.
    Etcd(EtcdPart),
    /// In a folder, for a first try on one machine without etcd.
    Dir(PathBuf),
}

/// How to reach etcd.
#[derive(Debug)]
pub struct EtcdPart {
    /// `http://host:port` or `https://host:port`, one or several of one cluster.
    pub endpoints: Vec<String>,
    /// Absent: no authentication.
    pub username: Option<String>,
    /// Read from `password_file`.
    pub password: Option<SecretString>,
    /// For `https` endpoints.
    pub tls: Option<TlsPaths>,
}

/// How to reach the unit's RabbitMQ cluster.
#[derive(Debug)]
pub struct BrokerPart {
    /// The nodes of one cluster, tried in turn; all name the same vhost.
    pub uris: Vec<BrokerUri>,
    /// Read from `password_file`; goes before the URIs' own.
    pub password: Option<SecretString>,
    /// For `amqps` URIs.
    pub tls: Option<TlsPaths>,
    /// Management API of the nodes; may be empty.
    pub management: Vec<String>,
}

/// Parcels to and from other units.
#[derive(Debug)]
pub struct LinkPart {
    /// Where peers are awaited.
    pub listen: SocketAddr,
    /// What peers are told to connect to.
    pub advertise: HostPort,
    /// How peers prove who they are.
    pub security: LinkSecurity,
    /// Addresses to use in place of the advertised ones.
    pub via: BTreeMap<(UnitId, GatewayId), HostPort>,
}

/// How peers prove who they are.
#[derive(Debug)]
pub enum LinkSecurity {
    /// Mutual TLS; certificate and key are there and readable.
    Tls(TlsPaths),
    /// Plain TCP: `insecure: true` was spelled out.
    Insecure,
}

/// The admin endpoint.
#[derive(Debug)]
pub struct AdminPart {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Who may change something; reads are open.
    pub token: Option<SecretString>,
}

/// Bounds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Budget for everything in flight.
    pub memory: ByteSize,
    /// Largest body that is carried.
    pub message_max: ByteSize,
    /// Rounds after which a message is parked.
    pub hops_max: u32,
}

/// Log output.
#[derive(Debug, Clone)]
pub struct LogPart {
    /// For people or for machines.
    pub format: LogFormat,
    /// A level, or directives as `info,setgate::wire=debug`.
    pub level: String,
}

/// Commands with their arguments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HooksPart {
    /// When the unit's slots, or some of them, are fenced.
    pub on_fence: Option<Vec<String>>,
    /// When none of them is any more.
    pub on_unfence: Option<Vec<String>>,
}

/// For people or for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// What the process has around it: an argument, so that a test has its own.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Environment variables; those that begin with `SETGATE_` count.
    pub variables: Vec<(String, String)>,
    /// The default for `gateway`.
    pub host_name: String,
}

impl Config {
    /// Where others reach the admin endpoint: its own address, or, where it listens on all of them, the link's host.
    pub fn admin_address(&self) -> String {
        let listen = self.admin.listen;
        if !listen.ip().is_unspecified() {
            return listen.to_string();
        }
        let advertised = self.link.advertise.as_str();
        let host = advertised
            .rsplit_once(':')
            .map_or(advertised, |(host, _)| host);
        format!("{host}:{}", listen.port())
    }

    /// Reads and judges a file. The error holds every fault found, never none.
    pub fn load(path: &Path, around: &Surroundings) -> Result<Self, Vec<ConfigFault>> {
        let name = path.display().to_string();
        let text = files::read_config(path).map_err(|fault| vec![fault])?;
        let beside = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = beside.unwrap_or(Path::new("."));
        Self::parse(&name, &text, folder, around)
    }

    /// Judges a text as if it were the file `name` in `folder`.
    pub fn parse(
        name: &str,
        text: &str,
        folder: &Path,
        around: &Surroundings,
    ) -> Result<Self, Vec<ConfigFault>> {
        let tree = yaml::parse(name, text).map_err(|fault| vec![fault])?;
        let mut reader = reader::Reader::new(name, &tree, folder, &around.variables);
        let config = parts::read(&mut reader, around);
        match (config, reader.finish()) {
            (Some(mut config), Ok(warnings)) => {
                config.warnings.extend(warnings);
                Ok(config)
            }
            (_, Err(faults)) => Err(faults),
            (None, Ok(_)) => Err(vec![ConfigFault::internal(name)]),
        }
    }
}

#[cfg(test)]
mod tests;
