//! A message that can't be routed, on its way back to its publishers.
//!
//! Promises that it says why, and that one which its publishers send into the source again, headers and all, goes on with
//! its trail: a cycle through the returns exchange ends in the park after `hops_max` rounds as any other does.

use super::envelope::Admitted;
use super::stamp::{Stamp, stamp};
use crate::amqp::{CodecError, Edit};
use crate::model::marks::{X_SET_REASON, X_SET_RULE};
use crate::model::{Marking, Parcel, Reason, RuleName, SealKeys};

/// Makes the parcel that goes to the source's returns exchange, which the stamp names, in this unit; marked here, since only
/// here is known why it goes. An error only for properties that have not been checked.
pub fn give_back(
    admitted: &Admitted,
    reason: Reason,
    rule: Option<&RuleName>,
    keys: &SealKeys,
    to: Stamp<'_>,
) -> Result<Parcel, CodecError> {
    let mut parcel = stamp(admitted, to);
    if let Marking::AtReceiver(way) = std::mem::replace(&mut parcel.marking, Marking::Done) {
        let mut edit = Edit::new();
        parcel.mark(&way, &parcel.to, keys, &mut edit);
        edit.set_str(X_SET_REASON, reason.as_str());
        if let Some(rule) = rule {
            edit.set_str(X_SET_RULE, rule.as_str());
        }
        parcel.seal(keys, &keys.body(&parcel.body), &mut edit);
        parcel.properties = edit.apply(&parcel.properties)?;
    }
    Ok(parcel)
}
