//! The unit's journal of what was received: this gateway's end of it.
//!
//! Owns what the gateway knows ([`Seen`]), the connection that writes and the one that follows. Promises that a write is
//! told as done only when the broker has confirmed it, in order; that a write is repeated until then; and that
//! [`Journal::take`] returns only when everything before it has been read. Decides nothing about parcels.

use super::brokers::Vhost;
use super::shared::Shared;
use crate::amqp::{Edit, RawProperties};
use crate::broker::{
    self, FollowEnd, LanePublisher, Outcome, Publish, PublishId, StreamFollower, StreamFrom,
    StreamLimits, Unroutable,
};
use crate::link::receiver::{Entry, Fact, Heard, IDENTITIES_MAX, Life, Record, Seen};
use crate::model::marks::X_SET_PARCEL;
use crate::model::{Address, Backoff, Epoch, LaneId, own_queues};
use bytes::Bytes;
use parking_lot::Mutex;
use prometheus::Histogram;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Kept for a day, and no more than a gigabyte: an hour and a half of 10,000 identities a second, where a default window
/// needs a quarter of an hour. A segment of 16 MB is 100 s of that.
const LIMITS: StreamLimits = StreamLimits {
    hours_max: 24,
    bytes_max: 1_000_000_000,
    segment_bytes: 16_000_000,
};

/// Writes that wait: two of each receiver, and its words of taking and releasing.
const WRITES_MAX: usize = 1_024;

/// Entries that the broker hasn't confirmed: with more, each would be smaller.
const ENTRIES_MAX: usize = 4;

/// Writes in one entry: of the largest, of 4,096 identities, they would be 4 MB, the limit of a reader; in fact receivers'
/// shares of some hundred make some 100 KB.
const ENTRY_WRITES_MAX: usize = 64;

/// Read for so long, it counts as read, whatever the clocks of those who wrote it say: a lane that is taken waits for it anyway.
const READ_MAX: Duration = Duration::from_secs(30);

/// A journal that has nothing more to give for so long has been read.
const QUIET: Duration = Duration::from_millis(300);

/// Something to be written.
#[derive(Debug)]
pub(super) struct Write {
    /// Given back.
    pub(super) ticket: u64,
    /// In order.
    pub(super) records: Vec<Record>,
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
    /// Whether it has been read once, up to what was new then.
    read: watch::Sender<bool>,
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
            read: watch::Sender::new(false),
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
            done: done.clone(),
        };
        self.write(write).await;
    }

    /// Takes in what lies in the stream.
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

