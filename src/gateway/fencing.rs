//! Whether this gateway has anything of slots that are being moved under way.
//!
//! Owns what each lane and each receiver last said of it, and by which table. Promises that the gateway says *drained* of a
//! table only when each of them has routed by it, none has a parcel of its fenced slots that isn't answered, and no lane of
//! a fenced source has anything in hand or diverted. Whoever joins has nothing under way, and routes by that table or a
//! newer one.

use super::shared::Rules;
use crate::model::Revision;
use crate::routing::Table;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// See the file's head.
pub(super) struct Fencing {
    rules: watch::Receiver<Option<Arc<Rules>>>,
    parties: Mutex<Parties>,
    drained: watch::Sender<Revision>,
}

#[derive(Default)]
struct Parties {
    next: u64,
    said: BTreeMap<u64, Said>,
}

#[derive(Clone, Copy)]
struct Said {
    by: Revision,
    in_flight: usize,
}

/// A lane or a receiver; it leaves when it is dropped, and has nothing under way then.
pub(super) struct Party {
    fencing: Arc<Fencing>,
    number: u64,
}

impl Fencing {
    pub(super) fn new(rules: watch::Receiver<Option<Arc<Rules>>>) -> Arc<Self> {
        Arc::new(Self {
            rules,
            parties: Mutex::default(),
            drained: watch::Sender::new(Revision::default()),
        })
    }

    /// The newest table with a fence of which nothing is under way.
    pub(super) fn drained(&self) -> watch::Receiver<Revision> {
        self.drained.subscribe()
    }

    /// Somebody who will route or publish from now on.
    pub(super) fn join(self: &Arc<Self>) -> Party {
        let mut parties = self.parties.lock();
        // Under the lock: what is said of a newer table is said after this.
        let by = self.revision();
        let number = parties.next;
        parties.next += 1;
        parties.said.insert(number, Said { by, in_flight: 0 });
        Party {
            fencing: Arc::clone(self),
            number,
        }
    }

    /// Looks again: the table is new, or somebody has said something.
    pub(super) fn look(&self) {
        let parties = self.parties.lock();
        let rules = self.rules.borrow().clone();
        let Some(table) = rules.as_ref().map(|rules| &rules.table) else {
            return;
        };
        if !table.has_fences() {
            return;
        }
        let revision = table.revision();
        let is_through = |said: &Said| said.by >= revision && said.in_flight == 0;
        if parties.said.values().all(is_through) {
            self.drained.send_if_modified(|drained| {
                let newer = *drained < revision;
                *drained = revision.max(*drained);
                newer
            });
        }
    }

    fn revision(&self) -> Revision {
        let rules = self.rules.borrow();
        rules
            .as_ref()
            .map_or(Revision::default(), |rules| rules.table.revision())
    }
}

impl Party {
    /// By this table, so many parcels of its fenced slots are under way; none is of a newer table.
    pub(super) fn says(&self, table: &Table, in_flight: usize) {
        let by = table.revision();
        let said = Said { by, in_flight };
        self.fencing.parties.lock().said.insert(self.number, said);
        self.fencing.look();
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        self.fencing.parties.lock().said.remove(&self.number);
        self.fencing.look();
    }
}
