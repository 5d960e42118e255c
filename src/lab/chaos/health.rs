//! What a fabric says of itself: who does what in it, and whether it has recovered.
//!
//! Reads gateways' pages as plain values on purpose: what a gateway of another version says is worth something too.

use crate::lab::{Fabric, LabError, LabGateway};
use crate::model::{GatewayId, UnitId};
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often the pages are read while something is waited for: twelve requests at two gateways in each of three units.
const LOOK: Duration = Duration::from_millis(250);
/// A broker's start, the longest pause between attempts after it, and a diversion that drains beside live traffic.
const RECOVERY: Duration = Duration::from_mins(3);
/// How long is counted what each gateway of a unit publishes.
const COUNTED: Duration = Duration::from_millis(500);

/// Waits until every gateway is ready, has its links up, and each unit takes the source's messages, with nothing left in
/// a diversion. Gives what was missing last; the error says what is missing still.
pub(super) async fn wait_healthy(
    fabric: &mut Fabric,
    source: &str,
) -> Result<Option<String>, LabError> {
    let begun = Instant::now();
    let mut last = None;
    loop {
        let Some(missing) = complaint(fabric, source).await else {
            return Ok(last);
        };
        if begun.elapsed() >= RECOVERY {
            let seconds = RECOVERY.as_secs();
            let text = format!("the fabric has not recovered within {seconds} s: {missing}");
            return Err(LabError::Refused(text));
        }
        last = Some(missing);
        sleep(LOOK).await;
    }
}

/// The first thing that is not as it should be.
async fn complaint(fabric: &mut Fabric, source: &str) -> Option<String> {
    let lab = fabric.lab();
    for unit in &lab.units {
        let mut takes = false;
        for gateway in &unit.gateways {
            match look(fabric, gateway).await {
                Ok(status) => {
                    if let Some(fault) = fault_of(&status) {
                        return Some(format!("{}: {fault}", gateway.name));
                    }
                    takes |= takes_from(&status, source);
                }
                Err(fault) => return Some(format!("{}: {fault}", gateway.name)),
            }
        }
        if !takes && !unit.gateways.is_empty() {
            return Some(format!("no gateway of {} takes {source}", unit.unit));
        }
    }
    None
}

/// A gateway's status, where it is ready.
async fn look(fabric: &Fabric, gateway: &LabGateway) -> Result<Value, String> {
    let page = format!("http://{}/readyz", gateway.admin);
    match fabric.http().get(&page, None).await {
        Ok((status, _)) if status.is_success() => {}
        Ok((_, body)) => return Err(String::from_utf8_lossy(&body).into_owned()),
        Err(error) => return Err(error.render()),
    }
    status(fabric, gateway).await
}

async fn status(fabric: &Fabric, gateway: &LabGateway) -> Result<Value, String> {
    let page = format!("http://{}/v1/status", gateway.admin);
    let status = fabric.http().get_json(&page, None).await;
    status.map_err(|error| error.render())
}

fn fault_of(status: &Value) -> Option<String> {
    let mut links = status["links"].as_array().into_iter().flatten();
    if let Some(link) = links.find(|link| link["state"] != "up") {
        let of = |field: &str| link[field].as_str().unwrap_or("?").to_owned();
        let (peer, state, cause) = (of("peer"), of("state"), of("cause"));
        return Some(format!("the link to {peer} is {state}: {cause}"));
    }
    let open = diversions(status).next()?;
    Some(format!(
        "{} is diverted, {} messages",
        open.to, open.messages
    ))
}

fn takes_from(status: &Value, source: &str) -> bool {
    let mut lanes = status["lanes"].as_array().into_iter().flatten();
    lanes.any(|lane| lane["source"] == source && lane["state"] == "taking")
}

/// A target that a lane's messages don't go to directly.
struct Diversion<'a> {
    to: &'a str,
    messages: u64,
}

/// Those of a gateway's lanes. One that holds nothing any more is still one until its lane goes direct again.
fn diversions(status: &Value) -> impl Iterator<Item = Diversion<'_>> {
    let lanes = status["lanes"].as_array().into_iter().flatten();
    let targets = lanes.flat_map(|lane| lane["targets"].as_array().into_iter().flatten());
    targets
        .filter(|target| target["diversion"].is_object())
        .map(|target| Diversion {
            to: target["to"].as_str().unwrap_or("?"),
            messages: target["diversion"]["messages"].as_u64().unwrap_or(0),
        })
}

