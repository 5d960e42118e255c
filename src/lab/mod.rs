//! A whole multi-site fabric on one machine.
//!
//! Owns real RabbitMQ and etcd processes, gateways, and the proxies that put a WAN between them. Promises that whatever
//! it started is stopped again, by itself or, after a crash, by the next `up` or `down` in the same folder. Never
//! touches a broker or an etcd that it did not start: ports, node names, cookies and data folders are its own.

mod bench;
pub mod broker;
pub mod ca;
mod chaos;
pub mod checker;
pub mod commands;
mod control;
mod demo;
mod detach;
mod error;
pub mod etcd;
pub mod fabric;
pub mod folder;
pub mod gateway;
pub mod http;
mod lab_file;
mod machine;
mod node;
mod packets;
mod ports;
pub mod process;
pub mod profile;
pub mod proxy;
pub mod raw;
mod report;
mod scale;
mod spec;
mod supervisor;
mod svg;
pub mod traffic;
mod units;
mod usage;

pub use broker::Memory;
pub use error::LabError;
pub use fabric::{Await, Fabric, FabricSpec};
pub use lab_file::{LabBroker, LabFile, LabGateway, LabUnit};
pub use node::{BadNode, Node, Place, Ways};
pub use report::Reporter;
pub use spec::Nodes;
