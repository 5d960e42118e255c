//! The seal: which marks on a message are setgate's own.
//!
//! A keyed hash (SipHash-2-4 with 128 bits of output) under the space's key, over every mark that is read again, the
//! message's id and its body. Marks without a valid seal count for nothing: a publisher can't forge a trail, nor carry
//! one over to another message. Not a signature: whoever has the key (every gateway of the space) can make one.
//!
//! A mark is hashed as the bytes that it travels in, type octet first. Of a message above `message_max`, whose body goes
//! into the park queue piece by piece and is in nobody's hand, the seal covers the body's length instead, and a sealed
//! mark (`x-set-body-bytes`) says so. That is enough: those marks hold only on a body of that very length, so another
//! body that carries them is above `message_max` as well, and comes no further than into the park again.

use super::marks::{PREFIX, SEALED, X_SET_BODY_BYTES, X_SET_SEAL};
use super::{Address, Identities, Identity, LaneId, MessageId, Parcel};
use crate::amqp::{Edit, FieldValue, RawHeaders, RawProperties, RawValue};
use bytes::BufMut;
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

    fn hash(&self, parts: &Parts) -> [u8; SEAL_BYTES] {
        let mut hasher = SipHasher24::new_with_key(self.0.expose_secret());
        hasher.write(&parts.0);
        hasher.finish128().as_bytes()
    }

    fn body(&self, body: &[u8]) -> [u8; SEAL_BYTES] {
        let mut hasher = SipHasher24::new_with_key(self.0.expose_secret());
        hasher.write(b"setgate body 1");
        hasher.write(body);
        hasher.finish128().as_bytes()
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

    /// Puts the seal over the marks that an edit sets. The edit has to take off all those that are there, as
    /// `remove_if(is_mark)` does: what is not under the seal must not be found where it is looked for.
    pub fn seal(&self, id: Option<&MessageId>, edit: &mut Edit<'_>, body: SealedBody<'_>) {
        if let SealedBody::Length(bytes) = body {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            edit.set(X_SET_BODY_BYTES, &FieldValue::I64(bytes));
        }
        let seal = marks_hash(&self.sealing, id, &sealed(edit.headers()), body);
        edit.set_bytes(X_SET_SEAL, seal);
    }

    /// Whether the seal is there and holds, by any of the keys.
    pub fn holds(&self, id: Option<&MessageId>, properties: &RawProperties, body: &[u8]) -> bool {
        let seal = properties.header(X_SET_SEAL).and_then(RawValue::as_bytes);
        let Some(seal) = seal else {
            return false;
        };
        if properties.header(X_SET_BODY_BYTES).is_some() {
            return self.holds_by_length(id, properties, body.len() as u64);
        }
        self.covers(seal, id, properties, SealedBody::Whole(body))
    }

    /// As [`SealKeys::holds`], for a body of so many bytes that isn't there: never for one that is under the seal.
    pub fn holds_by_length(
        &self,
        id: Option<&MessageId>,
        properties: &RawProperties,
        body_bytes: u64,
    ) -> bool {
        let seal = properties.header(X_SET_SEAL).and_then(RawValue::as_bytes);
        let bytes = properties.header(X_SET_BODY_BYTES);
        let bytes = bytes.and_then(RawValue::as_integer);
        let bytes = bytes.and_then(|bytes| u64::try_from(bytes).ok());
        match (seal, bytes) {
            (Some(seal), Some(bytes)) if bytes == body_bytes => {
                self.covers(seal, id, properties, SealedBody::Length(bytes))
            }
            (_, _) => false,
        }
    }

    fn covers(
        &self,
        seal: &[u8],
        id: Option<&MessageId>,
        properties: &RawProperties,
        body: SealedBody<'_>,
    ) -> bool {
        let marks = sealed(properties.headers());
        self.all()
            .any(|key| marks_hash(key, id, &marks, body).ct_eq(seal).into())
    }

    /// The value of `x-set-delivered`: where and with which dead-letterings a message was delivered.
    pub fn delivered(&self, address: &Address, properties: &RawProperties) -> [u8; SEAL_BYTES] {
        delivered_hash(&self.sealing, address, properties)
    }

    /// Whether `mark` is the hash of this address and these dead-letterings, by any of the keys.
    pub fn delivered_as(&self, mark: &[u8], address: &Address, properties: &RawProperties) -> bool {
        self.all()
            .any(|key| delivered_hash(key, address, properties).ct_eq(mark).into())
    }

    /// What a seal and identities have of a body.
    pub fn body(&self, body: &[u8]) -> BodyHash {
        BodyHash {
            current: self.sealing.body(body),
            former: self.verifying.iter().map(|key| key.body(body)).collect(),
        }
    }

    /// By what the target's unit knows a parcel of this lane, which has this body; none without an id.
    pub fn identities(
        &self,
        lane: &LaneId,
        parcel: &Parcel,
        body: &BodyHash,
    ) -> Option<Identities> {
        let id = parcel.id.as_ref()?;
        let mut who = Parts::of(b"setgate who 1");
        who.put(Some(lane.unit.as_str().as_bytes()));
        who.put(Some(lane.source.as_str().as_bytes()));
        who.put(Some(&id.0));
        who.0.put_u32(parcel.round.0);
        who.0.put_u32(parcel.retry.0);
        let of = |key: &SealKey, body: &[u8; SEAL_BYTES]| {
            let mut what = Parts::of(b"setgate what 1");
            what.put(Some(&parcel.address.exchange));
            what.put(Some(&parcel.address.routing_key));
            what.put(Some(body));
            let id = Identity {
                who: half(key.hash(&who)),
                what: half(key.hash(&what)),
            };
            id.in_slot(parcel.slot)
        };
        let former = self.verifying.iter().zip(&body.former);
        Some(Identities {
            current: of(&self.sealing, &body.current),
            former: former.map(|(key, body)| of(key, body)).collect(),
        })
    }

    fn all(&self) -> impl Iterator<Item = &SealKey> {
        std::iter::once(&self.sealing).chain(&self.verifying)
    }
}

