//! A message's properties as the bytes that they travel in.
//!
//! Promises that what nobody touched stays as it came, byte for byte: order and repetition of headers, types that this
//! crate doesn't know, strings that are no text. A look at one property or one header decodes nothing else, allocates
//! nothing, and never reads outside the bytes. See `edit` for changes.

use super::field::FieldValue;
use super::properties::Properties;
use super::reader::{CodecError, Reader};
use super::walk::{DELIVERY_MODE, End, Entries, HEADERS, PRIORITY, Parts, RawValues, TIMESTAMP};
use bytes::{BufMut, Bytes, BytesMut};

pub use super::walk::RawValue;

/// The properties that are short strings; each has the number of its flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextProperty {
    /// MIME type of the body.
    ContentType = 15,
    /// MIME encoding of the body.
    ContentEncoding = 14,
    /// Application's own.
    CorrelationId = 10,
    /// A queue by custom.
    ReplyTo = 9,
    /// Milliseconds, as decimal text.
    Expiration = 8,
    /// Application's own id of the message.
    MessageId = 7,
    /// Application's own.
    Kind = 5,
    /// The publishing user.
    UserId = 4,
    /// Application's own.
    AppId = 3,
    /// Deprecated in AMQP 0-9-1, carried all the same.
    ClusterId = 2,
}

impl TextProperty {
    /// All of them, in their order on the wire.
    pub const ALL: [Self; 10] = [
        Self::ContentType,
        Self::ContentEncoding,
        Self::CorrelationId,
        Self::ReplyTo,
        Self::Expiration,
        Self::MessageId,
        Self::Kind,
        Self::UserId,
        Self::AppId,
        Self::ClusterId,
    ];

    pub(super) const fn flag(self) -> u32 {
        self as u32
    }
}

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
    pub const fn from_wire(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// Encodes properties; an error where a string has more bytes than its length can say.
    pub fn of(properties: &Properties) -> Result<Self, CodecError> {
        properties.encode().map(Self)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Whether every property lies within the bytes and nothing behind them, and every header within its table. What is
    /// inside a header's value is its readers' affair, and so is what follows a value of unknown type.
    pub fn check(&self) -> Result<(), CodecError> {
        let mut parts = Parts::of(&self.0)?;
        for part in parts.by_ref() {
            let (flag, part) = part?;
            if flag == HEADERS {
                check_table(part.get(4..).unwrap_or_default())?;
            }
        }
        match parts.rest().len() {
            0 => Ok(()),
            left => Err(CodecError::Trailing(left)),
        }
    }

    /// All of them, decoded.
    pub fn decode(&self) -> Result<Properties, CodecError> {
        Properties::decode(self.0.clone())
    }

    /// One property as it travels; `None` when it is absent or out of reach in damaged bytes.
    fn part(&self, wanted: u32) -> Option<&[u8]> {
        let parts = Parts::of(&self.0).ok()?;
        if parts.flags() & (1 << wanted) == 0 {
            return None;
        }
        for part in parts {
            let (flag, bytes) = part.ok()?;
            if flag == wanted {
                return Some(bytes);
            }
        }
        None
    }

    /// One of the short strings; `None` when it is absent, as for every damaged one.
    pub fn text(&self, property: TextProperty) -> Option<&[u8]> {
        self.part(property.flag())?.get(1..)
    }

    /// 1 transient, 2 persistent.
    pub fn delivery_mode(&self) -> Option<u8> {
        self.part(DELIVERY_MODE)?.first().copied()
    }

    /// 0 to 255.
    pub fn priority(&self) -> Option<u8> {
        self.part(PRIORITY)?.first().copied()
    }

    /// Seconds since 1970.
    pub fn timestamp(&self) -> Option<u64> {
        Some(u64::from_be_bytes(*self.part(TIMESTAMP)?.first_chunk()?))
    }

    /// Whether there is a header table, be it empty.
    pub fn has_headers(&self) -> bool {
        self.part(HEADERS).is_some()
    }

    /// The headers in their order, undecoded. Ends before the first whose type is unknown: how long that one is, and so
    /// what follows it, is not known either.
    pub fn headers(&self) -> RawHeaders<'_> {
        let table = self.part(HEADERS).and_then(|table| table.get(4..));
        RawHeaders(Entries::of(table.unwrap_or_default()))
    }

    /// The first header of this name, undecoded.
    pub fn header(&self, name: impl AsRef<[u8]>) -> Option<RawValue<'_>> {
        let name = name.as_ref();
        self.headers()
            .find_map(|(found, value)| (found == name).then_some(value))
    }

    /// A part that was looked up here, shared instead of copied. It keeps all of these bytes.
    pub fn share(&self, part: &[u8]) -> Bytes {
        let start = (part.as_ptr() as usize).checked_sub(self.0.as_ptr() as usize);
        let within = start.filter(|start| start + part.len() <= self.0.len());
        match within {
            Some(start) => self.0.slice(start..start + part.len()),
            None => Bytes::copy_from_slice(part),
        }
    }
}

