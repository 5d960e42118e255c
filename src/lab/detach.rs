//! A supervisor in the background: the same program again, in a session of its own, watched until the lab is up.

use super::LabError;
use super::control::{self, Reply, Request};
use super::process::{POLL, describe, mark};
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Starts `setgate-lab up` with these arguments in the background, shows what it says, and returns when it is up.
pub(super) async fn run(dir: &Path, args: &[String]) -> Result<(), LabError> {
    std::fs::create_dir_all(dir).map_err(LabError::file("create", dir))?;
    let dir = dir.canonicalize().map_err(LabError::file("find", dir))?;
    let log = dir.join("lab.log");
    let out = std::fs::File::create(&log).map_err(LabError::file("create", &log))?;
    let again = out.try_clone().map_err(LabError::file("open", &log))?;
    let program = std::env::current_exe().map_err(LabError::file("find", "this program"))?;
    let mut command = Command::new(&program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(again)
        .process_group(0);
    mark(&mut command, &dir);
    let mut child = command.spawn().map_err(LabError::file("run", &program))?;
    let mut shown = std::fs::File::open(&log).map_err(LabError::file("read", &log))?;
    loop {
        show(&mut shown);
        let ended = child
            .try_wait()
            .map_err(LabError::file("watch", &program))?;
        if let Some(status) = ended {
            show(&mut shown);
            // Its own last line, just shown, says why.
            let (how, log) = (describe(status), log.display());
            let text = format!("the lab did not come up ({how}); all that it said is in {log}");
            return Err(LabError::Refused(text));
        }
        // It opens its ear when everything is up.
        let heard = control::ask(&dir, &Request::Status).await;
        if matches!(heard, Ok(Reply::Status(status)) if status.pid == child.id()) {
            show(&mut shown);
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Passes on what the log has more.
fn show(log: &mut std::fs::File) {
    let mut text = String::new();
    if log.read_to_string(&mut text).is_ok() {
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}
