//! What is broken in a chaos run, and in which order.
//!
//! Owns the kinds of faults and the deck that they are dealt from. Promises that the same seed and fabric make the same
//! faults in the same order, however long each of them takes, and that each kind comes once before any comes again. Pure:
//! breaks nothing itself.

use crate::lab::{Place, Ways};
use crate::model::UnitId;
use serde::Serialize;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Down for so long after a crash: mostly back before three heartbeats (15 s) are over.
const DOWN_MS: RangeInclusive<u64> = 0..=3_000;
/// Frozen, or cut off, for so long: some within two heartbeats, when connections survive, some beyond three, when they
/// don't.
const AWAY_MS: RangeInclusive<u64> = 3_000..=18_000;
/// An alarm for so long: a broker that blocks publishers answers heartbeats, so nothing else changes with time.
const ALARM_MS: RangeInclusive<u64> = 3_000..=8_000;
/// A failpoint strikes at this parcel: within seconds at some hundred parcels a second, and now and then among the first.
const PARCEL: RangeInclusive<u64> = 1..=800;

/// A kind of fault, as counted in the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum FaultKind {
    /// SIGKILL of a gateway.
    GatewayKilled,
    /// SIGSTOP and SIGCONT of a gateway.
    GatewayFrozen,
    /// SIGTERM of a gateway, and its start.
    GatewayRestarted,
    /// SIGKILL of a broker.
    BrokerKilled,
    /// SIGSTOP and SIGCONT of a broker.
    BrokerFrozen,
    /// SIGTERM of a broker, and its start.
    BrokerRestarted,
    /// SIGKILL of an etcd member.
    EtcdKilled,
    /// SIGSTOP and SIGCONT of an etcd member.
    EtcdFrozen,
    /// SIGTERM of an etcd member, and its start.
    EtcdRestarted,
    /// No byte arrives between two units.
    LinkCut,
    /// No byte arrives from one unit at another; those in the other direction do.
    LinkCutOneWay,
    /// No byte arrives between a unit and etcd.
    EtcdCut,
    /// No byte arrives from a unit at etcd; answers would.
    EtcdCutOneWay,
    /// A broker blocks publishers: too little memory. A full disk has the same effect by the same means.
    MemoryAlarm,
    /// A broker closes every connection.
    ConnectionsClosed,
    /// A gateway dies between a broker's confirm and its own journal.
    FailpointConfirmed,
    /// A gateway dies between its journal and its answer.
    FailpointJournaled,
}

impl FaultKind {
    /// All of them.
    pub(super) const ALL: [Self; 17] = [
        Self::GatewayKilled,
        Self::GatewayFrozen,
        Self::GatewayRestarted,
        Self::BrokerKilled,
        Self::BrokerFrozen,
        Self::BrokerRestarted,
        Self::EtcdKilled,
        Self::EtcdFrozen,
        Self::EtcdRestarted,
        Self::LinkCut,
        Self::LinkCutOneWay,
        Self::EtcdCut,
        Self::EtcdCutOneWay,
        Self::MemoryAlarm,
        Self::ConnectionsClosed,
        Self::FailpointConfirmed,
        Self::FailpointJournaled,
    ];

    /// Whether healing takes half a minute: a broker's start, or a frozen one's connections. They are dealt between the
    /// others, so that each few minutes see a mixture.
    fn is_slow(self) -> bool {
        match self {
            Self::BrokerKilled
            | Self::BrokerFrozen
            | Self::BrokerRestarted
            | Self::GatewayFrozen
            | Self::FailpointConfirmed
            | Self::FailpointJournaled => true,
            Self::GatewayKilled
            | Self::GatewayRestarted
            | Self::EtcdKilled
            | Self::EtcdFrozen
            | Self::EtcdRestarted
            | Self::LinkCut
            | Self::LinkCutOneWay
            | Self::EtcdCut
            | Self::EtcdCutOneWay
            | Self::MemoryAlarm
            | Self::ConnectionsClosed => false,
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = clap::ValueEnum::to_possible_value(self);
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// What a gateway does for its unit when its turn comes: who that is, is seen only then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// It publishes what comes for its unit.
    Receiving,
    /// It has its unit's lane.
    Sending,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Receiving => "receiving",
            Self::Sending => "sending",
        })
    }
}

