//! Each part of the configuration, read from its fields.
//!
//! A part that is faulty is `None`, and its faults are with the reader; the other parts are read all the same.

use super::address::{BrokerUri, HostPort, check_http_url};
use super::files::{self, Identity};
use super::reader::{Found, Reader, code};
use super::size::{ByteSize, parse_duration};
use super::{
    AdminPart, BrokerPart, Config, EtcdPart, HooksPart, Limits, LinkPart, LinkSecurity, LogFormat,
    LogPart, RulesFrom, Surroundings,
};
use crate::model::{GatewayId, NameError, SpaceId, UnitId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const MEMORY: ByteSize = ByteSize(512 << 20);
/// RabbitMQ 4's own default limit.
const MESSAGE_MAX: ByteSize = ByteSize(16 << 20);
/// RabbitMQ 3.10's limit; no version takes more.
const MESSAGE_MAX_MAX: ByteSize = ByteSize(128 << 20);
const HOPS_MAX: u32 = 4;
const DRAIN: Duration = Duration::from_secs(20);
const DRAIN_MAX: Duration = Duration::from_mins(10);
const ADMIN_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7180);
/// A message, its copy in a batch, its copy in the socket's buffer, and room for another one.
const MESSAGES_IN_MEMORY_MIN: u64 = 4;
const NAME_MEND: &str = "use letters, digits, '-' and '_', at most 64";
const LISTEN_MEND: &str =
    "write ip:port, for example \"127.0.0.1:7100\", or \"0.0.0.0:7100\" for all addresses";

/// Reads everything; `None` when something needed is missing or faulty.
pub(super) fn read(reader: &mut Reader<'_>, around: &Surroundings) -> Option<Config> {
    reader.require(
        "space",
        "name the routing world that the topology describes",
    );
    let space = reader.parsed("space", NAME_MEND, SpaceId::parse);
    reader.require(
        "unit",
        "name the unit of the topology that this gateway serves",
    );
    let unit = reader.parsed("unit", NAME_MEND, UnitId::parse);
    let gateway = gateway(reader, around);
    let rules = rules(reader);
    let broker = broker(reader);
    let link = link(reader);
    let admin = admin(reader);
    let limits = limits(reader);
    let drain = drain(reader);
    let log = log(reader);
    let hooks = HooksPart {
        on_fence: command(reader, "on_fence.exec"),
        on_unfence: command(reader, "on_unfence.exec"),
    };
    refuse_not_yet(reader);
    let state_dir = state_dir(reader, gateway.as_ref());
    Some(Config {
        space: space?,
        unit: unit?,
        gateway: gateway?,
        rules: rules?,
        broker: broker?,
        link: link?,
        admin: admin?,
        state_dir: state_dir?,
        limits: limits?,
        drain: drain?,
        log: log?,
        hooks,
        warnings: Vec::new(),
    })
}

fn gateway(reader: &mut Reader<'_>, around: &Surroundings) -> Option<GatewayId> {
    if reader.has("gateway") {
        return reader.parsed("gateway", NAME_MEND, GatewayId::parse);
    }
    let host = around.host_name.split('.').next().unwrap_or_default();
    match GatewayId::parse(host) {
        Ok(gateway) => Some(gateway),
        Err(error) => {
            let origin = reader.origin("gateway");
            reader.fault(
                &origin,
                code::MISSING,
                format!("`gateway` is missing and the host name {host:?} can't stand in: {error}"),
                "write `gateway: NAME`, unique within the unit",
            );
            None
        }
    }
}

