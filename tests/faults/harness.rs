//! A fabric of one test, traffic through it, its account, and what its gateways and brokers say meanwhile.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use setgate::lab::fabric::test_lab_dir;
use setgate::lab::{Fabric, FabricSpec, LabBroker, LabFile, Reporter};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// Longer than the slowest thing waited for: what comes back after the longest pause between attempts, on a loaded
/// machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(40);

/// Waits until `state` holds; panics with what was awaited when it doesn't within `deadline`.
pub(crate) async fn eventually(what: &str, deadline: Duration, state: impl AsyncFn() -> bool) {
    crate::eventually::eventually(what, deadline, async || state().await.then_some(())).await;
}

fn spec(gateways: usize) -> FabricSpec {
    FabricSpec::profile("two-sites-three-centers")
        .gateways(gateways)
        .rtt(Duration::from_millis(20))
        .binary(env!("CARGO_BIN_EXE_setgate"))
}

/// A fabric on the brokers that tests share, with so many gateways in each unit.
pub(crate) async fn borrowed(test: &str, gateways: usize) -> Fabric {
    let fabric = Fabric::borrowed(test, spec(gateways)).await;
    fabric.unwrap_or_else(|error| panic!("{error}"))
}

/// A fabric with brokers of its own, one for each of so many units. Nobody takes over from a unit whose broker is away: a
/// test of that has a fabric [of its own](own_with).
pub(crate) async fn own(test: &str, units: usize) -> Fabric {
    let manual = ("within_city: automatic", "within_city: manual");
    up(test, manual, |spec| spec.units(units)).await
}

/// As [`own`], of all units, under a topology in which this text stands in the place of that one. Its gateways' hooks
/// write into [`hooks`].
pub(crate) async fn own_with(test: &str, that_this: (&str, &str)) -> Fabric {
    let hook = |word: &str| {
        format!("{{exec: [sh, -c, 'echo $SETGATE_GATEWAY {word} $SETGATE_FENCED >> hooks']}}")
    };
    up(test, that_this, |spec| {
        let spec = spec.setting("on_fence", &hook("fenced"));
        spec.setting("on_unfence", &hook("free"))
    })
    .await
}

/// The lines that hooks have written: gateway, `fenced` or `free`, slots.
pub(crate) fn hooks(fabric: &Fabric) -> Vec<String> {
    let text = std::fs::read_to_string(fabric.dir().join("hooks")).unwrap_or_default();
    text.lines().map(|line| line.trim().to_owned()).collect()
}

async fn up(
    test: &str,
    (that, this): (&str, &str),
    more: impl FnOnce(FabricSpec) -> FabricSpec,
) -> Fabric {
    let profile =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("routing-rules/two-sites-three-centers");
    let dir = test_lab_dir().with_file_name("fault-labs").join(test);
    let rules = dir.with_extension("rules");
    std::fs::create_dir_all(&rules).unwrap();
    for entry in std::fs::read_dir(profile).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let changed = text.replace(that, this);
        std::fs::write(rules.join(path.file_name().unwrap()), changed).unwrap();
    }
    // Of a former run.
    let _ = std::fs::remove_file(dir.join("hooks"));
    let spec = FabricSpec::folder(rules)
        .rtt(Duration::from_millis(20))
        .binary(env!("CARGO_BIN_EXE_setgate"))
        .dir(dir);
    let fabric = Fabric::up(more(spec), Reporter::Quiet).await;
    fabric.unwrap_or_else(|error| panic!("{error}"))
}

