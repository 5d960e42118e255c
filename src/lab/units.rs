//! Changed copies of a rules folder: for another number of units, or for another space.

use super::LabError;
use super::profile::{Document, PlannedUnit, Profile, read_files};
use crate::model::SpaceId;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Writes the profile for `count` units: its own first, then `u4`, `u5`, … at sites of their own, spread over its
/// cities; placement split evenly. Comments are lost: the copy is for the lab alone.
pub(super) fn resize(profile: &Profile, count: usize, to: &Path) -> Result<(), LabError> {
    let topology = profile
        .documents
        .iter()
        .find(|document| document.kind() == "topology");
    let topology = topology
        .map(|document| document.value.clone())
        .unwrap_or_default();
    let units = planned(profile, &topology, count);
    let mut files: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for document in &profile.documents {
        let value = match document.kind() {
            "topology" => resized_topology(document.value.clone(), profile, &units),
            "placement" => resized_placement(document.value.clone(), &units),
            "source" => without(document.value.clone(), "units"),
            "rule" => resized_rule(document, &units),
            _ => document.value.clone(),
        };
        files.entry(&document.file).or_default().push(value);
    }
    let texts = files.into_iter().map(|(file, documents)| {
        let texts: Vec<String> = documents.iter().map(|value| yaml(value, &units)).collect();
        (file.to_owned(), texts.join("---\n"))
    });
    write_folder(to, texts.collect())
}

/// A document with its fields in lines of their own, and units in their order, which a `Value` forgets. What is below
/// is JSON, which YAML contains.
fn yaml(document: &Value, units: &[Planned]) -> String {
    let mut text = String::new();
    for (field, value) in document.as_object().into_iter().flatten() {
        match (field.as_str(), value) {
            ("units", Value::Object(described)) => {
                text.push_str("units:\n");
                for planned in units {
                    let unit = described.get(&planned.unit).unwrap_or(&Value::Null);
                    let _ = writeln!(text, "  {}: {unit}", planned.unit);
                }
            }
            _ => {
                let _ = writeln!(text, "{field}: {value}");
            }
        }
    }
    text
}

/// Writes the profile for another space, comments and all.
pub(super) fn respace(profile: &Profile, space: &SpaceId, to: &Path) -> Result<(), LabError> {
    let old = &profile.space;
    let words = [format!("space: {old}"), format!("space: \"{old}\"")].map(|from| {
        let new = from.replace(old.as_str(), space.as_str());
        (from, new)
    });
    reword(profile, &words, to)
}

/// Writes the profile with other words for these, comments and all; an error when it has none of them.
pub(super) fn reword(
    profile: &Profile,
    words: &[(String, String)],
    to: &Path,
) -> Result<(), LabError> {
    let mut files = read_files(&profile.dir)?;
    let has = |(_, text): &(String, String)| words.iter().any(|(from, _)| text.contains(from));
    if !files.iter().any(has) {
        let dir = profile.dir.clone();
        let sought: Vec<_> = words.iter().map(|(from, _)| from.as_str()).collect();
        let fault = format!("it has no {}", sought.join(" and no "));
        return Err(LabError::Rules { dir, fault });
    }
    for (_, text) in &mut files {
        for (from, new) in words {
            *text = text.replace(from, new);
        }
    }
    write_folder(to, files)
}

struct Planned {
    unit: String,
    site: String,
    city: String,
}

fn planned(profile: &Profile, topology: &Value, count: usize) -> Vec<Planned> {
    let city_of = |site: &str| {
        topology["sites"][site]["city"]
            .as_str()
            .unwrap_or("city")
            .to_owned()
    };
    let own = |planned: &PlannedUnit| Planned {
        unit: planned.unit.to_string(),
        site: planned.site.to_string(),
        city: city_of(planned.site.as_str()),
    };
    let mut units: Vec<Planned> = profile.units.iter().take(count).map(own).collect();
    let cities: Vec<String> = match topology["cities"].as_object() {
        Some(cities) if !cities.is_empty() => cities.keys().cloned().collect(),
        _ => vec!["city".to_owned()],
    };
    for number in units.len() + 1..=count {
        let city = cities[number % cities.len()].clone();
        units.push(Planned {
            unit: format!("u{number}"),
            site: format!("site-{number}"),
            city,
        });
    }
    units
}

fn resized_topology(mut topology: Value, profile: &Profile, units: &[Planned]) -> Value {
    let has = |name: &Value| units.iter().any(|planned| name == &planned.unit);
    let mut described = Map::new();
    for planned in units {
        let mut unit = topology["units"][&planned.unit].clone();
        if unit.is_null() {
            unit = json!({"site": planned.site});
        }
        if let Some(standby) = unit["standby"].as_array() {
            unit["standby"] = standby.iter().filter(|name| has(name)).cloned().collect();
        }
        described.insert(planned.unit.clone(), unit);
        topology["sites"][&planned.site] = json!({"city": planned.city});
    }
    topology["units"] = Value::Object(described);
    if !has(&topology["center"]) {
        topology["center"] = json!(profile.units[0].unit);
    }
    topology
}

fn resized_placement(mut placement: Value, units: &[Planned]) -> Value {
    let slots = placement["slots"].as_u64().unwrap_or(10_000);
    let count = units.len() as u64;
    let ranges = units.iter().zip(0..).map(|(planned, index)| {
        let (first, end) = (slots * index / count, slots * (index + 1) / count);
        json!({"slots": format!("{first}-{}", end.saturating_sub(1)), "unit": planned.unit})
    });
    placement["ranges"] = ranges.collect();
    without(placement, "pins")
}

/// A rule for units that are not there any more goes to those that are, or stays at home.
fn resized_rule(document: &Document, units: &[Planned]) -> Value {
    let mut rule = document.value.clone();
    if let Some(named) = rule["route"]["units"].as_array() {
        let has = |name: &&Value| units.iter().any(|planned| **name == planned.unit);
        let left: Vec<Value> = named.iter().filter(has).cloned().collect();
        rule["route"] = if left.is_empty() {
            json!("local")
        } else {
            json!({"units": left})
        };
    }
    rule
}

fn without(mut value: Value, field: &str) -> Value {
    if let Some(fields) = value.as_object_mut() {
        fields.remove(field);
    }
    value
}

fn write_folder(to: &Path, files: Vec<(String, String)>) -> Result<(), LabError> {
    if to.exists() {
        std::fs::remove_dir_all(to).map_err(LabError::file("remove", to))?;
    }
    std::fs::create_dir_all(to).map_err(LabError::file("create", to))?;
    for (name, text) in files {
        let path = to.join(name);
        std::fs::write(&path, text).map_err(LabError::file("write", &path))?;
    }
    Ok(())
}
