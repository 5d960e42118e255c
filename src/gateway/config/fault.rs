//! One thing that is wrong with a gateway's configuration, where it stands, and how to mend it.
//!
//! Never holds a secret: messages quote field names and addresses without user information alone.

use serde::Serialize;
use std::fmt;

/// One fault of a configuration. In JSON the same shape as a fault of a routing document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigFault {
    /// The file, or the environment variable that the value came from.
    pub file: String,
    /// From 1; 0 when the whole file is meant, or a variable.
    pub line: u64,
    /// From 1; 0 like `line`.
    pub column: u64,
    /// A word for scripts.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub mend: String,
}

impl ConfigFault {
    /// What can only be a fault of setgate itself: something is missing and nobody said so.
    pub(super) fn internal(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            column: 0,
            code: "internal",
            message: "the configuration could not be completed and no fault was named".to_owned(),
            mend: "report this with the file".to_owned(),
        }
    }
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}; {}", self.message, self.mend)
    }
}
