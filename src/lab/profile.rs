//! What a rules folder asks of a lab: its units, and the exchanges and queues that applications would have there.
//!
//! Reads the documents as plain values on purpose: the lab must start with rules that a gateway would refuse, too.

use super::LabError;
use super::units;
use crate::model::{SiteId, SpaceId, UnitId};
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Where the rules come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RulesFrom {
    /// `routing-rules/<name>` of the project.
    Profile(String),
    /// A folder of the user's.
    Folder(PathBuf),
}

/// A rules folder and what it asks for.
#[derive(Debug, Clone)]
pub struct Profile {
    /// The folder that `rules apply` gets.
    pub dir: PathBuf,
    /// The space of its topology.
    pub space: SpaceId,
    /// In the topology's order.
    pub units: Vec<PlannedUnit>,
    /// By vhost; `None` is the gateway's own.
    pub vhosts: BTreeMap<Option<String>, Application>,
    pub(super) documents: Vec<Document>,
}

/// A unit of the topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedUnit {
    /// Its name.
    pub unit: UnitId,
    /// Its site.
    pub site: SiteId,
}

/// What applications have in one vhost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Application {
    /// Exchanges that gateways take from; `true`: a headers exchange, else a topic exchange.
    pub taken: BTreeMap<String, bool>,
    /// Queues that gateways take from.
    pub taken_queues: BTreeSet<String>,
    /// Exchanges that gateways deliver to; each gets the queue `app.<exchange>`.
    pub delivered: BTreeSet<String>,
    /// Exchanges for what goes back to publishers.
    pub returned: BTreeSet<String>,
}

/// One document of a file.
#[derive(Debug, Clone)]
pub(super) struct Document {
    /// The file's name.
    pub(super) file: String,
    /// The document.
    pub(super) value: Value,
}

impl Document {
    pub(super) fn kind(&self) -> &str {
        self.value["kind"].as_str().unwrap_or_default()
    }
}

impl Profile {
    /// Finds and reads the rules; with another number of units, or in another space than they are written for, makes a
    /// changed copy of them in `<dir>/rules`.
    pub fn prepare(
        from: &RulesFrom,
        unit_count: Option<usize>,
        space: Option<&SpaceId>,
        dir: &Path,
    ) -> Result<Self, LabError> {
        let folder = find(from)?;
        let mut profile = Self::read(&folder)?;
        let copy = dir.join("rules");
        if let Some(count) = unit_count.filter(|count| *count != profile.units.len()) {
            units::resize(&profile, count, &copy)?;
            profile = Self::read(&copy)?;
        }
        if let Some(space) = space.filter(|space| **space != profile.space) {
            units::respace(&profile, space, &copy)?;
            profile = Self::read(&copy)?;
        }
        Ok(profile)
    }

    /// Reads a folder.
    pub fn read(dir: &Path) -> Result<Self, LabError> {
        let fault = |fault: String| LabError::Rules {
            dir: dir.to_owned(),
            fault,
        };
        let mut documents = Vec::new();
        let mut order = Vec::new();
        for (file, text) in read_files(dir)? {
            let values: Vec<Value> = serde_saphyr::from_multiple(&text)
                .map_err(|error| fault(format!("{file}: {error}")))?;
            let heads: Vec<Head> = serde_saphyr::from_multiple(&text)
                .map_err(|error| fault(format!("{file}: {error}")))?;
            order.extend(heads.into_iter().filter(|head| head.kind == "topology"));
            let read = values.into_iter().map(|value| Document {
                file: file.clone(),
                value,
            });
            documents.extend(read);
        }
        let topology = documents
            .iter()
            .find(|document| document.kind() == "topology")
            .ok_or_else(|| fault("it has no document `kind: topology`".to_owned()))?;
        let space = topology.value["space"].as_str().unwrap_or_default();
        let space = SpaceId::parse(space).map_err(|error| fault(format!("space: {error}")))?;
        let mut units = Vec::new();
        for name in order.into_iter().flat_map(|head| head.units.0) {
            let site = topology.value["units"][&name]["site"]
                .as_str()
                .unwrap_or_default();
            units.push(PlannedUnit {
                unit: UnitId::parse(&name).map_err(|error| fault(format!("unit: {error}")))?,
                site: SiteId::parse(site)
                    .map_err(|error| fault(format!("site of {name}: {error}")))?,
            });
        }
        if units.is_empty() {
            return Err(fault("its topology has no units".to_owned()));
        }
        let vhosts = applications(&documents);
        Ok(Self {
            dir: dir.to_owned(),
            space,
            units,
            vhosts,
            documents,
        })
    }
}

/// A document's kind, and its units in their order where they are a map.
#[derive(Debug, Deserialize)]
struct Head {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    units: Keys,
}

/// The keys of a map in the order in which they are written, which a `Value` forgets.
#[derive(Debug, Default)]
struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Keys;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map or a list")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Keys, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Keys::default())
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// A folder is its flat `*.yaml`, tests aside.
pub(super) fn read_files(dir: &Path) -> Result<Vec<(String, String)>, LabError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(LabError::file("read", dir))? {
        let path = entry.map_err(LabError::file("read", dir))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let is_yaml = path
            .extension()
            .is_some_and(|extension| extension == "yaml");
        if is_yaml && !name.ends_with(".test.yaml") && path.is_file() {
            let text = std::fs::read_to_string(&path).map_err(LabError::file("read", &path))?;
            files.push((name.to_owned(), text));
        }
    }
    files.sort();
    Ok(files)
}

