//! The immutable table, and the decision that it takes for one message.
