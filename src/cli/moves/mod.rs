//! `setgate move`: slots, a key or a source's rules to other owners, under traffic.
//!
//! Asks in etcd for what the coordinator carries out, and says how far it is. Promises that nothing is asked for that would
//! be refused as things are, and that two operators at once get one move each, or one of them a refusal.

mod print;
mod takeover;

pub(super) use takeover::{FailbackArgs, FailoverArgs, failback, failover};

use super::block_on;
use super::failure::Failure;
use super::rules::{EtcdArgs, Format, GrayStep, Step};
use super::tables;
use crate::etcd::{Commit, Key, Scope, Snapshot, SpaceView, Store, Transaction};
use crate::failover::{Verdict, World, judge};
use crate::gateway::coordinator::{Seen, world};
use crate::model::{
    Asked, Change, DecidedBy, Drain, Kind, Move, MoveId, Moves, Revision, SeatChange, SlotSet,
    SourceName, SpaceId, Stage, UnitId, Word, next_move,
};
use crate::routing::Table;
use crate::rules::PINS_MAX;
use anstream::println;
use print::Shown;
use std::process::ExitCode;
use std::time::Duration;

/// How often `--watch` looks again.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// Moves that are over and kept, for whoever asks what became of them.
const KEPT: usize = 50;

/// A transaction has room for few keys; what is too much goes with the next moves.
const FORGOTTEN_AT_ONCE: usize = 8;

/// Longest deadline: a fence that stands for longer is no pause any more.
const DEADLINE_MAX: i64 = 24 * 3_600;

/// Give slots, a key or what a source's rules lead to other owners, under traffic.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say what a move would do, and whether it could be; change nothing.
    Plan(What),
    /// Ask for a move. The coordinator carries it out; `setgate move status --watch` follows it.
    Start(Start),
    /// Say how far a move is: the newest, or the one of that number.
    Status(Status),
    /// Have a move undone that isn't placed yet.
    Undo(SayArgs),
    /// Have a move wait no longer for gateways without their lease: say that they don't run.
    Force(SayArgs),
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
struct What {
    /// Slots, for example 2000-2999 or 7,100-199.
    #[arg(long, value_name = "SLOTS", group = "what")]
    slots: Option<SlotSet>,
    /// All slots of this unit.
    #[arg(long, value_name = "UNIT", group = "what")]
    unit: Option<UnitId>,
    /// This key alone, by a pin; back to the home of its slot, the pin goes.
    #[arg(long, value_name = "KEY", group = "what")]
    pin: Option<String>,
    /// The change of this source's rules that lies in etcd and isn't in force, because its move was undone.
    #[arg(long, value_name = "SOURCE", group = "what", conflicts_with = "to")]
    source: Option<SourceName>,
    /// So many percent of this rule's keys, to the unit of its gray share: the number in its document becomes this one.
    #[arg(
        long,
        value_name = "RULE=PERCENT",
        group = "what",
        conflicts_with = "to"
    )]
    gray: Option<GrayStep>,
    /// Their new home.
    #[arg(long, value_name = "UNIT", required_unless_present_any = ["source", "gray"])]
    to: Option<UnitId>,
    /// A stage that takes longer, in seconds, undoes the move.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=DEADLINE_MAX))]
    deadline: u32,
    /// What the fence waits for: parcels under way, or also applications that consume what was delivered (15 s of empty queues).
    #[arg(long, value_enum, default_value_t = DrainArg::Parcels, conflicts_with_all = ["source", "gray"])]
    drain: DrainArg,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What a fence waits for.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum DrainArg {
    /// No parcel is under way
    Parcels,
    /// Nothing is left in the queues of the old unit either
    Consumed,
}

impl From<DrainArg> for Drain {
    fn from(arg: DrainArg) -> Self {
        match arg {
            DrainArg::Parcels => Self::Parcels,
            DrainArg::Consumed => Self::Consumed,
        }
    }
}

#[derive(Debug, clap::Args)]
struct Start {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    asks: Asks,
}

