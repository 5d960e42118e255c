//! Why a link port turns somebody away: a closed set, the same in metrics, on the wire and in logs.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)*) => {
        /// Why a connection or a stream was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum RefusalReason { $($(#[$doc])* $variant,)* }

        impl RefusalReason {
            /// Every one of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word in metrics and on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The one with this word.
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == word)
            }
        }
    };
}

reasons! {
    /// The connection doesn't speak TLS, or only a version before 1.2.
    NotTls = "not_tls",
    /// It presented no certificate.
    NoCertificate = "no_certificate",
    /// Its certificate comes from another certificate authority.
    ForeignCertificate = "foreign_certificate",
    /// Its certificate is out of its dates.
    ExpiredCertificate = "expired_certificate",
    /// Its certificate names no unit, or can't be used for another cause.
    BadCertificate = "bad_certificate",
    /// It didn't finish its greeting in time.
    HandshakeTimeout = "handshake_timeout",
    /// The port has as many connections as it takes.
    TooManyConnections = "too_many_connections",
    /// Bytes that are no frame, or a frame that has no place there.
    Garbage = "garbage",
    /// A version of the link protocol that this gateway doesn't speak.
    Protocol = "protocol",
    /// It belongs to another space.
    WrongSpace = "wrong_space",
    /// No unit of this space has that name.
    UnknownUnit = "unknown_unit",
    /// It says that it is another unit than its certificate does.
    WrongUnit = "wrong_unit",
    /// It wanted another unit than the one it reached.
    WrongTarget = "wrong_target",
    /// It lives in another life of the space.
    Lineage = "lineage",
    /// This gateway has no table yet.
    NotReady = "not_ready",
    /// It sent more than its credit allows.
    Credit = "credit",
    /// Another receiver holds the lane's lock.
    LaneBusy = "lane_busy",
    /// The receiver's broker is away.
    BrokerAway = "broker_away",
    /// The gateway is going down.
    Draining = "draining",
}

impl RefusalReason {
    /// Its place in [`RefusalReason::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A stream that was turned away, with a sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause} ({reason})")]
pub struct Refusal {
    /// Of the closed set.
    pub reason: RefusalReason,
    /// What was seen and how to mend it.
    pub cause: String,
}

impl Refusal {
    /// One of this reason.
    pub fn new(reason: RefusalReason, cause: impl Into<String>) -> Self {
        Self {
            reason,
            cause: cause.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_found_by_its_word_and_its_number() {
        for (at, reason) in RefusalReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), at);
            assert_eq!(RefusalReason::from_word(reason.as_str()), Some(*reason));
        }
        assert_eq!(RefusalReason::from_word("whatever"), None);
    }
}
