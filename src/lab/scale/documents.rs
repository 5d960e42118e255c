//! Routing documents of any size: so many units, so many rules.

use crate::lab::LabError;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// The space of all of them.
pub(super) const SPACE: &str = "scale";
/// The unit that a real gateway serves.
pub(super) const FIRST: &str = "u1";
const SLOTS: usize = 10_000;
/// Rules are spread over so many sources: one source of 500 rules is nobody's.
const SOURCES: usize = 10;

/// Who owns the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owners {
    /// All units alike.
    Everybody,
    /// The first one: its placement stays as it is, whatever units join.
    First,
}

/// Files by name: a topology, a placement, and sources with their rules.
pub(super) fn documents(units: usize, rules: usize, owners: Owners) -> BTreeMap<String, String> {
    let sources = (0..SOURCES.min(rules)).map(|number| {
        let text = source(number, units, (number..rules).step_by(SOURCES));
        (format!("source-{number}.yaml"), text)
    });
    sources
        .chain([
            ("topology.yaml".to_owned(), topology(units)),
            ("placement.yaml".to_owned(), placement(units, owners)),
        ])
        .collect()
}

/// The same as a folder.
pub(super) fn write(files: &BTreeMap<String, String>, folder: &Path) -> Result<(), LabError> {
    std::fs::create_dir_all(folder).map_err(LabError::file("create", folder))?;
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(LabError::file("write", &path))?;
    }
    Ok(())
}

fn topology(units: usize) -> String {
    let mut text =
        format!("kind: topology\nspace: {SPACE}\ncities: {{c1: {{}}, c2: {{}}}}\nsites:\n");
    for unit in 1..=units {
        let _ = writeln!(text, "  s{unit}: {{city: c{}}}", 1 + unit % 2);
    }
    text.push_str("units:\n");
    for unit in 1..=units {
        let _ = writeln!(text, "  u{unit}: {{site: s{unit}}}");
    }
    let _ = writeln!(text, "center: {FIRST}");
    text
}

fn placement(units: usize, owners: Owners) -> String {
    let mut text = format!("kind: placement\nslots: {SLOTS}\nranges:\n");
    let owners = match owners {
        Owners::Everybody => units,
        Owners::First => 1,
    };
    for unit in 0..owners {
        let (from, to) = (SLOTS * unit / owners, SLOTS * (unit + 1) / owners - 1);
        let _ = writeln!(text, "  - {{slots: {from}-{to}, unit: u{}}}", unit + 1);
    }
    text
}

fn source(number: usize, units: usize, rules: impl Iterator<Item = usize>) -> String {
    let mut text = format!(
        "kind: source\nname: source-{number}\ntake: {{exchange: in-{number}, bindings: [{{routing_key: \"#\"}}]}}\n\
         deliver: {{exchange: out-{number}}}\nkey: {{from: [{{header: uid}}]}}\n"
    );
    for rule in rules {
        let _ = write!(
            text,
            "---\nkind: rule\nname: rule-{rule}\nsource: source-{number}\norder: {}\n\
             when: {{routing_key: \"shop-{rule}.*.created\", headers: {{region: {{in: [cn, sg]}}}}}}\nroute: {{units: [u{}]}}\n",
            rule + 1,
            1 + rule % units
        );
    }
    let _ = write!(
        text,
        "---\nkind: rule\nname: owner-{number}\nsource: source-{number}\norder: 1000000\nroute: owner\n"
    );
    text
}
