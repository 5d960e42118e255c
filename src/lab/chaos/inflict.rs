//! Breaking a running fabric, and mending what was broken.
//!
//! Owns the means of each fault. Promises that when it returns without an error, everything that it stopped, froze, cut or
//! blocked is set going again; whether the fabric has recovered from it is `health`'s to say.

use super::fault::{Fault, Harm, Role, Victim};
use super::health::{lane_holder, receiver_of};
use crate::lab::broker;
use crate::lab::process::{POLL, ProcessState};
use crate::lab::{Await, Fabric, LabError, Memory, Node, Ways};
use crate::model::UnitId;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A failpoint at the 800th parcel strikes within eight seconds at a hundred a second, once the gateway has its streams.
const STRIKE: Duration = Duration::from_secs(40);

/// What a fault has hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hit {
    /// As meant; the text says whom, where that was seen only now.
    Struck(String),
    /// A failpoint that was never reached: this gateway got too few parcels.
    Missed(String),
}

/// Breaks something, lets that last, and takes the cause away.
pub(super) async fn inflict(
    fabric: &mut Fabric,
    fault: &Fault,
    source: &str,
) -> Result<Hit, LabError> {
    match fault {
        Fault::Process(victim, harm) => {
            let node = match victim {
                Victim::Gateway(unit, role) => gateway_of(fabric, unit, *role, source).await?,
                Victim::Broker(unit) => Node::Broker(unit.clone(), 1),
                Victim::Etcd(number) => Node::Etcd(*number),
            };
            harm_process(fabric, &node, *harm).await?;
            Ok(Hit::Struck(node.to_string()))
        }
        Fault::Cut(a, b, ways, time) => {
            fabric.cut(a, b, *ways)?;
            sleep(*time).await;
            fabric.heal(a, b, *ways)?;
            Ok(Hit::Struck(String::new()))
        }
        Fault::Alarm(unit, time) => {
            let broker = Node::Broker(unit.clone(), 1);
            fabric.set_memory(&broker, Memory::Short).await?;
            sleep(*time).await;
            fabric.set_memory(&broker, Memory::Enough).await?;
            Ok(Hit::Struck(String::new()))
        }
        Fault::Close(unit) => {
            close_connections(fabric, unit).await?;
            Ok(Hit::Struck(String::new()))
        }
        Fault::Failpoint(unit, role, seam, parcel) => {
            let node = gateway_of(fabric, unit, *role, source).await?;
            let at = format!("{}:{parcel}", seam.word());
            strike(fabric, unit, &node, &at).await
        }
    }
}

async fn harm_process(fabric: &mut Fabric, node: &Node, harm: Harm) -> Result<(), LabError> {
    match harm {
        Harm::Kill(down) => {
            fabric.kill(node).await?;
            sleep(down).await;
            fabric.start(node, Await::Ready).await
        }
        Harm::Freeze(time) => {
            fabric.pause(node)?;
            sleep(time).await;
            fabric.resume(node)
        }
        Harm::Restart => {
            fabric.stop(node).await?;
            fabric.start(node, Await::Ready).await
        }
    }
}

/// Both the gateways' connections and the applications'.
async fn close_connections(fabric: &mut Fabric, unit: &UnitId) -> Result<(), LabError> {
    let lab = fabric.lab();
    let brokers = lab.unit(unit.as_str()).map(|unit| &unit.brokers);
    for each in brokers.into_iter().flatten() {
        for user in [&each.user, &each.app_user] {
            broker::close_connections(fabric.http(), each, user).await?;
        }
    }
    Ok(())
}

async fn gateway_of(
    fabric: &mut Fabric,
    unit: &UnitId,
    role: Role,
    source: &str,
) -> Result<Node, LabError> {
    let found = match role {
        Role::Receiving => receiver_of(fabric, unit).await,
        Role::Sending => lane_holder(fabric, unit, source).await,
    };
    let node = found.map(Node::Gateway);
    node.ok_or_else(|| LabError::Refused(format!("{unit} has no gateway to break")))
}

/// Arms a gateway, gives it all of its unit's work by killing the others, and waits until it has killed itself.
async fn strike(
    fabric: &mut Fabric,
    unit: &UnitId,
    node: &Node,
    at: &str,
) -> Result<Hit, LabError> {
    let lab = fabric.lab();
    let gateways = lab.unit(unit.as_str()).map(|unit| &unit.gateways);
    let others: Vec<Node> = gateways
        .into_iter()
        .flatten()
        .map(|gateway| Node::Gateway(gateway.name.clone()))
        .filter(|other| other != node)
        .collect();
    fabric.kill(node).await?;
    fabric.start_with(node, "SETGATE_FAILPOINT", at)?;
    // It may strike before it is ready: then there is nothing to wait for.
    if let Err(error) = fabric.wait_ready(node).await
        && fabric.is_running(node)
    {
        return Err(error);
    }
    for other in &others {
        fabric.kill(other).await?;
    }
    let deadline = Instant::now() + STRIKE;
    while fabric.is_running(node) && Instant::now() < deadline {
        sleep(POLL).await;
    }
    let struck = !fabric.is_running(node);
    if !struck {
        fabric.kill(node).await?;
    }
    for again in std::iter::once(node).chain(&others) {
        fabric.start(again, Await::Nothing).await?;
    }
    for again in std::iter::once(node).chain(&others) {
        fabric.wait_ready(again).await?;
    }
    Ok(if struck {
        Hit::Struck(node.to_string())
    } else {
        Hit::Missed(node.to_string())
    })
}

/// Sets going whatever is stopped, frozen, cut or blocked, after a fault that ended in the middle.
pub(super) async fn mend(fabric: &mut Fabric) -> Result<(), LabError> {
    for cut in fabric.cuts() {
        fabric.heal(&cut.from, &cut.to, Ways::Both)?;
    }
    for (node, state, _) in fabric.states() {
        match state {
            ProcessState::Running => {}
            ProcessState::Paused => fabric.resume(&node)?,
            ProcessState::Stopped | ProcessState::Ended(_) => {
                fabric.start(&node, Await::Ready).await?;
            }
        }
    }
    for unit in fabric.lab().units {
        let broker = Node::Broker(unit.unit, 1);
        fabric.set_memory(&broker, Memory::Enough).await?;
    }
    Ok(())
}
