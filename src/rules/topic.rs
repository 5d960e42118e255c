//! AMQP topic patterns on routing keys.
//!
//! Words are split at dots; `*` stands for one word, `#` for any number of them, none too. An empty routing key has no
//! word, as RabbitMQ has it (`rabbit_exchange_type_topic`): `#` takes it and `*` doesn't. Matching allocates nothing and
//! looks at each word at most once per word of the pattern.

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPattern {
    text: String,
    words: Vec<Word>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    /// This one.
    Exact(Vec<u8>),
    /// `*`
    One,
    /// `#`
    Many,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// A wildcard with other characters around it, which a topic exchange would take literally.
    #[error("the word {0:?} has a wildcard in it, and wildcards stand alone between dots")]
    WildcardInWord(String),
}

impl TopicPattern {
    /// Compiles a pattern.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        let mut words = Vec::new();
        if !text.is_empty() {
            for word in text.split('.') {
                words.push(match word {
                    "*" => Word::One,
                    "#" => Word::Many,
                    _ if word.contains(['*', '#']) => {
                        return Err(TopicError::WildcardInWord(word.to_owned()));
                    }
                    _ => Word::Exact(word.as_bytes().to_vec()),
                });
            }
        }
        Ok(Self {
            text: text.to_owned(),
            words,
        })
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether every routing key matches.
    pub fn takes_all(&self) -> bool {
        !self.words.is_empty() && self.words.iter().all(|word| *word == Word::Many)
    }

    /// Whether some routing key matches both this and the other. Costs no more than the product of both lengths.
    pub fn meets(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.words, &other.words);
        // By places in both: whether what is left of them has a routing key in common; the last row first.
        let mut below = vec![false; theirs.len() + 1];
        for at in (0..=ours.len()).rev() {
            let mut row = vec![false; theirs.len() + 1];
            for beside in (0..=theirs.len()).rev() {
                row[beside] = match (ours.get(at), theirs.get(beside)) {
                    (None, None) => true,
                    // A `#` takes nothing, or one more word of the other.
                    (Some(Word::Many), None) => below[beside],
                    (None, Some(Word::Many)) => row[beside + 1],
                    (Some(Word::Many), Some(_)) | (Some(_), Some(Word::Many)) => {
                        below[beside] || row[beside + 1]
                    }
                    (Some(Word::Exact(one)), Some(Word::Exact(two))) => {
                        one == two && below[beside + 1]
                    }
                    (Some(_), Some(_)) => below[beside + 1],
                    (None, Some(_)) | (Some(_), None) => false,
                };
            }
            below = row;
        }
        below[0]
    }

    /// Whether this routing key matches. Where a `#` took too few words, it alone takes one more: a `#` before it never
    /// needs to, because what lies between the two matches no worse further on.
    pub fn matches(&self, key: &[u8]) -> bool {
        let mut rest = Words::of(key);
        let mut at = 0;
        let mut retry: Option<(usize, Words<'_>)> = None;
        loop {
            match self.words.get(at) {
                Some(Word::Many) => {
                    retry = Some((at + 1, rest.clone()));
                    at += 1;
                    continue;
                }
                Some(Word::One) => {
                    if rest.next().is_some() {
                        at += 1;
                        continue;
                    }
                }
                Some(Word::Exact(word)) => {
                    if rest.next().is_some_and(|found| found == word.as_slice()) {
                        at += 1;
                        continue;
                    }
                }
                None => {
                    if rest.next().is_none() {
                        return true;
                    }
                }
            }
            match &mut retry {
                Some((behind, from)) => {
                    if from.next().is_none() {
                        return false;
                    }
                    (at, rest) = (*behind, from.clone());
                }
                None => return false,
            }
        }
    }
}

/// The words of a routing key that are left; a copy remembers a place.
#[derive(Clone)]
pub(crate) struct Words<'a> {
    left: Option<&'a [u8]>,
}

impl<'a> Words<'a> {
    /// The words of a routing key.
    pub(crate) fn of(key: &'a [u8]) -> Self {
        Self {
            left: (!key.is_empty()).then_some(key),
        }
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let left = self.left?;
        let dot = left.iter().position(|byte| *byte == b'.');
        self.left = dot.map(|dot| &left[dot + 1..]);
        Some(&left[..dot.unwrap_or(left.len())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, word by word: what the fast one must agree with.
    fn naive(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), _) => (0..=key.len()).any(|taken| naive(rest, &key[taken..])),
            (Some((word, rest)), Some((found, left))) => {
                (*word == "*" || word == found) && naive(rest, left)
            }
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    fn split(text: &str) -> Vec<&str> {
        if text.is_empty() {
            Vec::new()
        } else {
            text.split('.').collect()
        }
    }

    proptest! {
        #[test]
        fn a_pattern_takes_what_its_definition_takes(
            pattern in proptest::collection::vec("a|b||\\*|#", 0..7),
            key in proptest::collection::vec("a|b|", 0..9),
        ) {
            let (pattern, key) = (pattern.join("."), key.join("."));
            prop_assert_eq!(
                TopicPattern::parse(&pattern).unwrap().matches(key.as_bytes()),
                naive(&split(&pattern), &split(&key)),
                "pattern {:?}, key {:?}", pattern, key
            );
        }
    }

    #[test]
    fn a_hash_takes_an_empty_routing_key_and_a_star_does_not() {
        assert!(TopicPattern::parse("#").unwrap().matches(b""));
        assert!(!TopicPattern::parse("*").unwrap().matches(b""));
        assert!(TopicPattern::parse("order.#").unwrap().matches(b"order"));
    }

    proptest! {
        #[test]
        fn two_patterns_meet_where_some_key_matches_both(
            one in proptest::collection::vec("a|b|\\*|#", 0..4),
            other in proptest::collection::vec("a|b|\\*|#", 0..4),
        ) {
            let parse = |words: &Vec<String>| TopicPattern::parse(&words.join(".")).unwrap();
            let (one, other) = (parse(&one), parse(&other));
            // All keys of up to seven words over an alphabet of three: longer ones have no more to offer.
            let mut keys = vec![String::new()];
            let mut longer = vec![String::new()];
            for _ in 0..7 {
                longer = longer
                    .iter()
                    .flat_map(|key| ["a", "b", "c"].map(|word| match key.as_str() {
                        "" => word.to_owned(),
                        key => format!("{key}.{word}"),
                    }))
                    .collect();
                keys.extend(longer.iter().cloned());
            }
            let common = keys
                .iter()
                .any(|key| one.matches(key.as_bytes()) && other.matches(key.as_bytes()));
            prop_assert_eq!(one.meets(&other), common, "{} and {}", one.as_str(), other.as_str());
            prop_assert_eq!(other.meets(&one), common);
        }
    }

    #[test]
    fn a_wildcard_inside_a_word_is_refused() {
        assert!(TopicPattern::parse("order.cre*").is_err());
    }

    #[test]
    fn many_hashes_cost_no_more_than_the_product_of_both_lengths() {
        let pattern = TopicPattern::parse(&vec!["#.a"; 60].join(".")).unwrap();
        assert!(!pattern.matches("a.".repeat(120).as_bytes()));
    }
}
