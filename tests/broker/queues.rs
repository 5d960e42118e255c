//! Queues, connections and locks: what is declared, held, refused.

use crate::node::{
    Node, consume, delivery, dialer, lost, publish, publisher, supervise, to_queue, within,
};
use bytes::Bytes;
use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable as LapinTable};
use setgate::amqp::FieldTable;
use setgate::broker::{
    Binding, BrokerError, ConnectionState, Consumer, ConsumerKind, DeclareError, Dialer,
    ForeignKind, InspectError, LanePublisher, Management, Outcome, QueueType, Tls, depth,
    ensure_lane_queue, ensure_own_queue, hold, inspect_foreign_queue,
};

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_declared_judged_and_locked() {
    let node = Node::start();
    let one = node.connect().await;
    let messages = node.dialer();
    let application = node.application().await;
    let bindings = [Binding {
        routing_key: Bytes::from_static(b"order.#"),
        arguments: FieldTable::new(),
    }];

    // Declarations: idempotent, and clear about what is different or missing.
    let missing = ensure_lane_queue(
        &one,
        "setgate.t.lane",
        QueueType::Quorum,
        "orders",
        &bindings,
    )
    .await;
    assert!(
        matches!(&missing, Err(DeclareError::NoExchange { exchange, .. }) if exchange == "orders"),
        "{missing:?}"
    );
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..Default::default()
    };
    application
        .exchange_declare(
            "orders".into(),
            lapin::ExchangeKind::Topic,
            durable,
            LapinTable::default(),
        )
        .await
        .unwrap();
    for _ in 0..2 {
        ensure_lane_queue(
            &one,
            "setgate.t.lane",
            QueueType::Quorum,
            "orders",
            &bindings,
        )
        .await
        .unwrap();
        ensure_own_queue(&one, "setgate.t.park", QueueType::Quorum)
            .await
            .unwrap();
    }

    // Each is told of its own queue, also once all numbers of channels have been used, most by channels that ended with an
    // error; meanwhile the connection may be a new one.
    let mut asking = tokio::task::JoinSet::new();
    for asker in 0..16 {
        let one = one.clone();
        asking.spawn(async move {
            for number in 0..300 {
                let absent = format!("absent-{asker}-{number}");
                let is_there = number % 4 == 0;
                let queue = if is_there { "setgate.t.lane" } else { &absent };
                let found = loop {
                    match depth(&one, queue).await {
                        Ok(found) => break found,
                        Err(BrokerError::Lost { .. } | BrokerError::Down { .. }) => one.up().await,
                        Err(error) => panic!("{error}"),
                    }
                };
                assert_eq!(found.is_some(), is_there, "{queue}");
            }
        });
    }
    while let Some(asked) = within(asking.join_next()).await {
        asked.unwrap();
    }
    let other = ensure_lane_queue(
        &one,
        "setgate.t.lane",
        QueueType::Classic,
        "orders",
        &bindings,
    )
    .await;
    assert!(
        matches!(&other, Err(DeclareError::Different { text, .. }) if text.contains("x-queue-type")),
        "{other:?}"
    );
    assert_eq!(depth(&one, "setgate.t.park").await, Ok(Some(0)));
    assert_eq!(depth(&one, "setgate.t.absent").await, Ok(None));

    // Foreign queues of all kinds, by the broker's refusals and by the management API.
    let quorum = ("x-queue-type", AMQPValue::LongString("quorum".into()));
    let stream = ("x-queue-type", AMQPValue::LongString("stream".into()));
    let single = ("x-single-active-consumer", AMQPValue::Boolean(true));
    let priority = ("x-max-priority", AMQPValue::ShortShortUInt(5));
    let ttl = ("x-message-ttl", AMQPValue::LongLongInt(600_000));
    let expected = [
        ("classic", true, vec![], ForeignKind::Classic, false, true),
        (
            "transient",
            false,
            vec![ttl.clone()],
            ForeignKind::Classic,
            false,
            true,
        ),
        (
            "classic-single",
            true,
            vec![single.clone(), priority, ttl],
            ForeignKind::Classic,
            true,
            true,
        ),
        (
            "quorum",
            true,
            vec![quorum.clone()],
            ForeignKind::Quorum,
            false,
            false,
        ),
        (
            "quorum-single",
            true,
            vec![quorum, single],
            ForeignKind::Quorum,
            true,
            true,
        ),
        (
            "stream",
            true,
            vec![stream],
            ForeignKind::Stream,
            false,
            false,
        ),
    ];
    let url = format!("http://127.0.0.1:{}", node.management);
    let management = Management::new(
        vec!["http://127.0.0.1:1".to_owned(), url],
        &node.settings("guest"),
    )
    .unwrap();
    for (name, durable, arguments, kind, single, held) in expected {
        let mut table = LapinTable::default();
        for (key, value) in arguments {
            table.insert(key.into(), value);
        }
        let options = QueueDeclareOptions {
            durable,
            ..Default::default()
        };
        application
            .queue_declare(name.into(), options, table)
            .await
            .unwrap();
        for asked in [None, Some(&management)] {
            let queue = within(inspect_foreign_queue(&one, asked, name))
                .await
                .unwrap();
            assert_eq!(
                (queue.kind, queue.single_active_consumer, queue.durable),
                (kind, single, durable),
                "{name}"
            );
            assert_eq!(hold(&queue).is_ok(), held, "{name}");
        }
    }
    let absent = inspect_foreign_queue(&one, None, "absent").await;
    assert!(
        matches!(absent, Err(InspectError::NotFound { .. })),
        "{absent:?}"
    );
    assert_eq!(
        depth(&one, "absent").await,
        Ok(None),
        "looking creates nothing"
    );

    // A second exclusive consumer is refused.
    let open = async |dialer: &Dialer| {
        let kind = ConsumerKind::Exclusive;
        within(Consumer::open(
            dialer,
            "lane t/0",
            "classic",
            kind,
            5,
            1 << 20,
        ))
        .await
    };
    let first = open(&messages).await.unwrap();
    let second = open(&messages).await;
    assert!(
        matches!(&second, Err(BrokerError::Refused { code: 403, .. })),
        "{second:?}"
    );
    first.close().await.unwrap();
    open(&messages).await.unwrap().close().await.unwrap();

    // With the least permissions, a foreign queue is told apart by the management API alone.
    node.ctl(&[
        "eval",
        r#"
        ok = rabbit_auth_backend_internal:add_user(<<"least">>, <<"least">>, <<"test">>),
        ok = rabbit_auth_backend_internal:set_tags(<<"least">>, [management], <<"test">>),
        ok = rabbit_auth_backend_internal:set_permissions(<<"least">>, <<"/">>, <<"^setgate\\.">>,
            <<"^setgate\\.">>, <<"^(setgate\\.|classic$|orders$)">>, <<"test">>)."#,
    ]);
    let least = node.connect_as("least").await;
    ensure_lane_queue(
        &least,
        "setgate.t.lane",
        QueueType::Quorum,
        "orders",
        &bindings,
    )
    .await
    .unwrap();
    let refused = inspect_foreign_queue(&least, None, "classic").await;
    assert!(
        matches!(refused, Err(InspectError::NotAllowed { .. })),
        "{refused:?}"
    );
    let settings = node.settings("least");
    let url = format!("http://127.0.0.1:{}/", node.management);
    let management = Management::new(vec![url], &settings).unwrap();
    inspect_foreign_queue(&least, Some(&management), "classic")
        .await
        .unwrap();
    let mut taken = open(&dialer(&settings)).await.unwrap();
    let refused = ensure_own_queue(&least, "elsewhere", QueueType::Classic).await;
    assert!(
        matches!(refused, Err(DeclareError::NotAllowed { .. })),
        "{refused:?}"
    );
    application
        .queue_delete("classic".into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    lost(&mut taken).await;

    // Who can't get in is told why; over TLS only with the right authority.
    let cause = node
        .refusal(|settings| settings.password = Some("hush".to_owned().into()))
        .await;
    assert!(
        cause.contains("check user and password") && !cause.contains("hush"),
        "{cause}"
    );
    let elsewhere = format!("amqp://guest:guest@127.0.0.1:{}/absent", node.amqp);
    let cause = node
        .refusal(|settings| settings.uris = vec![elsewhere.into()])
        .await;
    assert!(cause.contains("create the vhost"), "{cause}");
    let amqps = format!("amqps://guest:guest@localhost:{}/%2f", node.amqps);
    let cause = node
        .refusal(|settings| settings.uris = vec![amqps.clone().into()])
        .await;
    assert!(cause.contains("certificate"), "{cause}");
    let mut settings = node.settings("guest");
    settings.uris = vec![amqps.into()];
    settings.tls = Some(Tls {
        ca: Some(node.ca.cert_pem()),
        identity: None,
    });
    let encrypted = supervise(&settings).await;
    assert!(
        matches!(encrypted.state(), ConnectionState::Up { uri, .. } if uri.starts_with("amqps://guest@localhost"))
    );
    assert_eq!(depth(&encrypted, "setgate.t.park").await, Ok(Some(0)));

    // So do messages.
    let mut sender = publisher(&dialer(&settings), None).await;
    let batch = (0..100).map(|n| to_queue("setgate.t.park", n)).collect();
    let outcomes = publish(&mut sender, batch).await;
    assert!(outcomes.iter().all(|one| *one == Outcome::Confirmed));
    sender.close().await.unwrap();
    let mut receiver = consume(&dialer(&settings), "setgate.t.park", 100).await;
    for n in 0..100 {
        let (_, message) = delivery(&mut receiver).await;
        assert_eq!(message.body, format!("message {n}"));
    }
    receiver.close().await.unwrap();
    settings.tls = None;
    let stranger = LanePublisher::open(&dialer(&settings), "t", None).await;
    let words = stranger.unwrap_err().to_string();
    assert!(words.contains("certificate"), "{words}");
}
