//! TLS to a broker: by password and by certificate, with bodies over several frames and TLS records.

use crate::node::{
    Node, consume, delivery, dialer, publish, publisher, settlement, supervise, to_queue,
};
use bytes::Bytes;
use setgate::broker::{
    BrokerError, LanePublisher, OpenError, Outcome, QueueType, Settings, Tls, depth,
    ensure_lane_queue,
};
use setgate::lab::ca::{Identity, Validity};

/// Over three frames of 128 KiB, and twenty TLS records.
const BODY_BYTES: usize = 300 * 1024;
const LANE: &str = "setgate.t.lane";
/// The name in a gateway's certificate, and of its user.
const GATEWAY: &str = "spiffe://setgate/trade/sh-1";

/// Declares, publishes and consumes.
async fn carries(settings: &Settings) {
    let declaring = supervise(settings).await;
    ensure_lane_queue(&declaring, LANE, QueueType::Classic, "", &[])
        .await
        .unwrap();
    let dialer = dialer(settings);
    let mut sender = publisher(&dialer, Some("setgate.t.lock")).await;
    let bodies: Vec<Bytes> = (1..=20u8).map(|n| vec![n; BODY_BYTES].into()).collect();
    let batch = bodies.iter().enumerate().map(|(n, body)| {
        let mut publish = to_queue(LANE, n);
        publish.body = body.clone();
        publish
    });
    let outcomes = publish(&mut sender, batch.collect()).await;
    assert!(outcomes.iter().all(|one| *one == Outcome::Confirmed));
    sender.close().await.unwrap();
    let mut consumer = consume(&dialer, LANE, 5).await;
    for body in bodies {
        let (tag, message) = delivery(&mut consumer).await;
        assert!(message.body == body);
        consumer.acknowledge(&settlement(tag)).unwrap();
    }
    consumer.close().await.unwrap();
    assert_eq!(depth(&declaring, LANE).await, Ok(Some(0)));
}

async fn refusal(settings: &Settings) -> String {
    match LanePublisher::open(&dialer(settings), "t", None).await {
        Err(OpenError::Broker(BrokerError::Down { cause, .. })) => cause,
        other => panic!("{other:?}"),
    }
}

fn identity(identity: Identity) -> (String, secrecy::SecretString) {
    (identity.cert_pem, identity.key_pem.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_a_gateway_logs_in_by_password_or_by_its_certificate() {
    let node = Node::start();
    let mut settings = node.settings("guest");
    settings.uris = vec![format!("amqps://guest@localhost:{}/%2f", node.amqps).into()];
    let ca = Some(node.ca.cert_pem());
    let anonymous = Tls {
        ca: ca.clone(),
        identity: None,
    };
    settings.tls = Some(anonymous.clone());
    carries(&settings).await;

    settings.password = None;
    settings.uris = vec![
        format!(
            "amqps://localhost:{}/%2f?auth_mechanism=external",
            node.amqps
        )
        .into(),
    ];
    settings.tls = Some(Tls {
        ca: ca.clone(),
        identity: Some(identity(
            node.ca.issue_uri(GATEWAY, Validity::Good).unwrap(),
        )),
    });
    // Nobody of that name yet.
    let cause = refusal(&settings).await;
    assert!(cause.contains("ACCESS_REFUSED"), "{cause}");
    node.ctl(&["add_user", GATEWAY, "unused"]);
    let own = r"^setgate\..*|^amq\.default$";
    node.ctl(&["set_permissions", GATEWAY, own, own, own]);
    carries(&settings).await;

    // Without a certificate, and with one that has run out: not let in.
    let valid = settings.tls.replace(anonymous);
    let cause = refusal(&settings).await;
    assert!(cause.contains("EXTERNAL"), "{cause}");
    let expired = node.ca.issue_uri(GATEWAY, Validity::Expired).unwrap();
    settings.tls = valid.map(|tls| Tls {
        identity: Some(identity(expired)),
        ..tls
    });
    let cause = refusal(&settings).await;
    // What the broker says of it is lost when it resets the connection, because our first bytes came after its last.
    let told = cause.contains("ertificate") || cause.contains("reset by peer");
    assert!(told, "{cause}");
}
