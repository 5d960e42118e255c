//! A space grows from one unit to three and loses one again under traffic, by the very commands of `docs/growing.md`.

use crate::harness::{account, assert_clean, more_delivered, traffic};
use setgate::lab::fabric::test_lab_dir;
use setgate::lab::{Fabric, FabricSpec, Reporter};
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

/// The blocks of commands below each heading, by its text; those of the lab aside.
fn chapters() -> Vec<(String, Vec<String>)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/growing.md");
    let text = std::fs::read_to_string(file).unwrap();
    let mut chapters: Vec<(String, Vec<String>)> = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        match (&mut block, line) {
            (None, "```sh") => block = Some(String::new()),
            (Some(commands), "```") => {
                if !commands.contains("setgate-lab") {
                    let last = chapters.last_mut().unwrap();
                    last.1.push(std::mem::take(commands));
                }
                block = None;
            }
            (Some(commands), line) => {
                commands.push_str(line);
                commands.push('\n');
            }
            (None, line) => {
                if let Some(heading) = line.strip_prefix("## ") {
                    chapters.push((heading.to_owned(), Vec::new()));
                }
            }
        }
    }
    chapters
}

/// Runs a block as a person would paste it, and fails with what it printed.
async fn run(commands: &str, folder: &Path, gateway: &Path) {
    let setgate = Path::new(env!("CARGO_BIN_EXE_setgate")).parent().unwrap();
    let output = Command::new("bash")
        .args(["-e", "-c"])
        .arg(format!(
            "export PATH={}:$PATH\n{commands}",
            setgate.display()
        ))
        .env("GATEWAY", gateway)
        .current_dir(folder)
        .output()
        .await
        .unwrap();
    assert!(
        output.status.success(),
        "{commands}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn one_unit_becomes_active_active_then_two_sites_and_three_centers_and_one_is_retired_under_traffic()
 {
    let dir = test_lab_dir().with_file_name("fault-labs").join("growing");
    let spec = FabricSpec::profile("two-sites-three-centers")
        .begins_with("single")
        .rtt(Duration::from_millis(20))
        .binary(env!("CARGO_BIN_EXE_setgate"))
        .dir(dir);
    let mut fabric = Fabric::up(spec, Reporter::Quiet).await.unwrap();
    let gateway = fabric.gateway("sh-1-a").unwrap();
    let (admin, config) = (gateway.admin, gateway.config);
    let folder = tempfile::tempdir().unwrap();
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("routing-rules");
    std::os::unix::fs::symlink(rules, folder.path().join("routing-rules")).unwrap();
    let traffic = traffic(
        fabric.dir(),
        &[
            "--from",
            "sh-1",
            "--messages",
            "12000",
            "--keys",
            "300",
            "--rate",
            "300",
        ],
    );
    more_delivered(&fabric, &admin, "sh-1", 50).await;
    for (heading, blocks) in chapters() {
        for commands in &blocks {
            if commands.contains("members retire") {
                let away = "gateway/bj-1-a".parse().unwrap();
                fabric.stop(&away).await.unwrap();
            }
            run(commands, folder.path(), Path::new(&config)).await;
        }
        // Each of them serves its share before the next step.
        let serving: &[&str] = match heading.as_str() {
            "One unit becomes three" | "Two sites, three centers" => &["sh-1", "sh-2", "bj-1"],
            _ => &["sh-1", "sh-2"],
        };
        for unit in serving {
            more_delivered(&fabric, &admin, unit, 50).await;
        }
    }
    assert_clean(&account(traffic).await);
    fabric.down().await.unwrap();
}