/// Follows the journal until cancelled.
pub(super) async fn follow(shared: Arc<Shared>, cancel: CancellationToken) {
    let journal = shared.journal.clone();
    let foreign = shared.metrics.journal_foreign();
    let stream = own_queues::seen(&shared.here.space);
    let begun = journal.now();
    let mut from = None;
    let backoff = Backoff::new(fastrand::u64(..));
    let mut attempt = 0;
    let reading = async {
        loop {
            // A gap in the first mention of a lane has left the window when as much has been read.
            let window = journal.seen().lock().longest_window();
            let back = journal.now().saturating_sub(window * 3 / 2);
            let begin = from.unwrap_or(StreamFrom::Since(back));
            let cause = match open_follower(&shared, &stream, begin).await {
                Err(cause) => cause,
                Ok(mut follower) => loop {
                    let next = if *journal.0.read.borrow() {
                        follower.next().await
                    } else if let Ok(next) = timeout(QUIET, follower.next()).await {
                        next
                    } else {
                        journal.0.read.send_replace(true);
                        continue;
                    };
                    match next {
                        Ok(followed) => {
                            attempt = 0;
                            from = Some(StreamFrom::Behind(followed.offset));
                            if followed.offset == 0 {
                                journal.seen().lock().begins();
                            }
                            let mut is_new = false;
                            match Entry::decode(followed.body) {
                                Ok(entry) => {
                                    journal.apply(&entry);
                                    is_new = entry.at >= begun;
                                }
                                Err(error) => {
                                    // Whoever puts one there may put many: they are counted.
                                    if foreign.get() == 0 {
                                        tracing::warn!(%error, "something in the journal was written by no gateway");
                                    }
                                    foreign.inc();
                                }
                            }
                            // Whatever it is that comes, it can't keep this gateway from receiving for ever.
                            let took = journal.now().saturating_sub(begun);
                            if is_new || took >= READ_MAX {
                                journal.0.read.send_replace(true);
                            }
                        }
                        Err(end @ FollowEnd::Deleted) => {
                            from = None;
                            break end.to_string();
                        }
                        Err(end @ FollowEnd::Lost { .. }) => break end.to_string(),
                    }
                },
            };
            attempt += 1;
            tracing::debug!(%cause, attempt, "the journal isn't followed");
            sleep(backoff.delay(attempt)).await;
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = reading => {}
    }
}

async fn open_follower(
    shared: &Shared,
    stream: &str,
    from: StreamFrom,
) -> Result<StreamFollower, String> {
    let vhost = vhost(shared, stream).await?;
    let opened = StreamFollower::open(&vhost.dialer, "follows the journal", stream, from).await;
    opened.map_err(|error| error.to_string())
}

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

/// Writes until cancelled.
pub(super) async fn write(
    shared: Arc<Shared>,
    writes: mpsc::Receiver<Write>,
    cancel: CancellationToken,
) {
    let mut writer = Writer {
        journal: shared.journal.clone(),
        seconds: shared.metrics.journal_seconds(),
        stream: Bytes::from(own_queues::seen(&shared.here.space)),
        shared,
        pending: VecDeque::new(),
        next: 0,
        attempt: 0,
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = writer.run(writes) => {}
    }
}

struct Writer {
    shared: Arc<Shared>,
    journal: Journal,
    seconds: Histogram,
    stream: Bytes,
    /// Entries that are not done, oldest first.
    pending: VecDeque<Pending>,
    next: u64,
    /// Since the broker last took something.
    attempt: u32,
}

struct Pending {
    id: PublishId,
    /// When it was first published.
    since: Instant,
    writes: Vec<Write>,
    state: PendingState,
}

#[derive(PartialEq)]
enum PendingState {
    Unconfirmed,
    /// It waits for those before it: done is done up to there.
    Confirmed,
}

impl Writer {
    async fn run(&mut self, mut writes: mpsc::Receiver<Write>) {
        let backoff = Backoff::new(fastrand::u64(..));
        loop {
            let cause = match self.open().await {
                Ok(mut publisher) => {
                    for pending in &mut self.pending {
                        pending.state = PendingState::Unconfirmed;
                        pending.writes.iter_mut().for_each(forget_unheard);
                    }
                    for Pending { id, writes, .. } in &self.pending {
                        publisher.publish(self.entry(*id, writes));
                    }
                    match self.serve(&mut publisher, &mut writes).await {
                        None => return,
                        Some(cause) => cause,
                    }
                }
                Err(cause) => cause,
            };
            self.attempt += 1;
            tracing::warn!(%cause, "the journal can't be written: parcels wait for their answers");
            sleep(backoff.delay(self.attempt)).await;
        }
    }

    async fn open(&self) -> Result<LanePublisher, String> {
        let stream = String::from_utf8_lossy(&self.stream).into_owned();
        let vhost = vhost(&self.shared, &stream).await?;
        let publisher = LanePublisher::open(&vhost.dialer, "writes the journal", None).await;
        Ok(publisher.map_err(|error| error.to_string())?.of_any_size())
    }

    /// Why the publisher is of no more use; none when nobody writes any more.
    async fn serve(
        &mut self,
        publisher: &mut LanePublisher,
        writes: &mut mpsc::Receiver<Write>,
    ) -> Option<String> {
        let mut taken = Vec::new();
        loop {
            let has_room = self.pending.len() < ENTRIES_MAX && publisher.has_room();
            tokio::select! {
                biased;
                outcomes = publisher.next() => {
                    for (id, outcome) in outcomes {
                        if let Err(cause) = self.on_outcome(id, &outcome) {
                            return Some(cause);
                        }
                    }
                    if let Some(cause) = publisher.ended() {
                        return Some(cause);
                    }
                }
                count = writes.recv_many(&mut taken, ENTRY_WRITES_MAX), if has_room => {
                    if count == 0 {
                        return None;
                    }
                    let id = PublishId(self.next);
                    self.next += 1;
                    let writes = std::mem::take(&mut taken);
                    publisher.publish(self.entry(id, &writes));
                    self.pending.push_back(Pending {
                        id,
                        since: Instant::now(),
                        writes,
                        state: PendingState::Unconfirmed,
                    });
                }
            }
        }
    }

    fn on_outcome(&mut self, id: PublishId, outcome: &Outcome) -> Result<(), String> {
        match outcome {
            Outcome::Confirmed => {}
            Outcome::Returned { text, .. } => return Err(format!("it was returned: {text}")),
            Outcome::Nacked => return Err("the broker refused it (nack)".to_owned()),
            Outcome::TooLarge { text } | Outcome::Unencodable { text } => return Err(text.clone()),
            Outcome::Unknown { cause } | Outcome::Unsent { cause } => return Err(cause.clone()),
        }
        self.attempt = 0;
        for pending in &mut self.pending {
            if pending.id == id {
                self.seconds.observe(pending.since.elapsed().as_secs_f64());
                pending.state = PendingState::Confirmed;
            }
        }
        let confirmed = |first: &mut Pending| first.state == PendingState::Confirmed;
        while let Some(first) = self.pending.pop_front_if(confirmed) {
            for Write { ticket, done, .. } in first.writes {
                // There is room for all that one writer has under way; one that waits no more isn't told.
                let _ = done.try_send(ticket);
            }
        }
        Ok(())
    }

    fn entry(&self, id: PublishId, writes: &[Write]) -> Publish {
        let rules = self.shared.rules();
        let epoch = rules.map_or(Epoch(0), |rules| rules.table.epoch());
        let entry = Entry {
            gateway: self.shared.here.gateway.clone(),
            life: self.journal.seen().lock().life(),
            at: self.journal.now(),
            epoch,
            records: writes
                .iter()
                .flat_map(|write| write.records.iter().cloned())
                .collect(),
        };
        let mut edit = Edit::new();
        let token = id.0.to_string();
        edit.set_str(X_SET_PARCEL, &token);
        let none = RawProperties::default();
        Publish {
            id,
            address: Address {
                exchange: self.stream.clone(),
                routing_key: Bytes::new(),
            },
            // One short header: nothing in it can't be written.
            properties: edit.apply(&none).unwrap_or(none),
            body: entry.encode(),
            unroutable: Unroutable::Return,
        }
    }
}

/// Who wrote something of a lock and waits no more may not have it any more: to say it now would be a lie.
fn forget_unheard(write: &mut Write) {
    if write.done.is_closed() {
        write.records.retain(|record| match record.fact {
            Fact::Confirmed(_) | Fact::Doubtful(_) => true,
            Fact::Taken { .. } | Fact::Released | Fact::LetGo => false,
        });
    }
}
