//! A wire between two sites: a TCP proxy with delay and cuts.
//!
//! Owns one listening socket and the connections through it. Delays each byte by the one-way time without slowing the
//! flow: bytes that are on their way wait in a queue, not in a sleep per read. A cut is a black hole, as of a WAN: bytes
//! of that direction stop, connections stay open, and new ones hang until the wire is healed; then everything that was
//! on its way arrives, as TCP would send it again. Counts what it carries, and can bound the bandwidth. Never drops,
//! changes or reorders a byte. Where packets are to be lost for true, it goes by way of [`super::packets`].

use super::LabError;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Bytes on their way in one direction of one connection. 1 Gbit/s over 100 ms one way is 12.5 MB.
const ON_THE_WAY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Read at once; small enough that a permit for it is soon there.
const CHUNK_BYTES: usize = 64 * 1024;
/// On their way where the bandwidth is bounded: what a router's buffer holds. More would only make everybody wait.
const BUFFER_BYTES: usize = 256 * 1024;
/// Chunks on their way: a bound on the queue's own memory where chunks are tiny (4 000 frames/s over 500 ms is 2 000).
const CHUNKS_MAX: usize = 16_384;
/// Longest wait for the far end of a new connection.
const CONNECT: Duration = Duration::from_secs(5);

/// One direction of a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Bytes flow.
    Open,
    /// Bytes stop.
    Cut,
}

/// The state of a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wire {
    /// One-way delay, half of the round trip.
    pub delay: Duration,
    /// From those who connect to those who listen.
    pub forward: Gate,
    /// Back.
    pub backward: Gate,
    /// Each way, over all connections together; `None`: what the machine gives.
    pub bytes_per_second: Option<u32>,
    /// Where it connects to instead of its target: the near end of another way there.
    pub via: Option<SocketAddr>,
}

/// One direction of all connections: what has gone, and when the wire is free again.
#[derive(Debug, Default)]
struct Line {
    bytes: AtomicU64,
    free: Mutex<Option<Instant>>,
}

impl Line {
    /// When so many bytes will have gone, if they go as soon as those before them.
    fn reserve(&self, length: usize, bytes_per_second: u32) -> Instant {
        let time = Duration::from_secs_f64(length as f64 / f64::from(bytes_per_second.max(1)));
        let mut free = self.free.lock();
        let gone = free.map_or_else(Instant::now, |free| free.max(Instant::now())) + time;
        *free = Some(gone);
        gone
    }
}

/// A running proxy. Dropping it ends its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    target: SocketAddr,
    wire: watch::Sender<Wire>,
    lines: [Arc<Line>; 2],
    end: CancellationToken,
}

