//! Two sites with a broker each, and everything that carries messages from one to the other: setgate, shovel, federation.
//!
//! Owns the lab. Promises that all carriers run on the same brokers, between queues of the same types, and that only the
//! one that is measured carries anything meanwhile.

use super::BenchError;
use super::cell::Cell;
use super::ends::{Address, End};
use crate::lab::fabric::FabricSpec;
use crate::lab::http::encode;
use crate::lab::packets::{Packets, Shape};
use crate::lab::proxy::{Gate, Proxy};
use crate::lab::spec::Nodes;
use crate::lab::supervisor::{Signals, start};
use crate::lab::usage::pin;
use crate::lab::{Await, Fabric, LabBroker, LabError, Node, Reporter};
use crate::model::UnitId;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Queues side by side at most.
pub(super) const QUEUES: usize = 8;
/// What shovel is given when it is tuned: 20 times its default.
const TUNED_PREFETCH: u32 = 20_000;
/// The policy that makes exchanges federated.
const POLICY: &str = "bench";

/// What carries the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Carrier {
    /// setgate with its defaults
    Setgate,
    /// Shovel with RabbitMQ's defaults
    Shovel,
    /// Shovel with the prefetch that suits it best
    ShovelTuned,
    /// Exchange federation with RabbitMQ's defaults
    Federation,
}

impl Carrier {
    /// In the order in which a round measures them.
    pub(super) const ALL: [Self; 4] = [
        Self::Setgate,
        Self::Shovel,
        Self::ShovelTuned,
        Self::Federation,
    ];

    /// Its name in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Setgate => "setgate",
            Self::Shovel => "shovel",
            Self::ShovelTuned => "shovel_tuned",
            Self::Federation => "federation",
        }
    }
}

/// The lab of a benchmark.
pub(super) struct Rig {
    fabric: Fabric,
    /// Application's ends at both brokers.
    pub(super) near: End,
    pub(super) far: End,
    near_broker: LabBroker,
    far_broker: LabBroker,
    /// From the near broker's shovels to the far broker.
    shovel_wire: Proxy,
    /// From the far broker's federation links to the near broker.
    federation_wire: Proxy,
    /// For cells in which packets get lost.
    packets: Option<Packets>,
}

/// The processes of the rig.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pids {
    pub(super) brokers: [u32; 2],
    /// `None` while setgate isn't measured.
    pub(super) gateways: Option<[u32; 2]>,
}

impl Rig {
    /// Starts it, each queue with so many lanes; `None` when a signal came first.
    pub(super) async fn up(
        dir: &Path,
        partitions: u32,
        report: Reporter,
        signals: &mut Signals,
    ) -> Result<Option<Self>, BenchError> {
        let rules = rules(dir, partitions)?;
        let spec = FabricSpec::folder(rules)
            .dir(dir.join("lab"))
            .nodes(Nodes::Compared);
        let Some(mut fabric) = start(spec, report, signals).await? else {
            return Ok(None);
        };
        let lab = fabric.lab();
        let broker = |unit: &str| {
            let found = lab.unit(unit).and_then(|unit| unit.brokers.first());
            found.cloned().ok_or(BenchError::NoBroker)
        };
        let (near_broker, far_broker) = (broker("near")?, broker("far")?);
        let near = End::open(&near_broker.app_uri()).await?;
        let far = End::open(&far_broker.app_uri()).await?;
        let shovel_wire = fabric.wire_to(amqp_address(&far_broker)?).await?;
        let federation_wire = fabric.wire_to(amqp_address(&near_broker)?).await?;
        for queue in sources(Carrier::Shovel, QUEUES) {
            near.declare_quorum(&queue).await?;
        }
        let mut rig = Self {
            fabric,
            near,
            far,
            near_broker,
            far_broker,
            shovel_wire,
            federation_wire,
            packets: None,
        };
        rig.fabric.stop(&gateway("near")?).await?;
        rig.federate().await?;
        Ok(Some(rig))
    }

