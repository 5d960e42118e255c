//! What can't be delivered lies in the park before it is settled.

use crate::world::{World, here, message, order, reason, there};
use bytes::Bytes;
use setgate::amqp::{FieldTable, FieldValue, Properties, RawProperties, TextProperty};
use setgate::lane::{Note, Target, WRAPPED_CONTENT_TYPE};
use setgate::model::marks::{X_SET_BODY_BYTES, X_SET_REASON};
use setgate::model::{Answer, Parcel, Reason};

#[test]
fn a_returned_message_is_parked_before_it_is_settled() {
    let mut world = World::new("orders", 100);
    world.take(1, order(70, 1));
    world.lane.stream_up(&there(), 1 << 20, 100);
    let parcel = world.next(&there()).unwrap();
    world.answer(&there(), parcel.number, Answer::Returned);
    assert_eq!(world.settled, 0, "settled though it is nowhere");
    world.lane.stream_up(&Target::Park, 1 << 20, 100);
    let parked = world.next(&Target::Park).unwrap();
    assert_eq!(reason(&parked), b"unroutable");
    assert_eq!(&parked.address.routing_key[..], b"setgate.trade.park");
    assert_eq!(&parked.body[..], b"body");
    world.answer(&Target::Park, parked.number, Answer::Accepted);
    assert_eq!(world.settled, 1);
    assert!(world.notes.contains(&Note::Parked {
        reason: Reason::Unroutable
    }));
}

#[test]
fn a_message_that_the_park_does_not_take_is_not_settled() {
    for answer in [
        Answer::Returned,
        Answer::Refused {
            reason: Reason::TooLarge,
            cause: "too large".to_owned(),
        },
    ] {
        let mut world = World::new("orders", 100);
        world.take(
            1,
            message("orders", "order.created", &Properties::default()),
        );
        world.lane.stream_up(&Target::Park, 1 << 20, 100);
        let parked = world.next(&Target::Park).unwrap();
        world.answer(&Target::Park, parked.number, answer);
        assert_eq!((world.settled, world.lane.in_flight()), (0, 1));
        world.lane.stream_up(&Target::Park, 1 << 20, 100);
        let again = world.next(&Target::Park).unwrap();
        assert_eq!(again.body, parked.body);
        world.answer(&Target::Park, again.number, Answer::Accepted);
        assert_eq!((world.settled, world.lane.in_flight()), (1, 0));
    }
}

#[test]
fn a_message_without_a_key_is_parked_and_one_that_a_rule_drops_is_settled() {
    let mut world = World::new("orders", 100);
    let bare = |key| message("orders", key, &Properties::default());
    world.take(1, bare("order.created"));
    world.take(2, bare("order.noise.x"));
    world.take(3, bare("order.created.twice"));
    world.lane.stream_up(&Target::Park, 1 << 20, 100);
    let reasons: Vec<_> = std::iter::from_fn(|| world.next(&Target::Park))
        .map(|parcel| (parcel.number, reason(&parcel).to_vec()))
        .collect();
    let texts: Vec<_> = reasons.iter().map(|(_, reason)| &reason[..]).collect();
    assert_eq!(texts, [&b"key_absent"[..], b"no_rule"]);
    for (number, _) in reasons {
        world.answer(&Target::Park, number, Answer::Accepted);
    }
    assert_eq!(world.settled, 3);
    assert!(world.notes.contains(&Note::Dropped {
        reason: Reason::Rule
    }));
}

#[test]
fn a_large_message_is_settled_when_the_park_has_all_of_it_and_keeps_nobody_waiting() {
    let mut world = World::new("orders", 100);
    let mut large = order(70, 1);
    large.body = Bytes::new();
    let parcel = world.take_large(1, large, 5 << 20);
    assert_eq!(&parcel.address.exchange[..], b"setgate.trade.park");
    assert_eq!((parcel.prefix.len(), parcel.body_bytes), (0, 5 << 20));
    let mark = |name| parcel.properties.header(name).unwrap();
    assert_eq!(mark(X_SET_REASON).as_bytes(), Some(&b"too_large"[..]));
    assert_eq!(mark(X_SET_BODY_BYTES).as_integer(), Some(5 << 20));
    assert!(
        world
            .keys
            .holds(None, &parcel.properties, &vec![7; 5 << 20])
    );
    assert!(
        world.lane.cost_bytes() < 2_048,
        "its body counts for nothing"
    );
    // A later one overtakes it; its settlement waits.
    world.take(2, order(70, 2));
    world.lane.stream_up(&there(), 1 << 20, 100);
    let later = world.next(&there()).unwrap();
    world.answer(&there(), later.number, Answer::Accepted);
    assert_eq!((world.settled, world.lane.in_flight()), (0, 2));
    world.large_parked(parcel.entry);
    assert_eq!((world.settled, world.settled_count), (2, 2));
    world.large_parked(parcel.entry);
    let parked = Note::Parked {
        reason: Reason::TooLarge,
    };
    assert_eq!(
        world.notes.iter().filter(|note| **note == parked).count(),
        1
    );
}

