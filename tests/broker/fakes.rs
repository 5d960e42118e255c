//! What answers at an address and is no broker, or not for long.

use crate::node::{dialer, outcomes, publisher, to_queue, within};
use bytes::Bytes;
use setgate::broker::{
    BrokerError, Consumer, ConsumerKind, LanePublisher, OpenError, Outcome, PublishId, Settings,
};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// Gives each connection to `serve`.
async fn server<F: Future<Output = ()> + Send>(
    serve: impl Fn(TcpStream) -> F + Send + Sync + 'static,
) -> Settings {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    TaskTracker::new().spawn(async move {
        loop {
            serve(listener.accept().await.unwrap().0).await;
        }
    });
    Settings {
        uris: vec![format!("amqp://setgate:hush@127.0.0.1:{port}/%2f").into()],
        password: None,
        tls: None,
        heartbeat: Settings::HEARTBEAT,
        message_bytes_max: 1 << 20,
        name: "trade/sh-1/sh-1-a".to_owned(),
    }
}

/// Why a publisher and a consumer can't be opened: the same, told in time.
async fn refusal(settings: &Settings) -> String {
    let begun = Instant::now();
    let dialer = dialer(settings);
    let (publisher, consumer) = within(async {
        tokio::join!(
            LanePublisher::open(&dialer, "receiver t/0", Some("lock")),
            Consumer::open(&dialer, "lane t/0", "q", ConsumerKind::SingleActive, 1, 1)
        )
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(25));
    let Err(OpenError::Broker(BrokerError::Down { cause, .. })) = publisher else {
        panic!("{publisher:?}");
    };
    let words = consumer.unwrap_err().to_string();
    assert!(words.contains(&cause), "{words} {cause}");
    assert!(words.contains("amqp://setgate@127.0.0.1:"), "{words}");
    assert!(!words.contains("hush"), "{words}");
    cause
}

#[tokio::test]
async fn a_server_that_is_no_broker_is_told_from_one_in_bounded_time() {
    let silent = server(async |mut stream: TcpStream| {
        TaskTracker::new().spawn(async move { while stream.read_u8().await.is_ok() {} });
    })
    .await;
    let garbage = server(async |mut stream: TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = stream.read_u64().await;
    })
    .await;
    let leaving = server(async |mut stream: TcpStream| {
        let _ = stream.read_u64().await;
    })
    .await;
    let older = server(async |mut stream: TcpStream| {
        let _ = stream.read_u64().await;
        let _ = stream.write_all(b"AMQP\x00\x01\x00\x00").await;
    })
    .await;
    let (silent, garbage, leaving, older) = tokio::join!(
        refusal(&silent),
        refusal(&garbage),
        refusal(&leaving),
        refusal(&older)
    );
    assert!(silent.contains("within 10s"), "{silent}");
    assert!(garbage.contains("protocol"), "{garbage}");
    assert!(leaving.contains("closed the connection"), "{leaving}");
    assert!(older.contains("protocol"), "{older}");
}

/// What a server does once it is asked for confirms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Reads on and confirms nothing.
    Swallow,
    /// Reads nothing.
    Stop,
    /// Reads on and says that it takes no publishes.
    Block,
}

/// As much AMQP as a publisher needs to be opened and closed.
async fn speak(mut stream: TcpStream, then: Then) -> std::io::Result<()> {
    let method = |channel: u8, class: u8, method: u8, arguments: &[u8]| {
        let size = u8::try_from(arguments.len() + 4).unwrap();
        let mut frame = vec![1, 0, channel, 0, 0, 0, size, 0, class, 0, method];
        frame.extend_from_slice(arguments);
        frame.push(0xCE);
        frame
    };
    let start = b"\x00\x09\0\0\0\0\0\0\0\x05PLAIN\0\0\0\x05en_US";
    // 2,047 channels, frames of 128 KiB, a heartbeat each 600 s.
    let tune = [7, 255, 0, 2, 0, 0, 2, 88];
    stream.read_u64().await?;
    stream.write_all(&method(0, 10, 10, start)).await?;
    loop {
        let (kind, _channel) = (stream.read_u8().await?, stream.read_u16().await?);
        let mut payload = vec![0; stream.read_u32().await? as usize + 1];
        stream.read_exact(&mut payload).await?;
        let answers = match (kind, payload[1], payload[3]) {
            (1, 10, 11) => method(0, 10, 30, &tune),
            (1, 10, 40) => method(0, 10, 41, &[0]),
            (1, 20, 10) => method(1, 20, 11, &[0; 4]),
            (1, 85, 10) => method(1, 85, 11, &[]),
            (1, 20, 40) => method(1, 20, 41, &[]),
            (1, 10, 50) => method(0, 10, 51, &[]),
            _ => continue,
        };
        stream.write_all(&answers).await?;
        if payload[1] == 85 {
            match then {
                Then::Swallow => {}
                Then::Stop => std::future::pending().await,
                Then::Block => stream.write_all(&method(0, 10, 60, b"\x03low")).await?,
            }
        }
    }
}

/// What becomes of 64 MB of publishes within 32 s.
async fn outcome(then: Then) -> Option<String> {
    let mut settings = server(move |stream| async move {
        TaskTracker::new().spawn(speak(stream, then));
    })
    .await;
    settings.heartbeat = Duration::from_mins(10);
    let dialer = dialer(&settings);
    let mut publisher = publisher(&dialer, None).await;
    for n in 0..64 {
        let mut publish = to_queue("q", n);
        publish.body = Bytes::from(vec![0; 1 << 20]);
        publisher.publish(publish);
    }
    let outcomes = tokio::time::timeout(Duration::from_secs(32), outcomes(&mut publisher)).await;
    let cause = match outcomes {
        Err(_) => {
            assert!(publisher.is_open());
            assert_eq!(dialer.blocked().borrow().as_deref(), Some("low"));
            None
        }
        Ok(outcomes) => {
            assert_eq!(outcomes.len(), 64);
            match &outcomes[&PublishId(0)] {
                Outcome::Unknown { cause } => Some(cause.clone()),
                other => panic!("{other:?}"),
            }
        }
    };
    publisher.close().await.unwrap();
    assert_eq!(*dialer.blocked().borrow(), None);
    cause
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_confirms_or_takes_nothing_is_given_up_unless_it_says_that_it_is_blocked() {
    let (swallow, stop, block) = tokio::join!(
        outcome(Then::Swallow),
        outcome(Then::Stop),
        outcome(Then::Block)
    );
    assert!(swallow.unwrap().contains("no confirm within 30 s"));
    assert!(stop.unwrap().contains("took nothing for 30 s"));
    assert_eq!(block, None);
}

#[tokio::test]
async fn every_address_that_was_tried_is_named_with_its_cause() {
    let mut settings = server(async |_: TcpStream| {}).await;
    settings
        .uris
        .push("amqp://setgate:hush@127.0.0.1:1/%2f".to_owned().into());
    settings
        .uris
        .push("amqps://setgate:hush@127.0.0.1:1/%2f".to_owned().into());
    let cause = refusal(&settings).await;
    assert_eq!(cause.matches("connecting to amqp").count(), 3, "{cause}");
    assert_eq!(cause.matches("connection refused").count(), 2, "{cause}");
}
