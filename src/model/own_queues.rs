//! Names of the queues that setgate declares, all under `setgate.<space>.`.

use super::{LaneId, Partition, SourceName, SpaceId};

/// The lane queue that a source's exchange fills.
pub fn lane(space: &SpaceId, source: &SourceName, partition: Partition) -> String {
    format!("setgate.{space}.lane.{source}.{partition}")
}

/// The exclusive queue whose holder alone publishes for a lane.
pub fn lock(space: &SpaceId, lane: &LaneId) -> String {
    format!(
        "setgate.{space}.lock.{}.{}.{}",
        lane.unit, lane.source, lane.partition
    )
}

/// Messages that need a person; the fanout exchange in front of it has the same name.
pub fn park(space: &SpaceId) -> String {
    format!("setgate.{space}.park")
}

/// The exchange that leads what is retried into the queue of its source: a direct one, by the queue's name.
pub fn retry(space: &SpaceId) -> String {
    format!("setgate.{space}.retry")
}

/// The exclusive queue whose holder alone works on the park queue beside it.
pub fn park_lock(space: &SpaceId) -> String {
    format!("setgate.{space}.lock.park")
}
