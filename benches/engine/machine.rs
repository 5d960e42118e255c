//! The pure machine alone: bytes prepared beforehand go in, bytes that nobody writes come out.

use super::scripted::{
    CHANNEL, CONSUMER_TAG, answer, command, method_frame, opened, output, put_delivery,
};
use super::template::Template;
use super::{ACKNOWLEDGED_AT_ONCE, BODY_BYTES, IN_FLIGHT_MAX, PREFETCH, QUEUE};
use bytes::{BufMut, Bytes, BytesMut};
use setgate::amqp::FieldTable;
use setgate::amqp::engine::{
    Command, Content, Destination, Engine, Event, Input, Outcome, PublishId,
};
use std::time::Duration;
use tokio::time::Instant;

/// Some 22 MB of frames; several times what a processor's caches hold.
const MESSAGES: u64 = 20_000;
const ROUNDS: usize = 7;

/// What the shell reads at once.
const READ_BYTES: usize = 64 * 1024;

/// Publishes between two writes, and confirms in one read.
const AT_ONCE: u64 = 64;

const GOAL_NANOS: f64 = 1_000.0;

/// Prints what a message takes, each way.
pub(super) fn measure() {
    println!(
        "The pure machine alone, {MESSAGES} messages of {BODY_BYTES} bytes, median of {ROUNDS} (ns of CPU per message; goal: \
         below {GOAL_NANOS:.0} each way)"
    );
    let reads = deliveries();
    for (name, nanos) in [
        (
            "deliveries in, acknowledgements out",
            median(|| take(&reads)),
        ),
        (
            "publishes out, confirms in, one each",
            median(|| publish(1)),
        ),
        ("publishes out, confirms in, by 16", median(|| publish(16))),
    ] {
        let met = if nanos < GOAL_NANOS { "met" } else { "NOT met" };
        println!("  {name:<38} {nanos:>6.0} ns  {met}");
    }
}

fn median(once: impl Fn() -> Duration) -> f64 {
    let nanos = |time: Duration| time.as_secs_f64() * 1e9 / MESSAGES as f64;
    super::median((0..ROUNDS).map(|_| nanos(once())).collect())
}

fn take(reads: &[Bytes]) -> Duration {
    let now = Instant::now().into_std();
    let mut engine = opened(now);
    command(
        &mut engine,
        Command::Qos {
            channel: CHANNEL,
            prefetch: PREFETCH,
        },
    );
    answer(&mut engine, (60, 11), &[]);
    command(
        &mut engine,
        Command::Consume {
            channel: CHANNEL,
            queue: Bytes::from_static(QUEUE.as_bytes()),
            exclusive: false,
            arguments: FieldTable::new(),
        },
    );
    answer(&mut engine, (60, 21), CONSUMER_TAG);
    let (mut taken, mut written) = (0, 0);
    let begun = super::cpu_time();
    for read in reads {
        engine.handle(Input::Bytes(read.clone()), now);
        while let Some(event) = engine.next_event() {
            let Event::Delivered {
                delivered, body, ..
            } = event
            else {
                panic!("{event:?}");
            };
            assert_eq!(body.map(|body| body.len()), Some(BODY_BYTES));
            taken += 1;
            if delivered.tag % ACKNOWLEDGED_AT_ONCE == 0 {
                let acknowledge = Command::Acknowledge {
                    channel: CHANNEL,
                    tag: delivered.tag,
                    multiple: true,
                };
                engine.handle(Input::Command(acknowledge), now);
            }
        }
        written += output(&mut engine);
    }
    let took = super::cpu_time().saturating_sub(begun);
    assert_eq!(taken, MESSAGES);
    assert!(written > 0);
    took
}

fn publish(confirmed_at_once: u64) -> Duration {
    let now = Instant::now().into_std();
    let mut engine = opened(now);
    command(&mut engine, Command::ConfirmSelect { channel: CHANNEL });
    answer(&mut engine, (85, 11), &[]);
    let confirms = confirms(confirmed_at_once);
    let template = Template::new();
    let to = Destination {
        exchange: Bytes::new(),
        routing_key: Bytes::from_static(QUEUE.as_bytes()),
        mandatory: true,
    };
    let body = Bytes::from(vec![b'x'; BODY_BYTES]);
    let mut confirms = confirms.into_iter();
    let (mut confirmed, mut written) = (0u64, 0);
    let begun = super::cpu_time();
    for number in 0..MESSAGES {
        let publish = Command::Publish {
            channel: CHANNEL,
            id: PublishId(number),
            to: to.clone(),
            properties: template.of(number),
            content: Content::Whole(body.clone()),
        };
        engine.handle(Input::Command(publish), now);
        if (number + 1) % AT_ONCE == 0 {
            written += output(&mut engine);
            if number >= IN_FLIGHT_MAX as u64 {
                engine.handle(Input::Bytes(confirms.next().unwrap()), now);
                confirmed += outcomes(&mut engine);
            }
        }
    }
    written += output(&mut engine);
    for read in confirms {
        engine.handle(Input::Bytes(read), now);
        confirmed += outcomes(&mut engine);
    }
    let took = super::cpu_time().saturating_sub(begun);
    assert_eq!(confirmed, MESSAGES);
    assert!(written > BODY_BYTES * usize::try_from(MESSAGES).unwrap());
    took
}

fn outcomes(engine: &mut Engine) -> u64 {
    let mut confirmed = 0;
    while let Some(event) = engine.next_event() {
        let Event::Outcome {
            outcome: Outcome::Confirmed,
            ..
        } = event
        else {
            panic!("{event:?}");
        };
        confirmed += 1;
    }
    confirmed
}

/// All deliveries, in the pieces that a socket gives, whatever stands at their borders.
fn deliveries() -> Vec<Bytes> {
    let template = Template::new();
    let mut stream = BytesMut::new();
    for number in 0..MESSAGES {
        let to = ("", QUEUE);
        let properties = template.of(number);
        put_delivery(
            &mut stream,
            number + 1,
            to,
            &properties,
            &[b'x'; BODY_BYTES],
        );
    }
    stream
        .chunks(READ_BYTES)
        .map(Bytes::copy_from_slice)
        .collect()
}

/// Confirms of all publishes, so many by each: in reads of [`AT_ONCE`] publishes.
fn confirms(at_once: u64) -> Vec<Bytes> {
    let mut reads = Vec::new();
    let mut read = BytesMut::new();
    for number in (at_once..=MESSAGES).step_by(usize::try_from(at_once).unwrap()) {
        let mut arguments = BytesMut::new();
        arguments.put_u64(number);
        arguments.put_u8(u8::from(at_once > 1));
        read.put_slice(&method_frame(CHANNEL.0, (60, 80), &arguments));
        if number % AT_ONCE == 0 || number == MESSAGES {
            reads.push(std::mem::take(&mut read).freeze());
        }
    }
    reads
}
