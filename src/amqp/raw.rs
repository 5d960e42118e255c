//! A message's properties as the bytes that they travel in.
//!
//! Promises that what nobody touched stays as it came, byte for byte: order and repetition of headers, types that this
//! crate doesn't know, strings that are no text. A look at one property or one header decodes nothing else, and never
//! reads outside the bytes. See `edit` for changes.

use super::{CodecError, FieldValue, Properties};
use bytes::Bytes;

/// Property flags and property list, as in a content header frame behind class, weight and body size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawProperties(Bytes);

impl Default for RawProperties {
    /// No property at all.
    fn default() -> Self {
        Self(Bytes::from_static(&[0, 0]))
    }
}

impl RawProperties {
    /// Takes the bytes as they came. Nothing is checked: see [`RawProperties::check`].
    pub fn from_wire(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Whether every property lies within the bytes and nothing behind them.
    pub fn check(&self) -> Result<(), CodecError> {
        self.decode().map(|_| ())
    }

    /// All of them, decoded.
    pub fn decode(&self) -> Result<Properties, CodecError> {
        Properties::decode(self.0.clone())
    }

    /// The first header of this name, undecoded.
    pub fn header(&self, _name: impl AsRef<[u8]>) -> Option<RawValue> {
        todo!()
    }
}

/// A header's value, undecoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawValue {
    /// The type octet.
    pub kind: u8,
    /// What follows it, the length of a string, table or array included.
    pub bytes: Bytes,
}

impl RawValue {
    /// The bytes of a string or a byte array; `None` for every other type.
    pub fn as_bytes(&self) -> Option<Bytes> {
        todo!()
    }

    /// The integer that this is, whatever its width; `None` for every other type.
    pub fn as_integer(&self) -> Option<i64> {
        todo!()
    }

    /// Decoded.
    pub fn decode(&self) -> Result<FieldValue, CodecError> {
        todo!()
    }
}
