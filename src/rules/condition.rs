//! When a rule applies: conditions on routing key and headers.
//!
//! Owns their shape and how they are tested. Texts compare by their bytes, numbers by their value
//! whatever their width, and a regular expression looks anywhere in a text's bytes. Testing allocates nothing.

use super::topic::TopicPattern;
use crate::amqp::RawValue;
use crate::model::Message;
use regex_automata::meta;
use regex_automata::util::syntax;
use std::cmp::Ordering;
use std::fmt;

/// Longest regular expression; longer ones are lists, and belong into `in`.
const REGEX_BYTES_MAX: usize = 1_024;

/// What a compiled expression may take, and its cache while it searches: some hundred rules fit tens of MiB.
const REGEX_NFA_BYTES_MAX: usize = 256 << 10;
const REGEX_CACHE_BYTES_MAX: usize = 512 << 10;

/// All must hold; none at all holds always.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct When {
    /// Of the routing key.
    pub routing_key: Option<TopicPattern>,
    /// Of headers, in the order of the file.
    pub headers: Vec<HeaderCondition>,
}

/// One condition on one header.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderCondition {
    /// The header's name.
    pub name: String,
    /// What must hold.
    pub test: Test,
}

/// What must hold for a header.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// It has this value.
    Equals(Scalar),
    /// It has one of these values.
    In(Vec<Scalar>),
    /// It is there, whatever its value, or it isn't.
    Exists(bool),
    /// It is a text in which this is found.
    Matches(Regex),
    /// It is a text that begins so.
    Prefix(String),
    /// It is a number between these, ends included.
    Range {
        /// `None`: however small.
        from: Option<Scalar>,
        /// `None`: however large.
        to: Option<Scalar>,
    },
}

/// A value to compare with.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    /// Compares by bytes.
    Text(String),
    /// Compares by value.
    Int(i128),
    /// Compares by value.
    Float(f64),
    /// Compares with truth values alone.
    Bool(bool),
}

/// A compiled regular expression; equal when its text is.
#[derive(Debug, Clone)]
pub struct Regex {
    text: String,
    compiled: meta::Regex,
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// The condition that a message doesn't meet.
#[derive(Debug, Clone, PartialEq)]
pub enum Mismatch<'a> {
    /// The routing key.
    RoutingKey(&'a TopicPattern),
    /// A header that isn't there.
    HeaderAbsent(&'a HeaderCondition),
    /// A header that is there and doesn't hold.
    Header(&'a HeaderCondition),
}

impl When {
    /// Whether every message meets this.
    pub fn takes_all(&self) -> bool {
        self.headers.is_empty()
            && self
                .routing_key
                .as_ref()
                .is_none_or(TopicPattern::takes_all)
    }

    /// The first condition that the message doesn't meet; `None` when it meets all.
    pub fn mismatch(&self, message: &Message) -> Option<Mismatch<'_>> {
        if let Some(pattern) = &self.routing_key
            && !pattern.matches(&message.address.routing_key)
        {
            return Some(Mismatch::RoutingKey(pattern));
        }
        self.headers.iter().find_map(|condition| {
            let value = message.header(&condition.name);
            if condition.test.holds(value) {
                None
            } else if value.is_none() {
                Some(Mismatch::HeaderAbsent(condition))
            } else {
                Some(Mismatch::Header(condition))
            }
        })
    }
}

impl Test {
    /// Whether it holds for a header's value, `None` when the header isn't there.
    pub fn holds(&self, value: Option<RawValue<'_>>) -> bool {
        match (self, value) {
            (Self::Exists(wanted), value) => value.is_some() == *wanted,
            (
                Self::Equals(_)
                | Self::In(_)
                | Self::Matches(_)
                | Self::Prefix(_)
                | Self::Range { .. },
                None,
            ) => false,
            (Self::Equals(wanted), Some(value)) => wanted.equals(value),
            (Self::In(wanted), Some(value)) => wanted.iter().any(|one| one.equals(value)),
            (Self::Matches(regex), Some(value)) => {
                value.as_bytes().is_some_and(|bytes| regex.is_in(bytes))
            }
            (Self::Prefix(prefix), Some(value)) => value
                .as_bytes()
                .is_some_and(|bytes| bytes.starts_with(prefix.as_bytes())),
            (Self::Range { from, to }, Some(value)) => {
                let Some(found) = number(value) else {
                    return false;
                };
                let holds = |end: &Option<Scalar>, wanted: Ordering| {
                    end.as_ref().is_none_or(|end| {
                        let order = found.compare(end);
                        order.is_some_and(|order| order == wanted || order.is_eq())
                    })
                };
                holds(from, Ordering::Greater) && holds(to, Ordering::Less)
            }
        }
    }
}

impl Scalar {
    /// Whether a header has this value.
    pub fn equals(&self, value: RawValue<'_>) -> bool {
        match self {
            Self::Text(text) => value.as_bytes() == Some(text.as_bytes()),
            Self::Bool(wanted) => value.as_bool() == Some(*wanted),
            Self::Int(wanted) => match number(value) {
                Some(Number::Int(found)) => found == *wanted,
                Some(Number::Float(found)) => equal(*wanted, found),
                None => false,
            },
            Self::Float(wanted) => match number(value) {
                Some(Number::Int(found)) => equal(found, *wanted),
                Some(Number::Float(found)) => found.total_cmp(wanted).is_eq(),
                None => false,
            },
        }
    }
}

impl Scalar {
    pub(super) fn number(&self) -> Option<Number> {
        match self {
            Self::Int(v) => Some(Number::Int(*v)),
            Self::Float(v) => Some(Number::Float(*v)),
            Self::Text(_) | Self::Bool(_) => None,
        }
    }
}

pub(super) enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    /// With a number of the rules; none where that is no number, or this is none that compares.
    pub(super) fn compare(&self, end: &Scalar) -> Option<Ordering> {
        match (self, end) {
            (Self::Int(found), Scalar::Int(end)) => Some(found.cmp(end)),
            (Self::Float(found), Scalar::Float(end)) => found.partial_cmp(end),
            (Self::Int(found), Scalar::Float(end)) => Some(compare(*found, *end)?),
            (Self::Float(found), Scalar::Int(end)) => Some(compare(*end, *found)?.reverse()),
            (_, Scalar::Text(_) | Scalar::Bool(_)) => None,
        }
    }
}

/// An integer with a float, by their values.
fn compare(integer: i128, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the cast saturates beyond every integer that AMQP has"
    )]
    let whole = float.floor() as i128;
    Some(match integer.cmp(&whole) {
        Ordering::Equal if float.fract() != 0.0 => Ordering::Less,
        order => order,
    })
}

