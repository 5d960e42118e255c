//! A benchmark that can't go on says so, and leaves nothing running.

use crate::eventually::eventually;
use rustix::process::{Pid, Signal, kill_process};
use setgate::lab::LabFile;
use setgate::lab::fabric::test_lab_dir;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

const MOMENT: Duration = Duration::from_secs(5);

/// A shovel alone, in cells of few messages.
fn benchmark(name: &str) -> (Child, PathBuf) {
    let dir = test_lab_dir().with_file_name("fault-labs").join(name);
    let bench = Command::new(env!("CARGO_BIN_EXE_setgate-lab"))
        .args(["bench", "--cells", "256KiB,16KiB", "--only", "shovel"])
        .args(["--rounds", "2", "--dir"])
        .arg(&dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    (bench, dir.join("lab"))
}

/// Lets it run until it says this, and then to its end: whether it succeeded, what it printed, and what else it said.
async fn ends(mut bench: Child, after: &str, then: impl FnOnce(&Child)) -> (bool, String, String) {
    let mut said = BufReader::new(bench.stderr.take().unwrap());
    let mut all = String::new();
    while !all.lines().last().unwrap_or_default().contains(after) {
        assert!(said.read_line(&mut all).await.unwrap() > 0, "{all}");
    }
    then(&bench);
    let mut printed = String::new();
    let mut out = bench.stdout.take().unwrap();
    let (rest, outcome) = tokio::join!(said.read_to_string(&mut all), async {
        out.read_to_string(&mut printed).await.unwrap();
        bench.wait().await.unwrap()
    });
    rest.unwrap();
    (outcome.success(), printed, all)
}

/// Where its brokers listen.
fn brokers(lab: &LabFile) -> Vec<String> {
    let brokers = lab.units.iter().flat_map(|unit| &unit.brokers);
    let address = |uri: &str| {
        let rest = uri.strip_prefix("amqp://").unwrap();
        rest.split('/').next().unwrap().to_owned()
    };
    brokers.map(|broker| address(&broker.uri)).collect()
}

/// Processes of a lab that have this in their environment.
fn processes_of(lab: &Path, setting: &str) -> Vec<Pid> {
    let folder = lab.to_str().unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let environment = std::fs::read(entry.path().join("environ")).ok()?;
        let environment = String::from_utf8_lossy(&environment);
        (environment.contains(folder) && environment.contains(setting)).then_some(pid)
    })
    .collect()
}

/// What was killed last may take a moment to be gone: its sockets go after its memory, and with that its environment.
async fn nothing_lives(lab: &Path, brokers: Vec<String>) {
    eventually("the end of its processes", MOMENT, async || {
        for broker in &brokers {
            TcpStream::connect(broker).await.err()?;
        }
        processes_of(lab, "").is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_interrupted_benchmark_marks_what_it_has_and_leaves_nothing_running() {
    let (bench, lab) = benchmark("bench-interrupted");
    let mut listening = Vec::new();
    let (success, printed, said) = ends(bench, "16KiB round 1", |bench| {
        listening = brokers(&LabFile::read(&lab).unwrap());
        let pid = bench.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        kill_process(pid.unwrap(), Signal::INT).unwrap();
    })
    .await;
    assert!(!success, "{said}");
    assert!(said.contains("interrupted"), "{said}");
    assert!(printed.contains("**Not complete**"), "{printed}");
    assert!(printed.contains("| 256KiB | shovel |"), "{printed}");
    assert!(!printed.contains("| 16KiB |"), "{printed}");
    assert_eq!(listening.len(), 2, "{said}");
    nothing_lives(&lab, listening).await;
}

#[tokio::test]
async fn a_benchmark_that_loses_a_broker_says_so_and_leaves_nothing_running() {
    let (bench, lab) = benchmark("bench-without-broker");
    let mut listening = Vec::new();
    let (success, printed, said) = ends(bench, "256KiB round 1", |_| {
        listening = brokers(&LabFile::read(&lab).unwrap());
        let far = processes_of(&lab, "RABBITMQ_NODENAME=far");
        assert!(!far.is_empty(), "no process of the far broker");
        for pid in far {
            // Those that follow it are gone by themselves.
            let _ = kill_process(pid, Signal::KILL);
        }
    })
    .await;
    assert!(!success, "{said}");
    assert!(printed.is_empty(), "{printed}");
    assert!(said.contains("lost its broker"), "{said}");
    nothing_lives(&lab, listening).await;
}
