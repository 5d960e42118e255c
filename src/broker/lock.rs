//! Exclusive queues as locks: who holds one is the only one to publish for a lane.
//!
//! A lock belongs to a connection, and the broker frees it with the connection. Owns which locks this connection holds,
//! since the broker would let the same connection take one twice. Promises that a lock is free for others only after
//! everything published under it has been worked off by the broker.

use super::channel::{ANSWER_TIMEOUT, Channel};
use super::convert::short;
use super::error::{BrokerError, cause_of};
use super::{Connection, ConnectionEpoch, OpenError};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::protocol::constants::REPLY_SUCCESS;
use lapin::types::FieldTable;
use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Releases waiting for the broker at one time: at most one per lane, and a gateway with a thousand lanes has other
/// troubles. One that finds no room stays held until the connection ends, which is safe.
const RELEASES_MAX: usize = 1_024;

type Release = BoxFuture<'static, ()>;

/// The locks of one connection.
pub(super) struct Locks(parking_lot::Mutex<Held>);

struct Held {
    epoch: ConnectionEpoch,
    names: HashMap<String, ConnectionEpoch>,
    releases: Option<mpsc::Sender<Release>>,
}

impl Locks {
    pub(super) fn new() -> Self {
        Self(parking_lot::Mutex::new(Held {
            epoch: ConnectionEpoch(0),
            names: HashMap::new(),
            releases: None,
        }))
    }

    /// The number of a connection that has just been made.
    pub(super) fn next_epoch(&self) -> ConnectionEpoch {
        let mut held = self.0.lock();
        held.epoch = ConnectionEpoch(held.epoch.0 + 1);
        held.epoch
    }

    /// A new connection holds nothing. What it must release without anybody waiting comes out of the receiver.
    pub(super) fn begin(&self, epoch: ConnectionEpoch) -> mpsc::Receiver<Release> {
        let (sender, receiver) = mpsc::channel(RELEASES_MAX);
        let mut held = self.0.lock();
        held.epoch = epoch;
        held.names.clear();
        held.releases = Some(sender);
        receiver
    }

    /// The connection is gone, and all its locks with it.
    pub(super) fn end(&self) {
        let mut held = self.0.lock();
        held.names.clear();
        held.releases = None;
    }

    fn take(&self, name: &str, epoch: ConnectionEpoch) -> bool {
        let mut held = self.0.lock();
        if held.epoch != epoch || held.releases.is_none() || held.names.contains_key(name) {
            return false;
        }
        held.names.insert(name.to_owned(), epoch);
        true
    }

    fn free(&self, name: &str, epoch: ConnectionEpoch) {
        let mut held = self.0.lock();
        if held.names.get(name) == Some(&epoch) {
            held.names.remove(name);
        }
    }

    fn release_later(&self, release: Release) {
        if let Some(releases) = &self.0.lock().releases {
            let _ = releases.try_send(release);
        }
    }
}

/// A lock that is held. Dropping it releases it in the background.
pub(super) struct Lock(Option<Holding>);

struct Holding {
    name: String,
    connection: Connection,
    epoch: ConnectionEpoch,
}

impl Lock {
    /// Takes the lock, or says that another connection (or another publisher of this one) has it.
    pub(super) async fn acquire(connection: &Connection, name: &str) -> Result<Self, OpenError> {
        let doing = || format!("taking the lock {name:?}");
        let locked = || OpenError::Locked {
            queue: name.to_owned(),
        };
        let queue = short(name.as_bytes(), "a lock's name").map_err(|why| {
            OpenError::Broker(BrokerError::Unencodable {
                doing: doing(),
                why,
            })
        })?;
        let channel = connection.channel().await?;
        let epoch = channel.epoch();
        if !connection.locks().take(name, epoch) {
            return Err(locked());
        }
        // From here on the drop of this gives the name back, were the declaration to fail or to be given up.
        let mut lock = Self(Some(Holding {
            name: name.to_owned(),
            connection: connection.clone(),
            epoch,
        }));
        let options = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        let declare = channel
            .lapin
            .queue_declare(queue, options, FieldTable::default());
        match channel.call(doing, declare).await {
            Ok(_) => {
                let _ = channel.close().await;
                Ok(lock)
            }
            Err(BrokerError::Refused { code: 405, .. }) => {
                // Another connection's: there is no queue of ours to delete.
                lock.0 = None;
                connection.locks().free(name, epoch);
                Err(locked())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The connection that holds it.
    pub(super) fn epoch(&self) -> Option<ConnectionEpoch> {
        self.0.as_ref().map(|holding| holding.epoch)
    }

    /// Closes the channel that published under the lock, waits until the broker has worked off what was published on it,
    /// then frees the lock. Given up half-way, it goes on in the background.
    pub(super) async fn release(mut self, channel: Channel) -> Result<(), BrokerError> {
        let Some(holding) = self.0.take() else {
            return channel.close().await;
        };
        let connection = holding.connection.clone();
        let doing = format!("freeing the lock {:?}", holding.name);
        let mut releasing = Releasing {
            connection: connection.clone(),
            release: Some(release(holding, Some(channel)).boxed()),
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, &mut releasing).await {
            Ok(()) => Ok(()),
            Err(_) => Err(BrokerError::TimedOut {
                doing,
                after: ANSWER_TIMEOUT,
                blocked: connection.state().blocked().map(str::to_owned),
            }),
        }
    }

    /// As [`Lock::release`], without anybody waiting.
    pub(super) fn release_later(mut self, channel: Channel) {
        if let Some(holding) = self.0.take() {
            let connection = holding.connection.clone();
            connection
                .locks()
                .release_later(release(holding, Some(channel)).boxed());
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(holding) = self.0.take() {
            let connection = holding.connection.clone();
            connection
                .locks()
                .release_later(release(holding, None).boxed());
        }
    }
}

/// A release that somebody waits for, and that outlives their patience.
struct Releasing {
    connection: Connection,
    release: Option<Release>,
}

impl Future for Releasing {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(release) = self.release.as_mut() else {
            return Poll::Ready(());
        };
        let polled = release.as_mut().poll(cx);
        if polled.is_ready() {
            self.release = None;
        }
        polled
    }
}

impl Drop for Releasing {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            self.connection.locks().release_later(release);
        }
    }
}

/// Without time-outs: while the broker reads nothing (an alarm) the lock stays held, and an end of the connection ends
/// every wait in here. The name is given back only when the queue is gone, so that a later declaration on this connection
/// can't be overtaken by this deletion: channels of one connection are worked off independently.
async fn release(holding: Holding, published: Option<Channel>) {
    if let Some(channel) = published {
        let _ = channel.lapin.close(REPLY_SUCCESS, "OK".into()).await;
    }
    let Holding {
        name,
        connection,
        epoch,
    } = holding;
    let channel = loop {
        match connection.channel().await {
            Ok(channel) => break channel,
            Err(BrokerError::TimedOut { .. }) => {}
            Err(_) => return,
        }
    };
    if channel.epoch() != epoch {
        return;
    }
    if let Ok(queue) = short(name.as_bytes(), "a lock's name") {
        let delete = channel
            .lapin
            .queue_delete(queue, QueueDeleteOptions::default());
        if let Err(error) = delete.await {
            let cause = cause_of(&error);
            tracing::warn!(lock = %name, %cause, "a lock could not be freed; it is free when the connection ends");
            return;
        }
    }
    connection.locks().free(&name, epoch);
}
