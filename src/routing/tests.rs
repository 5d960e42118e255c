//! Decisions: every route, the key, the seats, and that gateway and `explain` say the same.

use super::*;
use crate::amqp::{FieldTable, FieldValue, Properties, RawProperties};
use crate::model::{
    Address, Epoch, Lineage, Message, Moves, Reason, Revision, Seats, Slot, SourceName, SpaceId,
    UnitId, Why,
};
use crate::rules::DocumentFile;
use bytes::Bytes;
use proptest::prelude::*;

const DOCUMENTS: &str = r##"
kind: topology
space: trade
cities: {shanghai: {}, beijing: {}}
sites:
  sh-a: {city: shanghai}
  sh-b: {city: shanghai}
  bj-c: {city: beijing}
units:
  sh-1: {site: sh-a, standby: [sh-2]}
  sh-2: {site: sh-b}
  bj-1: {site: bj-c}
center: sh-1
links:
  - {from: sh-1, to: bj-1, bytes_per_second: 10MiB}
  - {from: "*", to: bj-1, bytes_per_second: 1000}
---
kind: placement
slots: 10000
ranges:
  - {slots: 0-3999, unit: sh-1}
  - {slots: 4000-7999, unit: sh-2}
  - {slots: 8000-9999, unit: bj-1}
---
kind: source
name: orders
units: [sh-1, bj-1]
take: {exchange: orders, bindings: [{routing_key: "#"}]}
deliver: {exchange: orders.local}
key: {from: [{header: uid}, {routing_key_word: 3}], map: digits}
---
kind: source
name: catalog
take: {exchange: catalog, bindings: [{routing_key: "#"}]}
---
kind: rule
name: everywhere
source: catalog
order: 1
when: {headers: {copy: elsewhere}}
deliver: {exchange: catalog.copy}
route: shared
---
kind: rule
name: catalog-to-all
source: catalog
order: 2
route: shared
"##;

/// Rules of `orders`, by their routing key.
const ROUTES: &[(&str, &str)] = &[
    ("center", "center"),
    ("local", "local"),
    ("units", "{units: [bj-1, sh-2]}"),
    ("park", "park"),
    ("drop", "drop"),
    ("owner", "owner"),
];

fn unit(name: &str) -> UnitId {
    UnitId::parse(name).unwrap()
}

fn seats(stand_ins: &[(&str, &str)]) -> Seats {
    Seats {
        lineage: Lineage("l1".into()),
        epoch: Epoch(7),
        stand_ins: stand_ins
            .iter()
            .map(|(home, seat)| (unit(home), unit(seat)))
            .collect(),
        ..Seats::default()
    }
}

fn documents() -> Vec<DocumentFile> {
    let mut text = DOCUMENTS.to_owned();
    for (n, (name, route)) in ROUTES.iter().enumerate() {
        text += &format!(
            "---\nkind: rule\nname: r-{name}\nsource: orders\norder: {n}\n\
             when: {{routing_key: \"{name}.#\"}}\nroute: {route}\n"
        );
    }
    for absent in ["center", "local"] {
        text += &format!(
            "---\nkind: rule\nname: absent-{absent}\nsource: orders\norder: 9{}\n\
             when: {{headers: {{absent: {absent}}}}}\nroute: owner\nkey_absent: {absent}\n\
             deliver: {{exchange: orders.vip, routing_key: vip}}\n",
            absent.len()
        );
    }
    vec![DocumentFile {
        name: "all.yaml".to_owned(),
        text: text.into_bytes(),
    }]
}

fn compile(seats: Seats, placement: Option<&[u8]>) -> Result<Table, Vec<crate::rules::Fault>> {
    Table::compile(TableInputs {
        files: &documents(),
        placement,
        seats,
        moves: Moves::new(),
        revision: Revision(42),
        space: &SpaceId::parse("trade").unwrap(),
    })
}

