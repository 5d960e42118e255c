//! The frames of a link, as values and as bytes.
//!
//! On the wire a frame is four octets of length (big-endian, of what follows), one octet of kind, and a protobuf
//! message. Promises that what one side encodes the other decodes to the same value, that a frame has a bound for its
//! kind which is checked before anything is allocated for it, and that no bytes make it panic.

use super::answers::{decode_answers, encode_answers};
use super::packing::unpack;
use super::parcels::{decode_batch, encode_parcel};
use super::receiver::{Record, decode_records, encode_records};
use super::refusal::{Refusal, RefusalReason};
use crate::model::{
    Answer, Epoch, GatewayId, Lineage, NameError, Parcel, ParcelNumber, Partition, Revision,
    SlotSet, SourceName, SpaceId, UnitId,
};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;

/// The version of the link protocol, in every hello.
pub const PROTOCOL: u32 = 2;

/// The bound for every frame but a batch. The largest is 1 024 answers with a cause of 256 bytes each: 300 KiB.
pub const SMALL_FRAME_BYTES_MAX: usize = 512 * 1_024;

/// The bound for a batch: one body, and a frame of headers (128 KiB in RabbitMQ) with room for names and marks.
pub const fn frame_bytes_max(message_max: usize) -> usize {
    let batch = message_max.saturating_add(256 * 1_024);
    if batch > SMALL_FRAME_BYTES_MAX {
        batch
    } else {
        SMALL_FRAME_BYTES_MAX
    }
}

/// Which start of a lane: parcel numbers begin anew with it, and a newer one ends an older one's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// How a stream begins: whose lane it is, by which table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The sender's.
    pub space: SpaceId,
    /// Of the sender's table.
    pub lineage: Lineage,
    /// Of the sender's table.
    pub epoch: Epoch,
    /// Of the sender's table.
    pub revision: Revision,
    /// The sender's unit, whose broker has the lane.
    pub from: UnitId,
    /// The sender.
    pub gateway: GatewayId,
    /// The unit that the sender wants to reach.
    pub to: UnitId,
    /// The lane's.
    pub source: SourceName,
    /// The lane's.
    pub partition: Partition,
    /// The lane's.
    pub incarnation: Incarnation,
}

/// The receiver takes the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// Who receives.
    pub gateway: GatewayId,
    /// What may be unanswered.
    pub credit: super::Credit,
}

/// A sign of life, and its echo: on a connection of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    /// The sender's own clock; comes back as it is.
    pub sent_nanos: u64,
    /// Of the speaker's table; empty while it has none.
    pub lineage: Lineage,
    /// Of the speaker's table.
    pub epoch: Epoch,
    /// The speaker's.
    pub unit: UnitId,
    /// The speaker.
    pub gateway: GatewayId,
    /// In an echo: the unit that asked has leave to go on for a while from when it asked.
    pub leave: bool,
}

/// One parcel of a batch as it came.
#[derive(Debug, Clone, PartialEq)]
pub enum Arrival {
    /// As it was sent.
    Readable(Box<Parcel>),
    /// It has a number, but can't be understood: to be refused alone, since a stream that ended over it would meet it
    /// again for ever.
    Unreadable {
        /// Pairs the answer.
        number: ParcelNumber,
        /// What is wrong with it.
        cause: String,
    },
}

/// Everything that can be said on a link.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// Sender to receiver, first.
    Hello(Hello),
    /// Receiver to sender, first.
    Welcome(Welcome),
    /// Receiver to sender, last.
    Refusal(Refusal),
    /// Sender to receiver.
    Batch(Vec<Arrival>),
    /// Receiver to sender; in no order, each parcel once.
    Answers(Vec<(ParcelNumber, Answer)>),
    /// On the control connection.
    Canary(Canary),
    /// Its answer.
    CanaryEcho(Canary),
    /// What has the unit delivered of slots that move?
    Ask(Ask),
    /// It has delivered these; the last one has none.
    Known(Vec<Record>),
}

