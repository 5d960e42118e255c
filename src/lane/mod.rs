//! One queue consumed by one gateway, with all that is in flight from it: pure.
//!
//! A delivery becomes an entry of the ledger, an envelope, an admitted message, a decision, and a parcel for each
//! target; each target has an outlet that keeps its parcels until they are answered; when every target has answered,
//! the ledger settles the delivery.

mod absent;
mod action;
mod diversion;
mod envelope;
mod expiration;
mod give_back;
mod ledger;
mod machine;
mod outlet;
mod park;
mod prefetch;
mod rate;
mod reach;
mod retry;
mod silence;
mod spread;
mod stamp;
mod unwrap;

pub use action::{Action, DivertReason, LaneSettings, Moment, Note, Routing, Target, Window};
pub use diversion::{DRAIN_DELIVERIES, DiversionView};
pub use envelope::{Admission, Admitted, Envelope, Limits, PROPERTIES_BYTES_MAX, Unreadable};
pub use expiration::remaining;
pub use give_back::give_back;
pub use ledger::{EntryId, Ledger, Settlement};
pub use machine::Lane;
pub use outlet::{Feed, Outlet, OutletView};
pub use park::{Diverted, Kept, LargeParcel, Stored, WRAPPED_CONTENT_TYPE, Wrapping, knock, wrap};
pub use prefetch::Prefetch;
pub use reach::{Done, Reach};
pub use retry::wrap_retry;
pub use silence::{Ready, SILENCE_MAX, Silence, Verdict};
pub use spread::{Bank, Emptying, Layout, Left, Shown, Stand, judge, stand};
pub use stamp::{Stamp, stamp};
pub use unwrap::{NotWrapped, Unwrapped, looks_wrapped, unwrap, unwrap_head};
