//! Parcels as bytes: the payload of a batch.
//!
//! A batch is the protobuf message `{ repeated Parcel parcels = 1; }`. It is read by hand, field by field, so that the
//! number of parcels is bounded before room is made for them: an empty parcel takes two octets on the wire and some
//! three hundred in memory.

use super::frame::{Arrival, FrameError, name, read};
use crate::amqp::RawProperties;
use crate::model::marks::PATH_MAX;
use crate::model::{
    Address, Epoch, Lineage, Marking, MessageId, Parcel, ParcelNumber, Retry, Revision, Round,
    Slot, UnitId, Way, Why,
};
use bytes::{Buf, Bytes, BytesMut};
use prost::encoding::{
    WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint, key_len,
};

/// Parcels in one batch. One of no body takes some 100 bytes, so a frame of 64 KiB has some 650.
const BATCH_PARCELS_MAX: usize = 4_096;

const PARCELS_TAG: u32 = 1;
const BODY_TAG: u32 = 14;

/// A key and a length of ten octets at most.
const HEADS_BYTES: usize = 16;

#[derive(Clone, PartialEq, prost::Message)]
struct ParcelWire {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(string, tag = "2")]
    lineage: String,
    #[prost(uint64, tag = "3")]
    epoch: u64,
    #[prost(int64, tag = "4")]
    revision: i64,
    #[prost(bytes = "bytes", optional, tag = "5")]
    id: Option<Bytes>,
    #[prost(uint32, tag = "6")]
    round: u32,
    #[prost(uint32, tag = "7")]
    retry: u32,
    #[prost(uint32, optional, tag = "8")]
    slot: Option<u32>,
    #[prost(bytes = "bytes", tag = "9")]
    why: Bytes,
    #[prost(string, tag = "10")]
    to: String,
    #[prost(bytes = "bytes", tag = "11")]
    exchange: Bytes,
    #[prost(bytes = "bytes", tag = "12")]
    routing_key: Bytes,
    /// In AMQP's own encoding.
    #[prost(bytes = "bytes", tag = "13")]
    properties: Bytes,
    #[prost(bytes = "bytes", tag = "14")]
    body: Bytes,
    #[prost(bool, tag = "15")]
    sent_before: bool,
    #[prost(string, repeated, tag = "16")]
    path: Vec<String>,
    #[prost(bytes = "bytes", optional, tag = "17")]
    user_id: Option<Bytes>,
    #[prost(bool, tag = "18")]
    replayed: bool,
    #[prost(bool, tag = "19")]
    redelivered: bool,
}

/// Appends one parcel to a batch's payload.
pub(super) fn encode_parcel(parcel: &Parcel, payload: &mut BytesMut) {
    let body = &parcel.body;
    encode_all_but_body(parcel, body.len(), payload);
    payload.extend_from_slice(body);
}

/// Appends one parcel but for its body, whose bytes are to follow at once. The fields of a protobuf message may come in any
/// order: the body is the last.
pub(super) fn encode_all_but_body(parcel: &Parcel, body_bytes: usize, payload: &mut BytesMut) {
    use prost::Message as _;
    let way = match &parcel.marking {
        Marking::AtReceiver(way) => way.clone(),
        Marking::Done => {
            debug_assert!(false, "what has its marks goes to nobody else");
            Way::default()
        }
    };
    let wire = ParcelWire {
        number: parcel.number.0,
        lineage: parcel.lineage.0.clone(),
        epoch: parcel.epoch.0,
        revision: parcel.revision.0,
        id: parcel.id.as_ref().map(|id| id.0.clone()),
        round: parcel.round.0,
        retry: parcel.retry.0,
        slot: parcel.slot.map(|slot| slot.0),
        why: Bytes::from_static(parcel.why.as_str().as_bytes()),
        to: parcel.to.to_string(),
        exchange: parcel.address.exchange.clone(),
        routing_key: parcel.address.routing_key.clone(),
        properties: parcel.properties.as_bytes().clone(),
        body: Bytes::new(),
        sent_before: parcel.sent_before,
        path: way.path.iter().map(UnitId::to_string).collect(),
        user_id: way.user_id,
        replayed: way.replayed,
        redelivered: way.redelivered,
    };
    let body_head = key_len(BODY_TAG) + encoded_len_varint(body_bytes as u64);
    let length = wire.encoded_len() + body_head + body_bytes;
    payload.reserve(HEADS_BYTES + length - body_bytes);
    encode_key(PARCELS_TAG, WireType::LengthDelimited, payload);
    encode_varint(length as u64, payload);
    wire.encode_raw(payload);
    encode_key(BODY_TAG, WireType::LengthDelimited, payload);
    encode_varint(body_bytes as u64, payload);
}

/// Reads a batch's payload. What can't be split into parcels is an error of the frame; a parcel that can't be
/// understood is one of that parcel.
pub(super) fn decode_batch(mut payload: Bytes) -> Result<Vec<Arrival>, FrameError> {
    let malformed = |source| FrameError::Malformed {
        what: "batch",
        source,
    };
    let mut arrivals = Vec::new();
    while payload.has_remaining() {
        let (tag, wire_type) = decode_key(&mut payload).map_err(malformed)?;
        if tag != PARCELS_TAG || wire_type != WireType::LengthDelimited {
            return Err(FrameError::OutOfRange("a batch's field"));
        }
        let length =
            usize::try_from(decode_varint(&mut payload).map_err(malformed)?).unwrap_or(usize::MAX);
        if length > payload.len() {
            return Err(FrameError::OutOfRange("a parcel's length"));
        }
        if arrivals.len() == BATCH_PARCELS_MAX {
            return Err(FrameError::TooMany {
                what: "parcels",
                max: BATCH_PARCELS_MAX,
            });
        }
        let wire: ParcelWire = read("parcel", payload.split_to(length))?;
        let number = ParcelNumber(wire.number);
        arrivals.push(match understand(wire) {
            Ok(parcel) => Arrival::Readable(Box::new(parcel)),
            Err(cause) => Arrival::Unreadable { number, cause },
        });
    }
    Ok(arrivals)
}

fn understand(wire: ParcelWire) -> Result<Parcel, String> {
    let to = name("the parcel's target", &wire.to).map_err(|error| error.to_string())?;
    let Some(why) = Why::from_word(&wire.why) else {
        return Err(
            "it says why it goes there in a word that this version doesn't know".to_owned(),
        );
    };
    let properties = RawProperties::from_wire(wire.properties);
    properties
        .check()
        .map_err(|error| format!("its properties can't be read: {error}"))?;
    if wire.path.len() > PATH_MAX {
        return Err(format!("its path has more than {PATH_MAX} units"));
    }
    let path = wire
        .path
        .iter()
        .map(|unit| name("a unit of its path", unit))
        .collect::<Result<_, _>>()
        .map_err(|error: FrameError| error.to_string())?;
    Ok(Parcel {
        number: ParcelNumber(wire.number),
        lineage: Lineage(wire.lineage),
        epoch: Epoch(wire.epoch),
        revision: Revision(wire.revision),
        id: wire.id.map(MessageId),
        round: Round(wire.round),
        retry: Retry(wire.retry),
        slot: wire.slot.map(Slot),
        why,
        to,
        address: Address {
            exchange: wire.exchange,
            routing_key: wire.routing_key,
        },
        properties,
        body: wire.body,
        sent_before: wire.sent_before,
        marking: Marking::AtReceiver(Way {
            path,
            user_id: wire.user_id,
            replayed: wire.replayed,
            redelivered: wire.redelivered,
        }),
    })
}
