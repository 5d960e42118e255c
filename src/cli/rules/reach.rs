//! What a change reaches: owners that keys would get, and what the links of those sources have carried so far.

use crate::cli::ask;
use crate::etcd::{SpaceView, Store};
use crate::gateway::feed::document_files;
use crate::model::{Moves, SourceName, SpaceId};
use crate::routing::{Shift, Table, TableInputs, shifts};
use crate::rules::DocumentFile;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use hyper::Method;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Gateways that are asked at once.
const AT_ONCE: usize = 32;

/// Messages of a source that gateways of one unit have had delivered to another, since they began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Carried {
    source: String,
    from: String,
    to: String,
    delivered: u64,
}

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            from,
            to,
            delivered,
        } = self;
        write!(f, "source {source} so far: {from} → {to} {delivered}")
    }
}

/// Which keys would get other owners, where both what is in force and what is wanted make a table.
pub(super) fn owners(view: &SpaceView<'_>, space: &SpaceId, wanted: &[DocumentFile]) -> Vec<Shift> {
    let seats = view
        .seats()
        .and_then(|text| serde_json::from_slice(text).ok());
    let (Some(seats), Some(placement)) = (seats, view.placement()) else {
        return Vec::new();
    };
    let table = |files: &[DocumentFile]| {
        Table::draft(TableInputs {
            files,
            placement: Some(placement),
            seats: crate::model::Seats::clone(&seats),
            moves: Moves::new(),
            revision: view.rules_revision(),
            space,
        })
    };
    match (table(&document_files(&view.in_force())), table(wanted)) {
        (Ok(old), Ok(new)) => shifts(&old, &new),
        (Err(_), _) | (_, Err(_)) => Vec::new(),
    }
}

/// What the links of these sources have carried, by the counters of the gateways that answer.
pub(super) async fn carried(store: &Store, shifts: &[Shift]) -> Vec<Carried> {
    let sources: BTreeSet<&SourceName> = shifts.iter().map(|shift| &shift.source).collect();
    if sources.is_empty() {
        return Vec::new();
    }
    // A difference can be told without gateways.
    let known = ask::gateways(store).await.unwrap_or_default();
    let pages: Vec<(String, String)> = stream::iter(known)
        .filter_map(|one| async move { Some((one.unit.to_string(), one.admin.ok()?)) })
        .map(|(unit, admin)| async move {
            let answer = ask::send(Method::GET, &admin, "/metrics", Bytes::new()).await;
            let text = answer.map(|(_, body)| String::from_utf8_lossy(&body).into_owned());
            (unit, text.unwrap_or_default())
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let mut sums: BTreeMap<(String, String, String), u64> = BTreeMap::new();
    for (unit, page) in &pages {
        for (source, to, count) in page.lines().filter_map(delivered) {
            if sources.iter().any(|one| one.as_str() == source) {
                let link = (source.to_owned(), unit.clone(), to.to_owned());
                *sums.entry(link).or_default() += count;
            }
        }
    }
    let sums = sums.into_iter();
    sums.map(|((source, from, to), delivered)| Carried {
        source,
        from,
        to,
        delivered,
    })
    .collect()
}

/// Source, target and count of a line of metrics about deliveries.
fn delivered(line: &str) -> Option<(&str, &str, u64)> {
    let rest = line.strip_prefix("setgate_delivered_total{source=\"")?;
    let (source, rest) = rest.split_once("\",to=\"")?;
    let (to, count) = rest.split_once("\"} ")?;
    Some((source, to, count.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_about_deliveries_is_read_and_no_other() {
        let line = "setgate_delivered_total{source=\"orders\",to=\"bj-1\"} 42";
        assert_eq!(delivered(line), Some(("orders", "bj-1", 42)));
        assert_eq!(
            delivered("setgate_received_total{source=\"orders\"} 42"),
            None
        );
        assert_eq!(delivered("# HELP setgate_delivered_total x"), None);
    }
}
