//! Units that share one exchange: each message once in every unit, and none goes round.
//!
//! Nothing is waited for by time. A lane keeps its order, so a barrier that was published in a unit behind a message and
//! has arrived in another unit proves that whatever that unit sent there before has arrived, too. What a copy wrongly
//! set in motion where it arrived is behind the first barrier and before a second.

use crate::broker::{Broker, Received, keyed};
use crate::harness::{World, world};
use bytes::Bytes;
use setgate::amqp::{FieldValue, Properties};
use std::collections::{BTreeMap, BTreeSet};

const CATALOG: &str = "kind: source
name: catalog
take: {exchange: catalog, bindings: [{routing_key: \"#\"}]}
key: {from: [{header: uid}]}
---
kind: rule
name: catalog-to-all
source: catalog
order: 100
route: shared
";

const QUEUE: &str = "app.catalog";

const MESSAGES_PER_UNIT: usize = 10;

/// A mesh, and an application in each of its units.
struct Mesh {
    units: Vec<&'static str>,
    apps: Vec<Broker>,
    barriers: usize,
}

impl Mesh {
    fn of(world: &mut World, units: &[&'static str]) -> Self {
        Self {
            units: units.to_vec(),
            apps: units.iter().map(|unit| world.app(unit)).collect(),
            barriers: 0,
        }
    }

    fn publish(&mut self, unit: usize, properties: &Properties, body: &str) {
        self.apps[unit].publish("catalog", "catalog.item", properties, body);
    }

    /// All that has arrived in each unit, when nothing more can come.
    async fn arrived(&mut self) -> Vec<Vec<Received>> {
        let mut arrived = vec![Vec::new(); self.units.len()];
        for _ in 0..2 {
            self.barriers += 1;
            let name = |unit: &str| format!("barrier {} of {unit}", self.barriers);
            for (app, unit) in self.apps.iter_mut().zip(&self.units) {
                app.publish("catalog", "catalog.barrier", &keyed(0), name(unit));
            }
            let all: BTreeSet<String> = self.units.iter().map(|unit| name(unit)).collect();
            for (app, arrived) in self.apps.iter_mut().zip(&mut arrived) {
                let mut due = all.clone();
                while !due.is_empty() {
                    let got = app.get(QUEUE).await;
                    if got.routing_key == "catalog.barrier" {
                        let body = got.body_text();
                        assert!(due.remove(&body), "{body} came twice");
                    } else {
                        arrived.push(got);
                    }
                }
            }
        }
        arrived
    }

    /// Asserts that each of these came once in each unit, and nothing else did. A body begins with its unit's place.
    fn assert_once_everywhere(&self, published: &[(usize, String)], arrived: &[Vec<Received>]) {
        for (here, arrived) in self.units.iter().zip(arrived) {
            let mut counts: BTreeMap<String, usize> = BTreeMap::new();
            for got in arrived {
                *counts.entry(got.body_text()).or_default() += 1;
            }
            let due = published.iter().map(|(_, body)| (body.clone(), 1));
            assert_eq!(counts, due.collect(), "in {here}");
            for got in arrived {
                let body = got.body_text();
                let (from, _) = published.iter().find(|(_, b)| *b == body).unwrap();
                let from = self.units[*from];
                // Where it was published, it is the publisher's own message, that no gateway has touched.
                if from != *here {
                    assert_eq!(got.path(), [from, here], "{body}");
                    assert_eq!(got.text("x-set-why").as_deref(), Some("shared"));
                }
            }
        }
    }
}

/// A path that has been everywhere, under a seal that is none.
fn forged(units: &[&str]) -> Properties {
    let mut properties = keyed(7);
    let path = units.iter().map(FieldValue::str).collect();
    for (name, value) in [
        ("x-set-path", FieldValue::Array(path)),
        ("x-set-round", FieldValue::I32(1)),
        ("x-set-retry", FieldValue::I32(0)),
        ("x-set-why", FieldValue::str("shared")),
        (
            "x-set-delivered",
            FieldValue::Bytes(Bytes::from_static(&[1; 16])),
        ),
        (
            "x-set-seal",
            FieldValue::Bytes(Bytes::from_static(&[2; 16])),
        ),
    ] {
        properties.headers_mut().set(name, value);
    }
    properties
}

async fn each_once_per_unit(test: &str, units: &[&'static str]) {
    let rules = [
        ("world.yaml", world(units)),
        ("catalog.yaml", CATALOG.to_owned()),
    ];
    let rules = rules.each_ref().map(|(name, text)| (*name, text.as_str()));
    let mut world = World::start(test, &rules).await;
    let mut mesh = Mesh::of(&mut world, units);

    let mut published = Vec::new();
    for number in 0..MESSAGES_PER_UNIT {
        for (unit, name) in units.iter().enumerate() {
            let body = format!("{number} of {name}");
            mesh.publish(unit, &keyed(7), &body);
            published.push((unit, body));
        }
    }
    for (unit, name) in units.iter().enumerate() {
        let body = format!("forged in {name}");
        mesh.publish(unit, &forged(units), &body);
        published.push((unit, body));
    }
    let arrived = mesh.arrived().await;
    mesh.assert_once_everywhere(&published, &arrived);

    // A consumer in the second unit got a copy of the first's.
    let body = format!("0 of {}", units[0]);
    let copy = arrived[1].iter().find(|got| got.body_text() == body);
    let copy = copy.unwrap();
    assert_eq!(copy.path()[1], units[1]);

    // It copies all headers to a message of its own: another body, so another message, and a new trail.
    mesh.publish(1, &copy.properties, "an answer");
    let arrived = mesh.arrived().await;
    mesh.assert_once_everywhere(&[(1, "an answer".to_owned())], &arrived);

    // It publishes the very same again, in the same place: that is the copy which all have seen.
    let (properties, body) = (copy.properties.clone(), copy.body_text());
    mesh.publish(1, &properties, &body);
    let arrived = mesh.arrived().await;
    for (here, arrived) in arrived.iter().enumerate() {
        let due = usize::from(here == 1);
        assert_eq!(arrived.len(), due, "in {}: {arrived:?}", units[here]);
    }

    // Nothing was set aside to make it come out even.
    for unit in units {
        assert!(world.metric(unit, "setgate_parked_total").await.abs() < f64::EPSILON);
        assert!(world.metric(unit, "setgate_dropped_total").await.abs() < f64::EPSILON);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_that_shares_an_exchange_gets_each_message_once_per_unit() {
    each_once_per_unit("loops_pair", &["sh-1", "sh-2"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_triangle_that_shares_an_exchange_gets_each_message_once_per_unit() {
    each_once_per_unit("loops_triangle", &["sh-1", "sh-2", "bj-1"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_units_in_full_mesh_get_each_message_once_per_unit() {
    each_once_per_unit("loops_five", &["sh-1", "sh-2", "bj-1", "bj-2", "gz-1"]).await;
}
