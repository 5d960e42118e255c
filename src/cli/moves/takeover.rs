//! `setgate failover` and `failback`: a unit's seat to one that stands in for it, and back.
//!
//! A failover shows what it exposes and asks; a failback is a planned move. Promises that nothing is asked for that would be
//! refused as things are.

use super::print::{self, Shown};
use super::{Asks, Space, commit, refused};
use crate::cli::ask;
use crate::cli::block_on;
use crate::cli::failure::Failure;
use crate::cli::rules::{EtcdArgs, Format};
use crate::failover::{Isolated, Verdict, judge};
use crate::gateway::status::{SpaceStatus, UpDown, assemble};
use crate::model::{
    Asked, Change, DecidedBy, Kind, Move, MoveId, Revision, SeatChange, UnitId, next_move,
};
use anstream::println;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

/// Have another unit take over from one that is lost: shows what that exposes, and asks.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct FailoverArgs {
    /// The unit that is lost.
    unit: UnitId,
    /// Who takes over [default: the first of its standby list that is up].
    #[arg(long, value_name = "UNIT")]
    to: Option<UnitId>,
    /// Don't ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    more: More,
}

/// Give a unit its seat back, as a planned move.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct FailbackArgs {
    /// The unit that another one stands in for.
    unit: UnitId,
    #[command(flatten)]
    more: More,
}

