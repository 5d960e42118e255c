//! What is looked at before a parcel is published: this unit's table, the parcel's path, the exchange.
//!
//! Promises that nothing is published where no rule delivers, for a slot that another unit serves, or to an exchange that
//! isn't there. Publishes nothing itself.

use crate::amqp::RawValue;
use crate::broker::{self, BrokerError, Connection};
use crate::model::{Answer, LaneId, Parcel, Reason, UnitId, Why};
use crate::routing::Table;
use bytes::Bytes;
use std::collections::HashSet;

/// What this unit's table says of a parcel before it is published here.
pub(super) fn check(
    table: &Table,
    here: &UnitId,
    parcel: &Parcel,
    lane: &LaneId,
) -> Result<(), Answer> {
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
    let visits = path_visits(parcel, here);
    if visits != Some(1) {
        return refused(
            Reason::Hops,
            format!("its path doesn't lead to {here} once, at its end"),
        );
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
        // Gray shares and pins are not in the table yet.
        Why::Shared | Why::Local | Why::Units | Why::Gray | Why::Pin => None,
    };
    match seat {
        Some(seat) if seat != here && table.revision() > parcel.revision => Err(Answer::Moved),
        Some(seat) if seat != here => Err(Answer::Later {
            cause: format!("by the table here {seat} serves it, and the parcel's is no older"),
        }),
        Some(_) | None => Ok(()),
    }
}

/// How often `here` occurs in the parcel's path, which has to end with it.
fn path_visits(parcel: &Parcel, here: &UnitId) -> Option<usize> {
    let path = parcel.properties.header(crate::model::marks::X_SET_PATH)?;
    let units: Vec<_> = path.as_array()?.collect::<Result<_, _>>().ok()?;
    let is_here = |value: &&RawValue<'_>| value.as_bytes() == Some(here.as_str().as_bytes());
    units.last().filter(is_here)?;
    Some(units.iter().filter(is_here).count())
}

/// The exchanges that a stream has found to be there.
pub(super) struct Exchanges<'a> {
    connection: &'a Connection,
    /// As many as the source's rules name at most: others are refused before.
    found: HashSet<Bytes>,
}

impl<'a> Exchanges<'a> {
    pub(super) fn new(connection: &'a Connection) -> Self {
        Self {
            connection,
            found: HashSet::new(),
        }
    }

    /// An exchange that is missing would end the channel, and with it the answers of all that was published before: that
    /// would be published again at each new attempt.
    pub(super) async fn has(&mut self, exchange: &Bytes) -> Result<(), Answer> {
        if self.found.contains(exchange) {
            return Ok(());
        }
        let cause = match broker::exchange_exists(self.connection, exchange).await {
            Ok(true) => {
                self.found.insert(exchange.clone());
                return Ok(());
            }
            Ok(false) => format!(
                "there is no exchange {:?} in vhost {}: declare it",
                String::from_utf8_lossy(exchange),
                self.connection.vhost()
            ),
            // No rule names such an exchange, but a message of a foreign queue may.
            Err(error @ BrokerError::Unencodable { .. }) => {
                return Err(Answer::Refused {
                    reason: Reason::Malformed,
                    cause: error.to_string(),
                });
            }
            Err(error) => error.to_string(),
        };
        Err(Answer::Later { cause })
    }
}
