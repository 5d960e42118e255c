//! The decision: one message, one table, one outcome.
//!
//! Owns the order of the steps: trail, rule, key, pin, gray, range, seat, targets. The gateway and `explain` run the same code;
//! they differ in whether the steps are kept. Pure, and total: every message has an outcome.

use super::decision::{Decision, Outcome, Target};
use super::key::{self, Candidate};
use super::source::{CompiledRoute, CompiledRule, Reach, Source};
use super::steps::{Step, StepName, Steps};
use super::table::{Table, UnitIndex};
use crate::model::{Address, Message, Reason, Slot, UnitId, Why};
use crate::rules::KeyAbsent;
use bytes::Bytes;

impl Table {
    /// Where a message goes that was taken from `source` in unit `here` after it had visited the units of its `trail`.
    pub fn route<S: Steps>(
        &self,
        source: &Source,
        here: &UnitId,
        trail: &[UnitId],
        message: &Message,
        steps: &mut S,
    ) -> Decision {
        steps.note(|| trail_step(trail));
        let Some(rule) = match_rule(source, message, steps) else {
            return Decision::without_key(None, Outcome::Park(Reason::NoRule));
        };
        if S::KEPT && !rule.unenforced.is_empty() {
            steps.note(|| {
                let detail = format!("{} (not enforced by this version)", rule.unenforced);
                Step::new(StepName::NotYet, "ignored", detail)
            });
        }
        if source.fenced {
            steps.note(|| {
                let detail = "its rules are being changed: it waits in the queue of its lane";
                Step::new(StepName::Fence, "fenced", detail)
            });
        }
        let name = Some(rule.name.clone());
        let decided = match &rule.route {
            CompiledRoute::Park => {
                return Decision::without_key(name, Outcome::Park(Reason::Rule));
            }
            CompiledRoute::Drop => {
                return Decision::without_key(name, Outcome::Drop(Reason::Rule));
            }
            route => route,
        };
        let found = key::find(&source.key, self.slots(), message, |from, candidate| {
            steps.note(|| key_step(from, candidate));
        });
        let (key, slot, absent) = match found {
            Candidate::Key(key, slot) => (Some(key), Some(slot), Reason::KeyAbsent),
            Candidate::Absent => (None, None, Reason::KeyAbsent),
            Candidate::Malformed(_) => (None, None, Reason::KeyMalformed),
        };
        let mut decision = Decision {
            rule: name,
            key,
            slot,
            home: None,
            seat: None,
            outcome: Outcome::Deliver(Vec::new()),
        };
        decision.outcome = match decided {
            CompiledRoute::Owner => match decision.key.clone().zip(slot) {
                Some((key, slot)) => self.to_owner(&key, slot, rule, message, &mut decision, steps),
                None => self.without_key(absent, rule, here, message, &mut decision, steps),
            },
            CompiledRoute::Center => self.to_center(rule, message, &mut decision, steps),
            CompiledRoute::Shared(reach) => {
                self.to_everybody(*reach, rule, here, trail, message, steps)
            }
            CompiledRoute::Local => one(here, Why::Local, rule, message),
            CompiledRoute::Units(units) => Outcome::Deliver(
                units
                    .iter()
                    .map(|unit| target(unit, Why::Units, rule, message))
                    .collect(),
            ),
            CompiledRoute::Park => Outcome::Park(Reason::Rule),
            CompiledRoute::Drop => Outcome::Drop(Reason::Rule),
        };
        steps.note(|| outcome_step(&decision.outcome));
        decision
    }

    fn to_owner(
        &self,
        key: &[u8],
        slot: Slot,
        rule: &CompiledRule,
        message: &Message,
        decision: &mut Decision,
        steps: &mut impl Steps,
    ) -> Outcome {
        if self.fenced().contains(slot) {
            steps.note(|| {
                let detail =
                    format!("slot {slot} is being moved: it waits in the diversion of its seat");
                Step::new(StepName::Fence, "fenced", detail)
            });
        }
        if let Some(home) = self.pinned(key) {
            steps.note(|| {
                let unit = self.name(home);
                Step::new(StepName::Pin, unit, format!("the key is pinned to {unit}"))
            });
            let seat = self.sit(home, rule, decision, steps);
            return one(self.name(seat), Why::Pin, rule, message);
        }
        if let Some((gray, home)) = &rule.gray {
            let takes = gray.takes(key, message);
            steps.note(|| {
                let (outcome, is) = if takes {
                    ("in", "is")
                } else {
                    ("out", "isn't")
                };
                let detail = format!("it {is} in the gray share of rule {}: {gray}", rule.name);
                Step::new(StepName::Gray, outcome, detail)
            });
            if takes {
                let seat = self.sit(*home, rule, decision, steps);
                return one(self.name(seat), Why::Gray, rule, message);
            }
        }
        // A slot is taken modulo the table's own count, so it always has a home.
        let Some(home) = self.home_index(slot) else {
            return Outcome::Park(Reason::KeyMalformed);
        };
        steps.note(|| {
            Step::new(
                StepName::Range,
                self.name(home),
                format!("slot {slot} is in a range of {}", self.name(home)),
            )
        });
        let seat = self.sit(home, rule, decision, steps);
        let why = if seat == home {
            Why::Owner
        } else {
            Why::Standby
        };
        one(self.name(seat), why, rule, message)
    }

