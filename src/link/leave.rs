//! Leave: what a unit's gateways grant to those for whom they stand by, so that these go on while etcd is away.
//!
//! Owns when leave was last granted to each unit. Promises that none is granted to a unit that has been taken over or is
//! being taken over, by this gateway's table, nor to one of another life of the space or with an older table; and that it
//! says leave has ended only when the last one has. Time is an argument: since the machine's start, its sleep counted.

use super::gate::Standing;
use crate::model::{Epoch, Lineage, Revision, UnitId};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long leave lasts, from when it was asked for. It is asked for every second.
pub const LEAVE: Duration = Duration::from_secs(5);

/// How long after the last one leave counts as ended: a second more, for a clock that goes more slowly than this one.
pub const ENDED: Duration = Duration::from_secs(6);

/// See the file's head.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Granter {
    /// Before this gateway's process began, another may have granted leave.
    began: Duration,
    last: BTreeMap<UnitId, Duration>,
}

impl Granter {
    /// Of a process that begins now.
    pub fn new(now: Duration) -> Self {
        Self {
            began: now,
            last: BTreeMap::new(),
        }
    }

    /// A gateway of this unit, with a table of this lineage and epoch, asks for leave.
    pub fn grants(
        &mut self,
        unit: &UnitId,
        (lineage, epoch): (&Lineage, Epoch),
        standing: Option<&Standing>,
        now: Duration,
    ) -> bool {
        let grants = standing.is_some_and(|standing| {
            standing.units.contains(unit)
                && !standing.taken.contains(unit)
                && *lineage == standing.lineage
                && epoch >= standing.epoch
        });
        if grants {
            self.last.insert(unit.clone(), now);
        }
        grants
    }

    /// The table's revision, when leave of every unit that is taken over by it has ended.
    pub fn ended(&self, standing: &Standing, now: Duration) -> Option<Revision> {
        let has_ended = |unit: &UnitId| {
            let last = self.last.get(unit).copied().unwrap_or(self.began);
            now.saturating_sub(last.max(self.began)) >= ENDED
        };
        standing
            .taken
            .iter()
            .all(has_ended)
            .then_some(standing.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str) -> UnitId {
        UnitId::parse(name).unwrap()
    }

    fn standing(epoch: u64, taken: &[&str]) -> Standing {
        Standing {
            lineage: Lineage("one".into()),
            epoch: Epoch(epoch),
            revision: Revision(9),
            units: ["sh-1", "sh-2"].map(unit).into(),
            taken: taken.iter().map(|name| unit(name)).collect(),
            lanes_elsewhere: 1,
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn leave_ends_a_second_after_the_last_one_has_and_none_follows() {
        let mut granter = Granter::new(Duration::ZERO);
        let one = Lineage("one".into());
        let (before, after) = (standing(3, &[]), standing(3, &["sh-1"]));
        let asks = |granter: &mut Granter, standing: &Standing, now| {
            granter.grants(&unit("sh-1"), (&one, Epoch(3)), Some(standing), now)
        };
        assert!(asks(&mut granter, &before, 20 * SECOND));
        assert!(!asks(&mut granter, &after, 21 * SECOND), "it is taken over");
        assert_eq!(granter.ended(&after, 25 * SECOND), None);
        assert_eq!(granter.ended(&after, 26 * SECOND), Some(Revision(9)));
    }

    #[test]
    fn a_granter_that_has_only_just_begun_may_have_granted_leave_before() {
        let granter = Granter::new(100 * SECOND);
        let taken = standing(3, &["sh-1"]);
        assert_eq!(granter.ended(&taken, 105 * SECOND), None);
        assert_eq!(granter.ended(&taken, 106 * SECOND), Some(Revision(9)));
    }

    #[test]
    fn a_stranger_an_older_table_and_another_life_get_none() {
        let mut granter = Granter::new(Duration::ZERO);
        let (one, other) = (Lineage("one".into()), Lineage("other".into()));
        let now = standing(3, &[]);
        let mut asks = |name: &str, lineage: &Lineage, epoch, standing: Option<&Standing>| {
            granter.grants(&unit(name), (lineage, Epoch(epoch)), standing, SECOND)
        };
        assert!(asks("sh-1", &one, 3, Some(&now)));
        assert!(asks("sh-1", &one, 4, Some(&now)), "it knows more");
        assert!(!asks("sh-1", &one, 2, Some(&now)));
        assert!(!asks("sh-1", &other, 3, Some(&now)));
        assert!(!asks("bj-1", &one, 3, Some(&now)));
        assert!(!asks("sh-1", &one, 3, None));
    }
}
