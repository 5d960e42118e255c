//! Every case of receiving by itself, and a world of kills, hand-overs and repetitions.

mod cases;
mod judged;
mod knowledge;
mod world;

use super::*;
use crate::amqp::RawProperties;
use crate::model::{
    Address, Epoch, GatewayId, Lineage, Marking, MessageId, Partition, Retry, Revision, Round,
    SealKeys, SourceName, UnitId, Way, Why,
};
use bytes::Bytes;

const MINUTE: Duration = Duration::from_mins(1);
const WINDOW: Duration = Duration::from_mins(10);
const HERE: Life = Life(1);
const THERE: Life = Life(2);

fn lane(partition: u16) -> LaneId {
    LaneId {
        unit: "sh-1".parse::<UnitId>().unwrap(),
        source: "orders".parse::<SourceName>().unwrap(),
        partition: Partition(partition),
    }
}

fn gateway(life: Life) -> GatewayId {
    format!("sh-2-{}", life.0).parse().unwrap()
}

fn minutes(minutes: u32) -> Duration {
    // Not near zero: times are since 1970.
    MINUTE * (1_000 + minutes)
}

fn id(number: u64) -> Identity {
    Identity {
        who: number.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        what: number,
    }
}

fn ids(identity: Identity) -> Identities {
    Identities {
        current: identity,
        former: Vec::new(),
    }
}

fn keys() -> SealKeys {
    SealKeys::parse(br#"{"seal": "000102030405060708090a0b0c0d0e0f"}"#).unwrap()
}

fn parcel(number: u64, message: &'static str) -> Parcel {
    Parcel {
        number: ParcelNumber(number),
        lineage: Lineage::default(),
        epoch: Epoch(1),
        revision: Revision(1),
        id: Some(MessageId(Bytes::from_static(message.as_bytes()))),
        round: Round(1),
        retry: Retry(0),
        slot: None,
        why: Why::Owner,
        to: "sh-2".parse().unwrap(),
        address: Address {
            exchange: Bytes::from_static(b"orders.local"),
            routing_key: Bytes::from_static(b"order.cn"),
        },
        properties: RawProperties::default(),
        body: Bytes::from_static(message.as_bytes()),
        sent_before: false,
        marking: Marking::AtReceiver(Way::default()),
    }
}

fn again(number: u64, message: &'static str) -> Parcel {
    Parcel {
        sent_before: true,
        ..parcel(number, message)
    }
}

fn offer(parcel: Parcel) -> Offer {
    Offer {
        identities: keys().identities(&lane(0), &parcel, &keys().body(&parcel.body)),
        parcel,
        verdict: Ok(()),
    }
}

fn entry(life: Life, at: Duration, facts: Vec<Fact>) -> Entry {
    Entry {
        notes: Vec::new(),
        gateway: gateway(life),
        life,
        at,
        epoch: Epoch(1),
        records: facts
            .into_iter()
            .map(|fact| Record {
                lane: lane(0),
                fact,
            })
            .collect(),
    }
}

/// A gateway that has taken the lane over from one that had told everything.
fn seen() -> Seen {
    let mut seen = Seen::new(HERE, IDENTITIES_MAX);
    take(&mut seen, HERE, minutes(0));
    seen.apply(&entry(HERE, minutes(0), vec![Fact::Released]), minutes(0));
    // What was before is out of the window.
    for minute in (3..=30).step_by(3) {
        seen.confirm(&lane(0), id(1_000_000), minutes(minute));
    }
    take(&mut seen, HERE, minutes(30));
    assert!(!seen.has_gap(&lane(0)));
    seen
}

fn take(seen: &mut Seen, life: Life, at: Duration) -> Vec<Heard> {
    seen.apply(&entry(life, at, vec![Fact::Taken { token: 7 }]), at)
}