fn rules(reader: &mut Reader<'_>) -> Option<RulesFrom> {
    let mend = "write `rules: etcd`, or `rules: {dir: FOLDER}`";
    if let Some(dir) = reader.text("rules.dir") {
        if reader.has("etcd") {
            reader.warn("`etcd` is not used, because the rules come from a folder");
        }
        let path = reader.resolve(&dir.value);
        if path.is_dir() {
            return Some(RulesFrom::Dir(path));
        }
        reader.fault(
            &dir.origin,
            code::UNREADABLE,
            format!("`rules.dir`: {} is no folder", path.display()),
            "name a folder of routing documents, relative to the configuration",
        );
        return None;
    }
    match reader.text("rules") {
        Some(word) if word.value != "etcd" => {
            reader.fault(
                &word.origin,
                code::BAD_VALUE,
                format!("`rules`: {:?} is no place for rules", word.value),
                mend,
            );
            None
        }
        Some(_) | None => etcd(reader).map(RulesFrom::Etcd),
    }
}

fn etcd(reader: &mut Reader<'_>) -> Option<EtcdPart> {
    let mend =
        "write `etcd: {endpoints: [\"http://127.0.0.1:2379\"]}`, or take `rules: {dir: FOLDER}`";
    reader.require("etcd.endpoints", mend);
    let endpoints = urls(reader, "etcd.endpoints", mend);
    let username = reader.text("etcd.username").map(|found| found.value);
    if username.is_some() {
        reader.require(
            "etcd.password_file",
            "name the file with the password of `etcd.username`",
        );
    } else if reader.has("etcd.password_file") {
        let origin = reader.origin("etcd.password_file");
        reader.fault(
            &origin,
            code::MISSING,
            "`etcd.password_file` is given without `etcd.username`",
            "name the user too",
        );
    }
    let password = files::secret(reader, "etcd.password_file");
    let tls = files::tls(reader, "etcd.tls", Identity::Optional);
    Some(EtcdPart {
        endpoints: endpoints?,
        username,
        password,
        tls,
    })
}

fn urls(reader: &mut Reader<'_>, path: &str, mend: &str) -> Option<Vec<String>> {
    let list = reader.list(path)?;
    if list.value.is_empty() {
        reader.fault(
            &list.origin,
            code::MISSING,
            format!("`{path}` is empty"),
            mend,
        );
        return None;
    }
    let mut urls = Vec::with_capacity(list.value.len());
    for Found { value, origin } in list.value {
        match check_http_url(&value) {
            Ok(()) => urls.push(value.trim_end_matches('/').to_owned()),
            // The reason quotes nothing: somebody may have put a password into it.
            Err(why) => {
                reader.fault(
                    &origin,
                    code::BAD_VALUE,
                    format!("an item of `{path}`: {why}"),
                    mend,
                );
            }
        }
    }
    Some(urls)
}

fn broker(reader: &mut Reader<'_>) -> Option<BrokerPart> {
    let mend = "write `broker: {uris: [\"amqp://USER@HOST:5672/%2f\"]}`";
    reader.require("broker.uris", mend);
    let list = reader.list("broker.uris");
    let password = files::secret(reader, "broker.password_file");
    let tls = files::tls(reader, "broker.tls", Identity::Optional);
    let management = if reader.has("broker.management") {
        urls(
            reader,
            "broker.management",
            "write it as \"http://HOST:15672\"",
        )
    } else {
        Some(Vec::new())
    };
    let list = list?;
    if list.value.is_empty() {
        reader.fault(&list.origin, code::MISSING, "`broker.uris` is empty", mend);
        return None;
    }
    let mut uris: Vec<BrokerUri> = Vec::with_capacity(list.value.len());
    for Found { value, origin } in list.value {
        let uri = match BrokerUri::parse(&value) {
            Ok(uri) => uri,
            Err(why) => {
                reader.fault(
                    &origin,
                    code::BAD_VALUE,
                    format!("an item of `broker.uris`: {why}"),
                    mend,
                );
                continue;
            }
        };
        if let Some(first) = uris.first().filter(|first| first.vhost() != uri.vhost()) {
            reader.fault(
                &origin,
                code::BAD_VALUE,
                format!("{uri} names another vhost than {first}"),
                "all URIs are nodes of one cluster and name one vhost; a source names its own with `vhost`",
            );
        }
        uris.push(uri);
    }
    Some(BrokerPart {
        uris,
        password,
        tls,
        management: management?,
    })
}

