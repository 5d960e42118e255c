//! Drills: what operators fear, carried out on purpose and under traffic, with what it costs.
//!
//! Owns the command `drill`. Promises that each drill heals what it broke before the next one begins; that its account is of
//! its own traffic; and that a figure which wasn't seen is absent, never a guess.

mod acts;
mod name;
mod report;

use super::Load;
use super::run::{Traffic, in_a_lab};
use crate::lab::commands::Output;
use crate::lab::{Await, Fabric, LabError, Node, Place, Reporter};
use crate::model::UnitId;
use acts::Expected;
use clap::Args;
use comfy_table::presets;
use name::Name;
use report::{Outcome, Rto, page, table};
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often it is looked whether something has come to pass.
const LOOK: Duration = Duration::from_millis(100);
/// Nothing that a drill waits for takes longer on a slow machine.
const PATIENCE: Duration = Duration::from_mins(3);
/// Traffic before and after what is done.
const AROUND: Duration = Duration::from_secs(5);
/// What is lost or cut off, who stands in for it, and the other city.
const LOST: &str = "sh-1";
const STAND_IN: &str = "sh-2";
const FAR: &str = "bj-1";

/// Arguments of `drill`.
#[derive(Debug, Args)]
pub struct DrillArgs {
    /// Which, or `all`
    #[arg(value_enum, value_name = "NAME")]
    pub name: Name,
    /// Crash points of `coordinator-loss`
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub crashes: u32,
    /// Write drills.md into this folder
    #[arg(long, value_name = "DIR")]
    pub docs: Option<PathBuf>,
    /// What is published
    #[command(flatten)]
    pub load: Load,
}

/// What a drill saw besides its traffic.
#[derive(Debug, Default)]
struct Seen {
    rto_ms: Rto,
    pause_ms: Option<u64>,
    complaints: Vec<String>,
}

/// Runs it: 0 when every drill passed.
pub(in crate::lab) async fn run(args: &DrillArgs) -> ExitCode {
    let names: Vec<Name> = match args.name {
        Name::All => Name::EACH.to_vec(),
        one => vec![one],
    };
    let drilled = in_a_lab(&args.load, async |fabric, report| {
        ready(fabric).await?;
        let mut outcomes = Vec::new();
        for name in names {
            report.say(format!("drill {}", name.as_str()));
            let (outcome, end) = one(fabric, args, name, report).await?;
            let verdict = if outcome.passed { "passed" } else { "failed" };
            report.say(format!(
                "{} {verdict} {}",
                outcome.drill,
                outcome.complaints.join("; ")
            ));
            outcomes.push(outcome);
            if end == End::Broken {
                report.say("the lab isn't what the next drill begins with: the rest is left out");
                break;
            }
        }
        Ok(outcomes)
    });
    let result = Box::pin(drilled).await.and_then(|outcomes| {
        if let Some(folder) = &args.docs {
            let file = folder.join("drills.md");
            std::fs::write(&file, page(&outcomes)).map_err(LabError::file("write", &file))?;
        }
        Ok(outcomes)
    });
    match result {
        Ok(outcomes) => {
            match args.load.output {
                Output::Text => anstream::println!("{}", table(&outcomes, presets::NOTHING)),
                Output::Json => match serde_json::to_string(&outcomes) {
                    Ok(line) => anstream::println!("{line}"),
                    Err(error) => anstream::eprintln!("setgate-lab drill: {error}"),
                },
            }
            let all = outcomes.iter().all(|outcome| outcome.passed);
            ExitCode::from(u8::from(!all))
        }
        Err(error) => crate::lab::commands::exit_code(Err(error)),
    }
}

/// Drills of one unit follow each other at once: under a copy of the rules that says so.
async fn ready(fabric: &Fabric) -> Result<(), LabError> {
    let (from, to) = (&fabric.profile().dir, rules_dir(fabric));
    std::fs::create_dir_all(&to).map_err(LabError::file("create", &to))?;
    for entry in std::fs::read_dir(from).map_err(LabError::file("read", from))? {
        let file = entry.map_err(LabError::file("read", from))?.path();
        let text = std::fs::read_to_string(&file).map_err(LabError::file("read", &file))?;
        let text = text.replace("hold_down: 10m", "hold_down: 1s ");
        let copy = to.join(file.file_name().unwrap_or_default());
        std::fs::write(&copy, text).map_err(LabError::file("write", &copy))?;
    }
    fabric.apply(&to, "drills follow each other").await?;
    Ok(())
}

fn rules_dir(fabric: &Fabric) -> PathBuf {
    fabric.dir().join("drill-rules")
}

