//! The ownership protocol, every order of events: one owner at a time, whatever is cut off, frozen or started again.
//!
//! The models drive the functions that gateways and coordinator run, not a copy of them. Each safeguard is taken away once,
//! and its absence must be found.

#![allow(clippy::unwrap_used)] // tests and their helpers panic at what must hold

mod lead;
mod leave;
