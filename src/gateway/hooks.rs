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
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("SETGATE_SPACE", here.space.as_str())
        .env("SETGATE_UNIT", here.unit.as_str())
        .env("SETGATE_GATEWAY", here.gateway.as_str())
        .env("SETGATE_FENCED", slots);
    let Err(cause) = ended(program, command, PATIENCE).await else {
        return shared.status.clear_fault(name);
    };
    tracing::error!(name, cause, "a hook failed");
    let mend = "do by hand what it was to do; it is run again at the next change";
    shared.status.set_fault(name, cause, mend);
}

/// Runs a command to its end, or kills it after so long.
async fn ended(program: &str, mut command: Command, patience: Duration) -> Result<(), String> {
    let running = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let ended = match running {
        Ok(mut child) => timeout(patience, child.wait()).await,
        Err(error) => Ok(Err(error)),
    };
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("{program} ended with {status}")),
        Ok(Err(error)) => Err(format!("{program} can't be run: {error}")),
        Err(_) => Err(format!(
            "{program} took longer than {patience:?} and was killed"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(words: &[&str]) -> Result<(), String> {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        ended(words[0], command, Duration::from_millis(300)).await
    }

    #[tokio::test]
    async fn a_hook_that_fails_is_missing_or_hangs_says_so_and_has_an_end() {
        assert_eq!(run(&["true"]).await, Ok(()));
        for (words, says) in [
            (&["false"][..], "false ended with exit status: 1"),
            (
                &["/no/such/hook"],
                "/no/such/hook can't be run: No such file",
            ),
            (
                &["tail", "-f", "/dev/null"],
                "tail took longer than 300ms and was killed",
            ),
        ] {
            let cause = run(words).await.unwrap_err();
            assert!(cause.starts_with(says), "{cause}");
        }
    }
}
