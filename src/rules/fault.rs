//! What is wrong with a document, where, and how to mend it.
//!
//! Owns the shape of a fault and the closed set of its codes. A warning has the same shape. Promises that each names
//! the place as an editor counts it, and a mend. Never decides what is wrong: readers and checks do.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A position in a file; line and column from 1, as editors count. Line 0 means the file, or the folder, as a whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Name of the file, as it was given.
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
}

impl Place {
    /// A file, or a folder, as a whole.
    pub fn whole(file: &str) -> Self {
        Self {
            file: Arc::from(file),
            line: 0,
            column: 0,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}:{}", self.file, self.column),
        }
    }
}

/// A value and where it is written. Two are equal when their values are: a document that only moved has not changed.
#[derive(Debug, Clone)]
pub struct Placed<T> {
    /// What is written.
    pub value: T,
    /// Where.
    pub place: Place,
}

impl<T> Placed<T> {
    /// Keeps the place.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Placed<U> {
        Placed {
            value: change(self.value),
            place: self.place,
        }
    }
}

impl<T: PartialEq> PartialEq for Placed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T> Deref for Placed<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

macro_rules! fault_codes {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)*) => {
        /// What kind of fault: a closed set of words, for tools.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum FaultCode { $($(#[$doc])* #[serde(rename = $word)] $variant,)* }

        impl FaultCode {
            /// The word in JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

fault_codes! {
    /// The file isn't UTF-8.
    NotUtf8 = "not_utf8",
    /// The file is larger than any file of documents may be.
    FileTooLarge = "file_too_large",
    /// The text isn't YAML, or is larger inside than its bytes let expect.
    Yaml = "yaml",
    /// A field is written twice in one mapping.
    RepeatedField = "repeated_field",
    /// `kind` is none that exists.
    UnknownKind = "unknown_kind",
    /// A version that this program doesn't know.
    UnknownVersion = "unknown_version",
    /// A required field isn't there.
    MissingField = "missing_field",
    /// A field that isn't known here.
    UnknownField = "unknown_field",
    /// A value of the wrong type.
    WrongType = "wrong_type",
    /// A value out of what the field takes.
    BadValue = "bad_value",
    /// A text that can't be a name.
    BadName = "bad_name",
    /// A name longer than AMQP has room for.
    NameTooLong = "name_too_long",
    /// Known, and not in this version yet.
    NotYet = "not_yet",
    /// No topology, or no placement.
    MissingDocument = "missing_document",
    /// Two documents of one name, or two of which there can be but one.
    RepeatedDocument = "repeated_document",
    /// A space that isn't the one this gateway, or this command, works for.
    WrongSpace = "wrong_space",
    /// Slots that no range covers.
    RangeGap = "range_gap",
    /// Slots that two ranges cover.
    RangeOverlap = "range_overlap",
    /// A range that ends before it begins, or beyond the last slot.
    RangeBounds = "range_bounds",
    /// A key is pinned twice.
    RepeatedPin = "repeated_pin",
    /// The slot count differs from the one the space was created with.
    SlotsChanged = "slots_changed",
    /// A source is spread over partitions by something that the broker can't see.
    Partitions = "partitions",
    /// A source's key differs from the one in force.
    KeyChanged = "key_changed",
    /// A unit that the topology doesn't have.
    UnknownUnit = "unknown_unit",
    /// A site that the topology doesn't have.
    UnknownSite = "unknown_site",
    /// A city that the topology doesn't have.
    UnknownCity = "unknown_city",
    /// A source that no document describes.
    UnknownSource = "unknown_source",
    /// A unit that stands by for itself.
    OwnStandby = "own_standby",
    /// A unit that is named twice in one list.
    RepeatedUnit = "repeated_unit",
    /// A unit whose `access` forbids what a document asks of it.
    Access = "access",
    /// As many sites may be down at once as there are.
    SitesDownMax = "sites_down_max",
    /// Automatic failover of units that go on when they are isolated.
    IsolatedContinue = "isolated_continue",
    /// A rule that an earlier one always hides.
    HiddenRule = "hidden_rule",
    /// A rule about routing keys that the source isn't bound for.
    NeverMatches = "never_matches",
    /// A unit that takes deliveries and owns nothing.
    NoSlots = "no_slots",
    /// A city's loss is answered without a person.
    AcrossCities = "across_cities",
    /// Two rules of one source with one order.
    EqualOrders = "equal_orders",
    /// A source that would deliver to itself.
    SelfDelivery = "self_delivery",
    /// A rule delivers, and nothing says where.
    NoDeliver = "no_deliver",
    /// Copies in the unit that owns all of it.
    CopyAtHome = "copy_at_home",
    /// Copies that are awaited from another city.
    CopiesAcrossCities = "copies_across_cities",
    /// A shared rule on a queue source.
    SharedOnQueue = "shared_on_queue",
    /// A source without any rule.
    NoRules = "no_rules",
    /// A topic pattern that doesn't compile.
    BadPattern = "bad_pattern",
    /// A regular expression that doesn't compile.
    BadRegex = "bad_regex",
    /// A map that can't serve the key, or not all slots.
    KeyMap = "key_map",
    /// More than one etcd transaction takes.
    TransactionTooLarge = "transaction_too_large",
    /// Keys of a live source may get other owners.
    NeedsMove = "needs_move",
    /// There are more than are told.
    More = "more",
    /// The folder's placement isn't the live one.
    PlacementDrift = "placement_drift",
}

impl fmt::Display for FaultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One fault, or one warning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Name of the file, as it was given.
    pub file: String,
    /// From 1; 0 for the file or folder as a whole.
    pub line: u32,
    /// From 1; 0 for the file or folder as a whole.
    pub column: u32,
    /// What kind.
    pub code: FaultCode,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub mend: String,
}

impl Fault {
    /// A fault at a place.
    pub fn at(
        place: &Place,
        code: FaultCode,
        message: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self {
            file: place.file.to_string(),
            line: place.line,
            column: place.column,
            code,
            message: message.into(),
            mend: mend.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}; {}", self.file, self.message, self.mend),
            line => write!(
                f,
                "{}:{line}:{}: {}; {}",
                self.file, self.column, self.message, self.mend
            ),
        }
    }
}

impl std::error::Error for Fault {}
