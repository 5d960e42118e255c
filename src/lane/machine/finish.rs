//! Answers: what each of them settles, or leads to.

use super::super::absent::Absent;
use super::super::action::{Note, Target};
use super::super::diversion::follows_its_slot;
use super::super::outlet::{Claim, Offered, Origin, Outlet};
use super::route::{Before, Directed, parked};
use super::{Lane, Turn};
use crate::amqp::RawValue;
use crate::model::marks::X_SET_REASON;
use crate::model::{Answer, Parcel, ParcelNumber, Reason, RuleName, UnitId, Why};
use crate::routing;
use crate::rules::{AbsentThen, OwnerAbsent};

impl Lane {
    /// A target's word on one parcel.
    pub(super) fn answer(
        &mut self,
        target: &Target,
        number: ParcelNumber,
        answer: Answer,
        turn: &mut Turn<'_>,
    ) {
        let Some(outlet) = self.outlets.get_mut(target) else {
            return;
        };
        let answer = on_trial(target, outlet, &mut self.absent, number, answer, turn);
        if let Some(offered) = outlet.answer(number, &answer) {
            self.finish(target, offered, answer, turn);
        }
    }

    /// That word is final.
    fn finish(&mut self, target: &Target, offered: Offered, answer: Answer, turn: &mut Turn<'_>) {
        let Offered {
            claim: Some(claim),
            detour,
            parcel,
            taken,
            origin,
            ..
        } = offered
        else {
            // The end marker of a diversion: it counts when it comes out.
            return;
        };
        match (target, answer) {
            (Target::Unit(to), Answer::Accepted) => {
                let rule = origin.as_ref().and_then(|origin| origin.rule.as_ref());
                self.absent.ends(to, rule);
                let transit = turn.at.now.saturating_duration_since(taken);
                turn.note(Note::Delivered {
                    to: to.clone(),
                    transit,
                });
            }
            (Target::Unit(to), Answer::Duplicate) => turn.note(Note::Duplicate { to: to.clone() }),
            (Target::Unit(to), Answer::Returned) if goes_to_center(to, &parcel, origin.as_ref(), turn) => {
                self.send_to_center(&claim, parcel, origin, turn);
            }
            (Target::Unit(to), Answer::Returned) => {
                let cause = format!("nothing is bound at its address in {to}");
                self.park_undelivered(&claim, origin, Reason::Unroutable, cause, turn);
            }
            (Target::Unit(to), Answer::Refused { reason, cause }) => {
                let cause = format!("{to} refused it: {cause}");
                self.park_undelivered(&claim, origin, reason, cause, turn);
            }
            (Target::Unit(_), Answer::Moved) => self.route_anew(&claim, &parcel, origin, turn),
            (Target::Diversion(unit), Answer::Refused { reason, cause }) => {
                if let (Some(detour), Some(diversion)) = (detour, self.diversions.get_mut(unit)) {
                    diversion.is_out(detour.place);
                }
                let cause = format!("the diversion of {unit} refused it: {cause}");
                self.park_undelivered(&claim, origin, reason, cause, turn);
            }
            (Target::Park, Answer::Accepted | Answer::Duplicate) => turn.note(Note::Parked {
                reason: parked_reason(&parcel),
            }),
            (Target::Diversion(_), Answer::Accepted | Answer::Duplicate)
            // The outlet keeps what is to come later.
            | (Target::Park | Target::Diversion(_), Answer::Returned | Answer::Moved)
            | (Target::Park, Answer::Refused { .. })
            | (_, Answer::Later { .. }) => {}
        }
        if let Some(ledger) = self.ledger_of(&claim.feed) {
            ledger.answered(claim.entry);
        }
    }

    /// A receiver with a newer table gives it to another unit.
    fn route_anew(
        &mut self,
        claim: &Claim,
        parcel: &Parcel,
        origin: Option<Origin>,
        turn: &mut Turn<'_>,
    ) {
        let Some(Origin {
            admitted,
            rule,
            moves,
        }) = origin
        else {
            return;
        };
        if moves >= self.settings.limits.rounds_max {
            let cause = format!("{moves} receivers in a row said that it belongs elsewhere");
            let parked = parked(&admitted, Reason::Hops, rule);
            return self.park(claim, &parked, cause, turn);
        }
        let before = Before {
            copy_for: (!follows_its_slot(parcel.why)).then(|| parcel.to.clone()),
            sent: parcel.sent_before,
            moves: moves + 1,
        };
        self.dispatch(claim, &admitted, &before, turn);
    }

