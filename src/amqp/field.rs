//! Field values and header tables.
//!
//! A table keeps the order and the repetition of its entries as they came, and strings are bytes: what a publisher
//! wrote is what a consumer reads.

use super::reader::{CodecError, Reader};
use bytes::{BufMut, Bytes, BytesMut};

/// How deep tables and arrays may nest. RabbitMQ has no limit of its own but the frame; applications stay below ten.
pub const NESTING_MAX: usize = 256;

/// One value of a header table. The letter is the type octet on the wire, as RabbitMQ reads it.
#[derive(Debug, Clone, PartialEq)]
pub enum FieldValue {
    /// `t`
    Bool(bool),
    /// `b`, signed 8 bits
    I8(i8),
    /// `B`, unsigned 8 bits
    U8(u8),
    /// `s`, signed 16 bits
    I16(i16),
    /// `u`, unsigned 16 bits
    U16(u16),
    /// `I`, signed 32 bits
    I32(i32),
    /// `i`, unsigned 32 bits
    U32(u32),
    /// `l`, signed 64 bits
    I64(i64),
    /// `f`
    F32(f32),
    /// `d`
    F64(f64),
    /// `D`: value / 10^scale
    Decimal {
        /// Digits behind the point.
        scale: u8,
        /// The digits.
        value: u32,
    },
    /// `S`, a string of up to 4 GiB, by custom UTF-8, in fact bytes
    Str(Bytes),
    /// `A`
    Array(Vec<FieldValue>),
    /// `T`, seconds since 1970
    Timestamp(u64),
    /// `F`
    Table(FieldTable),
    /// `V`
    Void,
    /// `x`, bytes
    Bytes(Bytes),
}

impl FieldValue {
    /// A string value.
    pub fn str(text: impl AsRef<[u8]>) -> Self {
        Self::Str(Bytes::copy_from_slice(text.as_ref()))
    }

