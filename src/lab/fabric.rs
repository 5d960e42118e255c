//! A running lab: brokers, etcd, gateways, and the wires between them.
//!
//! Owns all of it; dropping it ends all of it. The command line, the demonstration and the tests use it alike.

use super::broker::{Cluster, PortMapper, QueueKind, declare, delete_vhost};
use super::ca::Authority;
use super::etcd::EtcdMember;
use super::gateway::{GatewayPlan, GatewayWorld};
use super::http::HttpClient;
use super::lab_file::{LabBroker, LabFile, LabGateway, LabUnit};
use super::process::{ProcessState, Processes, Stop, describe};
use super::profile::Profile;
use super::proxy::{Gate, Proxy};
pub use super::spec::{FabricSpec, Parts, default_dir, test_lab_dir};
use super::{LabError, Node, Place, Reporter, Ways};
use crate::model::SpaceId;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::task::TaskTracker;

/// A gateway that is told to go drains its lanes first; in a lab nobody waits for long.
const GATEWAY_PATIENCE: Duration = Duration::from_secs(5);
/// A broker that is told to stop syncs its queues to disk.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// The file that says that a folder is a lab's and may be emptied.
const OWNED: &str = ".setgate-lab";

/// Whether `start` waits until the process serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Await {
    /// It does.
    Ready,
    /// It doesn't: what it needs may be away on purpose.
    Nothing,
}

/// A running lab.
#[derive(Debug)]
pub struct Fabric {
    dir: PathBuf,
    profile: Profile,
    lab: LabFile,
    gateways: Vec<GatewayPlan>,
    wires: Vec<NamedWire>,
    clusters: Vec<Cluster>,
    members: Vec<EtcdMember>,
    /// Vhosts of this test on brokers that others own, to be deleted at the end.
    borrowed: Vec<(LabBroker, String)>,
    binary: PathBuf,
    http: HttpClient,
    tasks: TaskTracker,
    // Last, so that the processes outlive what talks to them.
    processes: Processes,
}

/// A proxy between two places.
#[derive(Debug)]
struct NamedWire {
    from: Place,
    to: Place,
    /// The gateway that connects by it, and what it connects to: a peer's name, or a member's URL.
    gateway: String,
    target: String,
    proxy: Proxy,
}

/// A wire as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CutWire {
    /// Bytes from here
    pub from: Place,
    /// to here don't arrive.
    pub to: Place,
}

