//! Numbers that must not be mixed up.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

macro_rules! number_types {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

number_types! {
    /// A bucket of keys, from 0 to the space's `slots` − 1.
    Slot(u32);
    /// Grows whenever any slot changes its seat.
    Epoch(u64);
    /// An etcd revision.
    Revision(i64);
    /// A lane's number within its source, from 0.
    Partition(u16);
    /// How often a lane has taken this message from its source queue, 1 for the first time.
    Round(u32);
    /// How often a person had this message retried or reconciled.
    Retry(u32);
    /// A delivery on one channel, from 1; void when the channel is gone.
    DeliveryTag(u64);
    /// A parcel's number within one lane and target, ascending by one; void when the lane begins anew.
    ParcelNumber(u64);
}

/// Which life of a space a table belongs to: made at creation, made anew by a forced recovery.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Lineage(pub Arc<str>);

impl From<String> for Lineage {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<Lineage> for String {
    fn from(lineage: Lineage) -> Self {
        (*lineage.0).to_owned()
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
