//! The layering and the habits of the code, executable.
//!
//! Reads the sources as text. Each check is a function from a path and a text to complaints, so that planted text shows
//! that it bites.

#![allow(clippy::unwrap_used)] // helpers of tests fail as tests do

use std::path::{Path, PathBuf};

/// Folders of `src`, and whose names each may use. A folder may always use its own.
const LAYERS: &[(&str, &[&str])] = &[
    ("amqp", &[]),
    ("model", &["amqp"]),
    ("rules", &["model", "amqp"]),
    ("failover", &["model"]),
    ("routing", &["rules", "model", "amqp"]),
    ("lane", &["routing", "rules", "model", "amqp"]),
    ("link", &["routing", "rules", "model", "amqp"]),
    // Of the lane, the settlement alone: what no ledger has settled can't be acknowledged.
    ("broker", &["lane", "model", "amqp"]),
    ("etcd", &["model"]),
    ("wire", &["link", "model", "amqp"]),
    (
        "gateway",
        &[
            "wire", "etcd", "broker", "link", "lane", "routing", "failover", "rules", "model",
            "amqp",
        ],
    ),
    ("admin", &["gateway", "routing", "rules", "model", "amqp"]),
    (
        "cli",
        &[
            "admin", "gateway", "etcd", "broker", "link", "routing", "failover", "rules", "model",
            "amqp",
        ],
    ),
    (
        "lab",
        &[
            "admin", "gateway", "etcd", "broker", "wire", "link", "lane", "routing", "rules",
            "model", "amqp",
        ],
    ),
    ("bin", &[]),
];

/// No tasks, no clock, no I/O, no chance: time and seeds are arguments.
const PURE: &[&str] = &[
    "amqp", "model", "rules", "failover", "routing", "lane", "link",
];
const IMPURE_WORDS: &[&str] = &[
    "tokio",
    "fastrand",
    "jiff",
    "uuid",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "Instant::now",
    "SystemTime",
];

/// Crates that only some folders may name.
const CRATES: &[(&str, &[&str])] = &[
    // The lab's traffic clients must not share the faults of our own.
    ("lapin", &["broker", "lab"]),
    ("etcd_client", &["etcd"]),
    ("rustls", &["wire", "broker"]),
    ("tokio_rustls", &["wire", "broker"]),
    // Links; and plain HTTP to and from people, RabbitMQ's management API and gateways.
    ("hyper", &["wire", "admin", "broker", "cli", "lab"]),
    ("hyper_util", &["wire", "admin", "broker", "cli", "lab"]),
    ("axum", &["admin"]),
    ("prometheus", &["gateway"]),
    ("clap", &["cli", "lab", "bin"]),
    ("anyhow", &["bin"]),
];

/// Whoever may start tasks owns them. Others offer futures, or start on a tracker that they are given.
const SPAWNERS: &[&str] = &["gateway", "lab", "bin"];
const SPAWN_WORDS: &[&str] = &[
    "tokio::spawn",
    "task::spawn",
    "JoinSet",
    "spawn_blocking",
    "thread::spawn",
];

const LINES_MAX: usize = 600;