/// Of these documents alone.
pub(super) fn table_of(text: &str) -> Table {
    Table::compile(TableInputs {
        files: &[DocumentFile {
            name: "all.yaml".to_owned(),
            text: text.as_bytes().to_vec(),
        }],
        placement: None,
        seats: seats(&[]),
        moves: Moves::new(),
        revision: Revision(1),
        space: &SpaceId::parse("trade").unwrap(),
    })
    .unwrap()
}

#[test]
fn a_table_may_be_larger_than_what_one_change_brings() {
    // In etcd it is written twice, and one change takes 1.5 MiB.
    let comment = format!("# {}\n", "x".repeat(800_000));
    table_of(&format!("{DOCUMENTS}{comment}"));
}

fn table(stand_ins: &[(&str, &str)]) -> Table {
    compile(seats(stand_ins), None).unwrap()
}

fn message(routing_key: &str, headers: &[(&str, FieldValue)]) -> Message {
    let mut table = FieldTable::new();
    for (name, value) in headers {
        table.set(name, value.clone());
    }
    Message {
        address: Address {
            exchange: Bytes::from_static(b"orders"),
            routing_key: Bytes::copy_from_slice(routing_key.as_bytes()),
        },
        properties: RawProperties::of(&Properties {
            headers: Some(table),
            ..Properties::default()
        })
        .unwrap(),
        body: Bytes::new(),
        redelivered: false,
    }
}

fn route(table: &Table, source: &str, here: &str, trail: &[&str], message: &Message) -> Decision {
    let source = table.source(&SourceName::parse(source).unwrap()).unwrap();
    let trail: Vec<_> = trail.iter().map(|name| unit(name)).collect();
    table.route(source, &unit(here), &trail, message, &mut Unrecorded)
}

/// Unit, reason, exchange and routing key of each target.
fn targets(decision: &Decision) -> Vec<String> {
    match &decision.outcome {
        Outcome::Deliver(targets) => targets
            .iter()
            .map(|target| {
                format!(
                    "{} {} {}/{}",
                    target.unit,
                    target.why,
                    String::from_utf8_lossy(&target.address.exchange),
                    String::from_utf8_lossy(&target.address.routing_key)
                )
            })
            .collect(),
        Outcome::Park(reason) => vec![format!("park {reason}")],
        Outcome::Drop(reason) => vec![format!("drop {reason}")],
    }
}

#[test]
fn every_route_leads_where_it_says() {
    let table = table(&[]);
    let uid = [("uid", FieldValue::str("4001"))];
    let cases: &[(&str, &[&str])] = &[
        ("owner.x", &["sh-2 owner orders.local/owner.x"]),
        ("center.x", &["sh-1 center orders.local/center.x"]),
        ("local.x", &["bj-1 local orders.local/local.x"]),
        (
            "units.x",
            &[
                "bj-1 units orders.local/units.x",
                "sh-2 units orders.local/units.x",
            ],
        ),
        ("park.x", &["park rule"]),
        ("drop.x", &["drop rule"]),
        ("other.x", &["park no_rule"]),
    ];
    for (key, expected) in cases {
        let decision = route(&table, "orders", "bj-1", &[], &message(key, &uid));
        assert_eq!(targets(&decision), *expected, "{key}");
    }
}

#[test]
fn a_slot_goes_to_the_stand_in_of_its_home() {
    let table = table(&[("sh-1", "sh-2")]);
    let uid = [("uid", FieldValue::I16(1))];
    let decision = route(&table, "orders", "bj-1", &[], &message("owner", &uid));
    assert_eq!(targets(&decision), ["sh-2 standby orders.local/owner"]);
    assert_eq!(
        (decision.home, decision.seat),
        (Some(unit("sh-1")), Some(unit("sh-2")))
    );
    let decision = route(&table, "orders", "bj-1", &[], &message("center", &uid));
    assert_eq!(targets(&decision), ["sh-2 center orders.local/center"]);
    assert_eq!(table.center_seat(), &unit("sh-2"));
    assert_eq!(table.seat_of(Slot(0)), Some(&unit("sh-2")));
    assert_eq!(table.home_of(Slot(0)), Some(&unit("sh-1")));
    assert_eq!(table.home_of(Slot(10_000)), None);
    assert_eq!(table.ranges_of(&unit("bj-1")), [(Slot(8_000), Slot(9_999))]);
}

