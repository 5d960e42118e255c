//! A parcel as it is published: with the marks that only the publishing end knows.

use crate::amqp::{CodecError, Edit, FieldValue, TextProperty};
use crate::broker::{Publish, PublishId, Unroutable};
use crate::lane::remaining;
use crate::link::receiver::Mark;
use crate::model::Parcel;
use crate::model::marks::{X_SET_IN_DOUBT, X_SET_PARCEL};
use std::time::Duration;

/// They are put on last; neither is under the seal.
pub(super) fn publish(
    parcel: Parcel,
    mark: Mark,
    incarnation: u64,
    held: Duration,
) -> Result<Publish, CodecError> {
    let Parcel {
        number,
        address,
        properties,
        body,
        ..
    } = parcel;
    let token = format!("{incarnation:x}-{number}");
    let left = properties
        .text(TextProperty::Expiration)
        .map(|expiration| remaining(expiration, held));
    let mut edit = Edit::new();
    edit.set_str(X_SET_PARCEL, &token);
    match mark {
        Mark::Clean => {}
        Mark::InDoubt => edit.set(X_SET_IN_DOUBT, &FieldValue::Bool(true)),
    }
    if let Some(left) = &left {
        edit.set_text(TextProperty::Expiration, left.as_ref());
    }
    Ok(Publish {
        id: PublishId(number.0),
        address,
        properties: edit.apply(&properties)?,
        body,
        unroutable: Unroutable::Return,
    })
}
