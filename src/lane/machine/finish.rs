//! Answers: what each of them settles, or leads to.

use super::super::action::{Note, Target};
use super::super::diversion::follows_its_slot;
use super::super::outlet::{Claim, Offered, Origin, Outlet};
use super::route::{Before, parked};
use super::{Lane, Turn};
use crate::amqp::RawValue;
use crate::model::marks::X_SET_REASON;
use crate::model::{Answer, Parcel, ParcelNumber, Reason};

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
        let answer = on_trial(target, outlet, number, answer, turn);
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
                let transit = turn.at.now.saturating_duration_since(taken);
                turn.note(Note::Delivered {
                    to: to.clone(),
                    transit,
                });
            }
            (Target::Unit(to), Answer::Duplicate) => turn.note(Note::Duplicate { to: to.clone() }),
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
            is_ours: true,
        };
        self.dispatch(claim, &admitted, &before, turn);
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
        (Target::Diversion(_), Answer::Refused { cause, .. }) if !outlet.is_claimed(number) => {
            Answer::Later { cause }
        }
        (Target::Unit(unit), Answer::Moved) => {
            let routed_by = outlet.revision_of(number);
            if routed_by.is_some_and(|revision| turn.routing.table.revision() > revision) {
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

fn parked_reason(parcel: &Parcel) -> Reason {
    parcel
        .properties
        .header(X_SET_REASON)
        .and_then(RawValue::as_bytes)
        .and_then(Reason::from_word)
        .unwrap_or(Reason::Malformed)
}
