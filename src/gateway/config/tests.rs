//! What the configuration promises.

use super::*;
use secrecy::ExposeSecret as _;

const GOOD: &str = r#"
space: trade
unit: sh-1
gateway: sh-1-a
etcd: {endpoints: ["http://127.0.0.1:2379"]}
broker:
  uris: ["amqp://setgate@127.0.0.1:5672/%2f"]
  management: ["http://127.0.0.1:15672"]
link: {listen: "127.0.0.1:7100", insecure: true, via: {"bj-1/bj-1-a": "10.0.0.7:7100"}}
state_dir: state
"#;

fn around(variables: &[(&str, &str)]) -> Surroundings {
    let variables = variables
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    Surroundings {
        variables,
        host_name: "web-1.example.org".to_owned(),
    }
}

fn parse(text: &str) -> Result<Config, Vec<ConfigFault>> {
    Config::parse(
        "gateway.yaml",
        text,
        Path::new("/etc/setgate"),
        &around(&[]),
    )
}

#[test]
fn a_short_file_is_enough_and_the_rest_has_defaults() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.gateway.as_str(), "sh-1-a");
    assert_eq!(config.limits.memory, ByteSize(512 << 20));
    assert_eq!(config.limits.hops_max, 4);
    assert_eq!(config.drain, Duration::from_secs(20));
    assert_eq!(config.state_dir, Path::new("/etc/setgate/state"));
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:7180");
    assert_eq!(config.link.advertise.as_str(), "127.0.0.1:7100");
    assert_eq!(config.link.via.len(), 1);
    let RulesFrom::Etcd(etcd) = config.rules else {
        panic!("not etcd")
    };
    assert_eq!(etcd.endpoints, ["http://127.0.0.1:2379"]);
}

#[test]
fn all_faults_are_named_at_once_each_with_its_place() {
    let text = r#"space: tr ade
unit: sh-1
gateway: g
etcd: {endpoints: ["127.0.0.1:2379"], endpoint: x}
broker:
  urls: ["amqp://h/%2f"]
link: {listen: "7100"}
memory: lots
ingress: {listen: "127.0.0.1:7190"}
"#;
    let faults = parse(text).unwrap_err();
    let found: Vec<_> = faults
        .iter()
        .map(|fault| (fault.line, fault.code))
        .collect();
    for expected in [
        (1, "bad_value"),
        (4, "bad_value"),
        (4, "unknown_field"),
        (6, "unknown_field"),
        (6, "missing"),
        (7, "bad_value"),
        (7, "missing"),
        (8, "bad_value"),
        (9, "not_yet"),
    ] {
        assert!(found.contains(&expected), "{expected:?} in {found:?}");
    }
    let shown = faults
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n");
    assert!(
        shown.contains("gateway.yaml:6:3: unknown field `broker.urls`; did you mean `uris`?"),
        "{shown}"
    );
    assert!(faults.iter().all(|fault| !fault.mend.is_empty()));
}

#[test]
fn the_environment_goes_before_the_file() {
    let around = around(&[
        ("SETGATE_BROKER__URIS", "amqp://a/%2f,amqp://b/%2f"),
        ("SETGATE_MEMORY", "1GiB"),
        ("SETGATE_LINK__VIA", "bj-1/x=h:1"),
        ("HOME", "/root"),
    ]);
    let config = Config::parse("f", GOOD, Path::new("/etc"), &around).unwrap();
    assert_eq!(config.broker.uris.len(), 2);
    assert_eq!(config.limits.memory, ByteSize(1 << 30));
    assert_eq!(
        config
            .link
            .via
            .keys()
            .next()
            .map(|(_, gateway)| gateway.as_str()),
        Some("x")
    );
}

#[test]
fn a_fault_from_the_environment_names_the_variable() {
    let around = around(&[
        ("SETGATE_DRAIN", "20"),
        ("SETGATE_BROKER__URLS", "x"),
        ("SETGATE_PORT", "1"),
    ]);
    let faults = Config::parse("f", GOOD, Path::new("/etc"), &around).unwrap_err();
    let names: Vec<_> = faults.iter().map(|fault| fault.file.as_str()).collect();
    assert_eq!(names, ["SETGATE_BROKER__URLS", "SETGATE_DRAIN"]);
}