/// What a unit asks that is about to own slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Of its table.
    pub lineage: Lineage,
    /// Those that move to it.
    pub slots: SlotSet,
}

/// What bytes are wrong, or why a value can't be bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than its kind may be.
    #[error("a frame of {bytes} bytes is above the bound of {bytes_max}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// No kind at all.
    #[error("a frame without a kind")]
    Empty,
    /// Of no known kind.
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// Not the protobuf message of its kind.
    #[error("a malformed {what}")]
    Malformed {
        /// The kind.
        what: &'static str,
        /// What protobuf says.
        source: prost::DecodeError,
    },
    /// A name that is none.
    #[error("{what} is no name")]
    BadName {
        /// The field.
        what: &'static str,
        /// Why.
        source: NameError,
    },
    /// A value out of its range.
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
    /// Packed, and not to be unpacked.
    #[error("a packed batch can't be unpacked: {0}")]
    Unpackable(String),
    /// More in one frame than a sender of this protocol puts there.
    #[error("more than {max} {what} in one frame")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The bound.
        max: usize,
    },
}

pub(super) const HEAD_BYTES: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Hello = 1,
    Welcome = 2,
    Refusal = 3,
    Batch = 4,
    Answers = 5,
    Canary = 6,
    CanaryEcho = 7,
    /// A batch, made smaller.
    Packed = 8,
    Ask = 9,
    Known = 10,
}

impl Kind {
    pub(super) fn from_octet(octet: u8) -> Result<Self, FrameError> {
        Ok(match octet {
            1 => Self::Hello,
            2 => Self::Welcome,
            3 => Self::Refusal,
            4 => Self::Batch,
            5 => Self::Answers,
            6 => Self::Canary,
            7 => Self::CanaryEcho,
            8 => Self::Packed,
            9 => Self::Ask,
            10 => Self::Known,
            other => return Err(FrameError::UnknownKind(other)),
        })
    }
}

/// What stands before a payload of this many bytes: its length and its kind.
pub(super) fn head(kind: Kind, payload_bytes: usize) -> Result<[u8; HEAD_BYTES + 1], FrameError> {
    let length = payload_bytes + 1;
    let Ok(length_octets) = u32::try_from(length) else {
        return Err(FrameError::TooLong {
            bytes: length,
            bytes_max: u32::MAX as usize,
        });
    };
    let [a, b, c, d] = length_octets.to_be_bytes();
    Ok([a, b, c, d, kind as u8])
}

/// Puts length and kind before a payload.
pub(super) fn enclose(kind: Kind, payload: &[u8]) -> Result<Bytes, FrameError> {
    let head = head(kind, payload.len())?;
    let mut out = BytesMut::with_capacity(head.len() + payload.len());
    out.put_slice(&head);
    out.put_slice(payload);
    Ok(out.freeze())
}

impl Frame {
    /// The whole frame, length and all.
    pub fn encode(&self) -> Result<Bytes, FrameError> {
        match self {
            Self::Hello(hello) => enclose(Kind::Hello, &HelloWire::from(hello).encode_to_vec()),
            Self::Welcome(welcome) => {
                enclose(Kind::Welcome, &WelcomeWire::from(welcome).encode_to_vec())
            }
            Self::Refusal(refusal) => {
                enclose(Kind::Refusal, &RefusalWire::from(refusal).encode_to_vec())
            }
            Self::Batch(arrivals) => {
                let mut payload = BytesMut::new();
                for arrival in arrivals {
                    match arrival {
                        Arrival::Readable(parcel) => encode_parcel(parcel, &mut payload),
                        Arrival::Unreadable { .. } => {
                            return Err(FrameError::OutOfRange("an unreadable parcel"));
                        }
                    }
                }
                enclose(Kind::Batch, &payload)
            }
            Self::Answers(answers) => enclose(Kind::Answers, &encode_answers(answers)),
            Self::Canary(canary) => {
                enclose(Kind::Canary, &CanaryWire::from(canary).encode_to_vec())
            }
            Self::CanaryEcho(canary) => {
                enclose(Kind::CanaryEcho, &CanaryWire::from(canary).encode_to_vec())
            }
            Self::Ask(ask) => enclose(Kind::Ask, &AskWire::from(ask).encode_to_vec()),
            Self::Known(records) => enclose(Kind::Known, &encode_records(records)),
        }
    }

