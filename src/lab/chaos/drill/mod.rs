//! Drills: what operators fear, carried out on purpose and under traffic, with what it costs.
//!
//! Owns the command `drill`. Promises that each drill heals what it broke before the next one begins; that its account is of
//! its own traffic; and that a figure which wasn't seen is absent, never a guess.

mod name;
mod report;

use super::Load;
use super::run::{Traffic, in_a_lab};
use crate::lab::commands::Output;
use crate::lab::{Await, Fabric, LabError, Node, Place, Reporter, Ways};
use crate::model::UnitId;
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
            let outcome = one(fabric, args, name, report).await?;
            let verdict = if outcome.passed { "passed" } else { "failed" };
            report.say(format!(
                "{} {verdict} {}",
                outcome.drill,
                outcome.complaints.join("; ")
            ));
            outcomes.push(outcome);
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
    let (from, to) = (&fabric.profile().dir, fabric.dir().join("drill-rules"));
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

async fn one(
    fabric: &mut Fabric,
    args: &DrillArgs,
    name: Name,
    report: Reporter,
) -> Result<Outcome, LabError> {
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
    match name {
        Name::All => {}
        Name::PlannedMove => drill.planned_move().await?,
        Name::MoveThatCannotDrain => drill.not_drained().await?,
        Name::UnitLoss => drill.unit_loss().await?,
        Name::Failback => drill.failback().await?,
        Name::FlappingUnit => drill.flapping().await?,
        Name::CutOffFromEtcd => drill.cut_off(&["etcd"], Expected::TakenOver).await?,
        Name::CutOffFromPeers => drill.cut_off(&[STAND_IN, FAR], Expected::Stays).await?,
        Name::CutOffFromAll => {
            drill
                .cut_off(&["etcd", STAND_IN, FAR], Expected::TakenOver)
                .await?;
        }
        Name::PausedGateway => drill.paused(&gateways()?).await?,
        Name::GrayFailure => drill.paused(&[node("broker/sh-1")?]).await?,
        Name::StaleGateway => drill.stale_gateway().await?,
        Name::CoordinatorLoss => drill.coordinator_loss(args.crashes).await?,
        Name::EtcdLoss => drill.etcd_loss().await?,
    }
    let seen = drill.seen;
    sleep(AROUND).await;
    let account = traffic.end().await?;
    let mut complaints = seen.complaints;
    if !account.is_clean() {
        complaints.push("a promise was broken".to_owned());
    }
    Ok(Outcome {
        drill: name.as_str(),
        passed: complaints.is_empty(),
        rpo_messages: account.lost,
        rpo_ms: 0,
        account,
        rto_ms: seen.rto_ms,
        pause_ms: seen.pause_ms,
        complaints,
    })
}

/// What becomes of a unit's seat.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    TakenOver,
    Stays,
}

struct Drill<'a> {
    fabric: &'a mut Fabric,
    /// Deliveries by a stand-in.
    stood_in: Arc<AtomicU64>,
    report: Reporter,
    seen: Seen,
}

