//! A bounds-checked cursor over bytes that a peer sent.

use bytes::{Buf, Bytes};

/// Why bytes are not what AMQP says they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes ended inside a value.
    #[error("the bytes end inside {0}")]
    Truncated(&'static str),
    /// A field type that RabbitMQ doesn't know either.
    #[error("unknown field type {:?}", char::from(*.0))]
    UnknownType(u8),
    /// Tables or arrays nested deeper than [`super::NESTING_MAX`].
    #[error("nested deeper than {} levels", super::NESTING_MAX)]
    TooDeep,
    /// A short string (a header's name, most properties) above 255 bytes.
    #[error("{0} is longer than 255 bytes")]
    ShortStringTooLong(&'static str),
    /// A table, an array or a long string above 4 GiB.
    #[error("{0} is longer than its length field can say")]
    TooLong(&'static str),
    /// Bytes are left after the value.
    #[error("{0} bytes are left behind the last property")]
    Trailing(usize),
}

/// Reads from a [`Bytes`] without copying what it hands out.
pub(super) struct Reader {
    bytes: Bytes,
}

impl Reader {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes }
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn take(&mut self, len: usize, what: &'static str) -> Result<Bytes, CodecError> {
        if self.bytes.len() < len {
            return Err(CodecError::Truncated(what));
        }
        Ok(self.bytes.split_to(len))
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], CodecError> {
        if self.bytes.len() < N {
            return Err(CodecError::Truncated(what));
        }
        let mut out = [0; N];
        self.bytes.copy_to_slice(&mut out);
        Ok(out)
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, CodecError> {
        Ok(u8::from_be_bytes(self.array(what)?))
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, CodecError> {
        Ok(u16::from_be_bytes(self.array(what)?))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, CodecError> {
        Ok(u32::from_be_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, CodecError> {
        Ok(u64::from_be_bytes(self.array(what)?))
    }

    pub(super) fn short_string(&mut self, what: &'static str) -> Result<Bytes, CodecError> {
        let len = self.u8(what)?;
        self.take(usize::from(len), what)
    }

    pub(super) fn long_string(&mut self, what: &'static str) -> Result<Bytes, CodecError> {
        let len = self.u32(what)?;
        self.take(len as usize, what)
    }
}
