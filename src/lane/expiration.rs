//! A message's expiration counts on while setgate holds it.

use std::borrow::Cow;
use std::time::Duration;

/// What is left of an expiration (milliseconds as decimal text) after `held`; `0` when it has run out, so that the
/// broker that gets it treats it as it treats every expired message. Text that is no number stays as it is.
pub fn remaining(expiration: &[u8], held: Duration) -> Cow<'_, [u8]> {
    let milliseconds = std::str::from_utf8(expiration)
        .ok()
        .and_then(|text| text.parse::<u64>().ok());
    match milliseconds {
        None => Cow::Borrowed(expiration),
        Some(total) => {
            let held = u64::try_from(held.as_millis()).unwrap_or(u64::MAX);
            Cow::Owned(total.saturating_sub(held).to_string().into_bytes())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_a_message_was_held_is_subtracted() {
        let left = |text: &'static str, ms| {
            let left = remaining(text.as_bytes(), Duration::from_millis(ms));
            String::from_utf8(left.into_owned()).unwrap()
        };
        assert_eq!(left("60000", 1_500), "58500");
        assert_eq!(left("1000", 1_500), "0");
        assert_eq!(left("soon", 1_500), "soon");
    }
}
