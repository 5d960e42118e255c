//! The properties of a message: the fourteen of AMQP 0-9-1's class *basic*.

use super::field::{FieldTable, FieldValue, put_short};
use super::reader::{CodecError, Reader};
use bytes::{BufMut, Bytes, BytesMut};

/// A message's properties, absent ones as `None`. Strings are bytes, up to 255 each.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Properties {
    /// MIME type of the body.
    pub content_type: Option<Bytes>,
    /// MIME encoding of the body.
    pub content_encoding: Option<Bytes>,
    /// The header table; present but empty is not the same as absent.
    pub headers: Option<FieldTable>,
    /// 1 transient, 2 persistent; RabbitMQ stores what it gets.
    pub delivery_mode: Option<u8>,
    /// 0 to 255 by custom up to the queue's `x-max-priority`.
    pub priority: Option<u8>,
    /// Application's own.
    pub correlation_id: Option<Bytes>,
    /// A queue by custom; `amq.rabbitmq.reply-to…` is direct reply-to.
    pub reply_to: Option<Bytes>,
    /// Milliseconds, as decimal text.
    pub expiration: Option<Bytes>,
    /// Application's own id of the message.
    pub message_id: Option<Bytes>,
    /// Seconds since 1970.
    pub timestamp: Option<u64>,
    /// Application's own.
    pub kind: Option<Bytes>,
    /// The publishing user; RabbitMQ closes the channel where it differs from the connection's.
    pub user_id: Option<Bytes>,
    /// Application's own.
    pub app_id: Option<Bytes>,
    /// Deprecated in AMQP 0-9-1, carried by RabbitMQ all the same.
    pub cluster_id: Option<Bytes>,
}

impl Properties {
    /// One header's value.
    pub fn header(&self, name: impl AsRef<[u8]>) -> Option<&FieldValue> {
        self.headers.as_ref()?.get(name)
    }

    /// The header table, made when absent.
    pub fn headers_mut(&mut self) -> &mut FieldTable {
        self.headers.get_or_insert_with(FieldTable::new)
    }

    /// Property flags and property list, as in a content header frame behind class, weight and body size.
    pub fn encode(&self) -> Result<Bytes, CodecError> {
        let mut out = BytesMut::with_capacity(128);
        self.encode_to(&mut out)?;
        Ok(out.freeze())
    }

    fn encode_to(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        let mut flags = 0u16;
        let at = out.len();
        out.put_u16(0);
        let mut short = |out: &mut BytesMut, bit, value: &Option<Bytes>, what| match value {
            Some(bytes) => {
                flags |= 1u16 << bit;
                put_short(out, bytes, what)
            }
            None => Ok(()),
        };
        short(out, 15, &self.content_type, "content-type")?;
        short(out, 14, &self.content_encoding, "content-encoding")?;
        let mut later = 0u16;
        if let Some(headers) = &self.headers {
            later |= 1 << 13;
            headers.encode(out)?;
        }
        if let Some(mode) = self.delivery_mode {
            later |= 1 << 12;
            out.put_u8(mode);
        }
        if let Some(priority) = self.priority {
            later |= 1 << 11;
            out.put_u8(priority);
        }
        short(out, 10, &self.correlation_id, "correlation-id")?;
        short(out, 9, &self.reply_to, "reply-to")?;
        short(out, 8, &self.expiration, "expiration")?;
        short(out, 7, &self.message_id, "message-id")?;
        if let Some(timestamp) = self.timestamp {
            later |= 1 << 6;
            out.put_u64(timestamp);
        }
        short(out, 5, &self.kind, "type")?;
        short(out, 4, &self.user_id, "user-id")?;
        short(out, 3, &self.app_id, "app-id")?;
        short(out, 2, &self.cluster_id, "cluster-id")?;
        out[at..at + 2].copy_from_slice(&(flags | later).to_be_bytes());
        Ok(())
    }

