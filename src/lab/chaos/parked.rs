//! Why messages were parked, by the marks on those that lie in the park queues.

use crate::lab::http::encode;
use crate::lab::{Fabric, LabBroker};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Messages looked at in each unit: a run that has more than this has more than one fault to look for.
const LOOKED_AT_MAX: u32 = 200;

/// How many lie there for each reason. A unit that doesn't answer is left out: the account has the number of all.
pub(super) async fn reasons(fabric: &mut Fabric) -> BTreeMap<String, u64> {
    let lab = fabric.lab();
    let queue = format!("setgate.{}.park", lab.space);
    let mut reasons = BTreeMap::new();
    for broker in lab.units.iter().filter_map(|unit| unit.brokers.first()) {
        for message in messages(fabric, broker, &queue).await {
            let reason = &message["properties"]["headers"]["x-set-reason"];
            let reason = reason.as_str().unwrap_or("unknown").to_owned();
            *reasons.entry(reason).or_default() += 1;
        }
    }
    reasons
}

/// Looks at messages and puts them back.
async fn messages(fabric: &Fabric, broker: &LabBroker, queue: &str) -> Vec<Value> {
    let login = broker.operator();
    let (at, vhost) = (&broker.management, broker.vhost_encoded());
    let url = format!("{at}/api/queues/{vhost}/{}/get", encode(queue));
    let body = json!({"count": LOOKED_AT_MAX, "ackmode": "ack_requeue_true", "encoding": "auto",
        "truncate": 0});
    let answer = fabric.http().ask(&url, login, &body).await;
    let answer = answer.unwrap_or_default();
    answer.as_array().cloned().unwrap_or_default()
}
