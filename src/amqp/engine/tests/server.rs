//! What a server says, as bytes; and what a client wrote, as frames.
//!
//! Written against the specification on its own: it shares no code with the engine's own frames and methods.

use super::with_token;
use crate::amqp::{FieldTable, FieldValue};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// A frame of any type, with a true size and end.
pub(super) fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.put_u16(channel);
    out.put_u32(u32::try_from(payload.len()).unwrap());
    out.put_slice(payload);
    out.put_u8(0xCE);
    out
}

pub(super) fn method(channel: u16, class: u16, method: u16, arguments: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.put_u16(class);
    payload.put_u16(method);
    payload.put_slice(arguments);
    frame(1, channel, &payload)
}

pub(super) fn short(text: &[u8]) -> Vec<u8> {
    let mut out = vec![u8::try_from(text.len()).unwrap()];
    out.put_slice(text);
    out
}

pub(super) fn long(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32(u32::try_from(text.len()).unwrap());
    out.put_slice(text);
    out
}

pub(super) fn start_with(version: (u8, u8), mechanisms: &str) -> Vec<u8> {
    let capabilities: FieldTable = [(
        Bytes::from_static(b"publisher_confirms"),
        FieldValue::Bool(true),
    )]
    .into_iter()
    .collect();
    let table: FieldTable = [
        (Bytes::from_static(b"product"), FieldValue::str("RabbitMQ")),
        (Bytes::from_static(b"version"), FieldValue::str("3.10.8")),
        (
            Bytes::from_static(b"capabilities"),
            FieldValue::Table(capabilities),
        ),
    ]
    .into_iter()
    .collect();
    let mut properties = BytesMut::new();
    table.encode(&mut properties).unwrap();
    let arguments = [
        &[version.0, version.1],
        &properties[..],
        &long(mechanisms.as_bytes()),
        &long(b"en_US"),
    ];
    method(0, 10, 10, &arguments.concat())
}

pub(super) fn start() -> Vec<u8> {
    start_with((0, 9), "PLAIN AMQPLAIN")
}

pub(super) fn tune(channels_max: u16, frame_bytes_max: u32) -> Vec<u8> {
    let mut arguments = Vec::new();
    arguments.put_u16(channels_max);
    arguments.put_u32(frame_bytes_max);
    arguments.put_u16(60);
    method(0, 10, 30, &arguments)
}

pub(super) fn open_ok() -> Vec<u8> {
    method(0, 10, 41, &short(b""))
}

/// Up to and with `connection.open-ok`: up to 2,047 channels, frames of up to 128 KiB.
pub(super) fn handshake() -> Vec<u8> {
    [start(), tune(2047, 131_072), open_ok()].concat()
}

fn close(code: u16, text: &[u8]) -> Vec<u8> {
    let mut arguments = Vec::new();
    arguments.put_u16(code);
    arguments.put_slice(&short(text));
    arguments.put_u32(0);
    arguments
}

pub(super) fn connection_close(code: u16, text: &[u8]) -> Vec<u8> {
    method(0, 10, 50, &close(code, text))
}

pub(super) fn connection_close_ok() -> Vec<u8> {
    method(0, 10, 51, &[])
}

pub(super) fn channel_open_ok(channel: u16) -> Vec<u8> {
    method(channel, 20, 11, &long(b""))
}

pub(super) fn channel_close(channel: u16, code: u16, text: &[u8]) -> Vec<u8> {
    method(channel, 20, 40, &close(code, text))
}

pub(super) fn channel_close_ok(channel: u16) -> Vec<u8> {
    method(channel, 20, 41, &[])
}

pub(super) fn confirm_select_ok(channel: u16) -> Vec<u8> {
    method(channel, 85, 11, &[])
}

pub(super) fn qos_ok(channel: u16) -> Vec<u8> {
    method(channel, 60, 11, &[])
}

pub(super) fn consume_ok(channel: u16) -> Vec<u8> {
    method(channel, 60, 21, &short(b"amq.ctag-1"))
}

