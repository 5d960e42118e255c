//! lapin, driven as it likes best: each publish polled once and its future kept, acknowledgements by many.

use super::scripted::TOKEN_HEADER;
use super::{
    ACKNOWLEDGED_AT_ONCE, ACKNOWLEDGED_EVERY, BODY_BYTES, Cost, IN_FLIGHT_MAX, Meter, PREFETCH,
    QUEUE,
};
use futures_util::{StreamExt, poll};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use std::collections::VecDeque;
use std::task::Poll;
use tokio::time::{MissedTickBehavior, interval};

async fn open(uri: &str) -> (Connection, Channel) {
    let connection = Connection::connect(uri, ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

async fn close(connection: Connection) {
    connection.close(200, "done".into()).await.unwrap();
}

/// Makes the queue anew.
pub(super) async fn prepare(uri: String) {
    let (connection, channel) = open(&uri).await;
    let delete = channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default());
    delete.await.unwrap();
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let declare = channel.queue_declare(QUEUE.into(), durable, FieldTable::default());
    declare.await.unwrap();
    close(connection).await;
}

/// How many messages are in it.
pub(super) async fn depth(uri: String) -> u64 {
    let (connection, channel) = open(&uri).await;
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let declare = channel.queue_declare(QUEUE.into(), passive, FieldTable::default());
    let depth = declare.await.unwrap().message_count();
    close(connection).await;
    depth.into()
}

/// Deletes it.
pub(super) async fn remove(uri: String) {
    let (connection, channel) = open(&uri).await;
    let delete = channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default());
    delete.await.unwrap();
    close(connection).await;
}

pub(super) async fn publish(uri: &str, messages: u64) -> Cost {
    let (connection, channel) = open(uri).await;
    let confirms = channel.confirm_select(ConfirmSelectOptions::default());
    confirms.await.unwrap();
    let body = vec![b'x'; BODY_BYTES];
    let options = BasicPublishOptions {
        mandatory: true,
        immediate: false,
    };
    let meter = Meter::begin();
    // Confirms come in order, so waiting for the oldest wakes this task least.
    let mut waiting = VecDeque::with_capacity(IN_FLIGHT_MAX);
    for number in 0..messages {
        let mut headers = FieldTable::default();
        let token = AMQPValue::LongString(format!("{number:016}").into());
        headers.insert(TOKEN_HEADER.into(), token);
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_headers(headers);
        let mut publish =
            Box::pin(channel.basic_publish("".into(), QUEUE.into(), options, &body, properties));
        let first = poll!(&mut publish);
        waiting.push_back(async move {
            let confirm = match first {
                Poll::Ready(confirm) => confirm,
                Poll::Pending => publish.await,
            };
            confirm.unwrap().await.unwrap()
        });
        if waiting.len() == IN_FLIGHT_MAX {
            confirmed(&waiting.pop_front().unwrap().await);
        }
    }
    for confirm in waiting {
        confirmed(&confirm.await);
    }
    let cost = meter.end();
    close(connection).await;
    cost
}

fn confirmed(confirmation: &Confirmation) {
    assert!(matches!(confirmation, Confirmation::Ack(None)));
}

pub(super) async fn consume(uri: &str, messages: u64) -> Cost {
    let (connection, channel) = open(uri).await;
    let meter = Meter::begin();
    let qos = channel.basic_qos(PREFETCH, BasicQosOptions::default());
    qos.await.unwrap();
    let exclusive = BasicConsumeOptions {
        exclusive: true,
        ..BasicConsumeOptions::default()
    };
    let consume = channel.basic_consume(QUEUE.into(), "".into(), exclusive, FieldTable::default());
    let mut deliveries = consume.await.unwrap();
    let mut ticks = interval(ACKNOWLEDGED_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let all = BasicAckOptions { multiple: true };
    let (mut taken, mut waiting, mut last) = (0, 0, None);
    while taken < messages {
        tokio::select! {
            biased;
            delivery = deliveries.next() => {
                let delivery = delivery.unwrap().unwrap();
                assert_eq!(delivery.data.len(), BODY_BYTES);
                taken += 1;
                waiting += 1;
                last = Some(delivery.delivery_tag);
                if waiting < ACKNOWLEDGED_AT_ONCE && taken < messages {
                    continue;
                }
            }
            _ = ticks.tick() => {}
        }
        waiting = 0;
        if let Some(tag) = last.take() {
            channel.basic_ack(tag, all).await.unwrap();
        }
    }
    let cost = meter.end();
    channel.close(200, "done".into()).await.unwrap();
    close(connection).await;
    cost
}
