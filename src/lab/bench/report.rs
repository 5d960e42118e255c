//! What a benchmark found: medians of its rounds, ratios, and which targets were met.

use super::cell::Cell;
use super::measure::{Idle, Latency, Sample};
use super::rig::Carrier;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// All of it; its JSON is the command's.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Whether every cell and round was run.
    pub(super) complete: bool,
    /// The machine and the versions.
    pub(super) machine: BTreeMap<String, String>,
    /// A gateway with nothing to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) idle: Option<Idle>,
    /// In the order of measurement.
    pub(super) cells: Vec<Measured>,
    /// What was to be reached.
    pub(super) targets: Vec<Target>,
}

/// A cell and what each carrier made of it.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    #[serde(flatten)]
    pub(super) cell: Cell,
    /// Messages a second while latency was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) latency_rate: Option<f64>,
    /// A publish straight to the far broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) direct: Option<Latency>,
    #[serde(flatten)]
    pub(super) carriers: BTreeMap<&'static str, Figures>,
}

/// Medians of the rounds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figures {
    pub(super) rate: f64,
    /// Slowest and fastest round.
    pub(super) rate_spread: [f64; 2],
    pub(super) cpu_us: f64,
    pub(super) gateway_cpu_us: Option<f64>,
    pub(super) broker_cpu_us: [f64; 2],
    pub(super) wire_bytes: f64,
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
    pub(super) rss_mib: Option<f64>,
}

/// One thing to be reached.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Target {
    pub(super) name: String,
    /// `>= 1.3` or `<= 15`.
    pub(super) goal: String,
    /// `None`: its cell wasn't measured.
    pub(super) value: Option<f64>,
    pub(super) met: bool,
}

impl Figures {
    /// The medians, each figure by itself.
    pub(super) fn of(samples: &[Sample], latencies: &[Latency]) -> Self {
        let of = |read: fn(&Sample) -> f64| median(samples.iter().map(read));
        let maybe = |read: fn(&Sample) -> Option<f64>| {
            let present: Vec<f64> = samples.iter().filter_map(read).collect();
            (!present.is_empty()).then(|| median(present.into_iter()))
        };
        let late = |read: fn(&Latency) -> f64| {
            (!latencies.is_empty()).then(|| median(latencies.iter().map(read)))
        };
        let rates = || samples.iter().map(|sample| sample.rate);
        Self {
            rate: of(|sample| sample.rate),
            rate_spread: [
                rates().fold(f64::INFINITY, f64::min),
                rates().fold(0.0, f64::max),
            ],
            cpu_us: of(|sample| sample.cpu_us),
            gateway_cpu_us: maybe(|sample| sample.gateway_cpu_us),
            broker_cpu_us: [
                of(|sample| sample.broker_cpu_us[0]),
                of(|sample| sample.broker_cpu_us[1]),
            ],
            wire_bytes: of(|sample| sample.wire_bytes),
            p50_ms: late(|latency| latency.p50_ms),
            p99_ms: late(|latency| latency.p99_ms),
            rss_mib: maybe(|sample| sample.rss_mib),
        }
    }
}

/// The middle one, or the mean of the two in the middle.
pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// What a lab's gateways are given: `memory:` in their gateway.yaml.
const MEMORY_MIB: f64 = 256.0;

/// How a value is compared with its goal.
#[derive(Debug, Clone, Copy)]
enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

