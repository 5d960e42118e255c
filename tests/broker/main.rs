//! The broker's shell against a real RabbitMQ: outcomes, locks, declarations, and what happens when the broker dies.
//!
//! Each test starts a node of its own, on free ports, in a folder of its own, and ends it; `fakes` needs none.

// The fixture's helpers are tests too, which clippy's own exception doesn't see.
#![allow(clippy::unwrap_used)]

mod death;
#[path = "../shared/eventually.rs"]
mod eventually;
mod fakes;
mod flow;
mod locks;
mod messages;
mod node;
mod queues;
mod spread;
mod tls;
