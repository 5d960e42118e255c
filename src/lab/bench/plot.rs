//! The report as a page: benchmarks.md, with a plot of bars for each kind of figure.

use super::report::{Figures, Report, markdown};
use super::rig::Carrier;
use crate::lab::LabError;
use std::fmt::Write as _;
use std::path::Path;

/// In pixels: of the bars of one cell, and of all that is around them.
const BAR: f64 = 14.0;
const GAP: f64 = 18.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 92.0;
/// Told apart by people who see no red or green too, on light and dark pages.
const COLOURS: [&str; 4] = ["#0072b2", "#e69f00", "#cc79a7", "#999999"];

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

/// Writes benchmarks.md and its plots into a folder.
pub(super) fn write(report: &Report, folder: &Path) -> Result<(), LabError> {
    let write = |name: &str, text: &str| {
        let file = folder.join(name);
        std::fs::write(&file, text).map_err(LabError::file("write", &file))
    };
    let mut page = "\
# Benchmarks

Made by `setgate-lab bench` (`make bench`): two RabbitMQ nodes with a wire between them, each carrier in turn on the same
queues (a quorum queue at the near end, a classic one at the far end), persistent messages, confirmed. setgate runs with its
defaults: journal, quorum lanes, TLS. The rate is that between a tenth and nine tenths of the messages; CPU is that of both
brokers and both gateways over the whole run; latency is measured at half of the slowest carrier's rate. All figures are
medians of the rounds of one run, and only their ratios say anything about another machine.

"
    .to_owned();
    for (name, fact) in &report.machine {
        let _ = writeln!(page, "- {name}: {fact}");
    }
    page.push('\n');
    for plot in &PLOTS {
        if let Some(svg) = draw(report, plot) {
            write(plot.file, &svg)?;
            let _ = writeln!(page, "![{}]({})\n", plot.title, plot.file);
        }
    }
    page.push_str(&markdown(report));
    write("benchmarks.md", &page)
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
    let step = step(most);
    let top = (most / step).ceil() * step;
    let cell_width = BAR * Carrier::ALL.len() as f64 + GAP;
    let width = LEFT + cell_width * cells.len() as f64 + GAP;
    let height = TOP + HEIGHT + BOTTOM;
    let y = |value: f64| TOP + HEIGHT - value / top * HEIGHT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{GAP}\" y=\"20\" font-size=\"14\">{}</text>\n",
        plot.title
    );
    for (number, carrier) in Carrier::ALL.into_iter().enumerate() {
        let x = GAP + 110.0 * number as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"30\" width=\"10\" height=\"10\" fill=\"{}\"/><text x=\"{}\" y=\"39\">{}</text>",
            COLOURS[number],
            x + 14.0,
            carrier.name()
        );
    }
    let lines = (0_u32..).map(|number| f64::from(number) * step);
    for value in lines.take_while(|value| *value <= top * 1.001) {
        let digits = usize::from(step < 1.0);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{width:.0}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#dddddd\"/>\
             <text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\">{value:.digits$}</text>",
            y(value),
            LEFT - 6.0,
            y(value) + 4.0
        );
    }
    for (place, (name, bars)) in cells.iter().enumerate() {
        let left = LEFT + GAP / 2.0 + cell_width * place as f64;
        for (number, value) in bars {
            let _ = writeln!(
                svg,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
                left + BAR * *number as f64,
                y(*value),
                BAR - 2.0,
                value / top * HEIGHT,
                COLOURS[*number]
            );
        }
        let (x, below) = (left + cell_width / 2.0, TOP + HEIGHT + 14.0);
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{below:.1}\" text-anchor=\"end\" transform=\"rotate(-35 {x:.1} {below:.1})\">{name}</text>"
        );
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

/// Between two lines: 1, 2 or 5 times a power of ten, so that there are four to ten of them.
fn step(most: f64) -> f64 {
    let power = 10_f64.powf((most / 4.0).log10().floor());
    let of = |times: f64| times * power;
    [5.0, 2.0]
        .into_iter()
        .map(of)
        .find(|step| most / step >= 4.0)
        .unwrap_or(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_has_four_to_eleven_lines() {
        for most in [0.4, 1.0, 3.7, 13_516.0, 99_999.0] {
            let lines = most / step(most);
            assert!((4.0..=10.1).contains(&lines), "{most}: {lines}");
        }
    }
}
