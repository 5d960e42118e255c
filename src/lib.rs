//! setgate: a multi-datacenter federation and SET-routing gateway for RabbitMQ.
//!
//! Layers, each naming only those before it: `amqp` and `model`; `rules`; `routing`; `lane` and `link`; the shells
//! `broker`, `etcd` and `wire`; `gateway`; `admin`, `cli` and `lab`. The pure core (up to `link`) knows no clock, no
//! I/O and no tasks. `tests/tidy.rs` keeps it so.

pub mod admin;
pub mod amqp;
pub mod broker;
pub mod cli;
pub mod etcd;
pub mod failover;
pub mod gateway;
pub mod lab;
pub mod lane;
pub mod link;
pub mod model;
pub mod routing;
pub mod rules;
pub mod wire;
