//! A JSON pointer (RFC 6901), taken apart once.
//!
//! Owns the text and the steps that it names. Never looks into a document: whoever routes does.

use std::fmt;

/// A pointer to a value below the top of a JSON document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPointer {
    text: String,
    steps: Vec<String>,
}

/// Why a text is no pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointerFault {
    /// It doesn't begin with a slash; the empty one, for the whole document, is no key either.
    NoSlash,
    /// A tilde that is followed by neither 0 nor 1.
    Tilde,
    /// More steps than a JSON parser goes down.
    Deep,
}

/// Deepest pointer: the parser of the body goes down 128 levels.
const STEPS_MAX: usize = 64;

impl JsonPointer {
    /// Takes a pointer apart.
    pub fn parse(text: &str) -> Result<Self, PointerFault> {
        let below = text.strip_prefix('/').ok_or(PointerFault::NoSlash)?;
        let steps: Vec<String> = below.split('/').map(step).collect::<Result<_, _>>()?;
        if steps.len() > STEPS_MAX {
            return Err(PointerFault::Deep);
        }
        Ok(Self {
            text: text.to_owned(),
            steps,
        })
    }

    /// Names of members and indices of items, from the top; at least one.
    pub fn steps(&self) -> &[String] {
        &self.steps
    }
}

impl fmt::Display for JsonPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn step(escaped: &str) -> Result<String, PointerFault> {
    let mut parts = escaped.split('~');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        if let Some(rest) = part.strip_prefix('0') {
            out.push('~');
            out.push_str(rest);
        } else if let Some(rest) = part.strip_prefix('1') {
            out.push('/');
            out.push_str(rest);
        } else {
            return Err(PointerFault::Tilde);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_taken_apart_as_its_standard_says() {
        let steps = |text| JsonPointer::parse(text).map(|pointer| pointer.steps().to_vec());
        assert_eq!(steps("/user/id").unwrap(), ["user", "id"]);
        assert_eq!(steps("/a~1b/m~0n/~01").unwrap(), ["a/b", "m~n", "~1"]);
        assert_eq!(steps("/").unwrap(), [""]);
        assert_eq!(steps(""), Err(PointerFault::NoSlash));
        assert_eq!(steps("user/id"), Err(PointerFault::NoSlash));
        assert_eq!(steps("/a~2"), Err(PointerFault::Tilde));
        assert_eq!(steps("/a~"), Err(PointerFault::Tilde));
        assert_eq!(steps(&"/a".repeat(65)), Err(PointerFault::Deep));
    }
}
