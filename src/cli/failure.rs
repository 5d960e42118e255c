//! Why a command didn't do what it was asked, and with which exit code it ends.

use super::rules::Format;
use crate::etcd::EtcdError;
use crate::gateway::config::ConfigFault;
use crate::rules::Fault;
use anstream::{eprintln, println};
use serde_json::json;

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Flags that don't go together.
    Usage(String),
    /// gateway.yaml.
    Config(Vec<ConfigFault>),
    /// Routing documents.
    Documents(Vec<Fault>),
    /// Anything that trying again doesn't mend.
    Refused(String),
    /// Anything that trying again may mend.
    Unreachable(String),
}

impl From<EtcdError> for Failure {
    fn from(error: EtcdError) -> Self {
        if error.is_unreachable() {
            Self::Unreachable(error.to_string())
        } else {
            Self::Refused(error.to_string())
        }
    }
}

impl From<super::rules::Failure> for Failure {
    fn from(failure: super::rules::Failure) -> Self {
        let (code, text) = (failure.exit_code(), failure.to_string());
        match (failure, code) {
            (super::rules::Failure::Config(faults), _) => Self::Config(faults),
            (_, 2) => Self::Usage(text),
            (_, 3) => Self::Unreachable(text),
            (_, _) => Self::Refused(text),
        }
    }
}

impl Failure {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Documents(_) | Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        }
    }

    /// Each fault is a line on standard error; a program gets them as JSON too.
    pub(super) fn print(&self, output: Format) {
        for line in self.lines() {
            eprintln!("error: {line}");
        }
        if output == Format::Json {
            println!("{}", self.json());
        }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Self::Config(faults) => faults.iter().map(ToString::to_string).collect(),
            Self::Documents(faults) => faults.iter().map(ToString::to_string).collect(),
            Self::Usage(text) | Self::Refused(text) | Self::Unreachable(text) => vec![text.clone()],
        }
    }

    fn json(&self) -> serde_json::Value {
        match self {
            Self::Config(faults) => json!({"faults": faults}),
            Self::Documents(faults) => json!({"faults": faults}),
            Self::Usage(text) | Self::Refused(text) | Self::Unreachable(text) => {
                json!({"error": text})
            }
        }
    }
}
