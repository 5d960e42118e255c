//! What processes take, by `/proc`: processor time, resident memory, open descriptors.

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// A second in `/proc/PID/stat`, which Linux shows in hundredths on every machine.
const TICKS_PER_SECOND: f64 = 100.0;
const MEBIBYTE: f64 = 1_048_576.0;

/// Processor time of a process and of all its children that run, user and system.
pub(super) fn processor_time(pid: u32) -> Duration {
    let all = processes();
    let mut family = vec![pid];
    let mut ticks = 0;
    // A child is behind its parent in this list, which grows while it is read.
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        next += 1;
        ticks += all.get(&parent).map_or(0, |stat| stat.ticks);
        let children = all.iter().filter(|(_, stat)| stat.parent == parent);
        family.extend(children.map(|(child, _)| *child));
    }
    Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND)
}

/// Begins anew to look for a process's largest resident memory.
pub(super) fn forget_peak(pid: u32) {
    // Not allowed to everybody, and then the peak is that since the process began: more, never less.
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// Largest resident memory since [`forget_peak`], in MiB.
pub(super) fn peak_mib(pid: u32) -> f64 {
    memory_bytes(pid, "VmHWM:").unwrap_or(0) as f64 / MEBIBYTE
}

/// Resident memory now; `None` when the process is gone.
pub(super) fn resident_bytes(pid: u32) -> Option<u64> {
    memory_bytes(pid, "VmRSS:")
}

/// `VmRSS:   12345 kB` in `/proc/PID/status`.
fn memory_bytes(pid: u32, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1_024)
}

/// Files and sockets that are open.
pub(super) fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Lets a process run on the first so many cores alone: all threads that it has.
pub(super) fn pin(pid: u32, cores: usize) {
    let mut set = CpuSet::new();
    for core in 0..cores {
        set.set(core);
    }
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    for thread in threads.into_iter().flatten().flatten() {
        let id = thread.file_name().to_str().and_then(|id| id.parse().ok());
        // One that has ended meanwhile runs nowhere.
        let _ = sched_setaffinity(id.and_then(Pid::from_raw), &set);
    }
}

struct Stat {
    parent: u32,
    ticks: u64,
}

fn processes() -> BTreeMap<u32, Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, read_stat(&text)?))
    })
    .collect()
}

/// A program's name stands in parentheses and may hold anything, parentheses too.
fn read_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(1)?).ok()?,
        ticks: number(11)? + number(12)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_program_is_called() {
        let line = "12 (a) b (c) S 7 12 12 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 5 6 7";
        let stat = read_stat(line).unwrap();
        assert_eq!((stat.parent, stat.ticks), (7, 300));
        assert!(read_stat("12 (a").is_none());
    }

    #[test]
    fn this_process_has_taken_time_and_memory() {
        let own = std::process::id();
        let begun = processor_time(own);
        let mut sum = 0_u64;
        while processor_time(own) == begun {
            sum = sum.wrapping_add(std::hint::black_box(1));
        }
        assert!(processor_time(own) > begun);
        assert!(peak_mib(own) > 1.0);
        assert!(resident_bytes(own).unwrap() > 1_024);
        assert!(descriptors(own) > 2);
    }
}
