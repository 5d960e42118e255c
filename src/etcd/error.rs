//! What can go wrong with etcd: which call, to which endpoint, and the mend.

use std::path::PathBuf;

/// A call to etcd that failed. `is_unreachable` says whether to try again, at another endpoint.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// Nobody answered in time, or the answer was that there is no leader.
    #[error(
        "can't reach etcd at {endpoint} while {doing}: {cause}; check that etcd runs there, has a quorum, and that the \
         network lets this host through"
    )]
    Unreachable {
        /// Which one.
        endpoint: String,
        /// What was being done.
        doing: &'static str,
        /// In words.
        cause: String,
    },
    /// The user or the password is wrong.
    #[error(
        "etcd at {endpoint} refuses the password of user {username:?}; check the user's name and the password file \
         against `etcdctl user list` and `etcdctl user passwd {username}`"
    )]
    WrongPassword {
        /// Which one.
        endpoint: String,
        /// Whose.
        username: String,
    },
    /// etcd asks for a user and none was given.
    #[error(
        "etcd at {endpoint} asks for a user and a password; set them in gateway.yaml (`etcd.username`, \
         `etcd.password_file`) or give --etcd-user and --etcd-password-file"
    )]
    PasswordNeeded {
        /// Which one.
        endpoint: String,
    },
    /// A user was given, but etcd checks none.
    #[error(
        "etcd at {endpoint} has authentication switched off, but a user was given; leave the user out, or run `etcdctl \
         auth enable`"
    )]
    AuthenticationOff {
        /// Which one.
        endpoint: String,
    },
    /// The user may not do this.
    #[error(
        "etcd at {endpoint} forbids this user: {doing} under {prefix}; grant it with `etcdctl role grant-permission ROLE \
         readwrite --prefix=true {prefix}`"
    )]
    Forbidden {
        /// Which one.
        endpoint: String,
        /// What was being done.
        doing: &'static str,
        /// The space's keys.
        prefix: String,
    },
    /// The change doesn't fit one transaction.
    #[error(
        "etcd at {endpoint} says that the change is too large for one transaction ({cause}); raise etcd's flags \
         --max-txn-ops (default 128 keys) and --max-request-bytes (default 1.5 MiB), or change fewer files at once"
    )]
    TooLarge {
        /// Which one.
        endpoint: String,
        /// etcd's words.
        cause: String,
    },
    /// A lease is gone: grant another.
    #[error("the lease at etcd {endpoint} has run out")]
    LeaseLost {
        /// Which one.
        endpoint: String,
    },
    /// History below the revision is gone: list again.
    #[error("etcd at {endpoint} has compacted the revision being read; read again")]
    Compacted {
        /// Which one.
        endpoint: String,
    },
    /// An endpoint that can't be one.
    #[error(
        "{endpoint:?} is no etcd endpoint: {cause}; write it as http://host:port or https://host:port"
    )]
    BadEndpoint {
        /// As given.
        endpoint: String,
        /// In words.
        cause: String,
    },
    /// A certificate or key that can't be read.
    #[error("can't read {path} for the TLS connection to etcd: {cause}; check the path and its permissions", path = path.display())]
    BadTls {
        /// Which file.
        path: PathBuf,
        /// In words.
        cause: String,
    },
    /// Anything else that etcd says.
    #[error("etcd at {endpoint} refused {doing}: {cause}")]
    Refused {
        /// Which one.
        endpoint: String,
        /// What was being done.
        doing: &'static str,
        /// etcd's words.
        cause: String,
    },
}

impl EtcdError {
    /// Another try, at another endpoint or later, may do.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::LeaseLost { .. } | Self::Compacted { .. } => true,
            Self::WrongPassword { .. }
            | Self::PasswordNeeded { .. }
            | Self::AuthenticationOff { .. }
            | Self::Forbidden { .. }
            | Self::TooLarge { .. }
            | Self::BadEndpoint { .. }
            | Self::BadTls { .. }
            | Self::Refused { .. } => false,
        }
    }
}

/// Who was asked, for the error's text.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) endpoint: String,
    pub(super) username: Option<String>,
    pub(super) prefix: String,
}

// gRPC's status codes, by number: tonic is no dependency of ours, and these never change.
const GRPC_DEADLINE_EXCEEDED: i32 = 4;
const GRPC_PERMISSION_DENIED: i32 = 7;
const GRPC_RESOURCE_EXHAUSTED: i32 = 8;
const GRPC_UNAVAILABLE: i32 = 14;
const GRPC_CANCELLED: i32 = 1;
const GRPC_UNKNOWN: i32 = 2;
const GRPC_UNAUTHENTICATED: i32 = 16;

impl Asked {
    /// Sorts what the client says into what an operator can mend.
    pub(super) fn error(&self, doing: &'static str, error: &etcd_client::Error) -> EtcdError {
        let endpoint = self.endpoint.clone();
        let etcd_client::Error::GRpcStatus(status) = error else {
            let cause = with_sources(error);
            return match error {
                etcd_client::Error::InvalidArgs(_) | etcd_client::Error::InvalidUri(_) => {
                    EtcdError::BadEndpoint { endpoint, cause }
                }
                etcd_client::Error::LeaseKeepAliveError(_) => EtcdError::LeaseLost { endpoint },
                _ => EtcdError::Unreachable {
                    endpoint,
                    doing,
                    cause,
                },
            };
        };
        let text = status.message();
        if text.contains("authentication failed") {
            let username = self.username.clone().unwrap_or_default();
            return EtcdError::WrongPassword { endpoint, username };
        }
        if text.contains("authentication is not enabled") {
            return EtcdError::AuthenticationOff { endpoint };
        }
        if text.contains("user name is empty") {
            return EtcdError::PasswordNeeded { endpoint };
        }
        if text.contains("too many operations") || text.contains("request is too large") {
            return EtcdError::TooLarge {
                endpoint,
                cause: text.to_owned(),
            };
        }
        if text.contains("requested lease not found") {
            return EtcdError::LeaseLost { endpoint };
        }
        if text.contains("has been compacted") {
            return EtcdError::Compacted { endpoint };
        }
        match status.code() as i32 {
            GRPC_PERMISSION_DENIED => EtcdError::Forbidden {
                endpoint,
                doing,
                prefix: self.prefix.clone(),
            },
            GRPC_DEADLINE_EXCEEDED
            | GRPC_UNAVAILABLE
            | GRPC_CANCELLED
            | GRPC_UNKNOWN
            | GRPC_RESOURCE_EXHAUSTED
            | GRPC_UNAUTHENTICATED => EtcdError::Unreachable {
                endpoint,
                doing,
                cause: with_sources(status),
            },
            _ => EtcdError::Refused {
                endpoint,
                doing,
                cause: text.to_owned(),
            },
        }
    }

    pub(super) fn timed_out(&self, doing: &'static str, after: std::time::Duration) -> EtcdError {
        EtcdError::Unreachable {
            endpoint: self.endpoint.clone(),
            doing,
            cause: format!("no answer within {after:?}"),
        }
    }
}

/// The transport's own words are "transport error"; what an operator needs stands in its sources.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    let text = deepest.to_string();
    match text.find("message: \"") {
        // A status prints all its fields; its message is enough.
        Some(at) => {
            let rest = &text[at + 10..];
            rest.split('"').next().unwrap_or(rest).to_owned()
        }
        None => text,
    }
}