impl Fabric {
    /// Starts a lab of its own.
    pub async fn up(spec: FabricSpec, report: Reporter) -> Result<Self, LabError> {
        spec.check()?;
        let dir = take_folder(&spec.dir)?;
        let binary = match spec.parts {
            Parts::Whole => spec.find_binary()?,
            Parts::Bare => PathBuf::new(),
        };
        let mut processes = Processes::open(&dir)?;
        empty_folder(&dir)?;
        let profile = Profile::prepare(&spec.rules, spec.units, None, &dir)?;
        let mapper = PortMapper::plan(&dir)?;
        mapper.start(&mut processes).await?;
        let clusters = profile
            .units
            .iter()
            .map(|planned| {
                let dir = dir.join("units").join(planned.unit.as_str());
                Cluster::plan(&planned.unit, spec.brokers, &mapper, &dir)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let members = EtcdMember::plan(spec.etcd, &dir.join("etcd"))?;
        report.say(format!(
            "starting {} RabbitMQ node(s) and {} etcd member(s)",
            clusters.len() * spec.brokers,
            spec.etcd
        ));
        for cluster in &clusters {
            cluster.start(&mut processes)?;
        }
        EtcdMember::start_all(&members, &mut processes)?;
        let http = HttpClient::new();
        for member in &members {
            member.wait_ready(&mut processes, &http).await?;
            report.say(format!("{} serves at {}", member.node(), member.url()));
        }
        for cluster in &clusters {
            for node in &cluster.nodes {
                cluster.wait_ready(node, &mut processes, &http).await?;
                report.say(format!("{} is up", cluster.node(node)));
            }
        }
        let units = profile
            .units
            .iter()
            .zip(&clusters)
            .map(|(planned, cluster)| LabUnit {
                unit: planned.unit.clone(),
                site: planned.site.clone(),
                brokers: cluster.brokers("/"),
                gateways: Vec::new(),
            });
        let lab = LabFile {
            space: profile.space.clone(),
            etcd: members.iter().map(EtcdMember::url).collect(),
            units: units.collect(),
        };
        let mut fabric = Self {
            dir,
            profile,
            lab,
            gateways: Vec::new(),
            wires: Vec::new(),
            clusters,
            members,
            borrowed: Vec::new(),
            binary,
            http,
            tasks: TaskTracker::new(),
            processes,
        };
        fabric.declare_applications("/", spec.brokers).await?;
        if spec.parts == Parts::Whole {
            fabric.join_units(&spec, report).await?;
        }
        fabric.record()?;
        Ok(fabric)
    }

    /// Starts a test's own gateways on the brokers and the etcd that `make test-lab` has started: a vhost per unit, a
    /// space, a folder and wires of the test's own. Units beyond the shared clusters share them, each in its vhost.
    pub async fn borrowed(test: &str, spec: FabricSpec) -> Result<Self, LabError> {
        spec.check()?;
        let shared_dir = test_lab_dir();
        let shared = match LabFile::read(&shared_dir) {
            Err(LabError::NotUp { dir }) => return Err(LabError::NoTestLab { dir }),
            read => read?,
        };
        let dir = take_folder(&shared_dir.join("tests").join(test))?;
        let binary = spec.find_binary()?;
        let processes = Processes::open(&dir)?;
        empty_folder(&dir)?;
        let space = own_space(test)?;
        let profile = Profile::prepare(&spec.rules, spec.units, Some(&space), &dir)?;
        let mut units = Vec::new();
        let mut borrowed = Vec::new();
        let http = HttpClient::new();
        for (planned, cluster) in profile.units.iter().zip(shared.units.iter().cycle()) {
            let vhost = format!("{test}.{}", planned.unit);
            let mut brokers = cluster.brokers.clone();
            for broker in &mut brokers {
                let end = broker.uri.rfind('/').unwrap_or(broker.uri.len());
                broker.uri = format!("{}/{}", &broker.uri[..end], super::http::encode(&vhost));
            }
            if let Some(broker) = brokers.first() {
                delete_vhost(&http, broker, &vhost).await?;
                borrowed.push((broker.clone(), vhost));
            }
            units.push(LabUnit {
                unit: planned.unit.clone(),
                site: planned.site.clone(),
                brokers,
                gateways: Vec::new(),
            });
        }
        let lab = LabFile {
            space,
            etcd: shared.etcd,
            units,
        };
        let mut fabric = Self {
            dir,
            profile,
            lab,
            gateways: Vec::new(),
            wires: Vec::new(),
            clusters: Vec::new(),
            members: Vec::new(),
            borrowed,
            binary,
            http,
            tasks: TaskTracker::new(),
            processes,
        };
        for (broker, vhost) in fabric.borrowed.clone() {
            fabric.declare_one(&broker, &vhost, 1).await?;
        }
        fabric.join_units(&spec, Reporter::Quiet).await?;
        fabric.record()?;
        Ok(fabric)
    }

    /// Where everything is, with the process ids of now.
    pub fn lab(&mut self) -> LabFile {
        let mut lab = self.lab.clone();
        for gateway in lab.units.iter_mut().flat_map(|unit| &mut unit.gateways) {
            gateway.pid = self
                .processes
                .running_pid(&Node::Gateway(gateway.name.clone()));
        }
        lab
    }

    /// Its folder, with `lab.json`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The rules that it runs.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The `setgate` binary that it runs.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// For requests to its parts.
    pub fn http(&self) -> &HttpClient {
        &self.http
    }

    /// A gateway, as `lab.json` describes it.
    pub fn gateway(&mut self, name: &str) -> Option<LabGateway> {
        self.lab().gateway(name).cloned()
    }

    /// SIGKILL: a crash.
    pub async fn kill(&mut self, node: &Node) -> Result<(), LabError> {
        self.own(node)?;
        self.processes.stop(node, Stop::Kill).await?;
        self.record()
    }

    /// SIGTERM: an orderly end.
    pub async fn stop(&mut self, node: &Node) -> Result<(), LabError> {
        self.own(node)?;
        self.processes
            .stop(node, Stop::Terminate(STOP_PATIENCE))
            .await?;
        self.record()
    }

    /// SIGSTOP: a hang.
    pub fn pause(&mut self, node: &Node) -> Result<(), LabError> {
        self.own(node)?;
        self.processes.pause(node)
    }

    /// SIGCONT after a pause.
    pub fn resume(&mut self, node: &Node) -> Result<(), LabError> {
        self.own(node)?;
        self.processes.resume(node)
    }

    /// Starts what was killed or stopped, with its data.
    pub async fn start(&mut self, node: &Node, awaited: Await) -> Result<(), LabError> {
        self.own(node)?;
        self.processes.restart(node)?;
        self.record()?;
        match awaited {
            Await::Ready => self.wait_ready(node).await,
            Await::Nothing => Ok(()),
        }
    }

    /// Waits until a process serves.
    pub async fn wait_ready(&mut self, node: &Node) -> Result<(), LabError> {
        let absent = || LabError::NoSuchNode(node.clone());
        match node {
            Node::Gateway(name) => {
                let plan = self.gateways.iter().find(|plan| plan.name == *name);
                plan.ok_or_else(absent)?
                    .wait_ready(&mut self.processes, &self.http)
                    .await
            }
            Node::Broker(unit, _) => {
                let cluster = self.clusters.iter().find(|cluster| cluster.unit == *unit);
                let cluster = cluster.ok_or_else(absent)?;
                let found = cluster.nodes.iter().find(|one| cluster.node(one) == *node);
                let found = found.ok_or_else(absent)?;
                cluster
                    .wait_ready(found, &mut self.processes, &self.http)
                    .await
            }
            Node::Etcd(_) => {
                let member = self.members.iter().find(|member| member.node() == *node);
                member
                    .ok_or_else(absent)?
                    .wait_ready(&mut self.processes, &self.http)
                    .await
            }
            Node::PortMapper | Node::Supervisor => Err(absent()),
        }
    }

    /// Cuts all wires between two places.
    pub fn cut(&self, a: &Place, b: &Place, ways: Ways) -> Result<(), LabError> {
        self.set_gates(a, b, ways, Gate::Cut)
    }

    /// Heals them.
    pub fn heal(&self, a: &Place, b: &Place, ways: Ways) -> Result<(), LabError> {
        self.set_gates(a, b, ways, Gate::Open)
    }

    /// Directions in which bytes don't arrive.
    pub fn cuts(&self) -> Vec<CutWire> {
        let mut cuts = Vec::new();
        let mut add = |cut: CutWire| {
            if !cuts.contains(&cut) {
                cuts.push(cut);
            }
        };
        for named in &self.wires {
            let wire = named.proxy.wire();
            if wire.forward == Gate::Cut {
                add(CutWire {
                    from: named.from.clone(),
                    to: named.to.clone(),
                });
            }
            if wire.backward == Gate::Cut {
                add(CutWire {
                    from: named.to.clone(),
                    to: named.from.clone(),
                });
            }
        }
        cuts
    }

    /// Another round trip on all wires.
    pub fn set_rtt(&self, rtt: Duration) {
        for named in &self.wires {
            named.proxy.set_delay(rtt / 2);
        }
    }

    /// All processes with their states and logs.
    pub fn states(&mut self) -> Vec<(Node, ProcessState, PathBuf)> {
        self.processes.states()
    }

    /// Runs a command of `setgate`'s and gives its standard output; any exit code but 0 is an error.
    pub async fn setgate(&self, args: &[&str]) -> Result<String, LabError> {
        let command = format!("setgate {}", args.join(" "));
        let output = tokio::process::Command::new(&self.binary)
            .args(args)
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(LabError::file("run", &self.binary))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        let output_text = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
        Err(LabError::Command {
            command,
            status: describe(output.status),
            output: output_text,
        })
    }

    /// Applies a rules folder.
    pub async fn apply(&self, rules: &Path, why: &str) -> Result<String, LabError> {
        let (dir, etcd) = (rules.display().to_string(), self.lab.etcd.join(","));
        let space = self.lab.space.as_str();
        self.setgate(&[
            "rules", "apply", &dir, "-m", why, "--etcd", &etcd, "--space", space,
        ])
        .await
    }

    /// Ends everything, and says so by removing `lab.json`.
    pub async fn down(mut self) -> Result<(), LabError> {
        let gateways: Vec<Node> = self.gateways.iter().map(GatewayPlan::node).collect();
        // A frozen wire or process would keep a gateway from going.
        for named in &self.wires {
            named.proxy.set_forward(Gate::Open);
            named.proxy.set_backward(Gate::Open);
        }
        let how = Stop::Terminate(GATEWAY_PATIENCE);
        self.processes.stop_everything(&[gateways], how).await?;
        for (broker, vhost) in &self.borrowed {
            delete_vhost(&self.http, broker, vhost).await?;
        }
        self.wires.clear();
        self.tasks.close();
        self.tasks.wait().await;
        let path = LabFile::path(&self.dir);
        std::fs::remove_file(&path).map_err(LabError::file("remove", path))
    }

    /// Certificates, wires, configurations, rules, gateways.
    async fn join_units(&mut self, spec: &FabricSpec, report: Reporter) -> Result<(), LabError> {
        let authority = Authority::new("setgate-lab")?;
        authority.write(&self.dir)?;
        for planned in &self.profile.units {
            let dir = self.dir.join("units").join(planned.unit.as_str());
            self.gateways
                .extend(GatewayPlan::plan(&planned.unit, spec.gateways, &dir)?);
        }
        self.lay_wires(spec.rtt / 2).await?;
        for plan in &self.gateways {
            plan.write(&self.world(plan, &spec.settings), &authority)?;
        }
        let rules = self.profile.dir.clone();
        self.apply(&rules, "lab").await?;
        report.say(format!("the rules of {} are in force", rules.display()));
        for plan in &self.gateways {
            plan.start(&self.binary, &mut self.processes)?;
        }
        for plan in &self.gateways {
            plan.wait_ready(&mut self.processes, &self.http).await?;
            report.say(format!("{} is ready", plan.node()));
        }
        for unit in &mut self.lab.units {
            let own = self.gateways.iter().filter(|plan| plan.unit == unit.unit);
            unit.gateways = own.map(|plan| plan.describe(None)).collect();
        }
        Ok(())
    }

    /// A proxy for each gateway and peer of another unit, and for each gateway and etcd member.
    async fn lay_wires(&mut self, delay: Duration) -> Result<(), LabError> {
        let mut ends = Vec::new();
        for from in &self.gateways {
            let peers = self.gateways.iter().filter(|to| to.unit != from.unit);
            for to in peers {
                ends.push((
                    from,
                    Place::Unit(to.unit.clone()),
                    to.peer_name(),
                    to.link(),
                ));
            }
            for url in &self.lab.etcd {
                ends.push((from, Place::Etcd, url.clone(), address_of(url)?));
            }
        }
        let mut wires = Vec::with_capacity(ends.len());
        for (gateway, to, target, address) in ends {
            let proxy = Proxy::start(address, delay, &self.tasks).await?;
            let from = Place::Unit(gateway.unit.clone());
            wires.push(NamedWire {
                from,
                to,
                gateway: gateway.peer_name(),
                target,
                proxy,
            });
        }
        self.wires = wires;
        Ok(())
    }

    /// What one gateway is told.
    fn world<'a>(
        &'a self,
        plan: &GatewayPlan,
        settings: &'a BTreeMap<String, String>,
    ) -> GatewayWorld<'a> {
        let own: Vec<&NamedWire> = self
            .wires
            .iter()
            .filter(|named| named.gateway == plan.peer_name())
            .collect();
        let (etcd, peers): (Vec<&NamedWire>, _) =
            own.into_iter().partition(|named| named.to == Place::Etcd);
        let unit = self.lab.units.iter().find(|unit| unit.unit == plan.unit);
        GatewayWorld {
            space: &self.lab.space,
            etcd: etcd
                .iter()
                .map(|named| format!("http://{}", named.proxy.address()))
                .collect(),
            brokers: unit.map_or(&[], |unit| &unit.brokers),
            via: peers
                .iter()
                .map(|named| (named.target.clone(), named.proxy.address()))
                .collect(),
            settings,
        }
    }

