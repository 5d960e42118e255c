//! Whatever a publisher can get into a queue is carried or parked, whole, and the lane goes on.
//!
//! The poison is written by the frame, with a good message behind each. What RabbitMQ itself refuses ends its publisher's
//! channel, and is nowhere.

use crate::broker::{Broker, headers, keyed};
use crate::harness::{BY_OWNER, DEADLINE, ORDERS, World, eventually, world};
use bytes::{BufMut, Bytes};
use setgate::amqp::{FieldTable, FieldValue, Properties};
use setgate::lab::raw::{RawConfirm, RawMessage};
use setgate::lane::WRAPPED_CONTENT_TYPE;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::task::block_in_place;

const MIB: usize = 1024 * 1024;

/// Of gateway.yaml, when it says nothing.
const MESSAGE_MAX: usize = 16 * MIB;

/// What RabbitMQ 3.10 takes at most.
const BROKER_BYTES_MAX: usize = 128 * MIB;

/// What fits a content header of RabbitMQ's 128 KiB frames, beside 8 bytes around each frame and 12 in front.
const PROPERTIES_BYTES_MAX: usize = 131_072 - 8 - 12;

/// Owned by sh-2, while all is published in sh-1; and by sh-1.
const ELSEWHERE: u32 = 60;
const HERE: u32 = 10;