    /// Nothing is bound for it at its owner: the center has it.
    fn send_to_center(
        &mut self,
        claim: &Claim,
        parcel: Parcel,
        origin: Option<Origin>,
        turn: &mut Turn<'_>,
    ) {
        let Some(origin) = origin else {
            return;
        };
        let Parcel {
            slot,
            address,
            sent_before,
            ..
        } = parcel;
        let before = Before {
            sent: sent_before,
            moves: origin.moves,
            ..Before::NOTHING
        };
        let target = routing::Target {
            unit: turn.routing.table.center_seat().clone(),
            address,
            why: Why::Center,
        };
        let directed = Directed {
            target,
            slot,
            rule: origin.rule,
        };
        self.send(claim, &origin.admitted, directed, &before, turn);
    }

    fn park_undelivered(
        &mut self,
        claim: &Claim,
        origin: Option<Origin>,
        reason: Reason,
        cause: String,
        turn: &mut Turn<'_>,
    ) {
        if let Some(Origin { admitted, rule, .. }) = origin {
            self.park(claim, &parked(&admitted, reason, rule), cause, turn);
        }
    }
}

/// What isn't final, whatever the target calls it. There is nowhere to go from the park, and what a diversion has no place
/// for is tried again, in sight of the status page, never settled. *Moved* counts once the table here is as new.
fn on_trial(
    target: &Target,
    outlet: &Outlet,
    absent: &mut Absent,
    number: ParcelNumber,
    answer: Answer,
    turn: &Turn<'_>,
) -> Answer {
    match (target, answer) {
        (Target::Park | Target::Diversion(_), Answer::Returned | Answer::Moved) => Answer::Later {
            cause: "nothing is bound to the exchange of its queue".to_owned(),
        },
        (Target::Park, Answer::Refused { cause, .. }) => Answer::Later { cause },
        // An end marker has nowhere else to go.
        (Target::Diversion(_), Answer::Refused { cause, .. })
            if outlet.get(number).is_none_or(|one| one.claim.is_none()) =>
        {
            Answer::Later { cause }
        }
        (Target::Unit(unit), Answer::Returned) => {
            let offered = outlet.get(number);
            match offered.and_then(|one| waits_for_binding(unit, one, absent, turn)) {
                Some(cause) => Answer::Later { cause },
                None => Answer::Returned,
            }
        }
        (Target::Unit(unit), Answer::Moved) => {
            let table = turn.routing.table;
            let offered = outlet.get(number);
            if offered.is_some_and(|one| table.revision() > one.parcel.revision) {
                Answer::Moved
            } else {
                Answer::Later {
                    cause: format!("{unit} has a newer table, by which it isn't its own"),
                }
            }
        }
        (_, answer) => answer,
    }
}

/// What its rule says of an owner where nothing is bound; nothing of what goes to a unit by its name.
fn owner_absent<'a>(
    why: Why,
    origin: Option<&'a Origin>,
    turn: &Turn<'_>,
) -> Option<(&'a RuleName, OwnerAbsent)> {
    let rule = origin.filter(|_| follows_its_slot(why))?.rule.as_ref()?;
    Some((rule, turn.routing.source.owner_absent(rule)))
}

/// Why what came back waits, where it does.
fn waits_for_binding(
    unit: &UnitId,
    offered: &Offered,
    absent: &mut Absent,
    turn: &Turn<'_>,
) -> Option<String> {
    let (rule, says) = owner_absent(offered.parcel.why, offered.origin.as_ref(), turn)?;
    let waits = absent.waits(unit, rule, says.wait, turn.at.now);
    waits.then(|| {
        format!(
            "nothing is bound at its address in {unit}; by owner_absent of rule {rule}, it waits for {} s",
            says.wait.as_secs_f32()
        )
    })
}

fn goes_to_center(
    unit: &UnitId,
    parcel: &Parcel,
    origin: Option<&Origin>,
    turn: &Turn<'_>,
) -> bool {
    let says = owner_absent(parcel.why, origin, turn);
    says.is_some_and(|(_, says)| says.then == AbsentThen::Center)
        && turn.routing.table.center_seat() != unit
}

fn parked_reason(parcel: &Parcel) -> Reason {
    parcel
        .properties
        .header(X_SET_REASON)
        .and_then(RawValue::as_bytes)
        .and_then(Reason::from_word)
        .unwrap_or(Reason::Malformed)
}
