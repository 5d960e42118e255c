//! How connections and channels begin and end, and what is told then.

use super::*;

fn ended_with(client: &mut Client) -> Ended {
    let mut events = client.events();
    let Some(Event::Ended(ended)) = events.pop() else {
        panic!("not ended");
    };
    assert!(events.iter().all(|event| !matches!(event, Event::Ended(_))));
    assert!(client.engine.is_ended());
    ended
}

#[test]
fn a_server_of_another_protocol_is_named() {
    for (bytes, said) in [
        (&b"AMQP\x00\x01\x00\x00"[..], "the header of AMQP 1.0"),
        (b"HTTP/1.1 400 Bad Request\r\n", "HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "this port expects TLS"),
        (b"SSH-2.0-x", "53 53 48"),
        (&server::start_with((1, 0), "PLAIN"), "AMQP 1-0, not 0-9"),
    ] {
        let mut client = Client::connecting();
        client.hears(bytes.to_vec());
        let ended = ended_with(&mut client).to_string();
        assert!(ended.contains(said), "{ended}");
        assert_eq!(client.written(), b"");
    }
}

#[test]
fn a_mechanism_that_is_not_offered_is_named_with_those_that_are() {
    let mut client = Client::connecting_with(EngineSettings {
        credentials: Credentials::External,
        ..settings()
    });
    client.hears(server::start_with((0, 9), "AMQPLAIN PLAIN"));
    assert_eq!(
        ended_with(&mut client).to_string(),
        "the broker doesn't offer to log in by EXTERNAL, but by: AMQPLAIN PLAIN"
    );
    let mut client = Client::connecting_with(EngineSettings {
        credentials: Credentials::External,
        ..settings()
    });
    client.hears(server::start_with((0, 9), "PLAIN EXTERNAL"));
    let text = String::from_utf8_lossy(&client.written()).into_owned();
    assert!(text.contains("\u{8}EXTERNAL\0\0\0\0\u{5}en_US"), "{text:?}");
}

#[test]
fn a_refused_login_and_an_unknown_vhost_end_with_the_brokers_words() {
    let mut client = Client::connecting();
    client.hears(server::start());
    client.hears(server::connection_close(
        403,
        b"ACCESS_REFUSED - Login was refused",
    ));
    assert_eq!(
        ended_with(&mut client),
        Ended::Refused {
            code: 403,
            text: "ACCESS_REFUSED - Login was refused".to_owned()
        }
    );
    assert_eq!(server::methods(&client.written()), [(10, 11), (10, 51)]);

    let mut client = Client::connecting();
    client.hears([server::start(), server::tune(0, 0)].concat());
    client.hears(server::connection_close(
        530,
        b"NOT_ALLOWED - vhost x not found",
    ));
    assert_eq!(
        ended_with(&mut client).to_string(),
        "530 NOT_ALLOWED - vhost x not found"
    );
}

#[test]
fn what_is_tuned_is_the_smaller_of_both_and_zero_is_no_limit() {
    for (theirs, ours, agreed) in [
        (0, 131_072, 131_072),
        (131_072, 1_000_000, 131_072),
        (131_072, 8192, 8192),
        (4096, 131_072, 4096),
        (0, 0, 4096),
    ] {
        let mut client = Client::connecting_with(EngineSettings {
            frame_bytes_max: ours,
            ..settings()
        });
        client.hears([server::start(), server::tune(0, theirs), server::open_ok()].concat());
        assert_eq!(client.engine.frame_bytes_max(), agreed);
    }
    let mut client = Client::connecting();
    client.hears([server::start(), server::tune(0, 4095)].concat());
    assert!(matches!(ended_with(&mut client), Ended::Protocol { .. }));
}

#[test]
fn a_socket_lost_in_the_handshake_is_told_with_what_was_awaited() {
    let mut client = Client::connecting();
    client.hears(server::start());
    client.loses("reset by peer");
    assert_eq!(
        ended_with(&mut client).to_string(),
        "reset by peer (while connection.tune was awaited)"
    );
}

#[test]
fn names_that_cant_be_written_end_what_they_belong_to() {
    let mut client = Client::connecting_with(EngineSettings {
        vhost: "v".repeat(256),
        ..settings()
    });
    client.hears(server::start());
    assert!(ended_with(&mut client).to_string().contains("256 bytes"));

    let mut client = Client::with_channel();
    client.asks(Command::Consume {
        channel: ONE,
        queue: Bytes::from(vec![b'q'; 256]),
        exclusive: false,
        arguments: FieldTable::new(),
    });
    assert_eq!(server::methods(&client.written()), [(20, 40)]);
    client.hears(server::channel_close_ok(1));
    let [
        Event::ChannelEnded {
            end: ChannelEnd::Lost { cause },
            ..
        },
    ] = &client.events()[..]
    else {
        panic!("no end");
    };
    assert!(cause.starts_with("the queue's name has 256 bytes"));
}

#[test]
fn commands_are_pipelined_and_answers_come_in_their_order() {
    let mut client = Client::opened();
    client.asks(Command::OpenChannel { channel: ONE });
    client.asks(Command::Qos {
        channel: ONE,
        prefetch: 1,
    });
    client.asks(Command::DeclareExclusive {
        channel: ONE,
        queue: Bytes::from_static(b"lock"),
    });
    client.asks(Command::ConfirmSelect { channel: ONE });
    client.publishes(1, b"x");
    client.asks(consume());
    let written = client.written();
    assert_eq!(
        server::methods(&written),
        [(20, 10), (60, 10), (50, 10), (85, 10), (60, 40), (60, 20)]
    );
    assert_eq!(
        server::frames(&written)[2].payload[4..],
        *b"\x00\x00\x04lock\x04\x00\x00\x00\x00"
    );
    client.hears(
        [
            server::channel_open_ok(1),
            server::qos_ok(1),
            server::declare_ok(1, b"lock"),
            server::confirm_select_ok(1),
            server::ack(1, 1, false),
            server::consume_ok(1),
        ]
        .concat(),
    );
    assert_eq!(
        client.events(),
        [
            done(Done::ChannelOpened),
            done(Done::QosSet),
            done(Done::Declared),
            done(Done::Confirming),
            outcome(1, Outcome::Confirmed),
            done(Done::Consuming)
        ]
    );
}

#[test]
fn an_answer_that_nobody_awaits_breaks_the_protocol() {
    let mut client = Client::with_channel();
    client.asks(Command::Qos {
        channel: ONE,
        prefetch: 1,
    });
    client.written();
    client.hears(server::consume_ok(1));
    assert_eq!(
        ended_with(&mut client).to_string(),
        "the peer broke the protocol: basic.consume-ok on channel 1 out of place (basic.qos-ok is awaited)"
    );
    let frames = server::frames(&client.written());
    assert_eq!(frames[0].id(), (10, 50));
    assert_eq!(frames[0].payload[4..6], [1, 0xf7], "503");
}

#[test]
fn a_channel_that_the_broker_closes_tells_its_publishes_first_and_can_be_opened_again() {
    let mut client = Client::publishing();
    client.publishes(1, b"a");
    client.publishes(2, b"b");
    client.publishes(3, b"c");
    client.written();
    client.hears(server::return_of(1, 2, b"b"));
    client.hears(server::channel_close(1, 404, b"NOT_FOUND - no exchange"));
    assert_eq!(
        client.events(),
        [
            outcome(1, unknown("404 NOT_FOUND - no exchange")),
            outcome(2, returned()),
            outcome(3, unknown("404 NOT_FOUND - no exchange")),
            Event::ChannelEnded {
                channel: ONE,
                end: ChannelEnd::Refused {
                    code: 404,
                    text: "NOT_FOUND - no exchange".to_owned()
                }
            }
        ]
    );
    assert_eq!(server::methods(&client.written()), [(20, 41)]);
    client.publishes(4, b"d");
    assert_eq!(
        client.events(),
        [outcome(
            4,
            Outcome::Unsent {
                cause: "the channel isn't open".to_owned()
            }
        )]
    );
    assert_eq!(client.written(), b"");

    client.asks(Command::OpenChannel { channel: ONE });
    client.asks(Command::ConfirmSelect { channel: ONE });
    client.publishes(5, b"e");
    client.hears(
        [
            server::channel_open_ok(1),
            server::confirm_select_ok(1),
            server::ack(1, 1, false),
        ]
        .concat(),
    );
    assert_eq!(
        client.events().last(),
        Some(&outcome(5, Outcome::Confirmed)),
        "numbers count anew on a new channel"
    );
}

#[test]
fn a_channel_being_closed_hears_nothing_but_its_close() {
    let mut client = Client::publishing();
    client.asks(consume());
    client.hears(server::consume_ok(1));
    client.publishes(1, b"a");
    client.events();
    client.hears(server::deliver_method(1, 1, b"", b""));
    client.asks(Command::CloseChannel { channel: ONE });
    client.publishes(2, b"late");
    client.asks(Command::Acknowledge {
        channel: ONE,
        tag: 1,
        multiple: false,
    });
    client.hears(
        [
            server::header(1, 10, &[0, 0]),
            server::body_frames(1, b"0123456789", 5),
            server::ack(1, 1, false),
            server::method(1, 99, 99, b"whatever"),
            // Both closed it at once.
            server::channel_close(1, 406, b"PRECONDITION_FAILED"),
            server::channel_close_ok(1),
        ]
        .concat(),
    );
    assert_eq!(
        client.events(),
        [
            outcome(
                2,
                Outcome::Unsent {
                    cause: "the channel is being closed".to_owned()
                }
            ),
            outcome(1, unknown("the channel was closed before it was answered")),
            Event::ChannelEnded {
                channel: ONE,
                end: ChannelEnd::Closed
            }
        ]
    );
    assert_eq!(
        server::methods(&client.written()).last(),
        Some(&(20, 41)),
        "no acknowledgement after the close, but close-ok"
    );
    // Its number is free.
    client.asks(Command::OpenChannel { channel: ONE });
    client.hears(server::channel_open_ok(1));
    assert_eq!(client.events(), [done(Done::ChannelOpened)]);
}

#[test]
fn a_connection_being_closed_hears_nothing_but_its_close() {
    let mut client = Client::publishing();
    client.publishes(1, b"a");
    client.asks(Command::Close);
    client.asks(Command::Close);
    client.publishes(2, b"b");
    client.hears(
        [
            server::ack(1, 1, false),
            server::method(0, 10, 61, &[]),
            server::frame(2, 0, b"x"),
            server::frame(3, 77, b"x"),
            server::heartbeat(),
            server::connection_close_ok(),
            server::heartbeat(),
        ]
        .concat(),
    );
    assert_eq!(
        client.events(),
        [
            outcome(
                2,
                Outcome::Unsent {
                    cause: "the connection is being closed".to_owned()
                }
            ),
            outcome(1, unknown("closed by this gateway")),
            lost_channel("closed by this gateway"),
            Event::Ended(Ended::Closed)
        ]
    );
    assert_eq!(server::methods(&client.written()).last(), Some(&(10, 50)));
}

#[test]
fn a_connection_that_the_broker_closes_is_answered_and_all_of_it_told_once() {
    let mut client = Client::publishing();
    client.publishes(1, b"a");
    client.written();
    client.hears(server::connection_close(320, b"CONNECTION_FORCED - bye"));
    client.loses("closed");
    client.hears(server::ack(1, 1, false));
    assert_eq!(
        client.events(),
        [
            outcome(1, unknown("320 CONNECTION_FORCED - bye")),
            lost_channel("320 CONNECTION_FORCED - bye"),
            Event::Ended(Ended::Refused {
                code: 320,
                text: "CONNECTION_FORCED - bye".to_owned()
            })
        ]
    );
    assert_eq!(server::methods(&client.written()), [(10, 51)]);
    client.publishes(9, b"late");
    client.asks(consume());
    client.asks(Command::Close);
    assert_eq!(
        client.events(),
        [outcome(
            9,
            Outcome::Unsent {
                cause: "320 CONNECTION_FORCED - bye".to_owned()
            }
        )]
    );
    assert_eq!(client.written(), b"");
}

#[test]
fn a_connection_closed_before_it_is_open_just_ends() {
    let mut client = Client::connecting();
    client.asks(Command::Close);
    assert_eq!(client.events(), [Event::Ended(Ended::Closed)]);
    assert_eq!(client.written(), b"");
}

#[test]
fn what_a_broker_says_of_itself_is_told() {
    let mut client = Client::consuming();
    let cancel = [&server::short(b"amq.ctag-1")[..], &[1]].concat();
    client.hears(
        [
            server::method(0, 10, 60, &server::short(b"low on \xffdisk")),
            server::method(0, 10, 61, &[]),
            server::method(1, 60, 30, &cancel),
        ]
        .concat(),
    );
    assert_eq!(
        client.events(),
        [
            Event::Blocked {
                reason: "low on \u{fffd}disk".to_owned()
            },
            Event::Unblocked,
            Event::ConsumerCancelled { channel: ONE }
        ]
    );
    assert_eq!(client.written(), b"");
    client.hears(server::method(1, 20, 20, &[0]));
    assert_eq!(
        server::frames(&client.written()),
        server::frames(&server::method(1, 20, 21, &[0])),
        "channel.flow is answered"
    );
}

#[test]
fn a_channel_number_that_was_not_agreed_on_is_not_opened() {
    let mut client = Client::opened();
    for id in [0, 2048] {
        client.asks(Command::OpenChannel {
            channel: ChannelId(id),
        });
        assert!(matches!(
            client.events()[..],
            [Event::ChannelEnded {
                channel: ChannelId(ended),
                end: ChannelEnd::Lost { .. }
            }] if ended == id
        ));
    }
    assert_eq!(client.written(), b"");
}