/// What is to be reached, from the cells that were measured.
pub(super) fn targets(cells: &[Measured], idle: Option<Idle>) -> Vec<Target> {
    let shovel = Carrier::Shovel.name();
    let tuned = Carrier::ShovelTuned.name();
    let rate = |figures: &Figures| figures.rate;
    let cpu = |figures: &Figures| figures.cpu_us;
    let wire = |figures: &Figures| figures.wire_bytes;
    let find = |cell: &str| cells.iter().find(|measured| measured.cell.name == cell);
    let ratio = |cell: &str, other: &str, read: fn(&Figures) -> f64| {
        let carriers = &find(cell)?.carriers;
        let (own, other) = (carriers.get("setgate")?, carriers.get(other)?);
        Some(read(own) / read(other))
    };
    let own =
        |cell: &str, read: fn(&Figures) -> Option<f64>| read(find(cell)?.carriers.get("setgate")?);
    let added = |cell: &str, read: fn(&Figures) -> Option<f64>, direct: fn(&Latency) -> f64| {
        let measured = find(cell)?;
        let half_way = measured.cell.rtt_ms as f64 / 2.0;
        Some(own(cell, read)? - direct(measured.direct.as_ref()?) - half_way)
    };
    let mut targets = Vec::new();
    let mut add = |name: String, goal: Goal, value: Option<f64>| {
        let met = value.is_some_and(|value| match goal {
            Goal::AtLeast(least) => value >= least,
            // None of them can be below zero but a latency beside a direct publish that was disturbed.
            Goal::AtMost(most) => (0.0..=most).contains(&value),
        });
        let goal = match goal {
            Goal::AtLeast(least) => format!(">= {least}"),
            Goal::AtMost(most) => format!("<= {most}"),
        };
        targets.push(Target {
            name,
            goal,
            value,
            met,
        });
    };
    for other in [shovel, tuned] {
        let near = "near-8-queues";
        add(
            format!("8 queues, near: rate / {other}"),
            Goal::AtLeast(1.3),
            ratio(near, other, rate),
        );
        add(
            format!("8 queues, near: CPU of everything / {other}"),
            Goal::AtMost(0.85),
            ratio(near, other, cpu),
        );
    }
    add(
        "8 queues, near: CPU of both gateways, us".to_owned(),
        Goal::AtMost(15.0),
        own("near-8-queues", |figures| figures.gateway_cpu_us),
    );
    for (cell, times) in [("100ms", 1.5), ("200ms", 2.5), ("100ms-1%", 2.5)] {
        add(
            format!("{cell}: rate / {shovel}"),
            Goal::AtLeast(times),
            ratio(cell, shovel, rate),
        );
        add(
            format!("{cell}: rate / {tuned}"),
            Goal::AtLeast(1.0),
            ratio(cell, tuned, rate),
        );
    }
    for other in [shovel, tuned] {
        let all = cells.iter();
        let least = all
            .filter_map(|measured| ratio(&measured.cell.name, other, rate))
            .reduce(f64::min);
        add(
            format!("any cell: rate / {other}"),
            Goal::AtLeast(0.95),
            least,
        );
        add(
            format!("20mbit: rate / {other}"),
            Goal::AtLeast(3.0),
            ratio("20mbit", other, rate),
        );
        add(
            format!("20mbit: bytes on the wire / {other}"),
            Goal::AtMost(0.3),
            ratio("20mbit", other, wire),
        );
    }
    for cell in ["near", "100ms"] {
        add(
            format!("{cell}: p50 added to a direct publish and half the round trip, ms"),
            Goal::AtMost(2.0),
            added(cell, |figures| figures.p50_ms, |direct| direct.p50_ms),
        );
        add(
            format!("{cell}: p99 added to a direct publish and half the round trip, ms"),
            Goal::AtMost(10.0),
            added(cell, |figures| figures.p99_ms, |direct| direct.p99_ms),
        );
    }
    add(
        "an idle gateway with eight lanes: MiB".to_owned(),
        Goal::AtMost(50.0),
        idle.map(|idle| idle.rss_mib),
    );
    add(
        "an idle gateway with eight lanes: % of a core".to_owned(),
        Goal::AtMost(0.5),
        idle.map(|idle| idle.cpu_percent),
    );
    targets
}

/// What a gateway may take of memory in the cells that are about that.
pub(super) fn memory_targets(cells: &[Measured]) -> Vec<Target> {
    let target = |measured: &Measured| {
        let value = measured.carriers.get("setgate")?.rss_mib;
        Some(Target {
            name: format!("{}: most memory of a gateway, MiB", measured.cell.name),
            goal: format!("<= {MEMORY_MIB}"),
            value,
            met: value.is_some_and(|value| value <= MEMORY_MIB),
        })
    };
    cells.iter().filter_map(target).collect()
}

