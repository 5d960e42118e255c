//! Child processes of a lab, and what an earlier lab left behind.
//!
//! Owns every process that the lab starts, each in a process group of its own and with its output in a log file.
//! Promises that none outlives the lab: dropping this kills them, and what a killed lab leaves is found again by the
//! lab's folder in its environment, which children of children (Erlang's helpers) inherit. Never signals a process
//! without that mark, however its pid came into `pids.json`.

use super::error::tail;
use super::folder::Folder;
use super::lab_file::write_private;
use super::{LabError, Node};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::time::Instant;

/// Environment variable that marks what belongs to a lab; its value is the lab's folder. Not `SETGATE_…`: a gateway reads those
/// as its own configuration.
const MARK: &str = "LAB_OF_SETGATE";

/// How often a state is looked at again while it is waited for.
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// A killed process is gone within milliseconds, unless the disk holds it; its ports and files are needed next. These
/// two make three seconds at most, and are synchronous because `drop` is.
const LEFTOVER_LOOKS: u32 = 150;
/// See above.
const LEFTOVER_PAUSE: Duration = Duration::from_millis(20);

/// What to start.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Debian's package of it, for the error.
    pub package: &'static str,
    /// Arguments.
    pub args: Vec<OsString>,
    /// Environment on top of the lab's own.
    pub env: Vec<(&'static str, OsString)>,
    /// Where standard output and error are appended.
    pub log: PathBuf,
}

/// How a process is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGKILL: a crash.
    Kill,
    /// SIGTERM, and SIGKILL when it is still there after this long.
    Terminate(Duration),
}

/// Whether a process runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessState {
    /// It runs.
    Running,
    /// It is stopped by SIGSTOP.
    Paused,
    /// The lab ended it.
    Stopped,
    /// It ended by itself.
    Ended(String),
}

#[derive(Debug)]
struct Entry {
    launch: Launch,
    child: Option<Child>,
    state: ProcessState,
}

/// One line of `pids.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    node: Node,
    pid: u32,
}

/// All processes of one lab.
#[derive(Debug)]
pub struct Processes {
    folder: Folder,
    entries: BTreeMap<Node, Entry>,
}

impl Processes {
    /// Ends what an earlier lab left in the folder.
    pub fn open(folder: Folder) -> Result<Self, LabError> {
        end_leftovers(folder.path())?;
        Ok(Self {
            folder,
            entries: BTreeMap::new(),
        })
    }

