//! The shell around links: HTTP/2, TLS, the peers' names.
//!
//! Owns every socket between gateways. What is said on them is `link`'s.

mod body;
mod cap;
mod client;
mod client_known;
mod client_stream;
mod clock;
mod counts;
mod error;
mod pipe;
mod preface;
mod server;
mod server_known;
mod server_stream;
mod tls;

pub use cap::LinkCap;
pub use client::{ClientSettings, LinkClient, LinkStatus, LinkTarget, PeerStanding};
pub use client_known::KnownAnswer;
pub use clock::boottime;
pub use counts::RefusedCounts;
pub use error::LinkError;
pub use pipe::{KnownPipe, ReceiverPipe, SenderPipe, StreamEvent, local_pipe};
pub use server::{LinkServer, ServerSettings};
pub use tls::{LinkSecurity, TlsFiles, TlsIdentity, spiffe};
