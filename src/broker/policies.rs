//! Policies of the broker that endanger setgate's own queues.
//!
//! Owns what counts as dangerous. A queue that may expire, drop or pass on what lies in it loses messages whatever its
//! arguments say: on a quorum queue a policy's `drop-head` wins over the argument `reject-publish`, a `message-ttl` empties
//! both types, and on 4.x a policy's delivery limit wins over the argument.

use super::Management;
use super::management::escape;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Queues of one answer: 100 KiB of it at most.
const PAGE: usize = 500;

/// Pages that are read: a space has a queue per lane and some per lane and unit; beyond this many nobody looks.
const PAGES_MAX: usize = 20;

/// An own queue that may lose messages by a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endangered {
    /// The queue.
    pub queue: String,
    /// What its policy does, and which it is.
    pub cause: String,
}

#[derive(Debug, Deserialize)]
struct Page {
    items: Vec<Item>,
    page_count: usize,
}

#[derive(Debug, Deserialize)]
struct Item {
    name: String,
    #[serde(default)]
    policy: Option<String>,
    #[serde(default)]
    operator_policy: Option<String>,
    /// Of the policy and the operator's together. Absent until the queue has told its statistics for the first time, which
    /// takes a quorum queue some ten seconds.
    #[serde(default)]
    effective_policy_definition: Map<String, Value>,
}

impl Management {
    /// The queues of a vhost under this prefix that a policy endangers.
    pub async fn endangered(&self, vhost: &str, prefix: &str) -> Result<Vec<Endangered>, String> {
        let mut found = Vec::new();
        for number in 1..=PAGES_MAX {
            let path = format!(
                "/api/queues/{}?page={number}&page_size={PAGE}&use_regex=true&name={}&columns=name,policy,operator_policy,effective_policy_definition",
                escape(vhost),
                escape(&format!("^{}", prefix.replace('.', "\\.")))
            );
            let (status, body) = self.ask(&path).await?;
            if status != StatusCode::OK {
                return Err(format!("it answered {status}"));
            }
            let page: Page = serde_json::from_slice(&body)
                .map_err(|error| format!("its answer can't be read: {error}"))?;
            let items = page
                .items
                .iter()
                .filter(|item| item.name.starts_with(prefix));
            found.extend(items.filter_map(judge));
            if number >= page.page_count {
                break;
            }
        }
        Ok(found)
    }
}

fn judge(item: &Item) -> Option<Endangered> {
    let dangers = dangers(&item.effective_policy_definition);
    if dangers.is_empty() {
        return None;
    }
    let by = match (&item.policy, &item.operator_policy) {
        (Some(policy), None) => format!("policy {policy:?}"),
        (None, Some(operator)) => format!("operator policy {operator:?}"),
        (Some(policy), Some(operator)) => {
            format!("policy {policy:?} with operator policy {operator:?}")
        }
        (None, None) => "a policy".to_owned(),
    };
    Some(Endangered {
        queue: item.name.clone(),
        cause: format!("{by} {}", dangers.join(" and ")),
    })
}

/// What of a policy loses messages.
fn dangers(policy: &Map<String, Value>) -> Vec<String> {
    let mut dangers = Vec::new();
    let rejects = policy.get("overflow") == Some(&Value::from("reject-publish"));
    for (name, value) in policy {
        let does = match name.as_str() {
            "message-ttl" => "lets messages expire",
            "expires" => "deletes it while nobody uses it",
            "max-length" | "max-length-bytes" if !rejects => "drops its oldest messages",
            "delivery-limit" => "drops what was given back too often",
            "dead-letter-exchange" => "passes messages on",
            _ => continue,
        };
        dangers.push(format!("{does} ({name}: {value})"));
    }
    dangers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(policy: &str) -> Option<String> {
        let text = format!(
            r#"{{"name": "setgate.t.park", "policy": "p", "operator_policy": null, "effective_policy_definition": {policy}}}"#
        );
        let item: Item = serde_json::from_str(&text).expect("an item");
        judge(&item).map(|endangered| endangered.cause)
    }

    #[test]
    fn what_loses_messages_is_named() {
        for (policy, danger) in [
            (r#"{"message-ttl": 1000}"#, "expire"),
            (r#"{"expires": 1000}"#, "deletes"),
            (r#"{"max-length": 5}"#, "drops its oldest"),
            (
                r#"{"max-length-bytes": 5, "overflow": "drop-head"}"#,
                "drops its oldest",
            ),
            (r#"{"delivery-limit": 20}"#, "given back too often"),
            (r#"{"dead-letter-exchange": "x"}"#, "passes messages on"),
        ] {
            let cause = judged(policy).unwrap_or_default();
            assert!(cause.contains(danger), "{policy}: {cause}");
            assert!(cause.contains("policy \"p\""), "{cause}");
        }
    }

    #[test]
    fn what_loses_nothing_is_no_fault() {
        for policy in [
            "{}",
            r#"{"overflow": "reject-publish"}"#,
            r#"{"max-length": 5, "overflow": "reject-publish"}"#,
            r#"{"ha-mode": "all", "queue-mode": "lazy"}"#,
        ] {
            assert_eq!(judged(policy), None, "{policy}");
        }
        let unknown: Item = serde_json::from_str(r#"{"name": "q"}"#).expect("an item");
        assert_eq!(judge(&unknown), None);
    }
}
