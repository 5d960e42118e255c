//! What an operator has run when the unit may not deliver any more, and when it may again: to stop and start consumers.
//!
//! Promises one command at a time, for each change one, with an end; and that a command which fails is seen on the status
//! page. Nothing waits for one: a fence stops delivery, whatever becomes of consumers.

use super::config::HooksPart;
use super::shared::Shared;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// One that takes longer is killed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A gateway that has just started has no right to deliver yet, and is no fenced one before it had time to get it.
const START: Duration = Duration::from_secs(10);

/// Runs them until cancelled.
pub(super) async fn run(shared: Arc<Shared>, hooks: HooksPart, cancel: CancellationToken) {
    if hooks == HooksPart::default() {
        return;
    }
    let mut rules = shared.rules.clone();
    let mut rights = shared.rights.watch();
    let start = Instant::now() + START;
    let (mut was_fenced, mut had_right) = (false, false);
    loop {
        let holds = *rights.borrow_and_update();
        had_right |= holds || Instant::now() >= start;
        rules.borrow_and_update();
        let fenced = had_right.then(|| fenced(&shared)).flatten();
        if fenced.is_some() != was_fenced {
            was_fenced = fenced.is_some();
            let (name, command) = match &fenced {
                Some(_) => ("on_fence", &hooks.on_fence),
                None => ("on_unfence", &hooks.on_unfence),
            };
            if let Some(words) = command {
                let run = carry_out(&shared, name, words, fenced.as_deref().unwrap_or_default());
                tokio::select! {
                    () = run => {}
                    () = cancel.cancelled() => return,
                }
            }
            continue;
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            Ok(()) = rules.changed() => {}
            Ok(()) = rights.changed() => {}
            () = sleep_until(start), if !had_right => {}
        }
    }
}

/// What of this unit nobody may deliver: slots, or `all`.
fn fenced(shared: &Shared) -> Option<String> {
    let rules = shared.rules()?;
    let (table, here) = (&rules.table, &shared.here.unit);
    if !shared.rights.holds() {
        return Some("all".to_owned());
    }
    let served = table.units().iter().map(|unit| &unit.name);
    let served = served.filter(|home| table.seats().seat_of(home) == here);
    let served = served.flat_map(|home| table.ranges_of(home));
    let served = crate::model::SlotSet::of(served.map(|(first, last)| (first.0, last.0)));
    let fenced = table.fenced().and(&served);
    (!fenced.is_empty()).then(|| fenced.to_string())
}

async fn carry_out(shared: &Shared, name: &'static str, words: &[String], slots: &str) {
    let Some((program, arguments)) = words.split_first() else {
        return;
    };
    tracing::info!(name, program, slots, "running a hook");
    let here = &shared.here;
    let running = Command::new(program)
        .args(arguments)
        .env("SETGATE_SPACE", here.space.as_str())
        .env("SETGATE_UNIT", here.unit.as_str())
        .env("SETGATE_GATEWAY", here.gateway.as_str())
        .env("SETGATE_FENCED", slots)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let ended = match running {
        Ok(mut child) => timeout(PATIENCE, child.wait()).await,
        Err(error) => Ok(Err(error)),
    };
    let cause = match ended {
        Ok(Ok(status)) if status.success() => return shared.status.clear_fault(name),
        Ok(Ok(status)) => format!("{program} ended with {status}"),
        Ok(Err(error)) => format!("{program} can't be run: {error}"),
        Err(_) => format!("{program} took longer than {PATIENCE:?} and was killed"),
    };
    tracing::error!(name, cause, "a hook failed");
    let mend = "do by hand what it was to do; it is run again at the next change";
    shared.status.set_fault(name, cause, mend);
}
