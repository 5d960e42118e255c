//! The unit's journal of what was received: this gateway's end of it.
//!
//! Owns what the gateway knows ([`Seen`]), the connection that writes and the one that follows. Promises that a write is
//! told as done only when the broker has confirmed it, in order; that a write is repeated until then; and that
//! [`Journal::take`] returns only when everything before it has been read. Decides nothing about parcels.

mod copy;
mod reader;
mod writer;

use super::brokers::Vhost;
use super::shared::Shared;
use crate::broker::{self, Followed, StreamLimits};
use crate::link::FrameError;
use crate::link::receiver::{Entry, Fact, Heard, IDENTITIES_MAX, Life, Note, Record, Seen};
use crate::model::{LaneId, Revision};
use parking_lot::Mutex;
pub(super) use reader::follow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
pub(super) use writer::write;

/// Writes that wait: two of each receiver, and its words of taking and releasing.
const WRITES_MAX: usize = 1_024;

/// Something to be written.
#[derive(Debug)]
pub(super) struct Write {
    /// Given back.
    pub(super) ticket: u64,
    /// In order.
    pub(super) records: Vec<Record>,
    /// After them.
    pub(super) note: Option<Note>,
    /// Told when the journal has it. When nobody listens any more, what was said about a lane's lock isn't said: it may be
    /// another's by now.
    pub(super) done: mpsc::Sender<u64>,
}

/// A receiver's way into the journal. Clones are the same.
#[derive(Clone)]
pub(super) struct Journal(Arc<Inner>);

struct Inner {
    seen: Mutex<Seen>,
    writes: mpsc::Sender<Write>,
    /// Who waits for which mark.
    marks: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    next_mark: AtomicU64,
    /// By which table everything is known that another unit had delivered of slots that move here.
    copied: watch::Sender<Revision>,
    /// Whether it has been read once, up to what was new then.
    read: watch::Sender<bool>,
    /// Whether there is a way into it.
    written: AtomicBool,
    /// Streams that are being received, which another gateway may ask for.
    serving: Mutex<HashMap<LaneId, CancellationToken>>,
    /// The wall clock at the start, which isn't looked at again: it may jump.
    begun: Duration,
    since: Instant,
}

/// A lane that is being received, until this is dropped.
pub(super) struct Serving<'a> {
    journal: &'a Journal,
    lane: LaneId,
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.journal.0.serving.lock().remove(&self.lane);
    }
}

impl Journal {
    /// Not running yet: the other end is for [`write`].
    pub(super) fn new() -> (Self, mpsc::Receiver<Write>) {
        let (writes, to_write) = mpsc::channel(WRITES_MAX);
        let begun = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
        let inner = Inner {
            seen: Mutex::new(Seen::new(Life(fastrand::u64(..)), IDENTITIES_MAX)),
            writes,
            marks: Mutex::default(),
            next_mark: AtomicU64::new(0),
            copied: watch::Sender::new(Revision::default()),
            read: watch::Sender::new(false),
            written: AtomicBool::new(false),
            serving: Mutex::default(),
            begun: Duration::from_millis(begun),
            since: Instant::now(),
        };
        (Self(Arc::new(inner)), to_write)
    }

    /// Now, since 1970; it never jumps.
    pub(super) fn now(&self) -> Duration {
        self.0.begun + self.0.since.elapsed()
    }

    /// What is known, for as long as it takes to look or to add something.
    pub(super) fn seen(&self) -> &Mutex<Seen> {
        &self.0.seen
    }

    /// Hands a write over. When the gateway ends, nobody takes it, and it is never done.
    pub(super) async fn write(&self, write: Write) {
        let _ = self.0.writes.send(write).await;
    }

    /// Whether the journal has been read, or is within this time. A gateway that has only just begun had better leave lanes
    /// to its siblings, who know it.
    pub(super) async fn is_read(&self, within: Duration) -> bool {
        let mut read = self.0.read.subscribe();
        timeout(within, read.wait_for(|read| *read)).await.is_ok()
    }

    /// Whether it is known here, and there is a way into it: without, nothing can be received.
    pub(super) fn is_up(&self) -> bool {
        *self.0.read.borrow() && self.0.written.load(Ordering::Relaxed)
    }

    /// Changes once it has been read.
    pub(super) fn reads(&self) -> watch::Receiver<bool> {
        self.0.read.subscribe()
    }

    /// Writes that this gateway has taken a lane, and returns when the journal has been read up to there.
    pub(super) async fn take(&self, lane: &LaneId) {
        let token = self.0.next_mark.fetch_add(1, Ordering::Relaxed);
        let (tell, heard) = oneshot::channel();
        self.0.marks.lock().insert(token, tell);
        let (done, _listening) = mpsc::channel(1);
        let fact = Fact::Taken { token };
        self.say(lane, fact, &done).await;
        // Given up with the gateway alone.
        let _ = heard.await;
    }

