//! Byte streams split, cut, damaged and made up: the same events, one outcome for each publish, an end, no panic.

use super::*;
use proptest::prelude::*;
use proptest::sample::Index;

const PUBLISHES: u64 = 8;

/// What large bodies are made of.
const FILL: u8 = b'l';

/// The places of a stream that differ: of the middle of large bodies, a few.
fn places(bytes: &[u8]) -> impl Iterator<Item = usize> {
    (0..bytes.len()).filter(|at| {
        let around = &bytes[at.saturating_sub(20)..(at + 20).min(bytes.len())];
        at % 97 == 0 || around.iter().any(|octet| *octet != FILL)
    })
}

/// What a server says after the handshake to a client that publishes eight messages on channel 1 and consumes on
/// channel 2: every kind of delivery, confirms, returns, heartbeats, and an end of the channel and the connection.
fn conversation() -> Vec<u8> {
    let properties = with_token(99);
    let large = vec![FILL; BODY_BYTES_MAX + 3_000];
    let some = vec![FILL; 5_000];
    [
        server::channel_open_ok(1),
        server::confirm_select_ok(1),
        server::channel_open_ok(2),
        server::qos_ok(2),
        server::consume_ok(2),
        server::deliver(2, 1, properties.as_bytes(), b"hello"),
        server::ack(1, 1, false),
        server::return_of(1, 3, &some),
        server::heartbeat(),
        server::deliver(2, 2, properties.as_bytes(), b""),
        server::deliver(2, 3, &[0, 0], &some),
        server::ack(1, 3, true),
        server::method(0, 10, 60, &server::short(b"low on memory")),
        server::deliver(2, 4, properties.as_bytes(), &large),
        server::nack(1, 5, false),
        server::method(0, 10, 61, &[]),
        server::return_of(1, 6, b""),
        server::deliver(2, 5, &[0, 0], b"bye"),
        server::channel_close(1, 404, b"NOT_FOUND - no exchange 'x'"),
        server::connection_close(320, b"CONNECTION_FORCED - broker forced connection closure"),
        server::heartbeat(),
    ]
    .concat()
}

/// A client that has asked for all that the conversation answers.
fn talking() -> Client {
    let mut client = Client::opened();
    let two = ChannelId(2);
    client.asks(Command::OpenChannel { channel: ONE });
    client.asks(Command::ConfirmSelect { channel: ONE });
    for id in 1..=PUBLISHES {
        client.publishes(id, b"body");
    }
    client.asks(Command::OpenChannel { channel: two });
    client.asks(Command::Qos {
        channel: two,
        prefetch: 100,
    });
    client.asks(Command::Consume {
        channel: two,
        queue: Bytes::from_static(b"orders"),
        exclusive: false,
        arguments: FieldTable::new(),
    });
    client.written();
    client
}

/// Hears the bytes in pieces that end at these places.
fn hear_split(
    client: &mut Client,
    bytes: &[u8],
    cuts: impl IntoIterator<Item = usize>,
) -> Vec<Event> {
    let mut events = Vec::new();
    let mut from = 0;
    for cut in cuts.into_iter().chain([bytes.len()]) {
        client.hears(bytes[from..cut].to_vec());
        events.extend(client.events());
        from = cut;
    }
    events
}

fn whole(client: &mut Client, bytes: &[u8]) -> Vec<Event> {
    hear_split(client, bytes, [])
}

/// That the connection has ended, once and last, and that each publish has had one outcome.
fn assert_accounted(events: &[Event], publishes: impl IntoIterator<Item = u64>) {
    let mut ids: Vec<u64> = events
        .iter()
        .filter_map(|event| match event {
            Event::Outcome { id, .. } => Some(id.0),
            _ => None,
        })
        .collect();
    ids.sort_unstable();
    assert!(
        ids.into_iter().eq(publishes),
        "an outcome is missing, or told twice"
    );
    let ends = events
        .iter()
        .filter(|event| matches!(event, Event::Ended(_)))
        .count();
    assert_eq!(ends, 1);
    assert!(matches!(events.last(), Some(Event::Ended(_))));
}

