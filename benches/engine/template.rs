//! A message's properties as bytes, made once: only its number differs from the next one's.

use super::scripted::TOKEN_HEADER;
use bytes::{Bytes, BytesMut};
use setgate::amqp::{FieldValue, Properties, RawProperties};

/// A message's properties, but for its number.
pub(super) struct Template {
    bytes: Bytes,
    token_at: usize,
}

const TOKEN_DIGITS: usize = 16;

impl Template {
    pub(super) fn new() -> Self {
        let mut properties = Properties {
            delivery_mode: Some(2),
            ..Properties::default()
        };
        let digits = [b'#'; TOKEN_DIGITS];
        properties
            .headers_mut()
            .set(TOKEN_HEADER, FieldValue::str(digits));
        let bytes = properties.encode().unwrap();
        let token_at = bytes
            .windows(TOKEN_DIGITS)
            .position(|window| window == digits);
        Self {
            token_at: token_at.unwrap(),
            bytes,
        }
    }

    pub(super) fn of(&self, number: u64) -> RawProperties {
        let mut bytes = BytesMut::from(self.bytes.as_ref());
        let mut rest = number;
        for digit in bytes[self.token_at..self.token_at + TOKEN_DIGITS]
            .iter_mut()
            .rev()
        {
            *digit = b'0' + u8::try_from(rest % 10).unwrap();
            rest /= 10;
        }
        RawProperties::from_wire(bytes.freeze())
    }
}
