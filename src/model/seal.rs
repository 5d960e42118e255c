//! The seal: which marks on a message are setgate's own.
//!
//! A keyed hash (SipHash-2-4 with 128 bits of output) under the space's key, over every mark that is read again, the
//! message's id and its body. Marks without a valid seal count for nothing: a publisher can't forge a trail, nor carry
//! one over to another message. Not a signature: whoever has the key (every gateway of the space) can make one.

use super::marks::{SEALED, X_SET_SEAL};
use super::{Address, MessageId};
use crate::amqp::{FieldValue, Properties};
use bytes::{Bytes, BytesMut};
use secrecy::{ExposeSecret, SecretBox};
use serde::Deserialize;
use siphasher::sip128::{Hasher128, SipHasher24};
use std::fmt;
use std::hash::Hasher;
use subtle::ConstantTimeEq;

/// Bytes of a key, and of a seal.
pub const SEAL_BYTES: usize = 16;

/// Why the value of the key `seal` can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not the JSON that it should be. The text isn't shown: it may hold a key.
    #[error("the seal is not JSON like {{\"seal\": \"<32 hex digits>\", \"verify\": []}}")]
    Shape,
    /// A key of another length, or not hexadecimal.
    #[error("a seal key is 32 hexadecimal digits")]
    Key,
}

struct SealKey(SecretBox<[u8; SEAL_BYTES]>);

impl SealKey {
    fn parse(text: &str) -> Result<Self, SealError> {
        if text.len() != 2 * SEAL_BYTES || !text.is_ascii() {
            return Err(SealError::Key);
        }
        let mut key = [0; SEAL_BYTES];
        for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16).ok_or(SealError::Key);
            *byte =
                u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).map_err(|_| SealError::Key)?;
        }
        Ok(Self(SecretBox::new(Box::new(key))))
    }

    fn hasher(&self, purpose: &[u8]) -> SipHasher24 {
        let mut hasher = SipHasher24::new_with_key(self.0.expose_secret());
        hasher.write(purpose);
        hasher
    }
}

/// The space's seal keys: one that seals, and those that still (or already) verify.
pub struct SealKeys {
    sealing: SealKey,
    verifying: Vec<SealKey>,
}

impl fmt::Debug for SealKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKeys(***, {} to verify)", self.verifying.len())
    }
}