#[test]
fn every_field_of_the_file_has_a_variable_and_a_row_in_the_manual() {
    let table = fields_table();
    assert_eq!(table.lines().count(), FIELDS.len() + 2);
    assert!(table.contains("`SETGATE_BROKER__URIS`"));
    let manual = std::fs::read_to_string("docs/configuration.md").unwrap();
    assert!(
        manual.contains(&table),
        "docs/configuration.md has to hold this table:\n{table}"
    );
}

#[test]
fn secrets_are_read_from_files_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pw"), "hunter2\n").unwrap();
    let text = GOOD
        .replace("management:", "password_file: pw\n  management:")
        .replace("setgate@127", "setgate:hunter3@127");
    let config = Config::parse("f", &text, folder.path(), &around(&[])).unwrap();
    let password = config
        .broker
        .password
        .as_ref()
        .map(|secret| secret.expose_secret().to_owned());
    assert_eq!(password.as_deref(), Some("hunter2"));
    assert!(config.broker.uris[0].expose().contains("hunter3"));
    let debug = format!("{config:?}");
    assert!(!debug.contains("hunter"), "{debug}");
}

#[test]
fn a_secret_file_that_is_missing_or_empty_is_a_fault_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("empty"), "\n").unwrap();
    for (file, words) in [("absent", "no such file"), ("empty", "holds no secret")] {
        let text = GOOD.replace(
            "management:",
            &format!("password_file: {file}\n  management:"),
        );
        let faults = Config::parse("f", &text, folder.path(), &around(&[])).unwrap_err();
        assert_eq!(faults.len(), 1);
        assert!(faults[0].message.contains(words), "{}", faults[0]);
        assert!(faults[0].message.contains(file), "{}", faults[0]);
    }
}

#[test]
fn a_link_without_tls_is_refused_unless_spelled_out() {
    let faults = parse(&GOOD.replace(" insecure: true,", "")).unwrap_err();
    assert_eq!(faults.len(), 1);
    assert!(faults[0].mend.contains("insecure: true"), "{}", faults[0]);
    let both = GOOD.replace(
        "insecure: true",
        "insecure: true, tls: {ca: a, cert: b, key: c}",
    );
    let faults = parse(&both).unwrap_err();
    assert_eq!(
        faults
            .iter()
            .filter(|fault| fault.code == "unreadable")
            .count(),
        3,
        "{faults:?}"
    );
    assert!(
        faults.iter().any(|fault| fault.message.contains("both")),
        "{faults:?}"
    );
}

#[test]
fn the_host_name_stands_in_for_the_gateways_name() {
    let config = parse(&GOOD.replace("gateway: sh-1-a\n", "")).unwrap();
    assert_eq!(config.gateway.as_str(), "web-1");
}

#[test]
fn rules_come_from_a_folder_without_etcd() {
    let folder = tempfile::tempdir().unwrap();
    let text = GOOD.replace(
        "etcd: {endpoints: [\"http://127.0.0.1:2379\"]}\n",
        "rules: {dir: .}\n",
    );
    let config = Config::parse("f", &text, folder.path(), &around(&[])).unwrap();
    assert!(matches!(config.rules, RulesFrom::Dir(_)));
    let faults = parse(&text.replace("dir: .", "dir: nowhere")).unwrap_err();
    assert!(faults[0].message.contains("no folder"), "{}", faults[0]);
}

#[test]
fn a_budget_that_holds_no_messages_is_refused() {
    let faults = parse(&format!("{GOOD}memory: 20MiB\n")).unwrap_err();
    assert!(faults[0].mend.contains("64MiB"), "{}", faults[0]);
}

#[test]
fn no_text_makes_it_panic() {
    for text in [
        "",
        "[]",
        "a",
        "space: [",
        "link: 5\n",
        "broker: {uris: 5}\n",
        "rules: [1]\n",
        "log: {level: {a: b}}\n",
        "? [a]\n: b\n",
        "space: &a [*a]\n",
        "\t",
    ] {
        assert!(parse(text).is_err(), "{text:?}");
    }
}
