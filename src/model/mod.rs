//! The nouns that every layer shares: names, numbers, messages, parcels, marks, the seal.
//!
//! Pure: no I/O, no clock, no random source, no tasks.

mod backoff;
mod frozen;
mod identity;
mod ids;
mod message;
mod moves;
mod numbers;
mod outcome;
mod parcel;
mod seats;
mod slots;

mod seal;

pub mod marks;
pub mod own_queues;

pub use backoff::Backoff;
pub use frozen::{Freeze, Frozen};
pub use identity::{AsItIs, Identities, Identity, Passed};
pub use ids::{CityId, GatewayId, Name, NameError, RuleName, SiteId, SourceName, SpaceId, UnitId};
pub use message::{Address, Message, MessageId};
pub use moves::{
    Asked, Change, DecidedBy, Drain, Kind, Move, MoveId, Moves, RuleChange, SeatChange, Stage,
    Word, fenced, fenced_sources, leaving, next_move, taken,
};
pub use numbers::{
    DeliveryTag, Epoch, Lineage, ParcelNumber, Partition, Retry, Revision, Round, Slot,
};
pub use outcome::{Reason, Why};
pub use parcel::{Answer, LaneId, Marking, Parcel, Way};
pub use seal::{BodyHash, SEAL_BYTES, SealError, SealKeys, SealedBody};
pub use seats::{Changed, Seats};
pub use slots::{SlotSet, SlotsError};
