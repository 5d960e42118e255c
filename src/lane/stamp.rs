//! The marks of a parcel, put on in one pass.

use super::envelope::Admitted;
use crate::amqp::{CodecError, Edit, FieldValue, TextProperty};
use crate::model::marks::{
    X_SET_DELIVERED, X_SET_EPOCH, X_SET_FROM, X_SET_ID, X_SET_PATH, X_SET_REPLAY, X_SET_RETRY,
    X_SET_ROUND, X_SET_SLOT, X_SET_TO, X_SET_USER_ID, X_SET_WHY,
};
use crate::model::{
    Address, Epoch, Lineage, Parcel, ParcelNumber, Revision, SealKeys, SealedBody, Slot, UnitId,
    Why,
};

/// All that one parcel's marks say besides what the message says itself.
pub struct Stamp<'a> {
    /// The space's.
    pub keys: &'a SealKeys,
    /// Of the table that routed it.
    pub lineage: &'a Lineage,
    /// Of the table that routed it.
    pub epoch: Epoch,
    /// Of the table that routed it.
    pub revision: Revision,
    /// This unit.
    pub from: &'a UnitId,
    /// Its target.
    pub to: &'a UnitId,
    /// Of its key.
    pub slot: Option<Slot>,
    /// Why it goes there.
    pub why: Why,
    /// Where it is published there.
    pub address: Address,
}

/// Makes the parcel of one message for one target, marked and sealed. An error only for properties that have not been
/// checked.
pub fn stamp(admitted: &Admitted, stamp: Stamp<'_>) -> Result<Parcel, CodecError> {
    stamp_with(admitted, stamp, |_| {})
}

/// As [`stamp`], with further marks.
pub(super) fn stamp_with<'a>(
    admitted: &'a Admitted,
    stamp: Stamp<'a>,
    further: impl FnOnce(&mut Edit<'a>),
) -> Result<Parcel, CodecError> {
    let message = &admitted.message;
    let mut edit = Edit::new();
    edit.remove_if(message.stays_behind());
    // The broker ends the channel of whoever publishes under another's name.
    edit.clear_text(TextProperty::UserId);
    if let Some(id) = &admitted.id {
        edit.set_str(X_SET_ID, &id.0);
    }
    if let Some(slot) = stamp.slot {
        edit.set(X_SET_SLOT, &number_value(slot.0));
    }
    edit.set_str(X_SET_FROM, stamp.from.as_str());
    edit.set_str(X_SET_TO, stamp.to.as_str());
    let epoch = i64::try_from(stamp.epoch.0).unwrap_or(i64::MAX);
    edit.set(X_SET_EPOCH, &FieldValue::I64(epoch));
    let path = admitted.path_to(stamp.to).map(UnitId::as_str);
    edit.set_strings(X_SET_PATH, path);
    edit.set(X_SET_ROUND, &number_value(admitted.round.0));
    edit.set(X_SET_RETRY, &number_value(admitted.retry.0));
    let delivered = stamp.keys.delivered(&stamp.address, &message.properties);
    edit.set_bytes(X_SET_DELIVERED, delivered);
    edit.set_str(X_SET_WHY, stamp.why.as_str());
    if let Some(user) = &admitted.user_id {
        edit.set_str(X_SET_USER_ID, user);
    }
    if admitted.replay_for.is_some() {
        edit.set(X_SET_REPLAY, &FieldValue::Bool(true));
    }
    further(&mut edit);
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

/// `I` is signed: what doesn't fit can't come up (slots, rounds and retries are small), and would read as its maximum.
pub(super) fn number_value(number: u32) -> FieldValue {
    FieldValue::I32(i32::try_from(number).unwrap_or(i32::MAX))
}
