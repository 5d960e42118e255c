//! Large messages on their way from a lane's queue into the park, piece by piece.
//!
//! A body above `message_max` is never held whole: its pieces go from the consumer's socket to the socket of a publisher
//! of its own. Promises that a message is said to be parked only when the broker has confirmed it, and that one whose
//! pieces end early is not published at all: its publisher's connection is closed in the middle of it.

use super::receiver_own::open_park;
use super::shared::Shared;
use crate::amqp::Edit;
use crate::broker::{Outcome, Publish, PublishId, Unroutable};
use crate::lane::{EntryId, LargeParcel};
use crate::model::marks::X_SET_PARCEL;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Pieces between the two sockets: each a frame of up to 128 KiB.
const PIECES_MAX: usize = 8;

/// Large messages that wait for their confirms, of one lane.
const WAITING_MAX: usize = 4;

/// How one ended.
pub(super) struct Finished {
    pub(super) entry: EntryId,
    /// Or why it isn't in the park.
    pub(super) outcome: Result<(), String>,
}

/// The large messages of one lane. Dropping it gives them up.
pub(super) struct Large {
    vhost: Option<String>,
    /// Of the one whose pieces are coming.
    pieces: Option<mpsc::Sender<Bytes>>,
    tasks: JoinSet<Finished>,
}

impl Large {
    pub(super) fn new(vhost: Option<String>) -> Self {
        Self {
            vhost,
            pieces: None,
            tasks: JoinSet::new(),
        }
    }

    /// Whether pieces of one are still to come.
    pub(super) fn is_open(&self) -> bool {
        self.pieces.is_some()
    }

    /// Whether another piece, or another large message, would be taken now.
    pub(super) fn has_room(&self) -> bool {
        match &self.pieces {
            Some(pieces) => pieces.capacity() > 0,
            None => self.tasks.len() < WAITING_MAX,
        }
    }

    pub(super) fn begin(&mut self, shared: &Arc<Shared>, parcel: LargeParcel) {
        let (pieces, coming) = mpsc::channel(PIECES_MAX);
        let shared = Arc::clone(shared);
        let vhost = self.vhost.clone();
        self.tasks.spawn(async move {
            let entry = parcel.entry;
            let outcome = park(&shared, vhost.as_deref(), parcel, coming).await;
            Finished { entry, outcome }
        });
        self.pieces = Some(pieces);
    }

    /// The next piece, and how many bytes are still to come.
    pub(super) fn piece(&mut self, piece: Bytes, left: u64) {
        if let Some(pieces) = &self.pieces {
            // Room was asked for. A task that has ended says by itself why.
            let sent = pieces.try_send(piece);
            debug_assert!(!matches!(sent, Err(mpsc::error::TrySendError::Full(_))));
        }
        if left == 0 {
            self.pieces = None;
        }
    }

    /// The next one that has ended; nothing when only [`Large::has_room`] may have changed. Given up, it loses nothing.
    pub(super) async fn next(&mut self) -> Option<Finished> {
        let full = self.pieces.as_ref().filter(|pieces| pieces.capacity() == 0);
        let room = async {
            match full {
                Some(pieces) => drop(pieces.reserve().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(finished) = self.tasks.join_next() => match finished {
                Ok(finished) => Some(finished),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => None,
            },
            () = room => None,
        }
    }
}

async fn park(
    shared: &Shared,
    vhost: Option<&str>,
    parcel: LargeParcel,
    mut pieces: mpsc::Receiver<Bytes>,
) -> Result<(), String> {
    let vhost = shared.brokers.vhost(vhost).map_err(|e| e.to_string())?;
    let mut publisher = open_park(shared, &vhost).await?;
    let mut edit = Edit::new();
    edit.set_str(X_SET_PARCEL, format!("{:x}", fastrand::u64(..)));
    let publish = Publish {
        id: PublishId(1),
        address: parcel.address,
        properties: edit.apply(&parcel.properties).map_err(|e| e.to_string())?,
        body: parcel.prefix,
        unroutable: Unroutable::Return,
    };
    publisher.publish_in_pieces(publish, parcel.body_bytes);
    let mut more = true;
    let outcome = loop {
        let room = publisher.has_room();
        tokio::select! {
            biased;
            outcomes = publisher.next() => {
                if let Some((_, outcome)) = outcomes.into_iter().next() {
                    break outcome;
                }
            }
            piece = pieces.recv(), if room && more => match piece {
                Some(piece) => publisher.piece(piece),
                None => more = false,
            }
        }
    };
    let closed = publisher.close().await;
    match outcome {
        Outcome::Confirmed => Ok(()),
        Outcome::Returned { text, .. }
        | Outcome::TooLarge { text }
        | Outcome::Unencodable { text } => Err(text),
        Outcome::Nacked => Err("the broker refused it (nack): the park queue is full".to_owned()),
        Outcome::Unknown { cause } | Outcome::Unsent { cause } => {
            Err(closed.err().map_or(cause, |error| error.to_string()))
        }
    }
}