/// One rule for all orders, with what it says besides and with such pins.
fn with_gray(gray: &str, pins: &str) -> Table {
    let text = DOCUMENTS.replace("slots: 10000\n", &format!("slots: 10000\npins: [{pins}]\n"))
        + &format!("---\nkind: rule\nname: all\nsource: orders\norder: 1\nroute: owner\n{gray}");
    Table::compile(TableInputs {
        files: &[DocumentFile {
            name: "all.yaml".to_owned(),
            text: text.into_bytes(),
        }],
        placement: None,
        seats: seats(&[("bj-1", "sh-2")]),
        moves: Moves::new(),
        revision: Revision(42),
        space: &SpaceId::parse("trade").unwrap(),
    })
    .unwrap()
}

#[test]
fn a_pin_comes_before_a_gray_share_and_both_before_the_slot() {
    let table = with_gray(
        "gray: {percent: 100, unit: sh-2}",
        "{key: \"1\", unit: sh-1}, {key: \"2\", unit: bj-1}",
    );
    let to = |uid: &str| {
        let message = message("order", &[("uid", FieldValue::str(uid))]);
        route(&table, "orders", "sh-1", &[], &message)
    };
    let pinned = to("1");
    assert_eq!(targets(&pinned), ["sh-1 pin orders.local/order"]);
    assert_eq!(pinned.slot, Some(Slot(1)));
    // Its unit is away, and who stands in for it serves its pins too.
    let away = to("2");
    assert_eq!(targets(&away), ["sh-2 pin orders.local/order"]);
    assert_eq!(
        (away.home, away.seat),
        (Some(unit("bj-1")), Some(unit("sh-2")))
    );
    assert_eq!(targets(&to("3")), ["sh-2 gray orders.local/order"]);
}

#[test]
fn a_gray_share_is_by_keys_or_by_headers() {
    let whys = |table: &Table, headers: &dyn Fn(u32) -> Vec<(&'static str, FieldValue)>| {
        (0..1_000)
            .map(|uid| {
                let message = message("order", &headers(uid));
                let decision = route(table, "orders", "sh-1", &[], &message);
                let Outcome::Deliver(targets) = decision.outcome else {
                    panic!("{uid} isn't delivered");
                };
                targets[0].why
            })
            .filter(|why| *why == Why::Gray)
            .count()
    };
    let uid = |uid: u32| ("uid", FieldValue::str(uid.to_string()));
    let table = with_gray("gray: {percent: 12.5, salt: g1, unit: sh-2}", "");
    let share = whys(&table, &|key| vec![uid(key)]);
    assert!((90..160).contains(&share), "{share} of 1,000");
    let table = with_gray("gray: {header: {x-lane: gray}, unit: sh-2}", "");
    assert_eq!(whys(&table, &|key| vec![uid(key)]), 0);
    let gray = |key: u32| {
        let lane = if key.is_multiple_of(4) {
            "gray"
        } else {
            "blue"
        };
        vec![uid(key), ("x-lane", FieldValue::str(lane))]
    };
    assert_eq!(whys(&table, &gray), 250);
}

