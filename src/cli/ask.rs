//! Asking gateways over their admin endpoints, and etcd where those are.
//!
//! Promises that every question ends within a time-out, whatever answers on the port.

use super::failure::Failure;
use crate::etcd::{Scope, SpaceView, Store};
use crate::gateway::status::{Asked, GatewayStatus};
use crate::model::{GatewayId, UnitId};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use secrecy::{ExposeSecret as _, SecretString};
use std::collections::BTreeSet;
use std::time::Duration;

/// A gateway answers from memory; across a continent, with a handshake, in less than a second.
const PATIENCE: Duration = Duration::from_secs(3);
/// A gateway that reads whole queues ends by itself within 75 s.
const COMMAND_PATIENCE: Duration = Duration::from_secs(90);
/// A status of a thousand lanes is some 300 KiB.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Questions under way at once.
const AT_ONCE: usize = 32;

/// A gateway and where to ask it.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) unit: UnitId,
    pub(super) gateway: GatewayId,
    /// `host:port`, or why there is none.
    pub(super) admin: Result<String, String>,
}

/// All gateways of a space: those that hold a lease, and those that are registered and don't.
pub(super) async fn gateways(store: &Store) -> Result<Vec<Known>, Failure> {
    let snapshot = store.read(Scope::Registrations).await?;
    let mut found = BTreeSet::new();
    let mut known = Vec::new();
    for (unit, gateways) in SpaceView::of(&snapshot).gateways() {
        for (gateway, record) in gateways {
            found.insert((unit.clone(), gateway.clone()));
            known.push(Known {
                unit: unit.clone(),
                gateway,
                admin: Ok(record.admin),
            });
        }
    }
    for (key, _) in snapshot.under("members/") {
        let Some((unit, gateway)) = key.split_once('/') else {
            continue;
        };
        let (Ok(unit), Ok(gateway)) = (UnitId::parse(unit), GatewayId::parse(gateway)) else {
            continue;
        };
        if !found.contains(&(unit.clone(), gateway.clone())) {
            let admin =
                Err("it holds no lease in etcd: not running, or cut off from it".to_owned());
            known.push(Known {
                unit,
                gateway,
                admin,
            });
        }
    }
    known.sort_by(|a, b| (&a.unit, &a.gateway).cmp(&(&b.unit, &b.gateway)));
    Ok(known)
}

/// Asks all of them for their status.
pub(super) async fn statuses(known: Vec<Known>) -> Vec<Asked> {
    stream::iter(known)
        .map(|one| async move {
            let answer = match &one.admin {
                Ok(admin) => status(admin).await,
                Err(cause) => Err(cause.clone()),
            };
            Asked {
                unit: one.unit,
                gateway: one.gateway,
                answer,
            }
        })
        .buffered(AT_ONCE)
        .collect()
        .await
}

async fn status(admin: &str) -> Result<GatewayStatus, String> {
    let (code, body) = send(Method::GET, admin, "/v1/status", Bytes::new()).await?;
    if code != StatusCode::OK {
        return Err(format!("http://{admin}/v1/status answered {code}"));
    }
    serde_json::from_slice(&body)
        .map_err(|error| format!("http://{admin}/v1/status: no status that can be read: {error}"))
}

/// Sends a question and reads its answer, bounded in time and size.
pub(super) async fn send(
    method: Method,
    admin: &str,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), String> {
    exchange(method, admin, path, body, None, PATIENCE).await
}

/// Has a gateway do something that takes a while, with its token.
pub(super) async fn command(
    method: Method,
    admin: &str,
    path: &str,
    body: Bytes,
    token: Option<&SecretString>,
) -> Result<(StatusCode, Bytes), String> {
    exchange(method, admin, path, body, token, COMMAND_PATIENCE).await
}

async fn exchange(
    method: Method,
    admin: &str,
    path: &str,
    body: Bytes,
    token: Option<&SecretString>,
    patience: Duration,
) -> Result<(StatusCode, Bytes), String> {
    let url = format!("http://{admin}{path}");
    let mut request = Request::builder()
        .method(method)
        .uri(&url)
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        let bearer = format!("Bearer {}", token.expose_secret());
        let mut bearer = HeaderValue::try_from(bearer)
            .map_err(|_| "the token can't stand in a header; check its file".to_owned())?;
        bearer.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, bearer);
    }
    let request = request
        .body(Full::new(body))
        .map_err(|error| format!("{url}: {error}"))?;
    let exchange = async {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(PATIENCE));
        let client = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector);
        let answer = client
            .request(request)
            .await
            .map_err(|error| deepest(&error))?;
        let code = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await;
        body.map(|body| (code, body.to_bytes()))
            .map_err(|error| error.to_string())
    };
    match tokio::time::timeout(patience, exchange).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(cause)) => Err(format!("no answer from {url}: {cause}")),
        Err(_) => Err(format!(
            "no answer from {url} within {}s",
            patience.as_secs()
        )),
    }
}

/// A client's error says "client error"; what a person needs stands in its sources.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
