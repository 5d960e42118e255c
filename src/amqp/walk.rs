//! Steps over properties and header tables without decoding them: by flags, type octets and lengths alone.
//!
//! Promises never to read outside the bytes that it is given, never to recurse and never to allocate, whatever those
//! bytes are. What a value means is for whoever looks at it.

use super::reader::CodecError;

/// The flag of the header table.
pub(super) const HEADERS: u32 = 13;
/// The flag of `delivery-mode`.
pub(super) const DELIVERY_MODE: u32 = 12;
/// The flag of `priority`.
pub(super) const PRIORITY: u32 = 11;
/// The flag of `timestamp`.
pub(super) const TIMESTAMP: u32 = 6;
/// The lowest flag of a property. The two below announce a second word of flags, which this class has no use for.
pub(super) const LAST: u32 = 2;

/// What a property is called, by its flag.
const fn name_of(flag: u32) -> &'static str {
    match flag {
        15 => "content-type",
        14 => "content-encoding",
        HEADERS => "a table",
        DELIVERY_MODE => "delivery-mode",
        PRIORITY => "priority",
        10 => "correlation-id",
        9 => "reply-to",
        8 => "expiration",
        7 => "message-id",
        TIMESTAMP => "timestamp",
        5 => "type",
        4 => "user-id",
        3 => "app-id",
        _ => "cluster-id",
    }
}

/// Takes so many bytes off the front.
fn split<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(bytes)?;
    *rest = tail;
    Some(head)
}

/// How long what begins with a length of four octets is, that length included.
fn long(rest: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes(*rest.first_chunk()?);
    usize::try_from(length).ok()?.checked_add(4)
}

/// How long what begins with a length of one octet is, that length included.
fn short(rest: &[u8]) -> Option<usize> {
    rest.first().map(|length| 1 + usize::from(*length))
}

/// The properties that are there, in their order on the wire: flag, and value as it travels.
#[derive(Debug, Clone)]
pub(super) struct Parts<'a> {
    flags: u16,
    rest: &'a [u8],
}

impl<'a> Parts<'a> {
    pub(super) fn of(mut bytes: &'a [u8]) -> Result<Self, CodecError> {
        let truncated = CodecError::Truncated("the property flags");
        let Some(flags) = split(&mut bytes, 2).and_then(|flags| flags.first_chunk()) else {
            return Err(truncated);
        };
        let flags = u16::from_be_bytes(*flags);
        if flags & 0b11 != 0 {
            return Err(truncated);
        }
        Ok(Self { flags, rest: bytes })
    }

    /// The flags of those that are still to come.
    pub(super) const fn flags(&self) -> u16 {
        self.flags
    }

    /// What lies behind those that have come.
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<(u32, &'a [u8]), CodecError>;

    fn next(&mut self) -> Option<Self::Item> {
        let flag = self.flags.checked_ilog2()?;
        self.flags &= !(1 << flag);
        let bytes = match flag {
            HEADERS => long(self.rest),
            DELIVERY_MODE | PRIORITY => Some(1),
            TIMESTAMP => Some(8),
            _ => short(self.rest),
        };
        let part = bytes.and_then(|bytes| split(&mut self.rest, bytes));
        Some(match part {
            Some(part) => Ok((flag, part)),
            None => Err(CodecError::Truncated(name_of(flag))),
        })
    }
}

/// Why entries or values can't be stepped over any further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// A type whose length nobody here knows: all from that entry on is an opaque tail.
    Opaque,
    /// The bytes end inside a name or a value.
    Damaged(CodecError),
}

/// A header's value, undecoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawValue<'a> {
    /// The type octet.
    pub kind: u8,
    /// What follows it, the length of a string, table or array included.
    pub bytes: &'a [u8],
}

/// Takes a value off the front, type octet first.
fn value<'a>(rest: &mut &'a [u8]) -> Result<RawValue<'a>, Stop> {
    let truncated = |what| Stop::Damaged(CodecError::Truncated(what));
    let Some(&[kind]) = split(rest, 1).and_then(|kind| kind.first_chunk()) else {
        return Err(truncated("a field type"));
    };
    let bytes = match kind {
        b'V' => Some(0),
        b't' | b'b' | b'B' => Some(1),
        b's' | b'u' => Some(2),
        b'I' | b'i' | b'f' => Some(4),
        b'D' => Some(5),
        b'l' | b'd' | b'T' => Some(8),
        b'S' | b'x' | b'A' | b'F' => long(rest),
        _ => return Err(Stop::Opaque),
    };
    let bytes = bytes.and_then(|bytes| split(rest, bytes));
    bytes
        .map(|bytes| RawValue { kind, bytes })
        .ok_or_else(|| truncated("a header's value"))
}

/// One header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: RawValue<'a>,
    /// Name and value as they travel.
    pub(super) whole: &'a [u8],
}

/// The headers of a table, in their order.
#[derive(Debug, Clone)]
pub(super) struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Entries<'a> {
    /// Of a table's entries, without the table's length.
    pub(super) const fn of(table: &'a [u8]) -> Self {
        Self { rest: table }
    }

    /// The next header; `None` behind the last. After a stop, `rest` begins with what couldn't be stepped over.
    pub(super) fn step(&mut self) -> Result<Option<Entry<'a>>, Stop> {
        let mut rest = self.rest;
        let Some(bytes) = short(rest) else {
            return Ok(None);
        };
        let Some(name) = split(&mut rest, bytes).and_then(|name| name.get(1..)) else {
            return Err(Stop::Damaged(CodecError::Truncated("a header's name")));
        };
        let value = value(&mut rest)?;
        let (whole, rest) = self.rest.split_at(self.rest.len() - rest.len());
        self.rest = rest;
        Ok(Some(Entry { name, value, whole }))
    }

    /// What has not been stepped over.
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// The values of an array, in their order; the last is an error when the array goes on with what can't be read.
#[derive(Debug, Clone)]
pub struct RawValues<'a> {
    rest: &'a [u8],
}

impl<'a> RawValues<'a> {
    /// Of an array's values, without the array's length.
    pub(super) const fn of(array: &'a [u8]) -> Self {
        Self { rest: array }
    }
}

impl<'a> Iterator for RawValues<'a> {
    type Item = Result<RawValue<'a>, CodecError>;

    fn next(&mut self) -> Option<Self::Item> {
        let kind = *self.rest.first()?;
        Some(value(&mut self.rest).map_err(|stop| {
            self.rest = &[];
            match stop {
                Stop::Opaque => CodecError::UnknownType(kind),
                Stop::Damaged(error) => error,
            }
        }))
    }
}
