//! What can go wrong in a lab, each with what was being done, with which file or address, and the mend.

use super::node::{BadNode, Node, Place};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A lab's fault.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A file or folder of the lab's.
    #[error("can't {doing} {}", path.display())]
    File {
        /// A verb: "read", "write", "create".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's words.
        #[source]
        source: std::io::Error,
    },
    /// A program of the machine's that isn't there or can't be run.
    #[error(
        "can't start {node} by {}; install it (Debian: {package}), or run `make setup`",
        program.display()
    )]
    Start {
        /// The part of the lab.
        node: Node,
        /// The program.
        program: PathBuf,
        /// Where it comes from.
        package: &'static str,
        /// The system's words.
        #[source]
        source: std::io::Error,
    },
    /// A process that ended before it was ready.
    #[error("{node} ended with {status} before it was ready; its log {} ends:\n{tail}", log.display())]
    Ended {
        /// The part of the lab.
        node: Node,
        /// Exit code or signal.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// A process that runs and doesn't answer.
    #[error(
        "{node} was not ready within {} s ({cause}); its log {} ends:\n{tail}",
        after.as_secs(), log.display()
    )]
    NotReady {
        /// The part of the lab.
        node: Node,
        /// How long it was waited for.
        after: Duration,
        /// What the last attempt said.
        cause: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// No free port.
    #[error("no free loopback port between {from} and {to}; end what holds them")]
    NoPort {
        /// First port tried.
        from: u16,
        /// Last port tried.
        to: u16,
    },
    /// A proxy's socket.
    #[error("can't listen on a free loopback port for the wire from {from} to {to}")]
    Listen {
        /// Who connects.
        from: String,
        /// To whom.
        to: String,
        /// The system's words.
        #[source]
        source: std::io::Error,
    },
    /// A way of true packets.
    #[error(
        "{doing} failed: {cause}; packets are lost for true in a TUN device and a network namespace, for which it needs root and /dev/net/tun"
    )]
    Packets {
        /// What was being done.
        doing: &'static str,
        /// The system's words.
        cause: String,
    },
    /// A request over HTTP.
    #[error("{method} {url} failed: {cause}")]
    Http {
        /// GET, PUT, …
        method: &'static str,
        /// Where; never with credentials.
        url: String,
        /// Status and body, or the transport's error.
        cause: String,
    },
    /// A throw-away certificate.
    #[error("can't make the certificate of {of}")]
    Certificate {
        /// Whose.
        of: String,
        /// rcgen's words.
        #[source]
        source: rcgen::Error,
    },
    /// A rules folder that a lab can't be made from.
    #[error("the rules in {} make no lab: {fault}; `setgate rules validate` says more", dir.display())]
    Rules {
        /// The folder.
        dir: PathBuf,
        /// What is missing or wrong.
        fault: String,
    },
    /// A profile that isn't there.
    #[error(
        "no rules folder for profile {profile:?}: looked at {looked}; run it in the project's folder, or give --rules DIR"
    )]
    NoProfile {
        /// The name.
        profile: String,
        /// Where it was looked for.
        looked: String,
    },
    /// A binary of the project's that isn't built.
    #[error("can't find the binary {name:?} beside {}; build it with `cargo build`", beside.display())]
    NoBinary {
        /// Its name.
        name: &'static str,
        /// The running program.
        beside: PathBuf,
    },
    /// A command of setgate's that failed.
    #[error("`{command}` ended with {status}:\n{output}")]
    Command {
        /// The command line.
        command: String,
        /// Exit code or signal.
        status: String,
        /// What it printed.
        output: String,
    },
    /// No such part.
    #[error("there is no {0} in this lab; `setgate-lab status` lists its parts")]
    NoSuchNode(Node),
    /// No such place.
    #[error(
        "there is no wire between {0} and {1} in this lab; say two of its units, or a unit and etcd"
    )]
    NoWire(Place, Place),
    /// A shared part that a test must leave alone.
    #[error(
        "{0} is shared with other tests; a test that stops brokers or etcd starts its own with Fabric::up"
    )]
    Shared(Node),
    /// A process that should run and doesn't, or the other way round.
    #[error("{node} {state}")]
    State {
        /// The part.
        node: Node,
        /// "is not running", "is already running".
        state: &'static str,
    },
    /// A name that doesn't parse.
    #[error(transparent)]
    BadNode(#[from] BadNode),
    /// A number of units, gateways, brokers or etcd members that no lab has.
    #[error("a lab has 1 to {max} {what}, not {found}")]
    Count {
        /// Of what.
        what: &'static str,
        /// The most.
        max: usize,
        /// What was asked.
        found: usize,
    },
    /// A folder with somebody else's files in it.
    #[error("{} holds files that are no lab's, and a lab empties its folder; give another --dir", dir.display())]
    Foreign {
        /// The folder.
        dir: PathBuf,
    },
    /// Nobody there to talk to.
    #[error("no lab is up in {}; start one with `setgate-lab up --dir {}`", dir.display(), dir.display())]
    NotUp {
        /// The folder.
        dir: PathBuf,
    },
    /// Somebody there already.
    #[error("a lab is up in {} (process {pid}); end it with `setgate-lab down --dir {}`", dir.display(), dir.display())]
    AlreadyUp {
        /// The folder.
        dir: PathBuf,
        /// Its supervisor.
        pid: u32,
    },
    /// Two labs in one folder.
    #[error("another lab runs in {}; end it, or give another --dir", dir.display())]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// The shared brokers of the tests are not there.
    #[error(
        "no shared brokers in {}: start them with `make test-lab`, or run `make test`",
        dir.display()
    )]
    NoTestLab {
        /// Where they were looked for.
        dir: PathBuf,
    },
    /// The supervisor refused a command.
    #[error("{0}")]
    Refused(String),
    /// The supervisor's socket broke.
    #[error("can't talk to the lab's supervisor by {}", socket.display())]
    Control {
        /// The socket.
        socket: PathBuf,
        /// The system's words.
        #[source]
        source: std::io::Error,
    },
}

impl LabError {
    /// For `map_err` on a file operation.
    pub(crate) fn file(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            doing,
            path,
            source,
        }
    }

    /// The error and its causes on one line each.
    pub fn render(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        text
    }
}

/// The last lines of a log, for an error.
pub(crate) fn tail(log: &Path) -> String {
    /// Enough for an Erlang crash report's first words, few enough for a terminal.
    const LINES: usize = 12;
    /// A line of etcd's or Erlang's may have kilobytes.
    const LINE_CHARACTERS: usize = 240;
    /// Read at most this much of the end: a line is seldom above 1 KiB.
    const BYTES: u64 = 16 * 1024;
    use std::io::{Read as _, Seek as _, SeekFrom};
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) if text.trim().is_empty() => "  (empty)".to_owned(),
        Ok(text) => {
            let lines: Vec<&str> = text.trim_end().lines().collect();
            lines[lines.len().saturating_sub(LINES)..]
                .iter()
                .map(|line| {
                    format!(
                        "  {}",
                        line.chars().take(LINE_CHARACTERS).collect::<String>()
                    )
                })
                .collect::<Vec<_>>()
                .join("\n")
        }
        Err(error) => format!("  (unreadable: {error})"),
    }
}
