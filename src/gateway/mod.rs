//! One gateway: the tasks that own lanes, receivers, links, brokers and the table.

pub mod config;
pub mod coordinator;
pub mod feed;
pub mod metrics;
mod metrics_ownership;
pub mod parked;
pub mod status;

mod brokers;
mod consumed;
mod drains;
mod exchanges;
mod failpoint;
mod fencing;
mod follow;
mod held;
mod hooks;
mod inflow;
mod into_queues;
mod journal;
mod knock;
mod known;
mod lane_hand;
mod lane_open;
mod lane_report;
mod lane_task;
mod lanes;
mod large;
mod last_marks;
mod links;
mod outlets;
mod policies;
mod probe;
mod receiver;
mod receiver_own;
mod receivers;
mod report;
mod right;
mod run;
mod shared;
mod source_shown;
mod source_task;
mod spread;

pub use run::{Gateway, RunError, broker_settings, raise_descriptor_limit, security};
