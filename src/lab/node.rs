//! Names by which a person or a test speaks of the parts of a lab.

use crate::model::{GatewayId, UnitId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// One process of the lab.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Node {
    /// `gateway/sh-1-a`.
    Gateway(GatewayId),
    /// `broker/sh-1` is the first node of its cluster, `broker/sh-1/2` the second.
    Broker(UnitId, usize),
    /// `etcd/1`, counted from one.
    Etcd(usize),
    /// The Erlang port mapper that the lab's brokers share.
    PortMapper,
    /// `setgate-lab up` itself.
    Supervisor,
}

/// Why a text names no node or place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names nothing in a lab; say gateway/sh-1-a, broker/sh-1, broker/sh-1/2 or etcd/1 \
     (`setgate-lab status` lists them)"
)]
pub struct BadNode(pub String);

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway(gateway) => write!(f, "gateway/{gateway}"),
            Self::Broker(unit, 1) => write!(f, "broker/{unit}"),
            Self::Broker(unit, number) => write!(f, "broker/{unit}/{number}"),
            Self::Etcd(number) => write!(f, "etcd/{number}"),
            Self::PortMapper => f.write_str("epmd"),
            Self::Supervisor => f.write_str("supervisor"),
        }
    }
}

impl FromStr for Node {
    type Err = BadNode;

    fn from_str(text: &str) -> Result<Self, BadNode> {
        let bad = || BadNode(text.to_owned());
        let number = |word: &str| match word.parse() {
            Ok(0) | Err(_) => Err(bad()),
            Ok(number) => Ok(number),
        };
        let unit = |word: &str| UnitId::parse(word).map_err(|_| bad());
        let mut words = text.split('/');
        let node = match (words.next(), words.next(), words.next()) {
            (Some("gateway"), Some(name), None) => {
                Self::Gateway(GatewayId::parse(name).map_err(|_| bad())?)
            }
            (Some("broker"), Some(name), None) => Self::Broker(unit(name)?, 1),
            (Some("broker"), Some(name), Some(n)) => Self::Broker(unit(name)?, number(n)?),
            (Some("etcd"), Some(n), None) => Self::Etcd(number(n)?),
            (Some("epmd"), None, None) => Self::PortMapper,
            (Some("supervisor"), None, None) => Self::Supervisor,
            _ => return Err(bad()),
        };
        match words.next() {
            None => Ok(node),
            Some(_) => Err(bad()),
        }
    }
}

impl TryFrom<String> for Node {
    type Error = BadNode;
    fn try_from(text: String) -> Result<Self, BadNode> {
        text.parse()
    }
}

impl From<Node> for String {
    fn from(node: Node) -> Self {
        node.to_string()
    }
}

/// One end of a WAN connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Place {
    /// The gateways of a unit.
    Unit(UnitId),
    /// All etcd members.
    Etcd,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(unit) => write!(f, "{unit}"),
            Self::Etcd => f.write_str("etcd"),
        }
    }
}

impl FromStr for Place {
    type Err = BadNode;

    fn from_str(text: &str) -> Result<Self, BadNode> {
        match text {
            "etcd" => Ok(Self::Etcd),
            _ => UnitId::parse(text)
                .map(Self::Unit)
                .map_err(|_| BadNode(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Place {
    type Error = BadNode;
    fn try_from(text: String) -> Result<Self, BadNode> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

/// Which directions of a connection a cut or a heal concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ways {
    /// Both directions.
    Both,
    /// Bytes from the first place to the second; those that come back still flow.
    OneWay,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_reads_back_as_it_is_written() {
        for text in [
            "gateway/sh-1-a",
            "broker/sh-1",
            "broker/sh-1/2",
            "etcd/3",
            "epmd",
        ] {
            assert_eq!(text.parse::<Node>().unwrap().to_string(), text);
        }
        assert_eq!(
            "broker/sh-1/1".parse::<Node>().unwrap().to_string(),
            "broker/sh-1"
        );
    }

    #[test]
    fn a_text_that_names_no_node_is_refused_with_examples() {
        for text in [
            "",
            "sh-1",
            "broker/",
            "broker/sh-1/0",
            "broker/a/2/3",
            "etcd/x",
            "gateway/a b",
        ] {
            let error = text.parse::<Node>().unwrap_err().to_string();
            assert!(error.contains("gateway/sh-1-a"), "{text}: {error}");
        }
    }
}
