//! What moves are judged by, of a space's keys.

use super::Seen;
use crate::etcd::{BrokerHealth, GatewayRecord, SpaceView};
use crate::failover::{Isolated, Report, UnitView, World};
use crate::gateway::feed::document_files;
use crate::model::{GatewayId, RuleChange, Seats, SpaceId};
use crate::routing::Table;
use crate::rules::{self, Context, DocumentFile, parse, validate};
use std::collections::BTreeMap;

/// The world of a space: homes, seats and gateways of this revision; which units there are, by a table; how long who has been
/// away, as was seen. `None` where a key of the space can't be read.
pub fn world(view: &SpaceView<'_>, table: &Table, seen: &mut Seen) -> Option<World> {
    seen.look(view, table);
    let seats: Seats = serde_json::from_slice(view.seats()?).ok()?;
    let placement = DocumentFile {
        name: "placement".to_owned(),
        text: view.placement()?.to_vec(),
    };
    let placement = parse(&[placement]).0.placement?;
    let homes = placement.homes();
    let pins = placement.pinned().into_iter();
    let pins = pins.map(|(key, unit)| (key.to_owned(), unit.clone()));
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
                read: record.read,
                ungranted: record.ungranted,
                copied: record.copied,
                consumed: record.consumed,
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
        frozen: view.frozen(),
        pins: pins.collect(),
        wish: seen.wish.clone(),
        isolated: match table.failover().isolated.value {
            rules::Isolated::Fence => Isolated::Fences,
            rules::Isolated::Continue => Isolated::GoesOn,
        },
    })
}

/// What a wish is judged by: of the same, the same comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WishedBy {
    documents: String,
    in_force: String,
    placement: Vec<u8>,
}

impl WishedBy {
    pub(super) fn of(view: &SpaceView<'_>) -> Self {
        Self {
            documents: view.documents_hash(),
            in_force: view.in_force_hash(),
            placement: view.placement().unwrap_or_default().to_vec(),
        }
    }
}

/// What the documents ask for that only a move can carry out; `None`: nothing, or they have faults.
pub(super) fn wish(view: &SpaceView<'_>, space: &SpaceId) -> Option<RuleChange> {
    let in_force = document_files(&view.in_force());
    let documents = document_files(&view.documents());
    if in_force.is_empty() || in_force == documents {
        return None;
    }
    let context = Context {
        space: Some(space),
        live_placement: view.placement(),
        in_force: Some(&in_force),
        ..Context::default()
    };
    let validation = validate(&documents, &context);
    let sources = validation.moves.into_iter().map(|one| one.source);
    let change = RuleChange {
        sources: sources.collect(),
        documents: view.documents_hash(),
    };
    (validation.faults.is_empty() && !change.sources.is_empty()).then_some(change)
}

/// Whether some gateway of a unit says that its broker takes confirms.
pub(in crate::gateway) fn is_up(records: Option<&BTreeMap<GatewayId, GatewayRecord>>) -> bool {
    records.is_some_and(|records| {
        let mut brokers = records.values().map(|record| record.broker);
        brokers.any(|broker| broker == BrokerHealth::Up)
    })
}