#[test]
fn the_code_keeps_to_its_layers_and_habits() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut complaints = Vec::new();
    let mut files = 0;
    for folder in ["src", "tests", "benches"] {
        for path in rust_files(&root.join(folder)) {
            let text = std::fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root).unwrap().to_owned();
            complaints.extend(check(&path, &text));
            files += 1;
        }
    }
    assert!(
        files > 50,
        "only {files} files were found; is this the right folder?"
    );
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn every_folder_of_src_has_a_layer() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in std::fs::read_dir(src).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            let name = entry.file_name().into_string().unwrap();
            assert!(
                LAYERS.iter().any(|(layer, _)| *layer == name),
                "src/{name} has no layer"
            );
        }
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else {
        return found;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// All that is to be said against one file.
fn check(path: &Path, text: &str) -> Vec<String> {
    let shown = path.display();
    let mut complaints = Vec::new();
    let mut complain =
        |line: usize, words: String| complaints.push(format!("{shown}:{line}: {words}"));
    if !text.starts_with("//!") {
        complain(
            1,
            "a file begins with `//!`: what it owns, promises and never does".to_owned(),
        );
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        complain(
            lines,
            format!("{lines} lines; a file is one noun, at most {LINES_MAX} lines"),
        );
    }
    let folder = folder(path);
    let tests_from = tests_begin(path, text);
    for (at, (line, whole)) in code(text).into_iter().zip(text.lines()).enumerate() {
        let number = at + 1;
        let in_tests = number >= tests_from;
        for word in ["FIXME", "HACK", "XXX"] {
            if has_word(whole, word) && !path.ends_with("tidy.rs") {
                complain(number, format!("{word}: mend it, or open an issue"));
            }
        }
        if line.contains("#[ignore") {
            complain(number, "an ignored test promises nothing".to_owned());
        }
        if in_tests && has_word(&line, "sleep") {
            complain(
                number,
                "a test waits on a state with a deadline, it doesn't sleep".to_owned(),
            );
        }
        let Some(folder) = folder else { continue };
        if in_tests {
            continue;
        }
        for used in used_folders(&line) {
            if !may_use(folder, &used) {
                complain(number, format!("`{folder}` may not use `{used}`"));
            }
        }
        for (name, may) in CRATES {
            if has_word(&line, name) && !may.contains(&folder) && !is_own_name(&line, name) {
                complain(number, format!("`{name}` belongs to {}", may.join(", ")));
            }
        }
        if PURE.contains(&folder) {
            for word in IMPURE_WORDS.iter().filter(|word| has_word(&line, word)) {
                complain(number, format!("`{folder}` is pure, and `{word}` is not"));
            }
        }
        if !SPAWNERS.contains(&folder) {
            for word in SPAWN_WORDS.iter().filter(|word| has_word(&line, word)) {
                complain(number, format!("`{folder}` may not start tasks (`{word}`)"));
            }
        }
    }
    complaints
}

/// The folder of `src` that a file is in; none for `src/lib.rs` and for tests.
fn folder(path: &Path) -> Option<&str> {
    let mut parts = path.iter().filter_map(|part| part.to_str());
    if parts.next()? != "src" {
        return None;
    }
    parts.next().filter(|part| !part.contains('.'))
}

/// The first line that is test code.
fn tests_begin(path: &Path, text: &str) -> usize {
    let is_test_file = path
        .iter()
        .any(|part| part == "tests" || part == "tests.rs");
    if is_test_file {
        return 1;
    }
    let lines: Vec<&str> = text.lines().collect();
    lines
        .windows(2)
        .position(|pair| {
            pair[0].trim() == "#[cfg(test)]"
                && pair[1].starts_with("mod ")
                && pair[1].ends_with('{')
        })
        .map_or(usize::MAX, |at| at + 1)
}

/// The lines without comments and without what stands in double quotes.
fn code(text: &str) -> Vec<String> {
    let mut in_string = false;
    text.lines()
        .map(|line| {
            let mut out = String::new();
            let mut chars = line.chars().peekable();
            while let Some(c) = chars.next() {
                match c {
                    '\\' if in_string => {
                        chars.next();
                    }
                    '"' => in_string = !in_string,
                    // A quote as a character literal opens no string.
                    '\'' if !in_string && chars.peek() == Some(&'"') => {
                        chars.next();
                    }
                    '/' if !in_string && chars.peek() == Some(&'/') => break,
                    _ if !in_string => out.push(c),
                    _ => {}
                }
            }
            out
        })
        .collect()
}

/// `crate::x`, and in binaries `setgate::x`, `use crate::{a, b::c}` too.
fn used_folders(line: &str) -> Vec<String> {
    let mut used = Vec::new();
    let mut rest = line;
    while let Some(at) = rest.find("crate::") {
        rest = &rest[at + "crate::".len()..];
        let list = rest.strip_prefix('{').unwrap_or("");
        let names: Vec<&str> = if list.is_empty() {
            vec![rest]
        } else {
            list.split(',').map(str::trim).collect()
        };
        for name in names {
            let name: String = name
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                .collect();
            if LAYERS.iter().any(|(layer, _)| *layer == name) {
                used.push(name);
            }
        }
    }
    used
}

fn may_use(folder: &str, used: &str) -> bool {
    folder == used
        || LAYERS
            .iter()
            .any(|(layer, may)| *layer == folder && may.contains(&used))
}

/// The word by itself, `::` within it included.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

/// A field or a module of our own that shares a crate's name: `self.lapin`, `lapin: Arc<..>`.
fn is_own_name(line: &str, name: &str) -> bool {
    line.contains(&format!(".{name}")) || line.contains(&format!("{name}: "))
}

fn complaints(path: &str, text: &str) -> Vec<String> {
    check(Path::new(path), &format!("//! Planted.\n{text}"))
}

#[test]
fn a_name_from_a_higher_layer_is_seen() {
    for (path, text) in [
        ("src/model/ids.rs", "use crate::gateway::config::Config;"),
        ("src/lane/lane.rs", "fn f() { crate::broker::depth(); }"),
        ("src/etcd/store.rs", "use crate::{model, routing::Table};"),
        ("src/gateway/run.rs", "use crate::admin::serve;"),
    ] {
        assert_eq!(complaints(path, text).len(), 1, "{path}: {text}");
    }
    assert!(complaints("src/lane/lane.rs", "use crate::routing::Table;").is_empty());
    assert!(complaints("src/lane/lane.rs", "// crate::gateway has the tasks").is_empty());
}

#[test]
fn a_foreign_crate_is_seen() {
    assert_eq!(
        complaints("src/gateway/run.rs", "use lapin::Connection;").len(),
        1
    );
    assert_eq!(
        complaints("src/cli/status.rs", "etcd_client::Client::connect(x)").len(),
        1
    );
    assert_eq!(
        complaints("src/admin/mod.rs", "use rustls::ServerConfig;").len(),
        1
    );
    assert!(complaints("src/broker/connection.rs", "use lapin::Connection;").is_empty());
}

#[test]
fn impurity_is_seen_in_the_core_and_nowhere_else() {
    for word in IMPURE_WORDS {
        assert_eq!(
            complaints("src/lane/lane.rs", &format!("{word}::x();")).len(),
            1,
            "{word}"
        );
        assert!(
            complaints("src/gateway/run.rs", &format!("{word}::x();")).is_empty(),
            "{word}"
        );
    }
    assert!(complaints("src/lane/lane.rs", "fn f(now: Instant) {}").is_empty());
}

#[test]
fn a_task_outside_its_folders_is_seen() {
    for word in SPAWN_WORDS {
        assert_eq!(
            complaints("src/wire/server.rs", &format!("{word}(x)")).len(),
            1,
            "{word}"
        );
        assert!(
            complaints("src/gateway/run.rs", &format!("{word}(x)")).is_empty(),
            "{word}"
        );
    }
    assert!(complaints("src/wire/server.rs", "tracker.spawn(x)").is_empty());
}

#[test]
fn a_sleeping_or_ignored_test_is_seen() {
    assert_eq!(
        complaints("tests/x.rs", "tokio::time::sleep(POLL).await;").len(),
        1
    );
    let text = "#[cfg(test)]\nmod tests {\n    thread::sleep(d);\n}";
    assert_eq!(complaints("src/wire/server.rs", text).len(), 1);
    assert!(complaints("src/wire/server.rs", "tokio::time::sleep(d).await;").is_empty());
    assert_eq!(complaints("tests/x.rs", "#[ignore = \"slow\"]").len(), 1);
}

#[test]
fn a_long_or_headless_file_is_seen() {
    assert_eq!(
        complaints("src/model/x.rs", &"\n".repeat(LINES_MAX + 1)).len(),
        1
    );
    assert_eq!(check(Path::new("src/model/x.rs"), "use std::fmt;").len(), 1);
    assert_eq!(complaints("src/model/x.rs", "// FIXME: later").len(), 1);
}
