//! Who serves what, and how that changes: what the coordinator decides, and when a gateway may deliver.
//!
//! Pure: the space as etcd has it and times in, a verdict out. A planned switch, a takeover and a start are the same function.

mod moves;
mod plan;
mod right;

pub use moves::{Isolated, MARGIN, Report, UnitView, Verdict, World, judge, place};
pub use plan::{Plan, Policy, Takeover, plan, wished};
pub use right::{Granters, Right};
