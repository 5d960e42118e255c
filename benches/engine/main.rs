//! What a message costs: on this project's AMQP engine, on lapin driven as it likes best, and in the pure machine alone.
//!
//! `cargo bench --bench engine -- amqp://user:password@host:port/vhost`, or the URI in `SETGATE_BENCH_URI`, or the brokers
//! that tests share, where they are up; `make bench-engine` starts them first. Publishes persistent messages of 1 KiB with 1,000 unconfirmed, and takes them
//! out again with acknowledgements of 64 or 5 ms, by turns: each way and each client in a process of its own, whose CPU
//! time (user and system, all threads) is divided by its messages. The broker is another process and doesn't count.
//! `SETGATE_BENCH_MESSAGES` per process and `SETGATE_BENCH_ROUNDS` may be set.

#![allow(clippy::unwrap_used, clippy::panic)] // a measurement that can't be made ends
#![allow(missing_docs)]

mod machine;
mod ours;
#[path = "../../tests/shared/scripted.rs"]
mod scripted;
mod template;
mod theirs;

use rustix::time::{ClockId, clock_gettime};
use setgate::lab::LabFile;
use std::process::Command;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// As the binaries have it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BODY_BYTES: usize = 1_024;
/// Published and unconfirmed. lapin likes 500 to 1,000 best.
const IN_FLIGHT_MAX: usize = 1_000;
/// A lane's.
const PREFETCH: u16 = 1_024;
/// One acknowledgement for so many deliveries, or for what came in this time.
const ACKNOWLEDGED_AT_ONCE: u64 = 64;
const ACKNOWLEDGED_EVERY: Duration = Duration::from_millis(5);

/// Some ten seconds of what one classic queue takes.
const MESSAGES: u64 = 100_000;
const ROUNDS: u64 = 3;

/// The engine's cost at most, against lapin's.
const RATIO_MAX: f64 = 0.5;
/// What a lean C client took for both on the machine on which lapin took 20, in µs.
const LEAN_MICROS: f64 = 7.0;

/// Durable, classic; made and deleted here.
const QUEUE: &str = "setgate.bench.engine";

/// One way of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    OursPublish,
    OursConsume,
    TheirsPublish,
    TheirsConsume,
}

const MODES: [(Mode, &str); 4] = [
    (Mode::OursPublish, "engine publish+confirm"),
    (Mode::OursConsume, "engine consume+acknowledge"),
    (Mode::TheirsPublish, "lapin publish+confirm"),
    (Mode::TheirsConsume, "lapin consume+acknowledge"),
];

impl Mode {
    fn name(self) -> &'static str {
        MODES
            .iter()
            .find(|(mode, _)| *mode == self)
            .map_or("", |(_, name)| name)
    }
}

/// What one process took for all its messages.
#[derive(Debug, Clone, Copy)]
struct Cost {
    cpu: Duration,
    wall: Duration,
}

/// Begun when the connection is open.
struct Meter {
    cpu: Duration,
    begun: Instant,
}

impl Meter {
    fn begin() -> Self {
        Self {
            cpu: cpu_time(),
            begun: Instant::now(),
        }
    }

    fn end(&self) -> Cost {
        Cost {
            cpu: cpu_time().saturating_sub(self.cpu),
            wall: self.begun.elapsed(),
        }
    }
}

/// User and system time of this process, all its threads.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap())
}

fn variable(name: &str) -> Option<String> {
    let found = std::env::vars().find(|(variable, _)| variable == name);
    found.map(|(_, value)| value)
}

fn number(name: &str, default: u64) -> u64 {
    variable(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|error| panic!("{name}={text}: {error}"))
    })
}

fn main() {
    let messages = number("SETGATE_BENCH_MESSAGES", MESSAGES);
    // cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).collect();
    let argument = words.iter().find(|word| !word.starts_with("--")).cloned();
    if let Some(name) = variable("SETGATE_BENCH_MODE") {
        let uri = variable("SETGATE_BENCH_URI").unwrap();
        let (mode, _) = MODES.iter().find(|(_, known)| *known == name).unwrap();
        let work = run(*mode, uri, messages);
        let cost = match mode {
            Mode::OursPublish | Mode::OursConsume | Mode::TheirsPublish => on_runtime(work),
            // It has a thread of its own for the socket, and took a fifth less where its deliveries woke one other.
            Mode::TheirsConsume => on_one_thread(work),
        };
        println!("{} {}", cost.cpu.as_nanos(), cost.wall.as_nanos());
        return;
    }
    machine::measure();
    let named = argument.or_else(|| variable("SETGATE_BENCH_URI"));
    let Some(uri) = named.or_else(shared_broker) else {
        println!(
            "\nNo broker is given and the tests' are not up, so clients aren't compared: name one by its URI, as an \
             argument or in SETGATE_BENCH_URI, or run `make bench-engine`."
        );
        return;
    };
    let rounds = number("SETGATE_BENCH_ROUNDS", ROUNDS).max(1);
    compare(&uri, messages, rounds);
}

