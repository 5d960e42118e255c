//! This gateway's registration in etcd: as a member for good, as a running gateway under a lease.
//!
//! Promises that the record follows what it says within a second, and that a lease that ran out is granted anew. Owns its
//! own connection: a slow table must not cost the lease, nor a slow lease the table.

use super::trouble::Trouble;
use super::{FeedSettings, FeedState, Leased};
use crate::etcd::{
    EtcdConfig, EtcdError, GatewayRecord, Key, Lease, MemberRecord, Store, Transaction,
};
use crate::model::{Backoff, Revision};
use crate::wire::boottime;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// `failover.detect` by default.
const LEASE_TTL: Duration = Duration::from_secs(10);

/// A record is written at most this often: lanes come and go in bursts.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// At the end the lease is given back, so that peers needn't wait for it to run out; but the end doesn't wait for etcd.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

pub(super) struct Registrar<'a> {
    pub(super) settings: &'a FeedSettings,
    pub(super) etcd: &'a EtcdConfig,
    pub(super) own: watch::Receiver<GatewayRecord>,
    pub(super) leased: watch::Sender<Option<Leased>>,
    pub(super) state: watch::Receiver<FeedState>,
    pub(super) backoff: Backoff,
    /// In a row.
    pub(super) failures: u32,
    pub(super) held: Option<(Store, Lease)>,
}

/// A lease, and what etcd had when it was granted.
struct Granted {
    lease: Leased,
    at: Revision,
}

enum Event {
    Renew,
    Write,
    Changed,
}

impl Registrar<'_> {
    pub(super) async fn run(mut self, cancel: &CancellationToken) {
        loop {
            let error = tokio::select! {
                error = self.register() => error,
                () = cancel.cancelled() => break,
            };
            self.held = None;
            // One line for an outage, not one for each attempt.
            if self.failures == 0 {
                tracing::warn!(%error, "the gateway's registration in etcd is interrupted");
            }
            self.failures = self.failures.saturating_add(1);
            let wait = self.backoff.delay(self.failures);
            tokio::select! {
                () = sleep(wait) => {}
                () = cancel.cancelled() => break,
            }
        }
        if let Some((store, lease)) = self.held.take() {
            // Without an answer the lease runs out by itself.
            let _ = timeout(FAREWELL_MAX, store.revoke(lease)).await;
        }
    }

    /// Registers, and stays so until something fails.
    async fn register(&mut self) -> EtcdError {
        let registered = async {
            let store = Store::connect(self.etcd, &self.settings.space).await?;
            self.join(&store).await?;
            let ttl = self.state.borrow().lease_ttl.unwrap_or(LEASE_TTL);
            let sent = boottime();
            let lease = store.grant(ttl).await?;
            let granted = Granted {
                lease: Leased { sent, ttl },
                at: store.newest().await?.mod_revision,
            };
            Ok((store, lease, granted))
        };
        match registered.await {
            Ok((store, lease, granted)) => {
                self.held = Some((store, lease));
                match self.keep(granted).await {
                    Ok(never) => match never {},
                    Err(error) => error,
                }
            }
            Err(error) => error,
        }
    }

    /// Writes the member's record where there is none, or one of another version.
    async fn join(&self, store: &Store) -> Result<(), EtcdError> {
        let key = Key::Member(&self.settings.unit, &self.settings.gateway);
        let version = self.own.borrow().version.clone();
        let found: Option<MemberRecord> = store
            .get(&key)
            .await?
            .and_then(|text| serde_json::from_slice(&text).ok());
        let record = match found {
            Some(found) if found.version == version => return Ok(()),
            Some(found) => MemberRecord { version, ..found },
            None => MemberRecord {
                version,
                since: jiff::Timestamp::now().to_string(),
            },
        };
        let text = serde_json::to_vec(&record).unwrap_or_default();
        store.commit(&Transaction::new().put(&key, text)).await?;
        Ok(())
    }

    /// Tells of the lease where it counts: the space was read after it was granted, and is believed.
    fn tell(&self, granted: &Granted) {
        let state = self.state.borrow();
        let believed = !state.trouble.as_ref().is_some_and(Trouble::refuses);
        if believed && state.table.is_some() && state.read_at >= granted.at {
            self.leased.send_if_modified(|told| {
                let changed = *told != Some(granted.lease);
                *told = Some(granted.lease);
                changed
            });
        }
    }

    async fn keep(&mut self, mut granted: Granted) -> Result<Infallible, EtcdError> {
        // Three tries within a lease's life.
        let mut renewals = interval(granted.lease.ttl / 3);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut written: Option<GatewayRecord> = None;
        let mut write_at = Instant::now();
        loop {
            self.tell(&granted);
            let current = self.record();
            let due = written.as_ref() != Some(&current);
            // A move waits for that.
            let urgent = written.as_ref().is_none_or(|last| {
                let of = |one: &GatewayRecord| {
                    (
                        one.drained,
                        one.ungranted,
                        one.copied,
                        one.read,
                        one.consumed,
                        one.revision,
                    )
                };
                of(last) != of(&current)
            });
            let at = if urgent { Instant::now() } else { write_at };
            let event = tokio::select! {
                _ = renewals.tick() => Event::Renew,
                () = sleep_until(at), if due => Event::Write,
                // The gateway is on its way out when its own side is closed: the last record stands until the lease ends.
                Ok(()) = self.own.changed() => Event::Changed,
                Ok(()) = self.state.changed() => Event::Changed,
            };
            let Some((store, lease)) = self.held.as_mut() else {
                // Held from before the first turn of this loop until after its last.
                std::future::pending::<()>().await;
                continue;
            };
            match event {
                Event::Renew => {
                    let sent = boottime();
                    lease.renew().await?;
                    granted.lease.sent = sent;
                }
                Event::Write => {
                    let key = Key::Gateway(&self.settings.unit, &self.settings.gateway);
                    let text = serde_json::to_vec(&current).unwrap_or_default();
                    write_at = Instant::now() + WRITE_EVERY;
                    store
                        .commit(&Transaction::new().put(&key, text).under(lease))
                        .await?;
                    self.failures = 0;
                    written = Some(current);
                }
                Event::Changed => {}
            }
        }
    }

    /// What the gateway says of itself, with the table that it applies.
    fn record(&self) -> GatewayRecord {
        let mut record = self.own.borrow().clone();
        let state = self.state.borrow();
        if let Some(table) = &state.table {
            record.revision = table.revision();
            record.epoch = table.epoch();
        }
        // After a restart without etcd it must not route by an older one.
        record.drained = record.drained.min(state.saved);
        record.ungranted = record.ungranted.min(state.saved);
        record
    }
}
