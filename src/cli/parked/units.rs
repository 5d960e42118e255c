//! The units of a space, each asked through one of its gateways.

use super::super::ask::{self, Known};
use super::super::failure::Failure;
use super::super::load_config;
use super::super::rules::EtcdArgs;
use crate::etcd::Store;
use crate::gateway::config::RulesFrom;
use crate::model::UnitId;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use hyper::{Method, StatusCode};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// Units asked at once.
const AT_ONCE: usize = 16;

/// A unit and its gateways.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) name: UnitId,
    gateways: Vec<Known>,
}

/// Those that a command is for.
#[derive(Debug)]
pub(super) struct Units {
    pub(super) all: Vec<Unit>,
    tokens: Tokens,
}

/// What gateways know an operator by.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// Of these units.
    pub(super) of: BTreeMap<UnitId, SecretString>,
    /// Of all others.
    pub(super) others: Option<SecretString>,
}

/// What a unit says.
#[derive(Debug)]
pub(super) enum Answer {
    /// It is done; JSON.
    Done(Bytes),
    /// There is no such message.
    Unknown,
    /// Nobody can say now; why, for people.
    Silent(String),
    /// It won't, however often it is asked.
    Refused { text: String },
}

impl Units {
    /// As etcd knows them; without etcd, the unit of the gateway of `--config`.
    pub(super) async fn find(
        etcd: &EtcdArgs,
        only: Option<&UnitId>,
        tokens: Tokens,
    ) -> Result<Self, Failure> {
        let config = etcd.config().map(load_config).transpose()?;
        let known = match &config {
            Some(config) if matches!(config.rules, RulesFrom::Dir(_)) => vec![Known {
                unit: config.unit.clone(),
                gateway: config.gateway.clone(),
                admin: Ok(config.admin.listen.to_string()),
            }],
            Some(_) | None => {
                let (settings, space) = etcd.resolve()?;
                let store = Store::connect(&settings, &space).await?;
                ask::gateways(&store).await?
            }
        };
        let mut all: Vec<Unit> = Vec::new();
        // They come sorted by unit.
        for gateway in known {
            match all.last_mut() {
                Some(unit) if unit.name == gateway.unit => unit.gateways.push(gateway),
                Some(_) | None => all.push(Unit {
                    name: gateway.unit.clone(),
                    gateways: vec![gateway],
                }),
            }
        }
        if let Some(only) = only {
            all.retain(|unit| unit.name == *only);
        }
        match (all.is_empty(), only) {
            (true, Some(only)) => Err(Failure::Refused(format!(
                "unit {only} has no gateway; see `setgate status`"
            ))),
            (true, None) => Err(Failure::Refused(
                "no gateway is registered yet; start one with `setgate run --config gateway.yaml`"
                    .to_owned(),
            )),
            (false, _) => Ok(Self { all, tokens }),
        }
    }

    /// Asks a unit: its gateways one after the other, until one answers.
    pub(super) async fn ask(
        &self,
        unit: &Unit,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Answer, Failure> {
        let body = Bytes::from(body);
        let mut causes = Vec::new();
        for gateway in &unit.gateways {
            let admin = match &gateway.admin {
                Ok(admin) => admin,
                Err(cause) => {
                    causes.push(format!("gateway {}: {cause}", gateway.gateway));
                    continue;
                }
            };
            let of = self.tokens.of.get(&unit.name);
            let token = of.or(self.tokens.others.as_ref());
            match ask::command(method.clone(), admin, path, body.clone(), token).await {
                Ok((StatusCode::OK, body)) => return Ok(Answer::Done(body)),
                Ok((StatusCode::NOT_FOUND, _)) => return Ok(Answer::Unknown),
                Ok((code, body)) => {
                    let text = format!("unit {}: {}", unit.name, said(code, &body));
                    let again = [
                        StatusCode::LOCKED,
                        StatusCode::SERVICE_UNAVAILABLE,
                        StatusCode::GATEWAY_TIMEOUT,
                    ];
                    if !again.contains(&code) {
                        return Ok(Answer::Refused { text });
                    }
                    causes.push(text);
                }
                Err(cause) => causes.push(cause),
            }
        }
        Ok(Answer::Silent(format!(
            "unit {} can't be asked: {}",
            unit.name,
            causes.join("; ")
        )))
    }

    /// Asks all of them, in their order.
    pub(super) async fn ask_all(&self, method: Method, path: &str) -> Result<Vec<Answer>, Failure> {
        let answers: Vec<Result<Answer, Failure>> = stream::iter(&self.all)
            .map(|unit| self.ask(unit, method.clone(), path, Vec::new()))
            .buffered(AT_ONCE)
            .collect()
            .await;
        answers.into_iter().collect()
    }
}

/// A gateway's refusal, with its mend.
fn said(code: StatusCode, body: &[u8]) -> String {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    match (json["error"].as_str(), json["mend"].as_str()) {
        (Some(error), Some(mend)) => format!("{error}; {mend}"),
        (_, _) => format!("its gateway answered {code}"),
    }
}

/// Reads what a unit answered.
pub(super) fn read<T: DeserializeOwned>(answer: &[u8], unit: &Unit) -> Result<T, Failure> {
    serde_json::from_slice(answer).map_err(|error| {
        Failure::Refused(format!(
            "unit {} answers what can't be read: {error}; its gateway may be of another version",
            unit.name
        ))
    })
}