/// For people: a table of the cells and one of the targets.
pub(super) fn markdown(report: &Report) -> String {
    let mut text = String::new();
    if !report.complete {
        text.push_str("**Not complete**: the run was interrupted or broke off.\n\n");
    }
    text.push_str(
        "| cell | carrier | messages/s | spread | CPU us | gateways us | bytes on the wire | p50 ms | p99 ms | MiB |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(String::new, |value| format!("{value:.digits$}"))
    };
    for measured in &report.cells {
        if let Some(direct) = measured.direct {
            let _ = writeln!(
                text,
                "| {} | direct publish | | | | | | {:.1} | {:.1} | |",
                measured.cell.name, direct.p50_ms, direct.p99_ms
            );
        }
        for (carrier, figures) in &measured.carriers {
            let _ = writeln!(
                text,
                "| {} | {carrier} | {:.0} | {:.0} to {:.0} | {:.0} | {} | {:.0} | {} | {} | {} |",
                measured.cell.name,
                figures.rate,
                figures.rate_spread[0],
                figures.rate_spread[1],
                figures.cpu_us,
                number(figures.gateway_cpu_us, 1),
                figures.wire_bytes,
                number(figures.p50_ms, 1),
                number(figures.p99_ms, 1),
                number(figures.rss_mib, 0),
            );
        }
    }
    if !report.targets.is_empty() {
        text.push_str("\n| target | goal | value | |\n|---|---|---|---|\n");
    }
    for target in &report.targets {
        let (value, met) = match target.value {
            Some(value) if target.met => (format!("{value:.2}"), "met"),
            Some(value) => (format!("{value:.2}"), "missed"),
            None => (String::new(), "not measured"),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {value} | {met} |",
            target.name, target.goal
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::cell;
    use super::*;

    fn figures(rate: f64) -> Figures {
        let sample = Sample {
            rate,
            cpu_us: 100.0,
            gateway_cpu_us: Some(12.0),
            ..Sample::default()
        };
        let latency = Latency {
            p50_ms: 3.0,
            p99_ms: 9.0,
        };
        Figures::of(&[sample], &[latency])
    }

    fn measured(name: &str, setgate: f64, shovel: f64) -> Measured {
        let cell = cell::named().into_iter().find(|cell| cell.name == name);
        Measured {
            cell: cell.unwrap(),
            latency_rate: None,
            direct: Some(Latency {
                p50_ms: 1.5,
                p99_ms: 4.0,
            }),
            carriers: [("setgate", figures(setgate)), ("shovel", figures(shovel))].into(),
        }
    }

    #[test]
    fn a_target_is_met_or_missed_by_the_ratio_of_one_run_and_one_without_its_cell_is_missed() {
        let cells = [
            measured("near-8-queues", 13_000.0, 10_000.0),
            measured("near", 9_000.0, 10_000.0),
        ];
        let targets = targets(&cells, None);
        let find = |name: &str| targets.iter().find(|target| target.name == name).unwrap();
        let rate = find("8 queues, near: rate / shovel");
        assert_eq!((rate.value, rate.met), (Some(1.3), true));
        let any = find("any cell: rate / shovel");
        assert_eq!((any.value, any.met), (Some(0.9), false));
        let added = find("near: p50 added to a direct publish and half the round trip, ms");
        assert_eq!((added.value, added.met), (Some(1.5), true));
        let absent = find("200ms: rate / shovel");
        assert_eq!((absent.value, absent.met), (None, false));
    }

    #[test]
    fn a_latency_below_that_of_a_direct_publish_meets_no_target() {
        let mut disturbed = measured("near", 9_000.0, 10_000.0);
        disturbed.direct = Some(Latency {
            p50_ms: 1.5,
            p99_ms: 600.0,
        });
        let targets = targets(&[disturbed], None);
        let p99 = targets.iter().find(|target| target.name.contains("p99"));
        assert_eq!(
            p99.map(|target| (target.value, target.met)),
            Some((Some(-591.0), false))
        );
    }

    #[test]
    fn a_median_is_the_middle_of_its_values() {
        assert!((median([3.0, 1.0, 2.0].into_iter()) - 2.0).abs() < f64::EPSILON);
        assert!((median([4.0, 1.0].into_iter()) - 2.5).abs() < f64::EPSILON);
    }
}
