//! One message's way through everything that is pure.

use crate::scripted::{
    CHANNEL, CONSUMER_TAG, TOKEN_HEADER, answer, command, method_frame, opened, output,
    put_delivery,
};
use crate::world::{World, there, unit};
use bytes::{BufMut, Bytes, BytesMut};
use setgate::amqp::engine::{
    Command, Content, Destination, Engine, Event, Input, Outcome, PublishId,
};
use setgate::amqp::{Edit, FieldTable, FieldValue, Properties, RawProperties};
use setgate::link::receiver::{
    Actions, Entry, Full, IDENTITIES_MAX, Life, Offer, Receiver, Seen, check,
};
use setgate::link::{Arrival, Batcher, Decoder, Frame};
use setgate::model::{Epoch, LaneId, Marking, Message, Parcel, ParcelNumber, Partition};
use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

const MESSAGE_MAX: usize = 1 << 20;
/// In one read of the source's socket.
const AT_ONCE: usize = 16;
const QUEUE: &[u8] = b"setgate.trade.lane.orders.0";

/// Copies so many bodies once each.
pub(crate) fn copy(messages: usize, body_bytes: usize) {
    let body = vec![7; body_bytes];
    for _ in 0..messages {
        black_box(Bytes::copy_from_slice(&body));
    }
}

/// Carries so many messages, and checks that all of them are delivered and acknowledged.
pub(crate) fn carry(messages: usize, body_bytes: usize) {
    let mut way = Way::new();
    let reads = deliveries(messages, body_bytes);
    for read in reads {
        way.take(read);
        way.send();
        while !way.arrived.is_empty() {
            way.publish();
            way.confirm();
        }
    }
    assert_eq!(way.world.settled_count, messages);
    assert_eq!(way.published, messages as u64);
    assert!(way.written > messages * body_bytes);
}

struct Way {
    source: Engine,
    world: World,
    batcher: Batcher,
    decoder: Decoder,
    arrived: VecDeque<Parcel>,
    lane: LaneId,
    receiver: Receiver,
    seen: Seen,
    target: Engine,
    published: u64,
    /// Bytes of publishes.
    written: usize,
}

impl Way {
    fn new() -> Self {
        let mut world = World::new("orders", 1_024);
        let mut source = opened(world.now);
        let consume = Command::Consume {
            channel: CHANNEL,
            queue: Bytes::from_static(QUEUE),
            exclusive: false,
            arguments: FieldTable::new(),
        };
        command(&mut source, consume);
        answer(&mut source, (60, 21), CONSUMER_TAG);
        let mut target = opened(world.now);
        command(&mut target, Command::ConfirmSelect { channel: CHANNEL });
        answer(&mut target, (85, 11), &[]);
        let lane = LaneId {
            unit: unit("sh-1"),
            source: world.source.clone(),
            partition: Partition(0),
        };
        world.lane.stream_up(&there(), 8 << 20, 4_096);
        Self {
            source,
            world,
            batcher: Batcher::new(MESSAGE_MAX),
            decoder: Decoder::new(MESSAGE_MAX),
            arrived: VecDeque::new(),
            receiver: Receiver::new(lane.clone(), Full::Waits),
            lane,
            seen: Seen::new(Life(1), IDENTITIES_MAX),
            target,
            published: 0,
            written: 0,
        }
    }

    fn take(&mut self, read: Bytes) {
        self.source.handle(Input::Bytes(read), self.world.now);
        while let Some(event) = self.source.next_event() {
            let Event::Delivered {
                delivered, body, ..
            } = event
            else {
                panic!("{event:?}");
            };
            let message = Message {
                address: setgate::model::Address {
                    exchange: delivered.exchange,
                    routing_key: delivered.routing_key,
                },
                properties: delivered.properties,
                body: body.unwrap(),
                redelivered: delivered.redelivered,
            };
            self.world.take(delivered.tag, message);
        }
        if self.world.settled == 0 {
            // It opens its target with the first message.
            self.world.lane.stream_up(&there(), 8 << 20, 4_096);
        }
    }

    fn send(&mut self) {
        let now = self.world.now;
        let mut frames = Vec::new();
        while let Some(parcel) = self.world.next(&there()) {
            self.batcher.push(&parcel, now, &mut frames).unwrap();
        }
        frames.extend(self.batcher.take(now));
        for piece in frames {
            self.decoder.push(&piece);
            while let Some(frame) = self.decoder.frame().unwrap() {
                let Frame::Batch(arrivals) = frame else {
                    panic!("{frame:?}");
                };
                for arrival in arrivals {
                    let Arrival::Readable(parcel) = arrival else {
                        panic!("{arrival:?}");
                    };
                    self.arrived.push_back(*parcel);
                }
            }
        }
    }

