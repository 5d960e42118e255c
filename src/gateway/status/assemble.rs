//! The space's status, put together of what several gateways answered.
//!
//! Pure. The newest table names the units; a gateway that doesn't answer is shown as down with the cause, never left
//! out.

use super::{
    Asked, FenceLine, GatewayLine, GatewayStatus, LaneLine, LinkLine, LinkState, SpaceStatus,
    TableFacts, UnitFacts, UnitState, UnitStatus, UpDown,
};
use crate::model::{Change, Epoch, Lineage, MoveId, Revision, SlotSet, SpaceId, UnitId};
use std::collections::{BTreeMap, BTreeSet};

/// Puts the space's status together. `etcd` is whether it answers whoever asks.
pub fn assemble(space: &SpaceId, etcd: UpDown, asked: &[Asked]) -> SpaceStatus {
    let answers = || asked.iter().filter_map(|one| one.answer.as_ref().ok());
    // The highest epoch, then the highest revision: among gateways of one lineage that is the newest table.
    let table = answers()
        .filter_map(|status| status.table.as_ref())
        .max_by_key(|table| (table.epoch, table.revision));
    let mut units: BTreeMap<&UnitId, Option<&UnitFacts>> = BTreeMap::new();
    for one in asked {
        units.insert(&one.unit, None);
    }
    for facts in table.into_iter().flat_map(|table| &table.units) {
        units.insert(&facts.unit, Some(facts));
    }
    let moves = table.map_or_else(Vec::new, |table| table.moves.clone());
    let faults: BTreeSet<_> = answers()
        .flat_map(|status| status.faults.iter().cloned())
        .collect();
    SpaceStatus {
        space: space.clone(),
        lineage: table.map_or_else(Lineage::default, |table| table.lineage.clone()),
        epoch: table.map_or_else(Epoch::default, |table| table.epoch),
        revision: table.map_or_else(Revision::default, |table| table.revision),
        etcd,
        units: units
            .into_iter()
            .map(|(unit, facts)| unit_status(unit, facts, table, etcd, asked))
            .collect(),
        fences: moves
            .iter()
            .filter(|one| one.stage.fences())
            .map(|one| fence(one.id, &one.change))
            .collect(),
        moves,
        faults: faults.into_iter().collect(),
    }
}

fn unit_status(
    unit: &UnitId,
    facts: Option<&UnitFacts>,
    table: Option<&TableFacts>,
    etcd: UpDown,
    asked: &[Asked],
) -> UnitStatus {
    let gateways: Vec<GatewayLine> = asked
        .iter()
        .filter(|one| one.unit == *unit)
        .map(gateway_line)
        .collect();
    let own: Vec<&GatewayStatus> = asked
        .iter()
        .filter(|one| one.unit == *unit)
        .filter_map(|one| one.answer.as_ref().ok())
        .collect();
    let state = if gateways.is_empty() {
        unasked(unit, etcd, asked)
    } else if gateways
        .iter()
        .any(|line| line.state == UpDown::Up && line.broker == UpDown::Up)
    {
        // It is well, and another one serves what it owns until that is given back.
        let mut others = table.iter().flat_map(|table| &table.units);
        if others.any(|other| other.unit != *unit && other.seat_of.contains(unit)) {
            UnitState::Fenced
        } else {
            UnitState::Up
        }
    } else {
        UnitState::Doubtful
    };
    // A link that nobody has tried yet is a link all the same: the table says where this unit can send to.
    let mut to: BTreeSet<&UnitId> = own
        .iter()
        .flat_map(|status| status.links.iter().map(|link| &link.to))
        .collect();
    if !own.is_empty() {
        to.extend(
            table
                .into_iter()
                .flat_map(|table| table.units.iter().map(|facts| &facts.unit)),
        );
    }
    to.remove(unit);
    UnitStatus {
        unit: unit.clone(),
        site: facts.map(|facts| facts.site.clone()),
        state,
        seat_of: facts.map_or_else(Vec::new, |facts| facts.seat_of.clone()),
        gateways,
        links: to.into_iter().map(|to| link_line(to, &own)).collect(),
        lanes: lanes(&own),
    }
}

/// A unit none of whose gateways could be asked. With etcd there is none; without it, nobody knows, unless a link is up.
fn unasked(unit: &UnitId, etcd: UpDown, asked: &[Asked]) -> UnitState {
    let mut links = asked
        .iter()
        .filter_map(|one| one.answer.as_ref().ok())
        .flat_map(|status| &status.links);
    match etcd {
        UpDown::Up => UnitState::Down,
        UpDown::Down if links.any(|link| link.to == *unit && link.state == LinkState::Up) => {
            UnitState::Up
        }
        UpDown::Down => UnitState::Doubtful,
    }
}

