//! What a receiver checks before it takes anything.
//!
//! Owns the judgement of a stream's `Hello`. Promises that nothing is believed of a peer that its certificate doesn't
//! say, as far as there is one.

use super::frame::{Hello, PROTOCOL};
use super::refusal::{Refusal, RefusalReason};
use crate::model::{Epoch, GatewayId, Lineage, Revision, SpaceId, UnitId};
use std::collections::BTreeSet;

/// Who a gateway is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    /// Its routing world.
    pub space: SpaceId,
    /// Its unit.
    pub unit: UnitId,
    /// Its own name.
    pub gateway: GatewayId,
}

/// What a gateway's table says, as far as links need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Which life of the space.
    pub lineage: Lineage,
    /// The table's.
    pub epoch: Epoch,
    /// The table's.
    pub revision: Revision,
    /// The space's units.
    pub units: BTreeSet<UnitId>,
    /// Those that another unit stands in for, or is about to: they get no leave.
    pub taken: BTreeSet<UnitId>,
    /// Lanes of all the other units.
    pub lanes_elsewhere: usize,
}

/// Who is at the other end, as far as it is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// By its certificate.
    Certified {
        /// The space in it.
        space: SpaceId,
        /// The unit in it.
        unit: UnitId,
    },
    /// The link runs without TLS: whatever the peer says of itself.
    Unproven,
    /// The same process: a local target.
    Local,
}

/// Whether a stream may begin. `standing` is absent until the gateway has a table.
pub fn admit(
    hello: &Hello,
    peer: &Peer,
    here: &Here,
    standing: Option<&Standing>,
) -> Result<(), Refusal> {
    let refuse = |reason, cause| Err(Refusal::new(reason, cause));
    if hello.protocol != PROTOCOL {
        return refuse(
            RefusalReason::Protocol,
            format!(
                "the peer speaks link protocol {}, this gateway {PROTOCOL}: run versions that share one",
                hello.protocol
            ),
        );
    }
    if hello.space != here.space {
        return refuse(
            RefusalReason::WrongSpace,
            format!(
                "the peer is of space {}, this is {}",
                hello.space, here.space
            ),
        );
    }
    if let Peer::Certified { space, unit } = peer {
        if *space != here.space {
            return refuse(
                RefusalReason::WrongSpace,
                format!(
                    "the peer's certificate is for space {space}, this is {}",
                    here.space
                ),
            );
        }
        if *unit != hello.from {
            return refuse(
                RefusalReason::WrongUnit,
                format!(
                    "the peer says it is unit {}, its certificate says {unit}",
                    hello.from
                ),
            );
        }
    }
    if hello.to != here.unit {
        return refuse(
            RefusalReason::WrongTarget,
            format!(
                "the peer wants unit {}, this is {}: see its link.via and this gateway's link.advertise",
                hello.to, here.unit
            ),
        );
    }
    let Some(standing) = standing else {
        return refuse(
            RefusalReason::NotReady,
            format!("gateway {} has no table yet", here.gateway),
        );
    };
    if !standing.units.contains(&hello.from) {
        return refuse(
            RefusalReason::UnknownUnit,
            format!("space {} has no unit {}", here.space, hello.from),
        );
    }
    if hello.lineage != standing.lineage {
        return refuse(
            RefusalReason::Lineage,
            format!(
                "the peer is of lineage {}, this gateway of {}: one of their etcds is another life of the space",
                hello.lineage, standing.lineage
            ),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Incarnation;
    use crate::model::{Partition, SourceName};

    fn unit(name: &str) -> UnitId {
        UnitId::parse(name).unwrap()
    }

    fn here() -> Here {
        Here {
            space: SpaceId::parse("trade").unwrap(),
            unit: unit("bj-1"),
            gateway: GatewayId::parse("bj-1-a").unwrap(),
        }
    }

    fn standing() -> Standing {
        Standing {
            lineage: Lineage("one".into()),
            epoch: Epoch(3),
            revision: Revision(9),
            units: [unit("sh-1"), unit("bj-1")].into(),
            taken: BTreeSet::new(),
            lanes_elsewhere: 1,
        }
    }

    fn hello() -> Hello {
        Hello {
            protocol: PROTOCOL,
            space: SpaceId::parse("trade").unwrap(),
            lineage: Lineage("one".into()),
            epoch: Epoch(2),
            revision: Revision(8),
            from: unit("sh-1"),
            gateway: GatewayId::parse("sh-1-a").unwrap(),
            to: unit("bj-1"),
            source: SourceName::parse("orders").unwrap(),
            partition: Partition(0),
            incarnation: Incarnation(1),
        }
    }

    fn certified(space: &str, name: &str) -> Peer {
        Peer::Certified {
            space: SpaceId::parse(space).unwrap(),
            unit: unit(name),
        }
    }

    fn reason(hello: &Hello, peer: &Peer) -> Option<RefusalReason> {
        admit(hello, peer, &here(), Some(&standing()))
            .err()
            .map(|refusal| refusal.reason)
    }

    #[test]
    fn a_peer_is_what_its_certificate_says() {
        assert_eq!(reason(&hello(), &certified("trade", "sh-1")), None);
        assert_eq!(
            reason(&hello(), &certified("trade", "sh-2")),
            Some(RefusalReason::WrongUnit)
        );
        assert_eq!(
            reason(&hello(), &certified("other", "sh-1")),
            Some(RefusalReason::WrongSpace)
        );
    }

    #[test]
    fn every_other_mismatch_has_its_reason() {
        let changed = |change: fn(&mut Hello)| {
            let mut hello = hello();
            change(&mut hello);
            reason(&hello, &Peer::Unproven)
        };
        assert_eq!(changed(|_| ()), None);
        assert_eq!(
            changed(|hello| hello.protocol = PROTOCOL + 1),
            Some(RefusalReason::Protocol)
        );
        assert_eq!(
            changed(|hello| hello.space = SpaceId::parse("other").unwrap()),
            Some(RefusalReason::WrongSpace)
        );
        assert_eq!(
            changed(|hello| hello.from = unit("gz-1")),
            Some(RefusalReason::UnknownUnit)
        );
        assert_eq!(
            changed(|hello| hello.to = unit("sh-2")),
            Some(RefusalReason::WrongTarget)
        );
        assert_eq!(
            changed(|hello| hello.lineage = Lineage("zero".into())),
            Some(RefusalReason::Lineage)
        );
        let refusal = admit(&hello(), &Peer::Unproven, &here(), None).unwrap_err();
        assert_eq!(refusal.reason, RefusalReason::NotReady);
    }
}