/// Begins to publish and to consume.
pub(crate) fn traffic(dir: &Path, words: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_setgate-lab"))
        .args(["traffic", "-o", "json", "--settle", "40", "--dir"])
        .arg(dir)
        .args(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// As [`traffic`], until [`ended`]: for tests of steps that take as long as the machine makes them.
pub(crate) fn lasting_traffic(dir: &Path, words: &[&str]) -> Child {
    traffic(dir, &[&["--messages", "1000000"], words].concat())
}

/// What became of traffic, of which no more is published from now on.
pub(crate) async fn ended(traffic: Child) -> Value {
    let pid = traffic.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    kill_process(pid.unwrap(), Signal::TERM).unwrap();
    account(traffic).await
}

/// What became of it, once all has arrived or nothing new comes.
pub(crate) async fn account(traffic: Child) -> Value {
    let output = traffic.wait_with_output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap()
}

const FAULTS: [&str; 6] = [
    "lost",
    "duplicates",
    "reordered",
    "wrong_unit",
    "two_owner",
    "parked",
];

/// Each message was confirmed and arrived.
pub(crate) fn assert_clean(account: &Value) {
    assert_faultless(account);
    assert_eq!(account["confirmed"], account["delivered"], "{account}");
}

/// As clean, but some messages' own broker has died before it confirmed them: those may have arrived.
pub(crate) fn assert_faultless(account: &Value) {
    for fault in FAULTS {
        assert_eq!(account[fault], 0, "{fault} in {account}");
    }
    assert!(account["confirmed"].as_u64() > Some(0), "{account}");
}

/// What a gateway says of itself.
pub(crate) async fn status(fabric: &Fabric, admin: &str) -> Option<Value> {
    let url = format!("http://{admin}/v1/status");
    let (_, body) = fabric.http().get(&url, None).await.ok()?;
    serde_json::from_slice(&body).ok()
}

/// What a gateway says of its lane of a source.
async fn lane(fabric: &Fabric, admin: &str, source: &str) -> Option<Value> {
    let status = status(fabric, admin).await?;
    let mut lanes = status["lanes"].as_array()?.iter();
    lanes.find(|lane| lane["source"] == source).cloned()
}

/// Whether this gateway's lane of a source takes messages.
pub(crate) async fn takes(fabric: &Fabric, admin: &str, source: &str) -> bool {
    lane(fabric, admin, source)
        .await
        .is_some_and(|lane| lane["state"] == "taking")
}

/// Messages that this gateway's lane of orders holds.
pub(crate) async fn in_flight(fabric: &Fabric, admin: &str) -> u64 {
    let lane = lane(fabric, admin, "orders").await.unwrap_or_default();
    lane["in_flight"].as_u64().unwrap_or(0)
}

/// Messages that this gateway's lane of orders waits for a unit's answer to, diverted ones too.
pub(crate) async fn unanswered(fabric: &Fabric, admin: &str, to: &str) -> u64 {
    let lane = lane(fabric, admin, "orders").await.unwrap_or_default();
    let mut targets = lane["targets"].as_array().into_iter().flatten();
    let Some(target) = targets.find(|target| target["to"] == to) else {
        return 0;
    };
    let diverted = &target["diversion"]["messages"];
    let counts = [&target["in_flight"], diverted];
    counts.iter().filter_map(|count| count.as_u64()).sum()
}

/// Messages of a gateway's own lanes that a unit has answered for.
pub(crate) async fn delivered(fabric: &Fabric, admin: &str, to: &str) -> u64 {
    let url = format!("http://{admin}/metrics");
    let Ok((_, body)) = fabric.http().get(&url, None).await else {
        return 0;
    };
    let name = format!("setgate_delivered_total{{source=\"orders\",to=\"{to}\"}} ");
    let text = String::from_utf8(body.to_vec()).unwrap();
    let mut lines = text.lines();
    let count = lines.find_map(|line| line.strip_prefix(&name)?.parse().ok());
    count.unwrap_or(0)
}

/// Waits until so many more have been delivered from a gateway to a unit.
pub(crate) async fn more_delivered(fabric: &Fabric, admin: &str, to: &str, more: u64) {
    let before = delivered(fabric, admin, to).await;
    delivered_in_all(fabric, admin, to, before + more).await;
}

/// Waits until so many have been delivered from a gateway to a unit since it began.
pub(crate) async fn delivered_in_all(fabric: &Fabric, admin: &str, to: &str, count: u64) {
    let what = format!("{count} are delivered to {to}");
    eventually(&what, DEADLINE, || async {
        delivered(fabric, admin, to).await >= count
    })
    .await;
}

/// A unit's broker.
pub(crate) fn broker(fabric: &mut Fabric, unit: &str) -> LabBroker {
    fabric.lab().unit(unit).unwrap().brokers[0].clone()
}

/// As an operator does with a key of the space, without setgate. The wires of the fabric are this thread's as well: whoever
/// blocks it cuts them.
pub(crate) async fn etcdctl(lab: &LabFile, verb: &[&str], key: &str, more: &[&str]) -> String {
    let output = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints={}", lab.etcd.join(",")))
        .args(verb)
        .arg(format!("/setgate/{}/{key}", lab.space))
        .args(more)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