fn link(reader: &mut Reader<'_>) -> Option<LinkPart> {
    reader.require("link.listen", LISTEN_MEND);
    let listen = reader.parsed("link.listen", LISTEN_MEND, socket_address);
    let advertise = advertise(reader, listen);
    let security = link_security(reader);
    let mut via = BTreeMap::new();
    let mend = "write it as \"UNIT/GATEWAY\": \"HOST:PORT\"";
    for Found {
        value: (key, address),
        origin,
    } in reader.pairs("link.via")
    {
        let peer = key
            .split_once('/')
            .ok_or_else(|| format!("{key:?} is no unit/gateway"))
            .and_then(|(unit, gateway)| {
                let named = |error: NameError| format!("{key:?}: {error}");
                Ok((
                    UnitId::parse(unit).map_err(named)?,
                    GatewayId::parse(gateway).map_err(named)?,
                ))
            });
        match peer.and_then(|peer| Ok((peer, HostPort::parse(&address)?))) {
            Ok((peer, address)) => {
                via.insert(peer, address);
            }
            Err(why) => reader.fault(&origin, code::BAD_VALUE, format!("`link.via`: {why}"), mend),
        }
    }
    Some(LinkPart {
        listen: listen?,
        advertise: advertise?,
        security: security?,
        via,
    })
}

fn advertise(reader: &mut Reader<'_>, listen: Option<SocketAddr>) -> Option<HostPort> {
    let mend = "write `advertise: \"HOST:PORT\"` as other units' gateways reach this one";
    if reader.has("link.advertise") {
        return reader.parsed("link.advertise", mend, HostPort::parse);
    }
    let listen = listen?;
    if listen.ip().is_unspecified() || listen.port() == 0 {
        let origin = reader.origin("link.listen");
        reader.fault(
            &origin,
            code::MISSING,
            format!("`link.advertise` is missing, and nobody can connect to {listen}"),
            mend,
        );
        return None;
    }
    HostPort::parse(&listen.to_string()).ok()
}

fn link_security(reader: &mut Reader<'_>) -> Option<LinkSecurity> {
    let insecure = reader.parsed("link.insecure", "write true or false", |text| match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    });
    let tls = files::tls(reader, "link.tls", Identity::Required);
    match (reader.has("link.tls"), insecure) {
        (true, Some(true)) => {
            let origin = reader.origin("link.insecure");
            reader.fault(
                &origin,
                code::BAD_VALUE,
                "`link` has both `tls` and `insecure: true`",
                "remove one of them",
            );
            None
        }
        (true, _) => tls.map(LinkSecurity::Tls),
        (false, Some(true)) => Some(LinkSecurity::Insecure),
        (false, Some(false) | None) => {
            let origin = reader.origin("link.tls");
            reader.fault(
                &origin,
                code::MISSING,
                "`link.tls` is missing",
                "give ca, cert and key; or spell out `insecure: true` where nobody else reaches the port",
            );
            None
        }
    }
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no ip:port"))
}

fn admin(reader: &mut Reader<'_>) -> Option<AdminPart> {
    let listen = if reader.has("admin.listen") {
        reader.parsed("admin.listen", LISTEN_MEND, socket_address)
    } else {
        Some(ADMIN_LISTEN)
    };
    let token = files::secret(reader, "admin.token_file");
    Some(AdminPart {
        listen: listen?,
        token,
    })
}

