//! Parked messages over HTTP: a list for everybody, and for who has the token what is in one, retry and drop.
//!
//! What a message holds is its applications' own, so that showing it needs the token as changes do.

use super::AdminState;
use super::pages::refuse;
use crate::gateway::parked::{BackfillAsk, Filter, ParkError, RetryAsk};
use crate::model::{Reason, RuleName, SourceName};
use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;
use subtle::ConstantTimeEq as _;

/// How many are listed unless the question says otherwise.
pub const LISTED: usize = 1_000;
/// And how many at most: an entry has some 300 bytes.
pub const LISTED_MAX: usize = 10_000;

/// A command reads whole queues; it ends by itself within 50 s, and closes what it has opened.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(75);

/// What is to be dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropAsk {
    /// Which.
    #[serde(default)]
    pub filter: Filter,
    /// How many these are.
    pub count: u64,
}

/// Their pages.
pub(super) fn router() -> Router<AdminState> {
    Router::new()
        .route("/v1/parked", get(list))
        .route("/v1/parked/show", get(show))
        .route("/v1/parked/retry", post(retry))
        .route("/v1/parked/drop", post(drop_all))
        .route("/v1/backfill", post(backfill))
        .layer(middleware::from_fn(
            move |request: Request, next: Next| async move {
                match tokio::time::timeout(COMMAND_TIMEOUT, next.run(request)).await {
                    Ok(response) => response,
                    Err(_) => refuse(
                        StatusCode::GATEWAY_TIMEOUT,
                        "the broker took too long",
                        "see whether it is overloaded, and try again",
                    ),
                }
            },
        ))
}

/// `GET /v1/parked?source=orders&reason=key_absent&rule=…&since=1700000000&id=…&limit=1000`
async fn list(
    State(state): State<AdminState>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Response {
    let mut limit = LISTED;
    let mut filter = Filter::default();
    for (name, value) in pairs {
        let read = match name.as_str() {
            "rule" => parsed(&mut filter.rule, RuleName::parse(&value).ok()),
            "reason" => parsed(&mut filter.reason, Reason::from_word(value.as_bytes())),
            "source" => parsed(&mut filter.source, SourceName::parse(&value).ok()),
            "since" => parsed(&mut filter.since, value.parse().ok()),
            "id" => parsed(&mut filter.id, Some(value.clone())),
            "limit" => value.parse().ok().map(|asked: usize| limit = asked),
            _ => None,
        };
        if read.is_none() {
            return refuse(
                StatusCode::BAD_REQUEST,
                format!("{name}={value} is no filter"),
                "known: source, rule, reason, since (seconds since 1970), id, limit",
            );
        }
    }
    let listed = state.parked.list(filter, limit.min(LISTED_MAX)).await;
    answer(listed.map(Json))
}

fn parsed<T>(place: &mut Option<T>, value: Option<T>) -> Option<()> {
    *place = Some(value?);
    Some(())
}

#[derive(Debug, Deserialize)]
struct ShowAsk {
    id: String,
}

async fn show(
    State(state): State<AdminState>,
    headers: HeaderMap,
    Query(ask): Query<ShowAsk>,
) -> Response {
    if let Err(refused) = allowed(&state, &headers) {
        return *refused;
    }
    match state.parked.show(ask.id).await {
        Ok(None) => refuse(
            StatusCode::NOT_FOUND,
            "no parked message has this id or handle",
            "see `setgate parked list`",
        ),
        shown => answer(shown.map(Json)),
    }
}

async fn retry(State(state): State<AdminState>, headers: HeaderMap, body: Bytes) -> Response {
    if let Err(refused) = allowed(&state, &headers) {
        return *refused;
    }
    match serde_json::from_slice::<RetryAsk>(&body) {
        Ok(ask) => answer(state.parked.retry(ask).await.map(Json)),
        Err(error) => unreadable(&error),
    }
}

async fn backfill(State(state): State<AdminState>, headers: HeaderMap, body: Bytes) -> Response {
    if let Err(refused) = allowed(&state, &headers) {
        return *refused;
    }
    match serde_json::from_slice::<BackfillAsk>(&body) {
        Ok(ask) => answer(state.parked.backfill(ask).await.map(Json)),
        Err(error) => unreadable(&error),
    }
}

async fn drop_all(State(state): State<AdminState>, headers: HeaderMap, body: Bytes) -> Response {
    if let Err(refused) = allowed(&state, &headers) {
        return *refused;
    }
    match serde_json::from_slice::<DropAsk>(&body) {
        Ok(DropAsk { filter, count }) => {
            answer(state.parked.drop_all(filter, count).await.map(Json))
        }
        Err(error) => unreadable(&error),
    }
}

fn unreadable(error: &serde_json::Error) -> Response {
    refuse(
        StatusCode::BAD_REQUEST,
        format!("what is asked is no JSON that can be read: {error}"),
        "send it as `setgate parked` and `setgate sources backfill` do",
    )
}

/// Whether who asks has the gateway's token. Compared in a time that doesn't tell how much of it was right.
fn allowed(state: &AdminState, headers: &HeaderMap) -> Result<(), Box<Response>> {
    let Some(token) = &state.token else {
        return Err(Box::new(refuse(
            StatusCode::FORBIDDEN,
            "this gateway has no token, so nobody may do this",
            "set admin.token_file in its gateway.yaml and restart it",
        )));
    };
    let given = headers.get(header::AUTHORIZATION);
    let given = given.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let token = token.expose_secret().as_bytes();
    if given.is_some_and(|given| bool::from(given.ct_eq(token))) {
        return Ok(());
    }
    Err(Box::new(refuse(
        StatusCode::UNAUTHORIZED,
        "the token is missing or wrong",
        "name the gateway's token: --token-file FILE, or the header `Authorization: Bearer TOKEN`",
    )))
}

fn answer(done: Result<impl IntoResponse, ParkError>) -> Response {
    let error = match done {
        Ok(done) => return done.into_response(),
        Err(error) => error,
    };
    let (status, mend) = match &error {
        ParkError::Busy => (StatusCode::LOCKED, "try again when it has ended"),
        ParkError::NoRules => (
            StatusCode::SERVICE_UNAVAILABLE,
            "see /readyz for the reason",
        ),
        ParkError::Broker(_) => (StatusCode::SERVICE_UNAVAILABLE, "see /v1/status; try again"),
        ParkError::OtherCount { found, .. } => {
            let mend = "look at them with `setgate parked list`, then name the count that is meant";
            let body = json!({"error": error.to_string(), "mend": mend, "found": found});
            return (StatusCode::CONFLICT, Json(body)).into_response();
        }
        ParkError::Refused(_) => (
            StatusCode::CONFLICT,
            "see `setgate rules get` and `setgate status`",
        ),
        ParkError::Fault => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "see the gateway's log, and report this",
        ),
    };
    refuse(status, error.to_string(), mend)
}
