//! What a unit's gateways write to each other into the journal: one stream, which all of them follow.
//!
//! An entry is a protobuf message of one gateway; identities travel packed, 16 bytes each. What a later version writes and
//! this one doesn't know is passed over.

use super::super::frame::{FrameError, name, read};
use crate::model::{Epoch, GatewayId, Identity, LaneId, Partition, Revision};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;
use std::time::Duration;

/// One life of one gateway's process: a number drawn at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life(pub u64);

/// What a gateway wrote in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who.
    pub gateway: GatewayId,
    /// In which of its lives.
    pub life: Life,
    /// When, by its own wall clock, since 1970. Tells old entries from new ones, to a second or so.
    pub at: Duration,
    /// Of its table.
    pub epoch: Epoch,
    /// What it has to say of lanes, in order.
    pub records: Vec<Record>,
    /// What else, after that.
    pub notes: Vec<Note>,
}

/// Something said of no lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// The writer wants to have read the journal up to here.
    Mark {
        /// By which it knows its own.
        token: u64,
    },
    /// All that another unit had delivered of the slots that had drained by a table of this revision is in the journal.
    Copied {
        /// The table's.
        revision: Revision,
    },
}

/// One thing said of one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose.
    pub lane: LaneId,
    /// What.
    pub fact: Fact,
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The broker has confirmed these.
    Confirmed(Vec<Identity>),
    /// The broker of another unit has confirmed these, whose slots move here.
    Known(Vec<Identity>),
    /// These were published, and their outcome is unknown.
    Doubtful(Vec<Identity>),
    /// The writer has the lane's lock. It reads the journal up to this before it receives.
    Taken {
        /// By which the writer knows its own.
        token: u64,
    },
    /// The writer has written all that it knew of the lane, publishes no more for it, and frees its lock next.
    Released,
    /// The writer has a newer stream of the lane, and asks whoever has the lock to let go.
    LetGo,
}

impl Fact {
    /// How many identities it is about.
    pub fn count(&self) -> usize {
        match self {
            Self::Confirmed(ids) | Self::Known(ids) | Self::Doubtful(ids) => ids.len(),
            Self::Taken { .. } | Self::Released | Self::LetGo => 0,
        }
    }
}

const IDENTITY_BYTES: usize = 16;

