//! An etcd of one member, a feed that follows it, and the commands as a shell would run them.

use clap::Parser;
use setgate::cli::rules as commands;
use setgate::etcd::{
    BrokerHealth, Commit, EtcdConfig, Files, GatewayRecord, Key, Snapshot, Store, Transaction,
};
use setgate::gateway::feed::{Feed, FeedFrom, FeedHandle, FeedSettings, FeedState};
use setgate::model::{Epoch, GatewayId, Revision, SpaceId, UnitId};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longer than the slowest thing waited for: a frozen etcd, noticed after 8 to 13 s.
const DEADLINE: Duration = Duration::from_secs(40);

const TOPOLOGY: &str = "kind: topology
space: trade
cities: {shanghai: {}}
sites:
  sh-a: {city: shanghai}
  sh-b: {city: shanghai}
units:
  sh-1: {site: sh-a}
  sh-2: {site: sh-b}
";

pub(crate) const PLACEMENT: &str = "# who owns what
kind: placement
slots: 100
ranges:
  - {slots: 0-49, unit: sh-1}
  - {slots: 50-99, unit: sh-2}
";

pub(crate) fn source(name: &str) -> String {
    format!(
        "kind: source\nname: {name}\ntake: {{exchange: orders, bindings: [{{routing_key: \"#\"}}]}}\n\
         deliver: {{exchange: orders.local}}\nkey:\n  from: [{{header: uid}}]\n"
    )
}

pub(crate) fn rule(source: &str) -> String {
    format!("kind: rule\nname: by-user\nsource: {source}\norder: 100\nroute: owner\n")
}

pub(crate) fn documents(source_name: &str) -> Files {
    let file = |name: &str, text: String| (name.to_owned(), text.into_bytes());
    Files::from([
        file("topology.yaml", TOPOLOGY.to_owned()),
        file("placement.yaml", PLACEMENT.to_owned()),
        file("sources.yaml", source(source_name)),
        file("rules.yaml", rule(source_name)),
    ])
}

pub(crate) fn folder(files: &Files) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

pub(crate) fn space() -> SpaceId {
    SpaceId::parse("trade").unwrap()
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// An etcd of one member with its own data folder on free ports of the loopback interface.
pub(crate) struct Etcd {
    data: TempDir,
    client_port: u16,
    peer_port: u16,
    child: Child,
}

impl Etcd {
    pub(crate) async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let (client_port, peer_port) = (free_port(), free_port());
        let child = spawn(data.path(), client_port, peer_port);
        let etcd = Self {
            data,
            client_port,
            peer_port,
            child,
        };
        etcd.answers().await;
        etcd
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    pub(crate) fn config(&self) -> EtcdConfig {
        EtcdConfig::plain(vec![self.url()])
    }

    pub(crate) async fn store(&self) -> Store {
        Store::connect(&self.config(), &space()).await.unwrap()
    }

    async fn answers(&self) {
        eventually("etcd answers", async || {
            Store::connect(&self.config(), &space()).await.is_ok()
        })
        .await;
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) async fn start_again(&mut self) {
        self.child = spawn(self.data.path(), self.client_port, self.peer_port);
        self.answers().await;
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn etcdctl(&self, words: &[&str]) {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.url()))
            .args(words)
            .output()
            .unwrap();
        assert!(output.status.success(), "etcdctl {words:?}: {output:?}");
    }

    pub(crate) async fn snapshot(&self) -> Snapshot {
        self.store().await.read_all().await.unwrap()
    }

    /// As an operator would with `etcdctl`, in one transaction.
    pub(crate) async fn put(&self, files: &[(&str, &str)]) {
        let put = files
            .iter()
            .fold(Transaction::new(), |transaction, (name, text)| {
                transaction.put(&Key::Document(name), *text)
            });
        let done = self.store().await.commit(&put).await.unwrap();
        assert!(matches!(done, Commit::Done(_)));
    }

    pub(crate) async fn put_all(&self, files: &Files) {
        let put = files
            .iter()
            .fold(Transaction::new(), |transaction, (name, text)| {
                transaction.put(&Key::Document(name), text.clone())
            });
        let done = self.store().await.commit(&put).await.unwrap();
        assert!(matches!(done, Commit::Done(_)));
    }

    /// Runs `setgate rules …` as the shell would.
    pub(crate) async fn rules(&self, words: &[&str]) -> u8 {
        let url = self.url();
        let target = ["--etcd", url.as_str(), "--space", "trade"];
        run(&[&["rules"][..], words, &target].concat()).await
    }

    pub(crate) async fn apply(&self, folder: &TempDir, more: &[&str]) -> u8 {
        let words = ["apply", folder.path().to_str().unwrap(), "-m", "a test"];
        self.rules(&[&words[..], more].concat()).await
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(data: &Path, client_port: u16, peer_port: u16) -> Child {
    let client = format!("http://127.0.0.1:{client_port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    Command::new("/usr/bin/etcd")
        .arg("--data-dir")
        .arg(data)
        .args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ])
        .args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ])
        .args(["--initial-cluster", &format!("default={peer}")])
        // Of two etcds, each has its own cluster id, as two real ones have.
        .args(["--initial-cluster-token", &peer])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd is installed as /usr/bin/etcd")
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: commands::Args,
}