    fn to_center(
        &self,
        rule: &CompiledRule,
        message: &Message,
        decision: &mut Decision,
        steps: &mut impl Steps,
    ) -> Outcome {
        let seat = self.sit(self.center_index(), rule, decision, steps);
        one(self.name(seat), Why::Center, rule, message)
    }

    /// The seat of a home, noted in the decision; by a rule that waits for an owner, that owner.
    fn sit(
        &self,
        home: UnitIndex,
        rule: &CompiledRule,
        decision: &mut Decision,
        steps: &mut impl Steps,
    ) -> UnitIndex {
        let stand_in = self.seat_index(home);
        let seat = if rule.holds { home } else { stand_in };
        steps.note(|| {
            let (stands, name) = (self.name(stand_in), self.name(home));
            let detail = if stand_in == home {
                format!("{name} serves what it owns")
            } else if rule.holds {
                format!(
                    "{stands} stands in for {name}; by owner_down of rule {}, it waits for {name}",
                    rule.name
                )
            } else {
                format!("{stands} stands in for {name}")
            };
            Step::new(StepName::Seat, self.name(seat), detail)
        });
        decision.home = Some(self.name(home).clone());
        decision.seat = Some(self.name(seat).clone());
        seat
    }

    fn without_key(
        &self,
        reason: Reason,
        rule: &CompiledRule,
        here: &UnitId,
        message: &Message,
        decision: &mut Decision,
        steps: &mut impl Steps,
    ) -> Outcome {
        steps.note(|| {
            let (outcome, detail) = match rule.key_absent {
                KeyAbsent::Park => ("park", "it is parked"),
                KeyAbsent::Center => ("center", "it goes to the center"),
                KeyAbsent::Local => ("local", "it stays here"),
            };
            Step::new(
                StepName::Policy,
                outcome,
                format!(
                    "an owner needs a key; by key_absent of rule {}, {detail}",
                    rule.name
                ),
            )
        });
        match rule.key_absent {
            KeyAbsent::Park => Outcome::Park(reason),
            KeyAbsent::Center => self.to_center(rule, message, decision, steps),
            KeyAbsent::Local => one(here, Why::Local, rule, message),
        }
    }

    fn to_everybody(
        &self,
        reach: Reach,
        rule: &CompiledRule,
        here: &UnitId,
        trail: &[UnitId],
        message: &Message,
        steps: &mut impl Steps,
    ) -> Outcome {
        let mut targets = Vec::with_capacity(self.units().len());
        for unit in self.units() {
            let skipped = if unit.name == *here && reach == Reach::Others {
                Some("it was taken here, from the exchange that it would be delivered to")
            } else if unit.name != *here && trail.contains(&unit.name) {
                Some("it has been there")
            } else if !unit.consumes {
                Some("its access allows no delivery")
            } else {
                None
            };
            match skipped {
                None => targets.push(target(&unit.name, Why::Shared, rule, message)),
                Some(why) => steps.note(|| {
                    Step::new(StepName::Target, "skipped", format!("{}: {why}", unit.name))
                }),
            }
        }
        Outcome::Deliver(targets)
    }
}

impl Decision {
    fn without_key(rule: Option<crate::model::RuleName>, outcome: Outcome) -> Self {
        Self {
            rule,
            key: None,
            slot: None,
            home: None,
            seat: None,
            outcome,
        }
    }
}

fn match_rule<'a, S: Steps>(
    source: &'a Source,
    message: &Message,
    steps: &mut S,
) -> Option<&'a CompiledRule> {
    if !S::KEPT {
        return source.index.first(&source.rules, message);
    }
    for rule in &source.rules {
        match rule.when.mismatch(message) {
            None => {
                steps.note(|| {
                    Step::new(
                        StepName::Rule,
                        "matched",
                        format!("{} (order {}): {}", rule.name, rule.order, rule.when),
                    )
                });
                return Some(rule);
            }
            Some(mismatch) => steps.note(|| {
                Step::new(
                    StepName::Rule,
                    "passed",
                    format!("{} (order {}): {mismatch}", rule.name, rule.order),
                )
            }),
        }
    }
    steps.note(|| {
        Step::new(
            StepName::Rule,
            "none",
            format!("no rule of source {} matches, so it is parked", source.name),
        )
    });
    None
}

