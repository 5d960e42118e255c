//! What each path of the admin endpoint answers.
//!
//! Errors are JSON `{"error", "mend"}` with a 4xx or 5xx status.

use super::question::{Header, Question, QuestionError, answer};
use super::{AdminState, parked};
use crate::gateway::metrics;
use crate::gateway::status::readiness;
use crate::model::{SourceName, UnitId};
use axum::Json;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// A question's body: JSON keys are looked for in message bodies of up to 64 KiB, base64 makes it a third more.
const BODY_BYTES_MAX: usize = 256 << 10;

/// All pages.
pub(super) fn router(state: AdminState, timeout: Duration) -> Router {
    Router::new()
        .route("/metrics", get(metrics_page))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready_page))
        .route("/v1/status", get(status_page))
        .route("/v1/explain", get(explain_query).post(explain_body))
        .fallback(|| async {
            refuse(
                StatusCode::NOT_FOUND,
                "there is no such page",
                "try /metrics, /livez, /readyz, /v1/status, /v1/explain or /v1/parked",
            )
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(
            move |request: Request, next: Next| async move {
                match tokio::time::timeout(timeout, next.run(request)).await {
                    Ok(response) => response,
                    Err(_) => refuse(
                        StatusCode::REQUEST_TIMEOUT,
                        "the request took too long",
                        "send the whole body at once",
                    ),
                }
            },
        ))
        .merge(parked::router())
        .with_state(state)
}

pub(super) fn refuse(status: StatusCode, error: impl Into<String>, mend: &str) -> Response {
    (status, Json(json!({"error": error.into(), "mend": mend}))).into_response()
}

async fn metrics_page(State(state): State<AdminState>) -> Response {
    match state.metrics.text(Instant::now()) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            error.to_string(),
            "report this",
        ),
    }
}

async fn ready_page(State(state): State<AdminState>) -> Response {
    let answer = readiness(&state.status.snapshot());
    let status = if answer.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(answer)).into_response()
}

async fn status_page(State(state): State<AdminState>) -> Response {
    Json(state.status.snapshot()).into_response()
}

/// `GET /v1/explain?source=orders&routing_key=order.cn.created&header=uid=10086`
async fn explain_query(
    State(state): State<AdminState>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Response {
    let mut source = None;
    let mut from = None;
    let mut question = Question::default();
    for (name, value) in pairs {
        match name.as_str() {
            "source" => source = Some(value),
            "routing_key" => question.routing_key = value,
            "from" => from = Some(value),
            "body" => question.body = value.into_bytes(),
            "header" => match value.parse::<Header>() {
                Ok(header) => question.headers.push(header),
                Err(error) => return unfit(&error),
            },
            _ => {
                return refuse(
                    StatusCode::BAD_REQUEST,
                    format!("unknown parameter {name:?}"),
                    "known: source, routing_key, header (several), body, from",
                );
            }
        }
    }
    explained(&state, source.as_deref(), from.as_deref(), question)
}

/// The same question as JSON; header values keep their types.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    source: String,
    #[serde(default)]
    routing_key: String,
    #[serde(default)]
    headers: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    body_base64: Option<String>,
    #[serde(default)]
    from: Option<String>,
}

async fn explain_body(State(state): State<AdminState>, body: axum::body::Bytes) -> Response {
    let asked: Asked = match serde_json::from_slice(&body) {
        Ok(asked) => asked,
        Err(error) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                format!("the question is no JSON that can be read: {error}"),
                r#"send {"source": "…", "routing_key": "…", "headers": {…}}"#,
            );
        }
    };
    let mut question = Question {
        routing_key: asked.routing_key,
        ..Question::default()
    };
    for (name, value) in &asked.headers {
        match Header::from_json(name, value) {
            Ok(header) => question.headers.push(header),
            Err(error) => return unfit(&error),
        }
    }
    question.body = match (asked.body, asked.body_base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(text)) => {
            use base64::Engine as _;
            match base64::engine::general_purpose::STANDARD.decode(&text) {
                Ok(bytes) => bytes,
                Err(error) => {
                    return refuse(
                        StatusCode::BAD_REQUEST,
                        format!("body_base64: {error}"),
                        "send standard base64, padded",
                    );
                }
            }
        }
        (None, None) => Vec::new(),
        (Some(_), Some(_)) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                "body and body_base64 exclude each other",
                "send one of them",
            );
        }
    };
    explained(&state, Some(&asked.source), asked.from.as_deref(), question)
}

fn explained(
    state: &AdminState,
    source: Option<&str>,
    from: Option<&str>,
    question: Question,
) -> Response {
    let Some(table) = (state.table)() else {
        return refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "no routing table is in force yet",
            "see /readyz for the reason",
        );
    };
    let source = match source.map(SourceName::parse) {
        Some(Ok(source)) => source,
        Some(Err(error)) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                format!("source: {error}"),
                "name a source",
            );
        }
        None => {
            return refuse(
                StatusCode::BAD_REQUEST,
                "source is missing",
                "name a source",
            );
        }
    };
    let from = match from.map(UnitId::parse).transpose() {
        Ok(from) => from.unwrap_or_else(|| state.unit.clone()),
        Err(error) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                format!("from: {error}"),
                "name a unit",
            );
        }
    };
    match answer(&table, &source, &from, question) {
        Ok(explanation) => Json(explanation).into_response(),
        Err(error) => unfit(&error),
    }
}

fn unfit(error: &QuestionError) -> Response {
    refuse(StatusCode::BAD_REQUEST, error.to_string(), error.mend())
}