const NOT_UTF8: &[u8] = b"\xff\xfe\xc3\x28\0";

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// It arrives at its owner.
    Carried,
    /// It lies in the park queue, marked, with this reason.
    Parked(&'static str),
    /// The same, as the body of another message.
    ParkedAsBody(&'static str),
    /// RabbitMQ doesn't take it from its publisher.
    Refused,
}

struct Poison {
    /// What its body begins with, if it has one.
    name: &'static str,
    key: &'static [u8],
    properties: Bytes,
    body: Bytes,
    fate: Fate,
}

/// Poison with these properties, in the hands of a good publisher otherwise.
fn poison(name: &'static str, fate: Fate, properties: &Properties) -> Poison {
    Poison {
        name,
        key: b"order.cn",
        properties: properties.encode().unwrap(),
        body: Bytes::from_static(name.as_bytes()),
        fate,
    }
}

/// A body of so many bytes that begins with a name and repeats nothing.
fn body(name: &str, bytes: usize) -> Bytes {
    let mut body = Vec::with_capacity(bytes + 8);
    body.extend_from_slice(name.as_bytes());
    for number in 0.. {
        if body.len() >= bytes {
            break;
        }
        body.put_u64(number ^ 0xa5a5_a5a5_5a5a_5a5a);
    }
    body.truncate(bytes);
    body.into()
}

/// One property that is no text.
fn with(change: impl FnOnce(&mut Properties, Option<Bytes>)) -> Properties {
    let mut properties = keyed(ELSEWHERE);
    change(&mut properties, Some(Bytes::from_static(NOT_UTF8)));
    properties
}

fn with_header(name: &[u8], value: FieldValue) -> Properties {
    let mut properties = keyed(ELSEWHERE);
    let mut entries: Vec<(Bytes, FieldValue)> = properties
        .headers_mut()
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    entries.push((Bytes::copy_from_slice(name), value));
    properties.headers = Some(entries.into_iter().collect());
    properties
}

/// The property list of headers alone, of an encoded table's entries: for what [`FieldTable`] doesn't make.
fn of_entries(entries: &[u8]) -> Bytes {
    let mut out = vec![0x20, 0];
    out.put_u32(u32::try_from(entries.len()).unwrap());
    out.put_slice(entries);
    out.into()
}

/// The header `uid`, encoded.
fn uid(of: u32) -> Vec<u8> {
    let text = of.to_string();
    let mut out = vec![3];
    out.put_slice(b"uidS");
    out.put_u32(u32::try_from(text.len()).unwrap());
    out.put_slice(text.as_bytes());
    out
}

/// The header `nest`, encoded: a table in a table in a table.
fn nested(depth: usize) -> Vec<u8> {
    // Lengths come before what they count, so the innermost is known first: an entry is 2 bytes of name, the type, 4 of
    // length, and what is inside.
    let mut out = Vec::with_capacity(7 * depth + 3);
    out.put_slice(b"\x04nestF");
    for level in (0..depth).rev() {
        out.put_u32(u32::try_from(7 * level).unwrap());
        if level > 0 {
            out.put_slice(b"\x01nF");
        }
    }
    out
}

/// Headers that make a content header frame of the largest size, short by so many bytes.
fn filling_the_frame(short_by: usize) -> Properties {
    let mut properties = keyed(ELSEWHERE);
    let empty = with_header(b"pad", FieldValue::str("")).encode().unwrap();
    let pad = PROPERTIES_BYTES_MAX - empty.len() - short_by;
    let pad = FieldValue::Str(Bytes::from(vec![b'p'; pad]));
    properties.headers_mut().set("pad", pad);
    properties
}

fn in_strings() -> Vec<Poison> {
    use Fate::{Carried, Parked, Refused};
    let key = |value| headers([("uid", value)]);
    vec![
        poison("content-type", Carried, &with(|p, v| p.content_type = v)),
        poison(
            "content-encoding",
            Carried,
            &with(|p, v| p.content_encoding = v),
        ),
        poison(
            "correlation-id",
            Carried,
            &with(|p, v| p.correlation_id = v),
        ),
        poison("reply-to", Carried, &with(|p, v| p.reply_to = v)),
        poison("message-id", Carried, &with(|p, v| p.message_id = v)),
        poison("type", Carried, &with(|p, v| p.kind = v)),
        poison("app-id", Carried, &with(|p, v| p.app_id = v)),
        poison("cluster-id", Carried, &with(|p, v| p.cluster_id = v)),
        // RabbitMQ reads these two itself.
        poison("expiration", Refused, &with(|p, v| p.expiration = v)),
        poison("user-id", Refused, &with(|p, v| p.user_id = v)),
        poison(
            "a header's name",
            Carried,
            &with_header(NOT_UTF8, FieldValue::I32(1)),
        ),
        poison(
            "a header's empty name",
            Carried,
            &with_header(b"", FieldValue::I32(1)),
        ),
        poison(
            "a header's name of 255 bytes",
            Carried,
            &with_header(&[0xff; 255], FieldValue::Void),
        ),
        poison(
            "a header's value",
            Carried,
            &with_header(b"text", FieldValue::str(NOT_UTF8)),
        ),
        poison(
            "a name within a header",
            Carried,
            &with_header(
                b"table",
                FieldValue::Table(FieldTable::from_iter([(
                    Bytes::from_static(NOT_UTF8),
                    FieldValue::Array(vec![FieldValue::str(NOT_UTF8)]),
                )])),
            ),
        ),
        poison(
            "the same name twice",
            Carried,
            &with_header(b"uid", FieldValue::str("10")),
        ),
        poison(
            "a key that is no text",
            Parked("key_malformed"),
            &key(FieldValue::str(NOT_UTF8)),
        ),
        poison(
            "a key that is a table",
            Parked("key_malformed"),
            &key(FieldValue::Table(FieldTable::new())),
        ),
        poison("no headers", Parked("key_absent"), &Properties::default()),
        Poison {
            key: b"order.\xff\xfe",
            ..poison("a routing key", Carried, &keyed(ELSEWHERE))
        },
    ]
}

fn in_tables() -> Vec<Poison> {
    use Fate::{Carried, ParkedAsBody, Refused};
    let of = |name: &'static str, fate, entries: &[&[u8]]| Poison {
        properties: of_entries(&entries.concat()),
        ..poison(name, fate, &Properties::default())
    };
    let uid = uid(ELSEWHERE);
    let many: Vec<u8> = (0..10_000)
        .flat_map(|number| format!("\u{5}{number:05}V").into_bytes())
        .collect();
    let lying = |length: u32| {
        let mut entry = b"\x03lieS".to_vec();
        entry.put_u32(length);
        entry.put_slice(b"short");
        entry
    };
    let mut table_lies = of_entries(&uid).to_vec();
    table_lies[2..6].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut name_lies = uid.clone();
    name_lies[0] = 255;
    vec![
        of("nested 200 deep", Carried, &[&uid, &nested(200)]),
        of("nested 5,000 deep", Carried, &[&uid, &nested(5_000)]),
        of("10,000 entries", Carried, &[&uid, &many]),
        of(
            "a string longer than its table",
            Refused,
            &[&uid, &lying(6)],
        ),
        of(
            "a string of 4 GiB that isn't there",
            Refused,
            &[&uid, &lying(u32::MAX)],
        ),
        of("a name longer than its table", Refused, &[&name_lies]),
        of(
            "a type that nobody knows",
            Refused,
            &[&uid, b"\x03newZ\0\0\0\0"],
        ),
        Poison {
            properties: table_lies.into(),
            ..poison(
                "a table longer than the frame",
                Refused,
                &Properties::default(),
            )
        },
        Poison {
            properties: Bytes::from_static(b"\x80\0\xffshort"),
            ..poison(
                "a property longer than the frame",
                Refused,
                &Properties::default(),
            )
        },
        poison(
            "headers to the frame's last byte",
            ParkedAsBody("too_large"),
            &filling_the_frame(0),
        ),
        poison(
            "headers to the frame's last byte but one",
            ParkedAsBody("too_large"),
            &filling_the_frame(1),
        ),
    ]
}

