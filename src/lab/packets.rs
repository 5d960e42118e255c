//! A way of true packets between two sites: delay, loss and bandwidth below TCP.
//!
//! Owns two TUN devices, of which one lies in a network namespace of its own, and every packet between them; what
//! connects to the near end of a way comes out at its target. Nothing of it has a name outside of this process, and all
//! of it is gone with it. Needs root.

use super::LabError;
use super::proxy::{Proxy, until_due};
use bytes::Bytes;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_tun::Tun;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// As Ethernet has it, since that is what a loss takes away.
const MTU_BYTES: u16 = 1_500;
/// Packets on their way in one direction: 1 Gbit/s over 100 ms one way is 8 300 of them.
const PACKETS_MAX: usize = 16_384;
/// In a router's buffer where the bandwidth is bounded; what is beyond it is lost.
const BUFFER_BYTES: f64 = 256.0 * 1024.0;
/// Packets that wait in a device until they are read: a task that is late must not lose any.
const DEVICE_PACKETS: &str = "10000";

/// How packets fare, each way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// One way.
    pub(super) delay: Duration,
    /// The share that gets lost, 0 to 1.
    pub(super) loss: f64,
    /// Bytes per second; `None`: what the machine gives.
    pub(super) bandwidth: Option<u32>,
}

/// Ways that lead through the same pair of devices. Dropping it ends them.
pub(super) struct Packets {
    shape: watch::Sender<Shape>,
    ways: Vec<(SocketAddr, Proxy)>,
    _end: DropGuard,
}

/// The end inside of the namespace.
struct Inside {
    tun: Tun,
    listeners: Vec<std::net::TcpListener>,
}

impl Packets {
    /// A way to each of these targets, all on loopback.
    pub(super) async fn lay(targets: &[SocketAddr], tasks: &TaskTracker) -> Result<Self, LabError> {
        // 198.18.0.0/15 is for benchmarks (RFC 2544); another process has another part of it.
        let [.., part] = std::process::id().to_be_bytes();
        let (near, far) = (
            Ipv4Addr::new(198, 18, part, 1),
            Ipv4Addr::new(198, 18, part, 2),
        );
        let (runtime, count) = (Handle::current(), targets.len());
        let (tell, told) = tokio::sync::oneshot::channel();
        // A thread's namespace is its own, and what is made in it stays there.
        std::thread::spawn(move || {
            let _guard = runtime.enter();
            let _ = tell.send(inside(far, near, count));
        });
        let gone = |_| failed("making a network namespace")("its thread has ended");
        let inside = told.await.map_err(gone)??;
        let outside = device(near, far)?;
        let mut ways = Vec::with_capacity(count);
        for (target, listener) in targets.iter().zip(inside.listeners) {
            let listen = failed("listening in a network namespace");
            let way = listener
                .set_nonblocking(true)
                .and_then(|()| TcpListener::from_std(listener))
                .and_then(|listener| Proxy::serve(listener, *target, Duration::ZERO, tasks));
            ways.push((*target, way.map_err(listen)?));
        }
        let (shape, shapes) = watch::channel(Shape {
            delay: Duration::ZERO,
            loss: 0.0,
            bandwidth: None,
        });
        let end = CancellationToken::new();
        let (outside, inside) = (Arc::new(outside), Arc::new(inside.tun));
        for (seed, from, to) in [(1, &outside, &inside), (2, &inside, &outside)] {
            let one_way = carry(Arc::clone(from), Arc::clone(to), shapes.clone(), seed);
            let end = end.clone();
            tasks.spawn(async move {
                tokio::select! {
                    () = end.cancelled() => {}
                    () = one_way => {}
                }
            });
        }
        Ok(Self {
            shape,
            ways,
            _end: end.drop_guard(),
        })
    }

    /// How packets fare from now on.
    pub(super) fn set(&self, shape: Shape) {
        self.shape.send_replace(shape);
    }

