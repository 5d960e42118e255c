//! What a gateway makes of cores: measured as far as the machine goes, simulated beyond.

use super::plot::{list, write_file};
use super::report::{Report, markdown};
use crate::lab::LabError;
use crate::lab::svg::curves;
use std::path::Path;

/// Of the simulation.
const CORES: [u32; 6] = [1, 2, 4, 8, 16, 32];
const FEW_LANES: u32 = 8;
const MANY_LANES: u32 = 64;

/// Writes benchmarks-cores.md and its plot.
pub(super) fn write(report: &Report, folder: &Path) -> Result<(), LabError> {
    let mut page = "\
# Throughput by cores

Made by `setgate-lab bench --cells cores` (`make bench-cores`): the rig of [benchmarks.md](benchmarks.md), eight queues, no distance,
setgate alone, its two gateways held to one core and to two. The brokers have all cores in both cases, and are what limits: where
one core carries as much as two, a gateway doesn't fill it.

"
    .to_owned();
    list(&mut page, report);
    page.push_str(&markdown(report));
    if let Some(micros) = micros_of_one_end(report) {
        let cores: Vec<f64> = CORES.into_iter().map(f64::from).collect();
        let carried = |lanes: u32| CORES.map(|cores| carried(cores, lanes, micros)).to_vec();
        let (few, many) = (carried(FEW_LANES), carried(MANY_LANES));
        let title = "Messages a second that a gateway could carry (simulated)";
        let lines = [("8 lanes", few), ("64 lanes", many)];
        write_file(
            folder,
            "benchmark-cores.svg",
            &curves(title, "cores", &cores, &lines),
        )?;
        page.push_str(&format!(
            "\n## Beyond\n\n\
             Simulated: a message costs a gateway at either end {micros:.1} us, half of what both took on one core; a lane never has\n\
             more than one core at a time; and nothing else limits, neither brokers nor the wire. So this is what brokers would have\n\
             to be able to do before a gateway's cores count.\n\n\
             ![{title}](benchmark-cores.svg)\n"
        ));
    }
    write_file(folder, "benchmarks-cores.md", &page)
}

/// CPU of one gateway per message, where it had one core.
fn micros_of_one_end(report: &Report) -> Option<f64> {
    let measured = report
        .cells
        .iter()
        .find(|measured| measured.cell.gateway_cores == Some(1))?;
    let both = measured.carriers.values().next()?.gateway_cpu_us?;
    Some(both / 2.0)
}

/// Messages a second over so many cores and lanes.
fn carried(cores: u32, lanes: u32, micros: f64) -> f64 {
    f64::from(cores.min(lanes)) * 1e6 / micros
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_carry_in_a_straight_line_until_each_lane_has_one() {
        let of = |cores| carried(cores, 8, 10.0);
        assert!((of(2) - 200_000.0).abs() < 1.0);
        assert!((of(8) - of(32)).abs() < 1.0);
    }
}
