//! What `explain` says of a message is what a lane does with it: 400 messages by each of 256 random tables.

use crate::seeds::seeds;
use crate::world::{World, reason, unit};
use bytes::Bytes;
use fastrand::Rng;
use setgate::amqp::{FieldValue, Properties, RawProperties};
use setgate::lane::Target;
use setgate::model::{Address, Answer, Message, UnitId};
use setgate::routing::explain;
use std::collections::BTreeSet;
use std::fmt::Write as _;

const MESSAGES: u64 = 400;
const UNITS: [&str; 4] = ["sh-1", "sh-2", "bj-1", "bj-2"];
const WORDS: [&str; 4] = ["order", "a", "b", "c"];

fn one_of<'a>(rng: &mut Rng, list: &[&'a str]) -> &'a str {
    list[rng.usize(..list.len())]
}

fn pattern(rng: &mut Rng) -> String {
    let mut words = vec![one_of(rng, &["order", "*", "#"])];
    for _ in 0..rng.usize(..4) {
        words.push(one_of(rng, &["a", "b", "c", "*", "#"]));
    }
    words.join(".")
}

fn condition(rng: &mut Rng) -> String {
    let test = one_of(
        rng,
        &[
            "cn-1",
            "{in: [cn-1, 7]}",
            "{exists: true}",
            "{exists: false}",
            "{prefix: cn-}",
            "{matches: \"-[12]$\"}",
            "{range: {from: 2, to: 8}}",
        ],
    );
    format!("{}: {test}", one_of(rng, &["x", "y"]))
}

/// Rules of one source at random, each with its own conditions; the last may take all.
fn documents(rng: &mut Rng) -> String {
    let mut text =
        "kind: topology\nspace: trade\ncities: {c: {}}\nsites: {s: {city: c}}\nunits:\n".to_owned();
    for unit in UNITS {
        let _ = writeln!(text, "  {unit}: {{site: s}}");
    }
    let _ = writeln!(
        text,
        "center: {}\nfailover: {{sites_down_max: 0}}",
        one_of(rng, &UNITS)
    );
    text += "---\nkind: placement\nslots: 100\nranges:\n";
    let cuts = [rng.u32(1..30), rng.u32(30..60), rng.u32(60..99)];
    let ends = [0, cuts[0], cuts[1], cuts[2], 100];
    for (n, unit) in UNITS.iter().enumerate() {
        let _ = writeln!(
            text,
            "  - {{slots: {}-{}, unit: {unit}}}",
            ends[n],
            ends[n + 1] - 1
        );
    }
    let _ = writeln!(
        text,
        "pins: [{{key: \"42\", unit: {}}}]",
        one_of(rng, &UNITS)
    );
    let map = one_of(rng, &["hash", "crc32", "digits", "{last_digits: 2}"]);
    let from = one_of(
        rng,
        &[
            "{header: uid}",
            "{header: uid}, {routing_key_word: 2}",
            "{routing_key: whole}",
            "{json: /user/id}, {header: uid}",
        ],
    );
    let _ = write!(
        text,
        "---\nkind: source\nname: orders\ntake: {{exchange: orders, bindings: [{{routing_key: \"#\"}}]}}\n\
         deliver: {{exchange: orders.local}}\nkey: {{from: [{from}], map: {map}}}\n"
    );
    for number in 0..rng.usize(1..40) {
        let route = match rng.u8(..9) {
            0 => "center".to_owned(),
            1 => "shared".to_owned(),
            2 => "local".to_owned(),
            3 => "park".to_owned(),
            4 => "drop".to_owned(),
            5 => format!("{{units: [{}]}}", one_of(rng, &UNITS)),
            _ => "owner".to_owned(),
        };
        let _ = write!(
            text,
            "---\nkind: rule\nname: r-{number}\nsource: orders\norder: {number}\nroute: {route}\nkey_absent: {}\n\
             when: {{routing_key: \"{}\", headers: {{n-{number}: {{exists: false}}, {}}}}}\n",
            one_of(rng, &["park", "center", "local"]),
            pattern(rng),
            condition(rng),
        );
        if route == "owner" && rng.bool() {
            let share = if rng.bool() {
                format!("percent: {}, salt: g", rng.u8(..=100))
            } else {
                format!("header: {{{}}}", condition(rng))
            };
            let _ = writeln!(text, "gray: {{{share}, unit: {}}}", one_of(rng, &UNITS));
        }
        if rng.u8(..4) == 0 {
            let _ = writeln!(text, "deliver: {{exchange: elsewhere, routing_key: other}}");
        }
    }
    text
}

