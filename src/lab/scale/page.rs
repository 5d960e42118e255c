//! What was found as a page: scale.md, with a curve for each kind of figure.

use super::Report;
use crate::lab::LabError;
use crate::lab::svg::curves;
use std::fmt::Write as _;
use std::path::Path;

/// Writes scale.md and its plots into a folder.
pub(super) fn write(report: &Report, folder: &Path) -> Result<(), LabError> {
    let write = |name: &str, text: &str| {
        let file = folder.join(name);
        std::fs::write(&file, text).map_err(LabError::file("write", &file))
    };
    let mut page = "\
# How a space grows

Made by `setgate-lab scale` (`make scale`), from three units to fifty of ten gateways each. Tables are compiled by the real
compiler. etcd is real, three members on this machine, and each gateway has its two connections to it, its watch and its
lease; but the gateways are connections of one process. Links are those of one real gateway, with TLS, to and from peers that
one process plays. Then eight whole units run with traffic. The times are those of this machine, on which everything shares
the cores: the curves say more than the figures.

"
    .to_owned();
    for (name, fact) in &report.machine {
        let _ = writeln!(page, "- {name}: {fact}");
    }
    page.push('\n');
    for (file, title, svg) in plots(report) {
        write(file, &svg)?;
        let _ = writeln!(page, "![{title}]({file})\n");
    }
    page.push_str(&markdown(report));
    page.push_str(LIMITS);
    write("scale.md", &page)
}

/// What the figures say; kept beside them.
const LIMITS: &str = include_str!("limits.md");

fn plots(report: &Report) -> Vec<(&'static str, &'static str, String)> {
    let mut plots = Vec::new();
    let mut plot = |file, title, below, xs: Vec<f64>, lines: Vec<(&str, Vec<f64>)>| {
        if xs.len() > 1 {
            plots.push((file, title, curves(title, below, &xs, &lines)));
        }
    };
    let fanout = &report.fanout;
    plot(
        "scale-etcd.svg",
        "A change of the rules in etcd, ms",
        "gateways of the space",
        fanout.iter().map(|point| point.size.all() as f64).collect(),
        vec![
            (
                "all told all",
                fanout.iter().map(|point| point.told_ms).collect(),
            ),
            (
                "etcd's CPU",
                fanout.iter().map(|point| point.etcd_cpu_ms).collect(),
            ),
            (
                "seen, p99",
                fanout.iter().map(|point| point.seen_p99_ms).collect(),
            ),
        ],
    );
    let mesh = &report.mesh;
    let peers: Vec<f64> = mesh.iter().map(|point| point.peers as f64).collect();
    plot(
        "scale-memory.svg",
        "A gateway's resident memory without traffic, MiB",
        "peers",
        peers.clone(),
        vec![(
            "resident",
            mesh.iter().map(|point| point.resident_mib).collect(),
        )],
    );
    plot(
        "scale-cpu.svg",
        "A gateway's CPU without traffic, percent of a core",
        "peers",
        peers.clone(),
        vec![("CPU", mesh.iter().map(|point| point.cpu_percent).collect())],
    );
    plot(
        "scale-change.svg",
        "A gateway's CPU for one change of the rules, ms",
        "peers",
        peers,
        vec![(
            "CPU",
            mesh.iter().map(|point| point.change_cpu_ms).collect(),
        )],
    );
    plots
}

/// Tables of the figures.
pub(super) fn markdown(report: &Report) -> String {
    let mut text = String::new();
    if !report.complete {
        text.push_str("**Not complete: the run broke off.**\n\n");
    }
    text.push_str(
        "## Tables\n\n| units | rules | documents, KiB | compiled in, ms |\n|---|---|---|---|\n",
    );
    for point in &report.tables {
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {:.1} |",
            point.size.units,
            point.size.rules,
            point.document_bytes as f64 / 1_024.0,
            point.compile_ms
        );
    }
    text.push_str(
        "\n## etcd\n\nOne file of rules is changed. *Seen*: from the begin of the commit until a gateway has it. *Told*: until every \
         gateway has\nseen that every gateway applies it, each having written that at once.\n\n\
         | gateways | seen, p50 ms | p99 ms | told, ms | etcd's CPU for it, ms | values watched, MiB | CPU for leases, % of a core |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for point in &report.fanout {
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.1} | {:.1} |",
            point.size.all(),
            point.seen_p50_ms,
            point.seen_p99_ms,
            point.told_ms,
            point.etcd_cpu_ms,
            point.watched_bytes as f64 / f64::from(1 << 20),
            point.leases_percent
        );
    }
    text.push_str(
        "\n## Links\n\nOf one gateway: a link to each gateway of every other unit and one from it, two connections each. No traffic.\n\n\
         | peers | links up after, ms | resident, MiB | CPU, % of a core | descriptors | status, KiB | CPU for a change, ms |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for point in &report.mesh {
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.0} | {:.1} | {} | {:.0} | {:.0} |",
            point.peers,
            point.links_up_ms,
            point.resident_mib,
            point.cpu_percent,
            point.descriptors,
            point.status_bytes as f64 / 1_024.0,
            point.change_cpu_ms
        );
    }
    if let Some(real) = &report.real {
        let account = &real.account;
        let _ = write!(
            text,
            "\n## Eight units for real\n\n{} units, each a RabbitMQ node and a gateway, up after {:.0} s; {} messages at {}/s: {} delivered, {} lost, \
             {} duplicates,\n{} reordered, {} in a wrong unit; p50 {:.1} ms, p99 {:.1} ms. The largest gateway has {:.0} MiB resident.\n",
            real.units,
            real.up_s,
            account.confirmed,
            real.rate,
            account.delivered,
            account.lost,
            account.duplicates,
            account.reordered,
            account.wrong_unit,
            account.p50_ms,
            account.p99_ms,
            real.resident_mib
        );
    }
    text
}