    /// Reads what [`Properties::encode`] writes, to the last byte.
    pub fn decode(bytes: Bytes) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        let flags = reader.u16("the property flags")?;
        let has = |bit: u16| flags & (1 << bit) != 0;
        // Bit 0 announces a second flag word, which no property of this class needs.
        if has(0) || has(1) {
            return Err(CodecError::Truncated("the property flags"));
        }
        let short = |reader: &mut Reader, bit, what| {
            if has(bit) {
                reader.short_string(what).map(Some)
            } else {
                Ok(None)
            }
        };
        let content_type = short(&mut reader, 15, "content-type")?;
        let content_encoding = short(&mut reader, 14, "content-encoding")?;
        let headers = if has(13) {
            Some(FieldTable::decode_from(&mut reader, 0)?)
        } else {
            None
        };
        let delivery_mode = if has(12) {
            Some(reader.u8("delivery-mode")?)
        } else {
            None
        };
        let priority = if has(11) {
            Some(reader.u8("priority")?)
        } else {
            None
        };
        let correlation_id = short(&mut reader, 10, "correlation-id")?;
        let reply_to = short(&mut reader, 9, "reply-to")?;
        let expiration = short(&mut reader, 8, "expiration")?;
        let message_id = short(&mut reader, 7, "message-id")?;
        let timestamp = if has(6) {
            Some(reader.u64("timestamp")?)
        } else {
            None
        };
        let kind = short(&mut reader, 5, "type")?;
        let user_id = short(&mut reader, 4, "user-id")?;
        let app_id = short(&mut reader, 3, "app-id")?;
        let cluster_id = short(&mut reader, 2, "cluster-id")?;
        match reader.remaining() {
            0 => Ok(Self {
                content_type,
                content_encoding,
                headers,
                delivery_mode,
                priority,
                correlation_id,
                reply_to,
                expiration,
                message_id,
                timestamp,
                kind,
                user_id,
                app_id,
                cluster_id,
            }),
            left => Err(CodecError::Trailing(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::strategies::properties;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_properties_come_back_as_they_were(properties in properties()) {
            let bytes = properties.encode().unwrap();
            prop_assert_eq!(Properties::decode(bytes).unwrap(), properties);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(read) = Properties::decode(bytes.into()) {
                read.encode().unwrap();
            }
        }

        #[test]
        fn properties_with_a_byte_more_or_less_are_refused(properties in properties()) {
            let bytes = properties.encode().unwrap();
            let mut longer = bytes.to_vec();
            longer.push(0);
            prop_assert_eq!(Properties::decode(longer.into()), Err(CodecError::Trailing(1)));
            let shorter = bytes.slice(..bytes.len() - 1);
            prop_assert!(Properties::decode(shorter).is_err());
        }
    }

    #[test]
    fn each_property_has_the_flag_of_the_specification() {
        let text = || Some(Bytes::from_static(b"x"));
        let none = Properties::default;
        let flags = [
            (
                Properties {
                    content_type: text(),
                    ..none()
                },
                15,
            ),
            (
                Properties {
                    content_encoding: text(),
                    ..none()
                },
                14,
            ),
            (
                Properties {
                    headers: Some(FieldTable::new()),
                    ..none()
                },
                13,
            ),
            (
                Properties {
                    delivery_mode: Some(2),
                    ..none()
                },
                12,
            ),
            (
                Properties {
                    priority: Some(9),
                    ..none()
                },
                11,
            ),
            (
                Properties {
                    correlation_id: text(),
                    ..none()
                },
                10,
            ),
            (
                Properties {
                    reply_to: text(),
                    ..none()
                },
                9,
            ),
            (
                Properties {
                    expiration: text(),
                    ..none()
                },
                8,
            ),
            (
                Properties {
                    message_id: text(),
                    ..none()
                },
                7,
            ),
            (
                Properties {
                    timestamp: Some(1),
                    ..none()
                },
                6,
            ),
            (
                Properties {
                    kind: text(),
                    ..none()
                },
                5,
            ),
            (
                Properties {
                    user_id: text(),
                    ..none()
                },
                4,
            ),
            (
                Properties {
                    app_id: text(),
                    ..none()
                },
                3,
            ),
            (
                Properties {
                    cluster_id: text(),
                    ..none()
                },
                2,
            ),
        ];
        for (properties, bit) in flags {
            let bytes = properties.encode().unwrap();
            assert_eq!(bytes[..2], (1u16 << bit).to_be_bytes(), "{properties:?}");
        }
    }

    #[test]
    fn absent_headers_and_an_empty_table_are_not_the_same() {
        let empty = Properties {
            headers: Some(FieldTable::new()),
            ..Properties::default()
        };
        assert_eq!(empty.encode().unwrap().as_ref(), [0x20, 0, 0, 0, 0, 0]);
        assert_eq!(Properties::default().encode().unwrap().as_ref(), [0, 0]);
        assert_eq!(Properties::decode(empty.encode().unwrap()).unwrap(), empty);
    }

    #[test]
    fn a_second_word_of_flags_is_refused() {
        assert!(Properties::decode(Bytes::from_static(&[0, 1, 0, 0])).is_err());
        assert!(Properties::decode(Bytes::from_static(&[0, 2])).is_err());
    }
}
