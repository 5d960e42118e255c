//! `lab.json`: where everything in a lab is, for people's scripts, the traffic command and tests.

use super::LabError;
use super::http::Login;
use crate::model::{GatewayId, SiteId, SpaceId, UnitId};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A lab. Passwords in it are throw-away; the file is readable by its owner alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LabFile {
    /// The routing world.
    pub space: SpaceId,
    /// URLs of the etcd members themselves, without a proxy between.
    pub etcd: Vec<String>,
    /// In the order of the topology.
    pub units: Vec<LabUnit>,
}

/// One unit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LabUnit {
    /// Its name.
    pub unit: UnitId,
    /// Its site.
    pub site: SiteId,
    /// The nodes of its cluster.
    pub brokers: Vec<LabBroker>,
    /// Its gateways; none in a bare lab.
    pub gateways: Vec<LabGateway>,
}

/// One node of a RabbitMQ cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LabBroker {
    /// The Erlang node, `sh-1-1@localhost`.
    pub node: String,
    /// `amqp://127.0.0.1:PORT/VHOST`, the vhost percent-encoded, without credentials.
    pub uri: String,
    /// `http://127.0.0.1:PORT`.
    pub management: String,
    /// The gateway's user, with its least permissions.
    pub user: String,
    /// Its password.
    pub password: String,
    /// The applications' user, an administrator.
    pub app_user: String,
    /// Its password.
    pub app_password: String,
}

/// One gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LabGateway {
    /// Its name, `sh-1-a`.
    pub name: GatewayId,
    /// Its gateway.yaml.
    pub config: PathBuf,
    /// `127.0.0.1:PORT` of its admin endpoint.
    pub admin: String,
    /// `127.0.0.1:PORT` of its links, without a proxy between.
    pub link: String,
    /// Its process; absent while it is stopped.
    pub pid: Option<u32>,
}

impl LabFile {
    /// The file's place in a lab's folder.
    pub fn path(dir: &Path) -> PathBuf {
        dir.join("lab.json")
    }

    /// Reads a lab's file.
    pub fn read(dir: &Path) -> Result<Self, LabError> {
        let path = Self::path(dir);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(LabError::NotUp {
                    dir: dir.to_owned(),
                });
            }
            Err(error) => return Err(LabError::file("read", path)(error)),
        };
        serde_json::from_slice(&bytes)
            .map_err(|error| LabError::file("understand", path)(error.into()))
    }

    /// Writes it whole, by a rename, so that a reader never sees half of it.
    pub fn write(&self, dir: &Path) -> Result<(), LabError> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| LabError::file("encode", Self::path(dir))(error.into()))?;
        write_private(&Self::path(dir), &text)
    }

    /// A unit by its name.
    pub fn unit(&self, name: &str) -> Option<&LabUnit> {
        self.units.iter().find(|unit| unit.unit.as_str() == name)
    }

    /// A gateway by its name.
    pub fn gateway(&self, name: &str) -> Option<&LabGateway> {
        let mut gateways = self.units.iter().flat_map(|unit| &unit.gateways);
        gateways.find(|gateway| gateway.name.as_str() == name)
    }
}

impl LabBroker {
    /// The applications' URI, with its credentials.
    pub fn app_uri(&self) -> String {
        let credentials = format!("amqp://{}:{}@", self.app_user, self.app_password);
        self.uri.replacen("amqp://", &credentials, 1)
    }

    /// The gateway user's URI, with its credentials.
    pub fn gateway_uri(&self) -> String {
        let credentials = format!("amqp://{}:{}@", self.user, self.password);
        self.uri.replacen("amqp://", &credentials, 1)
    }

    /// Who asks its management API as an operator would.
    pub fn operator(&self) -> Login<'_> {
        Login {
            user: &self.app_user,
            password: &self.app_password,
        }
    }

    /// The vhost as it is in the URI, percent-encoded.
    pub fn vhost_encoded(&self) -> &str {
        self.uri.rsplit('/').next().unwrap_or("%2f")
    }
}

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), LabError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let fresh = path.with_extension("fresh");
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(LabError::file("create", &fresh))?;
    file.write_all(bytes)
        .map_err(LabError::file("write", &fresh))?;
    std::fs::rename(&fresh, path).map_err(LabError::file("rename to", path))
}
