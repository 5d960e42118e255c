//! What answers at an address and is no broker, or not for long.

use crate::node::{dialer, within};
use setgate::broker::{BrokerError, Consumer, ConsumerKind, LanePublisher, OpenError, Settings};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// Gives each connection to `serve`.
async fn server<F: Future<Output = ()> + Send>(
    serve: impl Fn(TcpStream) -> F + Send + Sync + 'static,
) -> Settings {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
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
        tokio::spawn(async move { while stream.read_u8().await.is_ok() {} });
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
