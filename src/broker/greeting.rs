//! Who answers at an address: a broker's `connection.start`, read once before each connection.
//!
//! The client library keeps no server properties, and which arguments a queue may carry depends on the version. Reading
//! them on a connection of its own also tells a frozen or foreign server from a broker before the library, which can't
//! be made to give up a handshake, starts a thread on it.

use crate::amqp::engine::Server;
use crate::amqp::{FieldTable, FieldValue};
use bytes::{Buf, Bytes};
use futures_io::{AsyncRead, AsyncWrite};
use std::future::poll_fn;
use std::pin::Pin;

const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";
/// RabbitMQ's greeting has about 500 bytes; the specification's smallest frame is 4 096.
const GREETING_BYTES_MAX: usize = 65_536;
/// Type octet, channel, payload length.
const FRAME_HEADER_BYTES: usize = 7;

/// Says hello and reads the answer. The stream is of no use afterwards.
pub(super) async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
) -> Result<Server, String> {
    let failed = |error: std::io::Error| format!("reading the broker's greeting: {error}");
    let mut left = &PROTOCOL_HEADER[..];
    while !left.is_empty() {
        let written = poll_fn(|cx| Pin::new(&mut *stream).poll_write(cx, left)).await;
        match written.map_err(failed)? {
            0 => return Err("the server closed the connection at once".to_owned()),
            count => left = &left[count..],
        }
    }
    poll_fn(|cx| Pin::new(&mut *stream).poll_flush(cx))
        .await
        .map_err(failed)?;
    let mut header = [0; FRAME_HEADER_BYTES];
    fill(stream, &mut header).await?;
    if header.starts_with(b"AMQP") || header[..3] != [1, 0, 0] {
        return Err("what answers there doesn't speak AMQP 0-9-1".to_owned());
    }
    let len = u32::from_be_bytes([header[3], header[4], header[5], header[6]]) as usize;
    if len > GREETING_BYTES_MAX {
        return Err(format!("the server's greeting has {len} bytes: no broker"));
    }
    let mut payload = vec![0; len];
    fill(stream, &mut payload).await?;
    parse(payload.into()).ok_or_else(|| "the server's greeting can't be read: no broker".to_owned())
}

async fn fill<S: AsyncRead + Unpin>(stream: &mut S, mut into: &mut [u8]) -> Result<(), String> {
    while !into.is_empty() {
        let count = poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, into))
            .await
            .map_err(|error| format!("reading the broker's greeting: {error}"))?;
        if count == 0 {
            return Err("the server closed the connection instead of greeting".to_owned());
        }
        into = &mut into[count..];
    }
    Ok(())
}

/// `connection.start`: class 10, method 10, protocol version, then the server's properties.
fn parse(mut payload: Bytes) -> Option<Server> {
    if payload.len() < 10 || payload.get_u32() != 0x000A_000A {
        return None;
    }
    payload.advance(2);
    let len = u32::from_be_bytes(payload.get(..4)?.try_into().ok()?) as usize;
    let table = payload.get(..len.checked_add(4)?)?;
    let properties = FieldTable::decode(Bytes::copy_from_slice(table)).ok()?;
    let text = |name| match properties.get(name) {
        Some(FieldValue::Str(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    };
    Some(Server {
        product: text("product")?,
        version: text("version")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{BufMut, BytesMut};

    #[test]
    fn a_greeting_names_product_and_version_and_garbage_does_not_panic() {
        let mut properties = FieldTable::new();
        properties.set("product", FieldValue::str("RabbitMQ"));
        properties.set("version", FieldValue::str("4.0.5"));
        let mut bytes = BytesMut::new();
        bytes.put_u32(0x000A_000A);
        bytes.put_slice(&[0, 9]);
        properties.encode(&mut bytes).unwrap();
        let bytes = bytes.freeze();
        let server = parse(bytes.clone()).unwrap();
        assert_eq!(server.product, "RabbitMQ");
        assert_eq!(server.version, "4.0.5");
        for len in 0..bytes.len() {
            assert_eq!(parse(bytes.slice(..len)), None, "{len}");
        }
    }
}