fn limits(reader: &mut Reader<'_>) -> Option<Limits> {
    let size_mend = "write it as 512MiB, 16MB or a number of bytes";
    let size = |reader: &mut Reader<'_>, path: &str, default| {
        if reader.has(path) {
            reader.parsed(path, size_mend, ByteSize::parse)
        } else {
            Some(default)
        }
    };
    let memory = size(reader, "memory", MEMORY);
    let message_max = size(reader, "message_max", MESSAGE_MAX);
    let hops_max = if reader.has("hops_max") {
        reader.parsed(
            "hops_max",
            "write a number from 1 to 255; 4 is the default",
            |text| match text.parse::<u32>() {
                Ok(hops) if (1..=255).contains(&hops) => Ok(hops),
                _ => Err(format!("{text:?} is no number from 1 to 255")),
            },
        )
    } else {
        Some(HOPS_MAX)
    };
    let (memory, message_max) = (memory?, message_max?);
    if message_max.0 == 0 || message_max > MESSAGE_MAX_MAX {
        let origin = reader.origin("message_max");
        reader.fault(
            &origin,
            code::BAD_VALUE,
            format!(
                "`message_max` is {message_max}; no RabbitMQ takes more than {MESSAGE_MAX_MAX}"
            ),
            "write a size from 1B to 128MiB",
        );
    } else if memory.0 < MESSAGES_IN_MEMORY_MIN * message_max.0 {
        let origin = reader.origin(if reader.has("memory") {
            "memory"
        } else {
            "message_max"
        });
        reader.fault(
            &origin,
            code::BAD_VALUE,
            format!("`memory` of {memory} can't hold {MESSAGES_IN_MEMORY_MIN} messages of `message_max` {message_max}"),
            format!("raise `memory` to at least {}", ByteSize(MESSAGES_IN_MEMORY_MIN * message_max.0)),
        );
    }
    Some(Limits {
        memory,
        message_max,
        hops_max: hops_max?,
    })
}

fn drain(reader: &mut Reader<'_>) -> Option<Duration> {
    if !reader.has("drain") {
        return Some(DRAIN);
    }
    reader.parsed("drain", "write it as 20s or 1m, at most 10m", |text| {
        let drain = parse_duration(text)?;
        if drain > DRAIN_MAX {
            Err(format!("{text} is too long"))
        } else {
            Ok(drain)
        }
    })
}

fn log(reader: &mut Reader<'_>) -> Option<LogPart> {
    let format = if reader.has("log.format") {
        reader.parsed("log.format", "write text or json", |text| match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(format!("{text:?} is no log format")),
        })
    } else {
        Some(LogFormat::Text)
    };
    let level = if reader.has("log.level") {
        let mend = "write error, warn, info, debug or trace, or info,setgate::wire=debug";
        reader.parsed("log.level", mend, |text| {
            let known = text.parse::<tracing_subscriber::filter::Targets>();
            match known {
                Ok(_) if !text.trim().is_empty() => Ok(text.to_owned()),
                _ => Err(format!("{text:?} is no level")),
            }
        })
    } else {
        Some("info".to_owned())
    };
    Some(LogPart {
        format: format?,
        level: level?,
    })
}

fn state_dir(reader: &mut Reader<'_>, gateway: Option<&GatewayId>) -> Option<PathBuf> {
    if let Some(found) = reader.text("state_dir") {
        return Some(reader.resolve(&found.value));
    }
    Some(PathBuf::from("/var/lib/setgate").join(gateway?.as_str()))
}

/// A command and its arguments; without a shell.
fn command(reader: &mut Reader<'_>, path: &str) -> Option<Vec<String>> {
    let list = reader.list(path)?;
    let words: Vec<String> = list.value.into_iter().map(|word| word.value).collect();
    if words.first().is_none_or(String::is_empty) {
        reader.fault(
            &list.origin,
            code::MISSING,
            format!("`{path}` names no command"),
            "write the program and its arguments: [\"/usr/local/bin/stop-consumers\", \"--now\"]",
        );
        return None;
    }
    Some(words)
}

/// Fields that have a meaning which this version doesn't carry out: better refused than silently without effect.
fn refuse_not_yet(reader: &mut Reader<'_>) {
    for section in ["ingress"] {
        if reader.has(section) {
            let origin = reader.origin(section);
            reader.fault(
                &origin,
                code::NOT_YET,
                format!("`{section}` is not yet carried out by this version"),
                "remove it",
            );
        }
    }
}
