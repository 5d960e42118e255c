//! Which parked messages a command is for, as its flags say.

use crate::gateway::parked::Filter;
use crate::model::{Reason, RuleName, SourceName};
use jiff::Timestamp;
use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Duration;

/// Flags that choose among parked messages; all that are given must hold.
#[derive(Debug, clap::Args)]
pub(super) struct FilterArgs {
    /// Parked by this rule.
    #[arg(long, value_name = "NAME")]
    rule: Option<RuleName>,
    /// For this reason, such as key_absent or hops.
    #[arg(long, value_name = "WORD", value_parser = reason)]
    reason: Option<Reason>,
    /// Taken by this source.
    #[arg(long, value_name = "NAME")]
    source: Option<SourceName>,
    /// Parked since: an age such as 90s, 15m, 2h or 3d, or a time such as 2026-01-31T08:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<u64>,
    /// With this id or handle.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
}

impl FilterArgs {
    pub(super) fn filter(&self) -> Filter {
        Filter {
            rule: self.rule.clone(),
            reason: self.reason,
            source: self.source.clone(),
            since: self.since,
            id: self.id.clone(),
        }
    }

    /// As the query of a URL.
    pub(super) fn query(&self) -> String {
        let mut query = String::new();
        let since = self.since.map(|since| since.to_string());
        for (name, value) in [
            ("rule", self.rule.as_ref().map(RuleName::as_str)),
            ("reason", self.reason.map(Reason::as_str)),
            ("source", self.source.as_ref().map(SourceName::as_str)),
            ("since", since.as_deref()),
            ("id", self.id.as_deref()),
        ] {
            if let Some(value) = value {
                // Writing to a string can't fail.
                let _ = write!(query, "{name}={}&", escaped(value));
            }
        }
        query
    }
}

/// A text as it stands in a URL's query: all but letters, digits and a few marks by their bytes.
pub(super) fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

fn reason(word: &str) -> Result<Reason, String> {
    Reason::from_word(word.as_bytes()).ok_or_else(|| {
        let words: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        format!("there is no such reason; these are: {}", words.join(" "))
    })
}

fn since(text: &str) -> Result<u64, String> {
    let time = match text.parse::<Timestamp>() {
        Ok(time) => Some(time),
        Err(_) => age(text).and_then(|age| Timestamp::now().checked_sub(age).ok()),
    };
    time.and_then(|time| u64::try_from(time.as_second()).ok())
        .ok_or_else(|| "write 90s, 15m, 2h, 3d, or 2026-01-31T08:00:00Z".to_owned())
}

fn age(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    Some(Duration::from_secs(number.checked_mul(seconds)?))
}

/// Messages per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate(u32);

impl Rate {
    pub(super) const fn per_second(self) -> u32 {
        self.0
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_suffix("/s").unwrap_or(text).parse() {
            Ok(rate @ 1..) => Ok(Self(rate)),
            Ok(0) | Err(_) => Err("write messages per second, such as 100/s".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_per_second() {
        assert_eq!("100/s".parse(), Ok(Rate(100)));
        assert_eq!("7".parse(), Ok(Rate(7)));
        for wrong in ["0/s", "", "-1", "5/m", "many"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn since_is_an_age_or_a_time() {
        assert_eq!(since("2026-01-31T08:00:00Z"), Ok(1_769_846_400));
        assert_eq!(age("15m"), Some(Duration::from_mins(15)));
        assert_eq!(age("3d"), Some(Duration::from_hours(72)));
        for wrong in [
            "",
            "m",
            "15",
            "15 minutes",
            "-5s",
            "é",
            "99999999999999999999d",
        ] {
            assert!(since(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_id_of_odd_characters_stays_one_value() {
        assert_eq!(escaped("a b&c=é"), "a%20b%26c%3D%C3%A9");
    }
}