#[test]
fn the_conversation_gives_what_it_says() {
    let mut client = talking();
    let events = whole(&mut client, &conversation());
    assert_accounted(&events, 1..=PUBLISHES);
    let outcomes: Vec<&Outcome> = events
        .iter()
        .filter_map(|event| match event {
            Event::Outcome { outcome, .. } => Some(outcome),
            _ => None,
        })
        .collect();
    let unknown = unknown("404 NOT_FOUND - no exchange 'x'");
    assert_eq!(
        outcomes,
        [
            &Outcome::Confirmed,
            &Outcome::Confirmed,
            &returned(),
            &Outcome::Nacked,
            &unknown,
            &returned(),
            &unknown,
            &unknown
        ]
    );
    let deliveries = events
        .iter()
        .filter(|event| matches!(event, Event::Delivered { .. }))
        .count();
    assert_eq!(deliveries, 5);
}

#[test]
fn a_stream_split_in_two_at_any_byte_gives_the_same_events() {
    let bytes = conversation();
    let expected = whole(&mut talking(), &bytes);
    for cut in places(&bytes) {
        assert_eq!(hear_split(&mut talking(), &bytes, [cut]), expected, "{cut}");
    }
}

#[test]
fn a_stream_byte_by_byte_gives_the_same_events() {
    let bytes = conversation();
    let expected = whole(&mut talking(), &bytes);
    assert_eq!(hear_split(&mut talking(), &bytes, 1..bytes.len()), expected);

    let mut client = Client::connecting();
    let events = hear_split(
        &mut client,
        &server::handshake(),
        1..server::handshake().len(),
    );
    assert!(matches!(events[..], [Event::Opened { .. }]));
}

#[test]
fn a_stream_cut_at_any_byte_leaves_one_outcome_for_each_publish() {
    let bytes = conversation();
    for cut in places(&bytes) {
        let mut client = talking();
        client.hears(bytes[..cut].to_vec());
        client.loses("cut");
        assert_accounted(&client.events(), 1..=PUBLISHES);
    }
}

/// A client at some stage of its life, with what it has published.
fn at_stage(stage: usize) -> (Client, u64) {
    match stage {
        0 => (Client::connecting(), 0),
        1 => {
            let mut client = Client::connecting();
            client.hears(server::start());
            (client, 0)
        }
        2 => {
            let mut client = Client::connecting();
            client.hears([server::start(), server::tune(0, 0)].concat());
            (client, 0)
        }
        3 => (Client::opened(), 0),
        4 => (talking(), PUBLISHES),
        5 => {
            let mut client = talking();
            client.hears(conversation()[..600].to_vec());
            (client, PUBLISHES)
        }
        6 => {
            let mut client = talking();
            client.hears(server::channel_open_ok(1));
            client.asks(Command::CloseChannel { channel: ONE });
            (client, PUBLISHES)
        }
        7 => {
            let mut client = talking();
            client.asks(Command::Close);
            (client, PUBLISHES)
        }
        _ => {
            let mut client = talking();
            client.asks(publish(PUBLISHES + 1, Content::InPieces(100_000)));
            client.asks(Command::PublishPiece {
                channel: ONE,
                piece: Bytes::from_static(b"begun"),
            });
            (client, PUBLISHES + 1)
        }
    }
}

