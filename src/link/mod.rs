//! What gateways say to each other: frames, credits, the checks of a stream; pure.
//!
//! A stream carries one lane's parcels to one unit. The sender says `Hello`, the receiver answers `Welcome` (with
//! credits) or `Refusal`; then batches go one way and answers the other. Canaries travel on a connection of their own.

mod answers;
mod batcher;
mod cap;
mod credit;
mod decoder;
mod distance;
mod frame;
mod gate;
mod leave;
mod packing;
mod parcels;
pub mod receiver;
mod refusal;
mod state;

pub use batcher::{Batcher, Packing, Unsendable};
pub use cap::Cap;
pub use credit::{
    CONNECTION_WINDOW_BYTES, Credit, CreditBreach, CreditBudget, CreditGrant, CreditPool,
    CreditWindow, STREAMS_MAX,
};
pub use decoder::Decoder;
pub use distance::Distance;
pub use frame::{
    Arrival, Ask, Canary, Frame, FrameError, Hello, Incarnation, PROTOCOL, SMALL_FRAME_BYTES_MAX,
    Welcome, frame_bytes_max,
};
pub use gate::{Here, Peer, Standing, admit};
pub use leave::{ENDED, Granter, LEAVE};
pub use refusal::{Refusal, RefusalReason};
pub use state::{LinkEvent, LinkState};