#[test]
fn more_rules_than_the_index_has_room_for_are_all_looked_at() {
    let mut text = DOCUMENTS.to_owned();
    for n in 0..200 {
        text += &format!(
            "---\nkind: rule\nname: r-{n}\nsource: orders\norder: {n}\n\
             when: {{routing_key: \"a.#\", headers: {{h: \"{n}\"}}}}\nroute: local\n"
        );
    }
    let table = Table::compile(TableInputs {
        files: &[DocumentFile {
            name: "all.yaml".to_owned(),
            text: text.into_bytes(),
        }],
        placement: None,
        seats: seats(&[]),
        moves: Moves::new(),
        revision: Revision(1),
        space: &SpaceId::parse("trade").unwrap(),
    })
    .unwrap();
    for n in [0, 63, 64, 199] {
        let headers = [("h", FieldValue::str(n.to_string()))];
        let found = route(&table, "orders", "sh-1", &[], &message("a.b", &headers));
        let name = found.rule.map(|rule| rule.to_string());
        assert_eq!(name, Some(format!("r-{n}")));
    }
}

#[test]
fn integers_of_every_width_are_the_key_that_their_text_is() {
    let table = table(&[]);
    for value in [
        FieldValue::str("86"),
        FieldValue::I8(86),
        FieldValue::U8(86),
        FieldValue::I16(86),
        FieldValue::U16(86),
        FieldValue::I32(86),
        FieldValue::U32(86),
        FieldValue::I64(86),
    ] {
        let decision = route(
            &table,
            "orders",
            "sh-1",
            &[],
            &message("owner", &[("uid", value)]),
        );
        assert_eq!(decision.slot, Some(Slot(86)));
        assert_eq!(decision.key.as_deref(), Some(&b"86"[..]));
    }
}

#[test]
fn what_can_be_no_key_counts_as_absent_with_its_reason() {
    let table = table(&[]);
    for value in [
        FieldValue::Bool(true),
        FieldValue::F64(1.0),
        FieldValue::Timestamp(1),
        FieldValue::Table(FieldTable::new()),
        FieldValue::Array(vec![]),
        FieldValue::Void,
        FieldValue::str(""),
        FieldValue::str("abc"),
    ] {
        let headers = [("uid", value.clone())];
        let decision = route(&table, "orders", "sh-1", &[], &message("owner.x", &headers));
        assert_eq!(
            decision.outcome,
            Outcome::Park(Reason::KeyMalformed),
            "{value:?}"
        );
        // The next place has one: it counts.
        let decision = route(
            &table,
            "orders",
            "sh-1",
            &[],
            &message("owner.x.9000", &headers),
        );
        assert_eq!(targets(&decision), ["bj-1 owner orders.local/owner.x.9000"]);
    }
    let decision = route(&table, "orders", "sh-1", &[], &message("owner.x", &[]));
    assert_eq!(decision.outcome, Outcome::Park(Reason::KeyAbsent));
}

#[test]
fn a_message_without_a_key_goes_where_its_rule_sends_it() {
    let table = table(&[]);
    for (absent, expected) in [("center", "sh-1 center"), ("local", "bj-1 local")] {
        let headers = [("absent", FieldValue::str(absent))];
        let decision = route(&table, "orders", "bj-1", &[], &message("x", &headers));
        assert_eq!(targets(&decision), [format!("{expected} orders.vip/vip")]);
    }
}

#[test]
fn a_shared_message_goes_to_every_unit_that_it_has_not_seen() {
    let table = table(&[]);
    let decision = route(&table, "catalog", "sh-1", &[], &message("k", &[]));
    assert_eq!(
        targets(&decision),
        ["sh-2 shared catalog/k", "bj-1 shared catalog/k"]
    );
    let decision = route(&table, "catalog", "sh-1", &["bj-1"], &message("k", &[]));
    assert_eq!(targets(&decision), ["sh-2 shared catalog/k"]);
    let decision = route(
        &table,
        "catalog",
        "sh-1",
        &["bj-1", "sh-2"],
        &message("k", &[]),
    );
    assert_eq!(decision.outcome, Outcome::Deliver(vec![]));
}

