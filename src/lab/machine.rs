//! What a benchmark ran on.

use std::collections::BTreeMap;

/// The machine and the versions.
pub(super) fn about() -> BTreeMap<String, String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned());
    let memory = rustix::system::sysinfo();
    let mib = (memory.totalram * u64::from(memory.mem_unit)) >> 20;
    let system = rustix::system::uname();
    let congestion =
        std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
    let facts = [
        ("processor", model),
        (
            "cores",
            std::thread::available_parallelism()
                .ok()
                .map(|n| n.to_string()),
        ),
        ("memory", Some(format!("{mib} MiB"))),
        (
            "kernel",
            Some(system.release().to_string_lossy().into_owned()),
        ),
        ("tcp", Some(congestion.trim().to_owned())),
        ("rabbitmq", rabbitmq()),
        ("setgate", Some(env!("CARGO_PKG_VERSION").to_owned())),
    ];
    facts
        .into_iter()
        .filter_map(|(name, fact)| Some((name.to_owned(), fact?)))
        .collect()
}

/// By the folder that the package puts it in.
fn rabbitmq() -> Option<String> {
    std::fs::read_dir("/usr/lib/rabbitmq/lib")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find_map(|name| Some(name.strip_prefix("rabbitmq_server-")?.to_owned()))
}
