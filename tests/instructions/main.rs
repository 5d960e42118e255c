//! What a message costs in the pure core and the engine, in instructions and copies: exact where seconds aren't.
//!
//! A message goes all the way: bytes of a delivery in; engine, lane, frame and receiver; bytes of a publish out; then its
//! confirm, the journal's word and its answer back, until it is acknowledged. This test program runs itself under callgrind
//! (valgrind), once for each amount, and looks at the differences, in which what every run does cancels out.

#![allow(clippy::unwrap_used)] // tests and their helpers panic at what must hold

#[path = "../shared/scripted.rs"]
mod scripted;
mod way;
#[path = "../lane/world.rs"]
#[allow(dead_code, reason = "the lane's tests need more of it")]
mod world;

use std::fs;
use std::process::Command;
use way::{carry, copy};

/// Of its body: into the frame, from the link's buffer into the decoder's, and one that this test makes in front of them.
const COPIES_MAX: f64 = 3.3;

/// For a message of 1 KiB, in an unoptimized build, a twentieth above what was seen: a change that costs more is either
/// mended or written down here.
const INSTRUCTIONS_MAX: f64 = 444_000.0;

const KIB: usize = 1_024;
const SMALL: usize = KIB;
const LARGE: usize = 17 * KIB;
const FEW: usize = 64;
const MANY: usize = 192;

#[test]
fn few_small() {
    carry(FEW, SMALL);
}

#[test]
fn many_small() {
    carry(MANY, SMALL);
}

#[test]
fn few_large() {
    carry(FEW, LARGE);
}

#[test]
fn copies_of_small() {
    copy(FEW, SMALL);
}

#[test]
fn copies_of_large() {
    copy(FEW, LARGE);
}

#[test]
fn a_body_is_copied_twice_on_its_way_and_a_message_costs_no_more_than_it_did() {
    let [few_small, many_small, few_large] = ["few_small", "many_small", "few_large"].map(counted);
    let [one_small, one_large] = ["copies_of_small", "copies_of_large"].map(counted);
    let copies = (few_large.copying - few_small.copying) / (one_large.copying - one_small.copying);
    let instructions = (many_small.all - few_small.all) / (MANY - FEW) as f64;
    println!("{copies:.2} copies of a body; {instructions:.0} instructions for a message of 1 KiB");
    assert!(copies <= COPIES_MAX, "{copies:.2} copies of a body");
    assert!(
        instructions <= INSTRUCTIONS_MAX,
        "{instructions:.0} instructions for a message"
    );
}

/// Of one run.
struct Counted {
    all: f64,
    /// In memcpy and memmove.
    copying: f64,
}

fn counted(test: &str) -> Counted {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("callgrind.out");
    let run = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1"])
        .output()
        .expect("valgrind is there: `make setup` installs it");
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    totals(&fs::read_to_string(&file).unwrap())
}

/// Reads callgrind's format: `fn=(id) name` begins a function (with its name the first time), a line of two numbers is a
/// cost, and after `calls=` the next line is what was called, which counts elsewhere.
fn totals(text: &str) -> Counted {
    let mut copiers = std::collections::HashSet::new();
    let (mut all, mut copying) = (0.0, 0.0);
    let (mut copies, mut of_call) = (false, false);
    for line in text.lines() {
        let named = line
            .strip_prefix("fn=")
            .or_else(|| line.strip_prefix("cfn="));
        if let Some(named) = named {
            let (id, name) = named.split_once(' ').unwrap_or((named, ""));
            if name.contains("memcpy") || name.contains("memmove") {
                copiers.insert(id.to_owned());
            }
            if line.starts_with("fn=") {
                copies = copiers.contains(id);
            }
        } else if line.starts_with("calls=") {
            of_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost = line.split(' ').nth(1).and_then(|cost| cost.parse().ok());
            if !std::mem::take(&mut of_call)
                && let Some(cost) = cost
            {
                let cost: f64 = cost;
                all += cost;
                copying += if copies { cost } else { 0.0 };
            }
        }
    }
    assert!(all > 0.0 && copying > 0.0, "callgrind's format has changed");
    Counted { all, copying }
}
