//! A whole multi-site fabric on one machine.

pub mod checker;
pub mod raw;
pub mod traffic;
