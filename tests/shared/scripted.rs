//! An engine with one open channel, and a broker whose words are bytes that were prepared.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use setgate::amqp::engine::{
    ChannelId, Command, Credentials, Engine, EngineSettings, Event, Input,
};
use setgate::amqp::{FieldTable, RawProperties};
use std::io::IoSlice;
use std::time::Duration;
use tokio::time::Instant;

/// The channel.
pub(crate) const CHANNEL: ChannelId = ChannelId(1);

/// The header that pairs returns.
pub(crate) const TOKEN_HEADER: &str = "x-set-parcel";

/// Takes what is to be written as a vectored write would, to the last byte.
pub(crate) fn output(engine: &mut Engine) -> usize {
    let output = engine.output();
    let mut written = 0;
    while output.has_remaining() {
        let mut slices = [IoSlice::new(&[]); 64];
        let count = output.chunks_vectored(&mut slices);
        let bytes = slices[..count].iter().map(|slice| slice.len()).sum();
        output.advance(bytes);
        written += bytes;
    }
    written
}

pub(crate) fn command(engine: &mut Engine, command: Command) {
    engine.handle(Input::Command(command), Instant::now().into_std());
    output(engine);
}

/// The peer's answer on the channel, which must be understood.
pub(crate) fn answer(engine: &mut Engine, method: (u16, u16), arguments: &[u8]) {
    let frame = method_frame(CHANNEL.0, method, arguments);
    engine.handle(Input::Bytes(frame), Instant::now().into_std());
    let event = engine.next_event();
    assert!(matches!(event, Some(Event::Done { .. })), "{event:?}");
}

/// An engine with one open channel.
pub(crate) fn opened(now: std::time::Instant) -> Engine {
    let settings = EngineSettings {
        credentials: Credentials::Plain {
            user: "guest".to_owned(),
            password: "guest".to_owned().into(),
        },
        vhost: "/".to_owned(),
        heartbeat: Duration::from_secs(5),
        frame_bytes_max: 131_072,
        client_properties: FieldTable::new(),
        answer_timeout: Duration::from_secs(10),
        body_bytes_max: 16 << 20,
        token_header: TOKEN_HEADER,
    };
    let mut engine = Engine::new(settings, now);
    // Version 0-9, no server properties.
    let mut start = vec![0, 9];
    start.put_u32(0);
    start.put_u32(5);
    start.put_slice(b"PLAIN");
    start.put_u32(5);
    start.put_slice(b"en_US");
    let mut tune = Vec::new();
    tune.put_u16(2_047);
    tune.put_u32(131_072);
    tune.put_u16(5);
    for (method, arguments) in [((10, 10), start), ((10, 30), tune), ((10, 41), vec![0])] {
        let frame = method_frame(0, method, &arguments);
        engine.handle(Input::Bytes(frame), now);
        output(&mut engine);
    }
    let event = engine.next_event();
    assert!(matches!(event, Some(Event::Opened { .. })), "{event:?}");
    command(&mut engine, Command::OpenChannel { channel: CHANNEL });
    answer(&mut engine, (20, 11), &[0, 0, 0, 0]);
    engine
}

fn put_frame(out: &mut BytesMut, kind: u8, channel: u16, payload: &[u8]) {
    out.put_u8(kind);
    out.put_u16(channel);
    out.put_u32(u32::try_from(payload.len()).unwrap());
    out.put_slice(payload);
    out.put_u8(0xce);
}

pub(crate) fn method_frame(channel: u16, (class, method): (u16, u16), arguments: &[u8]) -> Bytes {
    let mut payload = BytesMut::new();
    payload.put_u16(class);
    payload.put_u16(method);
    payload.put_slice(arguments);
    let mut out = BytesMut::new();
    put_frame(&mut out, 1, channel, &payload);
    out.freeze()
}

/// Appends a delivery: method, header and body.
pub(crate) fn put_delivery(
    out: &mut BytesMut,
    tag: u64,
    (exchange, routing_key): (&str, &str),
    properties: &RawProperties,
    body: &[u8],
) {
    let mut deliver = BytesMut::from(CONSUMER_TAG);
    deliver.put_u64(tag);
    deliver.put_u8(0);
    for text in [exchange, routing_key] {
        deliver.put_u8(u8::try_from(text.len()).unwrap());
        deliver.put_slice(text.as_bytes());
    }
    out.put_slice(&method_frame(CHANNEL.0, (60, 60), &deliver));
    let mut header = BytesMut::new();
    header.put_u16(60);
    header.put_u16(0);
    header.put_u64(body.len() as u64);
    header.put_slice(properties.as_bytes());
    put_frame(out, 2, CHANNEL.0, &header);
    put_frame(out, 3, CHANNEL.0, body);
}

/// As RabbitMQ names consumers, with its length.
pub(crate) const CONSUMER_TAG: &[u8] = b"\x1famq.ctag-0123456789abcdefghijkl";
