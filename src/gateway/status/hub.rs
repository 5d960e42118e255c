//! The hub into which the gateway's tasks write what they know, and from which the admin endpoint reads.
//!
//! One lock around plain data: writers replace one line, readers copy the whole. Lines are bounded by what the table
//! and the configuration name; faults by a limit of their own.

use super::{
    BrokerLine, GatewayStatus, LaneFacts, LaneOfGateway, LinkState, PeerLine, StatusFault,
    TableFacts, UpDown,
};
use crate::model::{GatewayId, Partition, SourceName, SpaceId, UnitId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Faults kept. A space has tens of sources and units; whoever has more faults than this reads the first ones first.
const FAULTS_MAX: usize = 256;

/// Shared by all tasks of a gateway; a clone is the same hub.
#[derive(Debug, Clone)]
pub struct StatusHub {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    space: SpaceId,
    unit: UnitId,
    gateway: GatewayId,
    etcd: UpDown,
    etcd_cause: Option<String>,
    table: Option<TableFacts>,
    brokers: BTreeMap<String, BrokerLine>,
    links: BTreeMap<(UnitId, GatewayId), PeerLine>,
    lanes: BTreeMap<(SourceName, Partition), LaneFacts>,
    faults: BTreeMap<String, Vec<StatusFault>>,
}

impl StatusHub {
    /// Nothing is known yet, etcd is down until somebody says otherwise.
    pub fn new(space: SpaceId, unit: UnitId, gateway: GatewayId) -> Self {
        let inner = Inner {
            space,
            unit,
            gateway,
            etcd: UpDown::Down,
            etcd_cause: Some("not asked yet".to_owned()),
            table: None,
            brokers: BTreeMap::new(),
            links: BTreeMap::new(),
            lanes: BTreeMap::new(),
            faults: BTreeMap::new(),
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// etcd answers.
    pub fn etcd_up(&self) {
        let mut inner = self.inner.lock();
        inner.etcd = UpDown::Up;
        inner.etcd_cause = None;
    }

    /// etcd doesn't answer.
    pub fn etcd_down(&self, cause: impl Into<String>) {
        let mut inner = self.inner.lock();
        inner.etcd = UpDown::Down;
        inner.etcd_cause = Some(cause.into());
    }

    /// A table has come into force. Links to units that it doesn't know are forgotten.
    pub fn set_table(&self, table: TableFacts) {
        let mut inner = self.inner.lock();
        inner
            .links
            .retain(|(to, _), _| table.units.iter().any(|unit| unit.unit == *to));
        inner.table = Some(table);
    }

    /// The broker is there, and perhaps takes no publishes.
    pub fn broker_up(&self, vhost: &str, blocked: Option<String>) {
        self.put_broker(vhost, UpDown::Up, blocked, None);
    }

    /// The broker isn't there.
    pub fn broker_down(&self, vhost: &str, cause: impl Into<String>) {
        self.put_broker(vhost, UpDown::Down, None, Some(cause.into()));
    }

    fn put_broker(
        &self,
        vhost: &str,
        state: UpDown,
        blocked: Option<String>,
        cause: Option<String>,
    ) {
        let line = BrokerLine {
            vhost: vhost.to_owned(),
            state,
            blocked,
            cause,
        };
        self.inner.lock().brokers.insert(vhost.to_owned(), line);
    }

    /// What a link to one gateway does now.
    pub fn set_link(
        &self,
        to: &UnitId,
        peer: &GatewayId,
        state: LinkState,
        rtt_ms: Option<u64>,
        cause: Option<String>,
    ) {
        let mut inner = self.inner.lock();
        let key = (to.clone(), peer.clone());
        // Why it was down is why it is being opened again.
        let cause = cause.or_else(|| match state {
            LinkState::Opening => inner.links.get(&key)?.cause.clone(),
            LinkState::Down | LinkState::Draining | LinkState::Up => None,
        });
        let line = PeerLine {
            to: to.clone(),
            peer: peer.clone(),
            state,
            rtt_ms,
            cause,
        };
        inner.links.insert(key, line);
    }

    /// That gateway is gone.
    pub fn drop_link(&self, to: &UnitId, peer: &GatewayId) {
        self.inner.lock().links.remove(&(to.clone(), peer.clone()));
    }

    /// What a lane does now.
    pub fn set_lane(&self, source: &SourceName, partition: Partition, facts: LaneFacts) {
        self.inner
            .lock()
            .lanes
            .insert((source.clone(), partition), facts);
    }

    /// The lane is no longer this gateway's.
    pub fn drop_lane(&self, source: &SourceName, partition: Partition) {
        self.inner.lock().lanes.remove(&(source.clone(), partition));
    }

    /// Something is wrong with `subject`; replaces what was said of it before.
    pub fn set_fault(&self, subject: &str, message: impl Into<String>, mend: impl Into<String>) {
        let fault = StatusFault {
            subject: subject.to_owned(),
            message: message.into(),
            mend: mend.into(),
        };
        self.set_faults(subject, vec![fault]);
    }

    /// Everything that is wrong with `group` (say, the rejected documents); none clears it.
    pub fn set_faults(&self, group: &str, faults: Vec<StatusFault>) {
        let mut inner = self.inner.lock();
        inner.faults.remove(group);
        let kept: usize = inner.faults.values().map(Vec::len).sum();
        let room = FAULTS_MAX.saturating_sub(kept);
        if !faults.is_empty() && room > 0 {
            inner
                .faults
                .insert(group.to_owned(), faults.into_iter().take(room).collect());
        }
    }

    /// Nothing is wrong with `subject` any more.
    pub fn clear_fault(&self, subject: &str) {
        self.inner.lock().faults.remove(subject);
    }

    /// Everything, as of now.
    pub fn snapshot(&self) -> GatewayStatus {
        let inner = self.inner.lock();
        let lanes = inner
            .lanes
            .iter()
            .map(|((source, partition), facts)| LaneOfGateway {
                source: source.clone(),
                partition: *partition,
                facts: facts.clone(),
            });
        GatewayStatus {
            space: inner.space.clone(),
            unit: inner.unit.clone(),
            gateway: inner.gateway.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            etcd: inner.etcd,
            etcd_cause: inner.etcd_cause.clone(),
            table: inner.table.clone(),
            brokers: inner.brokers.values().cloned().collect(),
            links: inner.links.values().cloned().collect(),
            lanes: lanes.collect(),
            faults: inner.faults.values().flatten().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub() -> StatusHub {
        StatusHub::new(
            SpaceId::parse("trade").unwrap(),
            UnitId::parse("sh-1").unwrap(),
            GatewayId::parse("sh-1-a").unwrap(),
        )
    }

    #[test]
    fn a_later_word_replaces_the_earlier_one() {
        let hub = hub();
        hub.broker_down("/", "connection refused");
        hub.broker_up("/", None);
        hub.set_fault("orders", "the exchange is missing", "declare it");
        hub.clear_fault("orders");
        let status = hub.snapshot();
        assert_eq!(status.brokers.len(), 1);
        assert_eq!(status.brokers[0].state, UpDown::Up);
        assert!(status.faults.is_empty());
    }

    #[test]
    fn faults_are_bounded() {
        let hub = hub();
        for n in 0..2 * FAULTS_MAX {
            hub.set_fault(&n.to_string(), "wrong", "mend it");
        }
        assert_eq!(hub.snapshot().faults.len(), FAULTS_MAX);
    }
}
