//! What a lab is to look like.

use super::LabError;
use super::profile::RulesFrom;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Units of the largest lab: a full mesh of 16 with two gateways each has 960 wires.
const UNITS_MAX: usize = 16;
/// Gateways of a unit.
const GATEWAYS_MAX: usize = 8;
/// Nodes of a cluster, and etcd members.
const NODES_MAX: usize = 7;

/// A lab to be.
#[derive(Debug, Clone)]
pub struct FabricSpec {
    /// Its folder.
    pub dir: PathBuf,
    /// Its rules.
    pub rules: RulesFrom,
    /// The rules that the space begins with, where they aren't those: a unit that they don't know waits for its place.
    pub begins_with: Option<RulesFrom>,
    /// How many units; `None`: as many as the rules have.
    pub units: Option<usize>,
    /// Gateways per unit.
    pub gateways: usize,
    /// RabbitMQ nodes per unit.
    pub brokers: usize,
    /// How each node runs.
    pub nodes: Nodes,
    /// etcd members.
    pub etcd: usize,
    /// Round trip between units, and between a unit and etcd.
    pub rtt: Duration,
    /// Which parts.
    pub parts: Parts,
    /// Further fields of every gateway.yaml, or others in place of the lab's.
    pub settings: BTreeMap<String, String>,
    /// The `setgate` binary; `None`: the one beside the running program.
    pub binary: Option<PathBuf>,
}

/// How RabbitMQ nodes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nodes {
    /// One scheduler each: many share few cores.
    Lean,
    /// As many schedulers as there are cores, and the plugins that carry messages elsewhere: shovel and federation.
    Compared,
}

/// Which parts a lab has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// All of it.
    Whole,
    /// Brokers and etcd: what tests share.
    Bare,
}

impl FabricSpec {
    /// One gateway and one broker per unit of a profile, one etcd member, no delay, in `target/lab`.
    pub fn profile(name: &str) -> Self {
        Self::of(RulesFrom::Profile(name.to_owned()))
    }

    /// The same with a rules folder.
    pub fn folder(dir: impl Into<PathBuf>) -> Self {
        Self::of(RulesFrom::Folder(dir.into()))
    }

    fn of(rules: RulesFrom) -> Self {
        Self {
            dir: default_dir(),
            rules,
            begins_with: None,
            units: None,
            gateways: 1,
            brokers: 1,
            nodes: Nodes::Lean,
            etcd: 1,
            rtt: Duration::ZERO,
            parts: Parts::Whole,
            settings: BTreeMap::new(),
            binary: None,
        }
    }

    /// Another folder.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = dir.into();
        self
    }

    /// Other rules at the beginning: units that they don't know run, and wait for their place.
    #[must_use]
    pub fn begins_with(mut self, profile: &str) -> Self {
        self.begins_with = Some(RulesFrom::Profile(profile.to_owned()));
        self
    }

    /// Another number of units than the rules have.
    #[must_use]
    pub fn units(mut self, count: usize) -> Self {
        self.units = Some(count);
        self
    }

    /// Gateways per unit.
    #[must_use]
    pub fn gateways(mut self, count: usize) -> Self {
        self.gateways = count;
        self
    }

    /// RabbitMQ nodes per unit.
    #[must_use]
    pub fn brokers(mut self, count: usize) -> Self {
        self.brokers = count;
        self
    }

    /// How each node runs.
    #[must_use]
    pub fn nodes(mut self, nodes: Nodes) -> Self {
        self.nodes = nodes;
        self
    }

    /// etcd members.
    #[must_use]
    pub fn etcd(mut self, count: usize) -> Self {
        self.etcd = count;
        self
    }

    /// Round trip between units.
    #[must_use]
    pub fn rtt(mut self, rtt: Duration) -> Self {
        self.rtt = rtt;
        self
    }

    /// Brokers and etcd alone.
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.parts = Parts::Bare;
        self
    }

    /// A field of every gateway.yaml, its value in YAML.
    #[must_use]
    pub fn setting(mut self, field: &str, yaml: &str) -> Self {
        self.settings.insert(field.to_owned(), yaml.to_owned());
        self
    }

    /// Another `setgate` binary.
    #[must_use]
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    /// Whether such a lab can be.
    pub(super) fn check(&self) -> Result<(), LabError> {
        let counts = [
            ("units", self.units.unwrap_or(1), UNITS_MAX),
            ("gateways per unit", self.gateways, GATEWAYS_MAX),
            ("brokers per unit", self.brokers, NODES_MAX),
            ("etcd members", self.etcd, NODES_MAX),
        ];
        for (what, found, max) in counts {
            if !(1..=max).contains(&found) {
                return Err(LabError::Count { what, max, found });
            }
        }
        Ok(())
    }

    /// The `setgate` binary: beside the running program, or above it where that is a test in `deps`.
    pub(super) fn find_binary(&self) -> Result<PathBuf, LabError> {
        const NAME: &str = "setgate";
        if let Some(path) = &self.binary {
            return path.canonicalize().map_err(LabError::file("find", path));
        }
        let program = std::env::current_exe().map_err(LabError::file("find", "this program"))?;
        let found = program
            .ancestors()
            .skip(1)
            .take(2)
            .map(|dir| dir.join(NAME))
            .find(|p| p.is_file());
        found.ok_or(LabError::NoBinary {
            name: NAME,
            beside: program,
        })
    }
}

/// `lab` in the target folder.
pub fn default_dir() -> PathBuf {
    target_dir().join("lab")
}

/// The folder of the brokers and etcd that tests share.
pub fn test_lab_dir() -> PathBuf {
    target_dir().join("test-lab")
}

/// cargo's target folder: the running program lies in `<target>/<profile>/`, or, as a test, in `<target>/<profile>/deps/`.
/// An installed program uses `target` where it is run.
fn target_dir() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    // cargo's own notes lie in the profile's folder.
    let built = |dir: &&Path| dir.join(".fingerprint").is_dir();
    let profile = program.ancestors().skip(1).take(2).find(built);
    profile
        .and_then(Path::parent)
        .map_or_else(|| PathBuf::from("target"), Path::to_owned)
}
