//! What one run does: where it publishes, what it consumes, what it expects.

use super::client::Endpoint;
use super::documents::{self, EtcdPlace, KeyMap};
use super::windows::Windows;
use super::{Args, TrafficError};
use crate::lab::checker::{Expect, UnitIndex};
use secrecy::SecretString;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// One unit, as the traffic's clients see it.
#[derive(Debug, Clone)]
pub struct UnitPlan {
    /// Its name.
    pub name: String,
    /// The nodes of its broker cluster, tried in turn.
    pub brokers: Vec<Endpoint>,
}

/// By what a delivery's unit is judged.
#[derive(Debug, Clone)]
pub enum Ownership {
    /// By `x-set-to` alone, where there is one.
    Unknown,
    /// By the live placement and seats, and the key's map.
    Live {
        /// Where they are.
        etcd: EtcdPlace,
        /// How a key becomes a slot.
        map: KeyMap,
    },
}

/// One run. Every field may be changed before it starts.
#[derive(Debug, Clone)]
pub struct Plan {
    /// All units; each is consumed in. At most [`crate::lab::checker::UNITS_MAX`].
    pub units: Vec<UnitPlan>,
    /// Where is published, each message in one of them.
    pub publish_in: Vec<UnitIndex>,
    /// The exchange published to.
    pub exchange: String,
    /// The routing keys, `{region}` replaced by one per key.
    pub routing_key: String,
    /// The header that carries the key.
    pub header: String,
    /// The exchanges whose application queue `app.<exchange>` is consumed in every unit.
    pub deliver: Vec<String>,
    /// Where each message is due.
    pub expect: Expect,
    /// By what the unit of a delivery is judged.
    pub ownership: Ownership,
    /// The queue whose growth counts as parked.
    pub park: Option<String>,
    /// Messages over all units.
    pub messages: u64,
    /// Distinct keys.
    pub keys: u32,
    /// Messages a second over all units; 0 = as fast as confirms come.
    pub rate: u32,
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Without anything new for so long, what is missing is lost.
    pub settle: Duration,
    /// So long after the last publish the account is closed, whatever still comes.
    pub settle_max: Duration,
    /// A publisher whose broker is away for so long gets no more of this run's messages: the account then says how few it
    /// is of.
    pub away_max: Duration,
    /// Cancelled by whoever has seen enough: publishers then stop before all messages are published.
    pub enough: CancellationToken,
    /// Counts deliveries by a stand-in.
    pub stood_in: Arc<AtomicU64>,
    /// Latencies by the minute, for whoever compares some of them with others.
    pub windows: Option<Windows>,
}

impl Plan {
    /// A small run between these units: published to one exchange in each, delivered through others.
    pub fn new(units: Vec<UnitPlan>, exchange: &str, deliver: &[&str]) -> Self {
        let publish_in = all(&units);
        Self {
            units,
            publish_in,
            exchange: exchange.to_owned(),
            routing_key: "order.{region}.created".to_owned(),
            header: "uid".to_owned(),
            deliver: deliver.iter().map(|&name| name.to_owned()).collect(),
            expect: Expect::Once,
            ownership: Ownership::Unknown,
            park: None,
            messages: 1_000,
            keys: 50,
            rate: 0,
            body_bytes: 256,
            settle: Duration::from_secs(15),
            settle_max: Duration::MAX,
            away_max: Duration::from_mins(1),
            enough: CancellationToken::new(),
            stood_in: Arc::default(),
            windows: None,
        }
    }

    /// Expects each message once in every unit.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.expect = Expect::OnceIn(all(&self.units));
        self
    }

    /// Publishes in these units alone.
    pub fn publish_in(mut self, names: &[String]) -> Result<Self, TrafficError> {
        let known = || self.units.iter().map(|unit| unit.name.as_str());
        let find = |name: &String| {
            known()
                .zip(all(&self.units))
                .find(|(unit, _)| unit == name)
                .map(|(_, index)| index)
                .ok_or_else(|| TrafficError::UnknownUnit {
                    unit: name.clone(),
                    known: known().collect::<Vec<_>>().join(", "),
                })
        };
        self.publish_in = names.iter().map(find).collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// The run that the command line asks for, in the lab that runs in its folder.
    pub(in crate::lab) async fn from_lab(args: &Args) -> Result<Self, TrafficError> {
        let lab = read_lab(&args.dir)?;
        let etcd = EtcdPlace {
            urls: lab.etcd,
            space: lab.space.clone(),
            saved: lab
                .units
                .iter()
                .flat_map(|unit| &unit.gateways)
                .map(|gateway| gateway.config.with_file_name("state").join("table.json"))
                .collect(),
        };
        let source = documents::fetch(&etcd).await?.source(&args.source)?;
        let units = lab
            .units
            .iter()
            .map(LabUnit::plan)
            .collect::<Result<Vec<_>, _>>()?;
        let mut plan = Self::new(units, &source.exchange, &[]);
        plan.deliver = source.deliver;
        plan.routing_key = source.routing_key;
        plan.header.clone_from(&args.header);
        plan.park = Some(format!("setgate.{}.park", lab.space));
        plan.messages = args.messages;
        plan.keys = args.keys;
        plan.rate = args.rate;
        plan.body_bytes = usize::try_from(args.size).unwrap_or(usize::MAX);
        plan.settle = Duration::from_secs(args.settle);
        plan.ownership = Ownership::Live {
            etcd,
            map: source.map,
        };
        if args.shared {
            plan = plan.shared();
        }
        match args.from.as_slice() {
            [] => Ok(plan),
            names => plan.publish_in(names),
        }
    }
}

/// The units of the lab that runs in this folder, with its applications' user.
pub fn units_of_lab(dir: &Path) -> Result<Vec<UnitPlan>, TrafficError> {
    read_lab(dir)?.units.iter().map(LabUnit::plan).collect()
}

fn all(units: &[UnitPlan]) -> Vec<UnitIndex> {
    (0..=u8::MAX).take(units.len()).map(UnitIndex).collect()
}

/// `lab.json`, as far as the traffic needs it.
#[derive(Deserialize)]
struct Lab {
    space: String,
    etcd: Vec<String>,
    units: Vec<LabUnit>,
}

#[derive(Deserialize)]
struct LabUnit {
    unit: String,
    brokers: Vec<LabBroker>,
    #[serde(default)]
    gateways: Vec<LabGateway>,
}

#[derive(Deserialize)]
struct LabGateway {
    config: PathBuf,
}

#[derive(Deserialize)]
struct LabBroker {
    uri: SecretString,
    app_user: String,
    app_password: SecretString,
}

impl LabUnit {
    fn plan(&self) -> Result<UnitPlan, TrafficError> {
        let brokers = self
            .brokers
            .iter()
            .map(|broker| {
                Endpoint::parse(&broker.uri)
                    .map(|at| at.with_user(&broker.app_user, &broker.app_password))
                    .map_err(|cause| TrafficError::Uri {
                        unit: self.unit.clone(),
                        cause,
                    })
            })
            .collect::<Result<_, _>>()?;
        Ok(UnitPlan {
            name: self.unit.clone(),
            brokers,
        })
    }
}

fn read_lab(dir: &Path) -> Result<Lab, TrafficError> {
    let path = dir.join("lab.json");
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(source) => return Err(TrafficError::LabFile { path, source }),
    };
    match serde_json::from_slice::<Lab>(&text) {
        Ok(lab) if lab.units.is_empty() => Err(TrafficError::NoUnits { path }),
        Ok(lab) => Ok(lab),
        Err(source) => Err(TrafficError::LabShape { path, source }),
    }
}