    /// Whose processes they are.
    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Starts a process, or starts it again.
    pub fn spawn(&mut self, node: &Node, launch: Launch) -> Result<u32, LabError> {
        if self.is_running(node) {
            return Err(LabError::State {
                node: node.clone(),
                state: "is already running",
            });
        }
        if let Some(parent) = launch.log.parent() {
            std::fs::create_dir_all(parent).map_err(LabError::file("create", parent))?;
        }
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&launch.log)
            .map_err(LabError::file("open", &launch.log))?;
        let again = log
            .try_clone()
            .map_err(LabError::file("open", &launch.log))?;
        let mut command = Command::new(&launch.program);
        command
            .args(&launch.args)
            .envs(launch.env.iter().map(|(name, value)| (name, value)))
            .env(MARK, self.folder.path())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(again)
            // A group of its own: a signal reaches its children too, and Ctrl-C reaches none of them before the lab.
            .process_group(0);
        let child = command.spawn().map_err(|source| LabError::Start {
            node: node.clone(),
            program: launch.program.clone(),
            package: launch.package,
            source,
        })?;
        let pid = child.id();
        let entry = Entry {
            launch,
            child: Some(child),
            state: ProcessState::Running,
        };
        self.entries.insert(node.clone(), entry);
        self.record()?;
        Ok(pid)
    }

    /// Starts a process again as it was started before.
    pub fn restart(&mut self, node: &Node) -> Result<u32, LabError> {
        let launch = match self.entries.get(node) {
            Some(entry) => entry.launch.clone(),
            None => return Err(LabError::NoSuchNode(node.clone())),
        };
        self.spawn(node, launch)
    }

    /// Starts a process again with a variable more in its environment, this once.
    pub fn restart_with(
        &mut self,
        node: &Node,
        variable: (&'static str, OsString),
    ) -> Result<u32, LabError> {
        let as_before = match self.entries.get(node) {
            Some(entry) => entry.launch.clone(),
            None => return Err(LabError::NoSuchNode(node.clone())),
        };
        let mut launch = as_before.clone();
        launch.env.push(variable);
        let pid = self.spawn(node, launch)?;
        if let Some(entry) = self.entries.get_mut(node) {
            entry.launch = as_before;
        }
        Ok(pid)
    }

    /// Ends a process and waits until it is gone.
    pub async fn stop(&mut self, node: &Node, how: Stop) -> Result<(), LabError> {
        self.stop_all(std::slice::from_ref(node), how).await
    }

    /// Ends several at once, and waits until all are gone.
    pub async fn stop_all(&mut self, nodes: &[Node], how: Stop) -> Result<(), LabError> {
        let (first, patience) = match how {
            Stop::Kill => (Signal::KILL, Duration::ZERO),
            Stop::Terminate(patience) => (Signal::TERM, patience),
        };
        let deadline = Instant::now() + patience;
        for node in nodes {
            // A stopped process doesn't see SIGTERM before it goes on.
            self.signal(node, first)?;
            if first != Signal::KILL {
                self.signal(node, Signal::CONT)?;
            }
        }
        for node in nodes {
            let mut killed = first == Signal::KILL;
            while self.poll(node).is_none() {
                if !killed && Instant::now() >= deadline {
                    self.signal(node, Signal::KILL)?;
                    killed = true;
                }
                tokio::time::sleep(POLL).await;
            }
            // The group outlives its leader where children did not follow it.
            if let Some(pid) = self.pid(node) {
                let _ = kill_process_group(pid, Signal::KILL);
            }
            if let Some(entry) = self.entries.get_mut(node) {
                entry.child = None;
                entry.state = ProcessState::Stopped;
            }
        }
        self.record()
    }

    /// Freezes a process and its children.
    pub fn pause(&mut self, node: &Node) -> Result<(), LabError> {
        self.signal(node, Signal::STOP)?;
        self.set_state(node, ProcessState::Paused);
        Ok(())
    }

    /// Lets a frozen process go on.
    pub fn resume(&mut self, node: &Node) -> Result<(), LabError> {
        self.signal(node, Signal::CONT)?;
        self.set_state(node, ProcessState::Running);
        Ok(())
    }

    /// Whether a process runs (or is paused).
    pub fn is_running(&mut self, node: &Node) -> bool {
        self.entries.contains_key(node) && self.poll(node).is_none()
    }

    /// The process id while it runs.
    pub fn running_pid(&mut self, node: &Node) -> Option<u32> {
        if !self.is_running(node) {
            return None;
        }
        self.entries.get(node)?.child.as_ref().map(Child::id)
    }

    /// All processes with their states and logs.
    pub fn states(&mut self) -> Vec<(Node, ProcessState, PathBuf)> {
        let nodes: Vec<Node> = self.entries.keys().cloned().collect();
        for node in &nodes {
            self.poll(node);
        }
        let entries = self.entries.iter();
        entries
            .map(|(node, entry)| (node.clone(), entry.state.clone(), entry.launch.log.clone()))
            .collect()
    }

    /// Waits until `ready` says so, for `patience` at most, and less when the process ends first.
    pub async fn wait_ready<Ready>(
        &mut self,
        node: &Node,
        patience: Duration,
        mut ready: impl FnMut() -> Ready,
    ) -> Result<(), LabError>
    where
        Ready: Future<Output = Result<(), String>>,
    {
        let deadline = Instant::now() + patience;
        loop {
            let cause = match ready().await {
                Ok(()) => return Ok(()),
                Err(cause) => cause,
            };
            let Some(entry) = self.entries.get(node) else {
                return Err(LabError::NoSuchNode(node.clone()));
            };
            let log = entry.launch.log.clone();
            if let Some(status) = self.poll(node) {
                let tail = tail(&log);
                return Err(LabError::Ended {
                    node: node.clone(),
                    status,
                    log,
                    tail,
                });
            }
            if Instant::now() >= deadline {
                let tail = tail(&log);
                let node = node.clone();
                return Err(LabError::NotReady {
                    node,
                    after: patience,
                    cause,
                    log,
                    tail,
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Ends everything, in the order given, each group at once; then what is left, by its mark.
    pub async fn stop_everything(
        &mut self,
        groups: &[Vec<Node>],
        how: Stop,
    ) -> Result<(), LabError> {
        for group in groups {
            let alive: Vec<Node> = group
                .iter()
                .filter(|node| self.is_running(node))
                .cloned()
                .collect();
            self.stop_all(&alive, how).await?;
        }
        self.kill_all();
        end_leftovers(self.folder.path())
    }

    fn signal(&self, node: &Node, signal: Signal) -> Result<(), LabError> {
        let Some(pid) = self.pid(node) else {
            let node = node.clone();
            return Err(if self.entries.contains_key(&node) {
                LabError::State {
                    node,
                    state: "is not running",
                }
            } else {
                LabError::NoSuchNode(node)
            });
        };
        // A group that has just ended is what the caller finds out next.
        let _ = kill_process_group(pid, signal);
        Ok(())
    }

    fn pid(&self, node: &Node) -> Option<Pid> {
        let child = self.entries.get(node)?.child.as_ref()?;
        Pid::from_raw(i32::try_from(child.id()).ok()?)
    }

    /// Looks whether a process has ended; says how.
    fn poll(&mut self, node: &Node) -> Option<String> {
        let Some(entry) = self.entries.get_mut(node) else {
            return Some("nothing: it was never started".to_owned());
        };
        let Some(child) = entry.child.as_mut() else {
            return Some(match &entry.state {
                ProcessState::Ended(how) => how.clone(),
                _ => "the lab's own signal".to_owned(),
            });
        };
        match child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => {
                let how = describe(status);
                entry.state = ProcessState::Ended(how.clone());
                entry.child = None;
                Some(how)
            }
            Err(error) => Some(error.to_string()),
        }
    }

    fn set_state(&mut self, node: &Node, state: ProcessState) {
        if let Some(entry) = self.entries.get_mut(node) {
            entry.state = state;
        }
    }

    /// Kills every group and reaps its leader. Synchronous, so that `drop` can do it.
    fn kill_all(&mut self) {
        let nodes: Vec<Node> = self.entries.keys().cloned().collect();
        for node in &nodes {
            let _ = self.signal(node, Signal::KILL);
        }
        for entry in self.entries.values_mut() {
            if let Some(mut child) = entry.child.take() {
                let _ = child.wait();
                entry.state = ProcessState::Stopped;
            }
        }
    }

    /// Writes `pids.json`.
    fn record(&self) -> Result<(), LabError> {
        let path = self.folder.path().join("pids.json");
        let recorded: Vec<Recorded> = self
            .entries
            .iter()
            .filter_map(|(node, entry)| {
                Some(Recorded {
                    node: node.clone(),
                    pid: entry.child.as_ref()?.id(),
                })
            })
            .collect();
        let text = serde_json::to_vec_pretty(&recorded)
            .map_err(|error| LabError::file("encode", &path)(error.into()))?;
        write_private(&path, &text)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.kill_all();
        let _ = end_leftovers(self.folder.path());
    }
}

/// "exit code 1" or "signal 9".
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    }
}

/// Marks a command as the lab's, so that a later `up` or `down` finds its process.
pub(crate) fn mark(command: &mut Command, dir: &Path) {
    command.env(MARK, dir);
}

/// Kills every process that carries the mark of this lab's folder, or of a folder in it.
pub(crate) fn end_leftovers(dir: &Path) -> Result<(), LabError> {
    let path = dir.join("pids.json");
    let mut suspects: Vec<u32> = marked(dir);
    if let Ok(bytes) = std::fs::read(&path) {
        let recorded: Vec<Recorded> = serde_json::from_slice(&bytes).unwrap_or_default();
        suspects.extend(recorded.iter().map(|line| line.pid));
    }
    suspects.retain(|pid| *pid != std::process::id());
    for _ in 0..LEFTOVER_LOOKS {
        suspects.retain(|pid| is_marked(*pid, dir));
        if suspects.is_empty() {
            break;
        }
        for pid in &suspects {
            if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        std::thread::sleep(LEFTOVER_PAUSE);
        // One that was just being forked when its parent was killed carries the mark as well.
        suspects.extend(
            marked(dir)
                .into_iter()
                .filter(|pid| *pid != std::process::id()),
        );
    }
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(LabError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Processes that carry the mark.
fn marked(dir: &Path) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| is_marked(*pid, dir))
        .collect()
}

fn is_marked(pid: u32, dir: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else {
        return false;
    };
    let prefix = format!("{MARK}=");
    environment.split(|byte| *byte == 0).any(|entry| {
        entry
            .strip_prefix(prefix.as_bytes())
            .is_some_and(|value| Path::new(std::ffi::OsStr::from_bytes(value)).starts_with(dir))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(dir: &Path) -> Launch {
        Launch {
            program: "/bin/sh".into(),
            package: "dash",
            // The grandchild shows that a group ends whole.
            args: vec!["-c".into(), "sleep 600 & wait".into()],
            env: Vec::new(),
            log: dir.join("sleeper.log"),
        }
    }

    #[tokio::test]
    async fn a_stopped_process_takes_its_children_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let mut processes = Processes::open(Folder::take(&dir).unwrap()).unwrap();
        processes.spawn(&Node::Etcd(1), sleeper(&dir)).unwrap();
        let two = || async {
            if marked(&dir).len() >= 2 {
                Ok(())
            } else {
                Err("one".into())
            }
        };
        processes
            .wait_ready(&Node::Etcd(1), Duration::from_secs(10), two)
            .await
            .unwrap();
        processes.stop(&Node::Etcd(1), Stop::Kill).await.unwrap();
        assert!(!processes.is_running(&Node::Etcd(1)));
        eventually(|| marked(&dir).is_empty()).await;
    }

    #[tokio::test]
    async fn what_a_crashed_lab_left_is_ended_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let mut processes = Processes::open(Folder::take(&dir).unwrap()).unwrap();
        processes.spawn(&Node::Etcd(1), sleeper(&dir)).unwrap();
        assert!(dir.join("pids.json").exists());
        end_leftovers(&dir).unwrap();
        eventually(|| !processes.is_running(&Node::Etcd(1))).await;
        eventually(|| marked(&dir).is_empty()).await;
    }

    #[tokio::test]
    async fn a_process_without_the_mark_is_never_ended() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
        let recorded = vec![Recorded {
            node: Node::Etcd(1),
            pid: stranger.id(),
        }];
        std::fs::write(
            dir.join("pids.json"),
            serde_json::to_vec(&recorded).unwrap(),
        )
        .unwrap();
        end_leftovers(&dir).unwrap();
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[tokio::test]
    async fn a_process_that_ends_early_is_reported_with_its_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let mut processes = Processes::open(Folder::take(&dir).unwrap()).unwrap();
        let mut launch = sleeper(&dir);
        launch.args = vec!["-c".into(), "echo the port is taken; exit 3".into()];
        processes.spawn(&Node::Etcd(1), launch).unwrap();
        let never = || async { Err("no answer".to_owned()) };
        let wait = processes.wait_ready(&Node::Etcd(1), Duration::from_secs(10), never);
        let error = wait.await.unwrap_err().to_string();
        assert!(error.contains("exit code 3"), "{error}");
        assert!(error.contains("the port is taken"), "{error}");
    }

    async fn eventually(mut holds: impl FnMut() -> bool) {
        let mut looks = tokio::time::interval(POLL);
        let waited = tokio::time::timeout(Duration::from_secs(10), async {
            while !holds() {
                looks.tick().await;
            }
        });
        assert!(waited.await.is_ok(), "it never came about");
    }
}
