//! A parcel as it is published: with its marks.

use crate::amqp::{CodecError, Edit, FieldValue, TextProperty};
use crate::broker::{Publish, PublishId, Unroutable};
use crate::lane::remaining;
use crate::link::receiver::Mark;
use crate::model::marks::{X_SET_IN_DOUBT, X_SET_PARCEL};
use crate::model::{BodyHash, Marking, Parcel, SealKeys, UnitId};
use std::time::Duration;

/// Who puts marks on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marker<'a> {
    /// The unit that the parcels come from.
    pub(super) from: &'a UnitId,
    /// The lane's start, by its sender.
    pub(super) incarnation: u64,
    /// The space's, and what they make of the parcel's body; none where no parcel needs marks.
    pub(super) keys: Option<(&'a SealKeys, &'a BodyHash)>,
}

/// What is said of this publish alone is put on last, and isn't under the seal.
pub(super) fn publish(
    parcel: Parcel,
    mark: Mark,
    by: Marker<'_>,
    held: Duration,
) -> Result<Publish, CodecError> {
    let properties = &parcel.properties;
    let left = properties
        .text(TextProperty::Expiration)
        .map(|expiration| remaining(expiration, held));
    let mut edit = Edit::new();
    if let (Marking::AtReceiver(way), Some((keys, body))) = (&parcel.marking, by.keys) {
        parcel.mark(way, by.from, keys, &mut edit);
        parcel.seal(keys, body, &mut edit);
    }
    let token = format!("{:x}-{}", by.incarnation, parcel.number);
    edit.set_str(X_SET_PARCEL, &token);
    match mark {
        Mark::Clean => {}
        Mark::InDoubt => edit.set(X_SET_IN_DOUBT, &FieldValue::Bool(true)),
    }
    if let Some(left) = &left {
        edit.set_text(TextProperty::Expiration, left.as_ref());
    }
    let properties = edit.apply(properties)?;
    Ok(Publish {
        id: PublishId(parcel.number.0),
        address: parcel.address,
        properties,
        body: parcel.body,
        unroutable: Unroutable::Return,
    })
}
