//! Where etcd is and how to speak to it.

use secrecy::{ExposeSecret as _, SecretString};
use std::path::PathBuf;

/// Endpoints, credentials and certificates of one etcd cluster.
#[derive(Debug, Clone)]
pub struct EtcdConfig {
    /// `http://host:port` or `https://host:port`, one per member; tried in turn.
    pub endpoints: Vec<String>,
    /// Absent: etcd asks for no password.
    pub credentials: Option<EtcdCredentials>,
    /// Absent: an `https` endpoint is checked against no private authority, and is refused.
    pub tls: Option<EtcdTls>,
}

/// A user of etcd.
#[derive(Clone)]
pub struct EtcdCredentials {
    /// Its name.
    pub username: String,
    /// Never shown.
    pub password: SecretString,
}

/// PEM files for `https` endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdTls {
    /// The authority that signed etcd's certificates.
    pub ca: PathBuf,
    /// This client's certificate and key, where etcd asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl EtcdConfig {
    /// A cluster without passwords and certificates.
    pub fn plain(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            credentials: None,
            tls: None,
        }
    }

    /// For messages.
    pub fn endpoints_text(&self) -> String {
        self.endpoints.join(", ")
    }
}

impl EtcdCredentials {
    pub(super) fn password_text(&self) -> &str {
        self.password.expose_secret()
    }
}

impl std::fmt::Debug for EtcdCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdCredentials")
            .field("username", &self.username)
            .field("password", &"***")
            .finish()
    }
}