/// Whose process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Victim {
    /// The gateway of a unit that has this role now.
    Gateway(UnitId, Role),
    /// A unit's broker.
    Broker(UnitId),
    /// An etcd member, from 1.
    Etcd(usize),
}

/// What a process suffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Harm {
    /// SIGKILL, and down for so long.
    Kill(Duration),
    /// SIGSTOP, and SIGCONT so much later.
    Freeze(Duration),
    /// SIGTERM, and started at once.
    Restart,
}

/// Where a gateway kills itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seam {
    /// Between a broker's confirm and the journal.
    Confirmed,
    /// Between the journal and the answer.
    Journaled,
}

impl Seam {
    /// As a gateway's environment says it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Journaled => "journaled",
        }
    }
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Of a process.
    Process(Victim, Harm),
    /// Of the wires between two places, for so long.
    Cut(Place, Place, Ways, Duration),
    /// A broker's alarm, for so long.
    Alarm(UnitId, Duration),
    /// A broker closes every connection.
    Close(UnitId),
    /// A gateway kills itself at its n-th parcel.
    Failpoint(UnitId, Role, Seam, u64),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |time: &Duration| format!("{:.1} s", time.as_secs_f64());
        match self {
            Self::Process(victim, harm) => {
                match victim {
                    Victim::Gateway(unit, role) => write!(f, "the {role} gateway of {unit}")?,
                    Victim::Broker(unit) => write!(f, "broker/{unit}")?,
                    Victim::Etcd(number) => write!(f, "etcd/{number}")?,
                }
                match harm {
                    Harm::Kill(down) => write!(f, ", down for {}", seconds(down)),
                    Harm::Freeze(away) => write!(f, ", frozen for {}", seconds(away)),
                    Harm::Restart => f.write_str(", by SIGTERM"),
                }
            }
            Self::Cut(a, b, ways, away) => {
                let arrow = match ways {
                    Ways::Both => "<->",
                    Ways::OneWay => "->",
                };
                write!(f, "{a} {arrow} {b}, for {}", seconds(away))
            }
            Self::Alarm(unit, time) => write!(f, "broker/{unit}, for {}", seconds(time)),
            Self::Close(unit) => write!(f, "broker/{unit}"),
            Self::Failpoint(unit, role, seam, parcel) => {
                write!(f, "the {role} gateway of {unit}, {}:{parcel}", seam.word())
            }
        }
    }
}

/// What there is to break.
#[derive(Debug, Clone)]
pub(super) struct World {
    /// The units, each with a broker and gateways.
    pub(super) units: Vec<UnitId>,
    /// How many etcd members.
    pub(super) etcd: usize,
}

/// Faults without end.
#[derive(Debug)]
pub(super) struct Deck {
    random: fastrand::Rng,
    world: World,
    kinds: Vec<FaultKind>,
    dealt: Vec<FaultKind>,
}