/// The number that a header's value is, if it is one.
fn number(value: RawValue<'_>) -> Option<Number> {
    match value.as_integer() {
        Some(integer) => Some(Number::Int(i128::from(integer))),
        None => value.as_float().map(Number::Float),
    }
}

/// An integer and a float of the same value. Beyond 2^53 not every integer is a float, so the integer decides.
fn equal(integer: i128, float: f64) -> bool {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the cast saturates, and the comparison of floats comes first"
    )]
    let whole = float as i128;
    float.fract() == 0.0 && whole == integer
}

impl Regex {
    /// Compiles an expression; the error is for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > REGEX_BYTES_MAX {
            return Err(format!(
                "it has {} bytes, and an expression at most {REGEX_BYTES_MAX}",
                text.len()
            ));
        }
        let compiled = meta::Builder::new()
            .syntax(syntax::Config::new().utf8(false))
            .configure(
                meta::Config::new()
                    .utf8_empty(false)
                    .nfa_size_limit(Some(REGEX_NFA_BYTES_MAX))
                    .onepass_size_limit(Some(REGEX_NFA_BYTES_MAX))
                    .hybrid_cache_capacity(REGEX_CACHE_BYTES_MAX),
            )
            .build(text)
            .map_err(|error| match error.syntax_error() {
                // Its text draws the expression over several lines; the last says what is wrong.
                Some(syntax) => {
                    let drawn = syntax.to_string();
                    let last = drawn.lines().last().unwrap_or_default();
                    last.trim_start_matches("error: ").to_owned()
                }
                None => "it is too large once compiled".to_owned(),
            })?;
        Ok(Self {
            text: text.to_owned(),
            compiled,
        })
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is found anywhere in these bytes.
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        self.compiled.is_match(bytes)
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => fmt::Debug::fmt(text, f),
            Self::Int(v) => v.fmt(f),
            Self::Float(v) => v.fmt(f),
            Self::Bool(v) => v.fmt(f),
        }
    }
}