    /// Ends it.
    pub(super) async fn down(self) -> Result<(), LabError> {
        let Self {
            fabric,
            shovel_wire,
            federation_wire,
            packets,
            ..
        } = self;
        // A wire's tasks are the fabric's, which waits for them.
        drop((shovel_wire, federation_wire, packets));
        fabric.down().await
    }

    /// Makes the wires as a cell has them. Where packets get lost, all of it is done to packets.
    pub(super) async fn shape(&mut self, cell: &Cell) -> Result<(), BenchError> {
        let bandwidth = cell.mbit.map(|mbit| mbit * 1_000_000 / 8);
        let lossy = cell.loss > 0.0;
        let mut targets = self.fabric.targets();
        targets.extend(self.wires().map(Proxy::target));
        if lossy && self.packets.is_none() {
            self.packets = Some(self.fabric.packets_to(&targets).await?);
        }
        let packets = self.packets.as_ref().filter(|_| lossy);
        if let Some(packets) = packets {
            packets.set(Shape {
                delay: cell.one_way(),
                loss: cell.loss,
                bandwidth,
            });
        }
        let near_end = |target| packets.and_then(|packets| packets.near_end(target));
        let (delay, bandwidth) = if lossy {
            (Duration::ZERO, None)
        } else {
            (cell.one_way(), bandwidth)
        };
        self.fabric.set_rtt(delay * 2);
        self.fabric.set_bandwidth(bandwidth);
        self.fabric.set_via(near_end);
        for wire in self.wires() {
            wire.set_delay(delay);
            wire.set_bandwidth(bandwidth);
            wire.set_via(near_end(wire.target()));
        }
        Ok(())
    }

    /// Those that aren't the fabric's own.
    fn wires(&self) -> impl Iterator<Item = &Proxy> {
        [&self.shovel_wire, &self.federation_wire].into_iter()
    }

    /// Bytes that have crossed between the sites for a carrier, both ways.
    pub(super) fn carried(&self, carrier: Carrier) -> u64 {
        match carrier {
            Carrier::Setgate => self.fabric.carried(),
            Carrier::Shovel | Carrier::ShovelTuned => self.shovel_wire.carried(),
            Carrier::Federation => self.federation_wire.carried(),
        }
    }

    /// Empties what earlier carriers have left: at the far broker what they carried, at the near one what a shovel had
    /// carried and not acknowledged when it was deleted.
    pub(super) async fn clear(&self) -> Result<(), BenchError> {
        self.near.purge(&sources(Carrier::Shovel, QUEUES)).await?;
        self.far.purge(&destinations(QUEUES)).await
    }

    /// Lets a carrier rest, so that what is published waits at the near broker.
    pub(super) async fn rest(&mut self, carrier: Carrier, queues: usize) -> Result<(), BenchError> {
        match carrier {
            Carrier::Setgate => {
                let near = gateway("near")?;
                if self.fabric.is_running(&near) {
                    self.fabric.stop(&near).await?;
                }
            }
            Carrier::Shovel | Carrier::ShovelTuned => {
                for number in 0..queues {
                    let url = api(
                        &self.near_broker,
                        &format!("parameters/shovel/%2f/{number}"),
                    );
                    // One that isn't there yet can't be deleted.
                    let _ = self
                        .fabric
                        .http()
                        .delete(&url, self.near_broker.operator())
                        .await;
                }
            }
            Carrier::Federation => {
                self.federation_wire.set_forward(Gate::Cut);
                self.federation_wire.set_backward(Gate::Cut);
            }
        }
        Ok(())
    }

    /// Has it carry.
    pub(super) async fn go(&mut self, carrier: Carrier, queues: usize) -> Result<(), BenchError> {
        match carrier {
            Carrier::Setgate => {
                self.fabric.start(&gateway("near")?, Await::Ready).await?;
            }
            Carrier::Shovel => self.shovel(queues, None).await?,
            Carrier::ShovelTuned => self.shovel(queues, Some(TUNED_PREFETCH)).await?,
            Carrier::Federation => {
                self.federation_wire.set_forward(Gate::Open);
                self.federation_wire.set_backward(Gate::Open);
                // They may have lost their connections meanwhile.
                self.until_federated().await?;
            }
        }
        Ok(())
    }

