//! Confirms and returns, paired with their publishes.

use super::*;
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::BTreeMap;

#[test]
fn a_multiple_confirm_covers_all_up_to_its_number_and_nothing_twice() {
    let mut client = Client::publishing();
    for id in 1..=6 {
        client.publishes(id * 10, b"x");
    }
    client.hears(
        [
            server::nack(1, 2, false),
            server::ack(1, 4, true),
            // Settled before: passed over.
            server::nack(1, 3, false),
            server::ack(1, 4, true),
            server::nack(1, 2, true),
        ]
        .concat(),
    );
    assert_eq!(
        client.events(),
        [
            outcome(20, Outcome::Nacked),
            outcome(10, Outcome::Confirmed),
            outcome(30, Outcome::Confirmed),
            outcome(40, Outcome::Confirmed)
        ]
    );
    client.hears(server::nack(1, 0, true));
    assert_eq!(
        client.events(),
        [outcome(50, Outcome::Nacked), outcome(60, Outcome::Nacked)]
    );
}

#[test]
fn a_return_is_told_when_its_own_publish_is_confirmed() {
    let mut client = Client::publishing();
    for id in 1..=3 {
        client.publishes(id, b"body");
    }
    client.hears(server::return_of(1, 2, b"body"));
    assert_eq!(client.events(), []);
    client.hears(server::ack(1, 1, false));
    assert_eq!(client.events(), [outcome(1, Outcome::Confirmed)]);
    client.hears(server::ack(1, 3, true));
    assert_eq!(
        client.events(),
        [outcome(2, returned()), outcome(3, Outcome::Confirmed)]
    );
}

#[test]
fn of_two_publishes_with_one_token_the_older_one_is_returned_first() {
    let mut client = Client::publishing();
    let again = |id| {
        let Command::Publish {
            channel,
            to,
            content,
            ..
        } = publish(7, Content::Whole(Bytes::new()))
        else {
            unreachable!();
        };
        Command::Publish {
            channel,
            id: PublishId(id),
            to,
            properties: with_token(7),
            content,
        }
    };
    client.asks(again(1));
    client.asks(again(2));
    client.hears([server::return_of(1, 7, b""), server::nack(1, 2, true)].concat());
    assert_eq!(
        client.events(),
        [outcome(1, returned()), outcome(2, Outcome::Nacked)]
    );
}

#[test]
fn a_return_of_nothing_that_was_sent_ends_the_connection() {
    // Of another token; of one that isn't mandatory; of one that has been returned, or confirmed, already.
    let cases: [fn(&mut Client); 4] = [
        |client| client.hears(server::return_of(1, 2, b"")),
        |client| {
            let Command::Publish {
                channel,
                to,
                content,
                ..
            } = publish(2, Content::Whole(Bytes::new()))
            else {
                unreachable!();
            };
            client.asks(Command::Publish {
                channel,
                id: PublishId(2),
                to: Destination {
                    mandatory: false,
                    ..to
                },
                properties: with_token(2),
                content,
            });
            client.hears(server::return_of(1, 2, b""));
        },
        |client| {
            client.hears([server::return_of(1, 1, b""), server::return_of(1, 1, b"")].concat());
        },
        |client| client.hears([server::ack(1, 1, false), server::return_of(1, 1, b"")].concat()),
    ];
    for case in cases {
        let mut client = Client::publishing();
        client.publishes(1, b"x");
        case(&mut client);
        assert_eq!(
            client.events().pop(),
            Some(protocol(
                "a basic.return (312 NO_ROUTE) that belongs to no unanswered mandatory publish"
            ))
        );
    }
    let mut client = Client::publishing();
    client.publishes(1, b"x");
    client.hears([server::return_method(1), server::header(1, 0, &[0, 0])].concat());
    assert_eq!(
        client.events().pop(),
        Some(protocol(
            "a basic.return (312 NO_ROUTE) without the header x-set-parcel"
        ))
    );
}

#[test]
fn a_confirm_of_what_was_never_sent_ends_the_connection() {
    for confirm in [
        server::ack(1, 2, false),
        server::nack(1, 2, true),
        server::ack(1, 0, false),
        server::ack(1, u64::MAX, true),
    ] {
        let mut client = Client::publishing();
        client.publishes(1, b"x");
        client.hears(confirm);
        let events = client.events();
        assert!(
            matches!(
                events[..],
                [
                    Event::Outcome {
                        outcome: Outcome::Unknown { .. },
                        ..
                    },
                    Event::ChannelEnded { .. },
                    Event::Ended(Ended::Protocol { .. })
                ]
            ),
            "{events:?}"
        );
    }
    let mut client = Client::with_channel();
    client.hears(server::ack(1, 1, false));
    assert!(client.engine.is_ended(), "without confirms there are none");
}

