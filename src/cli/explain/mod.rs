//! `setgate explain`: where a message would go, and why, by a folder, by etcd, or by a running gateway.

mod all;

use super::failure::Failure;
use super::rules::{EtcdArgs, Format};
use super::{ask, block_on, load_config, tables};
use crate::admin::{Header, Question, answer};
use crate::amqp::FieldValue;
use crate::etcd::Store;
use crate::gateway::config::RulesFrom;
use crate::model::{SourceName, UnitId};
use crate::routing::Explanation;
use crate::rules::NotYet;
use anstream::println;
use base64::Engine as _;
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// What an AMQP body that keys are read from may have, and some more.
const BODY_BYTES_MAX: u64 = 128 << 10;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The source that takes the message; with --all, of messages that don't say it.
    #[arg(long, value_name = "NAME", required_unless_present = "all")]
    source: Option<SourceName>,
    /// Its routing key.
    #[arg(long, value_name = "KEY", default_value = "")]
    routing_key: String,
    /// A header: uid=10086 is a string, uid:=10086 an integer, vip:=true a boolean (after := stands JSON).
    #[arg(long, value_name = "NAME=VALUE")]
    header: Vec<Header>,
    /// A file with its body.
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// The unit in which it is published; by default that of --config, or of --live.
    #[arg(long, value_name = "UNIT")]
    from: Option<UnitId>,
    /// Many messages, one JSON object a line: {"source", "from", "routing_key", "headers", "body"}; and a summary.
    #[arg(long, value_name = "FILE.ndjson", conflicts_with_all = ["live", "header", "body", "routing_key"])]
    all: Option<PathBuf>,
    /// By the documents of this folder.
    #[arg(long, value_name = "DIR", conflicts_with = "live")]
    rules: Option<PathBuf>,
    /// By the table that a gateway of this unit runs now; without it and --rules, by what is in force in etcd.
    #[arg(long, value_name = "UNIT")]
    live: Option<UnitId>,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Format,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let explanation = if let (Some(unit), Some(source)) = (&args.live, &args.source) {
        block_on(live(args, source, unit))?
    } else {
        let (table, own) = match &args.rules {
            Some(folder) => {
                let own = args.etcd.config().map(load_config).transpose()?;
                (
                    tables::of_folder(folder, None, NotYet::Warn)?,
                    own.map(|config| config.unit),
                )
            }
            None => in_force(args)?,
        };
        let from = args.from.clone().or(own);
        if let Some(file) = &args.all {
            return all::run(
                file,
                &table,
                args.source.as_ref(),
                from.as_ref(),
                args.output,
            );
        }
        let source = args.source.clone().ok_or_else(|| {
            Failure::Usage("name the source that takes the message: --source NAME".to_owned())
        })?;
        let from = from.ok_or_else(|| {
            Failure::Usage(
                "name the unit in which the message is published: --from UNIT".to_owned(),
            )
        })?;
        answer(&table, &source, &from, question(args)?)
            .map_err(|error| Failure::Refused(format!("{error}; {}", error.mend())))?
    };
    match args.output {
        Format::Text => println!("{explanation}"),
        Format::Json => match serde_json::to_string(&explanation) {
            Ok(text) => println!("{text}"),
            Err(error) => return Err(Failure::Refused(format!("can't write JSON: {error}"))),
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn in_force(args: &Args) -> Result<(crate::routing::Table, Option<UnitId>), Failure> {
    let config = args.etcd.config().map(load_config).transpose()?;
    if let Some(config) = &config
        && let RulesFrom::Dir(folder) = &config.rules
    {
        return Ok((
            tables::of_folder(folder, Some(&config.space), NotYet::Refuse)?,
            Some(config.unit.clone()),
        ));
    }
    let (etcd, space) = args.etcd.resolve()?;
    let table = block_on(async {
        let store = Store::connect(&etcd, &space).await?;
        tables::of_etcd(&store, &space).await
    })?;
    Ok((table, config.map(|config| config.unit)))
}

fn body(args: &Args) -> Result<Vec<u8>, Failure> {
    let Some(path) = &args.body else {
        return Ok(Vec::new());
    };
    let refuse = |why: String| {
        Failure::Refused(format!(
            "can't read the body {}: {why}; check --body",
            path.display()
        ))
    };
    let size = std::fs::metadata(path)
        .map_err(|error| refuse(error.to_string()))?
        .len();
    if size > BODY_BYTES_MAX {
        return Err(refuse(format!(
            "it has {size} bytes, and keys are looked for in bodies of up to 64 KiB"
        )));
    }
    std::fs::read(path).map_err(|error| refuse(error.to_string()))
}

fn question(args: &Args) -> Result<Question, Failure> {
    Ok(Question {
        routing_key: args.routing_key.clone(),
        headers: args.header.clone(),
        body: body(args)?,
    })
}

/// Asks the gateways of a unit in turn; the first answer counts.
async fn live(args: &Args, source: &SourceName, unit: &UnitId) -> Result<Explanation, Failure> {
    let config = args.etcd.config().map(load_config).transpose()?;
    let from = args.from.clone().unwrap_or_else(|| unit.clone());
    let headers: serde_json::Map<_, _> = args
        .header
        .iter()
        .map(|header| (header.name.clone(), plain(&header.value)))
        .collect();
    let asked = json!({
        "source": source,
        "routing_key": args.routing_key,
        "headers": headers,
        "body_base64": base64::engine::general_purpose::STANDARD.encode(body(args)?),
        "from": from,
    });
    let asked = Bytes::from(asked.to_string());
    let admins: Vec<String> = match &config {
        // Its own gateway needs no etcd to be found.
        Some(config) if config.unit == *unit => vec![config.admin.listen.to_string()],
        Some(_) | None => {
            let (etcd, space) = args.etcd.resolve()?;
            let store = Store::connect(&etcd, &space).await?;
            let known = ask::gateways(&store).await?;
            known
                .into_iter()
                .filter(|one| one.unit == *unit)
                .filter_map(|one| one.admin.ok())
                .collect()
        }
    };
    let mut causes = Vec::new();
    for admin in admins {
        match ask::send(Method::POST, &admin, "/v1/explain", asked.clone()).await {
            Ok((StatusCode::OK, body)) => {
                return serde_json::from_slice(&body).map_err(|error| {
                    Failure::Refused(format!("{admin} answered what can't be read: {error}"))
                });
            }
            Ok((StatusCode::BAD_REQUEST, body)) => return Err(Failure::Refused(refusal(&body))),
            Ok((_, body)) => causes.push(format!("{admin}: {}", refusal(&body))),
            Err(cause) => causes.push(cause),
        }
    }
    if causes.is_empty() {
        causes.push("none is registered in etcd".to_owned());
    }
    Err(Failure::Unreachable(format!(
        "no gateway of unit {unit} answers: {}; check that one runs with `setgate status`",
        causes.join("; ")
    )))
}

fn refusal(body: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let word = |name: &str| {
        value
            .get(name)
            .and_then(|word| word.as_str())
            .map(str::to_owned)
    };
    match (word("error"), word("mend")) {
        (Some(error), Some(mend)) => format!("{error}; {mend}"),
        (Some(error), None) => error,
        (None, _) => "an answer that can't be read".to_owned(),
    }
}

/// A header's value as JSON again: what the command line can make, and no more.
fn plain(value: &FieldValue) -> serde_json::Value {
    match value {
        FieldValue::Bool(value) => json!(value),
        FieldValue::I64(value) => json!(value),
        FieldValue::F64(value) => json!(value),
        FieldValue::Str(text) => json!(String::from_utf8_lossy(text)),
        FieldValue::Array(items) => items.iter().map(plain).collect(),
        FieldValue::Table(table) => table
            .iter()
            .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), plain(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        FieldValue::I8(_)
        | FieldValue::U8(_)
        | FieldValue::I16(_)
        | FieldValue::U16(_)
        | FieldValue::I32(_)
        | FieldValue::U32(_)
        | FieldValue::F32(_)
        | FieldValue::Decimal { .. }
        | FieldValue::Timestamp(_)
        | FieldValue::Bytes(_)
        | FieldValue::Void => serde_json::Value::Null,
    }
}
