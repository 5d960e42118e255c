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

/// A header's value, undecoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawValue<'a> {
    /// The type octet.
    pub kind: u8,
    /// What follows it, the length of a string, table or array included.
    pub bytes: &'a [u8],
}

/// Of a type whose value says its own length.
const LONG: u8 = 254;
/// Of a type that nobody here knows.
const UNKNOWN: u8 = 255;

/// How many bytes follow a type octet: looked up, as every header of every message is stepped over several times.
static VALUE_BYTES: [u8; 256] = {
    let mut bytes = [UNKNOWN; 256];
    let known: [(&[u8], u8); 7] = [
        (b"V", 0),
        (b"tbB", 1),
        (b"su", 2),
        (b"Iif", 4),
        (b"D", 5),
        (b"ldT", 8),
        (b"SxAF", LONG),
    ];
    let mut group = 0;
    while group < known.len() {
        let (kinds, length) = known[group];
        let mut at = 0;
        while at < kinds.len() {
            bytes[kinds[at] as usize] = length;
            at += 1;
        }
        group += 1;
    }
    bytes
};

/// How many bytes a value has behind its type octet, as far as that can be known.
#[inline]
fn value_bytes(kind: u8, behind: &[u8]) -> Option<usize> {
    match VALUE_BYTES[usize::from(kind)] {
        UNKNOWN => None,
        LONG => long(behind),
        fixed => Some(usize::from(fixed)),
    }
}

/// One header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: RawValue<'a>,
    /// Name and value as they travel.
    pub(super) whole: &'a [u8],
}

/// The headers of a table, in their order, as far as they can be stepped over; then [`Entries::end`] says why no further.
#[derive(Debug, Clone)]
pub(super) struct Entries<'a> {
    rest: &'a [u8],
}

/// How a walk over a table ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End<'a> {
    /// Behind the last header.
    Complete,
    /// Before a header of a type whose length nobody here knows: all from there on is an opaque tail.
    Opaque(&'a [u8]),
    /// Before a header that leaves its table.
    Damaged(CodecError),
}

impl<'a> Entries<'a> {
    /// Of a table's entries, without the table's length.
    pub(super) const fn of(table: &'a [u8]) -> Self {
        Self { rest: table }
    }

    /// Asked for when there is no next one.
    pub(super) fn end(&self) -> End<'a> {
        let Some(name) = short(self.rest) else {
            return End::Complete;
        };
        let truncated = |what| End::Damaged(CodecError::Truncated(what));
        match self.rest.get(name..) {
            None => truncated("a header's name"),
            Some([]) => truncated("a field type"),
            Some([kind, ..]) if VALUE_BYTES[usize::from(*kind)] == UNKNOWN => {
                End::Opaque(self.rest)
            }
            Some(_) => truncated("a header's value"),
        }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (name, behind) = self.rest.split_at_checked(short(self.rest)?)?;
        let (&kind, behind) = behind.split_first()?;
        let (bytes, rest) = behind.split_at_checked(value_bytes(kind, behind)?)?;
        let (whole, _) = self.rest.split_at(name.len() + 1 + bytes.len());
        self.rest = rest;
        Some(Entry {
            name: name.get(1..)?,
            value: RawValue { kind, bytes },
            whole,
        })
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
        let (&kind, behind) = self.rest.split_first()?;
        let parted = value_bytes(kind, behind).and_then(|bytes| behind.split_at_checked(bytes));
        let Some((bytes, rest)) = parted else {
            self.rest = &[];
            return Some(Err(if VALUE_BYTES[usize::from(kind)] == UNKNOWN {
                CodecError::UnknownType(kind)
            } else {
                CodecError::Truncated("an array's value")
            }));
        };
        self.rest = rest;
        Some(Ok(RawValue { kind, bytes }))
    }
}
