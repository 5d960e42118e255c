//! What setgate promises, on real RabbitMQ and etcd: each test has gateways, vhosts and a space of its own on the
//! brokers that `make test-lab` has started.

#![allow(clippy::unwrap_used, clippy::panic)] // tests and their helpers panic at what must hold

mod bad_input;
mod broker;
mod diversions;
mod duplicates;
#[path = "../shared/eventually.rs"]
mod eventually;
mod fidelity;
mod harness;
mod held;
mod live;
mod loops;
mod main_job;
mod memory;
mod missing;
mod parked;
mod parking;
mod partitions;
mod poison;
mod policies;
mod queues;
mod sources;
