//! Plain HTTP to the lab's own processes: RabbitMQ's management API, etcd's health, a gateway's admin endpoint.

use super::LabError;
use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::fmt::Write as _;
use std::time::Duration;

/// One request; declaring a hundred queues in a loaded broker takes seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// An answer; the definitions of a lab are some 100 KiB.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// User and password.
#[derive(Debug, Clone, Copy)]
pub struct Login<'a> {
    /// The user.
    pub user: &'a str,
    /// Its password, a throw-away one.
    pub password: &'a str,
}

/// A client; cheap to make.
#[derive(Debug)]
pub struct HttpClient {
    inner: Client<HttpConnector, Full<Bytes>>,
}

impl Default for HttpClient {
    fn default() -> Self {
        Self::new()
    }
}

impl HttpClient {
    /// A client without connections yet.
    pub fn new() -> Self {
        Self {
            inner: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// Gets a body, whatever the status.
    pub async fn get(
        &self,
        url: &str,
        login: Option<Login<'_>>,
    ) -> Result<(StatusCode, Bytes), LabError> {
        let sent = self.send(&Method::GET, url, login, None).await;
        sent.map_err(|cause| LabError::Http {
            method: "GET",
            url: url.to_owned(),
            cause,
        })
    }

    /// Gets JSON; any status but a success is an error.
    pub async fn get_json(&self, url: &str, login: Option<Login<'_>>) -> Result<Value, LabError> {
        let fault = |cause| LabError::Http {
            method: "GET",
            url: url.to_owned(),
            cause,
        };
        let (status, body) = self.get(url, login).await?;
        if !status.is_success() {
            return Err(fault(format!(
                "{status}: {}",
                String::from_utf8_lossy(&body)
            )));
        }
        serde_json::from_slice(&body).map_err(|error| fault(error.to_string()))
    }

    /// Puts a resource.
    pub async fn put(&self, url: &str, login: Login<'_>, body: &Value) -> Result<(), LabError> {
        self.change("PUT", &Method::PUT, url, login, Some(body))
            .await
    }

    /// Posts a document.
    pub async fn post(&self, url: &str, login: Login<'_>, body: &Value) -> Result<(), LabError> {
        self.change("POST", &Method::POST, url, login, Some(body))
            .await
    }

    /// Posts a question and gives its answer.
    pub async fn ask(&self, url: &str, login: Login<'_>, body: &Value) -> Result<Value, LabError> {
        let fault = |cause| LabError::Http {
            method: "POST",
            url: url.to_owned(),
            cause,
        };
        let sent = self.send(&Method::POST, url, Some(login), Some(body)).await;
        let (status, answer) = sent.map_err(fault)?;
        if !status.is_success() {
            let text = String::from_utf8_lossy(&answer);
            return Err(fault(format!("{status}: {text}")));
        }
        serde_json::from_slice(&answer).map_err(|error| fault(error.to_string()))
    }

    /// Deletes a resource; one that isn't there is fine.
    pub async fn delete(&self, url: &str, login: Login<'_>) -> Result<(), LabError> {
        self.change("DELETE", &Method::DELETE, url, login, None)
            .await
    }

    async fn change(
        &self,
        name: &'static str,
        method: &Method,
        url: &str,
        login: Login<'_>,
        body: Option<&Value>,
    ) -> Result<(), LabError> {
        let fault = |cause| LabError::Http {
            method: name,
            url: url.to_owned(),
            cause,
        };
        let sent = self.send(method, url, Some(login), body).await;
        let (status, answer) = sent.map_err(fault)?;
        let absent = *method == Method::DELETE && status == StatusCode::NOT_FOUND;
        if status.is_success() || absent {
            return Ok(());
        }
        Err(fault(format!(
            "{status}: {}",
            String::from_utf8_lossy(&answer)
        )))
    }

    async fn send(
        &self,
        method: &Method,
        url: &str,
        login: Option<Login<'_>>,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Bytes), String> {
        let mut request = Request::builder().method(method).uri(url);
        if let Some(login) = login {
            let plain = format!("{}:{}", login.user, login.password);
            let encoded = base64::engine::general_purpose::STANDARD.encode(plain);
            request = request.header(header::AUTHORIZATION, format!("Basic {encoded}"));
        }
        let body = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        let request = request
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let answer = self
                .inner
                .request(request)
                .await
                .map_err(|error| causes(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), BODY_BYTES_MAX)
                .collect()
                .await;
            Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
        };
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }
}

/// hyper's own text says "client error (Connect)"; the reason is in its sources.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Percent-encodes one segment of a URL's path.
pub fn encode(segment: &str) -> String {
    let mut text = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}