    /// Holds the gateways, which run, to the first cores of the machine.
    pub(super) fn hold_to(&mut self, cores: usize) -> Result<(), BenchError> {
        for pid in self.pids(Carrier::Setgate)?.gateways.into_iter().flatten() {
            pin(pid, cores);
        }
        Ok(())
    }

    async fn shovel(&self, queues: usize, prefetch: Option<u32>) -> Result<(), BenchError> {
        for number in 0..queues {
            let mut value = json!({
                "src-protocol": "amqp091",
                "src-uri": self.near_broker.app_uri(),
                "src-queue": format!("bench.{number}.shovel"),
                "dest-protocol": "amqp091",
                "dest-uri": through(&self.shovel_wire, &self.far_broker),
                "dest-exchange": format!("bench.{number}.out"),
                "dest-exchange-key": "order.created",
            });
            if let Some(prefetch) = prefetch {
                value["src-prefetch-count"] = json!(prefetch);
            }
            let url = api(
                &self.near_broker,
                &format!("parameters/shovel/%2f/{number}"),
            );
            let body = json!({"value": value});
            let http = self.fabric.http();
            http.put(&url, self.near_broker.operator(), &body).await?;
        }
        Ok(())
    }

    /// The far broker's `bench.N.federated` exchanges take what is published to those of the near one. They are made
    /// once: a link has its queue at the near broker from then on.
    async fn federate(&self) -> Result<(), BenchError> {
        let http = self.fabric.http();
        let far = self.far_broker.operator();
        let uri = through(&self.federation_wire, &self.near_broker);
        // A connection that is lost between measurements comes back before the next one.
        let upstream = json!({"value": {"uri": uri, "reconnect-delay": 1}});
        let url = api(&self.far_broker, "parameters/federation-upstream/%2f/near");
        http.put(&url, far, &upstream).await?;
        for (broker, bound) in [(&self.near_broker, false), (&self.far_broker, true)] {
            for number in 0..QUEUES {
                let name = format!("bench.{number}.federated");
                let url = api(broker, &format!("exchanges/%2f/{name}"));
                let exchange = json!({"type": "topic", "durable": true});
                http.put(&url, broker.operator(), &exchange).await?;
                if bound {
                    let queue = encode(&format!("app.bench.{number}.out"));
                    let url = api(broker, &format!("bindings/%2f/e/{name}/q/{queue}"));
                    http.post(&url, far, &json!({"routing_key": "#"})).await?;
                }
            }
        }
        let policy = json!({"pattern": r"^bench\.\d+\.federated$", "apply-to": "exchanges",
            "definition": {"federation-upstream": "near"}});
        let url = api(&self.far_broker, &format!("policies/%2f/{POLICY}"));
        http.put(&url, far, &policy).await?;
        self.until_federated().await
    }

