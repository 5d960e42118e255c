//! `setgate check`: a gateway's configuration and everything that it needs, looked at without changing anything.
//!
//! Certificates, state folder, broker, management API, etcd, routing documents: each is a line, ok or faulty with the
//! mend. Safe beside the running gateway: it opens a connection to the broker and closes it.

use super::failure::Failure;
use super::rules::Format;
use super::{block_on, load_config, tables};
use crate::broker::{Connection, ConnectionState};
use crate::etcd::{EtcdConfig, Store};
use crate::gateway::config::{Config, RulesFrom};
use crate::gateway::{broker_settings, security};
use crate::link::Here;
use crate::rules::NotYet;
use anstream::println;
use serde::Serialize;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A handshake with each of a few nodes, one of which may not answer.
const BROKER_PATIENCE: Duration = Duration::from_secs(15);
/// A TCP handshake.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The gateway's configuration.
    #[arg(long, value_name = "gateway.yaml")]
    config: PathBuf,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Format,
}

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Ok,
    Unreachable,
    Faulty,
}

#[derive(Debug, Serialize)]
struct Line {
    check: &'static str,
    ok: bool,
    found: String,
    mend: String,
    #[serde(skip)]
    verdict: Verdict,
}

impl Line {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            ok: true,
            found: found.into(),
            mend: String::new(),
            verdict: Verdict::Ok,
        }
    }

    /// Errors carry their mend behind the last `; `.
    fn bad(check: &'static str, verdict: Verdict, error: &str) -> Self {
        let (found, mend) = error
            .rsplit_once("; ")
            .unwrap_or((error, "see the manual of this part"));
        Self {
            check,
            ok: false,
            found: found.to_owned(),
            mend: mend.to_owned(),
            verdict,
        }
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let config = load_config(&args.config)?;
    let mut lines = vec![Line::ok("config", args.config.display().to_string())];
    for warning in &config.warnings {
        lines.push(Line::ok("config", format!("warning: {warning}")));
    }
    lines.push(certificates(&config));
    lines.push(state_dir(&config.state_dir));
    block_on(async {
        let (broker, management, rules) =
            tokio::join!(broker(&config), management(&config), rules(&config));
        lines.push(broker);
        lines.extend(management);
        lines.extend(rules);
        Ok(())
    })?;
    let worst = lines
        .iter()
        .map(|line| line.verdict)
        .max()
        .unwrap_or(Verdict::Ok);
    match args.output {
        Format::Text => lines.iter().for_each(print),
        Format::Json => println!("{}", json!({"checks": lines})),
    }
    Ok(match worst {
        Verdict::Ok => ExitCode::SUCCESS,
        Verdict::Faulty => ExitCode::from(1),
        Verdict::Unreachable => ExitCode::from(3),
    })
}

fn print(line: &Line) {
    let Line {
        check, found, mend, ..
    } = line;
    if line.ok {
        println!("\x1b[32mok\x1b[0m      {check:<12} {found}");
    } else {
        println!("\x1b[31mfaulty\x1b[0m  {check:<12} {found}");
        println!("                     mend: {mend}");
    }
}

fn here(config: &Config) -> Here {
    Here {
        space: config.space.clone(),
        unit: config.unit.clone(),
        gateway: config.gateway.clone(),
    }
}

fn certificates(config: &Config) -> Line {
    use crate::gateway::config::LinkSecurity;
    match (&config.link.security, security(&config.link, &here(config))) {
        (LinkSecurity::Insecure, Ok(_)) => Line::ok(
            "certificates",
            "none: `insecure: true`, so whoever reaches the port can inject messages",
        ),
        (LinkSecurity::Tls(_), Ok(_)) => Line::ok(
            "certificates",
            "the link's certificate, key and authority fit and are in time",
        ),
        (_, Err(error)) => Line::bad("certificates", Verdict::Faulty, &error.to_string()),
    }
}

/// The folder, or where it would be made, can be written.
fn state_dir(folder: &Path) -> Line {
    use rustix::fs::{Access, access};
    let existing = folder
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let shown = folder.display();
    if existing.is_dir() && access(existing, Access::WRITE_OK | Access::EXEC_OK).is_ok() {
        let note = if existing == folder {
            ""
        } else {
            ", to be made at the first start"
        };
        return Line::ok("state_dir", format!("{shown}{note}"));
    }
    let error = format!(
        "this user can't write {}, which state_dir {shown} needs; run `install -d -o USER {shown}` as root",
        existing.display()
    );
    Line::bad("state_dir", Verdict::Faulty, &error)
}

