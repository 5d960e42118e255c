//! How a lab comes up: of its own, or on brokers and an etcd that tests share.

use super::super::broker::{
    Cluster, PortMapper, QueueKind, declare, delete_vhost, make_user, secret,
};
use super::super::ca::Authority;
use super::super::etcd::EtcdMember;
use super::super::folder::Folder;
use super::super::gateway::{GatewayPlan, GatewayWorld};
use super::super::http::{HttpClient, encode};
use super::super::lab_file::{LabBroker, LabFile, LabUnit};
use super::super::process::Processes;
use super::super::profile::Profile;
use super::super::proxy::Proxy;
use super::super::{LabError, Place, Reporter};
use super::{Fabric, FabricSpec, NamedWire, Parts, test_lab_dir};
use crate::model::SpaceId;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::task::TaskTracker;

impl Fabric {
    /// Starts a lab of its own.
    pub async fn up(spec: FabricSpec, report: Reporter) -> Result<Self, LabError> {
        spec.check()?;
        let folder = Folder::take(&spec.dir)?;
        let dir = folder.path().to_owned();
        let binary = match spec.parts {
            Parts::Whole => spec.find_binary()?,
            Parts::Bare => PathBuf::new(),
        };
        let mut processes = Processes::open(folder)?;
        processes.folder().empty()?;
        let profile = Profile::prepare(&spec.rules, spec.units, None, &dir)?;
        let mapper = PortMapper::plan(&dir)?;
        mapper.start(&mut processes).await?;
        let clusters = profile
            .units
            .iter()
            .map(|planned| {
                let dir = dir.join("units").join(planned.unit.as_str());
                Cluster::plan(&planned.unit, spec.brokers, spec.nodes, &mapper, &dir)
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
            authority: None,
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
    /// user, a space, a folder and wires of the test's own. Units beyond the shared clusters share them, each in its vhost.
    pub async fn borrowed(test: &str, spec: FabricSpec) -> Result<Self, LabError> {
        spec.check()?;
        let shared_dir = test_lab_dir();
        let shared = match LabFile::read(&shared_dir) {
            Err(LabError::NotUp { dir }) => return Err(LabError::NoTestLab { dir }),
            read => read?,
        };
        let folder = Folder::take(&shared_dir.join("tests").join(test))?;
        let dir = folder.path().to_owned();
        let binary = spec.find_binary()?;
        let processes = Processes::open(folder)?;
        processes.folder().empty()?;
        let space = own_space(test)?;
        let profile = Profile::prepare(&spec.rules, spec.units, Some(&space), &dir)?;
        let mut units = Vec::new();
        let mut borrowed = Vec::new();
        let http = HttpClient::new();
        let password = secret()?;
        for (planned, cluster) in profile.units.iter().zip(shared.units.iter().cycle()) {
            let vhost = format!("{test}.{}", planned.unit);
            let mut brokers = cluster.brokers.clone();
            for broker in &mut brokers {
                let end = broker.uri.rfind('/').unwrap_or(broker.uri.len());
                broker.uri = format!("{}/{}", &broker.uri[..end], encode(&vhost));
                broker.user = format!("setgate.{test}");
                broker.password.clone_from(&password);
            }
            if let Some(broker) = brokers.first() {
                for name in profile.vhosts.keys().flatten().chain([&vhost]) {
                    delete_vhost(&http, broker, name).await?;
                }
                make_user(&http, broker).await?;
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
            authority: None,
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
        self.authority = Some(authority);
        let begin = match &spec.begins_with {
            None => self.profile.clone(),
            Some(rules) => {
                let dir = self.dir.join("begin");
                Profile::prepare(rules, None, Some(&self.profile.space), &dir)?
            }
        };
        self.apply(&begin.dir, "lab").await?;
        let from = begin.dir.display();
        report.say(format!("the rules of {from} are in force"));
        for plan in &self.gateways {
            plan.start(&self.binary, &mut self.processes)?;
        }
        for plan in &self.gateways {
            if begin.units.iter().any(|planned| planned.unit == plan.unit) {
                plan.wait_ready(&mut self.processes, &self.http).await?;
                report.say(format!("{} is ready", plan.node()));
            } else {
                report.say(format!("{} waits for its unit's place", plan.node()));
            }
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
}

/// A space that no earlier run of the test has written to.
fn own_space(test: &str) -> Result<SpaceId, LabError> {
    // 40 + 1 + 8 bytes: room for the queue names made of it.
    let short: String = test
        .chars()
        .take(40)
        .map(|c| if c == '_' { '-' } else { c })
        .collect();
    let name = format!("{short}-{:08x}", fastrand::u32(..));
    SpaceId::parse(&name).map_err(|error| LabError::Rules {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_of_a_test_has_a_space_of_its_own() {
        let name = "a_test_with_a_name_that_is_far_longer_than_any_space_may_be";
        let (one, other) = (own_space(name).unwrap(), own_space(name).unwrap());
        assert_ne!(one, other);
    }
}