    async fn until_federated(&self) -> Result<(), BenchError> {
        let url = api(&self.far_broker, "federation-links");
        let mut cause = String::new();
        for _ in 0..200 {
            let login = Some(self.far_broker.operator());
            // A link that dies meanwhile makes the broker answer 500.
            match self.fabric.http().get_json(&url, login).await {
                Ok(links) => {
                    let links = links.as_array().map_or(&[][..], Vec::as_slice);
                    let runs = |link: &&serde_json::Value| link["status"] == "running";
                    let running = links.iter().filter(runs).count();
                    if running == QUEUES {
                        return Ok(());
                    }
                    cause = format!("{running} of {QUEUES} ran");
                }
                Err(error) => cause = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(BenchError::NotFederated(cause))
    }

    /// The processes whose time is counted for a carrier.
    pub(super) fn pids(&mut self, carrier: Carrier) -> Result<Pids, BenchError> {
        let mut pid = |node: &Node| self.fabric.pid(node).ok_or(BenchError::NoBroker);
        let brokers = [
            pid(&Node::Broker(unit("near")?, 1))?,
            pid(&Node::Broker(unit("far")?, 1))?,
        ];
        let gateways = match carrier {
            Carrier::Setgate => Some([pid(&gateway("near")?)?, pid(&gateway("far")?)?]),
            _ => None,
        };
        Ok(Pids { brokers, gateways })
    }

    /// The far broker's URI, for consumers.
    pub(super) fn far_uri(&self) -> String {
        self.far_broker.app_uri()
    }
}

/// Where a carrier takes from: what publishers name.
pub(super) fn addresses(carrier: Option<Carrier>, queues: usize) -> Vec<Address> {
    let address = |number: usize| match carrier {
        // Straight to where the others carry to.
        None => Address {
            exchange: format!("bench.{number}.out"),
            routing_key: "order.created".to_owned(),
        },
        Some(Carrier::Setgate) => Address {
            exchange: format!("bench.{number}"),
            routing_key: "order.created".to_owned(),
        },
        Some(Carrier::Shovel | Carrier::ShovelTuned) => Address {
            exchange: String::new(),
            routing_key: format!("bench.{number}.shovel"),
        },
        Some(Carrier::Federation) => Address {
            exchange: format!("bench.{number}.federated"),
            routing_key: "order.created".to_owned(),
        },
    };
    (0..queues).map(address).collect()
}

/// The queues in which messages wait for a carrier that the rig declares itself.
fn sources(carrier: Carrier, queues: usize) -> Vec<String> {
    let addresses = addresses(Some(carrier), queues).into_iter();
    addresses.map(|address| address.routing_key).collect()
}

/// The queues that all of them carry to.
pub(super) fn destinations(queues: usize) -> Vec<String> {
    let name = |number: usize| format!("app.bench.{number}.out");
    (0..queues).map(name).collect()
}

/// Of a broker's management API.
fn api(broker: &LabBroker, path: &str) -> String {
    format!("{}/api/{path}", broker.management)
}

fn unit(name: &str) -> Result<UnitId, BenchError> {
    UnitId::parse(name).map_err(|_| BenchError::NoBroker)
}

fn gateway(unit: &str) -> Result<Node, BenchError> {
    let text = format!("gateway/{unit}-a");
    text.parse().map_err(|_| BenchError::NoBroker)
}

fn amqp_address(broker: &LabBroker) -> Result<std::net::SocketAddr, BenchError> {
    let rest = broker.uri.strip_prefix("amqp://").unwrap_or_default();
    let address = rest.split('/').next().unwrap_or_default();
    address.parse().map_err(|_| BenchError::NoBroker)
}

/// A broker's URI by way of a wire.
fn through(wire: &Proxy, broker: &LabBroker) -> String {
    format!(
        "amqp://{}:{}@{}/{}",
        broker.app_user,
        broker.app_password,
        wire.address(),
        broker.vhost_encoded()
    )
}

/// Rules for two units: sources `bench.0` to `bench.7` are taken at `near` and belong to `far`.
fn rules(dir: &Path, partitions: u32) -> Result<PathBuf, BenchError> {
    use std::fmt::Write as _;
    let mut text = "\
kind: topology
space: bench
cities: {one: {}, other: {}}
sites: {here: {city: one}, there: {city: other}}
units: {near: {site: here}, far: {site: there}}
center: near
---
kind: placement
slots: 10000
ranges: [{slots: 0-9999, unit: far}]
"
    .to_owned();
    for number in 0..QUEUES {
        let _ = write!(
            text,
            "---
kind: source
name: bench-{number}
units: [near]
take: {{exchange: bench.{number}, bindings: [{{routing_key: \"#\"}}]}}
deliver: {{exchange: bench.{number}.out}}
key: {{from: [{{header: uid}}], map: hash}}
partitions: {partitions}
---
kind: rule
name: bench-{number}
source: bench-{number}
order: 100
route: owner
"
        );
    }
    let folder = dir.join("rules-of-the-benchmark");
    std::fs::create_dir_all(&folder).map_err(LabError::file("create", &folder))?;
    let file = folder.join("bench.yaml");
    std::fs::write(&file, text).map_err(LabError::file("write", &file))?;
    Ok(folder)
}