    /// The integer that this is, whatever its width; `None` for every other type.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Self::I8(v) => Some(i64::from(*v)),
            Self::U8(v) => Some(i64::from(*v)),
            Self::I16(v) => Some(i64::from(*v)),
            Self::U16(v) => Some(i64::from(*v)),
            Self::I32(v) => Some(i64::from(*v)),
            Self::U32(v) => Some(i64::from(*v)),
            Self::I64(v) => Some(*v),
            Self::Bool(_)
            | Self::F32(_)
            | Self::F64(_)
            | Self::Decimal { .. }
            | Self::Str(_)
            | Self::Array(_)
            | Self::Timestamp(_)
            | Self::Table(_)
            | Self::Void
            | Self::Bytes(_) => None,
        }
    }

    /// The bytes of a string or a byte array; `None` for every other type.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Str(bytes) | Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    fn depth(&self) -> usize {
        match self {
            Self::Table(table) => 1 + table.depth(),
            Self::Array(values) => 1 + values.iter().map(Self::depth).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// Appends type octet and value.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        match self {
            Self::Bool(v) => {
                out.put_u8(b't');
                out.put_u8(u8::from(*v));
            }
            Self::I8(v) => {
                out.put_u8(b'b');
                out.put_i8(*v);
            }
            Self::U8(v) => {
                out.put_u8(b'B');
                out.put_u8(*v);
            }
            Self::I16(v) => {
                out.put_u8(b's');
                out.put_i16(*v);
            }
            Self::U16(v) => {
                out.put_u8(b'u');
                out.put_u16(*v);
            }
            Self::I32(v) => {
                out.put_u8(b'I');
                out.put_i32(*v);
            }
            Self::U32(v) => {
                out.put_u8(b'i');
                out.put_u32(*v);
            }
            Self::I64(v) => {
                out.put_u8(b'l');
                out.put_i64(*v);
            }
            Self::F32(v) => {
                out.put_u8(b'f');
                out.put_f32(*v);
            }
            Self::F64(v) => {
                out.put_u8(b'd');
                out.put_f64(*v);
            }
            Self::Decimal { scale, value } => {
                out.put_u8(b'D');
                out.put_u8(*scale);
                out.put_u32(*value);
            }
            Self::Str(bytes) => {
                out.put_u8(b'S');
                put_long(out, bytes, "a string")?;
            }
            Self::Array(values) => {
                out.put_u8(b'A');
                put_sized(out, "an array", |out| {
                    values.iter().try_for_each(|value| value.encode(out))
                })?;
            }
            Self::Timestamp(v) => {
                out.put_u8(b'T');
                out.put_u64(*v);
            }
            Self::Table(table) => {
                out.put_u8(b'F');
                table.encode(out)?;
            }
            Self::Void => out.put_u8(b'V'),
            Self::Bytes(bytes) => {
                out.put_u8(b'x');
                put_long(out, bytes, "a byte array")?;
            }
        }
        Ok(())
    }

    pub(super) fn decode(reader: &mut Reader, depth: usize) -> Result<Self, CodecError> {
        if depth > NESTING_MAX {
            return Err(CodecError::TooDeep);
        }
        Ok(match reader.u8("a field type")? {
            b't' => Self::Bool(reader.u8("a boolean")? != 0),
            b'b' => Self::I8(i8::from_be_bytes(reader.array("an integer")?)),
            b'B' => Self::U8(reader.u8("an integer")?),
            b's' => Self::I16(i16::from_be_bytes(reader.array("an integer")?)),
            b'u' => Self::U16(reader.u16("an integer")?),
            b'I' => Self::I32(i32::from_be_bytes(reader.array("an integer")?)),
            b'i' => Self::U32(reader.u32("an integer")?),
            b'l' => Self::I64(i64::from_be_bytes(reader.array("an integer")?)),
            b'f' => Self::F32(f32::from_be_bytes(reader.array("a float")?)),
            b'd' => Self::F64(f64::from_be_bytes(reader.array("a float")?)),
            b'D' => Self::Decimal {
                scale: reader.u8("a decimal")?,
                value: reader.u32("a decimal")?,
            },
            b'S' => Self::Str(reader.long_string("a string")?),
            b'A' => {
                let mut inner = Reader::new(reader.long_string("an array")?);
                let mut values = Vec::new();
                while inner.remaining() > 0 {
                    values.push(Self::decode(&mut inner, depth + 1)?);
                }
                Self::Array(values)
            }
            b'T' => Self::Timestamp(reader.u64("a timestamp")?),
            b'F' => Self::Table(FieldTable::decode_from(reader, depth + 1)?),
            b'V' => Self::Void,
            b'x' => Self::Bytes(reader.long_string("a byte array")?),
            other => return Err(CodecError::UnknownType(other)),
        })
    }
}

/// A header table: names and values, in the order in which they came.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FieldTable {
    entries: Vec<(Bytes, FieldValue)>,
}

impl FieldTable {
    /// An empty table.
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
        }
    }

    /// The first value under this name.
    pub fn get(&self, name: impl AsRef<[u8]>) -> Option<&FieldValue> {
        let name = name.as_ref();
        self.entries.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// Puts a value under this name, in place of all that are there.
    pub fn set(&mut self, name: impl AsRef<[u8]>, value: FieldValue) {
        let name = name.as_ref();
        self.remove(name);
        self.entries.push((Bytes::copy_from_slice(name), value));
    }

    /// Appends an entry as it is, even where the name is there already.
    pub fn push(&mut self, name: Bytes, value: FieldValue) {
        self.entries.push((name, value));
    }

    /// Takes out every value under this name, and returns the first.
    pub fn remove(&mut self, name: impl AsRef<[u8]>) -> Option<FieldValue> {
        let name = name.as_ref();
        let mut first = None;
        self.entries.retain_mut(|(n, v)| {
            if n != name {
                return true;
            }
            if first.is_none() {
                first = Some(std::mem::replace(v, FieldValue::Void));
            }
            false
        });
        first
    }

    /// Keeps the entries for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &FieldValue) -> bool) {
        self.entries.retain(|(name, value)| keep(name, value));
    }

    /// The entries, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &FieldValue)> {
        self.entries.iter().map(|(name, value)| (name, value))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How deep tables and arrays nest in it: 0 without any.
    pub fn depth(&self) -> usize {
        self.entries
            .iter()
            .map(|(_, value)| value.depth())
            .max()
            .unwrap_or(0)
    }

    /// Appends the table with its length in front.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        put_sized(out, "a table", |out| {
            self.entries.iter().try_for_each(|(name, value)| {
                put_short(out, name, "a header's name")?;
                value.encode(out)
            })
        })
    }

    /// Reads what [`FieldTable::encode`] writes, to the last byte.
    pub fn decode(bytes: Bytes) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        let table = Self::decode_from(&mut reader, 0)?;
        match reader.remaining() {
            0 => Ok(table),
            left => Err(CodecError::Trailing(left)),
        }
    }

    pub(super) fn decode_from(reader: &mut Reader, depth: usize) -> Result<Self, CodecError> {
        if depth > NESTING_MAX {
            return Err(CodecError::TooDeep);
        }
        let mut inner = Reader::new(reader.long_string("a table")?);
        let mut entries = Vec::new();
        while inner.remaining() > 0 {
            let name = inner.short_string("a header's name")?;
            entries.push((name, FieldValue::decode(&mut inner, depth)?));
        }
        Ok(Self { entries })
    }
}

