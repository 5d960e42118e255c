//! What documents mean, and what is wrong with them: each fault by an example that has nothing else wrong.

use super::*;
use crate::model::SpaceId;
use proptest::prelude::*;

mod each_fault;
mod schema;

const TOPOLOGY: &str = "\
kind: topology
space: trade
cities: {shanghai: {}, beijing: {}}
sites:
  sh-a: {city: shanghai}
  bj-c: {city: beijing}
units:
  sh-1: {site: sh-a, standby: [bj-1]}
  bj-1: {site: bj-c}
";
const PLACEMENT: &str = "\
kind: placement
slots: 100
ranges:
  - {slots: 0-59, unit: sh-1}
  - {slots: 60-99, unit: bj-1}
";
const SOURCE: &str = "\
kind: source
name: orders
take: {exchange: orders, bindings: [{routing_key: \"order.#\"}]}
deliver: {exchange: orders.local}
key: {from: [{header: uid}]}
";
const RULE: &str = "\
kind: rule
name: by-user
source: orders
order: 100
route: owner
";

fn file(name: &str, text: impl Into<Vec<u8>>) -> DocumentFile {
    DocumentFile {
        name: name.to_owned(),
        text: text.into(),
    }
}

/// Good documents, one of them changed.
fn files(kind: &str, changed: impl Into<Vec<u8>>) -> Vec<DocumentFile> {
    let mut all = vec![
        file("placement", PLACEMENT),
        file("rule", RULE),
        file("source", SOURCE),
        file("topology", TOPOLOGY),
    ];
    let changed = changed.into();
    for one in &mut all {
        if one.name == kind {
            one.text.clone_from(&changed);
        }
    }
    all
}

fn faults(kind: &str, changed: impl Into<Vec<u8>>) -> Vec<(FaultCode, u32)> {
    let validation = validate(&files(kind, changed), &Context::default());
    let faults = validation.faults;
    for fault in &faults {
        println!("{fault}");
    }
    faults
        .iter()
        .map(|fault| (fault.code, fault.line))
        .collect()
}

#[test]
fn good_documents_have_no_fault_and_no_warning() {
    assert_eq!(
        validate(&files("", ""), &Context::default()),
        Validation::default()
    );
}

#[test]
fn a_rule_that_is_never_reached_is_named() {
    let two = |first: &str, second: &str| {
        faults(
            "rule",
            format!(
                "{RULE}---\nkind: rule\nname: before\nsource: orders\n{first}route: park\n\
                 ---\nkind: rule\nname: behind\nsource: orders\n{second}route: drop\n"
            ),
        )
    };
    let hidden = vec![(FaultCode::HiddenRule, 2)];
    assert_eq!(
        two(
            "order: 1\nwhen: {routing_key: \"#\"}\n",
            "order: 0\nwhen: {headers: {a: 1}}\n"
        ),
        hidden
    );
    let same = "when: {headers: {a: 1}}\n";
    assert_eq!(
        two(&format!("order: 1\n{same}"), &format!("order: 2\n{same}")),
        vec![(FaultCode::HiddenRule, 15)]
    );
    assert_eq!(
        two(
            &format!("order: 1\n{same}"),
            "order: 1\nwhen: {headers: {a: 2}}\n"
        ),
        vec![(FaultCode::EqualOrders, 17)]
    );
}

#[test]
fn a_queue_may_not_be_shared_nor_deliver_to_itself() {
    let queue = "kind: source\nname: orders\ntake: {queue: q}\ndeliver: {exchange: x}\n";
    let mut all = files("source", queue);
    all[1].text = RULE.replace("owner", "shared").into_bytes();
    let found = validate(&all, &Context::default()).faults;
    assert_eq!(found[0].code, FaultCode::SharedOnQueue, "{found:?}");
    let found = faults(
        "source",
        queue.replace("exchange: x", "exchange: \"\", routing_key: q"),
    );
    assert_eq!(found, vec![(FaultCode::SelfDelivery, 4)]);
}

#[test]
fn an_exchange_may_be_shared_with_itself_and_needs_no_deliver() {
    let mut all = files(
        "source",
        SOURCE.replace("deliver: {exchange: orders.local}\n", ""),
    );
    all[1].text = RULE.replace("owner", "shared").into_bytes();
    assert_eq!(validate(&all, &Context::default()).faults, vec![]);
}

#[test]
fn all_faults_of_all_files_come_at_once_in_their_order() {
    let mut all = files("source", SOURCE.replace("header", "heder"));
    all[0].text = PLACEMENT.replace("60-99", "60-98").into_bytes();
    all[1].text = RULE
        .replace("owner", "ownr")
        .replace("order: 100", "")
        .into_bytes();
    let found = validate(&all, &Context::default()).faults;
    let files: Vec<_> = found.iter().map(|fault| fault.file.as_str()).collect();
    assert_eq!(
        files,
        ["placement", "rule", "rule", "source", "source"],
        "{found:?}"
    );
    assert_eq!(
        found[2].to_string(),
        "rule:5:8: `route`, if it isn't {units: [..]}, can't be \"ownr\"; write one of: owner, center, shared, local, park, drop"
    );
    assert!(
        found
            .iter()
            .any(|fault| fault.mend == "did you mean `header`?")
    );
}

#[test]
fn a_document_that_cannot_be_read_does_not_hide_the_next() {
    let text = format!("kind: [\n---\n{}", RULE.replace("route", "rout"));
    let (documents, found) = parse(&[file("f", text)]);
    assert!(documents.is_incomplete());
    assert_eq!(
        found
            .iter()
            .map(|fault| (fault.code, fault.line))
            .collect::<Vec<_>>(),
        [
            (FaultCode::Yaml, 1),
            (FaultCode::MissingField, 3),
            (FaultCode::UnknownField, 7)
        ],
        "{found:?}"
    );
}

#[test]
fn a_byte_order_mark_and_carriage_returns_are_no_fault() {
    let windows = format!("\u{feff}{}", RULE.replace('\n', "\r\n"));
    assert_eq!(faults("rule", windows), vec![]);
}

#[test]
fn what_is_no_text_is_one_fault_with_its_place() {
    let mut text = RULE.as_bytes().to_vec();
    text.extend(b"# \xff\n");
    assert_eq!(faults("rule", text), vec![(FaultCode::NotUtf8, 6)]);
    assert_eq!(
        faults("rule", vec![b'#'; FILE_BYTES_MAX + 1]).first(),
        Some(&(FaultCode::FileTooLarge, 0))
    );
}

#[test]
fn a_yaml_bomb_is_one_fault() {
    let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (one, before) in ('b'..='j').zip('a'..) {
        let list = vec![format!("*{before}"); 10].join(",");
        bomb += &format!("{one}: &{one} [{list}]\n");
    }
    assert_eq!(
        faults("rule", bomb).iter().map(|f| f.0).collect::<Vec<_>>(),
        [FaultCode::Yaml]
    );
    let deep = format!("a: {}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(faults("rule", deep), vec![(FaultCode::Yaml, 1)]);
}

#[test]
fn more_pins_than_a_file_holds_and_more_faults_than_a_person_reads_are_one_clear_report() {
    let pins = |count: usize| {
        let pin = |n: usize| format!("  - {{key: \"{n}\", unit: sh-1}}\n");
        let pins: Vec<String> = (0..count).map(pin).collect();
        format!("{PLACEMENT}pins:\n{}", pins.concat())
    };
    assert_eq!(
        faults("placement", pins(100_000)),
        vec![
            (FaultCode::FileTooLarge, 0),
            (FaultCode::TransactionTooLarge, 0)
        ]
    );
    assert_eq!(faults("placement", pins(20_000)), vec![]);
    let same = pins(20_000).replace(
        "unit: sh-1}\n  - {key: \"1",
        "unit: sh-1}\n  - {key: \"0\", k: \"1",
    );
    let found = faults("placement", same);
    assert_eq!(found.len(), 1_001);
    assert_eq!(found.last(), Some(&(FaultCode::More, 0)));
}

#[test]
fn an_empty_folder_lacks_topology_and_placement() {
    let found = validate(&[], &Context::default()).faults;
    assert!(
        found
            .iter()
            .all(|fault| fault.code == FaultCode::MissingDocument)
    );
    assert_eq!(found.len(), 2);
}

#[test]
fn documents_of_another_space_are_refused() {
    let space = SpaceId::parse("bank").unwrap();
    let context = Context {
        space: Some(&space),
        ..Context::default()
    };
    let found = validate(&files("", ""), &context).faults;
    assert_eq!(found[0].code, FaultCode::WrongSpace);
}

#[test]
fn the_live_placement_wins_and_drift_is_a_warning() {
    let live = PLACEMENT.replace("0-59", "0-49").replace("60-99", "50-99");
    let context = Context {
        live_placement: Some(live.as_bytes()),
        ..Context::default()
    };
    let found = validate(&files("", ""), &context);
    assert_eq!(found.faults, vec![]);
    assert_eq!(found.warnings[0].code, FaultCode::PlacementDrift);
    let split = PLACEMENT.replace(
        "  - {slots: 0-59, unit: sh-1}\n",
        "  - {slots: 10-59, unit: sh-1}\n  - {slots: 0-9, unit: sh-1}\n",
    );
    assert_eq!(
        validate(
            &files("placement", split),
            &Context {
                live_placement: Some(PLACEMENT.as_bytes()),
                ..Context::default()
            }
        ),
        Validation::default()
    );
    let more = PLACEMENT
        .replace("slots: 100", "slots: 200")
        .replace("60-99", "60-199");
    let found = validate(&files("placement", more), &context).faults;
    assert_eq!(found[0].code, FaultCode::SlotsChanged);
    // Whoever makes a space once may delete the wish: the live one is enough.
    let without: Vec<_> = files("", "")
        .into_iter()
        .filter(|one| one.name != "placement")
        .collect();
    assert_eq!(validate(&without, &context), Validation::default());
}

#[test]
fn the_key_of_a_source_in_force_may_not_change() {
    let in_force = files("", "");
    let context = Context {
        in_force: Some(&in_force),
        ..Context::default()
    };
    let changed = files("source", SOURCE.replace("uid", "user"));
    let found = validate(&changed, &context).faults;
    assert_eq!(found[0].code, FaultCode::KeyChanged);
}

#[test]
fn more_files_than_a_transaction_takes_are_refused_by_name_of_the_flag() {
    let mut all = files("", "");
    all.extend((0..70).map(|n| file(&format!("empty-{n}"), "# nothing\n")));
    let found = validate(&all, &Context::default()).faults;
    assert_eq!(found[0].code, FaultCode::TransactionTooLarge);
    assert!(found[0].mend.contains("--max-txn-ops"));
    let unchanged = Context {
        in_force: Some(&all),
        ..Context::default()
    };
    assert_eq!(validate(&all, &unchanged).faults, vec![]);
}

#[test]
fn what_is_not_yet_is_a_warning_for_an_operator_who_only_looks() {
    let all = files("rule", format!("{RULE}receipt: true\n"));
    let context = Context {
        not_yet: NotYet::Warn,
        ..Context::default()
    };
    let found = validate(&all, &context);
    assert_eq!((found.faults.len(), found.warnings.len()), (0, 1));
}

#[test]
fn a_difference_is_told_in_words() {
    let old = files("", "");
    let mut new = files("rule", RULE.replace("owner", "center"));
    new[2].text.extend(b"# a comment\n");
    new.push(file("zoo", "kind: source\nname: zoo\ntake: {queue: z}\n"));
    let found = diff(&old, &new);
    let changes: Vec<_> = found
        .documents
        .iter()
        .map(|one| format!("{} {}", one.file, one.change))
        .collect();
    assert_eq!(changes, ["rule changed", "source changed", "zoo added"]);
    assert_eq!(
        found.effects,
        [
            "source zoo added: takes queue z, delivers to the taken exchange, key from header x-set-key by hash",
            "rule by-user changed: route owner → center",
        ]
    );
    assert_eq!(diff(&new, &new), Diff::default());
}

#[test]
fn a_source_that_is_deleted_and_not_retired_leaves_its_queues_and_the_difference_says_so() {
    let orders = [file("orders", SOURCE)];
    let says = |old: &[DocumentFile]| {
        let effects = diff(old, &[]).effects;
        effects
            .iter()
            .any(|one| one.contains("sources retire orders"))
    };
    assert!(says(&orders));
    let retired = [file("orders", format!("{SOURCE}retired: true\n"))];
    assert!(!says(&retired));
    let queue = SOURCE.replace(
        "exchange: orders, bindings: [{routing_key: \"order.#\"}]",
        "queue: q",
    );
    assert!(!says(&[file("orders", queue)]), "it isn't setgate's");
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&[file("f", text)]);
    }

    #[test]
    fn no_edit_of_good_documents_makes_the_validator_panic(
        kind in 0usize..4, at in 0usize..400, with in "[\\PC\n]{0,6}"
    ) {
        let mut all = files("", "");
        let text = String::from_utf8(all[kind].text.clone()).unwrap();
        let at = at.min(text.len());
        all[kind].text = format!("{}{with}{}", &text[..at], &text[at..]).into_bytes();
        let _ = validate(&all, &Context::default());
        let _ = diff(&files("", ""), &all);
    }
}

/// What is said of a rule's document that becomes another one while the good documents are in force.
fn against_what_is_in_force(rule: &str) -> Vec<(FaultCode, u32)> {
    let in_force = files("rule", RULE);
    let context = Context {
        in_force: Some(&in_force),
        ..Context::default()
    };
    let validation = validate(&files("rule", rule), &context);
    assert_eq!(validation.faults, []);
    let moves = validation.moves.iter().map(|one| &one.fault);
    moves.map(|fault| (fault.code, fault.line)).collect()
}

#[test]
fn a_change_that_may_give_keys_other_owners_is_no_fault_and_needs_a_move() {
    let earlier =
        "---\nkind: rule\nname: earlier\nsource: orders\norder: 5\nwhen: {routing_key: a}\n";
    for (change, line) in [
        (RULE.replace("route: owner", "route: local"), 2),
        (
            RULE.replace("route: owner", "route: owner\nkey_absent: local"),
            2,
        ),
        (
            RULE.replace("route: owner", "route: owner\nwhen: {routing_key: \"a.#\"}"),
            2,
        ),
        (
            RULE.replace(
                "route: owner",
                "route: owner\ngray: {percent: 1, unit: bj-1}",
            ),
            2,
        ),
        (format!("{RULE}{earlier}route: center\n"), 8),
    ] {
        let found = against_what_is_in_force(&change);
        assert_eq!(found, [(FaultCode::NeedsMove, line)], "{change}");
    }
    for change in [
        RULE.replace("order: 100", "order: 7"),
        RULE.replace("route: owner", "route: park"),
        RULE.replace("by-user", "of-users"),
        RULE.replace(
            "route: owner",
            "route: owner\ndeliver: {exchange: orders.vip}",
        ),
        format!("{RULE}{earlier}route: park\n"),
        format!("{RULE}{earlier}route: drop\n"),
    ] {
        let found = against_what_is_in_force(&change);
        assert_eq!(found, [], "{change}");
    }
}

#[test]
fn an_exchange_of_one_name_may_stand_at_both_ends_of_a_way_that_does_not_come_back() {
    let source = |units: &str| {
        SOURCE
            .replace("orders.local", "orders")
            .replace("take:", &format!("{units}take:"))
    };
    let rule = RULE.replace("route: owner", "route: {units: [bj-1]}");
    let found = |units: &str| {
        let mut files = files("rule", rule.as_str());
        for file in &mut files {
            if file.name == "source" {
                file.text = source(units).into_bytes();
            }
        }
        let validation = validate(&files, &Context::default());
        let faults = validation.faults.iter();
        faults.map(|fault| fault.code).collect::<Vec<_>>()
    };
    assert_eq!(found("units: [sh-1]\n"), []);
    assert_eq!(found("units: [sh-1, bj-1]\n"), [FaultCode::SelfDelivery]);
    assert_eq!(found(""), [FaultCode::SelfDelivery]);
}

/// The warnings that a change of a good document makes.
fn warnings(kind: &str, from: &str, to: &str) -> Vec<FaultCode> {
    let text = match kind {
        "topology" => TOPOLOGY,
        "placement" => PLACEMENT,
        _ => RULE,
    };
    assert!(text.contains(from), "{from:?} isn't in the {kind}");
    let validation = validate(&files(kind, text.replace(from, to)), &Context::default());
    assert_eq!(validation.faults, []);
    validation.warnings.iter().map(|one| one.code).collect()
}

#[test]
fn what_is_legal_and_probably_not_meant_is_a_warning() {
    let away = warnings("rule", "route:", "when: {routing_key: \"pay.#\"}\nroute:");
    assert_eq!(away, [FaultCode::NeverMatches]);
    let within = warnings("rule", "route:", "when: {routing_key: \"*.cn\"}\nroute:");
    assert_eq!(within, []);
    let idle = warnings("placement", "60-99, unit: bj-1", "60-99, unit: sh-1");
    assert_eq!(idle, [FaultCode::NoSlots]);
    let far = warnings(
        "topology",
        "units:",
        "failover: {across_cities: automatic}\nunits:",
    );
    assert_eq!(far, [FaultCode::AcrossCities]);
}

#[test]
fn rules_of_one_source_say_the_same_of_an_owner_that_is_down() {
    let other = "---\nkind: rule\nname: first\nsource: orders\norder: 5\nwhen: {routing_key: a}\nroute: owner\nowner_down: hold\n";
    let found = |rule: &str| {
        let faults = validate(&files("rule", rule), &Context::default()).faults;
        faults.iter().map(|fault| fault.code).collect::<Vec<_>>()
    };
    assert_eq!(found(&format!("{RULE}{other}")), [FaultCode::BadValue]);
    let both = RULE.replace("route: owner", "route: owner\nowner_down: hold");
    assert_eq!(found(&format!("{both}{other}")), []);
    assert_eq!(
        found(&format!(
            "{RULE}{}",
            other
                .replace("route: owner", "route: local")
                .replace("owner_down: hold\n", "")
        )),
        []
    );
}
