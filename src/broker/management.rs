//! RabbitMQ's management API, as far as a gateway asks it.
//!
//! Plain HTTP/1.1, one connection per question, bounded in time and size. Never changes anything, and never shows the
//! password that it sends.

use super::error::BrokerError;
use super::foreign::{ForeignQueue, InspectError, kind};
use super::settings::Settings;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::fmt::Write as _;
use std::time::Duration;
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(5);
/// One queue with all its statistics has about 10 KiB.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Where to ask, and as whom.
#[derive(Debug, Clone)]
pub struct Management {
    urls: Vec<String>,
    user: String,
    password: SecretString,
}

/// What is read of a queue; everything else in the answer is statistics.
#[derive(Debug, Deserialize)]
struct Queue {
    #[serde(rename = "type")]
    kind: Option<String>,
    durable: bool,
    #[serde(default)]
    arguments: serde_json::Map<String, serde_json::Value>,
}

impl Management {
    /// Asks these addresses in turn, with the user and password of the broker's settings.
    pub fn new(urls: Vec<String>, settings: &Settings) -> Result<Self, BrokerError> {
        let (user, password) = settings.credentials()?;
        Ok(Self {
            urls,
            user,
            password,
        })
    }

    pub(super) async fn queue(
        &self,
        vhost: &str,
        queue: &str,
    ) -> Result<ForeignQueue, InspectError> {
        let path = format!("/api/queues/{}/{}", escape(vhost), escape(queue));
        match self.ask(&path).await {
            Ok((StatusCode::OK, body)) => {
                read(queue, &body).map_err(|text| InspectError::Unclear {
                    queue: queue.to_owned(),
                    text,
                })
            }
            // The one other answer that is handed on.
            Ok(_) => Err(InspectError::NotFound {
                queue: queue.to_owned(),
                vhost: vhost.to_owned(),
            }),
            Err(cause) => Err(InspectError::Management {
                queue: queue.to_owned(),
                cause,
            }),
        }
    }

    /// Asks the addresses in turn, until one says that it has the answer or that there is none.
    pub(super) async fn ask(&self, path: &str) -> Result<(StatusCode, Bytes), String> {
        let mut causes = Vec::new();
        for url in &self.urls {
            match tokio::time::timeout(TIMEOUT, self.get(url, path)).await {
                Ok(Ok(answer @ (StatusCode::OK | StatusCode::NOT_FOUND, _))) => return Ok(answer),
                Ok(Ok((StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _))) => {
                    causes.push(format!(
                        "{url} refused user {:?}; give the user the tag management",
                        self.user
                    ));
                }
                Ok(Ok((status, _))) => causes.push(format!("{url} answered {status}")),
                Ok(Err(cause)) => causes.push(format!("{url}: {cause}")),
                Err(_) => causes.push(format!("{url}: no answer within {} s", TIMEOUT.as_secs())),
            }
        }
        if causes.is_empty() {
            causes.push("broker.management names no address".to_owned());
        }
        Err(causes.join("; "))
    }

    async fn get(&self, url: &str, path: &str) -> Result<(StatusCode, Bytes), String> {
        let url: Uri = url
            .trim_end_matches('/')
            .parse()
            .map_err(|error| format!("it is no URL: {error}"))?;
        if url.scheme_str() != Some("http") {
            return Err("only http:// is supported for broker.management".to_owned());
        }
        let host = url.host().ok_or("it names no host")?;
        let port = url.port_u16().unwrap_or(15_672);
        let stream = TcpStream::connect((host, port))
            .await
            .map_err(|error| error.to_string())?;
        let login = format!("{}:{}", self.user, self.password.expose_secret());
        let login = format!("Basic {}", STANDARD.encode(login));
        let mut authorization = HeaderValue::try_from(login).map_err(|error| error.to_string())?;
        authorization.set_sensitive(true);
        let request = Request::get(format!("{}{path}", url.path().trim_end_matches('/')))
            .header(HOST, format!("{host}:{port}"))
            .header(AUTHORIZATION, authorization)
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let mut exchange = std::pin::pin!(async {
            let response = sender
                .send_request(request)
                .await
                .map_err(|error| error.to_string())?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(|error| error.to_string())?;
            Ok((status, body.to_bytes()))
        });
        tokio::select! {
            biased;
            answer = &mut exchange => answer,
            // The connection may end before its last answer is taken from it.
            _ = connection => exchange.await,
        }
    }
}

fn read(queue: &str, body: &[u8]) -> Result<ForeignQueue, String> {
    let found: Queue = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let word = found.kind.as_deref().unwrap_or("classic");
    Ok(ForeignQueue {
        name: queue.to_owned(),
        kind: kind(word.as_bytes()).ok_or_else(|| word.to_owned())?,
        single_active_consumer: found.arguments.get("x-single-active-consumer")
            == Some(&serde_json::Value::Bool(true)),
        durable: found.durable,
    })
}

/// One segment of a path.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::ForeignKind;

    #[test]
    fn names_are_escaped_and_answers_read() {
        assert_eq!(escape("/"), "%2F");
        assert_eq!(escape("a b.ü"), "a%20b.%C3%BC");
        let body = br#"{"name":"q","type":"quorum","durable":true,"arguments":{"x-single-active-consumer":true},"messages":3}"#;
        let queue = read("q", body).unwrap();
        assert_eq!(queue.kind, ForeignKind::Quorum);
        assert!(queue.single_active_consumer);
        assert!(read("q", b"<html>").is_err());
    }
}
