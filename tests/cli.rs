//! The operator's commands as a person or a script meets them: output, exit codes, and what they say when something is
//! wrong.

#![allow(clippy::unwrap_used)] // helpers of tests fail as tests do

use assert_cmd::Command;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

fn setgate(args: &[&str]) -> Output {
    let output = Command::cargo_bin("setgate")
        .unwrap()
        .args(args)
        .output()
        .unwrap();
    Output {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[derive(Debug)]
struct Output {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Output {
    /// The document on the last line.
    fn json(&self) -> Value {
        serde_json::from_str(self.out.lines().last().unwrap()).unwrap()
    }
}

fn examples(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("routing-rules").join(name).display().to_string()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A gateway without etcd, whose broker isn't there.
struct Lonely {
    folder: TempDir,
    admin: u16,
}

impl Lonely {
    fn new() -> Self {
        let (folder, admin) = (tempfile::tempdir().unwrap(), free_port());
        let text = format!(
            "space: trade\nunit: sh-1\ngateway: sh-1-a\nrules: {{dir: {}}}\n\
             broker: {{uris: [\"amqp://setgate:hunter2@127.0.0.1:{}/%2f\"]}}\n\
             link: {{listen: \"127.0.0.1:{}\", insecure: true}}\n\
             admin: {{listen: \"127.0.0.1:{admin}\"}}\nstate_dir: state\n",
            examples("single"),
            free_port(),
            free_port(),
        );
        std::fs::write(folder.path().join("gateway.yaml"), text).unwrap();
        Self { folder, admin }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("gateway.yaml")
    }

    fn run(&self) -> Running {
        let binary = assert_cmd::cargo::cargo_bin("setgate");
        let mut child = std::process::Command::new(binary)
            .args(["run", "--config"])
            .arg(self.config())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut running = Running {
            child,
            log,
            said: String::new(),
        };
        running.hear("the gateway has started");
        running
    }

    fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }
}

struct Running {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    /// What has been read of it.
    said: String,
}

impl Running {
    /// Reads its log up to a line with these words. A gateway that ends without them fails the test; one that hangs is ended
    /// with it by the test runner.
    fn hear(&mut self, words: &str) {
        while !self.said.contains(words) {
            let read = self.log.read_line(&mut self.said).unwrap();
            assert!(read > 0, "it ended without {words:?}: {}", self.said);
        }
    }

    /// Asks it to end; gives its exit code and its log.
    fn end(mut self) -> (Option<i32>, String) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let mut said = std::mem::take(&mut self.said);
        self.log.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone as a rule.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    for args in [
        &["no-such-command"][..],
        &["run"],
        &["status"],
        &["explain", "--source", "orders", "--header", "uid"],
        &["parked", "list"],
        &["parked", "drop", "--space", "trade"],
        &["parked", "list", "--reason", "boredom"],
        &["parked", "retry", "--rate", "fast"],
        &["parked", "list", "--since", "yesterday"],
        &[
            "explain", "--source", "orders", "--rules", "d", "--live", "sh-1",
        ],
    ] {
        let output = setgate(args);
        assert_eq!(output.code, Some(2), "{args:?}: {output:?}");
        assert!(!output.err.is_empty());
    }
}

#[test]
fn parked_messages_need_a_token_to_change_and_a_broker_to_be_seen() {
    let gateway = Lonely::new();
    let config = gateway.config().display().to_string();
    let parked = |words: &[&str]| {
        let output = setgate(&[&["parked"], words, &["--config", &config]].concat());
        (output.code, output.err)
    };
    let (code, said) = parked(&["list"]);
    assert_eq!(code, Some(3), "no gateway runs: {said}");
    let running = gateway.run();
    let (code, said) = parked(&["list"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("the broker is away"), "{said}");
    let (code, said) = parked(&["retry"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--token-file"), "{said}");
    let (head, body) = gateway.get("/v1/parked/show?id=1");
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    assert!(body.contains("admin.token_file"), "{body}");
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn a_faulty_configuration_is_shown_whole_with_places_and_ends_with_1() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.yaml");
    let text =
        "space: trade\nunti: sh-1\nbroker: {uris: [\"amqp://u:hunter2@/%2f\"]}\nmemory: lots\n";
    std::fs::write(&path, text).unwrap();
    for command in ["run", "check"] {
        let output = setgate(&[command, "--config", path.to_str().unwrap()]);
        assert_eq!(output.code, Some(1), "{output:?}");
        for place in [
            ":2:1: unknown field `unti`; did you mean `unit`?",
            ":3:17:",
            ":4:9:",
            "`link.listen` is missing",
        ] {
            assert!(output.err.contains(place), "{place} in\n{}", output.err);
        }
        assert!(
            output.err.lines().all(|line| line.starts_with("error: ")),
            "{}",
            output.err
        );
        assert!(!output.err.contains("hunter2"), "{}", output.err);
        assert!(!output.err.contains("panicked"), "{}", output.err);
    }
    let absent = setgate(&["run", "--config", "/nowhere/gateway.yaml"]);
    assert_eq!(absent.code, Some(1));
    assert!(
        absent.err.contains("/nowhere/gateway.yaml"),
        "{}",
        absent.err
    );
}

#[test]
fn an_etcd_that_is_away_ends_with_3_and_says_so_in_json_too() {
    let etcd = format!("http://127.0.0.1:{}", free_port());
    for args in [
        &["status", "--etcd", &etcd, "--space", "trade", "-o", "json"][..],
        &[
            "explain", "--source", "orders", "--from", "sh-1", "--etcd", &etcd, "--space", "trade",
            "-o", "json",
        ],
    ] {
        let output = setgate(args);
        assert_eq!(output.code, Some(3), "{output:?}");
        assert!(output.err.contains(&etcd), "{}", output.err);
        assert!(output.json()["error"].as_str().unwrap().contains(&etcd));
    }
}

#[test]
fn the_examples_meet_their_own_expectations() {
    for name in ["single", "active-active", "two-sites-three-centers"] {
        let tested = setgate(&["rules", "test", &examples(name), "-o", "json"]);
        assert_eq!(tested.code, Some(0), "{name}: {}{}", tested.out, tested.err);
        assert!(
            tested.json()["expectations"].as_u64().unwrap() >= 3,
            "{name}"
        );
    }
}

#[test]
fn an_expectation_that_is_not_met_says_what_was_found() {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(examples("single")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let dir = folder.path().to_str().unwrap();
    let write = |text: &str| {
        std::fs::write(folder.path().join("orders.test.yaml"), text).unwrap();
        setgate(&["rules", "test", dir])
    };
    let unmet = write(
        "- name: elsewhere\n  message: {source: orders, from: sh-1, routing_key: order.x, headers: {uid: 5}}\n  \
         expect: {unit: bj-1, why: owner, reason: no_rule}\n",
    );
    assert_eq!(unmet.code, Some(1), "{}", unmet.err);
    for said in [
        "elsewhere",
        "unit: expected bj-1, found sh-1",
        "reason: expected no_rule, found nothing",
    ] {
        assert!(unmet.out.contains(said), "{said} in {}", unmet.out);
    }
    assert!(!unmet.out.contains("why:"), "{}", unmet.out);
    let unknown = write("- message: {source: orders, from: sh-9}\n  expect: {unit: sh-1}\n");
    assert_eq!(unknown.code, Some(1));
    assert!(
        unknown.err.contains("number 1: there is no unit sh-9"),
        "{}",
        unknown.err
    );
    let misspelt = write("- message: {source: orders, from: sh-1}\n  expects: {unit: sh-1}\n");
    assert_eq!(misspelt.code, Some(1));
    assert!(misspelt.err.contains("expects"), "{}", misspelt.err);
    let none = write("[]\n");
    assert!(none.err.contains("no expectations"), "{}", none.err);
}

#[test]
fn the_published_schema_is_the_programs() {
    let printed = setgate(&["rules", "schema"]);
    assert_eq!(printed.code, Some(0));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let published = std::fs::read_to_string(root.join("docs/rules.schema.json")).unwrap();
    assert_eq!(
        printed.out, published,
        "write it anew: setgate rules schema > docs/rules.schema.json"
    );
}

#[test]
fn explain_answers_from_a_folder() {
    let rules = examples("two-sites-three-centers");
    let asked = [
        "explain", "--rules", &rules, "--source", "orders", "--from", "sh-1",
    ];
    let with = |more: &[&str]| setgate(&[&asked[..], more, &["-o", "json"]].concat());
    let output = with(&["--routing-key", "order.cn.created", "--header", "uid=10086"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    let json = output.json();
    for field in [
        "rule", "key", "slot", "home", "seat", "targets", "why", "epoch", "steps",
    ] {
        assert!(json.get(field).is_some(), "{field} in {json}");
    }
    assert_eq!(json["key"], "10086");
    assert_eq!(json["targets"][0], json["seat"]);
    // An integer is the same key.
    let typed = with(&[
        "--routing-key",
        "order.cn.created",
        "--header",
        "uid:=10086",
    ]);
    assert_eq!(typed.json()["slot"], json["slot"]);
    // Without a key: parked, for a reason, and that is an answer.
    let parked = with(&["--routing-key", "order.cn.created"]);
    assert_eq!(parked.code, Some(0));
    assert_eq!(
        (&parked.json()["why"], &parked.json()["targets"]),
        (&"park".into(), &Value::Array(Vec::new()))
    );
    assert_eq!(parked.json()["reason"], "key_absent");
    let unknown = setgate(&[
        "explain", "--rules", &rules, "--source", "ordres", "--from", "sh-1",
    ]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.err.contains("orders"), "{}", unknown.err);
}

#[test]
fn explain_summarizes_many_messages_and_names_a_bad_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("messages.ndjson");
    let explain = |lines: &str, more: &[&str]| {
        std::fs::write(&file, lines).unwrap();
        let rules = examples("two-sites-three-centers");
        let words = [
            "explain",
            "--rules",
            &rules,
            "--all",
            file.to_str().unwrap(),
        ];
        setgate(&[&words[..], more].concat())
    };
    let mut lines = String::new();
    for uid in 0..100 {
        lines += &format!("{{\"routing_key\": \"order.cn\", \"headers\": {{\"uid\": {uid}}}}}\n");
    }
    lines.push_str(
        "\n{\"source\": \"catalog\", \"from\": \"bj-1\"}\n{\"routing_key\": \"order.cn\"}",
    );
    let given = ["--source", "orders", "--from", "sh-1"];
    let found = explain(&lines, &[&given[..], &["-o", "json"]].concat());
    assert_eq!(found.code, Some(0), "{}", found.err);
    let summary = found.json();
    assert_eq!(summary["messages"], 102);
    assert_eq!(summary["ended"], serde_json::json!({"park: key_absent": 1}));
    assert_eq!(summary["by_rule"]["catalog-to-all"], 1);
    let units = summary["by_unit"].as_object().unwrap();
    let sum: u64 = units.values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(sum, 102, "100 orders, and two copies of the catalog");
    assert_eq!(found.out.lines().count(), 103);
    let text = explain(&lines, &given);
    assert!(
        text.out.contains("102 messages") && text.out.contains("bj-1"),
        "{}",
        text.out
    );

    let bad = explain("{\"routing_key\": \"a\"}\n{\"headers\": 5}\n", &given);
    assert_eq!(bad.code, Some(1));
    assert!(bad.err.contains("line 2: "), "{}", bad.err);
    let unsaid = explain("{\"routing_key\": \"a\"}\n", &["--from", "sh-1"]);
    assert!(
        unsaid.err.contains("line 1: it names no source"),
        "{}",
        unsaid.err
    );
    assert_eq!(setgate(&["explain", "--from", "sh-1"]).code, Some(2));
}

#[test]
fn explain_names_the_faults_of_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("t.yaml"),
        "kind: topology\nspace: trade\nunits: 5\n",
    )
    .unwrap();
    let rules = folder.path().to_str().unwrap();
    let output = setgate(&[
        "explain", "--rules", rules, "--source", "orders", "--from", "sh-1",
    ]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.err.contains("t.yaml:"), "{}", output.err);
}

#[test]
fn check_names_what_is_faulty_and_what_is_not() {
    let lonely = Lonely::new();
    let output = setgate(&[
        "check",
        "--config",
        lonely.config().to_str().unwrap(),
        "-o",
        "json",
    ]);
    assert_eq!(output.code, Some(3), "{output:?}");
    let json = output.json();
    let ok = |check: &str| {
        let checks = json["checks"].as_array().unwrap();
        checks
            .iter()
            .find(|line| line["check"] == check)
            .map(|line| line["ok"] == true)
    };
    assert_eq!(ok("config"), Some(true));
    assert_eq!(ok("rules"), Some(true));
    assert_eq!(ok("broker"), Some(false));
    assert!(!output.out.contains("hunter2"), "{}", output.out);
    assert!(
        !lonely.folder.path().join("state").exists(),
        "check must not change anything"
    );
}

#[test]
fn a_gateway_without_its_broker_goes_on_and_says_why_it_is_not_ready() {
    let lonely = Lonely::new();
    let running = lonely.run();
    let (head, body) = lonely.get("/readyz");
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert!(body.contains("broker"), "{body}");
    assert!(lonely.get("/livez").0.starts_with("HTTP/1.1 200"));
    let (head, body) = lonely.get("/metrics");
    assert!(
        head.to_lowercase()
            .contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(body.contains("setgate_table_rejected 0"), "{body}");
    let (_, body) = lonely.get("/v1/explain?source=orders&routing_key=order.a.b&header=uid%3D1");
    assert!(body.contains("\"targets\":[\"sh-1\"]"), "{body}");
    assert!(
        lonely
            .get("/v1/explain?source=nothing")
            .0
            .starts_with("HTTP/1.1 400")
    );
    assert!(lonely.get("/no/such/page").0.starts_with("HTTP/1.1 404"));

    let config = lonely.config();
    let config = config.to_str().unwrap();
    let status = setgate(&["status", "--config", config, "-o", "json"]);
    assert_eq!(status.code, Some(0), "{status:?}");
    let unit = &status.json()["units"][0];
    assert_eq!(
        (&unit["unit"], &unit["state"]),
        (&"sh-1".into(), &"doubtful".into())
    );
    let text = setgate(&["status", "--config", config]);
    assert!(text.out.contains("sh-1-a"), "{}", text.out);
    assert!(
        !text.out.contains('\u{1b}'),
        "no colors where nobody looks: {}",
        text.out
    );
    let live = setgate(&[
        "explain", "--live", "sh-1", "--config", config, "--source", "orders", "--header", "uid=1",
        "-o", "json",
    ]);
    assert_eq!(live.json()["key"], "1", "{live:?}");

    let second = setgate(&["run", "--config", config]);
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(
        second.err.contains(&format!("127.0.0.1:{}", lonely.admin)),
        "{}",
        second.err
    );

    let (code, log) = running.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}
