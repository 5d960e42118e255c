//! Frames and method numbers of AMQP 0-9-1, sections 2.3.5 and 4.2 of the specification.

use super::RawError;
use bytes::{BufMut, Bytes, BytesMut};
use std::io::{self, ErrorKind, Read};

pub(super) const FRAME_METHOD: u8 = 1;
pub(super) const FRAME_HEADER: u8 = 2;
pub(super) const FRAME_BODY: u8 = 3;
const FRAME_HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xCE;

/// A tenth of this is agreed on; a length beyond it is a broken stream, and no reason to ask for gigabytes.
const PAYLOAD_BYTES_MAX: u32 = 2 * 1024 * 1024;

/// Class and method numbers.
pub(super) struct Methods;

impl Methods {
    pub(super) const CONNECTION_START: (u16, u16) = (10, 10);
    pub(super) const CONNECTION_START_OK: (u16, u16) = (10, 11);
    pub(super) const CONNECTION_TUNE: (u16, u16) = (10, 30);
    pub(super) const CONNECTION_TUNE_OK: (u16, u16) = (10, 31);
    pub(super) const CONNECTION_OPEN: (u16, u16) = (10, 40);
    pub(super) const CONNECTION_OPEN_OK: (u16, u16) = (10, 41);
    pub(super) const CONNECTION_CLOSE: (u16, u16) = (10, 50);
    pub(super) const CHANNEL_OPEN: (u16, u16) = (20, 10);
    pub(super) const CHANNEL_OPEN_OK: (u16, u16) = (20, 11);
    pub(super) const CHANNEL_CLOSE: (u16, u16) = (20, 40);
    pub(super) const EXCHANGE_DECLARE: (u16, u16) = (40, 10);
    pub(super) const EXCHANGE_DECLARE_OK: (u16, u16) = (40, 11);
    pub(super) const QUEUE_DECLARE: (u16, u16) = (50, 10);
    pub(super) const QUEUE_DECLARE_OK: (u16, u16) = (50, 11);
    pub(super) const QUEUE_BIND: (u16, u16) = (50, 20);
    pub(super) const QUEUE_BIND_OK: (u16, u16) = (50, 21);
    pub(super) const BASIC_PUBLISH: (u16, u16) = (60, 40);
    pub(super) const BASIC_RETURN: (u16, u16) = (60, 50);
    pub(super) const BASIC_GET: (u16, u16) = (60, 70);
    pub(super) const BASIC_GET_OK: (u16, u16) = (60, 71);
    pub(super) const BASIC_GET_EMPTY: (u16, u16) = (60, 72);
    pub(super) const BASIC_ACK: (u16, u16) = (60, 80);
    pub(super) const BASIC_NACK: (u16, u16) = (60, 120);
    pub(super) const CONFIRM_SELECT: (u16, u16) = (85, 10);
    pub(super) const CONFIRM_SELECT_OK: (u16, u16) = (85, 11);
}

/// One frame.
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) payload: Bytes,
}

impl Frame {
    /// Class, method and arguments, where it is a method frame.
    pub(super) fn method(&self) -> Option<((u16, u16), Bytes)> {
        match (self.kind, self.payload.get(..4)) {
            (FRAME_METHOD, Some(&[c1, c0, m1, m0])) => {
                let method = (u16::from_be_bytes([c1, c0]), u16::from_be_bytes([m1, m0]));
                Some((method, self.payload.slice(4..)))
            }
            _ => None,
        }
    }
}

/// A method frame's payload.
pub(super) fn method_payload((class, method): (u16, u16), arguments: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + arguments.len());
    out.put_u16(class);
    out.put_u16(method);
    out.put_slice(arguments);
    out.freeze()
}

/// Appends one frame.
pub(super) fn put_frame(
    out: &mut BytesMut,
    kind: u8,
    channel: u16,
    payload: &[u8],
) -> Result<(), RawError> {
    out.put_u8(kind);
    out.put_u16(channel);
    out.put_u32(u32::try_from(payload.len()).map_err(|_| RawError::TooLong("a frame"))?);
    out.put_slice(payload);
    out.put_u8(FRAME_END);
    Ok(())
}

/// Reads the next frame that isn't a heartbeat.
pub(super) fn read_frame(stream: &mut impl Read) -> io::Result<Frame> {
    let broken = |what: &str| io::Error::new(ErrorKind::InvalidData, what.to_owned());
    loop {
        let mut head = [0u8; 7];
        stream.read_exact(&mut head)?;
        let [kind, _, _, l3, l2, l1, l0] = head;
        let len = u32::from_be_bytes([l3, l2, l1, l0]);
        if head.starts_with(b"AMQP") {
            return Err(broken("the broker speaks another version of AMQP"));
        }
        if len > PAYLOAD_BYTES_MAX {
            return Err(broken("a frame longer than agreed on"));
        }
        let mut payload = vec![0u8; len as usize + 1];
        stream.read_exact(&mut payload)?;
        if payload.pop() != Some(FRAME_END) {
            return Err(broken("a frame without its end octet"));
        }
        if kind != FRAME_HEARTBEAT {
            return Ok(Frame {
                kind,
                payload: payload.into(),
            });
        }
    }
}
