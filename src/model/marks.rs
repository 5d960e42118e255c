//! The `x-set-*` headers: requests, which anybody may make, and marks, which count only under a valid seal.

use super::{MessageId, Retry, Round, SealKeys, UnitId, Why};
use crate::amqp::{FieldValue, RawProperties, RawValue};
use bytes::Bytes;

macro_rules! headers {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {$(
        $(#[$doc])*
        pub const $name: &str = $text;
    )*};
}

headers! {
    /// The message's id, absent when it has none.
    X_SET_ID = "x-set-id";
    /// The slot of its key, absent without a key.
    X_SET_SLOT = "x-set-slot";
    /// The unit that took it.
    X_SET_FROM = "x-set-from";
    /// The unit that it was delivered to.
    X_SET_TO = "x-set-to";
    /// The epoch of the table that routed it.
    X_SET_EPOCH = "x-set-epoch";
    /// The units that it has visited, oldest first.
    X_SET_PATH = "x-set-path";
    /// How often a lane has taken it.
    X_SET_ROUND = "x-set-round";
    /// How often a person had it retried.
    X_SET_RETRY = "x-set-retry";
    /// Keyed hash of where and with which dead-letterings it was delivered.
    X_SET_DELIVERED = "x-set-delivered";
    /// Why it went where it went.
    X_SET_WHY = "x-set-why";
    /// It may have been delivered before.
    X_SET_IN_DOUBT = "x-set-in-doubt";
    /// An operator had it sent again.
    X_SET_REPLAY = "x-set-replay";
    /// The `user-id` that its publisher gave.
    X_SET_USER_ID = "x-set-user-id";
    /// Pairs a returned message with its publish.
    X_SET_PARCEL = "x-set-parcel";
    /// The seal over the marks that are read again.
    X_SET_SEAL = "x-set-seal";
    /// On parked ones: the exchange that it was published to.
    X_SET_EXCHANGE = "x-set-exchange";
    /// On parked ones: its routing key.
    X_SET_ROUTING_KEY = "x-set-routing-key";
    /// On parked ones: its CC header.
    X_SET_CC = "x-set-cc";
    /// On parked ones: its expiration.
    X_SET_EXPIRATION = "x-set-expiration";
    /// On parked ones: its delivery mode.
    X_SET_DELIVERY_MODE = "x-set-delivery-mode";
    /// On parked ones: why.
    X_SET_REASON = "x-set-reason";
    /// On parked ones: by which rule.
    X_SET_RULE = "x-set-rule";
    /// On parked ones: since when.
    X_SET_AT = "x-set-at";
    /// On diverted ones: by which lane, its number, and what it is.
    X_SET_DIVERTED = "x-set-diverted";
    /// On parked and diverted ones: the source that took it, to whose queue a retry gives it back.
    X_SET_SOURCE = "x-set-source";
    /// On parked ones whose body nobody held whole: how many bytes it has. The seal covers these instead of the body.
    X_SET_BODY_BYTES = "x-set-body-bytes";
}

/// Headers that anybody may set: they stay as they came, and are no marks.
const REQUESTS: [&str; 7] = [
    "x-set-key",
    "x-set-session",
    "x-set-seq",
    "x-set-batch",
    "x-set-delay-ms",
    "x-set-deliver-at",
    "x-set-receipt",
];

/// The marks under the seal: all that a gateway reads again. Order matters: it is that of the hash.
pub const SEALED: [&str; 23] = [
    X_SET_SLOT,
    X_SET_FROM,
    X_SET_TO,
    X_SET_EPOCH,
    X_SET_PATH,
    X_SET_ROUND,
    X_SET_RETRY,
    X_SET_DELIVERED,
    X_SET_WHY,
    X_SET_USER_ID,
    X_SET_ID,
    X_SET_EXCHANGE,
    X_SET_ROUTING_KEY,
    X_SET_CC,
    X_SET_EXPIRATION,
    X_SET_DELIVERY_MODE,
    X_SET_REASON,
    X_SET_RULE,
    X_SET_AT,
    X_SET_BODY_BYTES,
    X_SET_DIVERTED,
    X_SET_SOURCE,
    X_SET_REPLAY,
];

/// How the names of all of them begin.
pub(super) const PREFIX: &[u8] = b"x-set-";

/// Whether a header is a mark: `x-set-` and no request. Case counts, as everywhere in AMQP.
pub fn is_mark(name: &[u8]) -> bool {
    name.starts_with(PREFIX) && !REQUESTS.iter().any(|request| request.as_bytes() == name)
}

/// What a quorum queue adds to a message that it hands out again.
const X_DELIVERY_COUNT: &[u8] = b"x-delivery-count";

/// Whether a header is a mark, or says how often a quorum queue has handed the message out.
pub fn is_mark_or_count(name: &[u8]) -> bool {
    is_mark(name) || name == X_DELIVERY_COUNT
}

/// A mark's value.
pub fn number_value(number: u32) -> FieldValue {
    // `I` is signed: what doesn't fit can't come up (slots, rounds and retries are small), and would read as its maximum.
    FieldValue::I32(i32::try_from(number).unwrap_or(i32::MAX))
}

/// Where a message has been, by marks whose seal holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trail {
    /// Units that it has visited, oldest first.
    pub path: Vec<UnitId>,
    /// How often a lane has taken it.
    pub round: Round,
    /// How often a person had it retried.
    pub retry: Retry,
    /// Why it went to the last of the path.
    pub why: Why,
    /// Keyed hash of how it was delivered there.
    pub delivered: Bytes,
    /// The user-id that it had at first.
    pub user_id: Option<Bytes>,
}