impl SealKeys {
    /// Reads the value of the key `seal`: `{"seal": "<32 hex digits>", "verify": ["…"]}`.
    pub fn parse(json: &[u8]) -> Result<Self, SealError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Text {
            seal: String,
            #[serde(default)]
            verify: Vec<String>,
        }
        let text: Text = serde_json::from_slice(json).map_err(|_| SealError::Shape)?;
        Ok(Self {
            sealing: SealKey::parse(&text.seal)?,
            verifying: text
                .verify
                .iter()
                .map(|key| SealKey::parse(key))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Puts the seal over what `properties` carry now.
    pub fn seal(&self, id: Option<&MessageId>, properties: &mut Properties, body: &[u8]) {
        let seal = marks_hash(&self.sealing, id, properties, body);
        properties
            .headers_mut()
            .set(X_SET_SEAL, FieldValue::Bytes(Bytes::copy_from_slice(&seal)));
    }

    /// Whether the seal is there and holds, by any of the keys.
    pub fn holds(&self, id: Option<&MessageId>, properties: &Properties, body: &[u8]) -> bool {
        let Some(seal) = properties.header(X_SET_SEAL).and_then(FieldValue::as_bytes) else {
            return false;
        };
        std::iter::once(&self.sealing)
            .chain(&self.verifying)
            .any(|key| marks_hash(key, id, properties, body).ct_eq(seal).into())
    }

    /// The value of `x-set-delivered`: where and with which dead-letterings a message was delivered.
    pub fn delivered(&self, address: &Address, properties: &Properties) -> Bytes {
        Bytes::copy_from_slice(&delivered_hash(&self.sealing, address, properties))
    }

    /// Whether `mark` is the hash of this address and these dead-letterings, by any of the keys.
    pub fn delivered_as(&self, mark: &[u8], address: &Address, properties: &Properties) -> bool {
        std::iter::once(&self.sealing)
            .chain(&self.verifying)
            .any(|key| delivered_hash(key, address, properties).ct_eq(mark).into())
    }
}

fn marks_hash(
    key: &SealKey,
    id: Option<&MessageId>,
    properties: &Properties,
    body: &[u8],
) -> [u8; SEAL_BYTES] {
    let mut hasher = key.hasher(b"setgate seal 1");
    part(&mut hasher, id.map(|id| &id.0[..]));
    part(&mut hasher, Some(body));
    let mut value = BytesMut::new();
    for name in SEALED {
        value.clear();
        // A value that can't be encoded came from no wire and can't have been sealed: hashed as if absent.
        let present = properties
            .header(name)
            .is_some_and(|v| v.encode(&mut value).is_ok());
        part(&mut hasher, present.then_some(&value[..]));
    }
    hasher.finish128().as_bytes()
}

fn delivered_hash(key: &SealKey, address: &Address, properties: &Properties) -> [u8; SEAL_BYTES] {
    let mut hasher = key.hasher(b"setgate delivered 1");
    part(&mut hasher, Some(&address.exchange));
    part(&mut hasher, Some(&address.routing_key));
    let mut value = BytesMut::new();
    let present = properties
        .header("x-death")
        .is_some_and(|v| v.encode(&mut value).is_ok());
    part(&mut hasher, present.then_some(&value[..]));
    hasher.finish128().as_bytes()
}

/// Feeds one part so that no two sequences of parts read alike: presence, length, bytes.
fn part(hasher: &mut SipHasher24, bytes: Option<&[u8]>) {
    match bytes {
        None => hasher.write_u8(0),
        Some(bytes) => {
            hasher.write_u8(1);
            hasher.write_u64(bytes.len() as u64);
            hasher.write(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::marks::{X_SET_PATH, X_SET_ROUND};

    fn keys(sealing: &str, verifying: &[&str]) -> SealKeys {
        let json = serde_json::json!({"seal": sealing, "verify": verifying});
        SealKeys::parse(json.to_string().as_bytes()).unwrap()
    }

    const OLD: &str = "000102030405060708090a0b0c0d0e0f";
    const NEW: &str = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";

    fn sealed(keys: &SealKeys, body: &[u8]) -> Properties {
        let mut properties = Properties::default();
        properties
            .headers_mut()
            .set(X_SET_PATH, FieldValue::Array(vec![FieldValue::str("sh-1")]));
        properties
            .headers_mut()
            .set(X_SET_ROUND, FieldValue::I32(1));
        keys.seal(
            Some(&MessageId(Bytes::from_static(b"m1"))),
            &mut properties,
            body,
        );
        properties
    }

    #[test]
    fn a_seal_holds_for_its_own_message_alone() {
        let keys = keys(OLD, &[]);
        let id = MessageId(Bytes::from_static(b"m1"));
        let good = sealed(&keys, b"body");
        assert!(keys.holds(Some(&id), &good, b"body"));
        assert!(!keys.holds(Some(&id), &good, b"another body"));
        assert!(!keys.holds(None, &good, b"body"));
        let mut forged = good.clone();
        forged.headers_mut().set(X_SET_ROUND, FieldValue::I32(0));
        assert!(!keys.holds(Some(&id), &forged, b"body"));
        // The same number in another type is another value.
        forged.headers_mut().set(X_SET_ROUND, FieldValue::I64(1));
        assert!(!keys.holds(Some(&id), &forged, b"body"));
        let mut bare = good;
        bare.headers_mut().remove(X_SET_SEAL);
        assert!(!keys.holds(Some(&id), &bare, b"body"));
    }

    #[test]
    fn after_a_rotation_old_seals_still_verify() {
        let id = MessageId(Bytes::from_static(b"m1"));
        let old = sealed(&keys(OLD, &[]), b"body");
        assert!(keys(NEW, &[OLD]).holds(Some(&id), &old, b"body"));
        assert!(!keys(NEW, &[]).holds(Some(&id), &old, b"body"));
    }

    #[test]
    fn keys_are_never_shown() {
        let shown = format!("{:?}", keys(OLD, &[NEW]));
        assert!(
            !shown.contains("0001") && !shown.contains("f0f1"),
            "{shown}"
        );
        assert_eq!(
            SealKeys::parse(b"{\"seal\":\"xyz\"}").err(),
            Some(SealError::Key)
        );
        assert_eq!(SealKeys::parse(b"garbage").err(), Some(SealError::Shape));
    }
}
