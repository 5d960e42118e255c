//! JSON values of a space's keys, other than documents.

use crate::model::{Epoch, Partition, Revision, SourceName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `members/<unit>/<gateway>`: that this gateway exists, whether or not it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Of the gateway's program, when it last started.
    pub version: String,
    /// When it first registered, RFC 3339.
    pub since: String,
}

/// `gateways/<unit>/<gateway>`: what a running gateway says of itself, under its lease. Unknown fields are passed over:
/// gateways of two versions live side by side during an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayRecord {
    /// `host:port` that peers reach it at.
    pub link: String,
    /// `host:port` of its admin endpoint.
    pub admin: String,
    /// Of its program.
    pub version: String,
    /// Of the table that it applies.
    #[serde(default)]
    pub revision: Revision,
    /// Of the table that it applies.
    #[serde(default)]
    pub epoch: Epoch,
    /// The newest table with fenced slots which it has on its disk, by which all its lanes and receivers work, and of whose
    /// fenced slots nothing is under way here.
    #[serde(default)]
    pub drained: Revision,
    /// The newest table on its disk with units that are taken over, and to whom the last leave that it granted has ended.
    #[serde(default)]
    pub ungranted: Revision,
    /// The newest table by which its unit had drained slots that move here, and everything is known here that it had
    /// delivered of them.
    #[serde(default)]
    pub copied: Revision,
    /// The newest table by which all had drained slots that move away from its unit, and its applications have consumed what
    /// was delivered to them.
    #[serde(default)]
    pub consumed: Revision,
    /// Whether it has read its unit's journal: before that, it receives nothing.
    #[serde(default)]
    pub read: bool,
    /// Whether its broker takes confirms.
    pub broker: BrokerHealth,
    /// The lanes that it holds.
    #[serde(default)]
    pub lanes: Vec<LaneRecord>,
}

/// Whether a broker takes publishes and confirms them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BrokerHealth {
    /// It does.
    Up,
    /// No connection.
    Down,
    /// Connected, but an alarm holds publishers.
    Blocked,
}

/// One lane that a gateway holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LaneRecord {
    /// Its source.
    pub source: SourceName,
    /// Which of the source's lanes.
    pub partition: Partition,
}

/// `history/<uuid7>`: who changed what and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// `user@host`, or the gateway that carried a wish out.
    pub who: String,
    /// In the operator's words.
    pub why: String,
    /// RFC 3339.
    pub at: String,
    /// Each changed file as it was before; absent: it was not there.
    pub before: BTreeMap<String, Option<String>>,
}
