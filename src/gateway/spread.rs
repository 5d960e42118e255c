//! How a source is spread in the unit's broker: its exchanges, its queues, and the change from one bank to the other.
//!
//! Promises that a step may be broken off anywhere and taken again, by any gateway, that no message is lost or doubled by
//! any of them, and that keys are mapped to queues alike after a restart of the broker. Never decides: see
//! [`crate::lane::judge`].
//!
//! The source's exchange fills a *switch*, an exchange that leads to bank A while it is bound to it, and to bank B by being
//! its alternate exchange while it isn't. One binding more or less moves all messages at once. Each bank is a
//! consistent-hash exchange with its queues.

use super::source_task::SourceSpec;
use crate::broker::spread::{self, HashOn};
use crate::broker::{self, Binding, BrokerError, Connection, DeclareError, QueueType};
use crate::lane::{Bank, Layout, Left, Shown, judge};
use crate::model::{Partition, SourceName, SpaceId, UnitId, own_queues};
use crate::rules::{self, PARTITIONS_MAX, Take};

/// A source's place in the broker.
pub(super) struct Spread {
    pub(super) space: SpaceId,
    pub(super) source: SourceName,
    /// The application's.
    pub(super) exchange: String,
    pub(super) bindings: Vec<Binding>,
    pub(super) kind: QueueType,
    pub(super) on: HashOn,
    pub(super) wanted: u16,
}

impl Spread {
    /// Of a source that takes from an exchange.
    pub(super) fn of(space: &SpaceId, spec: &SourceSpec) -> Option<Self> {
        let Take::Exchange { exchange, bindings } = &spec.take else {
            return None;
        };
        let binding = |binding: &rules::Binding| Binding {
            routing_key: binding.routing_key.clone().into(),
            arguments: binding.arguments.clone(),
        };
        Some(Self {
            space: space.clone(),
            source: spec.source.clone(),
            exchange: exchange.clone(),
            bindings: bindings.iter().map(binding).collect(),
            kind: match spec.queue_type {
                rules::QueueType::Quorum => QueueType::Quorum,
                rules::QueueType::Classic => QueueType::Classic,
            },
            on: spec.on.clone(),
            wanted: spec.partitions,
        })
    }

    /// The exchange that decides between the banks.
    pub(super) fn switch(&self) -> String {
        own_queues::spread(&self.space, &self.source)
    }

    /// The exchange that feeds a bank's queues.
    pub(super) fn hash(&self, bank: Bank) -> String {
        own_queues::spread_bank(&self.space, &self.source, bank.as_str())
    }

    fn mark(&self, to: Bank) -> String {
        own_queues::spread_bank(&self.space, &self.source, &format!("to-{}", to.as_str()))
    }

    fn queue(&self, partition: Partition) -> String {
        own_queues::lane(&self.space, &self.source, partition)
    }

    /// In the order of their names. After a restart RabbitMQ counts the queues of a consistent-hash exchange in that
    /// order, before it in the order of their binding; where the two differ, every restart would reorder keys.
    fn queues(&self, bank: Bank, count: u16) -> Vec<String> {
        let mut queues: Vec<_> = bank.partitions(count).map(|p| self.queue(p)).collect();
        queues.sort_unstable();
        queues
    }

    /// What the broker shows.
    pub(super) async fn look(&self, connection: &Connection) -> Result<Shown, BrokerError> {
        let there = async |name: String| broker::exchange_exists(connection, name.as_bytes()).await;
        let switch = there(self.switch()).await?;
        let mut changing_to = None;
        if switch {
            for to in [Bank::A, Bank::B] {
                if there(self.mark(to)).await? {
                    changing_to = Some(to);
                }
            }
        }
        Ok(Shown {
            switch,
            changing_to,
            in_a: self.count(connection, Bank::A).await?,
            in_b: if switch {
                self.count(connection, Bank::B).await?
            } else {
                0
            },
        })
    }

    async fn count(&self, connection: &Connection, bank: Bank) -> Result<u16, BrokerError> {
        let mut count = 0;
        for partition in bank.partitions(PARTITIONS_MAX) {
            if spread::look(connection, &self.queue(partition))
                .await?
                .is_none()
            {
                break;
            }
            count += 1;
        }
        Ok(count)
    }

