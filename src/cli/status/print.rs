//! A space's status for a terminal of 80 to 120 columns.

use crate::gateway::status::{LaneState, LinkState, SpaceStatus, UnitState, UpDown};
use crate::model::UnitId;
use comfy_table::{Cell, Color, ContentArrangement, Table};
use std::fmt::Write as _;

/// Where there is no terminal to ask.
const WIDTH: u16 = 110;

pub(super) fn text(status: &SpaceStatus) -> String {
    let etcd = word(status.etcd);
    let mut out = format!(
        "space {}   epoch {}   revision {}   etcd {etcd}\n",
        status.space, status.epoch, status.revision
    );
    if status.units.is_empty() {
        out.push_str(
            "\nno gateway is registered yet; start one with `setgate run --config gateway.yaml`\n",
        );
        return out;
    }
    section(&mut out, "units", Some(units(status)));
    section(&mut out, "links", links(status));
    section(&mut out, "lanes", lanes(status));
    section(&mut out, "moves", moves(status));
    if !status.faults.is_empty() {
        out.push_str("\nfaults\n");
        for fault in &status.faults {
            // Writing to a string can't fail.
            let _ = writeln!(
                out,
                "  {}: {}\n      {}",
                fault.subject, fault.message, fault.mend
            );
        }
    }
    out
}

fn section(out: &mut String, title: &str, table: Option<Table>) {
    if let Some(table) = table {
        let _ = write!(out, "\n{title}\n{}\n", table.trim_fmt());
    }
}

fn moves(status: &SpaceStatus) -> Option<Table> {
    let mut table = table(&["move", "stage", "of"]);
    for one in &status.moves {
        table.add_row([
            Cell::new(one.id),
            Cell::new(one.stage),
            Cell::new(&one.change),
        ]);
    }
    (!status.moves.is_empty()).then_some(table)
}

/// A table as all commands print theirs.
pub(in crate::cli) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if table.width().is_none() {
        table.set_width(WIDTH);
    }
    table.set_header(
        header
            .iter()
            .map(|word| Cell::new(word).fg(Color::DarkGrey)),
    );
    table
}

fn units(status: &SpaceStatus) -> Table {
    let mut table = table(&[
        "unit", "site", "state", "serves", "gateway", "", "broker", "revision", "cause",
    ]);
    for unit in &status.units {
        let site = unit.site.as_ref().map_or("-", |site| site.as_str());
        let serves: Vec<_> = unit.seat_of.iter().map(UnitId::as_str).collect();
        let head = [
            Cell::new(&unit.unit),
            Cell::new(site),
            unit_state(unit.state),
            Cell::new(serves.join(" ")),
        ];
        if unit.gateways.is_empty() {
            table.add_row(head.into_iter().chain([Cell::new("none registered")]));
            continue;
        }
        for (n, gateway) in unit.gateways.iter().enumerate() {
            let head = if n == 0 {
                head.clone()
            } else {
                [(); 4].map(|()| Cell::new(""))
            };
            let revision = gateway
                .revision
                .map_or_else(|| "-".to_owned(), |revision| revision.to_string());
            table.add_row(head.into_iter().chain([
                Cell::new(&gateway.gateway),
                up_down(gateway.state),
                up_down(gateway.broker),
                Cell::new(revision),
                Cell::new(gateway.cause.as_deref().unwrap_or("")),
            ]));
        }
    }
    table
}

fn links(status: &SpaceStatus) -> Option<Table> {
    let mut table = table(&[
        "from",
        "to",
        "state",
        "round trip",
        "lag",
        "in flight",
        "cause",
    ]);
    for unit in &status.units {
        for link in &unit.links {
            let color = match link.state {
                LinkState::Up => Color::Green,
                LinkState::Opening | LinkState::Draining => Color::Yellow,
                LinkState::Down => Color::Red,
            };
            let state = match link.state {
                LinkState::Up => "up",
                LinkState::Opening => "opening",
                LinkState::Draining => "draining",
                LinkState::Down => "down",
            };
            table.add_row([
                Cell::new(&unit.unit),
                Cell::new(&link.to),
                Cell::new(state).fg(color),
                Cell::new(
                    link.rtt_ms
                        .map_or_else(|| "-".to_owned(), |rtt| format!("{rtt} ms")),
                ),
                Cell::new(format!("{} ms", link.lag_ms)),
                Cell::new(link.in_flight),
                Cell::new(link.cause.as_deref().unwrap_or("")),
            ]);
        }
    }
    (!table.is_empty()).then_some(table)
}

fn lanes(status: &SpaceStatus) -> Option<Table> {
    let mut table = table(&["unit", "lane", "gateway", "state", "in flight", "cause"]);
    for unit in &status.units {
        for lane in &unit.lanes {
            let (word, color) = match lane.state {
                LaneState::Opening => ("opening", Color::Grey),
                LaneState::Taking => ("taking", Color::Green),
                LaneState::Waiting => ("waiting", Color::Grey),
                LaneState::Held => ("held", Color::Yellow),
                LaneState::Draining => ("draining", Color::Yellow),
                LaneState::Retired => ("retired", Color::Grey),
                LaneState::Down => ("down", Color::Red),
            };
            table.add_row([
                Cell::new(&unit.unit),
                Cell::new(format!("{}/{}", lane.source, lane.partition)),
                Cell::new(&lane.gateway),
                Cell::new(word).fg(color),
                Cell::new(lane.in_flight),
                Cell::new(lane.cause.as_deref().unwrap_or("")),
            ]);
        }
    }
    (!table.is_empty()).then_some(table)
}

const fn word(state: UpDown) -> &'static str {
    match state {
        UpDown::Up => "up",
        UpDown::Down => "down",
    }
}

fn up_down(state: UpDown) -> Cell {
    Cell::new(word(state)).fg(match state {
        UpDown::Up => Color::Green,
        UpDown::Down => Color::Red,
    })
}

fn unit_state(state: UnitState) -> Cell {
    let (word, color) = match state {
        UnitState::Up => ("up", Color::Green),
        UnitState::Doubtful => ("doubtful", Color::Yellow),
        UnitState::Down => ("down", Color::Red),
        UnitState::Fenced => ("fenced", Color::Yellow),
    };
    Cell::new(word).fg(color)
}