fn one(unit: &UnitId, why: Why, rule: &CompiledRule, message: &Message) -> Outcome {
    Outcome::Deliver(vec![target(unit, why, rule, message)])
}

fn target(unit: &UnitId, why: Why, rule: &CompiledRule, message: &Message) -> Target {
    let routing_key = rule.routing_key.as_ref();
    Target {
        unit: unit.clone(),
        address: Address {
            exchange: rule.exchange.clone(),
            routing_key: routing_key.unwrap_or(&message.address.routing_key).clone(),
        },
        why,
    }
}

fn trail_step(trail: &[UnitId]) -> Step {
    if trail.is_empty() {
        return Step::new(StepName::Trail, "new", "it has visited no unit yet");
    }
    let units: Vec<_> = trail.iter().map(UnitId::as_str).collect();
    Step::new(
        StepName::Trail,
        "visited",
        format!("it has been in {}", units.join(", ")),
    )
}

fn key_step(from: &crate::rules::KeyFrom, candidate: &Candidate) -> Step {
    let (outcome, detail) = match candidate {
        Candidate::Absent => ("absent", format!("{from}: nothing there")),
        Candidate::Malformed(unfit) => ("malformed", format!("{from}: {}", unfit.as_str())),
        Candidate::Key(key, slot) => ("found", format!("{from}: {}, slot {slot}", printed(key))),
    };
    Step::new(StepName::Key, outcome, detail)
}

fn outcome_step(outcome: &Outcome) -> Step {
    match outcome {
        Outcome::Park(reason) => Step::new(StepName::Target, "park", reason.as_str()),
        Outcome::Drop(reason) => Step::new(StepName::Target, "drop", reason.as_str()),
        Outcome::Deliver(targets) if targets.is_empty() => Step::new(
            StepName::Target,
            "nobody",
            "nobody is left to deliver it to, so it is settled",
        ),
        Outcome::Deliver(targets) => {
            let units: Vec<_> = targets.iter().map(|target| target.unit.as_str()).collect();
            Step::new(
                StepName::Target,
                "deliver",
                format!(
                    "to {}, exchange {}, routing key {}",
                    units.join(", "),
                    printed(&targets[0].address.exchange),
                    printed(&targets[0].address.routing_key)
                ),
            )
        }
    }
}

/// Bytes for a person.
pub(super) fn printed(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::super::{TableInputs, Unrecorded};
    use super::*;
    use crate::model::{Moves, Revision, Seats, SourceName, SpaceId};
    use crate::rules::DocumentFile;

    const DOCUMENTS: &str = "kind: topology
space: trade
cities: {here: {}}
sites: {a: {city: here}, b: {city: here}}
units: {u1: {site: a, standby: [u2]}, u2: {site: b}}
---
kind: placement
slots: 2
ranges: [{slots: 0-1, unit: u1}]
---
kind: source
name: orders
take: {queue: orders}
deliver: {exchange: orders.local}
key: {from: [{routing_key: whole}], map: digits}
---
kind: rule
name: all
source: orders
order: 1
route: owner
";

    fn seat(documents: &str) -> (UnitId, Why) {
        let u1 = UnitId::parse("u1").unwrap();
        let table = Table::compile(TableInputs {
            files: &[DocumentFile {
                name: "all.yaml".to_owned(),
                text: documents.as_bytes().to_vec(),
            }],
            placement: None,
            seats: Seats {
                stand_ins: [(u1.clone(), UnitId::parse("u2").unwrap())].into(),
                ..Seats::default()
            },
            moves: Moves::new(),
            revision: Revision(1),
            space: &SpaceId::parse("trade").unwrap(),
        });
        let table = table.unwrap();
        let message = Message {
            address: Address {
                exchange: Bytes::new(),
                routing_key: Bytes::from_static(b"1"),
            },
            properties: crate::amqp::RawProperties::default(),
            body: Bytes::new(),
            redelivered: false,
        };
        let source = table.source(&SourceName::parse("orders").unwrap()).unwrap();
        let decision = table.route(source, &u1, &[], &message, &mut Unrecorded);
        let Outcome::Deliver(targets) = decision.outcome else {
            panic!("{:?}", decision.outcome);
        };
        (targets[0].unit.clone(), targets[0].why)
    }

    #[test]
    fn an_owner_that_is_stood_in_for_is_waited_for_where_the_rule_says_hold() {
        let unit = |name| UnitId::parse(name).unwrap();
        assert_eq!(seat(DOCUMENTS), (unit("u2"), Why::Standby));
        let hold = DOCUMENTS.replace("route: owner", "route: owner\nowner_down: hold");
        assert_eq!(seat(&hold), (unit("u1"), Why::Owner));
        let to_center = hold
            .replace("route: owner", "route: center")
            .replace("space: trade", "space: trade\ncenter: u1");
        assert_eq!(seat(&to_center), (unit("u1"), Why::Center));
    }
}
