//! The process that owns a lab from `up` to `down`: starts it, obeys other commands, and ends it on a signal.

use super::commands::UpArgs;
use super::control::{self, Ear, Next, Reply, Request, obey};
use super::fabric::FabricSpec;
use super::lab_file::LabFile;
use super::process::{ProcessState, end_leftovers};
use super::{Fabric, LabError, Node, Reporter, detach};
use std::path::Path;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::task::TaskTracker;

/// SIGINT, SIGTERM and the terminal's end.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes them from the system.
    pub(super) fn take() -> Result<Self, LabError> {
        let take = |kind| signal(kind).map_err(LabError::file("take", "signals"));
        Ok(Self {
            interrupt: take(SignalKind::interrupt())?,
            terminate: take(SignalKind::terminate())?,
            hangup: take(SignalKind::hangup())?,
        })
    }

    /// Waits for one.
    pub(super) async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Starts a lab unless a signal comes first; then what was started ends.
pub(super) async fn start(
    spec: FabricSpec,
    report: Reporter,
    signals: &mut Signals,
) -> Result<Option<Fabric>, LabError> {
    refuse_second(&spec.dir).await?;
    tokio::select! {
        fabric = Fabric::up(spec, report) => fabric.map(Some),
        () = signals.any() => {
            report.say("interrupted: everything that was started is ended");
            Ok(None)
        }
    }
}

pub(super) async fn up(args: &UpArgs) -> Result<(), LabError> {
    let report = Reporter::lines();
    let mut signals = Signals::take()?;
    let Some(mut fabric) = start(args.spec(), report, &mut signals).await? else {
        return Err(LabError::Refused(
            "interrupted before the lab was up".to_owned(),
        ));
    };
    let tasks = TaskTracker::new();
    let mut ear = Ear::open(fabric.dir(), &tasks)?;
    report.say(format!(
        "the lab is up: {} (end it with Ctrl-C or `setgate-lab down`)",
        LabFile::path(fabric.dir()).display()
    ));
    supervise(&mut fabric, &mut ear, &mut signals, report).await;
    report.say("going down");
    fabric.down().await?;
    // Only now: `down` in another terminal waits for this socket to go.
    drop(ear);
    report.say("everything is ended");
    Ok(())
}

/// Obeys until it is told to end, by a signal or a command.
async fn supervise(fabric: &mut Fabric, ear: &mut Ear, signals: &mut Signals, report: Reporter) {
    /// How often processes that ended by themselves are looked for.
    const LOOK: Duration = Duration::from_millis(500);
    let mut ended: Vec<Node> = Vec::new();
    loop {
        let asked = tokio::select! {
            () = signals.any() => return,
            asked = ear.asked.recv() => asked,
            () = tokio::time::sleep(LOOK) => {
                tell_ended(fabric, &mut ended, report);
                continue;
            }
        };
        let Some((request, answer)) = asked else {
            return;
        };
        let (reply, next) = obey(fabric, request).await;
        if let Reply::Done { text } = &reply {
            report.say(text);
        }
        let _ = answer.send(reply);
        if next == Next::End {
            return;
        }
    }
}

/// Tells once of each process that ended by itself.
fn tell_ended(fabric: &mut Fabric, told: &mut Vec<Node>, report: Reporter) {
    for (node, state, log) in fabric.states() {
        match state {
            ProcessState::Ended(how) if !told.contains(&node) => {
                report.say(format!(
                    "{node} ended by itself with {how}; see {}",
                    log.display()
                ));
                told.push(node);
            }
            ProcessState::Ended(_) => {}
            ProcessState::Running | ProcessState::Paused | ProcessState::Stopped => {
                told.retain(|other| *other != node);
            }
        }
    }
}

pub(super) async fn up_detached(args: &UpArgs) -> Result<(), LabError> {
    refuse_second(&args.folder.dir).await?;
    let mut signals = Signals::take()?;
    let background = args.in_background();
    tokio::select! {
        up = detach::run(&args.folder.dir, &background) => up,
        () = signals.any() => down(&args.folder.dir).await,
    }
}

/// One lab per folder.
async fn refuse_second(dir: &Path) -> Result<(), LabError> {
    match control::ask(dir, &Request::Status).await {
        Ok(Reply::Status(status)) => Err(LabError::AlreadyUp {
            dir: dir.to_owned(),
            pid: status.pid,
        }),
        _ => Ok(()),
    }
}

pub(super) async fn down(dir: &Path) -> Result<(), LabError> {
    let report = Reporter::lines();
    if control::ask(dir, &Request::Down).await.is_ok() {
        // The supervisor removes its socket when all is ended; it kills what doesn't go by itself.
        while control::ask(dir, &Request::Status).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        report.say("the lab is down");
        return Ok(());
    }
    let Ok(dir) = dir.canonicalize() else {
        return Err(LabError::NotUp {
            dir: dir.to_owned(),
        });
    };
    end_leftovers(&dir)?;
    let _ = std::fs::remove_file(LabFile::path(&dir));
    report.say("no supervisor answered; what an earlier lab had left is ended");
    Ok(())
}
