//! The fields of gateway.yaml: their names, shapes, defaults and meaning, in one table.
//!
//! The reader refuses what isn't in it, the environment's names follow from it, and the manual's table is made of it, so
//! the three can't disagree.

use std::fmt::Write as _;

/// How a field is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One value.
    Text,
    /// A sequence; comma-separated in the environment.
    List,
    /// A mapping with free keys; `key=value` pairs, comma-separated, in the environment.
    Map,
}

/// One field.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// `section.name`.
    pub path: &'static str,
    /// How it is written.
    pub shape: Shape,
    /// What it is when absent, in words.
    pub default: &'static str,
    /// What it means.
    pub words: &'static str,
}

const fn text(path: &'static str, default: &'static str, words: &'static str) -> Field {
    Field {
        path,
        shape: Shape::Text,
        default,
        words,
    }
}

const fn list(path: &'static str, default: &'static str, words: &'static str) -> Field {
    Field {
        path,
        shape: Shape::List,
        default,
        words,
    }
}

/// All fields, in the order of the manual.
pub const FIELDS: &[Field] = &[
    text(
        "space",
        "required",
        "the routing world; etcd prefix `/setgate/<space>/`",
    ),
    text("unit", "required", "the unit that this gateway serves"),
    text(
        "gateway",
        "host name, up to its first dot",
        "this process, unique within its unit",
    ),
    text(
        "rules",
        "`etcd`",
        "`etcd`, or `{dir: FOLDER}` for one gateway without etcd",
    ),
    text(
        "rules.dir",
        "",
        "a folder of routing documents; excludes etcd",
    ),
    list(
        "etcd.endpoints",
        "required with `rules: etcd`",
        "`http://` or `https://` URLs of one etcd cluster",
    ),
    text("etcd.username", "none", "etcd user; needs `password_file`"),
    text(
        "etcd.password_file",
        "none",
        "file with that user's password",
    ),
    text(
        "etcd.tls.ca",
        "none",
        "PEM file of the authorities that etcd's certificate is checked by",
    ),
    text("etcd.tls.cert", "none", "PEM file of a client certificate"),
    text("etcd.tls.key", "none", "PEM file of its key"),
    list(
        "broker.uris",
        "required",
        "`amqp://` or `amqps://` URIs: the nodes of one cluster, one vhost",
    ),
    text(
        "broker.password_file",
        "none",
        "file with the broker user's password; goes before the URIs' own",
    ),
    text(
        "broker.tls.ca",
        "none",
        "PEM file of the authorities that the broker's certificate is checked by",
    ),
    text(
        "broker.tls.cert",
        "none",
        "PEM file of a client certificate",
    ),
    text("broker.tls.key", "none", "PEM file of its key"),
    list(
        "broker.management",
        "none",
        "`http://` URLs of the management API; without it unacknowledged counts are unknown",
    ),
    text(
        "link.listen",
        "required",
        "`ip:port` where other units' gateways are awaited",
    ),
    text(
        "link.advertise",
        "`link.listen`",
        "`host:port` that other gateways are told to connect to",
    ),
    text(
        "link.tls.ca",
        "required unless insecure",
        "PEM file of the authorities that peers are checked by",
    ),
    text(
        "link.tls.cert",
        "required unless insecure",
        "PEM file of this unit's certificate, SAN `spiffe://setgate/<space>/<unit>`",
    ),
    text(
        "link.tls.key",
        "required unless insecure",
        "PEM file of its key",
    ),
    text(
        "link.insecure",
        "`false`",
        "`true`: links without TLS; anyone who reaches the port can inject messages",
    ),
    Field {
        path: "link.via",
        shape: Shape::Map,
        default: "none",
        words: "`unit/gateway: host:port`: reach a gateway at another address than it advertises",
    },
    text(
        "admin.listen",
        "`127.0.0.1:7180`",
        "`ip:port` of metrics, health and reads",
    ),
    text(
        "admin.token_file",
        "none",
        "file with the token that changes need; without it they are refused",
    ),
    text("ingress.listen", "none", "the HTTP way in; *not yet*"),
    text("ingress.tokens_file", "none", "who may use it; *not yet*"),
    text(
        "state_dir",
        "`/var/lib/setgate/<gateway>`",
        "folder of the last good table, the seal, and a copy of the journal",
    ),
    text(
        "memory",
        "`512MiB`",
        "budget for everything in flight: half for what its lanes take, a quarter for what links bring; at least four times `message_max`",
    ),
    text(
        "message_max",
        "`16MiB`",
        "largest body carried, up to 128MiB; larger ones are parked",
    ),
    text(
        "hops_max",
        "`4`",
        "rounds after which a message is parked, 1 to 255",
    ),
    text(
        "drain",
        "`20s`",
        "how long lanes may take to settle at SIGTERM, up to 10m",
    ),
    list(
        "on_fence.exec",
        "none",
        "program and arguments, run when slots of this unit are fenced",
    ),
    list(
        "on_unfence.exec",
        "none",
        "the same, run when none is any more",
    ),
    text("log.format", "`text`", "`text` or `json`"),
    text(
        "log.level",
        "`info`",
        "`error`, `warn`, `info`, `debug`, `trace`, or directives as `info,setgate::wire=debug`",
    ),
];

/// The field of this path.
pub(super) fn field(path: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.path == path)
}

/// Whether fields lie below this path.
pub(super) fn is_section(path: &str) -> bool {
    below(path).next().is_some()
}

/// The names right below a path, each once, in the table's order; the top level for an empty path.
pub(super) fn names_below(path: &str) -> Vec<&'static str> {
    let mut names = Vec::new();
    for rest in below(path) {
        let name = rest.split('.').next().unwrap_or(rest);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn below(path: &str) -> impl Iterator<Item = &'static str> {
    FIELDS.iter().filter_map(move |field| {
        if path.is_empty() {
            return Some(field.path);
        }
        field.path.strip_prefix(path)?.strip_prefix('.')
    })
}

/// The environment variable that goes before a field of the file.
pub(super) fn variable(path: &str) -> String {
    format!("SETGATE_{}", path.replace('.', "__").to_uppercase())
}

/// The manual's table of fields, in Markdown.
pub fn fields_table() -> String {
    let mut out = String::from("| field | environment | default | meaning |\n|---|---|---|---|\n");
    for field in FIELDS {
        let default = if field.default.is_empty() {
            "none"
        } else {
            field.default
        };
        // Writing to a string can't fail.
        let _ = writeln!(
            out,
            "| `{}` | `{}` | {default} | {} |",
            field.path,
            variable(field.path),
            field.words
        );
    }
    out
}
