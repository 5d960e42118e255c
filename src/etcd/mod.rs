//! The shell around etcd: a space's keys read at one revision, watched from the next, changed in transactions.
//!
//! The only folder that names etcd_client. Promises that what it returns of one revision is whole, that every call ends
//! within a time-out, and that every error names the endpoint and the mend. Never decides what a document means.

mod config;
mod error;
mod keys;
mod lease;
mod records;
mod snapshot;
mod space;
mod store;
mod transaction;
mod watch;

pub use config::{EtcdConfig, EtcdCredentials, EtcdTls};
pub use error::EtcdError;
pub use keys::Key;
pub use lease::Lease;
pub use records::{BrokerHealth, GatewayRecord, HistoryEntry, LaneRecord, MemberRecord};
pub use snapshot::{Changes, ClusterId, Entry, Snapshot};
pub use space::{
    Files, HISTORY_MAX, SpaceView, bound_history, create_space, files_hash, fresh_lineage,
    fresh_seal, history, put_in_force, write_history,
};
pub use store::{Newest, Scope, Store};
pub use transaction::{Commit, Transaction};
pub use watch::{Watch, WatchEnd};
