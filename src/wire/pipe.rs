//! The two ends of a stream, the same for a unit across the country and for the local one.
//!
//! Owns the channels between a lane and a receiver. Promises that a sender that keeps to its credit never waits in
//! them, and that the end of either side is seen by the other: a closed channel is the end of the stream.

use crate::link::receiver::Record;
use crate::link::{Ask, Credit, Hello, Peer, RefusalReason};
use crate::model::{Answer, GatewayId, Parcel, ParcelNumber};
use tokio::sync::mpsc;

/// What a receiver says to a sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEvent {
    /// First: parcels may come.
    Up {
        /// The gateway that receives.
        receiver: GatewayId,
        /// What may be unanswered at a time.
        credit: Credit,
    },
    /// Answers, each parcel once, in any order.
    Answers(Vec<(ParcelNumber, Answer)>),
    /// Last: the receiver doesn't take the stream.
    Refused {
        /// Of the closed set.
        reason: RefusalReason,
        /// For the status page.
        cause: String,
    },
    /// Last: the stream ended. What is unanswered may have arrived or not.
    Down {
        /// For the status page.
        cause: String,
    },
}

/// A lane's end. Dropping `parcels` says that no more will come: answers still do. Dropping `events` ends the stream.
#[derive(Debug)]
pub struct SenderPipe {
    /// Parcels, in the lane's order, within the credit.
    pub parcels: mpsc::Sender<Parcel>,
    /// What the receiver says; closed when the stream has ended.
    pub events: mpsc::Receiver<StreamEvent>,
}

/// A receiver's end. Says [`StreamEvent::Up`] or [`StreamEvent::Refused`] first; dropping `words` ends the stream.
#[derive(Debug)]
pub struct ReceiverPipe {
    /// Whose lane it is, checked against the peer and the table.
    pub hello: Hello,
    /// Who is at the other end.
    pub peer: Peer,
    /// What the connection grants: to be said in [`StreamEvent::Up`].
    pub credit: Credit,
    /// Parcels in the lane's order; closed when the sender is gone.
    pub parcels: mpsc::Receiver<Parcel>,
    /// What the receiver says.
    pub words: mpsc::Sender<StreamEvent>,
}

/// A unit that is about to own slots asks what this one has delivered of them.
#[derive(Debug)]
pub struct KnownPipe {
    /// Checked against the table's lineage.
    pub ask: Ask,
    /// Where the answer goes, in pieces that fit a frame; closed without an empty one at the end, it is none.
    pub answer: mpsc::Sender<Vec<Record>>,
}

/// Pieces of an answer that wait for the wire.
pub(super) const PIECES_CAPACITY: usize = 2;

/// As many parcels as the largest credit lets a sender have unanswered. A channel's memory grows with what lies in it.
pub(super) const PARCELS_CAPACITY: usize = Credit::MAX.parcels;

/// Each word but the first and the last answers at least one parcel that was unanswered.
pub(super) const WORDS_CAPACITY: usize = Credit::MAX.parcels + 2;

/// A stream within one gateway: both ends speak the same words, so nothing lies between them.
pub fn local_pipe(hello: Hello) -> (SenderPipe, ReceiverPipe) {
    let (parcels_in, parcels_out) = mpsc::channel(PARCELS_CAPACITY);
    let (words_in, words_out) = mpsc::channel(WORDS_CAPACITY);
    (
        SenderPipe {
            parcels: parcels_in,
            events: words_out,
        },
        ReceiverPipe {
            hello,
            peer: Peer::Local,
            credit: Credit::MAX,
            parcels: parcels_out,
            words: words_in,
        },
    )
}
