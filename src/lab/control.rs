//! How other commands talk to the supervisor: one line of JSON each way over a unix socket in the lab's folder.

use super::fabric::{Await, CutWire};
use super::lab_file::LabFile;
use super::process::ProcessState;
use super::{Fabric, LabError, Node, Place, Ways};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A request is a node's name and a verb.
const REQUEST_BYTES_MAX: u64 = 4096;
/// Commands that wait for the supervisor; people type them.
const WAITING_MAX: usize = 16;
/// A supervisor that starts a broker again takes a minute on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(4);

/// What the supervisor is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(super) enum Request {
    Status,
    Kill { node: Node },
    Pause { node: Node },
    Resume { node: Node },
    Start { node: Node },
    Cut { a: Place, b: Place, ways: Ways },
    Heal { a: Place, b: Place, ways: Ways },
    Down,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(super) enum Reply {
    Done { text: String },
    Status(Status),
    Fault { text: String },
}

/// A lab's state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Status {
    /// The supervisor.
    pub pid: u32,
    /// Where everything is.
    pub lab: LabFile,
    /// Its processes.
    pub nodes: Vec<NodeStatus>,
    /// Directions in which bytes don't arrive.
    pub cuts: Vec<CutWire>,
}

/// One process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct NodeStatus {
    /// Its name.
    pub node: Node,
    /// Whether it runs.
    pub state: ProcessState,
    /// Its log.
    pub log: PathBuf,
}

/// A request and where its answer goes.
pub(super) type Asked = (Request, oneshot::Sender<Reply>);

/// Whether the supervisor goes on after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    GoOn,
    End,
}

/// The supervisor's ear. Dropping it removes the socket.
pub(super) struct Ear {
    path: PathBuf,
    end: CancellationToken,
    pub(super) asked: mpsc::Receiver<Asked>,
}

impl Ear {
    /// Listens in a lab's folder; a socket that a crashed supervisor left is replaced.
    pub(super) fn open(dir: &Path, tasks: &TaskTracker) -> Result<Self, LabError> {
        let path = socket(dir);
        let _ = std::fs::remove_file(&path);
        let fault = |source| LabError::Control {
            socket: path.clone(),
            source,
        };
        let folder = File::open(dir).map_err(fault)?;
        let listener = UnixListener::bind(through(&folder)).map_err(fault)?;
        let (sender, asked) = mpsc::channel(WAITING_MAX);
        let end = CancellationToken::new();
        let (ended, nested) = (end.clone(), tasks.clone());
        tasks.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = ended.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                if let Ok((stream, _)) = accepted {
                    let sender = sender.clone();
                    nested.spawn(async move { hear(stream, sender).await });
                }
            }
        });
        Ok(Self { path, end, asked })
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.end.cancel();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Takes one request from a connection and sends its answer back. Whoever asked may have gone meanwhile.
async fn hear(stream: UnixStream, supervisor: mpsc::Sender<Asked>) {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(read.take(REQUEST_BYTES_MAX));
    if reader.read_line(&mut line).await.is_err() {
        return;
    }
    let reply = match serde_json::from_str(&line) {
        Ok(request) => {
            let (sender, answer) = oneshot::channel();
            if supervisor.send((request, sender)).await.is_err() {
                return;
            }
            answer.await.unwrap_or_else(|_| Reply::Fault {
                text: "the lab is going down".into(),
            })
        }
        Err(error) => Reply::Fault {
            text: format!("not a request: {error}"),
        },
    };
    if let Ok(mut text) = serde_json::to_vec(&reply) {
        text.push(b'\n');
        let _ = write.write_all(&text).await;
    }
}

/// Does what is asked.
pub(super) async fn obey(fabric: &mut Fabric, request: Request) -> (Reply, Next) {
    let done = |text: String| Ok(Reply::Done { text });
    let result = match request {
        Request::Status => Ok(Reply::Status(status(fabric))),
        Request::Down => {
            return (
                Reply::Done {
                    text: "going down".to_owned(),
                },
                Next::End,
            );
        }
        Request::Kill { node } => fabric
            .kill(&node)
            .await
            .and_then(|()| done(format!("{node} is killed"))),
        Request::Pause { node } => fabric
            .pause(&node)
            .and_then(|()| done(format!("{node} is paused"))),
        Request::Resume { node } => fabric
            .resume(&node)
            .and_then(|()| done(format!("{node} goes on"))),
        Request::Start { node } => {
            let started = fabric.start(&node, Await::Ready).await;
            started.and_then(|()| done(format!("{node} is up again")))
        }
        Request::Cut { a, b, ways } => {
            let arrow = arrow(ways);
            fabric
                .cut(&a, &b, ways)
                .and_then(|()| done(format!("{a} {arrow} {b} is cut")))
        }
        Request::Heal { a, b, ways } => {
            let arrow = arrow(ways);
            fabric
                .heal(&a, &b, ways)
                .and_then(|()| done(format!("{a} {arrow} {b} is healed")))
        }
    };
    (
        result.unwrap_or_else(|error| Reply::Fault {
            text: error.render(),
        }),
        Next::GoOn,
    )
}

fn arrow(ways: Ways) -> &'static str {
    match ways {
        Ways::Both => "<->",
        Ways::OneWay => "->",
    }
}

fn status(fabric: &mut Fabric) -> Status {
    let nodes = fabric.states().into_iter();
    Status {
        pid: std::process::id(),
        lab: fabric.lab(),
        nodes: nodes
            .map(|(node, state, log)| NodeStatus { node, state, log })
            .collect(),
        cuts: fabric.cuts(),
    }
}

/// Asks the supervisor of a folder.
pub(super) async fn ask(dir: &Path, request: &Request) -> Result<Reply, LabError> {
    let path = socket(dir);
    let not_up = || LabError::NotUp {
        dir: dir.to_owned(),
    };
    let fault = |source| LabError::Control {
        socket: path.clone(),
        source,
    };
    let folder = File::open(dir).map_err(|_| not_up())?;
    let stream = UnixStream::connect(through(&folder))
        .await
        .map_err(|_| not_up())?;
    let mut text = serde_json::to_vec(request).map_err(|error| fault(error.into()))?;
    text.push(b'\n');
    let (read, mut write) = stream.into_split();
    write.write_all(&text).await.map_err(fault)?;
    let mut line = String::new();
    let mut reader = BufReader::new(read);
    let reading = tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await;
    let silent = || fault(std::io::ErrorKind::TimedOut.into());
    reading.map_err(|_| silent())?.map_err(fault)?;
    if line.is_empty() {
        return Err(fault(std::io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_str(&line).map_err(|error| fault(error.into()))
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("control.sock")
}

/// The socket's path by way of its folder's descriptor: a unix socket's path has 107 bytes at most, and a folder in
/// `target` may be deeper.
fn through(folder: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/control.sock", folder.as_raw_fd()))
}
