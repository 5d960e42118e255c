//! Whether a gateway may deliver what its unit serves.
//!
//! Owns until when it may: by its lease in etcd, or by leave of every member that could take over. Promises that time runs
//! from the sending of what was answered, and that without the one and without one of the others the right ends, before
//! anybody else gets it. Time is an argument: since the machine's start, its sleep counted.

use crate::model::{GatewayId, UnitId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Who has to grant leave while there is no lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Granters {
    /// Nobody could take over, or the space says that its units go on: the right never ends.
    Nobody,
    /// All of these.
    All(BTreeSet<(UnitId, GatewayId)>),
    /// Another unit is taking over, or has: there is no right, whatever anybody grants.
    TakenOver,
}

/// See the file's head.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Right {
    leased_until: Option<Duration>,
    leave_until: BTreeMap<(UnitId, GatewayId), Duration>,
}

impl Right {
    /// The lease was renewed by what was sent then, and lives so long.
    pub fn leased(&mut self, sent: Duration, ttl: Duration) {
        self.leased_until = self.leased_until.max(Some(sent + ttl));
    }

    /// A member has granted leave of this length to what was sent then.
    pub fn granted(&mut self, by: (UnitId, GatewayId), sent: Duration, leave: Duration) {
        let until = self.leave_until.entry(by).or_default();
        *until = (*until).max(sent + leave);
    }

    /// Until when it may deliver; `None`: not at all.
    pub fn until(&self, granters: &Granters) -> Option<Duration> {
        let granters = match granters {
            Granters::Nobody => return Some(Duration::MAX),
            Granters::TakenOver => return None,
            Granters::All(granters) => granters,
        };
        let of = |granter| self.leave_until.get(granter).copied();
        // With nobody registered, there is nobody who could grant any.
        let by_leave = granters.iter().map(of).min().flatten();
        self.leased_until.max(by_leave)
    }

    /// Those of the granters whose leave doesn't reach so far.
    pub fn lacks<'a>(
        &'a self,
        granters: &'a Granters,
        now: Duration,
    ) -> impl Iterator<Item = &'a (UnitId, GatewayId)> + 'a {
        let all = match granters {
            Granters::All(all) => Some(all),
            Granters::Nobody | Granters::TakenOver => None,
        };
        all.into_iter().flatten().filter(move |granter| {
            let until = self.leave_until.get(*granter);
            until.is_none_or(|until| *until <= now)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn member(unit: &str) -> (UnitId, GatewayId) {
        (UnitId::parse(unit).unwrap(), GatewayId::parse("a").unwrap())
    }

    #[test]
    fn without_a_lease_every_granter_has_to_grant_leave() {
        let mut right = Right::default();
        let granters = Granters::All([member("two"), member("three")].into());
        assert_eq!(right.until(&granters), None);
        right.granted(member("two"), 10 * SECOND, 5 * SECOND);
        assert_eq!(right.until(&granters), None, "one is not all");
        right.granted(member("three"), 11 * SECOND, 5 * SECOND);
        assert_eq!(right.until(&granters), Some(15 * SECOND), "the earliest");
        right.leased(12 * SECOND, 10 * SECOND);
        assert_eq!(right.until(&granters), Some(22 * SECOND));
        let lacks: Vec<_> = right.lacks(&granters, 15 * SECOND).collect();
        assert_eq!(lacks, [&member("two")]);
    }

    #[test]
    fn a_unit_that_nobody_stands_by_for_always_goes_on_and_one_that_is_taken_over_never() {
        let mut right = Right::default();
        assert_eq!(right.until(&Granters::Nobody), Some(Duration::MAX));
        right.leased(SECOND, 10 * SECOND);
        assert_eq!(right.until(&Granters::TakenOver), None);
    }
}
