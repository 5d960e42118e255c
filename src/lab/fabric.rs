//! A running lab: brokers, etcd, gateways, and the wires between them.
//!
//! Owns all of it; dropping it ends all of it. The command line, the demonstration and the tests use it alike.

use super::broker::{BrokerNode, Cluster, Memory, delete_user, delete_vhost};
use super::ca::Authority;
use super::etcd::EtcdMember;
use super::gateway::GatewayPlan;
use super::http::HttpClient;
use super::lab_file::{LabBroker, LabFile, LabGateway};
use super::packets::Packets;
use super::process::{ProcessState, Processes, Stop, describe};
use super::profile::Profile;
use super::proxy::{Gate, Proxy};
pub use super::spec::{FabricSpec, Parts, default_dir, test_lab_dir};
use super::{LabError, Node, Place, Ways};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;
use tokio_util::task::TaskTracker;

mod build;

/// A gateway that is told to go drains its lanes first; in a lab nobody waits for long.
const GATEWAY_PATIENCE: Duration = Duration::from_secs(5);
/// A broker that is told to stop syncs its queues to disk.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
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
    /// Signs the certificates of links; none in a bare lab.
    authority: Option<Authority>,
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

    /// Starts what was killed or stopped with a variable more in its environment, this once. Doesn't wait: it may be meant
    /// to end before it serves.
    pub fn start_with(
        &mut self,
        node: &Node,
        name: &'static str,
        value: &str,
    ) -> Result<(), LabError> {
        self.own(node)?;
        self.processes.restart_with(node, (name, value.into()))?;
        self.record()
    }

    /// Whether a process runs, or is frozen.
    pub fn is_running(&mut self, node: &Node) -> bool {
        self.processes.is_running(node)
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
            Node::Broker(..) => {
                let (cluster, found) = find_broker(&self.clusters, node)?;
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

    /// Bounds the bandwidth of each wire between units, in bytes per second each way; `None`: what the machine gives.
    pub fn set_bandwidth(&self, bytes_per_second: Option<u32>) {
        for named in self.between_units() {
            named.proxy.set_bandwidth(bytes_per_second);
        }
    }

    /// Leads the wires between units another way, each to the near end of the one to its target; connections end.
    pub(super) fn set_via(&self, near_end: impl Fn(SocketAddr) -> Option<SocketAddr>) {
        for named in self.between_units() {
            named.proxy.set_via(near_end(named.proxy.target()));
        }
    }

    /// Where the wires between units lead.
    pub(super) fn targets(&self) -> Vec<SocketAddr> {
        let wires = self.between_units();
        wires.map(|named| named.proxy.target()).collect()
    }

    /// Ways of true packets to such targets, on loopback.
    pub(super) async fn packets_to(&self, targets: &[SocketAddr]) -> Result<Packets, LabError> {
        Packets::lay(targets, &self.tasks).await
    }

    /// Bytes that the wires between units have carried, both ways.
    pub fn carried(&self) -> u64 {
        self.between_units()
            .map(|named| named.proxy.carried())
            .sum()
    }

    /// What signs the certificates of its links.
    pub(super) fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    fn between_units(&self) -> impl Iterator<Item = &NamedWire> {
        self.wires.iter().filter(|named| named.to != Place::Etcd)
    }

    /// A wire of somebody else's, from one site to another.
    pub async fn wire_to(&self, target: SocketAddr) -> Result<Proxy, LabError> {
        Proxy::start(target, Duration::ZERO, &self.tasks).await
    }

    /// The process id while it runs.
    pub fn pid(&mut self, node: &Node) -> Option<u32> {
        self.processes.running_pid(node)
    }

    /// All processes with their states and logs.
    pub fn states(&mut self) -> Vec<(Node, ProcessState, PathBuf)> {
        self.processes.states()
    }

    /// Runs a command of `setgate`'s and gives its standard output; any exit code but 0 is an error.
    pub async fn setgate(&self, args: &[&str]) -> Result<String, LabError> {
        let mut command = Command::new(&self.binary);
        command.args(args);
        run(command, format!("setgate {}", args.join(" "))).await
    }

    /// Has a broker of this lab raise its memory alarm, or take it back.
    pub async fn set_memory(&self, broker: &Node, memory: Memory) -> Result<(), LabError> {
        let watermark = match memory {
            Memory::Short => "0.0001",
            Memory::Enough => "0.4",
        };
        let function = format!("vm_memory_monitor set_vm_memory_high_watermark [{watermark}]");
        self.call(broker, &function).await
    }

    /// Calls a function in a broker of this lab, such as `application set_env [rabbit, consumer_timeout, 9000]`; it must
    /// give `ok`.
    pub async fn call(&self, broker: &Node, function: &str) -> Result<(), LabError> {
        self.own(broker)?;
        let (cluster, node) = find_broker(&self.clusters, broker)?;
        let said = run(cluster.call(node, function), format!("erl_call {function}")).await?;
        match said.trim() {
            "ok" => Ok(()),
            other => Err(LabError::Refused(format!("{broker} answered: {other}"))),
        }
    }

    /// Applies a rules folder, at once.
    pub async fn apply(&self, rules: &Path, why: &str) -> Result<String, LabError> {
        let (dir, etcd) = (rules.display().to_string(), self.lab.etcd.join(","));
        let space = self.lab.space.as_str();
        self.setgate(&[
            "rules",
            "apply",
            &dir,
            "-m",
            why,
            "--unordered",
            "--etcd",
            &etcd,
            "--space",
            space,
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
            for name in self.profile.vhosts.keys().flatten().chain([vhost]) {
                delete_vhost(&self.http, broker, name).await?;
            }
            delete_user(&self.http, broker).await?;
        }
        self.wires.clear();
        self.tasks.close();
        self.tasks.wait().await;
        let path = LabFile::path(&self.dir);
        std::fs::remove_file(&path).map_err(LabError::file("remove", path))
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

/// A broker of these clusters.
fn find_broker<'a>(
    clusters: &'a [Cluster],
    node: &Node,
) -> Result<(&'a Cluster, &'a BrokerNode), LabError> {
    let of = |cluster: &'a Cluster| {
        let found = cluster.nodes.iter().find(|one| cluster.node(one) == *node);
        found.map(|found| (cluster, found))
    };
    let found = clusters.iter().find_map(of);
    found.ok_or_else(|| LabError::NoSuchNode(node.clone()))
}

/// Runs a command and gives its standard output; any exit code but 0 is an error.
async fn run(mut command: Command, shown: String) -> Result<String, LabError> {
    let program = PathBuf::from(command.as_std().get_program());
    let output = command
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(LabError::file("run", program))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let output_text = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
    Err(LabError::Command {
        command: shown,
        status: describe(output.status),
        output: output_text,
    })
}
