//! What gateways, brokers, links and etcd do to each other when one of them breaks under traffic: the account stays
//! clean. On the brokers that `make test-lab` has started; a test that hurts a broker starts its own.

#![allow(clippy::unwrap_used)] // tests and their helpers panic at what must hold

mod bench;
mod brokers;
mod chaos;
#[path = "../shared/eventually.rs"]
mod eventually;
mod full_queue;
mod gateways;
mod growing;
mod harness;
mod held_too_long;
mod moves;
mod rules;
mod takeovers;