async fn one(
    fabric: &mut Fabric,
    args: &DrillArgs,
    name: Name,
    report: Reporter,
) -> Result<(Outcome, End), LabError> {
    let stood_in = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&stood_in);
    let traffic = Traffic::begin(&args.load, |plan| plan.stood_in = counted).await?;
    sleep(AROUND).await;
    let mut drill = Drill {
        fabric,
        stood_in,
        report,
        seen: Seen::default(),
    };
    let carried_out = drill.carry_out(name, args).await;
    let seen = drill.seen;
    sleep(AROUND).await;
    let account = traffic.end().await?;
    let mut complaints = seen.complaints;
    let mut end = End::Healed;
    if let Err(error) = carried_out {
        complaints.push(error.render());
        end = End::Broken;
    }
    if !account.is_clean() {
        complaints.push("a promise was broken".to_owned());
    }
    let outcome = Outcome {
        drill: name.as_str(),
        passed: complaints.is_empty(),
        rpo_messages: account.lost,
        rpo_ms: 0,
        account,
        rto_ms: seen.rto_ms,
        pause_ms: seen.pause_ms,
        complaints,
    };
    Ok((outcome, end))
}

/// What a drill leaves behind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Healed,
    Broken,
}

struct Drill<'a> {
    fabric: &'a mut Fabric,
    /// Deliveries by a stand-in.
    stood_in: Arc<AtomicU64>,
    report: Reporter,
    seen: Seen,
}

