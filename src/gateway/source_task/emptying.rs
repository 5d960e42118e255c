//! Queues that are to be emptied and then deleted: a bank that is left for the other one, and all of a retired source.

use super::{EMPTYING_EVERY, ERRAND_MAX, Feeding, LOOK_EVERY, Plan, SourceTask, done};
use crate::broker::Connection;
use crate::lane::{Bank, Emptying, Layout, judge};
use std::time::Duration;
use tokio::time::timeout;

impl SourceTask {
    /// The former bank is emptied, then deleted; the new one waits for that.
    pub(super) async fn changing(
        &mut self,
        control: &Connection,
        from: Bank,
        left: u16,
        built: u16,
    ) -> Result<Plan, String> {
        let complete = Layout::Changing { from, left, built };
        let resumed =
            matches!(self.settled, Some(Layout::Changing { from: seen, .. }) if seen == from);
        if built == 0 || !resumed {
            self.settle(complete).await?;
            self.settled = Some(complete);
            self.emptying = Emptying::default();
            return Ok(self.lanes_leaving(from, left, Duration::ZERO));
        }
        let units = self.units();
        let Some(spread) = &self.spread else {
            return Ok(self.look_again());
        };
        let seen = spread.left(control, from, left, &units).await;
        self.emptying = self.emptying.next(seen.map_err(|e| e.to_string())?);
        if self.emptying == Emptying::Done {
            let errand = self.errand().await?;
            let finished = timeout(ERRAND_MAX, spread.finish(errand.connection(), from, &units));
            done(finished.await)?;
            self.emptying = Emptying::default();
            return Ok(self.look_again());
        }
        Ok(self.go_on_emptying(from, left))
    }

    /// Nothing flows in any more; what is there is carried, then the queues are deleted.
    pub(super) async fn retiring(&mut self, control: &Connection) -> Result<Plan, String> {
        let Some(spread) = &self.spread else {
            return Ok(self.look_again());
        };
        // Each time: a gateway that hasn't heard of it yet may have bound them again.
        spread.part(control).await.map_err(|e| e.to_string())?;
        let shown = spread.look(control).await.map_err(|e| e.to_string())?;
        if let Layout::Changing { from, left, built } = judge(&shown, spread.wanted) {
            return self.changing(control, from, left, built).await;
        }
        self.gone = shown.is_nothing();
        if self.gone {
            return Ok(Plan {
                lanes: Vec::new(),
                again: LOOK_EVERY,
            });
        }
        let (bank, count) = shown.taken();
        let units = self.units();
        let seen = spread.left(control, bank, count, &units).await;
        self.emptying = self.emptying.next(seen.map_err(|e| e.to_string())?);
        if self.emptying == Emptying::Done {
            let errand = self.errand().await?;
            let retired = timeout(ERRAND_MAX, spread.retire(errand.connection(), &units));
            done(retired.await)?;
            self.emptying = Emptying::default();
            return Ok(self.look_again());
        }
        Ok(self.go_on_emptying(bank, count))
    }

    /// Its lanes take, or have let go.
    fn go_on_emptying(&self, bank: Bank, count: u16) -> Plan {
        let count = if self.emptying.takes() { count } else { 0 };
        self.lanes_leaving(bank, count, EMPTYING_EVERY)
    }

    fn lanes_leaving(&self, bank: Bank, count: u16, again: Duration) -> Plan {
        let lane = |partition| self.lane(partition, Feeding::Leaving);
        Plan {
            lanes: bank.partitions(count).map(lane).collect(),
            again,
        }
    }
}
