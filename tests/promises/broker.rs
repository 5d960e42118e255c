//! An application at a broker, which sends and gets properties as bytes.

use crate::harness::{DEADLINE, eventually};
use bytes::Bytes;
use setgate::amqp::{FieldTable, FieldValue, Properties, RawProperties};
use setgate::lab::raw::{RawClient, RawConfirm, RawError, RawMessage};
use setgate::model::{MessageId, SealKeys};
use tokio::task::block_in_place;

/// A message as an application sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Received {
    pub(crate) exchange: Bytes,
    pub(crate) routing_key: Bytes,
    pub(crate) properties: Properties,
    pub(crate) body: Bytes,
}

impl Received {
    fn read(raw: RawMessage) -> Self {
        Self {
            exchange: raw.exchange,
            routing_key: raw.routing_key,
            properties: Properties::decode(raw.properties).unwrap(),
            body: raw.body,
        }
    }

    /// A header's text.
    pub(crate) fn text(&self, header: &str) -> Option<String> {
        let bytes = self.properties.header(header)?.as_bytes()?;
        Some(String::from_utf8(bytes.to_vec()).unwrap())
    }

    /// The units of `x-set-path`.
    pub(crate) fn path(&self) -> Vec<String> {
        let Some(FieldValue::Array(path)) = self.properties.header("x-set-path") else {
            return Vec::new();
        };
        let text = |unit: &FieldValue| String::from_utf8(unit.as_bytes().unwrap().to_vec());
        path.iter().map(|unit| text(unit).unwrap()).collect()
    }

    /// Whether its marks are under a seal that holds.
    pub(crate) fn is_sealed(&self, seal: &SealKeys, id: Option<&MessageId>) -> bool {
        let properties = RawProperties::of(&self.properties).unwrap();
        seal.holds(id, &properties, &self.body)
    }

    pub(crate) fn body_text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }
}

/// Properties with these headers alone.
pub(crate) fn headers<const N: usize>(entries: [(&str, FieldValue); N]) -> Properties {
    let entries = entries.map(|(name, value)| (Bytes::copy_from_slice(name.as_bytes()), value));
    Properties {
        headers: Some(FieldTable::from_iter(entries)),
        ..Properties::default()
    }
}

/// Properties with the header `uid` alone.
pub(crate) fn keyed(uid: u32) -> Properties {
    headers([("uid", FieldValue::str(uid.to_string()))])
}

/// A connection. Its calls block, so the test's runtime needs several threads: the wires between gateways run on it.
pub(crate) struct Broker {
    uri: String,
    client: RawClient,
}

impl Broker {
    pub(crate) fn connect(uri: &str) -> Self {
        let client = block_in_place(|| RawClient::connect(&uri.to_owned().into())).unwrap();
        Self {
            uri: uri.to_owned(),
            client,
        }
    }

    /// Publishes what is routed and confirmed.
    pub(crate) fn publish(
        &mut self,
        exchange: &str,
        key: &str,
        properties: &Properties,
        body: impl AsRef<[u8]>,
    ) {
        let confirm = self.try_publish(exchange, key, properties, body).unwrap();
        assert_eq!(confirm, RawConfirm::Ack);
    }

    pub(crate) fn try_publish(
        &mut self,
        exchange: &str,
        key: &str,
        properties: &Properties,
        body: impl AsRef<[u8]>,
    ) -> Result<RawConfirm, RawError> {
        let properties = properties.encode().unwrap();
        let (exchange, key) = (exchange.as_bytes(), key.as_bytes());
        block_in_place(|| {
            self.client
                .publish(exchange, key, &properties, body.as_ref())
        })
    }

    /// A message of the queue, if there is one now.
    pub(crate) fn try_get(&mut self, queue: &str) -> Result<Option<Received>, RawError> {
        let got = block_in_place(|| self.client.get(queue))?;
        Ok(got.map(Received::read))
    }

    /// The next message of the queue. Waits for both.
    pub(crate) async fn get(&mut self, queue: &str) -> Received {
        let look = async || match self.try_get(queue) {
            Ok(got) => got,
            // It isn't there, or a quorum queue is just being made.
            Err(RawError::Closed {
                code: 404 | 541, ..
            }) => {
                *self = Self::connect(&self.uri.clone());
                None
            }
            Err(error) => panic!("{queue}: {error}"),
        };
        eventually(&format!("a message in {queue}"), DEADLINE, look)
            .await
            .0
    }

    /// The raw client, for what an application shouldn't do.
    pub(crate) fn raw(&mut self) -> &mut RawClient {
        &mut self.client
    }
}
