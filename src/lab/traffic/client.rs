//! Connections of the traffic's clients: an application's view of a broker, by lapin.

use super::TrafficError;
use super::plan::UnitPlan;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};
use secrecy::{ExposeSecret, SecretString};
use std::fmt;
use std::time::Duration;

/// A node that hasn't answered by then is frozen or behind a cut: try the next.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// Seconds. A frozen broker is noticed after two of them.
const HEARTBEAT_SECONDS: u16 = 5;

/// First pause before a connection is tried again; doubles up to [`PAUSE_MAX`].
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(100);

/// Longest pause: a broker that is back should get its traffic within two seconds.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(2);

/// One node of a broker cluster, with an application's user.
#[derive(Clone)]
pub struct Endpoint {
    uri: AMQPUri,
}

impl Endpoint {
    /// Reads `amqp://user:password@host:port/vhost`. The error doesn't repeat the text, which may hold a password.
    pub fn parse(uri: &SecretString) -> Result<Self, String> {
        let mut uri: AMQPUri = uri.expose_secret().parse()?;
        uri.query.heartbeat = Some(HEARTBEAT_SECONDS);
        Ok(Self { uri })
    }

    /// The same node, for another user.
    #[must_use]
    pub fn with_user(mut self, user: &str, password: &SecretString) -> Self {
        user.clone_into(&mut self.uri.authority.userinfo.username);
        password
            .expose_secret()
            .clone_into(&mut self.uri.authority.userinfo.password);
        self
    }

    /// Host, port and vhost.
    pub(in crate::lab) fn place(&self) -> (&str, u16, &str) {
        let at = &self.uri.authority;
        (at.host.trim_matches(['[', ']']), at.port, &self.uri.vhost)
    }

    /// The response of SASL's PLAIN: user and password.
    pub(in crate::lab) fn plain_response(&self) -> SecretString {
        let user = &self.uri.authority.userinfo;
        format!("\0{}\0{}", user.username, user.password).into()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = &self.uri.authority;
        write!(f, "{}:{}, vhost {}", at.host, at.port, self.uri.vhost)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self}, user ***)")
    }
}

/// A connection and the node that it reached.
pub(super) struct Connected {
    pub(super) connection: Connection,
    pub(super) address: String,
}

impl Connected {
    /// Turns lapin's error into one that says what was being done.
    pub(super) fn failed(
        &self,
        doing: &'static str,
    ) -> impl Fn(lapin::Error) -> TrafficError + use<> {
        let address = self.address.clone();
        move |source| TrafficError::Broker {
            address: address.clone(),
            doing,
            source,
        }
    }

    /// A clean end; a connection that is gone already needs none.
    pub(super) async fn close(self) {
        let farewell = self.connection.close(200, "done".into());
        if let Ok(Err(error)) = tokio::time::timeout(CONNECT_TIME_MAX, farewell).await {
            tracing::debug!(%error, "a traffic connection was gone before its close");
        }
    }
}

/// Connects to the first node of the unit that answers.
pub(super) async fn connect(unit: &UnitPlan, purpose: &str) -> Result<Connected, TrafficError> {
    let mut causes = Vec::new();
    for endpoint in &unit.brokers {
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("setgate-lab traffic {purpose} {}", unit.name).into());
        let opening = Connection::connect_uri(endpoint.uri.clone(), properties);
        match tokio::time::timeout(CONNECT_TIME_MAX, opening).await {
            Ok(Ok(connection)) => {
                return Ok(Connected {
                    connection,
                    address: endpoint.to_string(),
                });
            }
            Ok(Err(error)) => causes.push(format!("{endpoint}: {error}")),
            Err(_) => causes.push(format!(
                "{endpoint}: no answer within {} s",
                CONNECT_TIME_MAX.as_secs()
            )),
        }
    }
    if causes.is_empty() {
        causes.push("the lab names no broker of it".to_owned());
    }
    Err(TrafficError::Connect {
        unit: unit.name.clone(),
        cause: causes.join("; "),
    })
}
