//! The parcel of one message for one target, with what the table that routed it says.

use super::envelope::Admitted;
use crate::model::{
    Address, Epoch, Lineage, Marking, Parcel, ParcelNumber, Revision, Slot, UnitId, Way, Why,
};

/// All that one parcel says besides what the message says itself.
pub struct Stamp<'a> {
    /// Of the table that routed it.
    pub lineage: &'a Lineage,
    /// Of the table that routed it.
    pub epoch: Epoch,
    /// Of the table that routed it.
    pub revision: Revision,
    /// Its target.
    pub to: &'a UnitId,
    /// Of its key.
    pub slot: Option<Slot>,
    /// Why it goes there.
    pub why: Why,
    /// Where it is published there.
    pub address: Address,
}

/// Makes the parcel of one message for one target. Its receiver marks it: so nothing of the marks travels, and the message's
/// properties go as they are, uncopied.
pub fn stamp(admitted: &Admitted, stamp: Stamp<'_>) -> Parcel {
    let message = &admitted.message;
    Parcel {
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
        properties: message.properties.clone(),
        body: message.body.clone(),
        sent_before: message.redelivered,
        marking: Marking::AtReceiver(Way {
            path: admitted.path_before(stamp.to).to_vec(),
            user_id: admitted.user_id.clone(),
            replayed: admitted.replay_for.is_some(),
            redelivered: message.redelivered,
        }),
    }
}
