//! The shell around links: HTTP/2, TLS, the peers' names.
//!
//! Owns every socket between gateways. What is said on them is `link`'s.

mod counts;
mod error;
mod pipe;

pub use counts::RefusedCounts;
pub use error::LinkError;
pub use pipe::{ReceiverPipe, SenderPipe, StreamEvent, local_pipe};
