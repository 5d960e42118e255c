//! Whether a gateway can do its work now: `/readyz`.
//!
//! Pure. Ready means that messages can be taken and delivered: a table is in force, the broker takes them, and each lane
//! has been opened (or has said why it can't be). etcd away
//! is a warning when there is a table, because a gateway routes by the table that it has, for hours if need be.

use super::{GatewayStatus, LaneState, UpDown};
use serde::{Deserialize, Serialize};

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// No reasons against it.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// What isn't as it should be, though messages go.
    pub warnings: Vec<String>,
}

/// Judges a gateway by what it knows.
pub fn readiness(status: &GatewayStatus) -> Readiness {
    let mut reasons = Vec::new();
    let mut warnings = Vec::new();
    let etcd = status
        .etcd_cause
        .as_ref()
        .map(|cause| format!("etcd: {cause}"));
    match (&status.table, status.etcd) {
        (None, _) => {
            reasons.push("no routing table is in force yet".to_owned());
            reasons.extend(etcd);
        }
        (Some(_), UpDown::Down) => {
            warnings.push("etcd is down: the last good table stays in force".to_owned());
            warnings.extend(etcd);
        }
        (Some(_), UpDown::Up) => {}
    }
    if status.brokers.is_empty() {
        reasons.push("the broker is not connected yet".to_owned());
    }
    for line in &status.brokers {
        let vhost = &line.vhost;
        if line.state == UpDown::Down {
            let cause = line.cause.as_deref().unwrap_or("no connection");
            reasons.push(format!("broker, vhost {vhost}: {cause}"));
        } else if let Some(why) = &line.blocked {
            reasons.push(format!(
                "broker, vhost {vhost}: it blocks publishers: {why}"
            ));
        }
    }
    for lane in &status.lanes {
        if lane.facts.state == LaneState::Opening {
            reasons.push(format!(
                "lane {}/{} is being opened",
                lane.source, lane.partition
            ));
        }
    }
    reasons.dedup();
    Readiness {
        ready: reasons.is_empty(),
        reasons,
        warnings,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::status::{StatusHub, TableFacts};
    use crate::model::{Epoch, GatewayId, Lineage, Revision, SpaceId, UnitId};

    fn hub() -> StatusHub {
        StatusHub::new(
            SpaceId::parse("trade").unwrap(),
            UnitId::parse("sh-1").unwrap(),
            GatewayId::parse("sh-1-a").unwrap(),
        )
    }

    fn with_table(hub: &StatusHub) {
        hub.set_table(TableFacts {
            lineage: Lineage("one".into()),
            epoch: Epoch(1),
            revision: Revision(1),
            units: Vec::new(),
            moves: Vec::new(),
        });
    }

    #[test]
    fn a_new_gateway_is_not_ready_and_says_why() {
        let hub = hub();
        hub.etcd_down("connection refused");
        hub.broker_down("/", "no route to host");
        let answer = readiness(&hub.snapshot());
        assert!(!answer.ready);
        let text = answer.reasons.join("\n");
        for word in ["table", "connection refused", "no route to host"] {
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn a_gateway_with_a_table_is_ready_without_etcd() {
        let hub = hub();
        with_table(&hub);
        hub.etcd_down("connection refused");
        hub.broker_up("/", None);
        let answer = readiness(&hub.snapshot());
        assert!(answer.ready, "{answer:?}");
        assert!(!answer.warnings.is_empty());
    }

    #[test]
    fn a_blocked_broker_is_not_ready() {
        let hub = hub();
        with_table(&hub);
        hub.etcd_up();
        hub.broker_up("/", Some("low on memory".to_owned()));
        assert!(readiness(&hub.snapshot()).reasons[0].contains("low on memory"));
    }
}
