//! What a table costs that is compiled from many documents.

use super::ScaleError;
use super::documents::{Owners, SPACE, documents};
use super::size::Size;
use crate::model::{Epoch, Lineage, Moves, Revision, Seats, SpaceId};
use crate::routing::{Table, TableInputs};
use crate::rules::DocumentFile;
use serde::Serialize;
use tokio::time::Instant;

/// Compiled so often; the median counts.
const TIMES: usize = 5;

/// What was found at one size.
#[derive(Debug, Clone, Serialize)]
pub(super) struct TablePoint {
    #[serde(flatten)]
    pub(super) size: Size,
    /// Bytes of all documents, as they lie in etcd.
    pub(super) document_bytes: usize,
    /// To parse, check and compile them.
    pub(super) compile_ms: f64,
}

/// Compiles the documents of one size.
pub(super) fn measure(size: Size) -> Result<TablePoint, ScaleError> {
    let files = documents(size.units, size.rules, Owners::Everybody);
    let space = SpaceId::parse(SPACE).map_err(ScaleError::documents)?;
    let files: Vec<DocumentFile> = files
        .into_iter()
        .map(|(name, text)| DocumentFile {
            name,
            text: text.into_bytes(),
        })
        .collect();
    let mut times = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        let begun = Instant::now();
        let table = Table::compile(TableInputs {
            files: &files,
            placement: None,
            seats: Seats {
                lineage: Lineage("scale".into()),
                epoch: Epoch(1),
                ..Seats::default()
            },
            moves: Moves::new(),
            revision: Revision(1),
            space: &space,
        });
        if let Err(faults) = table {
            return Err(ScaleError::documents(faults.first().map_or_else(
                || "they don't compile".to_owned(),
                ToString::to_string,
            )));
        }
        times.push(begun.elapsed().as_secs_f64() * 1_000.0);
    }
    times.sort_by(f64::total_cmp);
    Ok(TablePoint {
        size,
        document_bytes: files.iter().map(|file| file.text.len()).sum(),
        compile_ms: times[TIMES / 2],
    })
}
