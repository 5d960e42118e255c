//! A conversation in order: open, consume, acknowledge, publish, confirm, close.

use super::server::{self, Written};
use super::*;
use crate::amqp::engine::Delivered;

#[test]
fn a_handshake_opens_the_connection_and_says_with_whom() {
    let mut client = Client::connecting();
    client.hears(server::start());
    let frames = server::frames(&client.written());
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].id(), (10, 11));
    let text = String::from_utf8_lossy(&frames[0].payload).into_owned();
    for said in [
        "setgate",
        "authentication_failure_close",
        "consumer_cancel_notify",
        "PLAIN\0\0\0\u{d}\0guest\0secret",
    ] {
        assert!(text.contains(said), "{said} in {text:?}");
    }

    client.hears(server::tune(100, 0));
    let frames = server::frames(&client.written());
    assert_eq!(frames[0].id(), (10, 31));
    assert_eq!(frames[0].payload[4..], [0, 100, 0, 0, 0x10, 0, 0, 10]);
    assert_eq!(frames[1].id(), (10, 40));
    assert_eq!(frames[1].payload[4..], *b"\x01/\x00\x00");
    assert_eq!(client.events(), []);

    client.hears(server::open_ok());
    let [Event::Opened { server }] = &client.events()[..] else {
        panic!("not open");
    };
    assert_eq!(
        (&server.product[..], &server.version[..]),
        ("RabbitMQ", "3.10.8")
    );
    assert_eq!(client.engine.frame_bytes_max(), 4096);
}

#[test]
fn a_consumer_gets_deliveries_as_they_came_and_acknowledges_them() {
    let mut client = Client::with_channel();
    client.asks(Command::Qos {
        channel: ONE,
        prefetch: 300,
    });
    client.asks(Command::Consume {
        channel: ONE,
        queue: Bytes::from_static(b"orders"),
        exclusive: true,
        arguments: FieldTable::new(),
    });
    let frames = server::frames(&client.written());
    assert_eq!(frames[0].id(), (60, 10));
    assert_eq!(frames[0].payload[4..], [0, 0, 0, 0, 1, 44, 0]);
    assert_eq!(frames[1].id(), (60, 20));
    assert_eq!(
        frames[1].payload[4..],
        *b"\x00\x00\x06orders\x00\x04\x00\x00\x00\x00"
    );
    let properties = with_token(5);
    client.hears(
        [
            server::qos_ok(1),
            server::consume_ok(1),
            server::deliver(1, 1, properties.as_bytes(), b"hello"),
        ]
        .concat(),
    );
    let delivered = Delivered {
        tag: 1,
        redelivered: false,
        exchange: Bytes::from_static(b"orders"),
        routing_key: Bytes::from_static(b"new"),
        properties,
        body_bytes: 5,
    };
    assert_eq!(
        client.events(),
        [
            done(Done::QosSet),
            done(Done::Consuming),
            Event::Delivered {
                channel: ONE,
                delivered,
                body: Some(Bytes::from_static(b"hello")),
            }
        ]
    );
    client.asks(Command::Acknowledge {
        channel: ONE,
        tag: 1,
        multiple: true,
    });
    client.asks(Command::Reject {
        channel: ONE,
        tag: 2,
        multiple: false,
        requeue: true,
    });
    let frames = server::frames(&client.written());
    assert_eq!(frames[0].id(), (60, 80));
    assert_eq!(frames[0].payload[4..], [0, 0, 0, 0, 0, 0, 0, 1, 1]);
    assert_eq!(frames[1].id(), (60, 120));
    assert_eq!(frames[1].payload[4..], [0, 0, 0, 0, 0, 0, 0, 2, 2]);
}

#[test]
fn a_publish_is_method_header_and_body_and_its_confirm_is_told() {
    let mut client = Client::publishing();
    client.publishes(7, b"hello");
    let frames = server::frames(&client.written());
    assert_eq!(frames[0].id(), (60, 40));
    assert_eq!(frames[0].payload[4..], *b"\x00\x00\x06orders\x03new\x01");
    let header = server::header(1, 5, with_token(7).as_bytes());
    assert_eq!(frames[1], server::frames(&header)[0]);
    assert_eq!(
        frames[2],
        Written {
            kind: 3,
            channel: 1,
            payload: b"hello".to_vec()
        }
    );
    assert_eq!(frames.len(), 3);
    client.hears(server::ack(1, 1, false));
    assert_eq!(client.events(), [outcome(7, Outcome::Confirmed)]);
}

#[test]
fn a_channel_and_a_connection_are_closed_in_order() {
    let mut client = Client::publishing();
    client.asks(Command::CloseChannel { channel: ONE });
    assert_eq!(server::methods(&client.written()), [(20, 40)]);
    assert_eq!(client.events(), []);
    client.hears(server::channel_close_ok(1));
    assert_eq!(
        client.events(),
        [Event::ChannelEnded {
            channel: ONE,
            end: ChannelEnd::Closed
        }]
    );
    client.asks(Command::Close);
    assert_eq!(server::methods(&client.written()), [(10, 50)]);
    client.hears(server::connection_close_ok());
    assert_eq!(client.events(), [Event::Ended(Ended::Closed)]);
    assert!(client.engine.is_ended());
    assert_eq!(client.engine.deadline(), None);
}
