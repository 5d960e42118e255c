//! What a receiver's table says of a parcel before it is published.
//!
//! Promises that nothing is published where no rule delivers, for a slot that another unit serves, by rules that have given
//! their keys to others, or to a unit that its path doesn't lead to. Publishes nothing, asks nobody.

use crate::model::{Answer, LaneId, Marking, Parcel, Reason, UnitId, Way, Why};
use crate::routing::Table;

/// What this unit's table says of a parcel before it is published here.
pub fn check(table: &Table, here: &UnitId, parcel: &Parcel, lane: &LaneId) -> Result<(), Answer> {
    let refused = |reason, cause: String| Err(Answer::Refused { reason, cause });
    if parcel.to != *here {
        return refused(
            Reason::Malformed,
            format!("it is for unit {}, this is {here}", parcel.to),
        );
    }
    if parcel.lineage != *table.lineage() {
        return Err(Answer::Later {
            cause: "its table is of another lineage".to_owned(),
        });
    }
    if let Marking::AtReceiver(Way { path, .. }) = &parcel.marking
        && path.contains(here)
    {
        return refused(
            Reason::Hops,
            format!("its path has led through {here} before"),
        );
    }
    if table
        .source(&lane.source)
        .is_some_and(|source| parcel.epoch < source.changed_at)
    {
        return Err(Answer::Moved);
    }
    belongs_here(table, here, parcel)?;
    if table.may_deliver(&lane.source, &parcel.address.exchange) {
        return Ok(());
    }
    let exchange = String::from_utf8_lossy(&parcel.address.exchange).into_owned();
    let cause = format!(
        "no rule of source {} delivers to exchange {exchange:?} here",
        lane.source
    );
    if table.revision() < parcel.revision {
        Err(Answer::Later { cause })
    } else {
        refused(Reason::Rule, cause)
    }
}

/// Whether what goes to an owner goes to the one that this table knows. What is addressed to a unit by its name, or stays
/// where it was taken, is nobody else's.
fn belongs_here(table: &Table, here: &UnitId, parcel: &Parcel) -> Result<(), Answer> {
    let seat = match parcel.why {
        Why::Owner | Why::Standby => parcel.slot.and_then(|slot| table.seat_of(slot)),
        Why::Center => Some(table.center_seat()),
        // By its key, which a parcel doesn't carry: whoever sent it had a table that said so.
        Why::Shared | Why::Local | Why::Units | Why::Gray | Why::Pin => None,
    };
    match seat {
        Some(seat) if seat != here && table.revision() > parcel.revision => Err(Answer::Moved),
        Some(seat) if seat != here => Err(Answer::Later {
            cause: format!("by the table here {seat} serves it, and the parcel's is no older"),
        }),
        // It may have come back here: what was routed before is behind what was delivered elsewhere meanwhile.
        _ if table.is_from_before(parcel) => Err(Answer::Moved),
        Some(_) | None => Ok(()),
    }
}
