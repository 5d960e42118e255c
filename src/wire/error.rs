//! What can go wrong around links, each with its mend.

use std::path::PathBuf;

/// Why a link port can't be opened, a link can't be made, or a stream can't begin.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The port is taken, or not ours to take.
    #[error(
        "can't listen for links on {address}: {source}; free the port or change link.listen in gateway.yaml"
    )]
    Bind {
        /// As configured.
        address: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A certificate, key or authority file can't be read or used.
    #[error("link.tls.{field}: {path}: {problem}")]
    Tls {
        /// `ca`, `cert` or `key`.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong and how to mend it.
        problem: String,
    },
    /// TCP, TLS or HTTP/2 to the peer didn't come about.
    #[error("can't reach {unit}/{gateway} at {address}: {cause}")]
    Connect {
        /// The peer's unit.
        unit: String,
        /// The peer.
        gateway: String,
        /// Where it was tried.
        address: String,
        /// What was seen.
        cause: String,
    },
    /// There is no connection at the moment.
    #[error("the link to {unit}/{gateway} is {state}: {cause}")]
    NotUp {
        /// The peer's unit.
        unit: String,
        /// The peer.
        gateway: String,
        /// `down`, `opening` or `draining`.
        state: &'static str,
        /// Why.
        cause: String,
    },
    /// The connection is there, but a stream on it can't be opened.
    #[error("can't open a stream to {unit}/{gateway}: {cause}")]
    Stream {
        /// The peer's unit.
        unit: String,
        /// The peer.
        gateway: String,
        /// What was seen.
        cause: String,
    },
}
