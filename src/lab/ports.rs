//! Loopback ports that no other lab or test takes meanwhile.
//!
//! A port found by binding port 0 can be another's before its process binds it again: the kernel hands the same range to
//! every outgoing connection. So ports come from below that range (32768 on Linux), in blocks, and a block belongs to
//! the process that holds the lock on its file. The lock goes with the process, however it ends.

use super::LabError;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

/// Lowest port given out; below are well-known services.
const FIRST: u16 = 20_000;
/// A lab of three units with two gateways and three brokers each takes 42.
const BLOCK: u16 = 64;
/// `FIRST + BLOCKS * BLOCK` = 32 736, just below the range of outgoing connections.
const BLOCKS: u16 = 199;

/// Blocks that this process holds, and the next port to try.
struct Held {
    locks: Vec<File>,
    next: u16,
    end: u16,
}

static HELD: Mutex<Held> = Mutex::new(Held {
    locks: Vec::new(),
    next: 0,
    end: 0,
});

/// A free loopback port, this process's own until it ends.
pub(crate) fn free() -> Result<u16, LabError> {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        while held.next < held.end {
            let port = held.next;
            held.next += 1;
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(port);
            }
        }
        let (lock, first) = claim()?;
        held.locks.push(lock);
        held.next = first;
        held.end = first + BLOCK;
    }
}

/// Locks a block that nobody holds.
fn claim() -> Result<(File, u16), LabError> {
    let dir = std::env::temp_dir().join("setgate-lab-ports");
    std::fs::create_dir_all(&dir).map_err(LabError::file("create", &dir))?;
    // Another start for each process: a block whose owner has just ended may still have sockets in TIME_WAIT.
    let start = fastrand::u16(0..BLOCKS);
    for step in 0..BLOCKS {
        let block = (start + step) % BLOCKS;
        let path = dir.join(block.to_string());
        let file = File::create(&path).map_err(LabError::file("create", &path))?;
        if file.try_lock().is_ok() {
            return Ok((file, FIRST + block * BLOCK));
        }
    }
    Err(LabError::NoPort {
        from: FIRST,
        to: FIRST + BLOCKS * BLOCK,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_out_once() {
        let ports: std::collections::BTreeSet<u16> = (0..100).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 100);
    }
}
