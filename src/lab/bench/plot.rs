//! The report as a page: benchmarks.md, with a plot of bars for each kind of figure.

use super::report::{Figures, Report, markdown};
use super::rig::Carrier;
use crate::lab::LabError;
use crate::lab::svg::{COLOURS, Frame, LEFT};
use std::fmt::Write as _;
use std::path::Path;

/// In pixels: of the bars of one cell, and of what is between cells and below them.
const BAR: f64 = 14.0;
const GAP: f64 = 18.0;
const BELOW: f64 = 92.0;

/// One plot.
struct Plot {
    file: &'static str,
    title: &'static str,
    value: fn(&Figures) -> Option<f64>,
    unit: Unit,
}

/// What bars are measured in.
#[derive(Clone, Copy)]
enum Unit {
    /// The figure itself.
    Figure,
    /// The shovel's figure of the same cell.
    Shovel,
}

const PLOTS: [Plot; 4] = [
    Plot {
        file: "benchmark-rate.svg",
        title: "Messages a second (more is better)",
        value: |figures| Some(figures.rate),
        unit: Unit::Figure,
    },
    Plot {
        file: "benchmark-cpu.svg",
        title: "CPU of brokers and gateways, us per message (less is better)",
        value: |figures| Some(figures.cpu_us),
        unit: Unit::Figure,
    },
    Plot {
        file: "benchmark-wire.svg",
        title: "Bytes on the wire per message, as a share of a shovel's (less is better)",
        value: |figures| Some(figures.wire_bytes),
        unit: Unit::Shovel,
    },
    Plot {
        file: "benchmark-latency.svg",
        title: "Latency at half load, p50 in ms (less is better)",
        value: |figures| figures.p50_ms,
        unit: Unit::Figure,
    },
];

pub(super) fn write_file(folder: &Path, name: &str, text: &str) -> Result<(), LabError> {
    let file = folder.join(name);
    std::fs::write(&file, text).map_err(LabError::file("write", &file))
}

/// Writes benchmarks-memory.md.
pub(super) fn write_memory(report: &Report, folder: &Path) -> Result<(), LabError> {
    let mut page = "\
# Memory of a gateway

Made by `setgate-lab bench --cells memory` (`make bench-memory`): the rig of [benchmarks.md](benchmarks.md), 50 ms between the sites:
eight lanes, then two hundred (25 partitions of each source), or as many streams at the other end. A gateway is given 256 MiB by its
`memory:`. MiB are the most that either gateway had resident while the cell's messages were carried.

"
    .to_owned();
    list(&mut page, report);
    page.push_str(&markdown(report));
    write_file(folder, "benchmarks-memory.md", &page)
}

/// The machine.
pub(super) fn list(page: &mut String, report: &Report) {
    for (name, fact) in &report.machine {
        let _ = writeln!(page, "- {name}: {fact}");
    }
    page.push('\n');
}

/// Writes benchmarks.md and its plots into a folder.
pub(super) fn write(report: &Report, folder: &Path) -> Result<(), LabError> {
    let mut page = "\
# Benchmarks

Made by `setgate-lab bench` (`make bench`): two RabbitMQ nodes with a wire between them, each carrier in turn on the same
queues (a quorum queue at the near end, a classic one at the far end), persistent messages, confirmed. setgate runs with its
defaults: journal, quorum lanes, TLS. Rate and CPU are those between the first arrival and the last, CPU that of both brokers
and both gateways; latency is measured at half of the slowest carrier's rate. All figures are medians of the rounds of one
run, and only their ratios say anything about another machine. What a gateway takes of memory is in
[benchmarks-memory.md](benchmarks-memory.md), what it makes of cores in [benchmarks-cores.md](benchmarks-cores.md).

"
    .to_owned();
    list(&mut page, report);
    for plot in &PLOTS {
        if let Some(svg) = draw(report, plot) {
            write_file(folder, plot.file, &svg)?;
            let _ = writeln!(page, "![{}]({})\n", plot.title, plot.file);
        }
    }
    page.push_str(&markdown(report));
    write_file(folder, "benchmarks.md", &page)
}

/// Bars, side by side for each cell; none where no cell has such a figure.
fn draw(report: &Report, plot: &Plot) -> Option<String> {
    let cells: Vec<(&str, Vec<(usize, f64)>)> = report
        .cells
        .iter()
        .filter_map(|measured| {
            let of = |name: &str| (plot.value)(measured.carriers.get(name)?);
            let unit = match plot.unit {
                Unit::Figure => 1.0,
                Unit::Shovel => of(Carrier::Shovel.name())?,
            };
            let bars: Vec<_> = (0..)
                .zip(Carrier::ALL)
                .filter_map(|(number, carrier)| Some((number, of(carrier.name())? / unit)))
                .collect();
            (!bars.is_empty()).then_some((measured.cell.name.as_str(), bars))
        })
        .collect();
    let most = cells
        .iter()
        .flat_map(|(_, bars)| bars.iter().map(|(_, value)| *value))
        .fold(0.0, f64::max);
    if most <= 0.0 {
        return None;
    }
    let cell_width = BAR * Carrier::ALL.len() as f64 + GAP;
    let width = cell_width * cells.len() as f64 + GAP;
    let names = Carrier::ALL.map(Carrier::name);
    let mut frame = Frame::new(plot.title, &names, (width, BELOW), most);
    let floor = frame.floor();
    for (place, (name, bars)) in cells.iter().enumerate() {
        let left = LEFT + GAP / 2.0 + cell_width * place as f64;
        for (number, value) in bars {
            let y = frame.y(*value);
            frame.draw(format_args!(
                "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
                left + BAR * *number as f64,
                BAR - 2.0,
                floor - y,
                COLOURS[*number]
            ));
        }
        let (x, below) = (left + cell_width / 2.0, floor + 14.0);
        frame.draw(format_args!(
            "<text x=\"{x:.1}\" y=\"{below:.1}\" text-anchor=\"end\" transform=\"rotate(-35 {x:.1} {below:.1})\">{name}</text>"
        ));
    }
    Some(frame.finish())
}