fn in_bodies() -> Vec<Poison> {
    use Fate::{Carried, Parked, ParkedAsBody};
    let of = |name, bytes, fate| Poison {
        body: body(name, bytes),
        ..poison(name, fate, &keyed(ELSEWHERE))
    };
    let too_large = Parked("too_large");
    vec![
        of("", 0, Carried),
        of("message_max", MESSAGE_MAX, Carried),
        of("a byte more", MESSAGE_MAX + 1, too_large),
        of("all that the broker takes", BROKER_BYTES_MAX, too_large),
        Poison {
            properties: filling_the_frame(0).encode().unwrap(),
            ..of(
                "large, and headers to the last byte",
                MESSAGE_MAX + 1,
                ParkedAsBody("too_large"),
            )
        },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_can_stop_a_lane() {
    let files = [
        ("world.yaml", world(&["sh-1", "sh-2"])),
        ("orders.yaml", format!("{ORDERS}---\n{BY_OWNER}")),
    ];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let mut world = World::start("poison", &files).await;
    let set: Vec<Poison> = [in_strings(), in_tables(), in_bodies()]
        .into_iter()
        .flatten()
        .collect();
    let mut consumer = world.app("sh-2");
    let mut local = world.app("sh-1");
    let mut publisher = world.app("sh-1");

    // A good one first of all, so that what the lane has open is open.
    good(&mut publisher, "first");
    assert_eq!(next(&mut consumer, "app.orders.local").await.body, "first");
    assert_eq!(next(&mut local, "app.orders.local").await.body, "first");
    let before = world.lane_connections().await;

    for (number, poison) in set.iter().enumerate() {
        let taken = publish(&mut publisher, poison);
        let wrong = format!(
            "{:?} is {taken:?}, and should be {:?}",
            poison.name, poison.fate
        );
        match (poison.fate, &taken) {
            (Fate::Refused, Err(cause)) => {
                println!("{:?}: RabbitMQ says {cause}", poison.name);
                publisher = world.app("sh-1");
            }
            (Fate::Carried | Fate::Parked(_) | Fate::ParkedAsBody(_), Ok(RawConfirm::Ack)) => {}
            (_, _) => panic!("{wrong}"),
        }
        good(&mut publisher, &format!("good {number}"));
        // Each is looked at before the next comes, so that a failure names its cause; the last ones wait together.
        if number % 4 == 0 {
            world.lane("sh-1", "orders", &["taking"]).await;
        }
    }

    let mut carried = 0;
    for (number, poison) in set.iter().enumerate() {
        if poison.fate == Fate::Carried {
            let got = next(&mut consumer, "app.orders.local").await;
            assert_carried(poison, &got);
            carried += 1;
        }
        let got = next(&mut consumer, "app.orders.local").await;
        assert!(
            got.body == format!("good {number}"),
            "behind {:?}",
            poison.name
        );
        let got = next(&mut local, "app.orders.local").await;
        assert!(
            got.body == format!("good {number}"),
            "behind {:?}",
            poison.name
        );
    }
    let due: Vec<&Poison> = set
        .iter()
        .filter(|poison| matches!(poison.fate, Fate::Parked(_) | Fate::ParkedAsBody(_)))
        .collect();
    let park = world.own_queue("park");
    for poison in &due {
        let got = next(&mut local, &park).await;
        assert_parked(poison, &got);
    }
    for queue in ["app.orders.local", &park] {
        assert!(
            block_in_place(|| local.raw().get(queue)).unwrap().is_none(),
            "{queue} has one more"
        );
    }
    world.lane("sh-1", "orders", &["taking"]).await;
    assert_eq!(world.status("sh-1").await["faults"], serde_json::json!([]));
    let after = world.lane_connections().await;
    let lost: Vec<_> = before.difference(&after).collect();
    assert!(lost.is_empty(), "connections that are no more: {lost:?}");
    println!(
        "{} messages: {carried} carried, {} parked, {} refused by RabbitMQ, a good one behind each to both units; \
         connections kept: {before:?}, new: {:?}",
        set.len(),
        due.len(),
        set.len() - carried - due.len(),
        after.difference(&before).collect::<Vec<_>>(),
    );
    world.end().await;
}

impl World {
    /// The gateways' connections to the brokers, as these list them.
    async fn lane_connections(&mut self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for unit in ["sh-1", "sh-2"] {
            let broker = self.fabric.lab().unit(unit).unwrap().brokers[0].clone();
            let vhost = broker.vhost_encoded();
            let url = format!("{}/api/vhosts/{vhost}/connections", broker.management);
            let login = broker.operator();
            let look = async || {
                let listed = self
                    .fabric
                    .http()
                    .get_json(&url, Some(login))
                    .await
                    .unwrap();
                let of_gateway = |one: &&serde_json::Value| one["user"] == broker.user.as_str();
                let listed = listed.as_array().unwrap().iter().filter(of_gateway);
                let named: BTreeSet<String> = listed
                    .filter_map(|one| Some(format!("{unit} {}", one["name"].as_str()?)))
                    .collect();
                // Listed some time after they were made.
                (!named.is_empty()).then_some(named)
            };
            let what = format!("{unit}'s broker lists the gateway's connections");
            names.extend(eventually(&what, DEADLINE, look).await.0);
        }
        names
    }
}

/// A message to either unit that nothing is wrong with.
fn good(publisher: &mut Broker, text: &str) {
    for owner in [ELSEWHERE, HERE] {
        publisher.publish("orders", "order.cn", &keyed(owner), text);
    }
}

fn publish(publisher: &mut Broker, poison: &Poison) -> Result<RawConfirm, String> {
    let (properties, body) = (&poison.properties, &poison.body);
    block_in_place(|| {
        publisher
            .raw()
            .publish(b"orders", poison.key, properties, body)
    })
    .map_err(|error| error.to_string())
}

/// The next message of a queue, its properties undecoded.
async fn next(broker: &mut Broker, queue: &str) -> RawMessage {
    let look = async || block_in_place(|| broker.raw().get(queue)).unwrap();
    let deadline = DEADLINE + Duration::from_secs(20);
    eventually(&format!("a message in {queue}"), deadline, look)
        .await
        .0
}

/// Another body is said in few words.
fn assert_body(poison: &Poison, body: &Bytes) {
    let begins = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
    assert!(
        poison.body == *body,
        "instead of {:?} of {} bytes there is {begins:?} of {} bytes",
        poison.name,
        poison.body.len(),
        body.len()
    );
}

fn assert_carried(poison: &Poison, got: &RawMessage) {
    assert_body(poison, &got.body);
    assert_eq!(got.routing_key, poison.key, "{}", poison.name);
    if let Ok(sent) = Properties::decode(poison.properties.clone()) {
        let got = Properties::decode(got.properties.clone()).unwrap();
        let (got, marks) = without_marks(got);
        assert_eq!(got, sent, "{}", poison.name);
        let sealed = marks.contains_key("x-set-seal");
        assert!(sealed, "{}: {marks:?}", poison.name);
    } else {
        // Deeper than we decode: its entries are in there as they came.
        let entries = &poison.properties[6..];
        let mut windows = got.properties.windows(entries.len());
        let found = windows.any(|window| window == entries);
        assert!(found, "{}: its headers aren't as they came", poison.name);
    }
}

fn assert_parked(poison: &Poison, got: &RawMessage) {
    let name = poison.name;
    let properties = Properties::decode(got.properties.clone()).unwrap();
    let text = |mark: &str| match properties.header(mark) {
        Some(FieldValue::Str(text)) => String::from_utf8_lossy(text).into_owned(),
        other => panic!("{name}: {mark} is {other:?}"),
    };
    let kind = properties.content_type.as_deref();
    let is_body = kind == Some(WRAPPED_CONTENT_TYPE.as_bytes());
    let reason = match poison.fate {
        Fate::Parked(reason) => {
            assert!(!is_body, "{name}");
            assert_body(poison, &got.body);
            let (mut got, _) = without_marks(properties.clone());
            let mut sent = Properties::decode(poison.properties.clone()).unwrap();
            // Parked ones outlive a restart; those that had no headers have the marks' table.
            (sent.delivery_mode, got.delivery_mode) = (None, None);
            sent.headers.get_or_insert_default();
            assert_eq!(got, sent, "{name}");
            reason
        }
        Fate::ParkedAsBody(reason) => {
            assert!(is_body, "{name}");
            let length = u32::from_be_bytes(got.body[..4].try_into().unwrap());
            let end = 4 + usize::try_from(length).unwrap();
            assert!(
                got.body[4..end] == poison.properties,
                "{name}: other properties"
            );
            assert_body(poison, &got.body.slice(end..));
            reason
        }
        Fate::Carried | Fate::Refused => panic!("{name} isn't due here"),
    };
    assert_eq!(text("x-set-reason"), reason, "{name}");
    assert_eq!(text("x-set-exchange"), "orders", "{name}");
    assert_eq!(text("x-set-routing-key").as_bytes(), poison.key, "{name}");
}

/// The properties, and the marks that were among their headers.
fn without_marks(mut properties: Properties) -> (Properties, BTreeMap<String, FieldValue>) {
    let mut marks = BTreeMap::new();
    if let Some(headers) = &mut properties.headers {
        headers.retain(|name, value| {
            // The park queue is a quorum queue, which counts its deliveries.
            let is_mark = name.starts_with(b"x-set-") || name == b"x-delivery-count";
            if is_mark {
                let name = String::from_utf8_lossy(name).into_owned();
                marks.insert(name, value.clone());
            }
            !is_mark
        });
    }
    (properties, marks)
}
