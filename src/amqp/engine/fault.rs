//! What a peer did wrong, and how texts from it are shown.
//!
//! Owns the reply codes that this side uses. Promises that a text of the peer's is shown in bounded length, whatever its
//! bytes are.

use super::event::Ended;

/// Reply codes of a client that finds fault with its peer (specification, section 1.1, domain `reply-code`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    /// A frame that is no frame.
    FrameError = 501,
    /// Arguments that can't be read.
    SyntaxError = 502,
    /// A method that may not come now.
    CommandInvalid = 503,
    /// A channel that isn't open.
    ChannelError = 504,
    /// Content where a method is due, or a method within content.
    UnexpectedFrame = 505,
    /// A method that we don't know.
    NotImplemented = 540,
}

impl Code {
    pub(super) fn number(self) -> u16 {
        self as u16
    }
}

/// A broken rule. Ends the connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) code: Code,
    /// What the peer did, in full.
    pub(super) what: String,
}

impl Fault {
    pub(super) fn new(code: Code, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
        }
    }

    pub(super) fn end(self) -> Ended {
        Ended::Protocol { what: self.what }
    }
}

/// The most bytes of one text of the peer's that are shown. A short string has at most 255; the one longer text that is
/// shown is the list of SASL mechanisms.
const SHOWN_BYTES_MAX: usize = 300;

/// Bytes of a peer's as text: what is no UTF-8 is replaced, control characters are escaped, what is too long is cut.
pub(super) fn shown(bytes: &[u8]) -> String {
    let kept = bytes.get(..SHOWN_BYTES_MAX).unwrap_or(bytes);
    let mut text = String::with_capacity(kept.len());
    for c in String::from_utf8_lossy(kept).chars() {
        if c.is_control() {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    if kept.len() < bytes.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_any_bytes_is_shown_on_one_line_and_cut() {
        assert_eq!(shown(b"NOT_FOUND - no queue"), "NOT_FOUND - no queue");
        assert_eq!(shown(b"a\xffb\n"), "a\u{fffd}b\\n");
        let long = shown(&[b'x'; 1000]);
        assert_eq!(long.chars().count(), SHOWN_BYTES_MAX + 1);
        assert!(long.ends_with('…'));
    }
}
