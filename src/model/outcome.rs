//! Why a parcel goes where it goes, and why a message could not go: closed sets.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! word_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $word)] $variant,)* }

        impl $name {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word in headers, metrics and output.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The one with this word.
            pub fn from_word(word: &[u8]) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str().as_bytes() == word)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

word_enum! {
    /// Why a message was parked or dropped.
    Reason {
        /// No rule matched.
        NoRule = "no_rule",
        /// The rule needs a key and the message has none.
        KeyAbsent = "key_absent",
        /// The key is there but can't be one: empty, of a type that is no key, or not what the map takes.
        KeyMalformed = "key_malformed",
        /// Nothing is bound at the target.
        Unroutable = "unroutable",
        /// The message itself can't be read.
        Malformed = "malformed",
        /// Body above `message_max`, or headers that leave no room for marks.
        TooLarge = "too_large",
        /// More rounds than `hops_max`.
        Hops = "hops",
        /// A rule says so.
        Rule = "rule",
        /// Its slot is fenced.
        Fenced = "fenced",
        /// The diversion is full.
        DivertFull = "divert_full",
        /// Its expiration passed.
        Expired = "expired",
        /// The owner is down and the rule doesn't wait.
        OwnerDown = "owner_down",
        /// A batch that didn't complete.
        Batch = "batch",
        /// A session that can't be continued.
        Session = "session",
    }
}

word_enum! {
    /// Why a parcel goes to its target: `x-set-why`.
    Why {
        /// To the seat of its slot.
        Owner = "owner",
        /// To the center's seat.
        Center = "center",
        /// A copy to every unit.
        Shared = "shared",
        /// To units that the rule names.
        Units = "units",
        /// Stays here.
        Local = "local",
        /// To the stand-in of its owner.
        Standby = "standby",
        /// By a gray share.
        Gray = "gray",
        /// By a pin.
        Pin = "pin",
    }
}
