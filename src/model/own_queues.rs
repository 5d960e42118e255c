//! Names of the queues that setgate declares, all under `setgate.<space>.`.

use super::{GatewayId, LaneId, Partition, SourceName, SpaceId, UnitId};

/// The lane queue that a source's exchange fills.
pub fn lane(space: &SpaceId, source: &SourceName, partition: Partition) -> String {
    format!("setgate.{space}.lane.{source}.{partition}")
}

/// The exchange that a source with partitions is taken through: the source's exchange fills it, and it feeds the bank of
/// lane queues that is current.
pub fn spread(space: &SpaceId, source: &SourceName) -> String {
    format!("setgate.{space}.lane.{source}")
}

/// The consistent-hash exchange of one of a source's two banks of lane queues. No source's name has a dot in it.
pub fn spread_bank(space: &SpaceId, source: &SourceName, bank: &str) -> String {
    format!("setgate.{space}.lane.{source}.{bank}")
}

/// The exclusive queue of whoever changes how a source is spread.
pub fn spread_lock(space: &SpaceId, source: &SourceName) -> String {
    format!("setgate.{space}.lock.{source}")
}

/// The exclusive queue whose holder alone publishes for a lane.
pub fn lock(space: &SpaceId, lane: &LaneId) -> String {
    format!(
        "setgate.{space}.lock.{}.{}.{}",
        lane.unit, lane.source, lane.partition
    )
}

/// The stream of what the unit's gateways have received, which all of them follow; the fanout exchange in front of it has
/// the same name.
pub fn seen(space: &SpaceId) -> String {
    format!("setgate.{space}.seen")
}

/// Messages that need a person; the fanout exchange in front of it has the same name.
pub fn park(space: &SpaceId) -> String {
    format!("setgate.{space}.park")
}

/// Messages of a lane that wait for a way to a unit; the fanout exchange in front of it has the same name.
pub fn divert(space: &SpaceId, source: &SourceName, partition: Partition, unit: &UnitId) -> String {
    format!("setgate.{space}.divert.{source}.{partition}.{unit}")
}

/// The exchange that leads what is retried into the queue of its source: a direct one, by the queue's name.
pub fn retry(space: &SpaceId) -> String {
    format!("setgate.{space}.retry")
}

/// What a gateway publishes to see whether its broker confirms; the fanout exchange in front of it has the same name.
pub fn probe(space: &SpaceId, gateway: &GatewayId) -> String {
    format!("setgate.{space}.probe.{gateway}")
}

/// The exclusive queue whose holder alone works on the park queue beside it.
pub fn park_lock(space: &SpaceId) -> String {
    format!("setgate.{space}.lock.park")
}
