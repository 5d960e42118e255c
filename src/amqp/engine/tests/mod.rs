//! The engine against a scripted server.

mod confirms;
mod content;
mod lives;
mod poison;
mod server;
mod streams;
mod talk;
mod time;

use super::{
    ChannelEnd, ChannelId, Command, Content, Credentials, Destination, Done, Ended, Engine,
    EngineSettings, Event, Input, Outcome, PublishId,
};
use crate::amqp::{FieldTable, FieldValue, Properties, RawProperties};
use bytes::{Buf, Bytes};
use secrecy::SecretString;
use std::time::{Duration, Instant};

const TOKEN_HEADER: &str = "x-set-parcel";
const ONE: ChannelId = ChannelId(1);
const BODY_BYTES_MAX: usize = 6_000;
const HEARTBEAT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(7);

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn settings() -> EngineSettings {
    EngineSettings {
        credentials: Credentials::Plain {
            user: "guest".to_owned(),
            password: SecretString::from("secret"),
        },
        vhost: "/".to_owned(),
        heartbeat: HEARTBEAT,
        frame_bytes_max: 4096,
        client_properties: FieldTable::from_iter([(
            Bytes::from_static(b"product"),
            FieldValue::str("setgate"),
        )]),
        answer_timeout: ANSWER_TIMEOUT,
        body_bytes_max: BODY_BYTES_MAX,
        token_header: TOKEN_HEADER,
    }
}

/// An engine with its clock, which stands still unless a test moves it on.
struct Client {
    engine: Engine,
    now: Instant,
}

impl Client {
    /// Before the server's first byte; the protocol header is taken.
    fn connecting_with(settings: EngineSettings) -> Self {
        let now = now();
        let mut client = Self {
            engine: Engine::new(settings, now),
            now,
        };
        assert_eq!(client.written(), b"AMQP\x00\x00\x09\x01");
        client
    }

    fn connecting() -> Self {
        Self::connecting_with(settings())
    }

    fn opened_with(settings: EngineSettings) -> Self {
        let mut client = Self::connecting_with(settings);
        client.hears(server::handshake());
        assert!(matches!(client.events()[..], [Event::Opened { .. }]));
        client.written();
        client
    }

    fn opened() -> Self {
        Self::opened_with(settings())
    }

    /// With channel 1 open.
    fn with_channel() -> Self {
        Self::with_channel_and(settings())
    }

    fn with_channel_and(settings: EngineSettings) -> Self {
        let mut client = Self::opened_with(settings);
        client.asks(Command::OpenChannel { channel: ONE });
        client.hears(server::channel_open_ok(1));
        assert_eq!(client.events(), [done(Done::ChannelOpened)]);
        client.written();
        client
    }

    /// With channel 1 open and in confirm mode.
    fn publishing() -> Self {
        Self::publishing_with(settings())
    }

    fn publishing_with(settings: EngineSettings) -> Self {
        let mut client = Self::with_channel_and(settings);
        client.asks(Command::ConfirmSelect { channel: ONE });
        client.hears(server::confirm_select_ok(1));
        assert_eq!(client.events(), [done(Done::Confirming)]);
        client.written();
        client
    }

    /// With channel 1 open and consuming.
    fn consuming() -> Self {
        let mut client = Self::with_channel();
        client.asks(consume());
        client.hears(server::consume_ok(1));
        assert_eq!(client.events(), [done(Done::Consuming)]);
        client.written();
        client
    }

    fn hears(&mut self, bytes: impl Into<Bytes>) {
        self.engine.handle(Input::Bytes(bytes.into()), self.now);
    }

    fn asks(&mut self, command: Command) {
        self.engine.handle(Input::Command(command), self.now);
    }

    fn loses(&mut self, cause: &str) {
        let cause = cause.to_owned();
        self.engine.handle(Input::Lost { cause }, self.now);
    }

    fn publishes(&mut self, id: u64, body: &'static [u8]) {
        self.asks(publish(id, Content::Whole(Bytes::from_static(body))));
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.engine.next_event()).collect()
    }

    fn written(&mut self) -> Vec<u8> {
        let output = self.engine.output();
        let mut bytes = vec![0; output.remaining()];
        output.copy_to_slice(&mut bytes);
        bytes
    }
}

fn done(done: Done) -> Event {
    Event::Done { channel: ONE, done }
}

fn outcome(id: u64, outcome: Outcome) -> Event {
    Event::Outcome {
        channel: ONE,
        id: PublishId(id),
        outcome,
    }
}

fn returned() -> Outcome {
    Outcome::Returned {
        code: 312,
        text: "NO_ROUTE".to_owned(),
    }
}

fn unknown(cause: &str) -> Outcome {
    Outcome::Unknown {
        cause: cause.to_owned(),
    }
}

fn lost_channel(cause: &str) -> Event {
    Event::ChannelEnded {
        channel: ONE,
        end: ChannelEnd::Lost {
            cause: cause.to_owned(),
        },
    }
}

fn protocol(what: &str) -> Event {
    Event::Ended(Ended::Protocol {
        what: what.to_owned(),
    })
}

fn consume() -> Command {
    Command::Consume {
        channel: ONE,
        queue: Bytes::from_static(b"orders"),
        exclusive: false,
        arguments: FieldTable::new(),
    }
}

/// Properties with this token.
fn with_token(token: u64) -> RawProperties {
    let headers = FieldTable::from_iter([
        (Bytes::from_static(b"other"), FieldValue::I32(1)),
        (
            Bytes::from_static(TOKEN_HEADER.as_bytes()),
            FieldValue::str(format!("parcel-{token}")),
        ),
    ]);
    let properties = Properties {
        headers: Some(headers),
        delivery_mode: Some(2),
        ..Properties::default()
    };
    RawProperties::from_wire(properties.encode().unwrap())
}

/// A mandatory publish on channel 1 whose token is its id.
fn publish(id: u64, content: Content) -> Command {
    Command::Publish {
        channel: ONE,
        id: PublishId(id),
        to: Destination {
            exchange: Bytes::from_static(b"orders"),
            routing_key: Bytes::from_static(b"new"),
            mandatory: true,
        },
        properties: with_token(id),
        content,
    }
}
