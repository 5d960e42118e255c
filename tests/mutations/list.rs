//! The mutations: each breaks one promise of the core, in one place.

/// Which tests have to catch one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The world of units.
    Units,
    /// Those of one lane.
    Lane,
    /// Those of one receiver.
    Receiver,
}

/// One deliberate fault.
pub(crate) struct Mutation {
    /// What it does.
    pub(crate) name: &'static str,
    pub(crate) by: By,
    /// Where, under `src`.
    pub(crate) file: &'static str,
    /// What stands there once, and what stands there instead.
    pub(crate) edits: &'static [(&'static str, &'static str)],
}

pub(crate) const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "a delivery is acknowledged before its targets have answered",
        by: By::Units,
        file: "lane/ledger.rs",
        edits: &[(
            "filter(|e| e.closed && e.waiting == 0)",
            "filter(|e| e.closed)",
        )],
    },
    Mutation {
        name: "a shared copy that comes back is routed again",
        by: By::Units,
        file: "lane/envelope.rs",
        edits: &[(
            "&& trail.path.contains(here)\n",
            "&& !trail.path.contains(here)\n",
        )],
    },
    Mutation {
        name: "the first of what is diverted is dropped",
        by: By::Units,
        file: "lane/machine/divert.rs",
        edits: &[(
            "for offered in taken_out {\n            self.divert(unit, offered, turn);",
            "for (at, offered) in taken_out.into_iter().enumerate() {\n if let (0, Some(claim)) = (at, &offered.claim) {\n if let Some(ledger) = self.ledger_of(&claim.feed) { ledger.answered(claim.entry); }\n continue;\n }\n self.divert(unit, offered, turn);",
        )],
    },
    Mutation {
        name: "what is diverted goes in with the newest first",
        by: By::Units,
        file: "lane/machine/divert.rs",
        edits: &[(
            "for offered in taken_out {\n            self.divert(unit, offered, turn);",
            "for offered in taken_out.into_iter().rev() {\n            self.divert(unit, offered, turn);",
        )],
    },
    Mutation {
        name: "what is new goes directly past a diversion",
        by: By::Units,
        file: "lane/machine/divert.rs",
        edits: &[(
            "self.is_diverted(&parcel.to).then(|| parcel.to.clone())",
            "None",
        )],
    },
    Mutation {
        name: "the stream of a target that is diverted is not given up",
        by: By::Units,
        file: "lane/machine/divert.rs",
        edits: &[(
            "if taken_out.iter().any(|offered| offered.parcel.sent_before) && outlet.close(&cause) {",
            "if false && outlet.close(&cause) {",
        )],
    },
    Mutation {
        name: "what a lost stream had is not said to be sent again",
        by: By::Units,
        file: "lane/outlet.rs",
        edits: &[(
            "offered.parcel.sent_before = true;",
            "offered.parcel.sent_before |= false;",
        )],
    },
    Mutation {
        name: "what the broker redelivers is not said to have been sent",
        by: By::Units,
        file: "lane/stamp.rs",
        edits: &[("sent_before: message.redelivered,", "sent_before: false,")],
    },
    Mutation {
        name: "what was sent before it was diverted is drained as new",
        by: By::Units,
        file: "lane/machine/drain.rs",
        edits: &[(
            "sent: diverted.sent || message.redelivered || went_otherwise,",
            "sent: message.redelivered || went_otherwise,",
        )],
    },
    Mutation {
        name: "the credit is ignored",
        by: By::Units,
        file: "lane/outlet.rs",
        edits: &[(
            "let room = self.sent_unanswered == 0",
            "let room = true || self.sent_unanswered == 0",
        )],
    },
    Mutation {
        name: "a lane does not go singly after a nack",
        by: By::Lane,
        file: "lane/outlet.rs",
        edits: &[("Some(_) => 1,", "Some(_) => credit_parcels,")],
    },
    Mutation {
        name: "later is taken for the last word",
        by: By::Units,
        file: "lane/outlet.rs",
        edits: &[(
            "                    cause: cause.clone(),\n                };\n                return None;",
            "                    cause: cause.clone(),\n                };\n                return self.remove(index);",
        )],
    },
    Mutation {
        name: "moved is settled as if it were accepted",
        by: By::Units,
        file: "lane/machine/finish.rs",
        edits: &[(
            "(Target::Unit(_), Answer::Moved) => self.route_anew(&claim, &parcel, origin, turn),",
            "(Target::Unit(_), Answer::Moved) => {}",
        )],
    },
    Mutation {
        name: "moved counts before the table here is as new",
        by: By::Lane,
        file: "lane/machine/finish.rs",
        edits: &[(
            "if offered.is_some_and(|one| table.revision() > one.parcel.revision) {",
            "if offered.is_some() {",
        )],
    },
    Mutation {
        name: "what former holders left goes on in any order",
        by: By::Lane,
        file: "lane/diversion.rs",
        edits: &[(
            "(None, Some(last)) => drain.marker.is_none() && last < than,\n            (None, None) => true,",
            "(None, Some(last)) => drain.marker.is_none() && last < than,\n            (None, None) => false,",
        )],
    },
    Mutation {
        name: "an absence never ends",
        by: By::Lane,
        file: "lane/absent.rs",
        edits: &[(
            "self.since.remove(&(unit.clone(), rule.clone()));",
            "let _ = (unit, rule);",
        )],
    },
    Mutation {
        name: "a found diversion ends without its end marker",
        by: By::Units,
        file: "lane/diversion.rs",
        edits: &[(
            "self.marker.is_none()\n            && self.messages == 0",
            "self.messages == 0",
        )],
    },
    Mutation {
        name: "a diversion ends while messages lie in it",
        by: By::Units,
        file: "lane/diversion.rs",
        edits: &[(
            "self.marker.is_none()\n            && self.messages == 0",
            "self.marker.is_none()",
        )],
    },
    Mutation {
        name: "what comes out of a diversion twice counts twice",
        by: By::Lane,
        file: "lane/diversion.rs",
        edits: &[("if place.number > self.out {", "if place.number > 0 {")],
    },
    Mutation {
        name: "what is drained is acknowledged before it is confirmed",
        by: By::Units,
        file: "lane/machine/route.rs",
        edits: &[(
            "        if let Some(ledger) = self.ledger_of(&claim.feed) {\n            ledger.wait_for(claim.entry);\n        }\n        let offered = Offered {\n            claim: Some(claim.clone()),\n            detour: None,\n            parcel,\n            taken: turn.at.now,\n            since: turn.at.now,\n            origin: Some(origin),",
            "        let owed = match claim.feed {\n Feed::Source => {\n self.ledger.wait_for(claim.entry);\n Some(claim.clone())\n }\n Feed::Diversion(_) => None,\n };\n        let offered = Offered {\n            claim: owed,\n            detour: None,\n            parcel,\n            taken: turn.at.now,\n            since: turn.at.now,\n            origin: Some(origin),",
        )],
    },
    Mutation {
        name: "no round is counted in what makes two parcels the same",
        by: By::Units,
        file: "model/seal.rs",
        edits: &[("who.0.put_u32(parcel.round.0);", "who.0.put_u32(0);")],
    },
    Mutation {
        name: "rounds do not grow",
        by: By::Units,
        file: "lane/envelope.rs",
        edits: &[(
            "round: Round(round.0.saturating_add(1)),",
            "round: Round(round.0.max(1)),",
        )],
    },
    Mutation {
        name: "a receiver answers before the journal has it",
        by: By::Units,
        file: "link/receiver/mod.rs",
        edits: &[
            (
                "                self.waiting += 1;\n                self.confirmed.push(Confirmed {",
                "                self.waiting += 1;\n actions.answers.push((number, Answer::Accepted));\n self.confirmed.push(Confirmed {",
            ),
            (
                "                actions.answers.push((number, Answer::Accepted));\n",
                "                let _ = number;\n",
            ),
        ],
    },
    Mutation {
        name: "what the journal says of others is forgotten",
        by: By::Units,
        file: "link/receiver/seen.rs",
        edits: &[(
            "                    for id in ids {\n                        self.confirm(lane, *id, at);\n                    }",
            "                    let _ = ids;",
        )],
    },
    Mutation {
        name: "a holder that never let go leaves no gap",
        by: By::Units,
        file: "link/receiver/seen.rs",
        edits: &[(
            "Holder::Somebody(_) | Holder::Unknown => seen.window.gap(at, window),",
            "Holder::Somebody(_) | Holder::Unknown => {}",
        )],
    },
    Mutation {
        name: "a change of seats leaves no gap",
        by: By::Units,
        file: "link/receiver/seen.rs",
        edits: &[(
            "                let window = window_of(&self.windows, lane);\n                seen.window.gap(at, window);\n            }\n        }\n",
            "                let _ = (lane, seen);\n            }\n        }\n",
        )],
    },
    Mutation {
        name: "what a receiver does not know the end of is not in doubt",
        by: By::Units,
        file: "link/receiver/mod.rs",
        edits: &[(
            "Some(Known::Doubtful) => true,",
            "Some(Known::Doubtful) => false,",
        )],
    },
    Mutation {
        name: "what is known is published again",
        by: By::Units,
        file: "link/receiver/mod.rs",
        edits: &[(
            "if known == Some(Known::Confirmed) {",
            "if known == Some(Known::Confirmed) && !parcel.sent_before {",
        )],
    },
    Mutation {
        name: "two equal parcels are under way at once",
        by: By::Units,
        file: "link/receiver/mod.rs",
        edits: &[("self.by_identity.insert(id, number);", "let _ = id;")],
    },
    Mutation {
        name: "a receiver that ends goes on publishing",
        by: By::Receiver,
        file: "link/receiver/mod.rs",
        edits: &[("Stage::Ending => return,", "Stage::Ending => {}")],
    },
    Mutation {
        name: "a receiver lets go before the journal has all",
        by: By::Receiver,
        file: "link/receiver/mod.rs",
        edits: &[(
            "            && self.doubtful.is_empty()\n            && self.written.is_empty()",
            "            && self.doubtful.is_empty()",
        )],
    },
    Mutation {
        name: "what another unit has delivered is forgotten",
        by: By::Receiver,
        file: "link/receiver/seen.rs",
        edits: &[(
            "ids.iter().for_each(|id| self.confirm(lane, *id, at)),",
            "drop(ids.clone()),",
        )],
    },
    Mutation {
        name: "what was routed by former rules is taken",
        by: By::Receiver,
        file: "link/receiver/check.rs",
        edits: &[(
            "parcel.epoch < source.changed_at",
            "false && source.retired",
        )],
    },
    Mutation {
        name: "nobody asks who owns a slot",
        by: By::Units,
        file: "link/receiver/check.rs",
        edits: &[("    belongs_here(table, here, parcel)?;\n", "")],
    },
    Mutation {
        name: "a frame loses what it has when it is closed early",
        by: By::Units,
        file: "link/batcher.rs",
        edits: &[(
            "        let mut frame = self.frame.split();\n",
            "        let mut frame = self.frame.split();\n if frame.len() > 1_200 {\n return None;\n }\n",
        )],
    },
    Mutation {
        name: "what is held goes before what lies in the diversion",
        by: By::Units,
        file: "lane/diversion.rs",
        edits: &[(
            "            Some(held) => {\n                held.slots.insert(offered.parcel.slot);\n                held.parcels.push_back(offered);\n                None\n            }",
            "            Some(_) => None,",
        )],
    },
    Mutation {
        name: "a target that answers is diverted for being late",
        by: By::Lane,
        file: "lane/machine/divert.rs",
        edits: &[(
            "waited >= PATIENCE && (silent || !outlet.is_up() || hinders(self.deliveries))",
            "waited >= PATIENCE",
        )],
    },
    Mutation {
        name: "a late target is diverted though nobody waits behind it",
        by: By::Lane,
        file: "lane/machine/divert.rs",
        edits: &[(
            "deliveries) && self.has_others(unit, now)",
            "deliveries) && (true || self.has_others(unit, now))",
        )],
    },
    Mutation {
        name: "a detour that would soon end goes on while more than 512 are in it",
        by: By::Lane,
        file: "lane/diversion.rs",
        edits: &[(
            "self.drains() && self.messages <= self.left_per_second * HOLD_MAX.as_secs()",
            "false",
        )],
    },
    Mutation {
        name: "half of what a full lane is given counts as half of its budget",
        by: By::Lane,
        file: "lane/machine/mod.rs",
        edits: &[(
            "self.deliveries.max(self.settings.window.deliveries)",
            "self.deliveries",
        )],
    },
    Mutation {
        name: "a stream that has only just begun counts as silent",
        by: By::Lane,
        file: "lane/machine/divert.rs",
        edits: &[(
            "outlet.answers() && silent && hinders(self.budget())",
            "(outlet.answers() || outlet.is_up()) && silent && hinders(self.budget())",
        )],
    },
    Mutation {
        name: "the stream that has what a lost drain brought is kept",
        by: By::Lane,
        file: "lane/machine/drain.rs",
        edits: &[(
            "&& outlet.close(\"a drain was given up",
            "&& false && outlet.close(\"a drain was given up",
        )],
    },
    Mutation {
        name: "order: what a drain brought and comes back waits behind what it brought later",
        by: By::Lane,
        file: "lane/machine/drain.rs",
        edits: &[(
            "partition_point(|one| one.claim.entry < claim.entry)",
            "len()",
        )],
    },
    Mutation {
        name: "order: what comes back unanswered goes behind what is held for a fence",
        by: By::Lane,
        file: "lane/machine/divert.rs",
        edits: &[(
            "behind.filter(|diversion| diversion.is_behind());",
            "behind.filter(|diversion| false && diversion.is_behind());",
        )],
    },
    Mutation {
        name: "order: a slot that has come back is not routed anew",
        by: By::Lane,
        file: "lane/machine/divert.rs",
        edits: &[(
            "if table.is_from_before(parcel) {",
            "if false && table.is_from_before(parcel) {",
        )],
    },
    Mutation {
        name: "order: a lane that stops puts in what waits for what is under way",
        by: By::Lane,
        file: "lane/machine/divert.rs",
        edits: &[(
            "if !self.is_behind(&unit) {",
            "if true || !self.is_behind(&unit) {",
        )],
    },
    Mutation {
        name: "a drain that was lost is not begun again",
        by: By::Lane,
        file: "lane/diversion.rs",
        edits: &[(
            "if !self.is_stalled(now) {",
            "if false && !self.is_stalled(now) {",
        )],
    },
    Mutation {
        name: "a drain has more in hand than its unit answers",
        by: By::Lane,
        file: "lane/diversion.rs",
        edits: &[(
            "let in_hand_max = answered.min(u64::from(DRAIN_DELIVERIES));",
            "let in_hand_max = answered.max(u64::from(DRAIN_DELIVERIES));",
        )],
    },
    Mutation {
        name: "an end marker that another has taken is not put again",
        by: By::Units,
        file: "lane/machine/drain.rs",
        edits: &[("if is_in && diversion", "if false && diversion")],
    },
    Mutation {
        name: "a gateway that begins takes its own table's epoch for the journal's",
        by: By::Receiver,
        file: "link/receiver/seen.rs",
        edits: &[(
            "            self.hear_epoch(epoch, at);\n        }\n",
            "            self.hear_epoch(epoch, at);\n        } else {\n self.epoch = Some(epoch);\n }\n",
        )],
    },
    Mutation {
        name: "a lane that is new after a change of seats has no gap",
        by: By::Receiver,
        file: "link/receiver/seen.rs",
        edits: &[(
            "if let Some(at) = changed {",
            "if let (true, Some(at)) = (false, changed) {",
        )],
    },
];
