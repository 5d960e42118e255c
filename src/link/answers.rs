//! Answers as bytes: runs of accepted parcels as ranges, everything else one by one.

use super::frame::{FrameError, read};
use crate::model::{Answer, ParcelNumber, Reason};
use bytes::Bytes;
use prost::Message as _;

/// Answers in one frame. No more parcels than a stream's largest credit can be unanswered.
const ANSWERS_MAX: usize = super::Credit::MAX.parcels;

/// The longest cause that travels; the rest is cut.
const CAUSE_BYTES_MAX: usize = 256;

#[derive(Clone, PartialEq, prost::Message)]
struct AnswersWire {
    #[prost(message, repeated, tag = "1")]
    accepted: Vec<RangeWire>,
    #[prost(message, repeated, tag = "2")]
    others: Vec<OneWire>,
}

/// Ends included.
#[derive(Clone, PartialEq, prost::Message)]
struct RangeWire {
    #[prost(uint64, tag = "1")]
    first: u64,
    #[prost(uint64, tag = "2")]
    last: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OneWire {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(enumeration = "WordWire", tag = "2")]
    word: i32,
    #[prost(string, tag = "3")]
    reason: String,
    #[prost(string, tag = "4")]
    cause: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum WordWire {
    None = 0,
    Duplicate = 1,
    Moved = 2,
    Later = 3,
    Returned = 4,
    Refused = 5,
}

/// The payload for these answers.
pub(super) fn encode_answers(answers: &[(ParcelNumber, Answer)]) -> Vec<u8> {
    let mut accepted = Vec::new();
    let mut others = Vec::new();
    for (number, answer) in answers {
        let (word, reason, cause) = match answer {
            Answer::Accepted => {
                accepted.push(number.0);
                continue;
            }
            Answer::Duplicate => (WordWire::Duplicate, "", ""),
            Answer::Moved => (WordWire::Moved, "", ""),
            Answer::Later { cause } => (WordWire::Later, "", cause.as_str()),
            Answer::Returned => (WordWire::Returned, "", ""),
            Answer::Refused { reason, cause } => {
                (WordWire::Refused, reason.as_str(), cause.as_str())
            }
        };
        others.push(OneWire {
            number: number.0,
            word: word as i32,
            reason: reason.to_owned(),
            cause: cut(cause).to_owned(),
        });
    }
    accepted.sort_unstable();
    AnswersWire {
        accepted: ranges(&accepted),
        others,
    }
    .encode_to_vec()
}

/// Runs of consecutive numbers, of sorted ones.
fn ranges(sorted: &[u64]) -> Vec<RangeWire> {
    let mut out: Vec<RangeWire> = Vec::new();
    for &number in sorted {
        match out.last_mut() {
            Some(range) if range.last.checked_add(1) == Some(number) => range.last = number,
            _ => out.push(RangeWire {
                first: number,
                last: number,
            }),
        }
    }
    out
}

/// At most [`CAUSE_BYTES_MAX`] bytes of a text, whole characters.
fn cut(text: &str) -> &str {
    if text.len() <= CAUSE_BYTES_MAX {
        return text;
    }
    let mut end = CAUSE_BYTES_MAX;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Reads a payload. Ranges are bounded before they are spelled out.
pub(super) fn decode_answers(payload: Bytes) -> Result<Vec<(ParcelNumber, Answer)>, FrameError> {
    let wire: AnswersWire = read("answers", payload)?;
    let too_many = FrameError::TooMany {
        what: "answers",
        max: ANSWERS_MAX,
    };
    let mut answers = Vec::new();
    for range in wire.accepted {
        let Some(more) = range.last.checked_sub(range.first) else {
            return Err(FrameError::OutOfRange("a range of answers"));
        };
        if more >= (ANSWERS_MAX - answers.len()) as u64 {
            return Err(too_many);
        }
        answers.extend(
            (range.first..=range.last).map(|number| (ParcelNumber(number), Answer::Accepted)),
        );
    }
    if wire.others.len() > ANSWERS_MAX - answers.len() {
        return Err(too_many);
    }
    for one in wire.others {
        answers.push((ParcelNumber(one.number), word(one)?));
    }
    Ok(answers)
}

fn word(one: OneWire) -> Result<Answer, FrameError> {
    let unknown = FrameError::OutOfRange("an answer's word");
    match WordWire::try_from(one.word).map_err(|_| unknown.clone())? {
        WordWire::None => Err(unknown),
        WordWire::Duplicate => Ok(Answer::Duplicate),
        WordWire::Moved => Ok(Answer::Moved),
        WordWire::Later => Ok(Answer::Later { cause: one.cause }),
        WordWire::Returned => Ok(Answer::Returned),
        WordWire::Refused => Ok(Answer::Refused {
            // A newer peer's reason: refused all the same, and the cause says the rest.
            reason: Reason::from_word(one.reason.as_bytes()).unwrap_or(Reason::Malformed),
            cause: one.cause,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(answers: &[(ParcelNumber, Answer)]) -> Vec<(ParcelNumber, Answer)> {
        decode_answers(Bytes::from(encode_answers(answers))).unwrap()
    }

    #[test]
    fn a_run_of_accepted_parcels_is_one_range_on_the_wire() {
        let answers: Vec<_> = (1..=1_000)
            .rev()
            .map(|number| (ParcelNumber(number), Answer::Accepted))
            .collect();
        assert!(encode_answers(&answers).len() < 16);
        let mut back = round_trip(&answers);
        back.reverse();
        assert_eq!(back, answers);
    }

    #[test]
    fn every_answer_survives_the_wire() {
        let answers = vec![
            (ParcelNumber(1), Answer::Accepted),
            (ParcelNumber(u64::MAX), Answer::Accepted),
            (ParcelNumber(2), Answer::Duplicate),
            (ParcelNumber(3), Answer::Moved),
            (
                ParcelNumber(4),
                Answer::Later {
                    cause: "behind".into(),
                },
            ),
            (ParcelNumber(5), Answer::Returned),
            (
                ParcelNumber(6),
                Answer::Refused {
                    reason: Reason::TooLarge,
                    cause: "要".repeat(50),
                },
            ),
        ];
        assert_eq!(round_trip(&answers), answers);
    }

    #[test]
    fn a_range_of_the_whole_number_space_is_refused_before_it_is_spelled_out() {
        let wire = AnswersWire {
            accepted: vec![RangeWire {
                first: 0,
                last: u64::MAX,
            }],
            others: Vec::new(),
        };
        assert!(matches!(
            decode_answers(Bytes::from(wire.encode_to_vec())),
            Err(FrameError::TooMany { .. })
        ));
    }

    #[test]
    fn a_long_cause_is_cut_at_a_character() {
        assert_eq!(cut(&"要".repeat(100)).len(), 255);
    }
}