fn message(rng: &mut Rng, id: u64) -> Message {
    let mut properties = Properties {
        message_id: Some(Bytes::from(format!("m{id}"))),
        ..Properties::default()
    };
    let headers = properties.headers_mut();
    for name in ["x", "y"] {
        let value = match rng.u8(..6) {
            0 => FieldValue::str("cn-1"),
            1 => FieldValue::str("cn-9"),
            2 => FieldValue::I32(7),
            3 => FieldValue::F64(8.5),
            4 => FieldValue::Bool(true),
            _ => continue,
        };
        headers.set(name, value);
    }
    match rng.u8(..8) {
        0 => {}
        1 => headers.set("uid", FieldValue::Bool(false)),
        2 => headers.set("uid", FieldValue::str("")),
        3 => headers.set("uid", FieldValue::str("42")),
        _ => headers.set("uid", FieldValue::I64(rng.i64(-200..200))),
    }
    let words = (0..rng.usize(..5)).map(|_| one_of(rng, &WORDS).to_owned());
    let key = words.collect::<Vec<_>>().join(".");
    let body = one_of(
        rng,
        &[
            "",
            "{",
            "{\"user\":{\"id\":7}}",
            "{\"user\":{\"id\":\"x\"}}",
        ],
    );
    Message {
        address: Address {
            exchange: Bytes::from_static(b"orders"),
            routing_key: Bytes::from(key),
        },
        properties: RawProperties::of(&properties).unwrap(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        redelivered: false,
    }
}

/// What a lane did with one message: where copies went, under which address, and for which reason it was parked.
#[derive(Debug, PartialEq, Eq)]
struct Done {
    units: BTreeSet<UnitId>,
    address: Option<(String, String)>,
    parked: Option<String>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// `up`: the targets whose stream is up.
fn done(world: &mut World, up: &mut BTreeSet<Target>) -> Done {
    let mut done = Done {
        units: BTreeSet::new(),
        address: None,
        parked: None,
    };
    for target in world.opened.clone() {
        if up.insert(target.clone()) {
            world.lane.stream_up(&target, 1 << 20, 1_000);
        }
        while let Some(parcel) = world.next(&target) {
            match &target {
                Target::Unit(to) => {
                    done.units.insert(to.clone());
                    let address = &parcel.address;
                    done.address = Some((text(&address.exchange), text(&address.routing_key)));
                }
                Target::Park => done.parked = Some(text(reason(&parcel))),
                Target::Diversion(to) => panic!("{to} is diverted, and nothing was slow"),
            }
            world.answer(&target, parcel.number, Answer::Accepted);
        }
    }
    done
}

#[test]
fn a_lane_does_with_every_message_what_explain_says_of_it() {
    let mut ends = [0u64; 3];
    for seed in seeds() {
        let mut rng = Rng::with_seed(seed);
        let documents = documents(&mut rng);
        let mut world = World::under(&documents, "orders", 64);
        let mut up = BTreeSet::new();
        for id in 1..=MESSAGES {
            let message = message(&mut rng, id);
            let source = world.table.source(&world.source).unwrap();
            let here = unit(UNITS[0]);
            let said = explain(&world.table, source, &here, &message);
            world.take(id, message);
            let parked = (said.why == "park").then(|| said.reason.unwrap().to_string());
            let expected = Done {
                units: said.targets.iter().cloned().collect(),
                address: said.deliver.map(|to| (to.exchange, to.routing_key)),
                parked,
            };
            assert_eq!(
                done(&mut world, &mut up),
                expected,
                "seed {seed}, message {id}: {:#?}",
                said.steps
            );
            assert_eq!(world.settled, id, "seed {seed}, message {id}: settled");
            let end = usize::from(expected.parked.is_some()) + 2 * usize::from(said.why == "drop");
            ends[end] += 1;
        }
    }
    assert!(
        ends.iter().all(|count| *count > 0),
        "delivered, parked and dropped: {ends:?}"
    );
}