#[test]
fn a_large_message_that_cannot_carry_marks_has_its_properties_in_front_of_its_body() {
    let mut world = World::new("orders", 100);
    let mut large = order(70, 1);
    large.body = Bytes::new();
    large.properties = RawProperties::from_wire(Bytes::from_static(&[0x80, 0, 9]));
    let parcel = world.take_large(1, large, 5 << 20);
    assert_eq!(&parcel.prefix[..], [0, 0, 0, 3, 0x80, 0, 9]);
    assert_eq!(parcel.body_bytes, (5 << 20) + 7);
    let kind = parcel.properties.text(TextProperty::ContentType);
    assert_eq!(kind, Some(WRAPPED_CONTENT_TYPE.as_bytes()));
}

#[test]
fn what_is_damaged_is_parked_as_it_came_and_what_only_nests_deep_is_carried() {
    let mut world = World::new("orders", 100);
    let mut damaged = order(70, 1);
    damaged.properties = RawProperties::from_wire(Bytes::from_static(&[0x80, 0, 9]));
    world.take(1, damaged);
    world.lane.stream_up(&Target::Park, 1 << 20, 100);
    let parked = world.next(&Target::Park).unwrap();
    assert_eq!(reason(&parked), b"malformed");
    assert_eq!(&parked.body[..], b"\0\0\0\x03\x80\0\x09body");
    let mut properties = Properties::default();
    let deep = (0..200).fold(FieldTable::new(), |inner, _| {
        FieldTable::from_iter([(Bytes::from_static(b"t"), FieldValue::Table(inner))])
    });
    properties
        .headers_mut()
        .set("deep", FieldValue::Table(deep.clone()));
    properties.headers_mut().set("uid", FieldValue::I32(70));
    world.take(2, message("orders", "order.created", &properties));
    world.lane.stream_up(&there(), 1 << 20, 100);
    let carried = world.next(&there()).unwrap();
    let came = carried.properties.header("deep").unwrap();
    assert_eq!(came.decode().unwrap(), FieldValue::Table(deep));
}

#[test]
fn what_publishers_can_mend_goes_back_to_them_where_the_source_says_where() {
    let mut world = World::new("mended", 100);
    let bare = |key| message("mended", key, &Properties::default());
    for (tag, key, why) in [
        (1, "order.created", "key_absent"),
        (2, "nothing", "no_rule"),
    ] {
        world.take(tag, bare(key));
        let parcel = next_here(&mut world);
        assert_eq!(&parcel.address.exchange[..], b"mended.returned");
        assert_eq!(&parcel.address.routing_key[..], key.as_bytes());
        assert_eq!(reason(&parcel), why.as_bytes());
        assert_eq!(world.settled, tag - 1, "settled before it is there");
        world.answer(&here(), parcel.number, Answer::Accepted);
        assert_eq!(world.settled, tag);
    }
}

#[test]
fn what_its_publishers_do_not_take_back_is_parked() {
    let mut world = World::new("mended", 100);
    world.take(1, message("mended", "nothing", &Properties::default()));
    let parcel = next_here(&mut world);
    world.answer(&here(), parcel.number, Answer::Returned);
    assert_eq!(world.settled, 0);
    world.lane.stream_up(&Target::Park, 1 << 20, 100);
    let parked = world.next(&Target::Park).unwrap();
    assert_eq!(reason(&parked), b"unroutable");
}

#[test]
fn what_comes_round_through_the_returns_again_and_again_is_parked_at_last() {
    let mut world = World::new("mended", 100);
    let mut current = message("mended", "nothing", &Properties::default());
    for tag in 1..=4 {
        world.take(tag, current.clone());
        let parcel = next_here(&mut world);
        world.answer(&here(), parcel.number, Answer::Accepted);
        current.properties = parcel.properties;
    }
    world.take(5, current);
    world.lane.stream_up(&Target::Park, 1 << 20, 100);
    let parked = world.next(&Target::Park).unwrap();
    assert_eq!(reason(&parked), b"hops");
}

fn next_here(world: &mut World) -> Parcel {
    world.lane.stream_up(&here(), 1 << 20, 100);
    world.next(&here()).unwrap()
}
