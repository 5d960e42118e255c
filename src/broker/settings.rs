//! How to reach one cluster: URIs, password, certificates.
//!
//! Owns their parsing. Promises that neither `Debug` nor an error shows a password or a key.

use super::BrokerError;
use crate::amqp::engine::Credentials;
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri, SASLMechanism};
use secrecy::{ExposeSecret, SecretString};
use std::path::Path;
use std::time::Duration;

/// Negotiated when a URI says nothing: RabbitMQ's own default. The library sizes its buffers by it (32 frames each way),
/// so a broker that offers "unlimited" must not decide.
const FRAME_MAX_BYTES: u32 = 131_072;

/// How to reach one cluster.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The nodes of one cluster, tried in turn. They may hold passwords.
    pub uris: Vec<SecretString>,
    /// In place of the URIs' own.
    pub password: Option<SecretString>,
    /// For `amqps` URIs.
    pub tls: Option<Tls>,
    /// Both ways; a peer that is silent for two of them is gone.
    pub heartbeat: Duration,
    /// Largest body that the broker takes; a larger one would cost the channel, so it is held back.
    pub message_bytes_max: usize,
    /// Shown in the broker's list of connections: `<space>/<unit>/<gateway>`.
    pub name: String,
}

impl Settings {
    /// Heartbeats of this length unless the configuration says otherwise.
    pub const HEARTBEAT: Duration = Duration::from_secs(5);

    /// User and password, by the first URI.
    pub(super) fn credentials(&self) -> Result<(String, SecretString), BrokerError> {
        let endpoint = self.endpoints(None)?.into_iter().next();
        endpoint
            .map(|endpoint| (endpoint.user().to_owned(), endpoint.password))
            .ok_or_else(no_uri)
    }

    /// The URIs parsed, in order, for this vhost or their own.
    pub(super) fn endpoints(&self, vhost: Option<&str>) -> Result<Vec<Endpoint>, BrokerError> {
        if self.uris.is_empty() {
            return Err(no_uri());
        }
        self.uris
            .iter()
            .enumerate()
            .map(|(at, uri)| self.endpoint(at + 1, uri, vhost))
            .collect()
    }

    fn endpoint(
        &self,
        number: usize,
        uri: &SecretString,
        vhost: Option<&str>,
    ) -> Result<Endpoint, BrokerError> {
        let fault = |why: &str| BrokerError::Uri {
            number,
            why: why.to_owned(),
        };
        // The parser's own words may quote the URI, and with it the password.
        let mut uri: AMQPUri = uri
            .expose_secret()
            .parse()
            .map_err(|_| fault("it is no AMQP URI"))?;
        if let Some(vhost) = vhost {
            vhost.clone_into(&mut uri.vhost);
        }
        if uri.vhost.len() > 255 {
            return Err(fault("its vhost has more than 255 bytes"));
        }
        if uri.authority.host.is_empty() {
            return Err(fault("it names no host"));
        }
        let heartbeat = self.heartbeat.as_secs().clamp(1, 600);
        uri.query.heartbeat = u16::try_from(heartbeat).ok();
        uri.query.frame_max = uri
            .query
            .frame_max
            .filter(|bytes| *bytes > 0)
            .or(Some(FRAME_MAX_BYTES));
        let own = std::mem::take(&mut uri.authority.userinfo.password);
        let password = self.password.clone().unwrap_or_else(|| own.into());
        Ok(Endpoint { uri, password })
    }
}

fn no_uri() -> BrokerError {
    BrokerError::Uri {
        number: 1,
        why: "there is none (broker.uris is empty)".to_owned(),
    }
}

/// Certificates for `amqps`, as PEM.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Whom to trust.
    pub ca: Option<String>,
    /// Our certificate and its key, where the broker asks for one.
    pub identity: Option<(String, SecretString)>,
}

