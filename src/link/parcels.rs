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
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

/// Parcels in one batch. One of no body takes some 100 bytes, so a frame of 64 KiB has some 650.
const BATCH_PARCELS_MAX: usize = 4_096;

const PARCELS_TAG: u32 = 1;
const BODY_TAG: u32 = 14;

/// Of a parcel: room for any length below 32 GiB.
const LENGTH_BYTES: usize = 5;

/// All keys, lengths and numbers of a parcel.
const HEADS_BYTES: usize = 96;

/// Room for the names of most parcels: lineage, units, exchange, routing key, id.
const NAMES_BYTES: usize = 256;

#[derive(Clone, PartialEq, prost::Message)]
struct ParcelWire {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(bytes = "bytes", tag = "2")]
    lineage: Bytes,
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
    #[prost(bytes = "bytes", tag = "10")]
    to: Bytes,
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
    #[prost(bytes = "bytes", repeated, tag = "16")]
    path: Vec<Bytes>,
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
/// order: the body is the last. Written by hand, since prost's own would copy each name into a string of its own first.
pub(super) fn encode_all_but_body(parcel: &Parcel, body_bytes: usize, payload: &mut BytesMut) {
    let none = Way::default();
    let way = match &parcel.marking {
        Marking::AtReceiver(way) => way,
        Marking::Done => {
            debug_assert!(false, "what has its marks goes to nobody else");
            &none
        }
    };
    let properties = parcel.properties.as_bytes();
    payload.reserve(HEADS_BYTES + properties.len() + NAMES_BYTES + body_bytes);
    encode_key(PARCELS_TAG, WireType::LengthDelimited, payload);
    let at = payload.len();
    payload.put_slice(&[0; LENGTH_BYTES]);
    put_number(1, parcel.number.0, payload);
    put_bytes(2, parcel.lineage.0.as_bytes(), payload);
    put_number(3, parcel.epoch.0, payload);
    put_number(4, parcel.revision.0.cast_unsigned(), payload);
    if let Some(id) = &parcel.id {
        put_bytes(5, &id.0, payload);
    }
    put_number(6, parcel.round.0.into(), payload);
    put_number(7, parcel.retry.0.into(), payload);
    if let Some(slot) = parcel.slot {
        put_number(8, slot.0.into(), payload);
    }
    put_bytes(9, parcel.why.as_str().as_bytes(), payload);
    put_bytes(10, parcel.to.as_str().as_bytes(), payload);
    put_bytes(11, &parcel.address.exchange, payload);
    put_bytes(12, &parcel.address.routing_key, payload);
    put_bytes(13, properties, payload);
    put_number(15, parcel.sent_before.into(), payload);
    for unit in &way.path {
        put_bytes(16, unit.as_str().as_bytes(), payload);
    }
    if let Some(user) = &way.user_id {
        put_bytes(17, user, payload);
    }
    put_number(18, way.replayed.into(), payload);
    put_number(19, way.redelivered.into(), payload);
    encode_key(BODY_TAG, WireType::LengthDelimited, payload);
    encode_varint(body_bytes as u64, payload);
    let length = payload.len() - at - LENGTH_BYTES + body_bytes;
    if let Some(place) = payload
        .get_mut(at..)
        .and_then(<[u8]>::first_chunk_mut::<LENGTH_BYTES>)
    {
        *place = padded(length as u64);
    }
}

fn put_number(tag: u32, number: u64, payload: &mut BytesMut) {
    encode_key(tag, WireType::Varint, payload);
    encode_varint(number, payload);
}

fn put_bytes(tag: u32, bytes: &[u8], payload: &mut BytesMut) {
    encode_key(tag, WireType::LengthDelimited, payload);
    encode_varint(bytes.len() as u64, payload);
    payload.put_slice(bytes);
}

/// A varint of a length below 32 GiB that takes the same room whatever it is, so that it can be written last.
fn padded(length: u64) -> [u8; LENGTH_BYTES] {
    let mut octets = [0x80; LENGTH_BYTES];
    for (octet, shift) in octets.iter_mut().zip((0..).step_by(7)) {
        *octet |= (length >> shift).to_le_bytes()[0] & 0x7f;
    }
    octets[LENGTH_BYTES - 1] &= 0x7f;
    octets
}

/// Reads a batch's payload. What can't be split into parcels is an error of the frame; a parcel that can't be
/// understood is one of that parcel.
pub(super) fn decode_batch(mut payload: Bytes) -> Result<Vec<Arrival>, FrameError> {
    let malformed = |source| FrameError::Malformed {
        what: "batch",
        source,
    };
    let mut arrivals: Vec<Arrival> = Vec::new();
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
        let before = match arrivals.last() {
            Some(Arrival::Readable(parcel)) => Some(&**parcel),
            Some(Arrival::Unreadable { .. }) | None => None,
        };
        arrivals.push(match understand(wire, before) {
            Ok(parcel) => Arrival::Readable(Box::new(parcel)),
            Err(cause) => Arrival::Unreadable { number, cause },
        });
    }
    Ok(arrivals)
}

/// Most parcels of a batch have the names of the one before: those are shared with it.
fn understand(wire: ParcelWire, before: Option<&Parcel>) -> Result<Parcel, String> {
    let to = match before {
        Some(before) if before.to.as_str().as_bytes() == wire.to => before.to.clone(),
        _ => unit("the parcel's target", &wire.to)?,
    };
    let lineage = match before {
        Some(before) if before.lineage.0.as_bytes() == wire.lineage => before.lineage.clone(),
        _ => Lineage(text("the parcel's lineage", &wire.lineage)?.into()),
    };
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
    let known: &[UnitId] = match before.map(|before| &before.marking) {
        Some(Marking::AtReceiver(way)) => &way.path,
        Some(Marking::Done) | None => &[],
    };
    let path = wire.path.iter().enumerate().map(|(at, name)| {
        let known = known.get(at);
        match known.filter(|known| known.as_str().as_bytes() == name) {
            Some(known) => Ok(known.clone()),
            None => unit("a unit of its path", name),
        }
    });
    let path = path.collect::<Result<_, _>>()?;
    Ok(Parcel {
        number: ParcelNumber(wire.number),
        lineage,
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

fn text<'a>(what: &str, bytes: &'a [u8]) -> Result<&'a str, String> {
    std::str::from_utf8(bytes).map_err(|_| format!("{what} is no text"))
}

fn unit(what: &'static str, bytes: &[u8]) -> Result<UnitId, String> {
    name(what, text(what, bytes)?).map_err(|error| error.to_string())
}
