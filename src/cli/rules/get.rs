//! `rules get`: the documents as etcd has them, with the placement that is live.

use super::print::{Printer, count};
use super::{Ended, Failure, GetArgs, by_name};
use crate::etcd::{Scope, SpaceView, Store};
use crate::gateway::feed::{document_files, is_document, placement_text, with_live_placement};
use crate::rules::DocumentFile;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Where the live placement goes when no document has one.
const PLACEMENT_FILE: &str = "placement.yaml";

pub(super) async fn get(args: &GetArgs, printer: &Printer) -> Result<Ended, Failure> {
    let (etcd, space) = args.etcd.resolve()?;
    let snapshot = Store::connect(&etcd, &space)
        .await?
        .read(Scope::Rules)
        .await?;
    let view = SpaceView::of(&snapshot);
    let documents = document_files(&view.documents());
    if documents.is_empty() {
        return Err(Failure::Refused(format!(
            "the space {space} has no documents in etcd at {}; write them with `setgate rules apply`",
            etcd.endpoints_text()
        )));
    }
    let files = with_live(documents, view.placement());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match &args.dir {
        Some(dir) => write(dir, &files, printer)?,
        None => {
            for file in &files {
                printer.say(format_args!("# file: {}\n{}", file.name, text(&file.text)));
            }
        }
    }
    if args.dir.is_some() {
        printer.say(format_args!(
            "{} of {space}, revision {}",
            count(files.len(), "file"),
            snapshot.revision
        ));
    }
    let documents: Map<String, Value> = files
        .iter()
        .map(|file| (file.name.clone(), text(&file.text).into()))
        .collect();
    printer.json(&json!({
        "revision": snapshot.revision,
        "documents": documents,
        "placement": view.placement().map(text),
    }));
    Ok(Ended::Done)
}

/// The folder's placement is a wish that came true once; what is live has its place.
fn with_live(mut files: Vec<DocumentFile>, live: Option<&[u8]>) -> Vec<DocumentFile> {
    let Some(live) = live else { return files };
    if placement_text(&files).is_none() && !by_name(&files).contains_key(PLACEMENT_FILE) {
        files.push(DocumentFile {
            name: PLACEMENT_FILE.to_owned(),
            text: live.to_vec(),
        });
        return files;
    }
    for file in &mut files {
        if let Some(changed) = with_live_placement(file, live) {
            *file = changed;
        }
    }
    files
}

fn write(dir: &Path, files: &[DocumentFile], printer: &Printer) -> Result<(), Failure> {
    let failed = |path: &Path, error: &std::io::Error| {
        Failure::Refused(format!(
            "can't write {}: {error}; check the path and its permissions",
            path.display()
        ))
    };
    std::fs::create_dir_all(dir).map_err(|error| failed(dir, &error))?;
    for file in files {
        // A key is any text that somebody wrote; a file of the folder has a plain name.
        if file.name.contains('/') || !is_document(&file.name) {
            printer.say(format_args!(
                "  skipped  {:?} (not a name of a *.yaml file)",
                file.name
            ));
            continue;
        }
        let path = dir.join(&file.name);
        if std::fs::read(&path).is_ok_and(|text| text == file.text) {
            continue;
        }
        std::fs::write(&path, &file.text).map_err(|error| failed(&path, &error))?;
        printer.say(format_args!("  written  {}", path.display()));
    }
    Ok(())
}