#[derive(Clone, PartialEq, prost::Message)]
struct EntryWire {
    #[prost(string, tag = "1")]
    gateway: String,
    #[prost(uint64, tag = "2")]
    life: u64,
    #[prost(uint64, tag = "3")]
    at_ms: u64,
    #[prost(uint64, tag = "4")]
    epoch: u64,
    #[prost(message, repeated, tag = "5")]
    records: Vec<RecordWire>,
    #[prost(message, repeated, tag = "6")]
    notes: Vec<NoteWire>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NoteWire {
    #[prost(uint64, optional, tag = "1")]
    mark: Option<u64>,
    #[prost(int64, optional, tag = "2")]
    copied: Option<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RecordWire {
    #[prost(string, tag = "1")]
    unit: String,
    #[prost(string, tag = "2")]
    source: String,
    #[prost(uint32, tag = "3")]
    partition: u32,
    #[prost(uint32, tag = "4")]
    fact: u32,
    #[prost(bytes = "bytes", tag = "5")]
    identities: Bytes,
    #[prost(uint64, tag = "6")]
    token: u64,
}

const CONFIRMED: u32 = 1;
const DOUBTFUL: u32 = 2;
const TAKEN: u32 = 3;
const RELEASED: u32 = 4;
const LET_GO: u32 = 5;
const KNOWN: u32 = 6;

impl Entry {
    /// As it is written.
    pub fn encode(&self) -> Bytes {
        let wire = EntryWire {
            gateway: self.gateway.to_string(),
            life: self.life.0,
            at_ms: u64::try_from(self.at.as_millis()).unwrap_or(u64::MAX),
            epoch: self.epoch.0,
            records: self.records.iter().map(RecordWire::of).collect(),
            notes: self.notes.iter().map(NoteWire::of).collect(),
        };
        wire.encode_to_vec().into()
    }

    /// Reads one. Whoever may write into the stream may write anything: an error is for the log, and changes nothing.
    pub fn decode(bytes: Bytes) -> Result<Self, FrameError> {
        let wire: EntryWire = read("journal entry", bytes)?;
        let records = understood(wire.records)?;
        let notes = wire.notes.iter().filter_map(NoteWire::understand);
        Ok(Self {
            notes: notes.collect(),
            gateway: name("the writing gateway", &wire.gateway)?,
            life: Life(wire.life),
            at: Duration::from_millis(wire.at_ms),
            epoch: Epoch(wire.epoch),
            records,
        })
    }
}

impl NoteWire {
    fn of(note: &Note) -> Self {
        match note {
            Note::Mark { token } => Self {
                mark: Some(*token),
                copied: None,
            },
            Note::Copied { revision } => Self {
                mark: None,
                copied: Some(revision.0),
            },
        }
    }

    /// None for what a later version says.
    fn understand(&self) -> Option<Note> {
        let mark = self.mark.map(|token| Note::Mark { token });
        mark.or_else(|| {
            let revision = Revision(self.copied?);
            Some(Note::Copied { revision })
        })
    }
}

/// What one unit tells another of what it has delivered, as it travels.
#[derive(Clone, PartialEq, prost::Message)]
struct RecordsWire {
    #[prost(message, repeated, tag = "1")]
    records: Vec<RecordWire>,
}

pub(in crate::link) fn encode_records(records: &[Record]) -> Vec<u8> {
    let records = records.iter().map(RecordWire::of).collect();
    RecordsWire { records }.encode_to_vec()
}

pub(in crate::link) fn decode_records(bytes: Bytes) -> Result<Vec<Record>, FrameError> {
    let wire: RecordsWire = read("answer to what is known", bytes)?;
    understood(wire.records)
}

fn understood(wires: Vec<RecordWire>) -> Result<Vec<Record>, FrameError> {
    let mut records = Vec::new();
    for record in wires {
        records.extend(record.understand()?);
    }
    Ok(records)
}

impl RecordWire {
    fn of(record: &Record) -> Self {
        let (fact, identities, token) = match &record.fact {
            Fact::Confirmed(ids) => (CONFIRMED, packed(ids), 0),
            Fact::Known(ids) => (KNOWN, packed(ids), 0),
            Fact::Doubtful(ids) => (DOUBTFUL, packed(ids), 0),
            Fact::Taken { token } => (TAKEN, Bytes::new(), *token),
            Fact::Released => (RELEASED, Bytes::new(), 0),
            Fact::LetGo => (LET_GO, Bytes::new(), 0),
        };
        Self {
            unit: record.lane.unit.to_string(),
            source: record.lane.source.to_string(),
            partition: u32::from(record.lane.partition.0),
            fact,
            identities,
            token,
        }
    }

    fn understand(self) -> Result<Option<Record>, FrameError> {
        let fact = match self.fact {
            CONFIRMED => Fact::Confirmed(unpacked(self.identities)?),
            KNOWN => Fact::Known(unpacked(self.identities)?),
            DOUBTFUL => Fact::Doubtful(unpacked(self.identities)?),
            TAKEN => Fact::Taken { token: self.token },
            RELEASED => Fact::Released,
            LET_GO => Fact::LetGo,
            _ => return Ok(None),
        };
        let partition = u16::try_from(self.partition)
            .map_err(|_| FrameError::OutOfRange("a journaled lane's partition"))?;
        Ok(Some(Record {
            lane: LaneId {
                unit: name("a journaled lane's unit", &self.unit)?,
                source: name("a journaled lane's source", &self.source)?,
                partition: Partition(partition),
            },
            fact,
        }))
    }
}

fn packed(ids: &[Identity]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(ids.len() * IDENTITY_BYTES);
    for id in ids {
        bytes.put_u64(id.who);
        bytes.put_u64(id.what);
    }
    bytes.freeze()
}

fn unpacked(mut bytes: Bytes) -> Result<Vec<Identity>, FrameError> {
    if !bytes.len().is_multiple_of(IDENTITY_BYTES) {
        return Err(FrameError::OutOfRange("journaled identities"));
    }
    let mut ids = Vec::with_capacity(bytes.len() / IDENTITY_BYTES);
    while bytes.has_remaining() {
        ids.push(Identity {
            who: bytes.get_u64(),
            what: bytes.get_u64(),
        });
    }
    Ok(ids)
}
