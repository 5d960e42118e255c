//! Changes of a space as they come.
//!
//! Promises that what one call returns is made of whole revisions: a transaction's keys never appear in part. etcd itself
//! gives that as long as no fragments are asked for, which is why none are; an answer above the size limit ends the watch,
//! and its owner lists again.

use super::error::{Asked, EtcdError};
use super::snapshot::{Changes, Entry};
use crate::model::Revision;
use etcd_client::{EventType, WatchResponse, WatchStream};

/// A running watch.
pub struct Watch {
    stream: WatchStream,
    asked: Asked,
}

/// Why a watch is over.
#[derive(Debug, thiserror::Error)]
pub enum WatchEnd {
    /// The revisions asked for are gone: list again, then watch.
    #[error("etcd has compacted its history up to revision {0}")]
    Compacted(Revision),
    /// The endpoint or the stream failed: connect anew.
    #[error(transparent)]
    Failed(EtcdError),
}

impl Watch {
    pub(super) fn new(stream: WatchStream, asked: Asked) -> Self {
        Self { stream, asked }
    }

    /// The next changes. Progress notices are passed over. Cancel-safe: nothing is taken from the stream before it is
    /// whole.
    pub async fn next(&mut self) -> Result<Changes, WatchEnd> {
        loop {
            let doing = "watching the space's keys";
            let response = self.stream.message().await;
            let response = response.map_err(|e| WatchEnd::Failed(self.asked.error(doing, &e)))?;
            let Some(response) = response else {
                return Err(WatchEnd::Failed(self.ended(doing, "the stream ended")));
            };
            if response.compact_revision() > 0 {
                return Err(WatchEnd::Compacted(Revision(response.compact_revision())));
            }
            if response.canceled() {
                let reason = response.cancel_reason();
                let reason = if reason.is_empty() {
                    "cancelled without a reason"
                } else {
                    reason
                };
                return Err(WatchEnd::Failed(self.ended(doing, reason)));
            }
            if let Some(changes) = changes(&response, &self.asked.prefix) {
                return Ok(changes);
            }
        }
    }

    fn ended(&self, doing: &'static str, cause: &str) -> EtcdError {
        if cause.contains("permission denied") {
            return EtcdError::Forbidden {
                endpoint: self.asked.endpoint.clone(),
                doing,
                prefix: self.asked.prefix.clone(),
            };
        }
        EtcdError::Unreachable {
            endpoint: self.asked.endpoint.clone(),
            doing,
            cause: cause.to_owned(),
        }
    }
}

fn changes(response: &WatchResponse, prefix: &str) -> Option<Changes> {
    let mut newest = 0;
    let mut changes = Vec::with_capacity(response.events().len());
    for event in response.events() {
        let Some(kv) = event.kv() else { continue };
        newest = newest.max(kv.mod_revision());
        let key = String::from_utf8_lossy(kv.key());
        let Some(below) = key.strip_prefix(prefix) else {
            continue;
        };
        let entry = match event.event_type() {
            EventType::Put => Some(Entry {
                value: kv.value().to_vec(),
                mod_revision: Revision(kv.mod_revision()),
            }),
            EventType::Delete => None,
        };
        changes.push((below.to_owned(), entry));
    }
    if changes.is_empty() {
        return None;
    }
    Some(Changes {
        revision: Revision(newest),
        changes,
    })
}
