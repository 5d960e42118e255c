//! etcd members of a lab: real processes on free loopback ports.

use super::http::HttpClient;
use super::ports;
use super::process::{Launch, Processes};
use super::{LabError, Node};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A member that has to wait for its peers' election on a loaded machine.
const READY: Duration = Duration::from_mins(1);

/// One member.
#[derive(Debug, Clone)]
pub struct EtcdMember {
    number: usize,
    client: u16,
    peer: u16,
    dir: PathBuf,
}

impl EtcdMember {
    /// Plans the members of one cluster.
    pub fn plan(count: usize, dir: &Path) -> Result<Vec<Self>, LabError> {
        (1..=count)
            .map(|number| {
                let dir = dir.join(format!("etcd-{number}"));
                Ok(Self {
                    number,
                    client: ports::free()?,
                    peer: ports::free()?,
                    dir,
                })
            })
            .collect()
    }

    /// Its name in the lab.
    pub fn node(&self) -> Node {
        Node::Etcd(self.number)
    }

    /// Where clients reach it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The same as an address.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.client))
    }

    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer)
    }

    /// Starts all members of a cluster; they wait for each other.
    pub fn start_all(members: &[Self], processes: &mut Processes) -> Result<(), LabError> {
        let cluster: Vec<String> = members
            .iter()
            .map(|member| format!("etcd-{}={}", member.number, member.peer_url()))
            .collect();
        let cluster = cluster.join(",");
        for member in members {
            processes.spawn(&member.node(), member.launch(&cluster))?;
        }
        Ok(())
    }

    /// Waits until it serves, which takes a quorum.
    pub async fn wait_ready(
        &self,
        processes: &mut Processes,
        http: &HttpClient,
    ) -> Result<(), LabError> {
        let url = format!("{}/health", self.url());
        let ready = || async {
            match http.get(&url, None).await {
                Ok((status, _)) if status.is_success() => Ok(()),
                Ok((status, body)) => Err(format!("{status}: {}", String::from_utf8_lossy(&body))),
                Err(error) => Err(error.render()),
            }
        };
        processes.wait_ready(&self.node(), READY, ready).await
    }

    fn launch(&self, cluster: &str) -> Launch {
        let option = |name: &str, value: String| [format!("--{name}").into(), value.into()];
        let args = [
            option("name", format!("etcd-{}", self.number)),
            option("data-dir", self.dir.join("data").display().to_string()),
            option("listen-client-urls", self.url()),
            option("advertise-client-urls", self.url()),
            option("listen-peer-urls", self.peer_url()),
            option("initial-advertise-peer-urls", self.peer_url()),
            option("initial-cluster", cluster.to_owned()),
            option("initial-cluster-token", format!("setgate-lab {cluster}")),
            option("initial-cluster-state", "new".to_owned()),
            option("logger", "zap".to_owned()),
            option("log-level", "warn".to_owned()),
        ];
        Launch {
            program: "etcd".into(),
            package: "etcd-server",
            args: args.into_iter().flatten().collect(),
            // etcd 3.4 refuses to start on other processors without it; elsewhere it is ignored.
            env: vec![(
                "ETCD_UNSUPPORTED_ARCH",
                std::env::consts::ARCH.replace("aarch64", "arm64").into(),
            )],
            log: self.dir.join("etcd.log"),
        }
    }
}