    /// Takes the lock, and does what is to be done if the broker still shows what asks for it. Another gateway may have
    /// been first: then there is nothing to do.
    pub(super) async fn settle(
        &self,
        connection: &Connection,
        seen: Layout,
    ) -> Result<(), DeclareError> {
        let lock = own_queues::spread_lock(&self.space, &self.source);
        spread::lock(connection, &lock).await?;
        let shown = self.look(connection).await?;
        if judge(&shown, self.wanted) != seen {
            return Ok(());
        }
        match seen {
            Layout::Single => Ok(()),
            Layout::Begin { count } => self.begin(connection, count).await,
            Layout::Steady { bank, count } => {
                self.fill(connection, bank, count).await?;
                self.lead_to(connection, bank).await?;
                self.flow(connection).await?;
                // A gateway that bound the queue just before the source was spread may have died before it parted them.
                match bank {
                    Bank::A => self.part_directly(connection).await,
                    Bank::B => Ok(()),
                }
            }
            Layout::Outgrown { bank, .. } => {
                spread::ensure_mark(connection, &self.mark(bank.other())).await?;
                self.change(connection, bank.other(), 0).await
            }
            Layout::Changing { from, built, .. } => {
                self.change(connection, from.other(), built).await
            }
        }
    }

    /// Puts the switch between the source's exchange and the queues. A queue that the exchange fills directly is reached
    /// both ways for a moment: RabbitMQ gives it each message once.
    async fn begin(&self, connection: &Connection, count: u16) -> Result<(), DeclareError> {
        self.fill(connection, Bank::A, count).await?;
        spread::ensure_hash_exchange(connection, &self.hash(Bank::B), &self.on).await?;
        self.lead_to(connection, Bank::A).await?;
        self.flow(connection).await?;
        self.part_directly(connection).await?;
        tracing::info!(source = %self.source, partitions = count, "a source is spread");
        Ok(())
    }

    /// Makes a bank: declared from its last queue to its first, so that it counts as complete with that one.
    async fn fill(
        &self,
        connection: &Connection,
        bank: Bank,
        count: u16,
    ) -> Result<(), DeclareError> {
        let hash = self.hash(bank);
        spread::ensure_hash_exchange(connection, &hash, &self.on).await?;
        for partition in bank.partitions(count).rev() {
            let queue = self.queue(partition);
            broker::ensure_lane_queue(connection, &queue, self.kind, "", &[]).await?;
        }
        for queue in self.queues(bank, count) {
            broker::bind_queue(connection, &queue, &hash, &weight()).await?;
        }
        Ok(())
    }

    async fn lead_to(&self, connection: &Connection, bank: Bank) -> Result<(), DeclareError> {
        let (switch, a) = (self.switch(), self.hash(Bank::A));
        spread::ensure_switch(connection, &switch, &self.hash(Bank::B)).await?;
        match bank {
            Bank::A => spread::bind_exchange(connection, &a, &switch, &anything()).await,
            Bank::B => spread::unbind_exchange(connection, &a, &switch, &anything()).await,
        }
    }

    /// Whether the source's exchange is there.
    pub(super) async fn is_fed(&self, connection: &Connection) -> Result<bool, BrokerError> {
        broker::exchange_exists(connection, self.exchange.as_bytes()).await
    }

    /// Has the source's exchange fill its only queue, which is there.
    pub(super) async fn flow_directly(&self, connection: &Connection) -> Result<(), DeclareError> {
        let queue = self.queue(Partition(0));
        for binding in &self.bindings {
            broker::bind_queue(connection, &queue, &self.exchange, binding).await?;
        }
        Ok(())
    }

    /// Undoes that: filled by the switch as well, the queue gets a second copy of everything.
    pub(super) async fn part_directly(&self, connection: &Connection) -> Result<(), DeclareError> {
        let queue = self.queue(Partition(0));
        for binding in &self.bindings {
            spread::unbind_queue(connection, &queue, &self.exchange, binding).await?;
        }
        Ok(())
    }

    /// Has nothing flow in from the source's exchange any more.
    pub(super) async fn part(&self, connection: &Connection) -> Result<(), DeclareError> {
        if !self.is_fed(connection).await? {
            return Ok(());
        }
        if spread::look(connection, &self.queue(Partition(0)))
            .await?
            .is_some()
        {
            self.part_directly(connection).await?;
        }
        let switch = self.switch();
        if broker::exchange_exists(connection, switch.as_bytes()).await? {
            for binding in &self.bindings {
                spread::unbind_exchange(connection, &switch, &self.exchange, binding).await?;
            }
        }
        Ok(())
    }