pub(super) fn declare_ok(channel: u16, queue: &[u8]) -> Vec<u8> {
    method(channel, 50, 11, &[&short(queue)[..], &[0; 8]].concat())
}

pub(super) fn ack(channel: u16, number: u64, multiple: bool) -> Vec<u8> {
    let mut arguments = Vec::new();
    arguments.put_u64(number);
    arguments.put_u8(u8::from(multiple));
    method(channel, 60, 80, &arguments)
}

pub(super) fn nack(channel: u16, number: u64, multiple: bool) -> Vec<u8> {
    let mut arguments = Vec::new();
    arguments.put_u64(number);
    arguments.put_u8(u8::from(multiple));
    method(channel, 60, 120, &arguments)
}

pub(super) fn deliver_method(channel: u16, tag: u64, exchange: &[u8], key: &[u8]) -> Vec<u8> {
    let mut arguments = short(b"amq.ctag-1");
    arguments.put_u64(tag);
    arguments.put_u8(0);
    arguments.put_slice(&short(exchange));
    arguments.put_slice(&short(key));
    method(channel, 60, 60, &arguments)
}

pub(super) fn header(channel: u16, body_bytes: u64, properties: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.put_u16(60);
    payload.put_u16(0);
    payload.put_u64(body_bytes);
    payload.put_slice(properties);
    frame(2, channel, &payload)
}

/// A body in frames of at most so many bytes.
pub(super) fn body_frames(channel: u16, body: &[u8], at_most: usize) -> Vec<u8> {
    body.chunks(at_most)
        .flat_map(|piece| frame(3, channel, piece))
        .collect()
}

pub(super) fn deliver(channel: u16, tag: u64, properties: &[u8], body: &[u8]) -> Vec<u8> {
    [
        deliver_method(channel, tag, b"orders", b"new"),
        header(channel, body.len() as u64, properties),
        body_frames(channel, body, 4088),
    ]
    .concat()
}

pub(super) fn return_method(channel: u16) -> Vec<u8> {
    let mut arguments = Vec::new();
    arguments.put_u16(312);
    arguments.put_slice(&short(b"NO_ROUTE"));
    arguments.put_slice(&short(b"orders"));
    arguments.put_slice(&short(b"new"));
    method(channel, 60, 50, &arguments)
}

/// A return of what carried this token.
pub(super) fn return_of(channel: u16, token: u64, body: &[u8]) -> Vec<u8> {
    [
        return_method(channel),
        header(channel, body.len() as u64, with_token(token).as_bytes()),
        body_frames(channel, body, 4088),
    ]
    .concat()
}

pub(super) fn heartbeat() -> Vec<u8> {
    frame(8, 0, &[])
}

/// A frame that a client wrote.
#[derive(Debug, PartialEq, Eq, Clone)]
pub(super) struct Written {
    pub(super) kind: u8,
    pub(super) channel: u16,
    pub(super) payload: Vec<u8>,
}

impl Written {
    /// Class and method of a method frame.
    pub(super) fn id(&self) -> (u16, u16) {
        assert_eq!(self.kind, 1);
        let mut payload = &self.payload[..];
        (payload.get_u16(), payload.get_u16())
    }
}

/// What a client wrote, frame by frame.
pub(super) fn frames(mut bytes: &[u8]) -> Vec<Written> {
    let mut frames = Vec::new();
    while bytes.has_remaining() {
        let kind = bytes.get_u8();
        let channel = bytes.get_u16();
        let size = bytes.get_u32() as usize;
        let payload = bytes[..size].to_vec();
        bytes.advance(size);
        assert_eq!(bytes.get_u8(), 0xCE);
        frames.push(Written {
            kind,
            channel,
            payload,
        });
    }
    frames
}

/// Class and method of each method frame that a client wrote.
pub(super) fn methods(bytes: &[u8]) -> Vec<(u16, u16)> {
    frames(bytes)
        .iter()
        .filter(|frame| frame.kind == 1)
        .map(Written::id)
        .collect()
}