impl Tls {
    /// Reads the files. Blocking, for start-up.
    pub fn load(
        ca: Option<&Path>,
        cert: Option<&Path>,
        key: Option<&Path>,
    ) -> Result<Self, BrokerError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|why| BrokerError::Tls {
                path: path.display().to_string(),
                why: why.to_string(),
            })
        };
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some((read(cert)?, SecretString::from(read(key)?))),
            (None, None) => None,
            (Some(alone), None) | (None, Some(alone)) => {
                return Err(BrokerError::Tls {
                    path: alone.display().to_string(),
                    why: "a certificate and its key belong together: give broker.tls.cert and broker.tls.key, or neither"
                        .to_owned(),
                });
            }
        };
        Ok(Self {
            ca: ca.map(read).transpose()?,
            identity,
        })
    }

    /// In the library's form, which shows the key in `Debug`: made for one attempt, never kept.
    pub(super) fn for_attempt(tls: Option<&Self>) -> OwnedTLSConfig {
        OwnedTLSConfig {
            identity: tls.and_then(|tls| tls.identity.as_ref()).map(|(pem, key)| {
                OwnedIdentity::PKCS8 {
                    pem: pem.clone().into_bytes(),
                    key: key.expose_secret().as_bytes().to_vec(),
                }
            }),
            cert_chain: tls.and_then(|tls| tls.ca.clone()),
        }
    }
}

/// One URI, its password apart.
#[derive(Clone)]
pub(super) struct Endpoint {
    uri: AMQPUri,
    password: SecretString,
}

impl Endpoint {
    /// For people: without the password.
    pub(super) fn shown(&self) -> String {
        let scheme = match self.uri.scheme {
            AMQPScheme::AMQP => "amqp",
            AMQPScheme::AMQPS => "amqps",
        };
        format!(
            "{scheme}://{}@{}:{}/{}",
            self.uri.authority.userinfo.username,
            self.uri.authority.host,
            self.uri.authority.port,
            self.uri.vhost.replace('/', "%2f")
        )
    }

    pub(super) fn vhost(&self) -> &str {
        &self.uri.vhost
    }

    fn user(&self) -> &str {
        &self.uri.authority.userinfo.username
    }

    pub(super) fn host(&self) -> &str {
        &self.uri.authority.host
    }

    pub(super) fn port(&self) -> u16 {
        self.uri.authority.port
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }

    /// By the TLS certificate where the URI says so, else by user and password.
    pub(super) fn sasl(&self) -> Credentials {
        match self.uri.query.auth_mechanism {
            Some(SASLMechanism::External) => Credentials::External,
            _ => Credentials::Plain {
                user: self.user().to_owned(),
                password: self.password.clone(),
            },
        }
    }

    pub(super) fn heartbeat(&self) -> Duration {
        Duration::from_secs(self.uri.query.heartbeat.unwrap_or_default().into())
    }

    pub(super) fn frame_bytes_max(&self) -> u32 {
        self.uri.query.frame_max.unwrap_or(FRAME_MAX_BYTES)
    }

    /// With the password, for one attempt.
    pub(super) fn for_attempt(&self) -> AMQPUri {
        let mut uri = self.uri.clone();
        self.password
            .expose_secret()
            .clone_into(&mut uri.authority.userinfo.password);
        uri
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(uri: &str) -> Settings {
        Settings {
            uris: vec![uri.to_owned().into()],
            password: None,
            tls: None,
            heartbeat: Settings::HEARTBEAT,
            message_bytes_max: 1 << 24,
            name: "trade/sh-1/sh-1-a".to_owned(),
        }
    }

    #[test]
    fn no_text_of_settings_or_errors_holds_a_password() {
        let good = settings("amqp://setgate:hush@127.0.0.1:5672/%2f");
        let endpoint = &good.endpoints(None).unwrap()[0];
        assert_eq!(endpoint.shown(), "amqp://setgate@127.0.0.1:5672/%2f");
        assert!(!format!("{good:?}").contains("hush"));
        for bad in ["amqp//setgate:hush@x", "http://setgate:hush@x/", "foo:hush"] {
            let error = settings(bad).endpoints(None).err().unwrap();
            assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
        }
    }

    #[test]
    fn a_password_file_and_a_source_s_vhost_win_over_the_uri() {
        let mut settings = settings("amqp://setgate:old@h/%2f?heartbeat=60&frame_max=0");
        settings.password = Some("new".to_owned().into());
        let endpoint = &settings.endpoints(Some("orders")).unwrap()[0];
        let uri = endpoint.for_attempt();
        assert_eq!(uri.authority.userinfo.password, "new");
        assert_eq!(uri.vhost, "orders");
        assert_eq!(uri.query.heartbeat, Some(5));
        assert_eq!(uri.query.frame_max, Some(FRAME_MAX_BYTES));
    }
}
