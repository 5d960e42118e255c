//! Everything breaks in turn, with a fixed seed and little time. The long runs are `make chaos` and `make kills`.

use serde_json::Value;
use setgate::lab::fabric::test_lab_dir;
use std::process::Stdio;
use tokio::process::Command;

/// What heals within seconds; a broker's start alone takes as long as all of these.
const QUICK: &str = "gateway_killed,gateway_restarted,etcd_killed,etcd_restarted,connections_closed,link_cut_one_way";

/// Each kind once. They take as long as the machine takes, minutes at most: `MINUTES` only ends what doesn't heal.
const FAULTS_DEALT: &str = "6";
const MINUTES: &str = "4";

/// What the checker counts and must not find.
const FAULTS: [&str; 6] = [
    "lost",
    "duplicates",
    "reordered",
    "wrong_unit",
    "two_owner",
    "parked",
];

#[tokio::test]
async fn a_short_chaos_breaks_no_promise() {
    let dir = test_lab_dir().with_file_name("fault-labs").join("chaos");
    let output = Command::new(env!("CARGO_BIN_EXE_setgate-lab"))
        .args(["chaos", "-o", "json", "--seed", "12"])
        .args(["--faults", FAULTS_DEALT, "--minutes", MINUTES])
        .args(["--rate", "300", "--keys", "200", "--only", QUICK, "--dir"])
        .arg(dir)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8(output.stdout).unwrap();
    let account: Value = serde_json::from_str(text.lines().last().unwrap_or_default())
        .unwrap_or_else(|error| panic!("{error}\n{said}"));
    for fault in FAULTS {
        assert_eq!(account[fault], 0, "{fault} in {account}\n{said}");
    }
    assert!(output.status.success(), "{said}");
    let struck = account["faults"].as_object().unwrap();
    assert_eq!(struck.len(), 6, "{said}");
    assert!(account["broken_off"].is_null(), "{said}");
    assert!(
        account["confirmed_percent"].as_f64().unwrap() >= 60.0,
        "{said}"
    );
}