    /// Returns when the journal has been read up to now.
    pub(super) async fn catch_up(&self) {
        let token = self.0.next_mark.fetch_add(1, Ordering::Relaxed);
        let (tell, heard) = oneshot::channel();
        self.0.marks.lock().insert(token, tell);
        let (done, _listening) = mpsc::channel(1);
        self.note(Note::Mark { token }, &done).await;
        let _ = heard.await;
    }

    /// Writes that all is in the journal which another unit had delivered of the slots that have drained by that table.
    pub(super) async fn copied(&self, revision: Revision) {
        let (done, mut written) = mpsc::channel(1);
        self.note(Note::Copied { revision }, &done).await;
        written.recv().await;
    }

    /// By which table that is known here.
    pub(super) fn copies(&self) -> watch::Receiver<Revision> {
        self.0.copied.subscribe()
    }

    async fn note(&self, note: Note, done: &mpsc::Sender<u64>) {
        let write = Write {
            ticket: 0,
            records: Vec::new(),
            note: Some(note),
            done: done.clone(),
        };
        self.write(write).await;
    }

    /// Writes that all of a lane is told, and returns when the journal has it.
    pub(super) async fn release(&self, lane: &LaneId) {
        let (done, mut written) = mpsc::channel(1);
        self.say(lane, Fact::Released, &done).await;
        written.recv().await;
    }

    /// Asks whoever has the lock of a lane to let go.
    pub(super) async fn ask(&self, lane: &LaneId) {
        let (done, _) = mpsc::channel(1);
        self.say(lane, Fact::LetGo, &done).await;
    }

    /// From now on another gateway that asks for the lane ends this stream.
    pub(super) fn serving(&self, lane: &LaneId, end: &CancellationToken) -> Serving<'_> {
        self.0.serving.lock().insert(lane.clone(), end.clone());
        Serving {
            journal: self,
            lane: lane.clone(),
        }
    }

    async fn say(&self, lane: &LaneId, fact: Fact, done: &mpsc::Sender<u64>) {
        let record = Record {
            lane: lane.clone(),
            fact,
        };
        let write = Write {
            ticket: 0,
            records: vec![record],
            note: None,
            done: done.clone(),
        };
        self.write(write).await;
    }

    /// How far back a journal is read: a gap in the first mention of a lane has left the window by then.
    fn reach(&self) -> Duration {
        self.seen().lock().longest_window() * 3 / 2
    }

    /// Takes in what lies in the stream. When it was written; an error of what was written by no gateway.
    fn take_in(&self, followed: Followed) -> Result<Duration, FrameError> {
        if followed.offset == 0 {
            self.seen().lock().begins();
        }
        let entry = Entry::decode(followed.body)?;
        self.apply(&entry);
        Ok(entry.at)
    }

    fn apply(&self, entry: &Entry) {
        // What is read back has its own time; a clock that is ahead of ours doesn't count.
        let at = entry.at.min(self.now());
        let heard = self.0.seen.lock().apply(entry, at);
        for heard in heard {
            match heard {
                Heard::Mark { token } => {
                    if let Some(tell) = self.0.marks.lock().remove(&token) {
                        let _ = tell.send(());
                    }
                }
                Heard::Copied { revision } => {
                    self.0.copied.send_if_modified(|copied| {
                        let newer = *copied < revision;
                        *copied = revision.max(*copied);
                        newer
                    });
                }
                Heard::LetGo { lane, by } => {
                    let serving = self.0.serving.lock().get(&lane).cloned();
                    if let Some(end) = serving.filter(|end| !end.is_cancelled()) {
                        tracing::info!(%lane, %by, "another gateway of the unit takes a lane");
                        end.cancel();
                    }
                }
            }
        }
    }
}

/// Kept for a day, and no more than a gigabyte: an hour and a half of 10,000 identities a second, where a default window
/// needs a quarter of an hour. A segment of 16 MB is 100 s of that.
const LIMITS: StreamLimits = StreamLimits {
    hours_max: 24,
    bytes_max: 1_000_000_000,
    segment_bytes: 16_000_000,
};

/// The gateway's own virtual host, with the stream in it.
async fn vhost(shared: &Shared, stream: &str) -> Result<Vhost, String> {
    let vhost = shared
        .brokers
        .vhost(None)
        .map_err(|error| error.to_string())?;
    vhost.control.up().await;
    broker::ensure_stream(&vhost.control, stream, LIMITS)
        .await
        .map_err(|error| error.to_string())?;
    Ok(vhost)
}