    /// As many as the receiver takes.
    fn publish(&mut self) {
        let mut actions = Actions::default();
        while self.receiver.room() > 0
            && let Some(parcel) = self.arrived.pop_front()
        {
            let body = self.world.keys.body(&parcel.body);
            let offer = Offer {
                identities: self.world.keys.identities(&self.lane, &parcel, &body),
                verdict: check(&self.world.table, &unit("bj-1"), &parcel, &self.lane),
                parcel,
            };
            self.receiver.offer(&self.seen, offer, &mut actions);
        }
        assert!(actions.answers.is_empty(), "{:?}", actions.answers);
        for (parcel, _) in actions.publish {
            let mut edit = Edit::new();
            if let Marking::AtReceiver(way) = &parcel.marking {
                parcel.mark(way, &self.lane.unit, &self.world.keys, &mut edit);
                let body = self.world.keys.body(&parcel.body);
                parcel.seal(&self.world.keys, &body, &mut edit);
            }
            let token = parcel.number.to_string();
            edit.set_str(TOKEN_HEADER, &token);
            let publish = Command::Publish {
                channel: CHANNEL,
                id: PublishId(parcel.number.0),
                to: Destination {
                    exchange: parcel.address.exchange,
                    routing_key: parcel.address.routing_key,
                    mandatory: true,
                },
                properties: edit.apply(&parcel.properties).unwrap(),
                content: Content::Whole(parcel.body),
            };
            self.target.handle(Input::Command(publish), self.world.now);
            self.published += 1;
        }
        self.written += output(&mut self.target);
    }

    fn confirm(&mut self) {
        let at = Duration::from_secs(1_000_000);
        let mut arguments = BytesMut::new();
        arguments.put_u64(self.published);
        arguments.put_u8(1);
        let confirm = method_frame(CHANNEL.0, (60, 80), &arguments);
        self.target.handle(Input::Bytes(confirm), self.world.now);
        let mut actions = Actions::default();
        while let Some(event) = self.target.next_event() {
            let Event::Outcome { id, outcome, .. } = event else {
                panic!("{event:?}");
            };
            assert_eq!(outcome, Outcome::Confirmed);
            let number = ParcelNumber(id.0);
            self.receiver
                .outcome(&mut self.seen, number, outcome, at, &mut actions);
        }
        while let Some(batch) = self.receiver.to_journal() {
            let entry = Entry {
                notes: Vec::new(),
                gateway: "bj-1-a".parse().unwrap(),
                life: Life(1),
                at,
                epoch: Epoch(1),
                records: batch.records,
            };
            black_box(entry.encode());
            self.receiver.journaled(batch.ticket, &mut actions);
        }
        let answers = Frame::Answers(actions.answers).encode().unwrap();
        let mut decoder = Decoder::new(0);
        decoder.push(&answers);
        let Some(Frame::Answers(answers)) = decoder.frame().unwrap() else {
            panic!("no answers");
        };
        let before = self.world.settled;
        for (number, answer) in answers {
            self.world.answer(&there(), number, answer);
        }
        assert!(self.world.settled > before);
        let acknowledge = Command::Acknowledge {
            channel: CHANNEL,
            tag: self.world.settled,
            multiple: true,
        };
        command(&mut self.source, acknowledge);
    }
}

/// Deliveries as a socket gives them, each read with whole messages.
fn deliveries(messages: usize, body_bytes: usize) -> Vec<Bytes> {
    let body = vec![7; body_bytes];
    let mut reads = Vec::new();
    // So much that each body is copied once in here.
    let mut read = BytesMut::with_capacity(messages * (body_bytes + 512));
    for number in 1..=messages {
        let mut properties = Properties {
            message_id: Some(Bytes::from(format!("m{number:06}"))),
            delivery_mode: Some(2),
            ..Properties::default()
        };
        properties.headers_mut().set("uid", FieldValue::I32(70));
        let properties = RawProperties::of(&properties).unwrap();
        let to = ("orders", "order.created");
        put_delivery(&mut read, number as u64, to, &properties, &body);
        if number % AT_ONCE == 0 || number == messages {
            reads.push(read.split().freeze());
        }
    }
    reads
}