    fn set_gates(&self, a: &Place, b: &Place, ways: Ways, gate: Gate) -> Result<(), LabError> {
        let mut found = false;
        for named in &self.wires {
            let along = named.from == *a && named.to == *b;
            let against = named.from == *b && named.to == *a;
            found |= along || against;
            if along || (against && ways == Ways::Both) {
                named.proxy.set_forward(gate);
            }
            if against || (along && ways == Ways::Both) {
                named.proxy.set_backward(gate);
            }
        }
        if found {
            Ok(())
        } else {
            Err(LabError::NoWire(a.clone(), b.clone()))
        }
    }

    async fn declare_applications(&self, vhost: &str, nodes: usize) -> Result<(), LabError> {
        for unit in &self.lab.units {
            if let Some(broker) = unit.brokers.first() {
                self.declare_one(broker, vhost, nodes).await?;
            }
        }
        Ok(())
    }

    async fn declare_one(
        &self,
        broker: &LabBroker,
        vhost: &str,
        nodes: usize,
    ) -> Result<(), LabError> {
        for (named, application) in &self.profile.vhosts {
            let vhost = named.as_deref().unwrap_or(vhost);
            let queues = QueueKind::for_nodes(nodes);
            declare(&self.http, broker, vhost, application, queues).await?;
        }
        Ok(())
    }