fn gateway_line(one: &Asked) -> GatewayLine {
    match &one.answer {
        Ok(status) => {
            let table = status.table.as_ref();
            let broken = status
                .brokers
                .iter()
                .find_map(|line| (line.state == UpDown::Down).then_some(line.cause.as_deref()));
            let blocked = status
                .brokers
                .iter()
                .find_map(|line| line.blocked.as_deref());
            let cause = match (broken, blocked) {
                (Some(cause), _) => Some(format!("broker: {}", cause.unwrap_or("down"))),
                (None, Some(reason)) => Some(format!("broker blocks publishers: {reason}")),
                (None, None) => status
                    .etcd_cause
                    .as_ref()
                    .map(|cause| format!("etcd: {cause}")),
            };
            let connected = broken.is_none() && !status.brokers.is_empty();
            GatewayLine {
                gateway: one.gateway.clone(),
                state: UpDown::Up,
                version: Some(status.version.clone()),
                epoch: table.map(|table| table.epoch),
                revision: table.map(|table| table.revision),
                broker: if connected { UpDown::Up } else { UpDown::Down },
                cause,
            }
        }
        Err(cause) => GatewayLine {
            gateway: one.gateway.clone(),
            state: UpDown::Down,
            version: None,
            epoch: None,
            revision: None,
            broker: UpDown::Down,
            cause: Some(cause.clone()),
        },
    }
}

fn link_line(to: &UnitId, own: &[&GatewayStatus]) -> LinkLine {
    let peers = || {
        own.iter()
            .flat_map(|status| &status.links)
            .filter(|link| link.to == *to)
    };
    let targets = || {
        let lanes = own.iter().flat_map(|status| &status.lanes);
        lanes
            .flat_map(|lane| &lane.facts.targets)
            .filter(|target| target.to == *to)
    };
    let state = peers()
        .map(|link| link.state)
        .max()
        .unwrap_or(LinkState::Down);
    let link_cause = match state {
        // It carries parcels, and perhaps fewer than there are.
        LinkState::Up => peers()
            .filter(|link| link.state == LinkState::Up)
            .find_map(|link| link.cause.clone()),
        LinkState::Down | LinkState::Opening | LinkState::Draining => {
            peers().find_map(|link| link.cause.clone()).or_else(|| {
                let known = peers().next().is_some();
                let cause = if known {
                    "its gateways are being connected"
                } else {
                    "no gateway of that unit is known"
                };
                Some(cause.to_owned())
            })
        }
    };
    LinkLine {
        to: to.clone(),
        state,
        lag_ms: targets().map(|target| target.lag_ms).max().unwrap_or(0),
        rtt_ms: peers().filter_map(|link| link.rtt_ms).min(),
        in_flight: targets().map(|target| target.in_flight).sum(),
        diverted: targets()
            .filter_map(|target| target.diversion.as_ref())
            .map(|diversion| diversion.messages)
            .sum(),
        cause: link_cause.or_else(|| targets().find_map(|target| target.cause.clone())),
    }
}

fn lanes(own: &[&GatewayStatus]) -> Vec<LaneLine> {
    let mut lines: Vec<LaneLine> = own
        .iter()
        .flat_map(|status| {
            status.lanes.iter().map(|lane| LaneLine {
                source: lane.source.clone(),
                partition: lane.partition,
                gateway: status.gateway.clone(),
                state: lane.facts.state,
                in_flight: lane.facts.in_flight,
                cause: lane.facts.cause.clone(),
            })
        })
        .collect();
    lines.sort_by(|a, b| {
        (&a.source, a.partition, &a.gateway).cmp(&(&b.source, b.partition, &b.gateway))
    });
    lines
}