impl Drill<'_> {
    async fn planned_move(&mut self) -> Result<(), LabError> {
        for (slots, to) in [("0-1999", STAND_IN), ("0-1999", LOST)] {
            let done = self.moved(slots, to, "60").await?;
            self.expect_stage(&done, "done");
        }
        Ok(())
    }

    async fn not_drained(&mut self) -> Result<(), LabError> {
        let away = node("gateway/bj-1-b")?;
        self.fabric.stop(&away).await?;
        let undone = self.moved("0-999", STAND_IN, "3").await?;
        self.expect_stage(&undone, "undone");
        self.fabric.start(&away, Await::Ready).await
    }

    async fn unit_loss(&mut self) -> Result<(), LabError> {
        let lost = self.lose().await?;
        self.follow_takeover(lost).await?;
        self.restore().await?;
        self.give_back().await
    }

    async fn failback(&mut self) -> Result<(), LabError> {
        let lost = self.lose().await?;
        self.follow_takeover(lost).await?;
        self.restore().await?;
        self.seen = Seen::default();
        self.give_back().await
    }

    async fn flapping(&mut self) -> Result<(), LabError> {
        let before = self.epoch().await?;
        let gateways = gateways()?;
        for _ in 0..3 {
            for gateway in &gateways {
                self.fabric.kill(gateway).await?;
            }
            // Its leases outlive this, and it is back within the grace.
            sleep(AROUND).await;
            for gateway in &gateways {
                self.fabric.start(gateway, Await::Ready).await?;
            }
        }
        let after = self.epoch().await?;
        if before != after {
            self.complain(format!("the epoch went from {before} to {after}"));
        }
        Ok(())
    }

    async fn cut_off(&mut self, ends: &[&str], expected: Expected) -> Result<(), LabError> {
        let near = place(LOST)?;
        let before = self.epoch().await?;
        let ends: Vec<Place> = ends
            .iter()
            .map(|end| place(end))
            .collect::<Result<_, _>>()?;
        for end in &ends {
            self.fabric.cut(&near, end, Ways::Both)?;
        }
        let lost = Instant::now();
        match expected {
            Expected::TakenOver => self.follow_takeover(lost).await?,
            // Longer than it would take.
            Expected::Stays => sleep(Duration::from_secs(40)).await,
        }
        for end in &ends {
            self.fabric.heal(&near, end, Ways::Both)?;
        }
        match expected {
            Expected::TakenOver => {
                self.until_back().await?;
                self.give_back().await?;
            }
            Expected::Stays => {
                let after = self.epoch().await?;
                if before != after {
                    self.complain(format!("the epoch went from {before} to {after}"));
                }
            }
        }
        Ok(())
    }

    async fn paused(&mut self, nodes: &[Node]) -> Result<(), LabError> {
        for node in nodes {
            self.fabric.pause(node)?;
        }
        self.follow_takeover(Instant::now()).await?;
        for node in nodes {
            self.fabric.resume(node)?;
        }
        self.until_back().await?;
        self.give_back().await
    }

    async fn stale_gateway(&mut self) -> Result<(), LabError> {
        let stale = node("gateway/sh-1-b")?;
        self.fabric.stop(&stale).await?;
        let retire = ["members", "retire", "sh-1/sh-1-b", "-m", "a drill"];
        self.setgate(&retire).await?;
        let done = self.moved("0-999", STAND_IN, "60").await?;
        self.expect_stage(&done, "done");
        let (near, etcd) = (place(LOST)?, Place::Etcd);
        self.fabric.cut(&near, &etcd, Ways::Both)?;
        self.fabric.start(&stale, Await::Nothing).await?;
        self.until("the stale gateway may not deliver", async |drill| {
            drill.has_no_right("sh-1-b").await
        })
        .await?;
        // Its links are up by now, and it would have leave if anybody granted it.
        sleep(AROUND).await;
        if !self.has_no_right("sh-1-b").await {
            self.complain("a gateway with an old table may deliver".to_owned());
        }
        self.fabric.heal(&near, &etcd, Ways::Both)?;
        self.until_back().await?;
        let done = self.moved("0-999", LOST, "60").await?;
        self.expect_stage(&done, "done");
        Ok(())
    }

    /// Whether a gateway says that it may not deliver.
    async fn has_no_right(&mut self, name: &str) -> bool {
        let Some(gateway) = self.fabric.lab().gateway(name).cloned() else {
            return false;
        };
        let url = format!("http://{}/v1/status", gateway.admin);
        let status = self.fabric.http().get_json(&url, None).await;
        let faults = status.unwrap_or_default()["faults"].clone();
        let mut faults = faults.as_array().into_iter().flatten();
        faults.any(|fault| fault["subject"] == "right to deliver")
    }

    async fn coordinator_loss(&mut self, crashes: u32) -> Result<(), LabError> {
        for crash in 0..crashes {
            let to = if crash % 2 == 0 { STAND_IN } else { LOST };
            let asked = self.ask("0-999", to, "60").await?;
            sleep(Duration::from_millis(fastrand::u64(..700))).await;
            let coordinator = self.coordinator().await;
            if let Some(coordinator) = &coordinator {
                self.fabric.kill(coordinator).await?;
            }
            if let Some(coordinator) = &coordinator {
                self.fabric.start(coordinator, Await::Ready).await?;
            }
            let over = self.until_over(&asked).await?;
            self.report.say(format!(
                "crash {} of {}: move {asked} {}",
                crash + 1,
                coordinator.map_or_else(|| "nobody".to_owned(), |node| node.to_string()),
                over["stage"]
            ));
            // One that was undone is asked for again, so that the next one finds its slots where it thinks.
            if over["stage"] == "undone" {
                let done = self.moved("0-999", to, "60").await?;
                self.expect_stage(&done, "done");
            }
        }
        if crashes % 2 == 1 {
            let done = self.moved("0-999", LOST, "60").await?;
            self.expect_stage(&done, "done");
        }
        Ok(())
    }

    async fn etcd_loss(&mut self) -> Result<(), LabError> {
        let members: Vec<Node> = (1..=3)
            .map(|number| node(&format!("etcd/{number}")))
            .collect::<Result<_, _>>()?;
        for member in &members {
            self.fabric.kill(member).await?;
        }
        let refused = self.ask("0-9", STAND_IN, "60").await;
        if refused.is_ok() {
            self.complain("a move was asked for without etcd".to_owned());
        }
        sleep(Duration::from_secs(40)).await;
        for member in &members {
            self.fabric.start(member, Await::Nothing).await?;
        }
        self.until("etcd answers again", async |drill| {
            drill.status(None).await.is_ok()
        })
        .await
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
        // Its broker's first probe may not have been confirmed yet.
        let asked = loop {
            match self.setgate(&["failback", LOST, "-m", "a drill"]).await {
                Ok(asked) => break asked,
                Err(error) if begun.elapsed() > PATIENCE => return Err(error),
                Err(_) => sleep(LOOK).await,
            }
        };
        let over = self.until_over(&asked["id"].to_string()).await?;
        self.expect_stage(&over, "done");
        Ok(())
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