/// The first 64 of a hash's bits.
fn half(hash: [u8; SEAL_BYTES]) -> u64 {
    hash.first_chunk()
        .map_or(0, |half| u64::from_be_bytes(*half))
}

/// The hash of a body under the key that seals, and under those that verify. It is made once for seal and identities
/// together: a body is most of what is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyHash {
    current: [u8; SEAL_BYTES],
    former: Vec<[u8; SEAL_BYTES]>,
}

/// What of a body is under the seal.
#[derive(Debug, Clone, Copy)]
pub enum SealedBody<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// The same, hashed already by the keys that seal it.
    Hashed(&'a BodyHash),
    /// How many bytes it has: of one that nobody has in hand.
    Length(u64),
}

type Sealed<'a> = [Option<RawValue<'a>>; SEALED.len()];

/// The first of each mark that is sealed. Each is looked for where it stands as a rule: behind the one before it.
fn sealed(headers: RawHeaders<'_>) -> Sealed<'_> {
    let mut values = [None; SEALED.len()];
    let mut next = 0;
    for (name, value) in headers.filter(|(name, _)| name.starts_with(PREFIX)) {
        let (before, from) = SEALED.split_at(next);
        let found = from.iter().chain(before);
        let steps = found.take_while(|sealed| sealed.as_bytes() != name);
        let at = match next + steps.count() {
            // Round to where it began: no sealed one.
            at if at == next + SEALED.len() => continue,
            at => at % SEALED.len(),
        };
        if let Some(place) = values.get_mut(at) {
            place.get_or_insert(value);
        }
        next = (at + 1) % SEALED.len();
    }
    values
}

fn marks_hash(
    key: &SealKey,
    id: Option<&MessageId>,
    marks: &Sealed<'_>,
    body: SealedBody<'_>,
) -> [u8; SEAL_BYTES] {
    let mut parts = Parts::of(b"setgate seal 1");
    parts.put(id.map(|id| &id.0[..]));
    for mark in marks {
        parts.put_value(*mark);
    }
    match body {
        SealedBody::Whole(body) => {
            parts.0.put_u8(1);
            parts.0.put_slice(&key.body(body));
        }
        SealedBody::Hashed(body) => {
            parts.0.put_u8(1);
            parts.0.put_slice(&body.current);
        }
        SealedBody::Length(bytes) => {
            parts.0.put_u8(2);
            parts.0.put_u64(bytes);
        }
    }
    key.hash(&parts)
}

fn delivered_hash(
    key: &SealKey,
    address: &Address,
    properties: &RawProperties,
) -> [u8; SEAL_BYTES] {
    let mut parts = Parts::of(b"setgate delivered 1");
    parts.put(Some(&address.exchange));
    parts.put(Some(&address.routing_key));
    parts.put_value(properties.header("x-death"));
    key.hash(&parts)
}

/// What is hashed, written so that no two sequences of parts read alike: of each, whether it is there, its length, its
/// bytes. In one buffer, as the hash takes one long piece in less time than many short ones.
struct Parts(Vec<u8>);

impl Parts {
    fn of(purpose: &[u8]) -> Self {
        let mut parts = Vec::with_capacity(PARTS_BYTES);
        parts.put_slice(purpose);
        Self(parts)
    }

    fn put(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            None => self.0.put_u8(0),
            Some(bytes) => {
                self.0.put_u8(1);
                self.0.put_u64(bytes.len() as u64);
                self.0.put_slice(bytes);
            }
        }
    }

    /// A header's value, type octet first.
    fn put_value(&mut self, value: Option<RawValue<'_>>) {
        match value {
            None => self.0.put_u8(0),
            Some(RawValue { kind, bytes }) => {
                self.0.put_u8(1);
                self.0.put_u64(1 + bytes.len() as u64);
                self.0.put_u8(kind);
                self.0.put_slice(bytes);
            }
        }
    }
}