/// What has not arrived, as the gateways have it.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Backlog {
    /// Diversions that are open: of a lane, for a unit.
    pub(super) diversions: u64,
    /// Messages in them.
    pub(super) diverted: u64,
    /// Messages that lanes hold.
    pub(super) in_flight: u64,
}

/// Over all gateways, on the ways between one unit and the others.
pub(super) async fn backlog(fabric: &mut Fabric, between: &UnitId) -> Result<Backlog, String> {
    let mut backlog = Backlog::default();
    for unit in fabric.lab().units {
        for gateway in &unit.gateways {
            let status = status(fabric, gateway).await?;
            let crosses = |to: &str| (to == between.as_str()) != (unit.unit == *between);
            for diversion in diversions(&status).filter(|one| crosses(one.to)) {
                backlog.diversions += 1;
                backlog.diverted += diversion.messages;
            }
            let lanes = status["lanes"].as_array().into_iter().flatten();
            let in_flight = lanes.filter_map(|lane| lane["in_flight"].as_u64());
            backlog.in_flight += in_flight.sum::<u64>();
        }
    }
    Ok(backlog)
}

/// The gateway of a unit that has the source's lane: the one whose lane holds most where several say so.
pub(super) async fn lane_holder(
    fabric: &mut Fabric,
    unit: &UnitId,
    source: &str,
) -> Option<GatewayId> {
    let gateways = gateways_of(fabric, unit);
    let mut found = None;
    for gateway in &gateways {
        let Ok(status) = status(fabric, gateway).await else {
            continue;
        };
        let lanes = status["lanes"].as_array().into_iter().flatten();
        let held = lanes
            .filter(|lane| lane["source"] == source)
            .filter(|lane| lane["state"] == "taking" || lane["state"] == "held")
            .filter_map(|lane| lane["in_flight"].as_u64())
            .max();
        let more = held > found.as_ref().map(|(most, _)| *most);
        if let Some(held) = held.filter(|_| more) {
            found = Some((held, gateway.name.clone()));
        }
    }
    let first = || gateways.first().map(|gateway| gateway.name.clone());
    found.map(|(_, name)| name).or_else(first)
}

/// The gateway of a unit that publishes most of what comes for it.
pub(super) async fn receiver_of(fabric: &mut Fabric, unit: &UnitId) -> Option<GatewayId> {
    let gateways = gateways_of(fabric, unit);
    let mut before = Vec::new();
    for gateway in &gateways {
        before.push(published(fabric, gateway).await);
    }
    sleep(COUNTED).await;
    let mut most = None;
    for (gateway, before) in gateways.iter().zip(before) {
        let more = published(fabric, gateway).await.saturating_sub(before);
        if most.as_ref().is_none_or(|(count, _)| more > *count) {
            most = Some((more, gateway.name.clone()));
        }
    }
    most.map(|(_, name)| name)
}

fn gateways_of(fabric: &mut Fabric, unit: &UnitId) -> Vec<LabGateway> {
    let lab = fabric.lab();
    lab.unit(unit.as_str())
        .map(|unit| unit.gateways.clone())
        .unwrap_or_default()
}

/// Publishes that the broker has confirmed to this gateway, ever.
async fn published(fabric: &Fabric, gateway: &LabGateway) -> u64 {
    metric(fabric, gateway, "setgate_confirm_seconds_count ").await
}

/// A metric's value, or the sum over its labels, as a whole number.
pub(super) async fn metric(fabric: &Fabric, gateway: &LabGateway, name: &str) -> u64 {
    let page = format!("http://{}/metrics", gateway.admin);
    let Ok((_, body)) = fabric.http().get(&page, None).await else {
        return 0;
    };
    let text = String::from_utf8_lossy(&body);
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_open_diversion_is_named_even_when_it_is_empty() {
        let open = |messages: u64| {
            let target = json!({"to": "bj-1", "diversion": {"messages": messages}});
            json!({"lanes": [{"targets": [{"to": "sh-2", "diversion": null}, target]}], "links": []})
        };
        assert_eq!(fault_of(&open(7)).unwrap(), "bj-1 is diverted, 7 messages");
        assert!(fault_of(&open(0)).is_some());
        assert_eq!(fault_of(&json!({"links": [], "lanes": []})), None);
    }

    #[test]
    fn a_link_that_is_not_up_is_named_with_its_cause() {
        let link = json!({"to": "bj-1", "peer": "bj-1-a", "state": "down", "cause": "no answer"});
        let fault = fault_of(&json!({"links": [link]})).unwrap();
        assert_eq!(fault, "the link to bj-1-a is down: no answer");
    }
}