impl FromIterator<(Bytes, FieldValue)> for FieldTable {
    fn from_iter<I: IntoIterator<Item = (Bytes, FieldValue)>>(entries: I) -> Self {
        Self {
            entries: entries.into_iter().collect(),
        }
    }
}

pub(super) fn put_short(
    out: &mut BytesMut,
    bytes: &[u8],
    what: &'static str,
) -> Result<(), CodecError> {
    let len = u8::try_from(bytes.len()).map_err(|_| CodecError::ShortStringTooLong(what))?;
    out.put_u8(len);
    out.put_slice(bytes);
    Ok(())
}

pub(super) fn put_long(
    out: &mut BytesMut,
    bytes: &[u8],
    what: &'static str,
) -> Result<(), CodecError> {
    let len = u32::try_from(bytes.len()).map_err(|_| CodecError::TooLong(what))?;
    out.put_u32(len);
    out.put_slice(bytes);
    Ok(())
}

/// Writes what `fill` writes, with its length in four bytes in front.
fn put_sized(
    out: &mut BytesMut,
    what: &'static str,
    fill: impl FnOnce(&mut BytesMut) -> Result<(), CodecError>,
) -> Result<(), CodecError> {
    let at = out.len();
    out.put_u32(0);
    fill(out)?;
    put_length(out, at, what)
}