fn check_table(table: &[u8]) -> Result<(), CodecError> {
    let mut entries = Entries::of(table);
    entries.by_ref().for_each(drop);
    match entries.end() {
        End::Complete | End::Opaque(_) => Ok(()),
        End::Damaged(error) => Err(error),
    }
}

/// See [`RawProperties::headers`].
#[derive(Debug, Clone)]
pub struct RawHeaders<'a>(Entries<'a>);

impl<'a> RawHeaders<'a> {
    pub(super) const fn of(entries: Entries<'a>) -> Self {
        Self(entries)
    }
}

impl<'a> Iterator for RawHeaders<'a> {
    type Item = (&'a [u8], RawValue<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|entry| (entry.name, entry.value))
    }
}

impl<'a> RawValue<'a> {
    /// The bytes of a string or a byte array; `None` for every other type.
    pub fn as_bytes(self) -> Option<&'a [u8]> {
        match self.kind {
            b'S' | b'x' => self.bytes.get(4..),
            _ => None,
        }
    }

    /// The integer that this is, whatever its width; `None` for every other type.
    pub fn as_integer(self) -> Option<i64> {
        Some(match self.kind {
            b'b' => i64::from(i8::from_be_bytes(self.fixed()?)),
            b'B' => i64::from(u8::from_be_bytes(self.fixed()?)),
            b's' => i64::from(i16::from_be_bytes(self.fixed()?)),
            b'u' => i64::from(u16::from_be_bytes(self.fixed()?)),
            b'I' => i64::from(i32::from_be_bytes(self.fixed()?)),
            b'i' => i64::from(u32::from_be_bytes(self.fixed()?)),
            b'l' => i64::from_be_bytes(self.fixed()?),
            _ => return None,
        })
    }

    /// The float that this is, or the nearest to the decimal that it is; `None` for every other type.
    pub fn as_float(self) -> Option<f64> {
        Some(match self.kind {
            b'f' => f64::from(f32::from_be_bytes(self.fixed()?)),
            b'd' => f64::from_be_bytes(self.fixed()?),
            b'D' => {
                let [scale, digits @ ..] = self.fixed::<5>()?;
                f64::from(u32::from_be_bytes(digits)) / 10f64.powi(i32::from(scale))
            }
            _ => return None,
        })
    }

    /// The truth value that this is; `None` for every other type.
    pub fn as_bool(self) -> Option<bool> {
        match (self.kind, self.bytes) {
            (b't', [octet]) => Some(*octet != 0),
            _ => None,
        }
    }

    /// The values of an array; `None` for every other type.
    pub fn as_array(self) -> Option<RawValues<'a>> {
        match self.kind {
            b'A' => Some(RawValues::of(self.bytes.get(4..)?)),
            _ => None,
        }
    }

    /// Decoded.
    pub fn decode(self) -> Result<FieldValue, CodecError> {
        let mut bytes = BytesMut::with_capacity(1 + self.bytes.len());
        bytes.put_u8(self.kind);
        bytes.put_slice(self.bytes);
        let mut reader = Reader::new(bytes.freeze());
        let value = FieldValue::decode(&mut reader, 0)?;
        match reader.remaining() {
            0 => Ok(value),
            left => Err(CodecError::Trailing(left)),
        }
    }

    fn fixed<const N: usize>(self) -> Option<[u8; N]> {
        self.bytes.try_into().ok()
    }
}

#[cfg(test)]
mod tests;