/// One of the brokers that tests share, as an application.
fn shared_broker() -> Option<String> {
    let lab = LabFile::read(&setgate::lab::fabric::test_lab_dir()).ok()?;
    Some(lab.units.first()?.brokers.first()?.app_uri())
}

/// As the gateway has it: several threads, and the work in a task.
fn on_runtime<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let tasks = TaskTracker::new();
    runtime.block_on(async { tasks.spawn(work).await.unwrap() })
}

/// In the thread that calls.
fn on_one_thread<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work)
}

async fn run(mode: Mode, uri: String, messages: u64) -> Cost {
    match mode {
        Mode::OursPublish => ours::publish(&uri, messages).await,
        Mode::OursConsume => ours::consume(&uri, messages).await,
        Mode::TheirsPublish => theirs::publish(&uri, messages).await,
        Mode::TheirsConsume => theirs::consume(&uri, messages).await,
    }
}

fn compare(uri: &str, messages: u64, rounds: u64) {
    println!(
        "\n{rounds} rounds of {messages} persistent messages of {BODY_BYTES} bytes each way, {IN_FLIGHT_MAX} unconfirmed, \
         acknowledged by {ACKNOWLEDGED_AT_ONCE}; µs of CPU per message of this client alone"
    );
    let depth = |due: u64| {
        let found = on_runtime(theirs::depth(uri.to_owned()));
        assert_eq!(found, due, "messages in the queue");
    };
    on_runtime(theirs::prepare(uri.to_owned()));
    let mut costs: Vec<(Mode, Cost)> = Vec::new();
    for round in 0..rounds {
        // Who begins changes, so that neither always finds the quieter machine.
        let mut order = [
            [Mode::OursPublish, Mode::OursConsume],
            [Mode::TheirsPublish, Mode::TheirsConsume],
        ];
        if round % 2 == 1 {
            order.reverse();
        }
        for [publish, consume] in order {
            for (mode, left) in [(publish, messages), (consume, 0)] {
                let cost = child(mode, uri, messages);
                depth(left);
                println!(
                    "  round {}: {:<28} {:>6.2} µs {:>8.0}/s",
                    round + 1,
                    mode.name(),
                    micros(cost.cpu, messages),
                    messages as f64 / cost.wall.as_secs_f64(),
                );
                costs.push((mode, cost));
            }
        }
    }
    on_runtime(theirs::remove(uri.to_owned()));
    report(&costs, messages);
}

/// A process of its own, so that no thread of one client counts for the other.
fn child(mode: Mode, uri: &str, messages: u64) -> Cost {
    let output = Command::new(std::env::current_exe().unwrap())
        .env("SETGATE_BENCH_MODE", mode.name())
        .env("SETGATE_BENCH_URI", uri)
        .env("SETGATE_BENCH_MESSAGES", messages.to_string())
        .stderr(std::process::Stdio::inherit())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}: {}",
        mode.name(),
        output.status
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap());
    let mut next = || Duration::from_nanos(numbers.next().unwrap());
    Cost {
        cpu: next(),
        wall: next(),
    }
}

fn micros(time: Duration, messages: u64) -> f64 {
    time.as_secs_f64() * 1e6 / messages as f64
}

/// Of an odd number the middle one, else the lower of the two.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[(numbers.len() - 1) / 2]
}

fn report(costs: &[(Mode, Cost)], messages: u64) {
    let of = |mode: Mode, what: &dyn Fn(&Cost) -> f64| {
        let of_mode = costs.iter().filter(|(one, _)| *one == mode);
        median(of_mode.map(|(_, cost)| what(cost)).collect())
    };
    let cpu = |mode| of(mode, &|cost| micros(cost.cpu, messages));
    let rate = |mode| of(mode, &|cost| messages as f64 / cost.wall.as_secs_f64());
    println!(
        "\n{:<22} {:>12} {:>12} {:>8}",
        "median, µs per message", "engine", "lapin", "ratio"
    );
    let line = |what: &str, ours: f64, theirs: f64| {
        println!(
            "{what:<22} {ours:>12.2} {theirs:>12.2} {:>8.2}",
            ours / theirs
        );
    };
    let publish = (cpu(Mode::OursPublish), cpu(Mode::TheirsPublish));
    let consume = (cpu(Mode::OursConsume), cpu(Mode::TheirsConsume));
    let both = (publish.0 + consume.0, publish.1 + consume.1);
    line("publish+confirm", publish.0, publish.1);
    line("consume+acknowledge", consume.0, consume.1);
    line("both together", both.0, both.1);
    for (mode, name) in MODES {
        println!("{name:<28} {:>8.0}/s", rate(mode));
    }
    let ratio = both.0 / both.1;
    let met = if ratio <= RATIO_MAX {
        "is met"
    } else {
        "is NOT met"
    };
    println!(
        "\nThe goal {met}: both together cost {ratio:.2} of lapin's {:.1} µs, and are to cost at most {RATIO_MAX}. A lean C \
         client took {LEAN_MICROS} µs for both where lapin took 20.",
        both.1
    );
}