    /// Whether a node is this lab's to stop.
    fn own(&self, node: &Node) -> Result<(), LabError> {
        let shared = !self.borrowed.is_empty() && !matches!(node, Node::Gateway(_));
        if shared {
            Err(LabError::Shared(node.clone()))
        } else {
            Ok(())
        }
    }

    fn record(&mut self) -> Result<(), LabError> {
        self.lab().write(&self.dir)
    }
}

/// Makes a lab's folder, and refuses one that is something else's.
fn take_folder(dir: &Path) -> Result<PathBuf, LabError> {
    std::fs::create_dir_all(dir).map_err(LabError::file("create", dir))?;
    let dir = dir.canonicalize().map_err(LabError::file("find", dir))?;
    let owned = dir.join(OWNED);
    if !owned.exists() {
        let others = std::fs::read_dir(&dir).map_err(LabError::file("read", &dir))?;
        // `up --detach` has its log there before the lab begins.
        let foreign = others.flatten().any(|entry| entry.file_name() != "lab.log");
        if foreign {
            return Err(LabError::Foreign { dir });
        }
        std::fs::write(&owned, b"").map_err(LabError::file("create", &owned))?;
    }
    Ok(dir)
}

/// Removes an earlier lab's data; its detached supervisor's log is the new one's already.
fn empty_folder(dir: &Path) -> Result<(), LabError> {
    for name in ["units", "etcd", "rules", "tests"] {
        let path = dir.join(name);
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(LabError::file("remove", path))?;
        }
    }
    match std::fs::remove_file(LabFile::path(dir)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(LabError::file("remove", LabFile::path(dir))(error))
        }
        _ => Ok(()),
    }
}

/// A space that no earlier run of the test has written to.
fn own_space(test: &str) -> Result<SpaceId, LabError> {
    // 40 + 1 + 8 bytes: room for the queue names made of it.
    let short: String = test
        .chars()
        .take(40)
        .map(|c| if c == '_' { '-' } else { c })
        .collect();
    let text = format!("{short}-{:08x}", fastrand::u32(..));
    SpaceId::parse(&text).map_err(|error| LabError::Rules {
        dir: PathBuf::from(test),
        fault: format!("a test's name must be fit for a space: {error}"),
    })
}

/// The address in `http://127.0.0.1:2379`.
fn address_of(url: &str) -> Result<SocketAddr, LabError> {
    let text = url.strip_prefix("http://").unwrap_or(url);
    text.parse().map_err(|_| LabError::Http {
        method: "GET",
        url: url.to_owned(),
        cause: "it is no address of this machine".to_owned(),
    })
}
