//! AMQP 0-9-1 as RabbitMQ speaks it: field values, header tables and content properties, as bytes and back.
//!
//! The bottom of the crate, beside `model`: knows nothing of setgate, does no I/O. Source of every rule: the AMQP
//! 0-9-1 specification, sections 4.2.5 and 4.2.6, with the field types as RabbitMQ reads them
//! (`rabbit_binary_parser`), which differ from the specification's own list.

mod edit;
pub mod engine;
mod field;
mod properties;
mod raw;
mod reader;
#[cfg(test)]
pub(crate) mod strategies;
mod walk;

pub use edit::Edit;
pub use field::{FieldTable, FieldValue, NESTING_MAX};
pub use properties::Properties;
pub use raw::{RawHeaders, RawProperties, RawValue, TextProperty};
pub use reader::CodecError;
pub use walk::RawValues;