fn fence(id: MoveId, change: &Change) -> FenceLine {
    let (slots, sources) = match change {
        Change::Seats(seats) => (seats.slots.clone(), BTreeSet::new()),
        Change::Rules(rules) => (SlotSet::empty(), rules.sources.clone()),
    };
    FenceLine { slots, sources, id }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::status::{LaneFacts, LaneState, StatusHub, TargetLine};
    use crate::model::{GatewayId, Partition, SiteId, SourceName};

    fn unit(name: &str) -> UnitId {
        UnitId::parse(name).unwrap()
    }

    fn space() -> SpaceId {
        SpaceId::parse("trade").unwrap()
    }

    fn table(revision: i64) -> TableFacts {
        let units = ["bj-1", "sh-1", "sh-2"].map(|name| UnitFacts {
            unit: unit(name),
            site: SiteId::parse("site").unwrap(),
            seat_of: vec![unit(name)],
        });
        TableFacts {
            lineage: Lineage("one".into()),
            epoch: Epoch(1),
            revision: Revision(revision),
            units: units.to_vec(),
            moves: Vec::new(),
        }
    }

    fn answering(of: &str, gateway: &str, revision: i64) -> Asked {
        let gateway = GatewayId::parse(gateway).unwrap();
        let hub = StatusHub::new(space(), unit(of), gateway.clone());
        hub.etcd_up();
        hub.set_table(table(revision));
        hub.broker_up("/", None);
        let peer = GatewayId::parse("bj-1-a").unwrap();
        hub.set_link(&unit("bj-1"), &peer, LinkState::Up, Some(30), None);
        let target = TargetLine {
            to: unit("bj-1"),
            in_flight: 7,
            lag_ms: 40,
            cause: None,
            diversion: None,
        };
        let facts = LaneFacts {
            state: LaneState::Taking,
            in_flight: 9,
            cause: None,
            targets: vec![target],
        };
        hub.set_lane(&SourceName::parse("orders").unwrap(), Partition(0), facts);
        Asked {
            unit: unit(of),
            gateway,
            answer: Ok(hub.snapshot()),
        }
    }

    #[test]
    fn units_states_and_sums_follow_from_the_answers() {
        let silent = Asked {
            unit: unit("sh-2"),
            gateway: GatewayId::parse("sh-2-a").unwrap(),
            answer: Err("no answer within 3s".to_owned()),
        };
        let asked = [
            answering("sh-1", "sh-1-a", 4),
            answering("sh-1", "sh-1-b", 5),
            silent,
        ];
        let status = assemble(&space(), UpDown::Up, &asked);
        assert_eq!(status.revision, Revision(5));
        let seen: Vec<_> = status.units.iter().map(|unit| unit.state).collect();
        assert_eq!(seen, [UnitState::Down, UnitState::Up, UnitState::Doubtful]);
        let sh1 = &status.units[1];
        let to_bj = sh1
            .links
            .iter()
            .find(|link| link.to == unit("bj-1"))
            .unwrap();
        assert_eq!(
            (to_bj.state, to_bj.in_flight, to_bj.lag_ms),
            (LinkState::Up, 14, 40)
        );
        let to_sh2 = sh1
            .links
            .iter()
            .find(|link| link.to == unit("sh-2"))
            .unwrap();
        assert_eq!(to_sh2.state, LinkState::Down);
        assert!(to_sh2.cause.is_some());
        assert_eq!(sh1.lanes.len(), 2);
        assert_eq!(
            status.units[2].gateways[0].cause.as_deref(),
            Some("no answer within 3s")
        );
    }

    #[test]
    fn a_unit_that_is_well_and_stood_in_for_is_fenced() {
        let mut asked = answering("sh-1", "sh-1-a", 4);
        if let Ok(status) = &mut asked.answer {
            let units = &mut status.table.as_mut().unwrap().units;
            units[1].seat_of.clear();
            units[2].seat_of.push(unit("sh-1"));
        }
        let status = assemble(&space(), UpDown::Up, &[asked]);
        let seen: Vec<_> = status.units.iter().map(|unit| unit.state).collect();
        assert_eq!(seen, [UnitState::Down, UnitState::Fenced, UnitState::Down]);
    }

    #[test]
    fn with_etcd_away_a_unit_is_judged_by_the_links_to_it() {
        let status = assemble(&space(), UpDown::Down, &[answering("sh-1", "sh-1-a", 4)]);
        let seen: Vec<_> = status.units.iter().map(|unit| unit.state).collect();
        assert_eq!(seen, [UnitState::Up, UnitState::Up, UnitState::Doubtful]);
    }

    #[test]
    fn the_document_has_the_published_fields() {
        let status = assemble(&space(), UpDown::Down, &[answering("sh-1", "sh-1-a", 4)]);
        let json = serde_json::to_value(&status).unwrap();
        for field in [
            "space", "lineage", "epoch", "revision", "etcd", "units", "fences", "moves", "faults",
        ] {
            assert!(json.get(field).is_some(), "{field}");
        }
        assert_eq!(json["etcd"], "down");
        let unit = &json["units"][1];
        for field in [
            "unit", "site", "state", "seat_of", "gateways", "links", "lanes",
        ] {
            assert!(unit.get(field).is_some(), "{field}");
        }
        for field in [
            "to",
            "state",
            "lag_ms",
            "rtt_ms",
            "in_flight",
            "diverted",
            "cause",
        ] {
            assert!(unit["links"][0].get(field).is_some(), "{field}");
        }
        for field in [
            "source",
            "partition",
            "gateway",
            "state",
            "in_flight",
            "cause",
        ] {
            assert!(unit["lanes"][0].get(field).is_some(), "{field}");
        }
        let back: SpaceStatus = serde_json::from_value(json).unwrap();
        assert_eq!(back, status);
    }
}