#[test]
fn a_shared_message_is_delivered_here_too_when_it_goes_to_another_exchange() {
    let table = table(&[]);
    let headers = [("copy", FieldValue::str("elsewhere"))];
    let decision = route(&table, "catalog", "sh-1", &[], &message("k", &headers));
    assert_eq!(
        targets(&decision),
        [
            "sh-1 shared catalog.copy/k",
            "sh-2 shared catalog.copy/k",
            "bj-1 shared catalog.copy/k"
        ]
    );
}

#[test]
fn a_receiver_takes_only_the_exchanges_of_a_source() {
    let table = table(&[]);
    let orders = SourceName::parse("orders").unwrap();
    assert!(table.may_deliver(&orders, b"orders.local"));
    assert!(table.may_deliver(&orders, b"orders.vip"));
    assert!(!table.may_deliver(&orders, b"catalog"));
    assert!(!table.may_deliver(&SourceName::parse("none").unwrap(), b"orders.local"));
}

#[test]
fn a_source_is_taken_where_it_says() {
    let table = table(&[]);
    let taken = |name: &str| {
        let unit = unit(name);
        table
            .sources_of(&unit)
            .map(|source| source.name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(taken("sh-1"), ["orders", "catalog"]);
    assert_eq!(taken("sh-2"), ["catalog"]);
}

#[test]
fn the_live_placement_decides_and_faults_keep_a_table_from_being_made() {
    let live = b"kind: placement\nslots: 10000\nranges: [{slots: 0-9999, unit: bj-1}]\n";
    let table = compile(seats(&[]), Some(live)).unwrap();
    assert_eq!(table.home_of(Slot(0)), Some(&unit("bj-1")));
    let faults = compile(seats(&[("sh-1", "gz-1")]), None).unwrap_err();
    assert_eq!(faults[0].file, "seats");
    assert!(compile(seats(&[]), Some(b"kind: nothing")).is_err());
}

#[test]
fn an_explanation_has_the_fields_that_tools_read() {
    let table = table(&[("sh-1", "sh-2")]);
    let source = table.source(&SourceName::parse("orders").unwrap()).unwrap();
    let headers = [("uid", FieldValue::str("10086"))];
    let explanation = explain(&table, source, &unit("bj-1"), &message("owner.x", &headers));
    let json = serde_json::to_value(&explanation).unwrap();
    for (field, expected) in [
        ("rule", serde_json::json!("r-owner")),
        ("key", serde_json::json!("10086")),
        ("slot", serde_json::json!(86)),
        ("home", serde_json::json!("sh-1")),
        ("seat", serde_json::json!("sh-2")),
        ("targets", serde_json::json!(["sh-2"])),
        ("why", serde_json::json!("standby")),
        ("epoch", serde_json::json!(7)),
    ] {
        assert_eq!(json[field], expected, "{field}");
    }
    assert_eq!(json.get("reason"), None);
    insta::assert_snapshot!(explanation, @r"
    → sh-2 (standby)

      trail   new        it has visited no unit yet
      rule    passed     r-center (order 0): the routing key doesn't match center.#
      rule    passed     r-local (order 1): the routing key doesn't match local.#
      rule    passed     r-units (order 2): the routing key doesn't match units.#
      rule    passed     r-park (order 3): the routing key doesn't match park.#
      rule    passed     r-drop (order 4): the routing key doesn't match drop.#
      rule    matched    r-owner (order 5): routing key owner.#
      key     found      header uid: 10086, slot 86
      range   sh-1       slot 86 is in a range of sh-1
      seat    sh-2       sh-2 stands in for sh-1
      target  deliver    to sh-2, exchange orders.local, routing key owner.x

      by the table of epoch 7
    ");
    let parked = explain(&table, source, &unit("bj-1"), &message("other", &[]));
    let json = serde_json::to_value(&parked).unwrap();
    assert_eq!(json["targets"], serde_json::json!([]));
    assert_eq!(json["why"], "park");
    assert_eq!(json["reason"], "no_rule");
}

#[test]
fn the_first_policy_about_a_link_says_what_it_carries() {
    let table = table(&[]);
    let rate = |from, to| {
        let rate = table.link_bytes_per_second(&unit(from), &unit(to));
        rate.map(std::num::NonZeroU64::get)
    };
    assert_eq!(rate("sh-1", "bj-1"), Some(10 << 20));
    assert_eq!(rate("sh-2", "bj-1"), Some(1_000));
    assert_eq!(rate("bj-1", "sh-1"), None);
}

proptest! {
    #[test]
    fn gateway_and_explain_agree_on_every_message(
        routing_key in "(owner|center|local|units|x|catalog)?(\\.[a-z0-9]{0,3}){0,4}",
        uid in proptest::option::of("[0-9a-z-]{0,6}"),
        here in 0usize..3,
        stand_in in any::<bool>(),
    ) {
        let table = if stand_in { table(&[("bj-1", "sh-1")]) } else { table(&[]) };
        let here = &table.units()[here].name;
        let headers: Vec<_> = uid.iter().map(|uid| ("uid", FieldValue::str(uid))).collect();
        let message = message(&routing_key, &headers);
        for source in table.sources() {
            let decision = table.route(source, here, &[], &message, &mut Unrecorded);
            let explanation = explain(&table, source, here, &message);
            let units: Vec<_> = match &decision.outcome {
                Outcome::Deliver(targets) => targets.iter().map(|one| one.unit.clone()).collect(),
                Outcome::Park(_) | Outcome::Drop(_) => Vec::new(),
            };
            prop_assert_eq!(&explanation.targets, &units);
            prop_assert_eq!(&explanation.rule, &decision.rule);
            prop_assert_eq!(explanation.slot, decision.slot);
            // An owner's message goes to exactly one unit, and that is the seat of its slot.
            if let Outcome::Deliver(targets) = &decision.outcome
                && targets.iter().any(|one| matches!(one.why, Why::Owner | Why::Standby))
            {
                prop_assert_eq!(targets.len(), 1);
                let slot = decision.slot.unwrap();
                prop_assert_eq!(Some(&targets[0].unit), table.seat_of(slot));
            }
        }
    }

    /// The gateway looks at the rules that its index finds, `explain` at all of them.
    #[test]
    fn the_index_finds_the_rule_that_a_look_at_all_of_them_finds(
        patterns in proptest::collection::vec(
            proptest::option::weighted(0.8, "(a|b|c|\\*|#)?(\\.(a|b||\\*|#)){0,3}"), 1..90),
        keys in proptest::collection::vec("(a|b|c)?(\\.(a|b|)){0,4}", 1..20),
        with_header in any::<bool>(),
    ) {
        let mut text = DOCUMENTS.to_owned();
        for (n, pattern) in patterns.iter().enumerate() {
            // No two conditions are the same, and none takes all.
            let headers = format!("headers: {{h: {{in: [\"0\", \"{}\"]}}}}", n + 1);
            let when = match pattern {
                Some(pattern) => format!("{{routing_key: \"{pattern}\", {headers}}}"),
                None => format!("{{{headers}}}"),
            };
            text += &format!(
                "---\nkind: rule\nname: r-{n}\nsource: orders\norder: {}\nwhen: {when}\nroute: local\n",
                n * 7 % 1_000
            );
        }
        let table = table_of(&text);
        let source = table.source(&SourceName::parse("orders").unwrap()).unwrap();
        for key in &keys {
            let value = if with_header { "0" } else { "3" };
            let message = message(key, &[("h", FieldValue::str(value))]);
            let found = table.route(source, &unit("sh-1"), &[], &message, &mut Unrecorded);
            let explained = explain(&table, source, &unit("sh-1"), &message);
            prop_assert_eq!(&found.rule, &explained.rule, "{}", key);
        }
    }
}