#[derive(Debug, clap::Args)]
struct More {
    #[command(flatten)]
    asks: Asks,
    /// A stage that takes longer, in seconds, undoes it.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=super::DEADLINE_MAX))]
    deadline: u32,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl FailoverArgs {
    pub(in crate::cli) fn output(&self) -> Format {
        self.more.output
    }
}

impl FailbackArgs {
    pub(in crate::cli) fn output(&self) -> Format {
        self.more.output
    }
}

pub(in crate::cli) fn failover(args: &FailoverArgs) -> Result<ExitCode, Failure> {
    block_on(Box::pin(take_over(args)))
}

pub(in crate::cli) fn failback(args: &FailbackArgs) -> Result<ExitCode, Failure> {
    block_on(Box::pin(give_back(args)))
}

async fn take_over(args: &FailoverArgs) -> Result<ExitCode, Failure> {
    let (who, why) = args.more.asks.checked()?;
    let space = Space::read(&args.more.etcd).await?;
    let unit = &args.unit;
    let Some(lost) = space.world.units.get(unit) else {
        return Err(refused(format!("there is no unit {unit}")));
    };
    let is_up = |by: &&UnitId| space.world.units.get(*by).is_some_and(|by| by.up);
    let first = lost.standby.iter().find(is_up);
    let Some(to) = args.to.as_ref().or(first) else {
        return Err(refused(format!(
            "no unit of the standby list of {unit} is up; name one with --to"
        )));
    };
    let seat = SeatChange {
        kind: Kind::Failover,
        slots: lost.slots.clone(),
        from: unit.clone(),
        to: to.clone(),
        key: None,
    };
    let (id, one) = (
        next_move(&space.moves),
        args.more.asked(seat.clone(), who, why),
    );
    check(&space, id, &one)?;
    if !args.yes {
        let status = {
            let known = ask::gateways(&space.store).await?;
            let asked = ask::statuses(known).await;
            assemble(&space.name, UpDown::Up, &asked)
        };
        expose(&space, &seat, &status);
        if !agreed()? {
            return Err(refused("nothing was changed".to_owned()));
        }
    }
    ask_for(&space, id, one, args.more.output).await
}

async fn give_back(args: &FailbackArgs) -> Result<ExitCode, Failure> {
    let (who, why) = args.more.asks.checked()?;
    let space = Space::read(&args.more.etcd).await?;
    let unit = &args.unit;
    let (Some(home), Some(stand_in)) =
        (space.world.units.get(unit), space.world.stand_ins.get(unit))
    else {
        return Err(refused(format!("no unit stands in for {unit}")));
    };
    let seat = SeatChange {
        kind: Kind::Failback,
        slots: home.slots.clone(),
        from: stand_in.clone(),
        to: unit.clone(),
        key: None,
    };
    let (id, one) = (next_move(&space.moves), args.more.asked(seat, who, why));
    check(&space, id, &one)?;
    ask_for(&space, id, one, args.more.output).await
}

impl More {
    fn asked(&self, change: SeatChange, who: String, why: String) -> Move {
        let at = jiff::Timestamp::now().to_string();
        let by = Asked { who, why, at };
        let change = Change::Seats(change);
        Move::asked(change, DecidedBy::Person, by, self.deadline)
    }
}

fn check(space: &Space, id: MoveId, one: &Move) -> Result<(), Failure> {
    let mut all = space.moves.clone();
    all.insert(id, one.clone());
    match judge(id, &all, Revision::default(), Duration::ZERO, &space.world) {
        Verdict::Undo(cause) => Err(refused(format!("{cause}; nothing was changed"))),
        Verdict::Wait(_) | Verdict::Go(_) => Ok(()),
    }
}

async fn ask_for(
    space: &Space,
    id: MoveId,
    one: Move,
    output: Format,
) -> Result<ExitCode, Failure> {
    commit(space, &[(id, one.clone())]).await?;
    let moves = [(id, one.clone())].into();
    let shown = Shown::of(id, &one, &moves, Revision::default(), &space.world);
    match output {
        Format::Text => {
            println!("asked for: {shown}\nfollow it with `setgate move status {id} --watch`");
        }
        Format::Json => println!("{}", print::json(&[shown])),
    }
    Ok(ExitCode::SUCCESS)
}

/// What a takeover would do, and what it may cost.
fn expose(space: &Space, seat: &SeatChange, status: &SpaceStatus) {
    let SeatChange {
        slots, from, to, ..
    } = seat;
    println!(
        "{to} would take over from {from}: slots {slots} ({})",
        slots.count()
    );
    let lost = space.world.units.get(from);
    let members = space.world.members.keys().filter(|(of, _)| of == from);
    let running = members
        .clone()
        .filter(|member| space.world.reports.contains_key(*member));
    let state = if lost.is_some_and(|unit| unit.up) {
        "is up: this would be a planned move of all that it serves"
    } else {
        "is not up"
    };
    println!(
        "{from} {state}; {} of its {} gateways hold their lease in etcd",
        running.count(),
        members.count()
    );
    let links = status
        .units
        .iter()
        .flat_map(|unit| &unit.links)
        .filter(|link| link.to == *from);
    let (mut in_flight, mut diverted, mut lag_ms) = (0, 0, 0);
    for link in links {
        in_flight += link.in_flight;
        diverted += link.diverted;
        lag_ms = lag_ms.max(link.lag_ms);
    }
    println!(
        "other units have {in_flight} messages for it without an answer, which may come twice, marked, and {diverted} diverted; the oldest waits for {} s",
        lag_ms / 1_000
    );
    println!(
        "what lies in the broker of {from} stays there until it is back: what its publishers had confirmed and its gateways had not carried on"
    );
    let alone = lost.is_some_and(|unit| unit.standby.is_empty());
    if alone || space.world.isolated == Isolated::GoesOn {
        println!(
            "{from} goes on when it is cut off: make sure that it doesn't run, or its slots have two owners"
        );
    }
}

fn agreed() -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        let text = "there is no terminal to ask on: say --yes once you have seen what it exposes";
        return Err(Failure::Usage(text.to_owned()));
    }
    anstream::print!("go on? [y/N] ");
    let _ = std::io::stdout().flush();
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    let read = read.map_err(|error| refused(format!("can't read the answer: {error}")))?;
    Ok(read > 0 && matches!(line.trim(), "y" | "Y" | "yes"))
}