#[test]
fn what_cant_be_sent_says_so_and_takes_no_number() {
    let mut client = Client::publishing();
    let with = |exchange: usize, routing_key: usize, properties: RawProperties| Command::Publish {
        channel: ONE,
        id: PublishId(1),
        to: Destination {
            exchange: Bytes::from(vec![b'e'; exchange]),
            routing_key: Bytes::from(vec![b'k'; routing_key]),
            mandatory: true,
        },
        properties,
        content: Content::Whole(Bytes::from_static(b"x")),
    };
    client.asks(with(256, 1, with_token(1)));
    client.asks(with(1, 256, with_token(1)));
    client.asks(with(1, 1, RawProperties::default()));
    client.asks(with(
        1,
        1,
        RawProperties::from_wire(vec![0; 4096 - 8 - 11].into()),
    ));
    let texts: Vec<String> = client
        .events()
        .into_iter()
        .map(|event| match event {
            Event::Outcome {
                outcome: Outcome::Unencodable { text } | Outcome::TooLarge { text },
                ..
            } => text,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        texts,
        [
            "the exchange has 256 bytes, 255 at most can be written",
            "the routing key has 256 bytes, 255 at most can be written",
            "it is mandatory and has no header x-set-parcel, by which its return would be known",
            "its properties take a frame of 4097 bytes, the connection's have 4096 at most"
        ]
    );
    assert_eq!(client.written(), b"");
    client.asks(with(255, 255, with_token(1)));
    client.hears(server::ack(1, 1, false));
    assert_eq!(client.events(), [outcome(1, Outcome::Confirmed)]);
}

#[test]
fn properties_that_fill_the_frame_to_its_last_byte_are_sent() {
    let mut client = Client::publishing();
    client.asks(Command::Publish {
        channel: ONE,
        id: PublishId(1),
        to: Destination {
            exchange: Bytes::new(),
            routing_key: Bytes::new(),
            mandatory: false,
        },
        properties: RawProperties::from_wire(vec![0; 4096 - 8 - 12].into()),
        content: Content::Whole(Bytes::new()),
    });
    assert_eq!(server::frames(&client.written())[1].payload.len(), 4088);
}

#[test]
fn without_confirms_nothing_is_published() {
    let mut client = Client::with_channel();
    client.publishes(1, b"x");
    assert_eq!(
        client.events(),
        [outcome(
            1,
            Outcome::Unencodable {
                text: "the channel isn't in confirm mode".to_owned()
            }
        )]
    );
    assert_eq!(client.written(), b"");
}

#[test]
fn one_publish_that_stays_unanswered_keeps_no_others() {
    // The invariants, checked after each input, bound the slots.
    let mut client = Client::publishing();
    client.publishes(0, b"stuck");
    for number in 2..20_000 {
        client.publishes(number, b"x");
        client.hears(server::ack(1, number, false));
        client.written();
        assert_eq!(client.events(), [outcome(number, Outcome::Confirmed)]);
    }
    client.hears(server::ack(1, 1, false));
    assert_eq!(client.events(), [outcome(0, Outcome::Confirmed)]);
}

/// What a broker makes of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Routed,
    Unroutable,
    Refused,
}

/// What happens next between a client and its broker.
#[derive(Debug, Clone)]
enum Step {
    Publish(Fate),
    /// The broker takes the next one in: returns it, if it must.
    Take,
    /// One that was taken is confirmed.
    One(Index),
    /// All up to one, as far as all of them have the same answer.
    UpTo(Index),
}

#[derive(Debug, Clone, Copy)]
enum End {
    Lost,
    ChannelClosed,
    ConnectionClosed,
    Broken,
    Silent,
    CloseCommand,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::sample::select(&[Fate::Routed, Fate::Routed, Fate::Unroutable, Fate::Refused][..])
            .prop_map(Step::Publish),
        4 => Just(Step::Take),
        2 => any::<Index>().prop_map(Step::One),
        1 => any::<Index>().prop_map(Step::UpTo),
    ]
}

fn end() -> impl Strategy<Value = End> {
    prop::sample::select(
        &[
            End::Lost,
            End::ChannelClosed,
            End::ConnectionClosed,
            End::Broken,
            End::Silent,
            End::CloseCommand,
        ][..],
    )
}

/// The broker's side of the model.
#[derive(Default)]
struct Broker {
    /// Published, by number from 1.
    fates: Vec<Fate>,
    taken: u64,
    /// Taken and not confirmed.
    open: BTreeMap<u64, Fate>,
}