/// Who asks, and why.
#[derive(Debug, clap::Args)]
pub(super) struct Asks {
    /// Why, for the history.
    #[arg(short = 'm', long = "message", value_name = "WHY")]
    why: String,
    /// Who, for the history.
    #[arg(long, env = "USER", hide = true)]
    who: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Status {
    /// The move's number.
    id: Option<u32>,
    /// Follow it until it is over: 0 when it is done, 1 when it is undone.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
struct SayArgs {
    /// The move's number.
    id: u32,
    #[command(flatten)]
    asks: Asks,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Args {
    pub(super) fn output(&self) -> Format {
        match &self.command {
            Command::Plan(what) => what.output,
            Command::Start(start) => start.what.output,
            Command::Status(status) => status.output,
            Command::Undo(say) | Command::Force(say) => say.output,
        }
    }
}

impl Asks {
    pub(super) fn checked(&self) -> Result<(String, String), Failure> {
        let why = self.why.trim();
        if why.is_empty() {
            let text = "-m WHY: say why, for whoever reads the history";
            return Err(Failure::Usage(text.to_owned()));
        }
        Ok((super::rules::who(self.who.as_deref()), why.to_owned()))
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    match &args.command {
        Command::Plan(what) => {
            if let Some(step) = &what.gray {
                return Ok(gray(what, step, None));
            }
        }
        Command::Start(start) => {
            if let Some(step) = &start.what.gray {
                let (_, why) = start.asks.checked()?;
                return Ok(gray(&start.what, step, Some((&start.asks, &why))));
            }
        }
        Command::Status(_) | Command::Undo(_) | Command::Force(_) => {}
    }
    block_on(async {
        match &args.command {
            Command::Plan(what) => Box::pin(plan(what)).await,
            Command::Start(start) => Box::pin(ask_for(start)).await,
            Command::Status(status) => Box::pin(show(status)).await,
            Command::Undo(args) => Box::pin(say(args, Say::Undo)).await,
            Command::Force(args) => Box::pin(say(args, Say::Force)).await,
        }
    })
}

/// A step of a gray share: asked for by somebody, or only looked at.
fn gray(what: &What, step: &GrayStep, asked: Option<(&Asks, &str)>) -> ExitCode {
    let step = Step {
        to: step,
        etcd: &what.etcd,
        why: asked.map_or("", |(_, why)| why),
        who: asked.and_then(|(asks, _)| asks.who.as_deref()),
        dry_run: asked.is_none(),
        deadline_seconds: what.deadline,
    };
    super::rules::gray(&step, what.output)
}

/// A space as it is, and what moves are judged by.
struct Space {
    name: SpaceId,
    table: Table,
    store: Store,
    snapshot: Snapshot,
    world: World,
    moves: Moves,
}

impl Space {
    async fn read(etcd: &EtcdArgs) -> Result<Self, Failure> {
        let (etcd, space) = etcd.resolve()?;
        let store = Store::connect(&etcd, &space).await?;
        Self::again(store, &space).await
    }

    async fn again(store: Store, space: &SpaceId) -> Result<Self, Failure> {
        let table = tables::of_etcd(&store, space).await?;
        let snapshot = store.read(Scope::Ownership).await?;
        let view = SpaceView::of(&snapshot);
        let Some(world) = world(&view, &table, &mut Seen::nothing()) else {
            return Err(Failure::Refused(format!(
                "the keys `placement` and `seats` of space {space} can't be read; put back what they were"
            )));
        };
        if let Some(key) = view.unread_moves().first() {
            return Err(Failure::Refused(format!(
                "the key {key} of space {space} is no move; put back what it was, or delete it"
            )));
        }
        let moves = view.moves();
        Ok(Self {
            name: space.clone(),
            table,
            store,
            snapshot,
            world,
            moves,
        })
    }

    fn shown(&self, id: MoveId) -> Option<Shown> {
        let one = self.moves.get(&id)?;
        let view = SpaceView::of(&self.snapshot);
        let written = view.move_revision(id).unwrap_or_default();
        Some(Shown::of(id, one, &self.moves, written, &self.world))
    }

    /// The moves that are asked for, numbered on from the last one; a refusal where one of them couldn't be.
    fn asked(&self, what: &What, who: &str, why: &str) -> Result<Vec<(MoveId, Move)>, Failure> {
        let by = Asked {
            who: who.to_owned(),
            why: why.to_owned(),
            at: jiff::Timestamp::now().to_string(),
        };
        let mut all = self.moves.clone();
        let mut asked = Vec::new();
        for (change, number) in self.changes(what)?.into_iter().zip(next_move(&all).0..) {
            let by = by.clone();
            let one = Move {
                drain: what.drain.into(),
                ..Move::asked(change, DecidedBy::Person, by, what.deadline)
            };
            all.insert(MoveId(number), one.clone());
            asked.push((MoveId(number), one));
        }
        for (id, _) in &asked {
            let verdict = judge(*id, &all, Revision::default(), Duration::ZERO, &self.world);
            if let Verdict::Undo(cause) = verdict {
                return Err(refused(format!("{cause}; nothing was changed")));
            }
        }
        Ok(asked)
    }

    /// One change for each home of what is to move.
    fn changes(&self, what: &What) -> Result<Vec<Change>, Failure> {
        if let Some(source) = &what.source {
            let wish = self.world.wish.as_ref();
            let wish = wish.filter(|wish| wish.sources.contains(source));
            let wish = wish.ok_or_else(|| {
                refused(format!(
                    "no change of owners of source {source} waits in etcd: put one there with `setgate rules apply`"
                ))
            })?;
            return Ok(vec![Change::Rules(wish.clone())]);
        }
        // The command line has it, unless it has a source.
        let Some(to) = &what.to else {
            return Ok(Vec::new());
        };
        let (parts, key) = match (&what.slots, &what.unit, &what.pin) {
            (Some(slots), _, _) => (self.by_home(slots)?, None),
            (None, Some(unit), _) => {
                let owned = self.world.units.get(unit);
                let owned = owned.ok_or_else(|| refused(format!("there is no unit {unit}")))?;
                (vec![(unit.clone(), owned.slots.clone())], None)
            }
            (None, None, Some(key)) => (vec![self.home_of_key(key)?], Some(key.clone())),
            (None, None, None) => (Vec::new(), None),
        };
        let changes = parts.into_iter().map(|(from, slots)| {
            Change::Seats(SeatChange {
                kind: Kind::Planned,
                slots,
                from,
                to: to.clone(),
                key: key.clone(),
            })
        });
        Ok(changes.collect())
    }

    /// The home of a key, and the slots that it lies in.
    fn home_of_key(&self, key: &str) -> Result<(UnitId, SlotSet), Failure> {
        let slots = self.table.slots_of_key(key);
        if let Some(unit) = self.world.pins.get(key) {
            return Ok((unit.clone(), slots));
        }
        if key.is_empty() || self.world.pins.len() >= PINS_MAX {
            return Err(refused(format!(
                "a pin is for a key that isn't empty, and a space has {PINS_MAX} of them at most"
            )));
        }
        let mut homes = self.by_home(&slots)?;
        match (homes.pop(), homes.as_slice()) {
            (Some(home), []) => Ok(home),
            (None, _) => Err(refused(format!("no source maps key {key:?} to a slot"))),
            (Some(_), _) => Err(refused(format!(
                "sources map key {key:?} to slots of several units ({slots}): it has no one home to move from"
            ))),
        }
    }

    fn by_home(&self, slots: &SlotSet) -> Result<Vec<(UnitId, SlotSet)>, Failure> {
        let homes = self.world.units.iter();
        let parts: Vec<_> = homes
            .map(|(unit, view)| (unit.clone(), view.slots.and(slots)))
            .filter(|(_, part)| !part.is_empty())
            .collect();
        let found = parts
            .iter()
            .fold(SlotSet::empty(), |all, (_, part)| all.or(part));
        let beyond = slots.without(&found);
        if beyond.is_empty() {
            Ok(parts)
        } else {
            Err(refused(format!("the space has no slots {beyond}")))
        }
    }
}

fn refused(text: String) -> Failure {
    Failure::Refused(text)
}

async fn plan(what: &What) -> Result<ExitCode, Failure> {
    let space = Space::read(&what.etcd).await?;
    let asked = space.asked(what, "", "")?;
    let shown: Vec<Shown> = asked
        .iter()
        .map(|(id, one)| Shown::of(*id, one, &space.moves, Revision::default(), &space.world))
        .collect();
    match what.output {
        Format::Text => print::plan(&asked, &space.world, what.deadline),
        Format::Json => println!("{}", print::json(&shown)),
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask_for(start: &Start) -> Result<ExitCode, Failure> {
    let what = &start.what;
    let (who, why) = start.asks.checked()?;
    let space = Space::read(&what.etcd).await?;
    let asked = space.asked(what, &who, &why)?;
    commit(&space, &asked).await?;
    let all = asked.iter().cloned().collect();
    let shown: Vec<Shown> = asked
        .iter()
        .map(|(id, one)| Shown::of(*id, one, &all, Revision::default(), &space.world))
        .collect();
    match what.output {
        Format::Text => {
            for (id, one) in &asked {
                println!("asked for move {id}: {}", one.change);
            }
            println!("follow it with `setgate move status --watch`");
        }
        Format::Json => println!("{}", print::json(&shown)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes what is asked for, unless something has changed meanwhile; the oldest moves that are over are forgotten.
async fn commit(space: &Space, asked: &[(MoveId, Move)]) -> Result<(), Failure> {
    let mut transaction = Transaction::new()
        .no_newer_moves(space.snapshot.revision)
        .unchanged(&Key::Placement, &space.snapshot)
        .unchanged(&Key::Seats, &space.snapshot);
    for (id, one) in asked {
        let text = serde_json::to_vec(one).unwrap_or_default();
        let key = Key::Move(*id);
        transaction = transaction.absent(&key).put(&key, text);
    }
    let over = space.moves.iter().filter(|(_, one)| one.stage.is_over());
    let surplus = over.clone().count().saturating_sub(KEPT);
    for (id, _) in over.take(surplus.min(FORGOTTEN_AT_ONCE)) {
        transaction = transaction.delete(&Key::Move(*id));
    }
    if space.store.commit(&transaction).await? == Commit::Conflict {
        return Err(refused(
            "moves, placement or seats have changed meanwhile; nothing was changed: look again with `setgate move status`, then ask again"
                .to_owned(),
        ));
    }
    Ok(())
}

async fn show(status: &Status) -> Result<ExitCode, Failure> {
    let (etcd, name) = status.etcd.resolve()?;
    let store = Store::connect(&etcd, &name).await?;
    let mut said = None;
    loop {
        let space = Space::again(store.clone(), &name).await?;
        let newest = space.moves.keys().next_back().copied();
        let Some(id) = status.id.map(MoveId).or(newest) else {
            match status.output {
                Format::Text => println!("there has been no move in {name}"),
                Format::Json => println!("{}", print::json(&[])),
            }
            return Ok(ExitCode::SUCCESS);
        };
        let Some(shown) = space.shown(id) else {
            return Err(refused(format!("there is no move {id} in {name}")));
        };
        let over = shown.stage.is_over();
        let line = shown.to_string();
        if said.as_ref() != Some(&line) && status.output == Format::Text {
            println!("{line}");
            said = Some(line);
        }
        if over || !status.watch {
            if status.output == Format::Json {
                let others = space.moves.keys().filter(|other| **other != id);
                let others = others.rev().filter_map(|other| space.shown(*other));
                let shown: Vec<Shown> = std::iter::once(shown.clone()).chain(others).collect();
                println!("{}", print::json(&shown));
            }
            let undone = status.watch && shown.stage == Stage::Undone;
            return Ok(ExitCode::from(u8::from(undone)));
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// What is said of a move that goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Say {
    Undo,
    Force,
}

async fn say(args: &SayArgs, what: Say) -> Result<ExitCode, Failure> {
    let (who, why) = args.asks.checked()?;
    let space = Space::read(&args.etcd).await?;
    let id = MoveId(args.id);
    let Some(one) = space.moves.get(&id) else {
        return Err(refused(format!("there is no move {id}")));
    };
    if !one.stage.can_be_undone() {
        let how = match (&one.change, one.stage) {
            (_, Stage::Undone) => "it is undone already".to_owned(),
            (
                Change::Seats(SeatChange {
                    slots,
                    from,
                    key: None,
                    ..
                }),
                _,
            ) => format!(
                "its slots have their new home: move them back with `setgate move start --slots {slots} --to {from}`"
            ),
            (
                Change::Seats(SeatChange {
                    from,
                    key: Some(key),
                    ..
                }),
                _,
            ) => format!(
                "its key has its new home: move it back with `setgate move start --pin {key} --to {from}`"
            ),
            (Change::Rules(_), _) => {
                "its rules are in force: take them back with `setgate rules rollback`".to_owned()
            }
        };
        return Err(refused(format!("move {id} is {}: {how}", one.stage)));
    }
    let word = Some(Word { who, why });
    let mut wish = one.clone();
    let asked = match what {
        Say::Undo => {
            wish.undo = word;
            "to be undone"
        }
        Say::Force => {
            wish.force = word;
            "to wait no longer for gateways without their lease: one of them that runs after all may deliver what moves, too"
        }
    };
    let key = Key::Move(id);
    let transaction = Transaction::new()
        .unchanged(&key, &space.snapshot)
        .put(&key, serde_json::to_vec(&wish).unwrap_or_default());
    if space.store.commit(&transaction).await? == Commit::Conflict {
        return Err(refused(format!(
            "move {id} has gone on meanwhile; nothing was changed: look again with `setgate move status {id}`"
        )));
    }
    match args.output {
        Format::Text => println!("asked for move {id} {asked}"),
        Format::Json => {
            let moves = [(id, wish.clone())].into();
            let shown = Shown::of(id, &wish, &moves, Revision::default(), &space.world);
            println!("{}", print::json(&[shown]));
        }
    }
    Ok(ExitCode::SUCCESS)
}
