//! What can go wrong with a broker, and what a person can do about it.
//!
//! Texts only, so that an error can lie in a state, be compared and be shown again. Never holds a password.

use std::time::Duration;

/// A broker's refusal, or the way to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// A URI that can't be used. The text of the URI stays out: it may hold a password.
    #[error(
        "broker URI number {number} can't be used: {why}; write it as amqp://user@host:5672/vhost, with / in the vhost as %2f"
    )]
    Uri {
        /// From 1, in the order of the configuration.
        number: usize,
        /// What is wrong.
        why: String,
    },
    /// A certificate or key file that can't be used.
    #[error("reading the broker's TLS file {path}: {why}")]
    Tls {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// No connection right now; its supervisor goes on trying.
    #[error("{doing}: no connection to the broker: {cause}")]
    Down {
        /// What was to be done.
        doing: String,
        /// Why there is none.
        cause: String,
    },
    /// The broker answered with an AMQP error.
    #[error("{doing}: the broker refused with {code} {text}{}", mend(*.code, .text))]
    Refused {
        /// What was to be done.
        doing: String,
        /// AMQP's reply code.
        code: u16,
        /// The broker's own words.
        text: String,
    },
    /// Channel or connection ended meanwhile.
    #[error("{doing}: {cause}")]
    Lost {
        /// What was being done.
        doing: String,
        /// How it ended.
        cause: String,
    },
    /// No answer in time.
    #[error("{doing}: no answer within {} s{}", .after.as_secs(), blocked_words(.blocked.as_deref()))]
    TimedOut {
        /// What was being done.
        doing: String,
        /// How long we waited.
        after: Duration,
        /// Set while the broker blocks publishers: then nothing that is written on a publishing connection is read.
        blocked: Option<String>,
    },
    /// A name, an argument or a property that this client can't write.
    #[error("{doing}: {why}")]
    Unencodable {
        /// What was to be done.
        doing: String,
        /// What can't be written.
        why: String,
    },
}

impl BrokerError {
    /// What a failed call of the client library means.
    pub(super) fn of(doing: impl Into<String>, error: &lapin::Error) -> Self {
        let doing = doing.into();
        match reply(error) {
            Some((code, text)) => Self::Refused { doing, code, text },
            None => Self::Lost {
                doing,
                cause: cause_of(error),
            },
        }
    }
}

/// The AMQP reply code and text in an error, when the broker sent one.
pub(super) fn reply(error: &lapin::Error) -> Option<(u16, String)> {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(amqp) => {
            Some((amqp.get_id(), amqp.get_message().to_string()))
        }
        _ => None,
    }
}

/// One sentence about an error, for states and logs.
pub(super) fn cause_of(error: &lapin::Error) -> String {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(amqp) => {
            refusal(amqp.get_id(), amqp.get_message().as_str())
        }
        lapin::ErrorKind::IOError(io) => io_cause(io),
        lapin::ErrorKind::MissingHeartbeatError => {
            "no heartbeat from the broker for two intervals".to_owned()
        }
        lapin::ErrorKind::ParsingError(_) => {
            "the broker sent a frame that can't be read (a header name or property that is not UTF-8?)"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

/// One sentence about a socket that failed.
pub(super) fn io_cause(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => {
            "connection refused; is the broker running there?".to_owned()
        }
        std::io::ErrorKind::ConnectionAborted | std::io::ErrorKind::UnexpectedEof => {
            "the broker closed the connection".to_owned()
        }
        _ => error.to_string(),
    }
}

/// One sentence about a refusal.
pub(super) fn refusal(code: u16, text: &str) -> String {
    format!("the broker said {code} {text}{}", mend(code, text))
}

/// What a person can do about a refusal, with a separator in front; empty when there is nothing to add.
fn mend(code: u16, text: &str) -> &'static str {
    match code {
        403 if text.contains("Login was refused") => {
            "; check user and password (broker.uris, broker.password_file)"
        }
        403 if text.contains("exclusive") => {
            "; another consumer holds the queue: it must have one consumer only"
        }
        403 => {
            "; grant it to the gateway's user with rabbitmqctl set_permissions (configure ^setgate\\., write ^setgate\\. and what it delivers to, read ^setgate\\. and what it takes)"
        }
        530 if text.contains("vhost") => "; create the vhost, or correct it in the URI or source",
        _ => "",
    }
}

fn blocked_words(blocked: Option<&str>) -> String {
    match blocked {
        Some(reason) => format!(
            "; the broker blocks publishers ({reason}): free its memory or disk, meanwhile nothing can change hands"
        ),
        None => String::new(),
    }
}
