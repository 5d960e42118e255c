//! One gateway: the tasks that own lanes, receivers, links, brokers and the table.

pub mod config;
pub mod feed;
pub mod metrics;
pub mod status;