async fn broker(config: &Config) -> Line {
    const CHECK: &str = "broker";
    let opened = broker_settings(config, &here(config))
        .and_then(|settings| Connection::new(&settings, None));
    let connection = match opened {
        Ok(connection) => connection,
        Err(error) => return Line::bad(CHECK, Verdict::Faulty, &error.to_string()),
    };
    let cancel = CancellationToken::new();
    let mut states = connection.watch();
    let judge = async {
        let found = tokio::time::timeout(BROKER_PATIENCE, async {
            loop {
                match states.borrow_and_update().clone() {
                    ConnectionState::Up { uri, server, .. } => return Ok((uri, server)),
                    ConnectionState::Down { cause, attempt, .. } if attempt > 0 => {
                        return Err(cause);
                    }
                    ConnectionState::Down { .. } | ConnectionState::Connecting { .. } => {}
                }
                if states.changed().await.is_err() {
                    return Err("the connection was given up".to_owned());
                }
            }
        })
        .await;
        cancel.cancel();
        found
    };
    let (found, ()) = tokio::join!(judge, connection.run(cancel.clone()));
    match found {
        Ok(Ok((uri, server))) => Line::ok(
            CHECK,
            format!("{uri}: {} {}", server.product, server.version),
        ),
        Ok(Err(cause)) => {
            let refused = ["ACCESS_REFUSED", "NOT_ALLOWED", "403", "530"];
            let verdict = if refused.iter().any(|word| cause.contains(word)) {
                Verdict::Faulty
            } else {
                Verdict::Unreachable
            };
            let mend = match verdict {
                Verdict::Faulty => {
                    "check user, password_file and vhost of `broker`, and the user's permissions"
                }
                Verdict::Ok | Verdict::Unreachable => {
                    "check that RabbitMQ listens there and `broker.uris`"
                }
            };
            Line {
                check: CHECK,
                ok: false,
                found: cause,
                mend: mend.to_owned(),
                verdict,
            }
        }
        Err(_) => Line {
            check: CHECK,
            ok: false,
            found: format!("no connection within {}s", BROKER_PATIENCE.as_secs()),
            mend: "check `broker.uris` and what is between here and there".to_owned(),
            verdict: Verdict::Unreachable,
        },
    }
}

/// Whether something listens there; who may read what is known when it is needed.
async fn management(config: &Config) -> Vec<Line> {
    const CHECK: &str = "management";
    let mut lines = Vec::new();
    for url in &config.broker.management {
        let (_, authority) = url.split_once("://").unwrap_or(("", url));
        let connecting = tokio::net::TcpStream::connect(authority);
        let cause = match tokio::time::timeout(CONNECT_PATIENCE, connecting).await {
            Ok(Ok(_)) => {
                lines.push(Line::ok(CHECK, url.clone()));
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {}s", CONNECT_PATIENCE.as_secs()),
        };
        lines.push(Line {
            check: CHECK,
            ok: false,
            found: format!("{url}: {cause}"),
            mend: "run `rabbitmq-plugins enable rabbitmq_management` there, or mend `broker.management`".to_owned(),
            verdict: Verdict::Unreachable,
        });
    }
    lines
}

/// etcd, where the documents come from there, and the documents.
async fn rules(config: &Config) -> Vec<Line> {
    let mut lines = Vec::new();
    let table = match &config.rules {
        RulesFrom::Dir(folder) => tables::of_folder(folder, Some(&config.space), NotYet::Refuse),
        RulesFrom::Etcd(part) => match Store::connect(&EtcdConfig::from(part), &config.space).await
        {
            Ok(store) => {
                lines.push(Line::ok("etcd", store.endpoint().to_owned()));
                tables::of_etcd(&store, &config.space).await
            }
            Err(error) => {
                let verdict = if error.is_unreachable() {
                    Verdict::Unreachable
                } else {
                    Verdict::Faulty
                };
                lines.push(Line::bad("etcd", verdict, &error.to_string()));
                return lines;
            }
        },
    };
    match table {
        Ok(table) if table.unit(&config.unit).is_none() => lines.push(Line::bad(
            "rules",
            Verdict::Faulty,
            &format!(
                "the topology has no unit {}; add it there, or mend `unit`",
                config.unit
            ),
        )),
        Ok(table) => {
            let taken = table.sources_of(&config.unit).count();
            let found = format!(
                "{} units, {} sources, {taken} of them taken in {}",
                table.units().len(),
                table.sources().len(),
                config.unit
            );
            lines.push(Line::ok("rules", found));
        }
        Err(failure) => {
            let verdict = if failure.exit_code() == 3 {
                Verdict::Unreachable
            } else {
                Verdict::Faulty
            };
            lines.extend(
                failure
                    .lines()
                    .iter()
                    .map(|line| Line::bad("rules", verdict, line)),
            );
        }
    }
    lines
}