/// A command's exit code.
pub(crate) async fn run(words: &[&str]) -> u8 {
    let cli = Cli::parse_from(words);
    let code = tokio::task::spawn_blocking(move || commands::run(cli.args))
        .await
        .unwrap();
    (0..=3)
        .find(|n| code == ExitCode::from(*n))
        .expect("an exit code that the interface names")
}

/// Waits until it holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    crate::eventually::eventually(what, DEADLINE, async || holds().await.then_some(())).await;
}

/// A gateway's feed, running.
pub(crate) struct Gateway {
    pub(crate) handle: FeedHandle,
    pub(crate) own: watch::Sender<GatewayRecord>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

pub(crate) fn settings(
    from: FeedFrom,
    unit: &str,
    state_dir: &Path,
) -> (FeedSettings, watch::Sender<GatewayRecord>) {
    let record = GatewayRecord {
        link: "127.0.0.1:7100".to_owned(),
        admin: "127.0.0.1:7180".to_owned(),
        version: "0.1.0".to_owned(),
        revision: Revision(0),
        epoch: Epoch(0),
        drained: Revision(0),
        ungranted: Revision(0),
        copied: Revision(0),
        read: true,
        consumed: Revision(0),
        broker: BrokerHealth::Up,
        lanes: Vec::new(),
    };
    let settings = FeedSettings {
        space: space(),
        unit: UnitId::parse(unit).unwrap(),
        gateway: GatewayId::parse(&format!("{unit}-a")).unwrap(),
        from,
        state_dir: state_dir.to_owned(),
    };
    (settings, watch::channel(record).0)
}

impl Gateway {
    pub(crate) fn start(from: FeedFrom, unit: &str, state_dir: &Path) -> Self {
        let (settings, own) = settings(from, unit, state_dir);
        let (feed, handle) = Feed::open(settings, own.subscribe()).unwrap();
        let cancel = CancellationToken::new();
        let task = TaskTracker::new().spawn(feed.run(cancel.clone()));
        Self {
            handle,
            own,
            cancel,
            task,
        }
    }

    pub(crate) async fn until(
        &self,
        what: &str,
        holds: impl FnMut(&FeedState) -> bool,
    ) -> FeedState {
        let mut states = self.handle.watch();
        let found = tokio::time::timeout(DEADLINE, states.wait_for(holds)).await;
        let Ok(state) = found else {
            panic!("never came: {what}; last seen: {:?}", self.handle.state());
        };
        state.unwrap().clone()
    }

    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
    }
}