impl Proxy {
    /// Listens on a free loopback port and carries to `target`.
    pub async fn start(
        target: SocketAddr,
        delay: Duration,
        tasks: &TaskTracker,
    ) -> Result<Self, LabError> {
        let describe = |source| LabError::Listen {
            from: "loopback".to_owned(),
            to: target.to_string(),
            source,
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .map_err(describe)?;
        Self::serve(listener, target, delay, tasks).map_err(describe)
    }

    /// Carries what comes to `listener`.
    pub(super) fn serve(
        listener: TcpListener,
        target: SocketAddr,
        delay: Duration,
        tasks: &TaskTracker,
    ) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let (wire, states) = watch::channel(Wire {
            delay,
            forward: Gate::Open,
            backward: Gate::Open,
            bytes_per_second: None,
            via: None,
        });
        let end = CancellationToken::new();
        let lines = [Arc::default(), Arc::default()];
        let carry = Carry {
            target,
            wire: states,
            lines: lines.clone(),
        };
        tasks.spawn(accept(listener, carry, end.clone(), tasks.clone()));
        Ok(Self {
            address,
            target,
            wire,
            lines,
            end,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts or heals the way from those who connect.
    pub fn set_forward(&self, gate: Gate) {
        self.wire.send_modify(|wire| wire.forward = gate);
    }

    /// Cuts or heals the way back.
    pub fn set_backward(&self, gate: Gate) {
        self.wire.send_modify(|wire| wire.backward = gate);
    }

    /// Changes the one-way delay of bytes to come.
    pub fn set_delay(&self, delay: Duration) {
        self.wire.send_modify(|wire| wire.delay = delay);
    }

    /// Bounds the bandwidth of bytes to come, each way, over all connections together.
    pub fn set_bandwidth(&self, bytes_per_second: Option<u32>) {
        self.wire
            .send_modify(|wire| wire.bytes_per_second = bytes_per_second);
    }

    /// Leads new connections another way; those that there are end.
    pub fn set_via(&self, via: Option<SocketAddr>) {
        self.wire.send_if_modified(|wire| {
            let old = std::mem::replace(&mut wire.via, via);
            old != via
        });
    }

    /// Where it carries to.
    pub(super) fn target(&self) -> SocketAddr {
        self.target
    }

    /// Bytes that it has carried, both ways.
    pub fn carried(&self) -> u64 {
        let lines = self.lines.iter();
        lines.map(|line| line.bytes.load(Ordering::Relaxed)).sum()
    }

    /// How the wire is now.
    pub fn wire(&self) -> Wire {
        *self.wire.borrow()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// What a connection is carried with.
#[derive(Clone)]
struct Carry {
    target: SocketAddr,
    wire: watch::Receiver<Wire>,
    lines: [Arc<Line>; 2],
}

async fn accept(listener: TcpListener, carry: Carry, end: CancellationToken, tasks: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            () = end.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, _)) => {
                let (carry, end) = (carry.clone(), end.clone());
                tasks.spawn(async move {
                    tokio::select! {
                        () = end.cancelled() => {}
                        () = carry.connection(client) => {}
                    }
                });
            }
            // Out of file descriptors: what is open goes on, and there is room again when some of it closes.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

impl Carry {
    /// Carries one connection until both directions have ended.
    async fn connection(self, client: TcpStream) {
        let Self {
            target,
            mut wire,
            lines: [forward, backward],
        } = self;
        // A connect is a round trip too: it hangs while either way is cut.
        if until(&mut wire, |wire| {
            wire.forward == Gate::Open && wire.backward == Gate::Open
        })
        .await
        .is_err()
        {
            return;
        }
        let via = wire.borrow().via;
        let target = via.unwrap_or(target);
        let Ok(Ok(server)) = tokio::time::timeout(CONNECT, TcpStream::connect(target)).await else {
            return; // Dropping the client's socket says as much as a refusal would.
        };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (client_in, client_out) = client.into_split();
        let (server_in, server_out) = server.into_split();
        let mut ways = wire.clone();
        let carried = async {
            tokio::join!(
                one_way(client_in, server_out, wire.clone(), &forward, |wire| wire
                    .forward),
                one_way(server_in, client_out, wire, &backward, |wire| wire.backward),
            )
        };
        tokio::select! {
            _ = carried => {}
            _ = until(&mut ways, |wire| wire.via != via) => {}
        }
    }
}

/// A chunk on its way; its permit is the room that it takes.
struct OnTheWay {
    due: Instant,
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// Carries one direction until it ends, and passes its end on.
async fn one_way(
    from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    wire: watch::Receiver<Wire>,
    line: &Line,
    gate: impl Fn(&Wire) -> Gate,
) {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    let reading = read(from, sender, wire.clone());
    let writing = write(to, receiver, wire, line, gate);
    // A writer that fails drops the queue, which ends the reader, and the other way round.
    tokio::join!(reading, writing);
}

async fn read(
    mut from: impl AsyncRead + Unpin,
    queue: mpsc::Sender<OnTheWay>,
    wire: watch::Receiver<Wire>,
) {
    let room = Arc::new(Semaphore::new(ON_THE_WAY_BYTES_MAX));
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK_BYTES);
        let read = tokio::select! {
            () = queue.closed() => return,
            read = from.read_buf(&mut buffer) => read,
        };
        let Ok(length @ 1..) = read else {
            return;
        };
        let Wire {
            delay,
            bytes_per_second,
            ..
        } = *wire.borrow();
        let due = Instant::now() + delay;
        // Where the bandwidth is bounded, a chunk takes more of the room, so that the same room holds less.
        let weight = if bytes_per_second.is_some() {
            ON_THE_WAY_BYTES_MAX / BUFFER_BYTES
        } else {
            1
        };
        let permits = u32::try_from(length * weight).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&room).acquire_many_owned(permits).await else {
            return;
        };
        let chunk = OnTheWay {
            due,
            bytes: buffer.split().freeze(),
            _room: permit,
        };
        if queue.send(chunk).await.is_err() {
            return;
        }
    }
}

async fn write(
    mut to: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<OnTheWay>,
    mut wire: watch::Receiver<Wire>,
    line: &Line,
    gate: impl Fn(&Wire) -> Gate,
) {
    loop {
        let next = queue.recv().await;
        if let Some(chunk) = &next {
            let length = chunk.bytes.len();
            let bandwidth = wire.borrow().bytes_per_second;
            if let Some(bandwidth) = bandwidth {
                until_due(line.reserve(length, bandwidth)).await;
            }
            until_due(chunk.due).await;
            line.bytes.fetch_add(length as u64, Ordering::Relaxed);
        }
        if until(&mut wire, |wire| gate(wire) == Gate::Open)
            .await
            .is_err()
        {
            return;
        }
        let Some(chunk) = next else {
            let _ = to.shutdown().await;
            return;
        };
        if to.write_all(&chunk.bytes).await.is_err() {
            return;
        }
    }
}

/// Waits for a time. For one that has come a timer would take a millisecond, which no wire has.
pub(super) async fn until_due(due: Instant) {
    if due > Instant::now() {
        tokio::time::sleep_until(due).await;
    }
}

/// Waits until the wire is so; an error when its proxy is gone.
async fn until(
    wire: &mut watch::Receiver<Wire>,
    is: impl FnMut(&Wire) -> bool,
) -> Result<(), watch::error::RecvError> {
    wire.wait_for(is).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets, and a proxy before it.
    async fn echo(delay: Duration) -> (Proxy, TaskTracker) {
        let tasks = TaskTracker::new();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let target = listener.local_addr().unwrap();
        let each = tasks.clone();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                each.spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        (Proxy::start(target, delay, &tasks).await.unwrap(), tasks)
    }

    async fn ask(stream: &mut TcpStream, word: &[u8]) -> Vec<u8> {
        stream.write_all(word).await.unwrap();
        let mut answer = vec![0; word.len()];
        stream.read_exact(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_byte_takes_the_round_trip_and_a_stream_of_them_no_more() {
        let (proxy, _tasks) = echo(Duration::from_millis(100)).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let begin = Instant::now();
        assert_eq!(ask(&mut stream, b"x").await, b"x");
        assert!(begin.elapsed() >= Duration::from_millis(200));

        // 200 writes, each on its own: were the delay slept per read, this would take 40 s.
        let begin = Instant::now();
        let (mut read, mut write) = stream.split();
        let writing = async {
            for number in 0..200_u8 {
                write.write_all(&[number; 1000]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let reading = async {
            for number in 0..200_u8 {
                let mut chunk = [0; 1000];
                read.read_exact(&mut chunk).await.unwrap();
                assert_eq!(chunk, [number; 1000]);
            }
        };
        tokio::join!(writing, reading);
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "{:?}",
            begin.elapsed()
        );
    }

    #[tokio::test]
    async fn a_cut_holds_bytes_and_healing_lets_them_through() {
        let (proxy, _tasks) = echo(Duration::ZERO).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut stream, b"before").await, b"before");
        proxy.set_backward(Gate::Cut);
        let cut = tokio::time::timeout(Duration::from_millis(200), ask(&mut stream, b"during"));
        assert!(cut.await.is_err());
        let mut late = TcpStream::connect(proxy.address()).await.unwrap();
        let hung = tokio::time::timeout(Duration::from_millis(200), ask(&mut late, b"new"));
        assert!(hung.await.is_err());
        proxy.set_backward(Gate::Open);
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"during");
    }

    #[tokio::test]
    async fn a_bounded_bandwidth_holds_over_all_connections_and_bytes_are_counted() {
        let (proxy, _tasks) = echo(Duration::ZERO).await;
        proxy.set_bandwidth(Some(1_000_000));
        let mut streams = [
            TcpStream::connect(proxy.address()).await.unwrap(),
            TcpStream::connect(proxy.address()).await.unwrap(),
        ];
        let begin = Instant::now();
        let [one, other] = &mut streams;
        let word = vec![7; 150_000];
        tokio::join!(ask(one, &word), ask(other, &word));
        assert!(begin.elapsed() >= Duration::from_millis(300));
        assert_eq!(proxy.carried(), 600_000);
    }

    #[tokio::test]
    async fn another_way_ends_what_went_the_old_one_and_carries_what_comes() {
        let (proxy, _tasks) = echo(Duration::ZERO).await;
        let (other, _others) = echo(Duration::ZERO).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut stream, b"old").await, b"old");
        proxy.set_via(Some(other.address()));
        assert!(!matches!(stream.read(&mut [0]).await, Ok(1..)));
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut stream, b"new").await, b"new");
        assert_eq!(other.carried(), 6);
    }

    #[tokio::test]
    async fn an_end_of_one_side_reaches_the_other() {
        let (proxy, _tasks) = echo(Duration::from_millis(5)).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut stream, b"last").await, b"last");
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
    }
}