impl Drill<'_> {
    async fn carry_out(&mut self, name: Name, args: &DrillArgs) -> Result<(), LabError> {
        match name {
            Name::All => Ok(()),
            Name::PlannedMove => self.planned_move().await,
            Name::RuleChange => self.rule_change().await,
            Name::MoveThatCannotDrain => self.not_drained().await,
            Name::UnitLoss => self.unit_loss().await,
            Name::Failback => self.failback().await,
            Name::FlappingUnit => self.flapping().await,
            Name::CutOffFromEtcd => self.cut_off(&["etcd"], Expected::TakenOver).await,
            Name::CutOffFromPeers => self.cut_off(&[STAND_IN, FAR], Expected::Stays).await,
            Name::CutOffFromAll => {
                self.cut_off(&["etcd", STAND_IN, FAR], Expected::TakenOver)
                    .await
            }
            Name::PausedGateway => self.paused(&gateways()?).await,
            Name::GrayFailure => self.paused(&[node("broker/sh-1")?]).await,
            Name::StaleGateway => self.stale_gateway().await,
            Name::CoordinatorLoss => self.coordinator_loss(args.crashes).await,
            Name::EtcdLoss => self.etcd_loss().await,
        }
    }

    /// Kills the unit; when.
    async fn lose(&mut self) -> Result<Instant, LabError> {
        for gateway in gateways()? {
            self.fabric.kill(&gateway).await?;
        }
        self.fabric.kill(&node("broker/sh-1")?).await?;
        Ok(Instant::now())
    }

    async fn restore(&mut self) -> Result<(), LabError> {
        self.fabric
            .start(&node("broker/sh-1")?, Await::Ready)
            .await?;
        for gateway in gateways()? {
            self.fabric.start(&gateway, Await::Ready).await?;
        }
        self.until_back().await
    }

    /// Waits until the lost unit holds its leases again.
    async fn until_back(&mut self) -> Result<(), LabError> {
        self.until("the unit is back", async |drill| {
            let Ok(members) = drill.setgate(&["members", "list"]).await else {
                return false;
            };
            let members = members["members"].as_array().cloned().unwrap_or_default();
            let mut of_unit = members.iter().filter(|member| member["unit"] == LOST);
            of_unit.all(|member| member["runs"] == true)
        })
        .await
    }

    /// Watches how another unit takes over.
    async fn follow_takeover(&mut self, lost: Instant) -> Result<(), LabError> {
        let delivered = self.stood_in.load(Ordering::Relaxed);
        let (mut decided, mut placed, mut first) = (None, None, None);
        loop {
            let now = lost.elapsed();
            if now > PATIENCE {
                return Err(LabError::Refused(format!(
                    "nobody has taken over from {LOST} within {PATIENCE:?}"
                )));
            }
            let newest = self.status(None).await.unwrap_or_default();
            let is_takeover = newest["kind"] == "failover" && newest["from"] == LOST;
            let stage = newest["stage"].as_str().unwrap_or_default().to_owned();
            let over = stage == "done";
            if is_takeover && stage != "undone" && (!over || decided.is_some()) {
                decided = decided.or(Some(now));
                if matches!(stage.as_str(), "placed" | "done") {
                    placed = placed.or(Some(now));
                }
            }
            if self.stood_in.load(Ordering::Relaxed) > delivered {
                first = first.or(Some(now));
            }
            if let (Some(decided), Some(placed), Some(first), true) = (decided, placed, first, over)
            {
                self.seen.rto_ms = Rto {
                    detect: Some(ms(decided)),
                    decide: Some(ms(placed.saturating_sub(decided))),
                    propagate: Some(ms(now.saturating_sub(placed))),
                    first_delivery: Some(ms(first.saturating_sub(placed))),
                };
                self.saw_pause(&newest);
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }

    async fn give_back(&mut self) -> Result<(), LabError> {
        let begun = Instant::now();
        loop {
            // A unit that has just come back may be lost again for a moment: its probes have to be confirmed.
            let cause = match self.setgate(&["failback", LOST, "-m", "a drill"]).await {
                Ok(asked) => {
                    let over = self.until_over(&asked["id"].to_string()).await?;
                    if over["stage"] == "done" {
                        return Ok(());
                    }
                    LabError::Refused(format!("not given back: {over}"))
                }
                Err(error) => error,
            };
            if begun.elapsed() > PATIENCE {
                return Err(cause);
            }
            sleep(LOOK).await;
        }
    }

    async fn ask(&mut self, slots: &str, to: &str, deadline: &str) -> Result<String, LabError> {
        let words = ["move", "start", "--slots", slots, "--to", to];
        let more = ["--deadline", deadline, "-m", "a drill"];
        let asked = self.setgate(&[&words[..], &more].concat()).await?;
        Ok(asked["id"].to_string())
    }

    async fn moved(&mut self, slots: &str, to: &str, deadline: &str) -> Result<Value, LabError> {
        let id = self.ask(slots, to, deadline).await?;
        self.until_over(&id).await
    }

    async fn until_over(&mut self, id: &str) -> Result<Value, LabError> {
        let begun = Instant::now();
        loop {
            let status = self.status(Some(id)).await.unwrap_or_default();
            if matches!(status["stage"].as_str(), Some("done" | "undone")) {
                self.saw_pause(&status);
                return Ok(status);
            }
            if begun.elapsed() > PATIENCE {
                return Err(LabError::Refused(format!(
                    "move {id} doesn't end: {status}"
                )));
            }
            sleep(LOOK).await;
        }
    }

    async fn status(&mut self, id: Option<&str>) -> Result<Value, LabError> {
        let words: Vec<&str> = ["move", "status"].into_iter().chain(id).collect();
        self.setgate(&words).await
    }

    async fn setgate(&mut self, words: &[&str]) -> Result<Value, LabError> {
        let lab = self.fabric.lab();
        let (etcd, space) = (lab.etcd.join(","), lab.space.to_string());
        let more = ["--etcd", &etcd, "--space", &space, "-o", "json"];
        let said = self.fabric.setgate(&[words, &more].concat()).await?;
        Ok(serde_json::from_str(said.lines().last().unwrap_or_default()).unwrap_or_default())
    }

    /// The gateway that leads, by its own word.
    async fn coordinator(&mut self) -> Option<Node> {
        let lab = self.fabric.lab();
        let gateways = lab.units.iter().flat_map(|unit| &unit.gateways);
        for gateway in gateways {
            let url = format!("http://{}/metrics", gateway.admin);
            let Ok((_, body)) = self.fabric.http().get(&url, None).await else {
                continue;
            };
            let leads = String::from_utf8_lossy(&body)
                .lines()
                .any(|line| line == "setgate_coordinator 1");
            if leads {
                return node(&format!("gateway/{}", gateway.name)).ok();
            }
        }
        None
    }

    async fn epoch(&mut self) -> Result<u64, LabError> {
        let status = self.setgate(&["status"]).await?;
        Ok(status["epoch"].as_u64().unwrap_or(0))
    }

    async fn until(
        &mut self,
        what: &str,
        holds: impl AsyncFn(&mut Self) -> bool,
    ) -> Result<(), LabError> {
        let begun = Instant::now();
        while !holds(self).await {
            if begun.elapsed() > PATIENCE {
                return Err(LabError::Refused(format!(
                    "not within {PATIENCE:?}: {what}"
                )));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn expect_stage(&mut self, status: &Value, stage: &str) {
        if status["stage"] != stage {
            self.complain(format!("not {stage}: {status}"));
        }
    }

    fn saw_pause(&mut self, status: &Value) {
        self.seen.pause_ms = self.seen.pause_ms.max(status["pause_ms"].as_u64());
    }

    fn complain(&mut self, complaint: String) {
        self.seen.complaints.push(complaint);
    }
}

fn node(name: &str) -> Result<Node, LabError> {
    name.parse()
        .map_err(|error| LabError::Refused(format!("{name}: {error}")))
}

fn place(name: &str) -> Result<Place, LabError> {
    if name == "etcd" {
        return Ok(Place::Etcd);
    }
    let unit = UnitId::parse(name);
    unit.map(Place::Unit)
        .map_err(|error| LabError::Refused(format!("{name}: {error}")))
}

fn gateways() -> Result<[Node; 2], LabError> {
    Ok([node("gateway/sh-1-a")?, node("gateway/sh-1-b")?])
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
