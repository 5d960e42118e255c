//! Routing documents: YAML in, meaning or faults out.
//!
//! Owns the four kinds of documents (topology, placement, source, rule), how they are read and when they are wrong.
//! Promises every fault at once, each with its place and its mend, for any bytes whatever. Never routes a message,
//! never touches a file or etcd: files come as bytes.

mod checks;
mod condition;
mod condition_read;
mod diff;
mod documents;
mod edit;
mod fault;
mod fields;
mod gray;
mod json_pointer;
mod owners;
mod placement;
mod policies;
mod rule;
mod schema;
mod source;
mod source_read;
mod suspicious;
mod topic;
mod topology;
mod tree;
mod validate;

pub use condition::{HeaderCondition, Mismatch, Regex, Scalar, Test, When};
pub use diff::{Change, Diff, DocumentChange, diff};
pub use documents::{Documents, parse};
pub use edit::{EditError, gray_share, retire_source, without_source};
pub use fault::{Fault, FaultCode, Place, Placed};
pub use gray::{Gray, Share};
pub use json_pointer::{JsonPointer, PointerFault};
pub use owners::OwnerChange;
pub use placement::{PINS_MAX, Pin, Placement, Range, SLOTS_MAX};
pub use policies::{
    AbsentThen, Copies, Degrade, InDoubt, LagThen, MaxLag, OwnerAbsent, OwnerDown, Policies,
    Promise,
};
pub use rule::{KeyAbsent, Route, Rule};
pub use schema::schema;
pub use source::{
    Binding, Deliver, Divert, DivertFull, Duplicates, IdFrom, Key, KeyFrom, KeyMap, PARTITIONS_MAX,
    QueueType, Source, Take,
};
pub(crate) use topic::Words;
pub use topic::{TopicError, TopicPattern};
pub use topology::{Access, Failover, Isolated, LinkPolicy, Site, Takeover, Topology, Unit};
pub use tree::{DocumentFile, FILE_BYTES_MAX};
pub(crate) use validate::examine;
pub use validate::{Context, NotYet, Validation, validate};

#[cfg(test)]
mod tests;