/// `routing-rules/<profile>` below the working directory, else below a folder that the program lies in.
fn find(from: &RulesFrom) -> Result<PathBuf, LabError> {
    let name = match from {
        RulesFrom::Folder(dir) => return dir.canonicalize().map_err(LabError::file("find", dir)),
        RulesFrom::Profile(name) => name,
    };
    let below = Path::new("routing-rules").join(name);
    let here = std::env::current_dir().unwrap_or_default();
    let program = std::env::current_exe().unwrap_or_default();
    let roots = std::iter::once(here.as_path()).chain(program.ancestors().skip(1));
    for root in roots {
        let dir = root.join(&below);
        if dir.is_dir() {
            return Ok(dir);
        }
    }
    let looked = here.join(&below).display().to_string();
    Err(LabError::NoProfile {
        profile: name.clone(),
        looked,
    })
}

fn applications(documents: &[Document]) -> BTreeMap<Option<String>, Application> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut vhosts: BTreeMap<Option<String>, Application> = BTreeMap::new();
    vhosts.entry(None).or_default();
    let of_kind = |kind: &'static str| {
        documents
            .iter()
            .filter(move |document| document.kind() == kind)
            .map(|document| &document.value)
    };
    for source in of_kind("source") {
        let application = vhosts.entry(text(&source["vhost"])).or_default();
        if let Some(exchange) = text(&source["take"]["exchange"]) {
            let bindings = source["take"]["bindings"].as_array();
            let headers = bindings
                .is_some_and(|all| all.iter().any(|binding| !binding["arguments"].is_null()));
            *application.taken.entry(exchange).or_default() |= headers;
        }
        application
            .taken_queues
            .extend(text(&source["take"]["queue"]));
        application
            .delivered
            .extend(text(&source["deliver"]["exchange"]));
        application
            .returned
            .extend(text(&source["returns"]["exchange"]));
        let rules = of_kind("rule").filter(|rule| rule["source"] == source["name"]);
        for rule in rules {
            if let Some(exchange) = text(&rule["deliver"]["exchange"]) {
                application.delivered.insert(exchange);
            } else if rule["route"] == "shared" && source["deliver"].is_null() {
                // Copies go into the exchange that they were taken from.
                application
                    .delivered
                    .extend(text(&source["take"]["exchange"]));
            }
        }
    }
    vhosts
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = "
kind: topology
space: trade
cities: {shanghai: {}, beijing: {}}
sites: {sh-a: {city: shanghai}, bj-c: {city: beijing}}
units:
  sh-1: {site: sh-a}
  bj-1: {site: bj-c}
center: sh-1
---
kind: placement
slots: 10
ranges: [{slots: 0-4, unit: sh-1}, {slots: 5-9, unit: bj-1}]
---
kind: source
name: orders
units: [sh-1, bj-1]
take: {exchange: orders, bindings: [{routing_key: \"order.#\"}]}
deliver: {exchange: orders.local}
---
kind: rule
{name: orders-vip, source: orders, order: 1, route: {units: [bj-1]}, deliver: {exchange: orders.vip}}
---
kind: source
name: catalog
take: {exchange: catalog, bindings: [{routing_key: \"#\"}]}
---
kind: rule
name: catalog-everywhere
source: catalog
order: 1
route: shared
";

    fn folder(text: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("rules.yaml"), text).unwrap();
        std::fs::write(dir.path().join("rules.test.yaml"), "[[[").unwrap();
        dir
    }

    fn rules() -> String {
        RULES.replace("{name: orders-vip, source: orders, order: 1, route: {units: [bj-1]}, deliver: {exchange: orders.vip}}",
            "name: orders-vip\nsource: orders\norder: 1\nroute: {units: [bj-1]}\ndeliver: {exchange: orders.vip}")
    }

    #[test]
    fn a_folder_tells_its_units_in_order_and_the_applications_exchanges() {
        let dir = folder(&rules());
        let profile = Profile::read(dir.path()).unwrap();
        assert_eq!(profile.space.as_str(), "trade");
        let names: Vec<&str> = profile
            .units
            .iter()
            .map(|unit| unit.unit.as_str())
            .collect();
        assert_eq!(names, ["sh-1", "bj-1"]);
        let application = &profile.vhosts[&None];
        assert_eq!(
            application.taken.keys().collect::<Vec<_>>(),
            ["catalog", "orders"]
        );
        let delivered: Vec<_> = application.delivered.iter().collect();
        assert_eq!(delivered, ["catalog", "orders.local", "orders.vip"]);
    }

    #[test]
    fn another_number_of_units_or_another_space_makes_a_changed_copy() {
        let dir = folder(&rules());
        let lab = tempfile::tempdir().unwrap();
        let from = RulesFrom::Folder(dir.path().to_owned());
        let space = SpaceId::parse("t-five").unwrap();
        let profile = Profile::prepare(&from, Some(5), Some(&space), lab.path()).unwrap();
        assert_eq!(profile.space, space);
        let names: Vec<&str> = profile
            .units
            .iter()
            .map(|unit| unit.unit.as_str())
            .collect();
        assert_eq!(names, ["sh-1", "bj-1", "u3", "u4", "u5"]);
        let placement = profile
            .documents
            .iter()
            .find(|d| d.kind() == "placement")
            .unwrap();
        assert_eq!(placement.value["ranges"][4]["slots"], "8-9");
        let source = profile
            .documents
            .iter()
            .find(|d| d.value["name"] == "orders")
            .unwrap();
        assert!(source.value["units"].is_null());

        let one = Profile::prepare(&from, Some(1), None, lab.path()).unwrap();
        assert_eq!(one.units.len(), 1);
        let rule = one
            .documents
            .iter()
            .find(|d| d.value["name"] == "orders-vip")
            .unwrap();
        assert_eq!(rule.value["route"], "local");
    }
}