    /// The near end of the way to a target.
    pub(super) fn near_end(&self, target: SocketAddr) -> Option<SocketAddr> {
        let mut ways = self.ways.iter();
        ways.find(|(to, _)| *to == target)
            .map(|(_, way)| way.address())
    }
}

/// Moves the calling thread into a namespace of its own, with a device and sockets in it.
fn inside(own: Ipv4Addr, peer: Ipv4Addr, sockets: usize) -> Result<Inside, LabError> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .map_err(failed("making a network namespace"))?;
    let tun = device(own, peer)?;
    let listen = |_| std::net::TcpListener::bind((own, 0));
    let listeners: Result<Vec<_>, _> = (0..sockets).map(listen).collect();
    Ok(Inside {
        tun,
        listeners: listeners.map_err(failed("listening in a network namespace"))?,
    })
}

fn device(own: Ipv4Addr, peer: Ipv4Addr) -> Result<Tun, LabError> {
    let doing = "making a TUN device";
    let built = Tun::builder()
        .name("setgate%d")
        .mtu(MTU_BYTES.into())
        .address(own)
        .destination(peer)
        .up()
        .build();
    let tun = built.map_err(failed(doing))?.pop();
    let tun = tun.ok_or_else(|| failed(doing)("there is none"))?;
    let set = Command::new("ip")
        .args(["link", "set", "dev", tun.name()])
        .args(["txqueuelen", DEVICE_PACKETS])
        .status();
    match set {
        Ok(status) if status.success() => Ok(tun),
        Ok(status) => Err(failed("ip link set txqueuelen")(status)),
        Err(error) => Err(failed("ip link set txqueuelen")(error)),
    }
}

fn failed<E: std::fmt::Display>(doing: &'static str) -> impl Fn(E) -> LabError {
    move |error| LabError::Packets {
        doing,
        cause: error.to_string(),
    }
}

/// Carries one direction, in order.
async fn carry(from: Arc<Tun>, to: Arc<Tun>, shape: watch::Receiver<Shape>, seed: u64) {
    let (queue, mut on_the_way) = mpsc::channel::<(Instant, Bytes)>(PACKETS_MAX);
    let reading = async {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut buffer = vec![0; usize::from(MTU_BYTES)];
        let mut free = Instant::now();
        while let Ok(length) = from.recv(&mut buffer).await {
            let shape = *shape.borrow();
            if random.f64() < shape.loss {
                continue;
            }
            let now = Instant::now();
            if let Some(bandwidth) = shape.bandwidth.map(|bytes| f64::from(bytes.max(1))) {
                let waits = free.saturating_duration_since(now).as_secs_f64();
                if waits * bandwidth > BUFFER_BYTES {
                    continue;
                }
                free = free.max(now) + Duration::from_secs_f64(length as f64 / bandwidth);
            } else {
                free = now;
            }
            let packet = Bytes::copy_from_slice(&buffer[..length]);
            // A full queue loses it, as a router would.
            let _ = queue.try_send((free + shape.delay, packet));
        }
    };
    let writing = async {
        while let Some((due, packet)) = on_the_way.recv().await {
            until_due(due).await;
            let _ = to.send(&packet).await;
        }
    };
    tokio::join!(reading, writing);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_goes_by_packets_arrives_whole_in_spite_of_loss_and_takes_the_round_trip() {
        let tasks = TaskTracker::new();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let target = listener.local_addr().unwrap();
        let packets = Packets::lay(&[target], &tasks).await.unwrap();
        packets.set(Shape {
            delay: Duration::from_millis(20),
            loss: 0.05,
            bandwidth: None,
        });
        tasks.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
        let begin = Instant::now();
        let near = packets.near_end(target).unwrap();
        let mut stream = TcpStream::connect(near).await.unwrap();
        let sent: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let (mut read, mut write) = stream.split();
        let mut got = vec![0; sent.len()];
        let (wrote, came) = tokio::join!(write.write_all(&sent), read.read_exact(&mut got));
        wrote.unwrap();
        came.unwrap();
        assert!(got == sent);
        // The handshake, and there and back.
        assert!(begin.elapsed() >= Duration::from_millis(80));
    }
}