    /// Reads a payload of a kind; a packed one unpacks to `bytes_max` at most.
    pub(super) fn decode(kind: Kind, payload: Bytes, bytes_max: usize) -> Result<Self, FrameError> {
        Ok(match kind {
            Kind::Hello => Self::Hello(read::<HelloWire>("hello", payload)?.try_into()?),
            Kind::Welcome => Self::Welcome(read::<WelcomeWire>("welcome", payload)?.try_into()?),
            Kind::Refusal => Self::Refusal(read::<RefusalWire>("refusal", payload)?.into()),
            Kind::Batch => Self::Batch(decode_batch(payload)?),
            Kind::Packed => Self::Batch(decode_batch(unpack(&payload, bytes_max)?)?),
            Kind::Answers => Self::Answers(decode_answers(payload)?),
            Kind::Canary => Self::Canary(read::<CanaryWire>("canary", payload)?.try_into()?),
            Kind::CanaryEcho => {
                Self::CanaryEcho(read::<CanaryWire>("canary", payload)?.try_into()?)
            }
            Kind::Ask => Self::Ask(read::<AskWire>("ask", payload)?.try_into()?),
            Kind::Known => Self::Known(decode_records(payload)?),
        })
    }
}

/// Reads one protobuf message.
pub(super) fn read<M: prost::Message + Default>(
    what: &'static str,
    payload: Bytes,
) -> Result<M, FrameError> {
    M::decode(payload).map_err(|source| FrameError::Malformed { what, source })
}

/// Reads one name.
pub(super) fn name<N: std::str::FromStr<Err = NameError>>(
    what: &'static str,
    text: &str,
) -> Result<N, FrameError> {
    text.parse()
        .map_err(|source| FrameError::BadName { what, source })
}

#[derive(Clone, PartialEq, prost::Message)]
struct HelloWire {
    #[prost(uint32, tag = "1")]
    protocol: u32,
    #[prost(string, tag = "2")]
    space: String,
    #[prost(string, tag = "3")]
    lineage: String,
    #[prost(uint64, tag = "4")]
    epoch: u64,
    #[prost(int64, tag = "5")]
    revision: i64,
    #[prost(string, tag = "6")]
    from: String,
    #[prost(string, tag = "7")]
    gateway: String,
    #[prost(string, tag = "8")]
    to: String,
    #[prost(string, tag = "9")]
    source: String,
    #[prost(uint32, tag = "10")]
    partition: u32,
    #[prost(uint64, tag = "11")]
    incarnation: u64,
}

impl From<&Hello> for HelloWire {
    fn from(hello: &Hello) -> Self {
        Self {
            protocol: hello.protocol,
            space: hello.space.to_string(),
            lineage: hello.lineage.to_string(),
            epoch: hello.epoch.0,
            revision: hello.revision.0,
            from: hello.from.to_string(),
            gateway: hello.gateway.to_string(),
            to: hello.to.to_string(),
            source: hello.source.to_string(),
            partition: u32::from(hello.partition.0),
            incarnation: hello.incarnation.0,
        }
    }
}