    /// Deletes all that a retired source has, if it is still empty and nobody's.
    pub(super) async fn retire(
        &self,
        connection: &Connection,
        units: &[UnitId],
    ) -> Result<(), DeclareError> {
        let lock = own_queues::spread_lock(&self.space, &self.source);
        spread::lock(connection, &lock).await?;
        let shown = self.look(connection).await?;
        let banks = [(Bank::A, shown.in_a), (Bank::B, shown.in_b)];
        for (bank, count) in banks {
            let left = self.left(connection, bank, count, units).await?;
            if left != Left::default() {
                return Ok(());
            }
        }
        for (bank, count) in banks {
            for partition in bank.partitions(count).rev() {
                for unit in units {
                    let diversion = own_queues::divert(&self.space, &self.source, partition, unit);
                    if spread::look(connection, &diversion).await?.is_some() {
                        spread::delete_queue(connection, &diversion).await?;
                    }
                }
                spread::delete_queue(connection, &self.queue(partition)).await?;
            }
        }
        if shown.switch {
            let (a, b) = (self.hash(Bank::A), self.hash(Bank::B));
            for exchange in [self.switch(), a, b] {
                spread::delete_exchange(connection, &exchange).await?;
            }
        }
        tracing::info!(source = %self.source, "a retired source's queues are empty and gone");
        Ok(())
    }

    /// Has the source's exchange fill the switch.
    pub(super) async fn flow(&self, connection: &Connection) -> Result<(), DeclareError> {
        let switch = self.switch();
        for binding in &self.bindings {
            spread::bind_exchange(connection, &switch, &self.exchange, binding).await?;
        }
        Ok(())
    }

    /// Makes the other bank, unless it is complete, and lets messages flow into it.
    async fn change(
        &self,
        connection: &Connection,
        to: Bank,
        built: u16,
    ) -> Result<(), DeclareError> {
        let count = match built {
            0 => {
                // Of a former attempt with another number; nothing has flowed into them.
                let kept = usize::from(self.wanted);
                for partition in to.partitions(PARTITIONS_MAX).skip(kept) {
                    spread::delete_queue(connection, &self.queue(partition)).await?;
                }
                self.wanted
            }
            built => built,
        };
        self.fill(connection, to, count).await?;
        self.lead_to(connection, to).await?;
        tracing::info!(source = %self.source, partitions = count, "a source's messages flow into another bank of queues");
        Ok(())
    }

    /// What is left in a bank, and in the diversions of its lanes.
    pub(super) async fn left(
        &self,
        connection: &Connection,
        bank: Bank,
        count: u16,
        units: &[UnitId],
    ) -> Result<Left, BrokerError> {
        let mut left = Left::default();
        for partition in bank.partitions(count) {
            let diversions = units
                .iter()
                .map(|unit| own_queues::divert(&self.space, &self.source, partition, unit));
            for queue in std::iter::once(self.queue(partition)).chain(diversions) {
                if let Some(look) = spread::look(connection, &queue).await? {
                    left.ready += u64::from(look.ready);
                    left.consumers += u64::from(look.consumers);
                }
            }
        }
        Ok(left)
    }

    /// Deletes what is left of a bank, if it is still empty and nobody's, and ends the change.
    pub(super) async fn finish(
        &self,
        connection: &Connection,
        from: Bank,
        units: &[UnitId],
    ) -> Result<(), DeclareError> {
        let lock = own_queues::spread_lock(&self.space, &self.source);
        spread::lock(connection, &lock).await?;
        let shown = self.look(connection).await?;
        let Layout::Changing {
            from: now, left, ..
        } = judge(&shown, self.wanted)
        else {
            return Ok(());
        };
        let nothing = Left::default();
        if now != from || self.left(connection, from, left, units).await? != nothing {
            return Ok(());
        }
        for partition in from.partitions(left).rev() {
            spread::delete_queue(connection, &self.queue(partition)).await?;
        }
        spread::delete_exchange(connection, &self.mark(from.other())).await?;
        tracing::info!(source = %self.source, "a source's former queues are empty and gone");
        Ok(())
    }
}

/// The weight of a queue in a consistent-hash exchange: all alike.
pub(super) fn weight() -> Binding {
    Binding {
        routing_key: "1".into(),
        ..anything()
    }
}

fn anything() -> Binding {
    Binding {
        routing_key: bytes::Bytes::new(),
        arguments: crate::amqp::FieldTable::new(),
    }
}
