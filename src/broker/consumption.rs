//! Whether applications have consumed what was delivered to an exchange.
//!
//! Promises to look at every queue that is reached by it, over bindings between exchanges too. RabbitMQ's figures lag by
//! some seconds, and say 0 for a quorum queue with a message in hand: one look proves nothing, an unbroken row of them
//! does.

use super::management::{Management, escape};
use http::StatusCode;
use serde::Deserialize;
use std::collections::BTreeSet;

/// Exchanges that are followed from one; more is no topology that a person has made.
const EXCHANGES_MAX: usize = 100;
/// Queues that are looked at, each with a question of its own.
const QUEUES_MAX: usize = 1_000;

#[derive(Debug, Deserialize)]
struct Binding {
    destination: String,
    destination_type: String,
}

#[derive(Debug, Deserialize)]
struct Depth {
    /// Ready and in hand; none until the broker has counted once.
    messages: Option<u64>,
}

impl Management {
    /// Messages, ready and in hand, in all queues that this exchange leads to.
    pub async fn messages_behind(&self, vhost: &str, exchange: &str) -> Result<u64, String> {
        if exchange.is_empty() {
            return Err("what is delivered by the default exchange can't be followed".to_owned());
        }
        let (mut exchanges, mut queues) = (BTreeSet::new(), BTreeSet::new());
        let mut open = vec![exchange.to_owned()];
        while let Some(exchange) = open.pop() {
            if !exchanges.insert(exchange.clone()) {
                continue;
            }
            for Binding {
                destination,
                destination_type,
            } in self.bindings(vhost, &exchange).await?
            {
                match destination_type.as_str() {
                    "queue" => drop(queues.insert(destination)),
                    _ => open.push(destination),
                }
            }
            if exchanges.len() > EXCHANGES_MAX || queues.len() > QUEUES_MAX {
                return Err(format!("exchange {exchange} leads to too many queues"));
            }
        }
        let mut messages = 0;
        for queue in queues {
            messages += self.depth(vhost, &queue).await?;
        }
        Ok(messages)
    }

    async fn bindings(&self, vhost: &str, exchange: &str) -> Result<Vec<Binding>, String> {
        let (vhost, exchange) = (escape(vhost), escape(exchange));
        let path = format!("/api/exchanges/{vhost}/{exchange}/bindings/source");
        match self.ask(&path).await? {
            (StatusCode::OK, body) => serde_json::from_slice(&body)
                .map_err(|error| format!("its answer can't be read: {error}")),
            // One that isn't there leads nowhere.
            _ => Ok(Vec::new()),
        }
    }

    async fn depth(&self, vhost: &str, queue: &str) -> Result<u64, String> {
        let path = format!("/api/queues/{}/{}", escape(vhost), escape(queue));
        match self.ask(&path).await? {
            (StatusCode::OK, body) => {
                let depth: Depth = serde_json::from_slice(&body)
                    .map_err(|error| format!("its answer can't be read: {error}"))?;
                let uncounted = || format!("the broker hasn't counted queue {queue} yet");
                depth.messages.ok_or_else(uncounted)
            }
            _ => Ok(0),
        }
    }
}