impl TryFrom<HelloWire> for Hello {
    type Error = FrameError;
    fn try_from(wire: HelloWire) -> Result<Self, FrameError> {
        Ok(Self {
            protocol: wire.protocol,
            space: name("the hello's space", &wire.space)?,
            lineage: Lineage::from(wire.lineage),
            epoch: Epoch(wire.epoch),
            revision: Revision(wire.revision),
            from: name("the hello's unit", &wire.from)?,
            gateway: name("the hello's gateway", &wire.gateway)?,
            to: name("the hello's target", &wire.to)?,
            source: name("the hello's source", &wire.source)?,
            partition: u16::try_from(wire.partition)
                .map(Partition)
                .map_err(|_| FrameError::OutOfRange("the hello's partition"))?,
            incarnation: Incarnation(wire.incarnation),
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct WelcomeWire {
    #[prost(string, tag = "1")]
    gateway: String,
    #[prost(uint64, tag = "2")]
    credit_bytes: u64,
    #[prost(uint64, tag = "3")]
    credit_parcels: u64,
}

impl From<&Welcome> for WelcomeWire {
    fn from(welcome: &Welcome) -> Self {
        Self {
            gateway: welcome.gateway.to_string(),
            credit_bytes: welcome.credit.bytes as u64,
            credit_parcels: welcome.credit.parcels as u64,
        }
    }
}

impl TryFrom<WelcomeWire> for Welcome {
    type Error = FrameError;
    fn try_from(wire: WelcomeWire) -> Result<Self, FrameError> {
        // A peer of another version may grant more than the channels of this one are made for: take what fits.
        let most = super::Credit::MAX;
        let within = |granted: u64, max: usize| usize::try_from(granted).unwrap_or(max).min(max);
        if wire.credit_bytes == 0 || wire.credit_parcels == 0 {
            return Err(FrameError::OutOfRange("the welcome's credit"));
        }
        Ok(Self {
            gateway: name("the welcome's gateway", &wire.gateway)?,
            credit: super::Credit {
                bytes: within(wire.credit_bytes, most.bytes),
                parcels: within(wire.credit_parcels, most.parcels),
            },
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct RefusalWire {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    cause: String,
}

impl From<&Refusal> for RefusalWire {
    fn from(refusal: &Refusal) -> Self {
        Self {
            reason: refusal.reason.as_str().to_owned(),
            cause: refusal.cause.clone(),
        }
    }
}

impl From<RefusalWire> for Refusal {
    fn from(wire: RefusalWire) -> Self {
        match RefusalReason::from_word(&wire.reason) {
            Some(reason) => Self::new(reason, wire.cause),
            // A newer peer's word: a refusal all the same.
            None => Self::new(
                RefusalReason::Protocol,
                format!("{}: {}", wire.reason, wire.cause),
            ),
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct CanaryWire {
    #[prost(uint64, tag = "1")]
    sent_nanos: u64,
    #[prost(string, tag = "2")]
    lineage: String,
    #[prost(uint64, tag = "3")]
    epoch: u64,
    #[prost(string, tag = "4")]
    unit: String,
    #[prost(string, tag = "5")]
    gateway: String,
    #[prost(bool, tag = "6")]
    leave: bool,
}

impl From<&Canary> for CanaryWire {
    fn from(canary: &Canary) -> Self {
        Self {
            sent_nanos: canary.sent_nanos,
            lineage: canary.lineage.to_string(),
            epoch: canary.epoch.0,
            unit: canary.unit.to_string(),
            gateway: canary.gateway.to_string(),
            leave: canary.leave,
        }
    }
}

impl TryFrom<CanaryWire> for Canary {
    type Error = FrameError;
    fn try_from(wire: CanaryWire) -> Result<Self, FrameError> {
        Ok(Self {
            sent_nanos: wire.sent_nanos,
            lineage: Lineage::from(wire.lineage),
            epoch: Epoch(wire.epoch),
            unit: name("the canary's unit", &wire.unit)?,
            gateway: name("the canary's gateway", &wire.gateway)?,
            leave: wire.leave,
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct AskWire {
    #[prost(string, tag = "1")]
    lineage: String,
    #[prost(string, tag = "2")]
    slots: String,
}

impl From<&Ask> for AskWire {
    fn from(ask: &Ask) -> Self {
        Self {
            lineage: ask.lineage.to_string(),
            slots: ask.slots.to_string(),
        }
    }
}

impl TryFrom<AskWire> for Ask {
    type Error = FrameError;
    fn try_from(wire: AskWire) -> Result<Self, FrameError> {
        Ok(Self {
            lineage: Lineage::from(wire.lineage),
            slots: SlotSet::parse(&wire.slots).map_err(|_| FrameError::OutOfRange("the slots"))?,
        })
    }
}
