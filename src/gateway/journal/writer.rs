//! Writes what this gateway has received into the unit's journal.
//!
//! Promises that a write is told as done only when the broker has confirmed it, in order, and that it is repeated until
//! then.

use super::{Journal, Write, vhost};
use crate::amqp::{Edit, RawProperties};
use crate::broker::{LanePublisher, Outcome, Publish, PublishId, Unroutable};
use crate::gateway::shared::Shared;
use crate::link::receiver::{Entry, Fact};
use crate::model::marks::X_SET_PARCEL;
use crate::model::{Address, Backoff, Epoch, own_queues};
use bytes::Bytes;
use prometheus::Histogram;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// Entries that the broker hasn't confirmed: with more, each would be smaller.
const ENTRIES_MAX: usize = 4;

/// From one entry that isn't full to the next, unless nothing came for longer: an entry costs the broker and each of the unit's gateways as
/// much as some messages do, and only acknowledgements at the source wait for it.
const PACE: Duration = Duration::from_millis(10);

/// Writes in one entry: of the largest, of 8,192 identities, they would be 4 MB, the limit of a reader; in fact receivers'
/// shares of some hundred make some 50 KB. An entry with so many isn't waited for.
const ENTRY_WRITES_MAX: usize = 32;

/// Writes until cancelled.
pub(in crate::gateway) async fn write(
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
                    self.journal.0.written.store(true, Ordering::Relaxed);
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
            self.journal.0.written.store(false, Ordering::Relaxed);
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
        let mut due = Instant::now();
        loop {
            let has_room = self.pending.len() < ENTRIES_MAX && publisher.has_room();
            let next = async {
                sleep_until(due).await;
                writes.recv_many(&mut taken, ENTRY_WRITES_MAX).await
            };
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
                count = next, if has_room => {
                    if count == 0 {
                        return None;
                    }
                    if count < ENTRY_WRITES_MAX {
                        due = Instant::now() + PACE;
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
            notes: writes.iter().filter_map(|write| write.note).collect(),
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
            Fact::Confirmed(_) | Fact::Known(_) | Fact::Doubtful(_) => true,
            Fact::Taken { .. } | Fact::Released | Fact::LetGo => false,
        });
    }
}
