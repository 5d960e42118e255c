//! A message that can't be routed, on its way back to its publishers.
//!
//! Promises that it says why, and that one which its publishers send into the source again, headers and all, goes on with
//! its trail: a cycle through the returns exchange ends in the park after `hops_max` rounds as any other does.

use super::envelope::Admitted;
use super::stamp::{Stamp, stamp_with};
use crate::amqp::CodecError;
use crate::model::marks::{X_SET_REASON, X_SET_RULE};
use crate::model::{Parcel, Reason, RuleName};

/// Makes the parcel that goes to the source's returns exchange, which the stamp names. An error only for properties that
/// have not been checked.
pub fn give_back<'a>(
    admitted: &'a Admitted,
    reason: Reason,
    rule: Option<&'a RuleName>,
    stamp: Stamp<'a>,
) -> Result<Parcel, CodecError> {
    stamp_with(admitted, stamp, |edit| {
        edit.set_str(X_SET_REASON, reason.as_str());
        if let Some(rule) = rule {
            edit.set_str(X_SET_RULE, rule.as_str());
        }
    })
}
