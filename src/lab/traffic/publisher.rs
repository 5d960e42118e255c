//! One unit's publisher: keyed, numbered messages, each with its confirm.
//!
//! Promises that a message counts as confirmed only when its broker said so, and that what a lost connection left
//! open is never published again: a second copy of ours would look like one of the fabric's.

use super::TrafficError;
use super::client::{Connected, PAUSE_MAX, PAUSE_MIN, connect};
use super::message::{key_text, region, write_body};
use super::run::Shared;
use crate::lab::checker::{KeyIndex, Tag, UnitIndex};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Unconfirmed messages per publisher. A broker that confirms after 50 ms then still takes 10,000 a second.
const UNCONFIRMED_MAX: usize = 500;

/// What one publisher has to do.
pub(super) struct Publisher {
    pub(super) unit: UnitIndex,
    /// Messages left to publish.
    pub(super) left: u64,
    /// Messages a second; 0 = unlimited.
    pub(super) rate: f64,
    pub(super) shared: Arc<Shared>,
}

/// What a publisher's loop wakes up for.
enum Event {
    /// Boxed: a returned message inside is half a KiB.
    Answer(Tag, Box<lapin::Result<Confirmation>>),
    Due,
}

impl Publisher {
    /// Publishes until nothing is left. The first connection is the caller's, so that a broker that isn't there is an
    /// error of the whole run, not a run without messages.
    pub(super) async fn run(mut self, first: Connected) {
        let mut connected = Some(first);
        while self.left > 0 && !self.shared.plan.enough.is_cancelled() {
            let Some(at) = (match connected.take() {
                Some(at) => Some(at),
                None => self.reconnect().await,
            }) else {
                tracing::warn!(unit = %self.name(), left = self.left, "a publisher's broker stays away");
                return;
            };
            match self.publish_through(&at).await {
                Ok(()) => at.close().await,
                Err(error) => tracing::debug!(%error, "a publisher connects anew"),
            }
        }
    }

    fn name(&self) -> &str {
        self.shared.unit_name(self.unit)
    }

    async fn reconnect(&self) -> Option<Connected> {
        let gives_up = Instant::now() + self.shared.plan.away_max;
        let mut pause = PAUSE_MIN;
        while Instant::now() < gives_up && !self.shared.plan.enough.is_cancelled() {
            match connect(self.shared.unit(self.unit)?, "publisher").await {
                Ok(connected) => return Some(connected),
                Err(error) => tracing::debug!(%error, "a publisher's broker is away"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        None
    }

    /// Publishes on one connection until nothing is left, or the connection is lost with what it had open.
    async fn publish_through(&mut self, at: &Connected) -> Result<(), TrafficError> {
        let opening = at.failed("opening a channel");
        let channel = at.connection.create_channel().await.map_err(&opening)?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .map_err(&opening)?;
        let failed = at.failed("publishing");
        let mut unconfirmed = FuturesUnordered::new();
        let mut body = String::new();
        let begun = Instant::now();
        let mut sent = 0u64;
        let enough = &self.shared.plan.enough.clone();
        loop {
            let more = self.left > 0 && !enough.is_cancelled();
            if !more && unconfirmed.is_empty() {
                return Ok(());
            }
            let due = if self.rate > 0.0 {
                begun + Duration::from_secs_f64(sent as f64 / self.rate)
            } else {
                begun
            };
            let may_publish = more && unconfirmed.len() < UNCONFIRMED_MAX;
            let event = tokio::select! {
                biased;
                Some((tag, answer)) = unconfirmed.next() => Event::Answer(tag, Box::new(answer)),
                () = tokio::time::sleep_until(due), if may_publish => Event::Due,
                () = enough.cancelled(), if more => continue,
            };
            match event {
                Event::Answer(tag, answer) => self.note(tag, (*answer).map_err(&failed)?),
                Event::Due => {
                    let key = self.next_key();
                    self.left -= 1;
                    sent += 1;
                    let Some(tag) = self.shared.published(self.unit, key) else {
                        continue;
                    };
                    let publish = self.publish(&channel, tag, &mut body);
                    let confirm = publish.await.map_err(&failed)?;
                    unconfirmed.push(async move { (tag, confirm.await) });
                }
            }
        }
    }

    /// Round robin, each publisher from its own place, so that every key is published in every unit.
    fn next_key(&self) -> KeyIndex {
        let keys = u64::from(self.shared.plan.keys.max(1));
        let key = (self.left + u64::from(self.unit.0)) % keys;
        KeyIndex(u32::try_from(key).unwrap_or(0))
    }

    async fn publish(
        &self,
        channel: &Channel,
        tag: Tag,
        body: &mut String,
    ) -> lapin::Result<PublisherConfirm> {
        let plan = &self.shared.plan;
        let sent = self.shared.micros();
        write_body(body, &self.shared.run, tag, sent, plan.body_bytes);
        let mut headers = FieldTable::default();
        headers.insert(
            short(&plan.header),
            AMQPValue::LongString(key_text(tag.key).into()),
        );
        let properties = BasicProperties::default()
            .with_content_type(short("application/json"))
            .with_delivery_mode(2)
            .with_message_id(short(&uuid::Uuid::now_v7().to_string()))
            .with_headers(headers);
        channel
            .basic_publish(
                short(&plan.exchange),
                short(&plan.routing_key.replace("{region}", region(tag.key))),
                BasicPublishOptions {
                    mandatory: true,
                    immediate: false,
                },
                body.as_bytes(),
                properties,
            )
            .await
    }

    /// A returned message inside a confirm is often another publish's, so it is known by its own body.
    fn note(&self, tag: Tag, answer: Confirmation) {
        let back = match answer {
            Confirmation::Ack(back) => {
                self.shared.confirmed(tag);
                back
            }
            Confirmation::Nack(back) => {
                self.shared.nacked(tag);
                back
            }
            Confirmation::NotRequested => None,
        };
        if let Some(back) = back {
            self.shared.returned(&back.delivery.data);
        }
    }
}

/// Names longer than AMQP's 255 bytes become empty, which the broker answers with an error that names them.
pub(super) fn short(text: &str) -> ShortString {
    ShortString::try_new(text).unwrap_or_default()
}