impl fmt::Display for HeaderCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.test {
            Test::Equals(one) => write!(f, "header {name} is {one}"),
            Test::In(several) => {
                write!(f, "header {name} is one of ")?;
                for (n, one) in several.iter().enumerate() {
                    write!(f, "{}{one}", if n == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Test::Exists(true) => write!(f, "header {name} is there"),
            Test::Exists(false) => write!(f, "header {name} isn't there"),
            Test::Matches(regex) => write!(f, "header {name} matches {:?}", regex.text),
            Test::Prefix(prefix) => write!(f, "header {name} begins with {prefix:?}"),
            Test::Range { from, to } => {
                write!(f, "header {name} is a number")?;
                if let Some(from) = from {
                    write!(f, " from {from}")?;
                }
                if let Some(to) = to {
                    write!(f, " to {to}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.takes_all() {
            return f.write_str("any message");
        }
        let mut joint = "";
        if let Some(pattern) = &self.routing_key {
            write!(f, "routing key {}", pattern.as_str())?;
            joint = ", ";
        }
        for condition in &self.headers {
            write!(f, "{joint}{condition}")?;
            joint = ", ";
        }
        Ok(())
    }
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RoutingKey(pattern) => {
                write!(f, "the routing key doesn't match {}", pattern.as_str())
            }
            Self::HeaderAbsent(condition) => {
                write!(f, "it wants: {condition}; there is no such header")
            }
            Self::Header(condition) => write!(f, "it wants: {condition}; the header differs"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::{FieldTable, FieldValue};
    use bytes::BytesMut;

    /// A value as a header brings it.
    struct Wire(BytesMut);

    impl Wire {
        fn of(value: &FieldValue) -> Self {
            let mut bytes = BytesMut::new();
            value.encode(&mut bytes).unwrap();
            Self(bytes)
        }

        fn raw(&self) -> RawValue<'_> {
            RawValue {
                kind: self.0[0],
                bytes: &self.0[1..],
            }
        }
    }

    fn equals(scalar: &Scalar, value: &FieldValue) -> bool {
        scalar.equals(Wire::of(value).raw())
    }

    fn holds(test: &Test, value: &FieldValue) -> bool {
        test.holds(Some(Wire::of(value).raw()))
    }

    #[test]
    fn numbers_compare_by_value_whatever_their_width() {
        let values = [
            FieldValue::I8(5),
            FieldValue::U8(5),
            FieldValue::I16(5),
            FieldValue::U16(5),
            FieldValue::I32(5),
            FieldValue::U32(5),
            FieldValue::I64(5),
            FieldValue::F32(5.0),
            FieldValue::F64(5.0),
            FieldValue::Decimal {
                scale: 1,
                value: 50,
            },
        ];
        for value in &values {
            assert!(equals(&Scalar::Int(5), value), "{value:?}");
            assert!(equals(&Scalar::Float(5.0), value), "{value:?}");
            assert!(!equals(&Scalar::Int(6), value), "{value:?}");
            assert!(!equals(&Scalar::Text("5".to_owned()), value), "{value:?}");
        }
        assert!(!equals(&Scalar::Int(5), &FieldValue::str("5")));
        assert!(!equals(&Scalar::Int(5), &FieldValue::Timestamp(5)));
        assert!(!equals(&Scalar::Int(1), &FieldValue::Bool(true)));
        let largest = Scalar::Int(i128::from(i64::MAX));
        assert!(!equals(
            &largest,
            &FieldValue::F64(9_223_372_036_854_775_807.0)
        ));
    }

    #[test]
    fn texts_compare_by_bytes_and_expressions_look_anywhere_in_them() {
        let found = |test: &Test, bytes: &[u8]| holds(test, &FieldValue::str(bytes));
        let equals = Test::Equals(Scalar::Text("app".to_owned()));
        assert!(found(&equals, b"app") && !found(&equals, b"App"));
        let matches = Test::Matches(Regex::parse("^cn-|\\xff").unwrap());
        assert!(found(&matches, b"cn-east") && !found(&matches, b"a cn-"));
        let inside = Test::Matches(Regex::parse("east").unwrap());
        assert!(found(&inside, b"\xff\xfe east \xff"));
        assert!(!inside.holds(None));
        assert!(!holds(&inside, &FieldValue::Table(FieldTable::new())));
    }

    #[test]
    fn a_prefix_is_a_texts_begin_and_a_range_is_of_numbers_whatever_their_width() {
        let prefix = Test::Prefix("cn-".to_owned());
        assert!(holds(&prefix, &FieldValue::str("cn-east")));
        assert!(!holds(&prefix, &FieldValue::str("a cn-")) && !holds(&prefix, &FieldValue::I32(1)));
        let range = Test::Range {
            from: Some(Scalar::Int(10)),
            to: Some(Scalar::Float(20.5)),
        };
        for (value, inside) in [
            (FieldValue::I8(10), true),
            (FieldValue::I64(9), false),
            (FieldValue::F64(9.999), false),
            (FieldValue::F32(20.5), true),
            (FieldValue::U32(20), true),
            (FieldValue::U32(21), false),
            (FieldValue::F64(f64::NAN), false),
            (FieldValue::str("15"), false),
            (FieldValue::Timestamp(15), false),
        ] {
            assert_eq!(holds(&range, &value), inside, "{value:?}");
        }
        let open = Test::Range {
            from: Some(Scalar::Float(-0.5)),
            to: None,
        };
        assert!(holds(&open, &FieldValue::I64(i64::MAX)));
        assert!(!holds(&open, &FieldValue::I64(-1)));
        assert!(!open.holds(None));
    }

    #[test]
    fn an_absent_header_meets_only_that_it_is_absent() {
        assert!(Test::Exists(false).holds(None));
        assert!(!Test::Exists(true).holds(None));
        assert!(holds(&Test::Exists(true), &FieldValue::Void));
        assert!(!Test::In(vec![Scalar::Bool(false)]).holds(None));
    }
}
