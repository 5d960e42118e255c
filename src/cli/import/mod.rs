//! `setgate import`: RabbitMQ's federation and dynamic shovels, from its definitions export, as sources and rules.

mod convert;
mod definitions;
#[cfg(test)]
mod tests;

use super::failure::Failure;
use crate::model::{SpaceId, UnitId};
use crate::rules::{Context, DocumentFile, validate};
use anstream::println;
use comfy_table::{Table, presets};
use convert::{Converted, Fate, Peer, Setting, convert};
use definitions::Definitions;
use serde_json::json;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Exports of large clusters, with all their queues and bindings, have some tens of MiB.
const FILE_BYTES_MAX: u64 = 256 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The export: `rabbitmqctl export_definitions FILE`, or `GET /api/definitions`.
    definitions: PathBuf,
    /// The folder to write; it must not hold documents yet.
    #[arg(short, long = "output", value_name = "DIR")]
    output: PathBuf,
    /// The space of the new documents.
    #[arg(long, value_name = "NAME", default_value = "imported")]
    space: SpaceId,
    /// The unit of the broker that was exported.
    #[arg(long, value_name = "UNIT", default_value = "local")]
    unit: UnitId,
    /// The unit of another broker, by its host as upstreams and shovels name it; else it is named after the host.
    #[arg(long = "peer", value_name = "UNIT=HOST[:PORT]")]
    peers: Vec<Peer>,
    /// The report as one JSON document on the last line.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let definitions = read(&args.definitions)?;
    let setting = Setting {
        space: args.space.as_str(),
        unit: args.unit.as_str(),
        peers: &args.peers,
    };
    let converted = convert(&definitions, setting);
    let files: Vec<DocumentFile> = converted
        .files
        .iter()
        .map(|(name, text)| DocumentFile {
            name: name.clone(),
            text: text.clone().into_bytes(),
        })
        .collect();
    let validation = validate(&files, &Context::default());
    if !validation.faults.is_empty() {
        return Err(Failure::Documents(validation.faults));
    }
    write(&args.output, &converted)?;
    if args.json {
        let files: Vec<&String> = converted.files.keys().collect();
        println!("{}", json!({"files": files, "report": converted.report}));
    } else {
        print(&args.output, &converted);
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> Result<Definitions, Failure> {
    let refuse = |why: String| Failure::Refused(format!("{}: {why}", path.display()));
    let file = File::open(path).map_err(|error| refuse(error.to_string()))?;
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut text)
        .map_err(|error| refuse(error.to_string()))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(refuse(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    serde_json::from_slice(&text).map_err(|error| {
        refuse(format!(
            "it is no definitions export (line {}, column {}); write one with `rabbitmqctl export_definitions`",
            error.line(),
            error.column()
        ))
    })
}

fn write(folder: &Path, converted: &Converted) -> Result<(), Failure> {
    let refuse = |path: &Path, why: String| {
        Failure::Refused(format!("can't write {}: {why}", path.display()))
    };
    std::fs::create_dir_all(folder).map_err(|error| refuse(folder, error.to_string()))?;
    for (name, text) in &converted.files {
        let path = folder.join(name);
        let file = File::create_new(&path);
        let written =
            file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
        written.map_err(|error| refuse(&path, error.to_string()))?;
    }
    Ok(())
}

fn print(folder: &Path, converted: &Converted) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for line in &converted.report {
        table.add_row([line.fate.to_string(), line.what.clone(), line.text.clone()]);
    }
    println!("{table}");
    let count = |fate: Fate| {
        converted
            .report
            .iter()
            .filter(|line| line.fate == fate)
            .count()
    };
    println!(
        "{}: {} map, {} differ, {} can't; users, permissions, queues and exchanges stay in the broker",
        folder.display(),
        count(Fate::Maps),
        count(Fate::Differs),
        count(Fate::Cannot)
    );
}