impl Deck {
    /// Of these kinds. Without any kind, or without units or members, there are no faults.
    pub(super) fn new(seed: u64, world: World, kinds: Vec<FaultKind>) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            world,
            kinds,
            dealt: Vec::new(),
        }
    }

    /// All kinds in an order of chance, the slow ones spread among the others. The last is dealt first.
    fn shuffle(&mut self) {
        let (mut slow, mut quick): (Vec<_>, Vec<_>) =
            self.kinds.iter().copied().partition(|kind| kind.is_slow());
        self.random.shuffle(&mut slow);
        self.random.shuffle(&mut quick);
        let (some, all) = (slow.len(), slow.len() + quick.len());
        // The i-th of them is slow where i·slow/all steps: as even as whole numbers go.
        self.dealt = (0..all)
            .filter_map(|at| {
                let steps = (at + 1) * some / all > at * some / all;
                let from = if steps { &mut slow } else { &mut quick };
                from.pop()
            })
            .collect();
        self.dealt.reverse();
    }

    fn between(&mut self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.random.u64(range))
    }

    fn unit(&mut self) -> Option<UnitId> {
        self.random.choice(&self.world.units).cloned()
    }

    fn two_units(&mut self) -> Option<(Place, Place)> {
        let a = self.unit()?;
        let others: Vec<UnitId> = self
            .world
            .units
            .iter()
            .filter(|b| **b != a)
            .cloned()
            .collect();
        let b = self.random.choice(&others).cloned()?;
        Some((Place::Unit(a), Place::Unit(b)))
    }

    fn role(&mut self) -> Role {
        if self.random.bool() {
            Role::Receiving
        } else {
            Role::Sending
        }
    }

    fn gateway(&mut self) -> Option<Victim> {
        Some(Victim::Gateway(self.unit()?, self.role()))
    }

    fn member(&mut self) -> Option<Victim> {
        (self.world.etcd > 0).then(|| Victim::Etcd(self.random.usize(1..=self.world.etcd)))
    }

    fn make(&mut self, kind: FaultKind) -> Option<Fault> {
        let fault = match kind {
            FaultKind::GatewayKilled => {
                Fault::Process(self.gateway()?, Harm::Kill(self.between(DOWN_MS)))
            }
            FaultKind::GatewayFrozen => {
                Fault::Process(self.gateway()?, Harm::Freeze(self.between(AWAY_MS)))
            }
            FaultKind::GatewayRestarted => Fault::Process(self.gateway()?, Harm::Restart),
            FaultKind::BrokerKilled => Fault::Process(
                Victim::Broker(self.unit()?),
                Harm::Kill(self.between(DOWN_MS)),
            ),
            FaultKind::BrokerFrozen => Fault::Process(
                Victim::Broker(self.unit()?),
                Harm::Freeze(self.between(AWAY_MS)),
            ),
            FaultKind::BrokerRestarted => {
                Fault::Process(Victim::Broker(self.unit()?), Harm::Restart)
            }
            FaultKind::EtcdKilled => {
                Fault::Process(self.member()?, Harm::Kill(self.between(DOWN_MS)))
            }
            FaultKind::EtcdFrozen => {
                Fault::Process(self.member()?, Harm::Freeze(self.between(AWAY_MS)))
            }
            FaultKind::EtcdRestarted => Fault::Process(self.member()?, Harm::Restart),
            FaultKind::LinkCut => {
                let (a, b) = self.two_units()?;
                Fault::Cut(a, b, Ways::Both, self.between(AWAY_MS))
            }
            FaultKind::LinkCutOneWay => {
                let (a, b) = self.two_units()?;
                Fault::Cut(a, b, Ways::OneWay, self.between(AWAY_MS))
            }
            FaultKind::EtcdCut => {
                let unit = Place::Unit(self.unit()?);
                Fault::Cut(unit, Place::Etcd, Ways::Both, self.between(AWAY_MS))
            }
            FaultKind::EtcdCutOneWay => {
                let unit = Place::Unit(self.unit()?);
                Fault::Cut(unit, Place::Etcd, Ways::OneWay, self.between(AWAY_MS))
            }
            FaultKind::MemoryAlarm => Fault::Alarm(self.unit()?, self.between(ALARM_MS)),
            FaultKind::ConnectionsClosed => Fault::Close(self.unit()?),
            FaultKind::FailpointConfirmed => self.failpoint(Seam::Confirmed)?,
            FaultKind::FailpointJournaled => self.failpoint(Seam::Journaled)?,
        };
        Some(fault)
    }

    fn failpoint(&mut self, seam: Seam) -> Option<Fault> {
        let (unit, role) = (self.unit()?, self.role());
        Some(Fault::Failpoint(unit, role, seam, self.random.u64(PARCEL)))
    }
}