/// Method frames that are spoken, with any arguments: deeper than random bytes get.
fn nearly_a_frame() -> impl Strategy<Value = Vec<u8>> {
    let ids = prop::sample::select(
        &[
            (10, 10),
            (10, 20),
            (10, 30),
            (10, 41),
            (10, 50),
            (10, 51),
            (10, 60),
            (10, 61),
            (20, 11),
            (20, 20),
            (20, 40),
            (20, 41),
            (50, 11),
            (60, 11),
            (60, 21),
            (60, 30),
            (60, 50),
            (60, 60),
            (60, 80),
            (60, 120),
            (85, 11),
            (90, 10),
        ][..],
    );
    let few = prop_oneof![
        prop::collection::vec(0u8..3, 0..24),
        prop::collection::vec(any::<u8>(), 0..24)
    ];
    prop_oneof![
        6 => (0u16..3, ids, few.clone())
            .prop_map(|(channel, (class, method), arguments)| server::method(channel, class, method, &arguments)),
        2 => (0u16..3, 0u64..20, few.clone())
            .prop_map(|(channel, bytes, properties)| server::header(channel, bytes, &properties)),
        2 => (0u16..3, few.clone()).prop_map(|(channel, body)| server::frame(3, channel, &body)),
        // Frames that are right, so that what follows them is read.
        1 => Just(server::channel_open_ok(1)),
        1 => Just(server::confirm_select_ok(1)),
        1 => Just(server::deliver(2, 1, &[0, 0], b"hello")),
        1 => (1u64..10).prop_map(|token| server::return_of(1, token, b"")),
        1 => (1u64..10, any::<bool>()).prop_map(|(number, multiple)| server::ack(1, number, multiple)),
        1 => Just(server::open_ok()),
        1 => Just(server::start()),
        1 => (any::<u16>(), any::<u32>()).prop_map(|(channels, frame)| server::tune(channels, frame)),
        1 => (any::<u8>(), 0u16..3, few).prop_map(|(kind, channel, payload)| server::frame(kind, channel, &payload)),
    ]
}

proptest! {
    #[test]
    fn any_split_of_a_stream_gives_the_same_events(cuts in prop::collection::vec(any::<Index>(), 0..40)) {
        let bytes = conversation();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.sort_unstable();
        let expected = whole(&mut talking(), &bytes);
        prop_assert_eq!(hear_split(&mut talking(), &bytes, cuts), expected);
    }

    #[test]
    fn random_bytes_at_any_stage_end_in_an_end(
        stage in 0usize..9,
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let (mut client, publishes) = at_stage(stage);
        client.hears(bytes);
        client.loses("cut");
        assert_accounted(&client.events(), 1..=publishes);
        client.written();
        prop_assert!(client.engine.deadline().is_none());
    }

    #[test]
    fn frames_in_any_order_with_any_arguments_at_any_stage_end_in_an_end(
        stage in 0usize..9,
        frames in prop::collection::vec(nearly_a_frame(), 0..12),
    ) {
        let (mut client, publishes) = at_stage(stage);
        client.hears(frames.concat());
        client.engine.handle(Input::Tick, client.now);
        client.loses("cut");
        assert_accounted(&client.events(), 1..=publishes);
        // Whatever was answered is made of whole frames.
        server::frames(&client.written());
    }

    #[test]
    fn a_damaged_byte_never_panics_and_tells_each_publish_once(at in any::<Index>(), octet in any::<u8>()) {
        let mut bytes = conversation();
        let at = at.index(bytes.len());
        bytes[at] = octet;
        let mut client = talking();
        client.hears(bytes);
        client.loses("cut");
        assert_accounted(&client.events(), 1..=PUBLISHES);
    }

    #[test]
    fn a_damaged_handshake_never_panics(at in any::<Index>(), octet in any::<u8>()) {
        let mut bytes = server::handshake();
        let at = at.index(bytes.len());
        bytes[at] = octet;
        let mut client = Client::connecting();
        client.hears(bytes);
        client.loses("cut");
        let events = client.events();
        prop_assert!(matches!(events.last(), Some(Event::Ended(_))));
    }
}

#[test]
fn every_byte_of_the_conversation_may_be_damaged() {
    let good = conversation();
    for at in places(&good) {
        for octet in [0, 0xff, good[at] ^ 1] {
            let mut bytes = good.clone();
            bytes[at] = octet;
            let mut client = talking();
            client.hears(bytes);
            client.loses("cut");
            assert_accounted(&client.events(), 1..=PUBLISHES);
        }
    }
}
