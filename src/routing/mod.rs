//! Routing: a message and a table in, a decision out.
//!
//! Owns the compiled [`Table`], the maps from key to slot, the decision and its explanation. Promises that a decision is
//! a pure function of message and table, and that every message has one. Never touches a broker, etcd or a clock.

mod decision;
mod explain;
mod json_key;
mod key;
mod route;
mod rule_index;
mod shift;
mod source;
mod steps;
mod table;

pub use decision::{Decision, Outcome, Target};
pub use explain::{Explanation, Published, explain};
pub use key::{Candidate, Unfit, slot};
pub use shift::{Moved, Shift, shifts};
pub use source::Source;
pub use steps::{Recorded, Step, StepName, Steps, Unrecorded};
pub use table::{Table, TableInputs, Unit};

#[cfg(test)]
mod tests;