/// Fills in the length, left open at `at`, of what has been written behind it.
pub(super) fn put_length(
    out: &mut BytesMut,
    at: usize,
    what: &'static str,
) -> Result<(), CodecError> {
    let len = u32::try_from(out.len() - at - 4).map_err(|_| CodecError::TooLong(what))?;
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::strategies::{table_of, value};
    use super::*;
    use proptest::prelude::*;

    fn encoded(table: &FieldTable) -> Bytes {
        let mut out = BytesMut::new();
        table.encode(&mut out).unwrap();
        out.freeze()
    }

    fn decoded(bytes: Bytes) -> Result<FieldTable, CodecError> {
        FieldTable::decode_from(&mut Reader::new(bytes), 0)
    }

    /// A table that holds a table, and so on: `levels` of them.
    fn nested_tables(levels: usize) -> FieldTable {
        (1..levels).fold(FieldTable::new(), |inner, _| {
            FieldTable::from_iter([(Bytes::from_static(b"t"), FieldValue::Table(inner))])
        })
    }

    proptest! {
        #[test]
        fn a_table_of_any_values_comes_back_as_it_was(table in table_of(value())) {
            prop_assert_eq!(decoded(encoded(&table)).unwrap(), table);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            // A true length in front, so that the bytes are read as entries and not refused at once.
            let mut framed = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
            framed.extend(&bytes);
            let _ = decoded(framed.into());
            let _ = decoded(bytes.into());
        }

        #[test]
        fn a_table_with_a_damaged_byte_is_refused_or_reads_as_another(
            table in table_of(value()),
            at in any::<prop::sample::Index>(),
            octet in any::<u8>(),
        ) {
            let mut bytes = encoded(&table).to_vec();
            let at = at.index(bytes.len());
            bytes[at] = octet;
            if let Ok(read) = decoded(bytes.into()) {
                decoded(encoded(&read)).unwrap();
            }
        }

        #[test]
        fn a_truncated_table_is_refused(table in table_of(value()), cut in any::<prop::sample::Index>()) {
            let bytes = encoded(&table);
            let left = cut.index(bytes.len());
            prop_assert!(decoded(bytes.slice(..left)).is_err());
        }
    }

    #[test]
    fn every_type_has_the_octet_that_rabbitmq_reads() {
        let values = [
            (FieldValue::Bool(true), "7401"),
            (FieldValue::I8(-1), "62ff"),
            (FieldValue::U8(255), "42ff"),
            (FieldValue::I16(-2), "73fffe"),
            (FieldValue::U16(65_534), "75fffe"),
            (FieldValue::I32(-3), "49fffffffd"),
            (FieldValue::U32(7), "6900000007"),
            (FieldValue::I64(-4), "6cfffffffffffffffc"),
            (FieldValue::F32(1.5), "663fc00000"),
            (FieldValue::F64(1.5), "643ff8000000000000"),
            (
                FieldValue::Decimal {
                    scale: 2,
                    value: 314,
                },
                "44020000013a",
            ),
            (FieldValue::str("hi"), "53000000026869"),
            (FieldValue::Array(vec![FieldValue::Void]), "410000000156"),
            (FieldValue::Timestamp(1), "540000000000000001"),
            (FieldValue::Table(FieldTable::new()), "4600000000"),
            (FieldValue::Void, "56"),
            (
                FieldValue::Bytes(Bytes::from_static(b"\xff")),
                "7800000001ff",
            ),
        ];
        for (value, hex) in values {
            let mut out = BytesMut::new();
            value.encode(&mut out).unwrap();
            let octets = (0..hex.len()).step_by(2);
            let due: Vec<u8> = octets
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect();
            assert_eq!(out, due, "{value:?}");
        }
    }

    #[test]
    fn a_nan_keeps_its_bits() {
        let odd = f64::from_bits(0x7ff8_0000_dead_beef);
        let table = FieldTable::from_iter([(Bytes::from_static(b"n"), FieldValue::F64(odd))]);
        let bytes = encoded(&table);
        assert_eq!(encoded(&decoded(bytes.clone()).unwrap()), bytes);
    }

    #[test]
    fn names_keep_their_order_and_their_repetitions() {
        let names = ["b", "a", "b", ""];
        let table: FieldTable = (0i32..)
            .zip(names)
            .map(|(at, name)| (Bytes::from(name), FieldValue::I32(at)))
            .collect();
        let read = decoded(encoded(&table)).unwrap();
        let back: Vec<_> = read.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(back, names.map(Bytes::from));
        assert_eq!(read.get("b"), Some(&FieldValue::I32(0)));
    }

    #[test]
    fn setting_a_name_replaces_all_that_are_there() {
        let mut table: FieldTable = ["a", "b", "a"]
            .map(|name| (Bytes::from(name), FieldValue::Void))
            .into_iter()
            .collect();
        table.set("a", FieldValue::Bool(true));
        assert_eq!(table.len(), 2);
        assert_eq!(table.remove("a"), Some(FieldValue::Bool(true)));
        assert_eq!(table.get("a"), None);
    }

    #[test]
    fn nesting_is_read_to_its_bound_and_refused_beyond() {
        decoded(encoded(&nested_tables(NESTING_MAX + 1))).unwrap();
        let deeper = encoded(&nested_tables(NESTING_MAX + 2));
        assert_eq!(decoded(deeper).unwrap_err(), CodecError::TooDeep);
        let arrays =
            (0..=NESTING_MAX).fold(FieldValue::Void, |inner, _| FieldValue::Array(vec![inner]));
        let table = FieldTable::from_iter([(Bytes::from_static(b"a"), arrays)]);
        assert_eq!(decoded(encoded(&table)).unwrap_err(), CodecError::TooDeep);
    }

    #[test]
    fn a_name_that_is_too_long_is_an_error_at_its_writer() {
        let table = FieldTable::from_iter([(Bytes::from(vec![b'n'; 256]), FieldValue::Void)]);
        assert_eq!(
            table.encode(&mut BytesMut::new()).unwrap_err(),
            CodecError::ShortStringTooLong("a header's name")
        );
    }
}
