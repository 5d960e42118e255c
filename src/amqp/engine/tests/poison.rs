//! What a peer or a publisher may send that has killed other clients: passed through, or a clear end.

use super::*;
use crate::amqp::engine::Delivered;

fn deliveries(client: &mut Client) -> Vec<Delivered> {
    client
        .events()
        .into_iter()
        .map(|event| match event {
            Event::Delivered { delivered, .. } => delivered,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// Delivers a message with these properties between two others, and returns what came of it.
fn delivered_with(properties: &[u8]) -> Delivered {
    let mut client = Client::consuming();
    client.hears(
        [
            server::deliver(1, 1, &[0, 0], b"before"),
            server::deliver(1, 2, properties, b"it"),
            server::deliver(1, 3, &[0, 0], b"after"),
        ]
        .concat(),
    );
    let mut deliveries = deliveries(&mut client);
    assert_eq!(deliveries.len(), 3);
    deliveries.remove(1)
}

#[test]
fn strings_that_are_no_text_are_passed_on_as_bytes() {
    let odd = Bytes::from_static(b"\xff\xfe\x00\x80");
    let some = || Some(odd.clone());
    let properties = Properties {
        content_type: some(),
        content_encoding: some(),
        headers: Some(FieldTable::from_iter([(
            odd.clone(),
            FieldValue::Str(odd.clone()),
        )])),
        correlation_id: some(),
        reply_to: some(),
        expiration: some(),
        message_id: some(),
        kind: some(),
        user_id: some(),
        app_id: some(),
        cluster_id: some(),
        ..Properties::default()
    };
    let bytes = properties.encode().unwrap();
    assert_eq!(delivered_with(&bytes).properties.as_bytes(), &bytes);

    let mut client = Client::consuming();
    client.hears(
        [
            server::deliver_method(1, 1, &odd, &odd),
            server::header(1, 0, &[0, 0]),
        ]
        .concat(),
    );
    let delivered = deliveries(&mut client).remove(0);
    assert_eq!(
        (delivered.exchange, delivered.routing_key),
        (odd.clone(), odd.clone())
    );

    // Whatever the broker says is shown somehow.
    let mut client = Client::consuming();
    client.hears(server::channel_close(1, 404, &odd));
    client.hears(server::connection_close(320, &odd));
    assert_eq!(client.events().len(), 2);
    let mut client = Client::publishing();
    client.publishes(1, b"x");
    let mut arguments = vec![1, 56];
    for _ in 0..3 {
        arguments.extend(server::short(&odd));
    }
    client.hears(
        [
            server::method(1, 60, 50, &arguments),
            server::header(1, 0, with_token(1).as_bytes()),
            server::ack(1, 1, false),
        ]
        .concat(),
    );
    assert_eq!(
        client.events(),
        [outcome(
            1,
            Outcome::Returned {
                code: 312,
                text: "\u{fffd}\u{fffd}\\u{0}\u{fffd}".to_owned()
            }
        )]
    );
}

#[test]
fn header_tables_of_any_depth_size_and_untruth_are_passed_on() {
    let nested = (0..200).fold(FieldTable::new(), |inner, _| {
        FieldTable::from_iter([(Bytes::from_static(b"t"), FieldValue::Table(inner))])
    });
    let many: FieldTable = (0..400)
        .map(|at| (Bytes::from(format!("{at}")), FieldValue::Void))
        .collect();
    for headers in [nested, many] {
        let properties = Properties {
            headers: Some(headers),
            ..Properties::default()
        };
        let bytes = properties.encode().unwrap();
        assert_eq!(delivered_with(&bytes).properties.as_bytes(), &bytes);
    }
    for bytes in [
        &b""[..],
        b"\x20",
        b"\x20\x00\xff\xff\xff\xff",
        b"\x20\x00\x00\x00\x00\x02\x01?",
        b"\xff\xff\xff\xff",
    ] {
        assert_eq!(delivered_with(bytes).properties.as_bytes(), bytes);
    }
}

#[test]
fn ten_thousand_headers_pass_where_frames_are_large_enough() {
    let mut client = Client::connecting_with(EngineSettings {
        frame_bytes_max: 131_072,
        ..settings()
    });
    client.hears(server::handshake());
    client.asks(Command::OpenChannel { channel: ONE });
    client.asks(consume());
    client.hears([server::channel_open_ok(1), server::consume_ok(1)].concat());
    client.events();
    let headers: FieldTable = (0..10_000)
        .map(|at| (Bytes::from(format!("{at:05}")), FieldValue::Void))
        .collect();
    let properties = Properties {
        headers: Some(headers),
        ..Properties::default()
    };
    let bytes = properties.encode().unwrap();
    client.hears(server::deliver(1, 1, &bytes, b"x"));
    assert_eq!(deliveries(&mut client)[0].properties.as_bytes(), &bytes);
}

#[test]
fn headers_that_fill_the_frame_to_its_last_byte_are_read() {
    let bytes = vec![0; 4096 - 8 - 12];
    assert_eq!(delivered_with(&bytes).properties.as_bytes(), &bytes);
    let mut client = Client::consuming();
    client.hears(server::deliver(1, 1, &vec![0; 4096 - 8 - 11], b"x"));
    assert_eq!(
        client.events().pop(),
        Some(protocol(
            "a frame of 4089 bytes on channel 1, where 4088 are allowed"
        ))
    );
}

#[test]
fn broken_frames_end_the_connection_with_the_code_that_says_why() {
    let mut unended = server::heartbeat();
    *unended.last_mut().unwrap() = 0;
    let cases: [(Vec<u8>, u16, &str); 14] = [
        (
            unended,
            501,
            "a frame of 0 bytes on channel 0 without its end octet",
        ),
        (server::frame(9, 1, b""), 501, "a frame of unknown type 9"),
        (
            server::frame(8, 3, b""),
            501,
            "a heartbeat of 0 bytes on channel 3",
        ),
        (
            server::frame(8, 0, b"x"),
            501,
            "a heartbeat of 1 bytes on channel 0",
        ),
        (
            b"\x03\x00\x01\xff\xff\xff\xff".to_vec(),
            501,
            "a frame of 4294967295 bytes on channel 1, where 4088 are allowed",
        ),
        (
            server::frame(1, 1, b"\0"),
            502,
            "a method frame too short for a method",
        ),
        (
            server::method(1, 60, 60, b"\x05ab"),
            502,
            "a method frame that ends within the arguments of 60.60",
        ),
        (
            server::method(1, 60, 80, &[0; 10]),
            502,
            "1 bytes behind the arguments of basic.ack",
        ),
        (
            [
                server::deliver_method(1, 1, b"", b""),
                server::frame(2, 1, &[0; 5]),
            ]
            .concat(),
            502,
            "a header frame too short for a content header",
        ),
        (
            [
                server::deliver_method(1, 1, b"", b""),
                server::frame(2, 1, &[0, 50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            ]
            .concat(),
            501,
            "a content header of class 50 for content of class 60",
        ),
        (
            server::channel_open_ok(7),
            504,
            "a frame on channel 7, which isn't open",
        ),
        (
            server::frame(3, 0, b"x"),
            505,
            "content on channel 0, which has none",
        ),
        (
            server::method(1, 90, 10, b""),
            540,
            "a method that this client doesn't know: 90.10",
        ),
        (
            server::method(0, 60, 11, b""),
            503,
            "basic.qos-ok on channel 0 out of place",
        ),
    ];
    for (bytes, code, what) in cases {
        let mut client = Client::consuming();
        client.hears(bytes);
        let events = client.events();
        assert_eq!(events.last(), Some(&protocol(what)));
        assert_eq!(events.len(), 2);
        let frames = server::frames(&client.written());
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].id(), (10, 50));
        let said = [&code.to_be_bytes()[..], &server::short(what.as_bytes())].concat();
        assert_eq!(frames[0].payload[4..4 + said.len()], said);
    }
}

#[test]
fn a_delivery_to_a_channel_that_consumes_nothing_ends_the_connection() {
    let mut client = Client::publishing();
    client.hears(server::deliver(1, 1, &[0, 0], b"x"));
    assert_eq!(
        client.events().pop(),
        Some(protocol("a delivery on channel 1, which consumes nothing"))
    );
}

#[test]
fn a_body_size_that_lies_holds_no_memory() {
    let mut client = Client::consuming();
    client.hears(
        [
            server::deliver_method(1, 1, b"", b""),
            server::header(1, u64::MAX, &[0, 0]),
            server::frame(3, 1, b"x"),
        ]
        .concat(),
    );
    assert!(matches!(
        client.events()[..],
        [
            Event::Delivered { body: None, .. },
            Event::Piece { left, .. }
        ] if left == u64::MAX - 1
    ));
}

#[test]
fn what_a_server_says_of_itself_may_be_anything() {
    let mut arguments = vec![0, 9];
    arguments.extend(server::long(b"\x07product\xff"));
    arguments.extend(server::long(b"PLAIN"));
    arguments.extend(server::long(b"en_US"));
    let mut client = Client::connecting();
    client.hears(
        [
            server::method(0, 10, 10, &arguments),
            server::tune(0, 0),
            server::open_ok(),
        ]
        .concat(),
    );
    assert!(matches!(
        &client.events()[..],
        [Event::Opened { server }] if server.product.is_empty() && server.version.is_empty()
    ));
}
