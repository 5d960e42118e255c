//! Where one message goes under one table, and why.
//!
//! Owns the outcome of a decision. Promises that the same message under the same table always goes the same way.

use crate::model::{Address, Reason, RuleName, Slot, UnitId, Why};
use bytes::Bytes;

/// Where one message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The rule that matched.
    pub rule: Option<RuleName>,
    /// The key, as bytes; `None` without one, and where the rule delivers nothing.
    pub key: Option<Bytes>,
    /// The slot of the key.
    pub slot: Option<Slot>,
    /// The unit that owns the slot, or that is the center; `None` where neither decides.
    pub home: Option<UnitId>,
    /// The unit that serves it now.
    pub seat: Option<UnitId>,
    /// What becomes of the message.
    pub outcome: Outcome,
}

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// One parcel for each; none where a shared message has nobody left to go to.
    Deliver(Vec<Target>),
    /// A person looks at it.
    Park(Reason),
    /// It ends here, on purpose.
    Drop(Reason),
}

/// One target of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The unit.
    pub unit: UnitId,
    /// Where it is to be published there.
    pub address: Address,
    /// Why it goes there.
    pub why: Why,
}
