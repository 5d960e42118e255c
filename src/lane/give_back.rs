//! A message that can't be routed, on its way back to its publishers.
//!
//! Promises that it says why, and that one which its publishers send into the source again, headers and all, goes on with
//! its trail: a cycle through the returns exchange ends in the park after `hops_max` rounds as any other does.

use super::envelope::Admitted;
use super::stamp::{Stamp, number_value};
use crate::amqp::{CodecError, Edit, FieldValue, TextProperty};
use crate::model::marks::{
    X_SET_DELIVERED, X_SET_EPOCH, X_SET_FROM, X_SET_ID, X_SET_PATH, X_SET_REASON, X_SET_RETRY,
    X_SET_ROUND, X_SET_RULE, X_SET_TO, X_SET_USER_ID, X_SET_WHY,
};
use crate::model::{Parcel, ParcelNumber, Reason, RuleName, SealedBody, UnitId};

/// Makes the parcel that goes to the source's returns exchange, which the stamp names. An error only for properties that
/// have not been checked.
pub fn give_back(
    admitted: &Admitted,
    reason: Reason,
    rule: Option<&RuleName>,
    stamp: Stamp<'_>,
) -> Result<Parcel, CodecError> {
    let message = &admitted.message;
    let mut edit = Edit::new();
    edit.remove_if(message.stays_behind());
    // The broker ends the channel of whoever publishes under another's name.
    edit.clear_text(TextProperty::UserId);
    if let Some(id) = &admitted.id {
        edit.set_str(X_SET_ID, &id.0);
    }
    edit.set_str(X_SET_FROM, stamp.from.as_str());
    edit.set_str(X_SET_TO, stamp.to.as_str());
    let epoch = i64::try_from(stamp.epoch.0).unwrap_or(i64::MAX);
    edit.set(X_SET_EPOCH, &FieldValue::I64(epoch));
    edit.set_strings(X_SET_PATH, admitted.path_to(stamp.to).map(UnitId::as_str));
    edit.set(X_SET_ROUND, &number_value(admitted.round.0));
    edit.set(X_SET_RETRY, &number_value(admitted.retry.0));
    let delivered = stamp.keys.delivered(&stamp.address, &message.properties);
    edit.set_bytes(X_SET_DELIVERED, delivered);
    edit.set_str(X_SET_WHY, stamp.why.as_str());
    if let Some(user) = &admitted.user_id {
        edit.set_str(X_SET_USER_ID, user);
    }
    edit.set_str(X_SET_REASON, reason.as_str());
    if let Some(rule) = rule {
        edit.set_str(X_SET_RULE, rule.as_str());
    }
    let body = SealedBody::Whole(&message.body);
    stamp.keys.seal(admitted.id.as_ref(), &mut edit, body);
    Ok(Parcel {
        // Its outlet's to say.
        number: ParcelNumber(0),
        lineage: stamp.lineage.clone(),
        epoch: stamp.epoch,
        revision: stamp.revision,
        id: admitted.id.clone(),
        round: admitted.round,
        retry: admitted.retry,
        slot: stamp.slot,
        why: stamp.why,
        to: stamp.to.clone(),
        address: stamp.address,
        properties: edit.apply(&message.properties)?,
        body: message.body.clone(),
        sent_before: message.redelivered,
    })
}