impl Broker {
    fn fate(&self, number: u64) -> Fate {
        self.fates[usize::try_from(number).unwrap() - 1]
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let fate = *self.fates.get(usize::try_from(self.taken).unwrap())?;
        self.taken += 1;
        self.open.insert(self.taken, fate);
        Some(match fate {
            Fate::Unroutable => server::return_of(1, self.taken, b"returned body"),
            Fate::Routed | Fate::Refused => Vec::new(),
        })
    }

    fn confirm(number: u64, refused: bool, multiple: bool) -> Vec<u8> {
        if refused {
            server::nack(1, number, multiple)
        } else {
            server::ack(1, number, multiple)
        }
    }

    fn one(&mut self, index: Index) -> Option<(Vec<u8>, Vec<u64>)> {
        let number = *self.open.keys().nth(index.index(self.open.len().max(1)))?;
        let fate = self.open.remove(&number)?;
        let bytes = Self::confirm(number, fate == Fate::Refused, false);
        Some((bytes, vec![number]))
    }

    fn up_to(&mut self, index: Index) -> Option<(Vec<u8>, Vec<u64>)> {
        let refused = *self.open.values().next()? == Fate::Refused;
        let alike: Vec<u64> = self
            .open
            .iter()
            .take_while(|(_, fate)| (**fate == Fate::Refused) == refused)
            .map(|(number, _)| *number)
            .collect();
        let covered = alike[..=index.index(alike.len())].to_vec();
        for number in &covered {
            self.open.remove(number);
        }
        Some((Self::confirm(*covered.last()?, refused, true), covered))
    }
}

fn told(fate: Fate) -> Outcome {
    match fate {
        Fate::Routed => Outcome::Confirmed,
        Fate::Unroutable => returned(),
        Fate::Refused => Outcome::Nacked,
    }
}

proptest! {
    #[test]
    fn every_publish_has_its_own_outcome_once_whatever_ends_the_connection(
        steps in prop::collection::vec(step(), 0..200),
        end in end(),
    ) {
        let mut client = Client::publishing();
        let mut broker = Broker::default();
        let mut expected = BTreeMap::new();
        for step in steps {
            let said = match step {
                Step::Publish(fate) => {
                    broker.fates.push(fate);
                    client.publishes(broker.fates.len() as u64, b"body");
                    None
                }
                Step::Take => broker.take().map(|bytes| (bytes, Vec::new())),
                Step::One(index) => broker.one(index),
                Step::UpTo(index) => broker.up_to(index),
            };
            let Some((bytes, confirmed)) = said else { continue };
            client.hears(bytes);
            let mut ids = Vec::new();
            for event in client.events() {
                let Event::Outcome { id, outcome, .. } = event else {
                    panic!("{event:?}");
                };
                prop_assert_eq!(&outcome, &told(broker.fate(id.0)));
                prop_assert!(expected.insert(id.0, outcome).is_none());
                ids.push(id.0);
            }
            prop_assert_eq!(ids, confirmed);
        }
        match end {
            End::Lost => client.loses("reset"),
            End::ChannelClosed => client.hears(server::channel_close(1, 404, b"NOT_FOUND")),
            End::ConnectionClosed => client.hears(server::connection_close(320, b"bye")),
            End::Broken => client.hears(&b"nonsense"[..]),
            End::Silent => {
                client.now += HEARTBEAT * 3;
                client.engine.handle(Input::Tick, client.now);
            }
            End::CloseCommand => {
                client.asks(Command::Close);
                client.hears(server::connection_close_ok());
            }
        }
        let mut ends = Vec::new();
        for event in client.events() {
            match event {
                Event::Outcome { id, outcome, .. } => {
                    prop_assert!(ends.is_empty(), "an outcome after the end");
                    let was_returned = broker.open.get(&id.0) == Some(&Fate::Unroutable);
                    prop_assert_eq!(matches!(outcome, Outcome::Returned { .. }), was_returned);
                    prop_assert_eq!(matches!(outcome, Outcome::Unknown { .. }), !was_returned);
                    prop_assert!(expected.insert(id.0, outcome).is_none());
                }
                other => ends.push(other),
            }
        }
        prop_assert_eq!(expected.len(), broker.fates.len());
        let channel_first = matches!(ends[0], Event::ChannelEnded { channel: ONE, .. });
        prop_assert!(channel_first);
        match end {
            End::ChannelClosed => prop_assert_eq!(ends.len(), 1),
            End::Lost | End::ConnectionClosed | End::Broken | End::Silent | End::CloseCommand => {
                prop_assert!(matches!(ends[1..], [Event::Ended(_)]));
            }
        }
    }
}
