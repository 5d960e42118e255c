//! What moves are judged by, of a space's keys.

use super::Seen;
use crate::etcd::{BrokerHealth, GatewayRecord, SpaceView};
use crate::failover::{Isolated, Report, UnitView, World};
use crate::model::{GatewayId, Seats};
use crate::routing::Table;
use crate::rules::{self, DocumentFile, parse};
use std::collections::BTreeMap;

/// The world of a space: homes, seats and gateways of this revision; which units there are, by a table; how long who has been
/// away, as was seen. `None` where a key of the space can't be read.
pub fn world(view: &SpaceView<'_>, table: &Table, seen: &Seen) -> Option<World> {
    let seats: Seats = serde_json::from_slice(view.seats()?).ok()?;
    let placement = DocumentFile {
        name: "placement".to_owned(),
        text: view.placement()?.to_vec(),
    };
    let homes = parse(&[placement]).0.placement?.homes();
    let gateways = view.gateways();
    let units = table.units().iter().map(|unit| {
        let view = UnitView {
            slots: homes.get(&unit.name).cloned().unwrap_or_default(),
            consumes: unit.consumes,
            up: is_up(gateways.get(&unit.name)),
            down_for: seen.down_for(&unit.name),
            site: unit.site.to_string(),
            city: unit.city.to_string(),
            standby: unit.standby.clone(),
        };
        (unit.name.clone(), view)
    });
    let units = units.collect();
    let reports = gateways.into_iter().flat_map(|(unit, records)| {
        records.into_iter().map(move |(gateway, record)| {
            let report = Report {
                revision: record.revision,
                drained: record.drained,
                ungranted: record.ungranted,
            };
            ((unit.clone(), gateway), report)
        })
    });
    let members = view.members().into_iter();
    Some(World {
        units,
        stand_ins: seats.stand_ins,
        members: members
            .map(|member| {
                let away_for = seen.away_for(&member);
                (member, away_for)
            })
            .collect(),
        reports: reports.collect(),
        isolated: match table.failover().isolated.value {
            rules::Isolated::Fence => Isolated::Fences,
            rules::Isolated::Continue => Isolated::GoesOn,
        },
    })
}

/// Whether some gateway of a unit says that its broker takes confirms.
pub(super) fn is_up(records: Option<&BTreeMap<GatewayId, GatewayRecord>>) -> bool {
    records.is_some_and(|records| {
        let mut brokers = records.values().map(|record| record.broker);
        brokers.any(|broker| broker == BrokerHealth::Up)
    })
}