/// Room for the marks of most messages: 14 values of some 20 bytes, with 9 before each.
const PARTS_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::marks::{X_SET_PATH, X_SET_ROUND};
    use bytes::Bytes;

    fn keys(sealing: &str, verifying: &[&str]) -> SealKeys {
        let json = serde_json::json!({"seal": sealing, "verify": verifying});
        SealKeys::parse(json.to_string().as_bytes()).unwrap()
    }

    const OLD: &str = "000102030405060708090a0b0c0d0e0f";
    const NEW: &str = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";

    fn id() -> MessageId {
        MessageId(Bytes::from_static(b"m1"))
    }

    fn sealed(keys: &SealKeys, body: SealedBody<'_>) -> RawProperties {
        let mut edit = Edit::new();
        edit.set_strings(X_SET_PATH, ["sh-1"]);
        edit.set(X_SET_ROUND, &FieldValue::I32(1));
        keys.seal(Some(&id()), &mut edit, body);
        edit.apply(&RawProperties::default()).unwrap()
    }

    fn with(properties: &RawProperties, name: &str, value: &FieldValue) -> RawProperties {
        let mut edit = Edit::new();
        edit.set(name, value);
        edit.apply(properties).unwrap()
    }

    #[test]
    fn a_seal_holds_for_its_own_message_alone() {
        let keys = keys(OLD, &[]);
        let good = sealed(&keys, SealedBody::Whole(b"body"));
        assert!(keys.holds(Some(&id()), &good, b"body"));
        assert!(!keys.holds(Some(&id()), &good, b"another body"));
        assert!(!keys.holds(None, &good, b"body"));
        let forged = with(&good, X_SET_ROUND, &FieldValue::I32(0));
        assert!(!keys.holds(Some(&id()), &forged, b"body"));
        // The same number in another type is another value.
        let forged = with(&good, X_SET_ROUND, &FieldValue::I64(1));
        assert!(!keys.holds(Some(&id()), &forged, b"body"));
        // A mark of the body's length that the seal doesn't know.
        let forged = with(&good, X_SET_BODY_BYTES, &FieldValue::I64(4));
        assert!(!keys.holds(Some(&id()), &forged, b"body"));
        let mut bare = Edit::new();
        bare.remove(X_SET_SEAL);
        let bare = bare.apply(&good).unwrap();
        assert!(!keys.holds(Some(&id()), &bare, b"body"));
    }

    #[test]
    fn a_seal_over_a_length_holds_for_bodies_of_that_length_alone() {
        let keys = keys(OLD, &[]);
        let good = sealed(&keys, SealedBody::Length(4));
        assert!(keys.holds(Some(&id()), &good, b"body"));
        assert!(keys.holds(Some(&id()), &good, b"mind"));
        assert!(!keys.holds(Some(&id()), &good, b"bodies"));
        let forged = with(&good, X_SET_BODY_BYTES, &FieldValue::I64(6));
        assert!(!keys.holds(Some(&id()), &forged, b"bodies"));
        let mut bare = Edit::new();
        bare.remove(X_SET_BODY_BYTES);
        let bare = bare.apply(&good).unwrap();
        assert!(!keys.holds(Some(&id()), &bare, b"body"));
    }

    #[test]
    fn a_seal_holds_in_whatever_order_a_broker_has_put_the_headers() {
        let keys = keys(OLD, &[]);
        let good = sealed(&keys, SealedBody::Whole(b"body"));
        let mut properties = good.decode().unwrap();
        let headers = properties.headers.take().unwrap();
        let mut entries: Vec<_> = headers
            .iter()
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect();
        entries.reverse();
        // A second mark of a name, behind the first, is nobody's.
        entries.push((Bytes::from(X_SET_ROUND), FieldValue::I32(0)));
        properties.headers = Some(entries.into_iter().collect());
        let turned = RawProperties::of(&properties).unwrap();
        assert!(keys.holds(Some(&id()), &turned, b"body"));
    }

    #[test]
    fn after_a_rotation_old_seals_still_verify() {
        let old = sealed(&keys(OLD, &[]), SealedBody::Whole(b"body"));
        assert!(keys(NEW, &[OLD]).holds(Some(&id()), &old, b"body"));
        assert!(!keys(NEW, &[]).holds(Some(&id()), &old, b"body"));
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