impl Iterator for Deck {
    type Item = (FaultKind, Fault);

    fn next(&mut self) -> Option<Self::Item> {
        if self.dealt.is_empty() {
            self.shuffle();
        }
        let kind = self.dealt.pop()?;
        Some((kind, self.make(kind)?))
    }
}

/// So many kills of the gateways of one role, so many of them at the seams, each seam in turn, and evenly among the
/// others: for `setgate-lab kills`.
pub(super) fn kills(
    seed: u64,
    world: &World,
    role: Role,
    count: u32,
    at_seams: u32,
) -> Vec<(FaultKind, Fault)> {
    let mut deck = Deck::new(seed, world.clone(), Vec::new());
    let mut seams = [Seam::Confirmed, Seam::Journaled].into_iter().cycle();
    let at_seams = u64::from(at_seams.min(count));
    let total = u64::from(count.max(1));
    (0..u64::from(count))
        .filter_map(|at| {
            let unit = deck.unit()?;
            if (at + 1) * at_seams / total == at * at_seams / total {
                let down = Harm::Kill(deck.between(DOWN_MS));
                let fault = Fault::Process(Victim::Gateway(unit, role), down);
                return Some((FaultKind::GatewayKilled, fault));
            }
            let seam = seams.next()?;
            let kind = match seam {
                Seam::Confirmed => FaultKind::FailpointConfirmed,
                Seam::Journaled => FaultKind::FailpointJournaled,
            };
            let parcel = deck.random.u64(PARCEL);
            Some((kind, Fault::Failpoint(unit, role, seam, parcel)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn world() -> World {
        World {
            units: ["sh-1", "sh-2", "bj-1"]
                .map(|name| UnitId::parse(name).unwrap())
                .to_vec(),
            etcd: 3,
        }
    }

    fn deal(seed: u64, count: usize) -> Vec<(FaultKind, Fault)> {
        Deck::new(seed, world(), FaultKind::ALL.to_vec())
            .take(count)
            .collect()
    }

    #[test]
    fn the_same_seed_deals_the_same_faults_and_another_one_others() {
        assert_eq!(deal(7, 40), deal(7, 40));
        assert_ne!(deal(7, 40), deal(8, 40));
    }

    #[test]
    fn each_kind_comes_once_before_any_comes_again_and_the_slow_ones_are_spread() {
        for seed in 0..200 {
            let kinds: Vec<FaultKind> = deal(seed, 17).into_iter().map(|(kind, _)| kind).collect();
            let distinct: BTreeSet<FaultKind> = kinds.iter().copied().collect();
            assert_eq!(
                distinct.len(),
                FaultKind::ALL.len(),
                "seed {seed}: {kinds:?}"
            );
            let slow = kinds[..10].iter().filter(|kind| kind.is_slow()).count();
            assert!((3..=4).contains(&slow), "seed {seed}: {kinds:?}");
        }
    }

    #[test]
    fn a_fabric_of_one_unit_has_no_links_to_cut_and_ends_the_deck() {
        let mut one = world();
        one.units.truncate(1);
        let mut deck = Deck::new(1, one, vec![FaultKind::LinkCut]);
        assert_eq!(deck.next(), None);
    }

    #[test]
    fn kills_are_as_many_as_asked_and_the_seams_spread_among_them() {
        let kills = kills(3, &world(), Role::Receiving, 100, 30);
        assert_eq!(kills.len(), 100);
        let of = |kind| kills.iter().filter(|(found, _)| *found == kind).count();
        assert_eq!(of(FaultKind::GatewayKilled), 70);
        assert_eq!(of(FaultKind::FailpointConfirmed), 15);
        assert_eq!(of(FaultKind::FailpointJournaled), 15);
        let first_ten = kills[..10].iter();
        let seams = first_ten.filter(|(kind, _)| *kind != FaultKind::GatewayKilled);
        assert_eq!(seams.count(), 3);
    }
}