/// What the marks on a message are worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marks {
    /// There are none.
    Absent,
    /// There are some, without a seal that holds: forged, copied from another message, or of another space.
    Unsealed,
    /// They are ours.
    Sealed(Trail),
}

/// Longest path that is believed: `hops_max` rounds through as many units as a space has stay far below.
pub const PATH_MAX: usize = 1_024;

impl Marks {
    /// Reads and verifies the marks on a message.
    pub fn read(
        keys: &SealKeys,
        id: Option<&MessageId>,
        properties: &RawProperties,
        body: &[u8],
    ) -> Self {
        if !properties.headers().any(|(name, _)| is_mark(name)) {
            return Self::Absent;
        }
        if !keys.holds(id, properties, body) {
            return Self::Unsealed;
        }
        trail(properties).map_or(Self::Unsealed, Self::Sealed)
    }
}

fn trail(properties: &RawProperties) -> Option<Trail> {
    let path = properties.header(X_SET_PATH)?.as_array()?;
    if path.clone().take(PATH_MAX + 1).count() > PATH_MAX {
        return None;
    }
    let unit =
        |value: RawValue<'_>| UnitId::parse(std::str::from_utf8(value.as_bytes()?).ok()?).ok();
    let number = |name| u32::try_from(properties.header(name)?.as_integer()?).ok();
    let user_id = properties
        .header(X_SET_USER_ID)
        .and_then(RawValue::as_bytes);
    Some(Trail {
        path: path.map(|value| unit(value.ok()?)).collect::<Option<_>>()?,
        round: Round(number(X_SET_ROUND)?),
        retry: Retry(number(X_SET_RETRY)?),
        why: Why::from_word(properties.header(X_SET_WHY)?.as_bytes()?)?,
        delivered: properties.share(properties.header(X_SET_DELIVERED)?.as_bytes()?),
        user_id: user_id.map(|user| properties.share(user)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_no_marks() {
        let names = [
            "x-set-key",
            "x-set-path",
            "x-set-seal",
            "x-set-whatever",
            "X-Set-Path",
            "uid",
        ];
        let others: Vec<_> = names
            .into_iter()
            .filter(|name| !is_mark(name.as_bytes()))
            .collect();
        assert_eq!(others, ["x-set-key", "X-Set-Path", "uid"]);
    }
}
