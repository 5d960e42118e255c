//! The operator's commands.

pub mod rules;
