//! A space's documents in a real etcd: what operators write there, and what gateways make of it.

#![allow(clippy::unwrap_used)] // helpers of tests fail as tests do

#[path = "rules_in_etcd/changes.rs"]
mod changes;
#[path = "shared/eventually.rs"]
mod eventually;
#[path = "rules_in_etcd/harness.rs"]
mod harness;

use harness::{Etcd, Gateway, PLACEMENT, documents, eventually, folder, rule, run, source, space};
use setgate::etcd::{
    BrokerHealth, Commit, EtcdConfig, EtcdCredentials, EtcdError, Key, Scope, SpaceView, Store,
    Transaction, WatchEnd,
};
use setgate::gateway::feed::{EtcdState, Feed, FeedError, FeedFrom, FeedState, Trouble};
use setgate::model::{Epoch, GatewayId, SourceName, UnitId};
use tempfile::tempdir;

fn has_source(state: &FeedState, name: &str) -> bool {
    let name = SourceName::parse(name).unwrap();
    state
        .table
        .as_ref()
        .is_some_and(|table| table.source(&name).is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transactions_documents_appear_together_at_every_gateway() {
    let etcd = Etcd::start().await;
    let (disk_1, disk_2) = (tempdir().unwrap(), tempdir().unwrap());
    let one = Gateway::start(FeedFrom::Etcd(etcd.config()), "sh-1", disk_1.path());
    let two = Gateway::start(FeedFrom::Etcd(etcd.config()), "sh-2", disk_2.path());
    assert_eq!(etcd.apply(&folder(&documents("orders")), &[]).await, 0);
    let first = one
        .until("the first table", |state| has_source(state, "orders"))
        .await;
    two.until("the first table", |state| has_source(state, "orders"))
        .await;
    assert_eq!(first.table.unwrap().epoch(), Epoch(1));

    // The source and its rule are in two files: half of the change would be a fault.
    for round in 0..10 {
        let name = format!("orders-{round}");
        assert_eq!(etcd.apply(&folder(&documents(&name)), &[]).await, 0);
        for gateway in [&one, &two] {
            let state = gateway
                .until("the changed table, without a fault on the way", |state| {
                    has_source(state, &name) || !state.faults.is_empty()
                })
                .await;
            assert!(state.faults.is_empty(), "{:?}", state.faults);
        }
    }
    let revision = |gateway: &Gateway| gateway.handle.table().unwrap().revision();
    assert_eq!(revision(&one), revision(&two));
    let sealed = one.handle.state().seal.is_some() && two.handle.state().seal.is_some();
    assert!(sealed);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_put_by_hand_make_the_space_and_come_in_force() {
    let etcd = Etcd::start().await;
    let disk = tempdir().unwrap();
    let gateway = Gateway::start(FeedFrom::Etcd(etcd.config()), "sh-1", disk.path());
    gateway
        .until("an empty space is named", |state| {
            matches!(state.trouble, Some(Trouble::NoDocuments(_)))
        })
        .await;
    etcd.put_all(&documents("orders")).await;
    gateway
        .until("the space is made", |state| has_source(state, "orders"))
        .await;
    let snapshot = etcd.snapshot().await;
    let view = SpaceView::of(&snapshot);
    assert_eq!(
        view.placement(),
        Some(PLACEMENT.as_bytes()),
        "as it was written"
    );
    assert_eq!(view.in_force(), view.documents());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_keeps_the_last_good_table_and_is_named() {
    let etcd = Etcd::start().await;
    let disk = tempdir().unwrap();
    assert_eq!(etcd.apply(&folder(&documents("orders")), &[]).await, 0);
    let gateway = Gateway::start(FeedFrom::Etcd(etcd.config()), "sh-1", disk.path());
    let good = gateway
        .until("a table", |state| has_source(state, "orders"))
        .await;

    etcd.put(&[("sources.yaml", "kind: source\nname: [\n")])
        .await;
    let state = gateway
        .until("the fault", |state| !state.faults.is_empty())
        .await;
    assert!(
        state
            .faults
            .iter()
            .any(|fault| fault.file == "sources.yaml" && fault.line > 0)
    );
    assert!(state.rejected.is_some());
    assert_eq!(
        state.table.as_ref().unwrap().revision(),
        good.table.as_ref().unwrap().revision()
    );
    let snapshot = etcd.snapshot().await;
    assert_ne!(
        SpaceView::of(&snapshot).in_force(),
        SpaceView::of(&snapshot).documents()
    );

    etcd.put(&[
        ("sources.yaml", &source("goods")),
        ("rules.yaml", &rule("goods")),
    ])
    .await;
    let state = gateway
        .until("the mended table", |state| has_source(state, "goods"))
        .await;
    let state = match state.rejected {
        None => state,
        Some(_) => {
            gateway
                .until("no fault any more", |state| state.rejected.is_none())
                .await
        }
    };
    assert!(state.faults.is_empty());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_of_a_newer_version_keeps_the_last_good_table() {
    let etcd = Etcd::start().await;
    let disk = tempdir().unwrap();
    assert_eq!(etcd.apply(&folder(&documents("orders")), &[]).await, 0);
    let gateway = Gateway::start(FeedFrom::Etcd(etcd.config()), "sh-1", disk.path());
    gateway
        .until("a table", |state| has_source(state, "orders"))
        .await;
    let newer = format!("version: 2\n{}", source("orders"));
    etcd.put(&[("sources.yaml", &newer)]).await;
    let state = gateway
        .until("the fault", |state| state.rejected.is_some())
        .await;
    assert!(has_source(&state, "orders"));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_starts_from_its_disk_while_etcd_is_away() {
    let mut etcd = Etcd::start().await;
    let disk = tempdir().unwrap();
    assert_eq!(etcd.apply(&folder(&documents("orders")), &[]).await, 0);
    let gateway = Gateway::start(FeedFrom::Etcd(etcd.config()), "sh-1", disk.path());
    let unit = UnitId::parse("sh-1").unwrap();
    gateway
        .until("itself among the peers", |state| {
            state.peers.contains_key(&unit)
        })
        .await;
    eventually("the table is on the disk", async || {
        std::fs::read_to_string(disk.path().join("table.json"))
            .is_ok_and(|text| text.contains("127.0.0.1:7100"))
    })
    .await;
    etcd.kill();
    gateway
        .until("etcd is away", |state| {
            matches!(state.etcd, EtcdState::Down { .. })
        })
        .await;
    assert!(
        gateway.handle.table().is_some(),
        "the last good table stays"
    );
    gateway.stop().await;

    let again = Gateway::start(FeedFrom::Etcd(etcd.config()), "sh-1", disk.path());
    let state = again.handle.state();
    assert!(
        has_source(&state, "orders"),
        "at once, without a round trip"
    );
    assert!(state.seal.is_some() && state.peers.contains_key(&unit));
    let away = |state: &FeedState| matches!(&state.etcd, EtcdState::Down { cause, .. } if cause.contains("127.0.0.1"));
    again.until("etcd is away, and which", away).await;
    etcd.start_again().await;
    again
        .until("etcd is back", |state| {
            matches!(state.etcd, EtcdState::Up { .. })
        })
        .await;
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_etcd_is_noticed_and_its_return_too() {
    let etcd = Etcd::start().await;
    let disk = tempdir().unwrap();
    assert_eq!(etcd.apply(&folder(&documents("orders")), &[]).await, 0);
    let gateway = Gateway::start(FeedFrom::Etcd(etcd.config()), "sh-1", disk.path());
    gateway
        .until("a table", |state| has_source(state, "orders"))
        .await;
    etcd.signal(rustix::process::Signal::STOP);
    gateway
        .until("it is away", |state| {
            matches!(state.etcd, EtcdState::Down { .. })
        })
        .await;
    etcd.signal(rustix::process::Signal::CONT);
    gateway
        .until("it is back", |state| {
            matches!(state.etcd, EtcdState::Up { .. })
        })
        .await;
    assert_eq!(etcd.apply(&folder(&documents("goods")), &[]).await, 0);
    gateway
        .until("and followed", |state| has_source(state, "goods"))
        .await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blank_etcd_or_another_life_of_the_space_is_refused() {
    let mut etcd = Etcd::start().await;
    let disk = tempdir().unwrap();
    assert_eq!(etcd.apply(&folder(&documents("orders")), &[]).await, 0);
    let gateway = Gateway::start(FeedFrom::Etcd(etcd.config()), "sh-1", disk.path());
    gateway
        .until("a table", |state| has_source(state, "orders"))
        .await;
    eventually("it is on the disk", async || {
        disk.path().join("table.json").exists()
    })
    .await;
    gateway.stop().await;
    etcd.kill();

    let other = Etcd::start().await;
    let gateway = Gateway::start(FeedFrom::Etcd(other.config()), "sh-1", disk.path());
    let refused = |state: &FeedState| state.trouble.as_ref().is_some_and(Trouble::refuses);
    gateway.until("the blank one is refused", refused).await;
    other.put_all(&documents("goods")).await;
    assert_eq!(other.apply(&folder(&documents("goods")), &[]).await, 0);
    let state = gateway.until("so is the stranger", refused).await;
    assert!(has_source(&state, "orders") && !has_source(&gateway.handle.state(), "goods"));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_watch_says_so_and_listing_again_catches_up() {
    let etcd = Etcd::start().await;
    assert_eq!(etcd.apply(&folder(&documents("orders")), &[]).await, 0);
    let store = etcd.store().await;
    let old = store.read_all().await.unwrap();
    for text in ["# one", "# two", "# three"] {
        etcd.put(&[("extra.yaml", text)]).await;
    }
    let new = store.read_all().await.unwrap();
    etcd.etcdctl(&["compaction", &new.revision.to_string()]);
    let mut watch = store.watch(old.revision).await.unwrap();
    assert!(matches!(watch.next().await, Err(WatchEnd::Compacted(at)) if at == new.revision));

    let mut caught_up = old;
    assert_ne!(caught_up, new);
    caught_up = store.read_all().await.unwrap();
    assert_eq!(caught_up, new);
    let mut watch = store.watch(new.revision).await.unwrap();
    etcd.put(&[("extra.yaml", "# four"), ("more.yaml", "# four")])
        .await;
    let changes = watch.next().await.unwrap();
    assert_eq!(changes.changes.len(), 2, "both of one transaction");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_keys_than_a_page_are_read_at_one_revision() {
    let etcd = Etcd::start().await;
    for batch in 0..3 {
        let put = (0..50).fold(Transaction::new(), |transaction, n| {
            transaction.put(
                &Key::Document(&format!("{batch}-{n:02}.yaml")),
                format!("# {n}"),
            )
        });
        assert!(matches!(
            etcd.store().await.commit(&put).await.unwrap(),
            Commit::Done(_)
        ));
    }
    let snapshot = etcd.snapshot().await;
    assert_eq!(SpaceView::of(&snapshot).documents().len(), 150);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_concurrent_applies_one_wins_and_the_other_changes_nothing() {
    let etcd = Etcd::start().await;
    let base = folder(&documents("orders"));
    assert_eq!(etcd.apply(&base, &[]).await, 0);
    for round in 0..5 {
        let revision = etcd.snapshot().await.revision.to_string();
        let left = folder(&documents(&format!("left-{round}")));
        let right = folder(&documents(&format!("right-{round}")));
        let expect = ["--expect-revision", revision.as_str()];
        let (a, b) = tokio::join!(etcd.apply(&left, &expect), etcd.apply(&right, &expect));
        assert_eq!(a + b, 1, "one is done, one is refused: {a}, {b}");
        let snapshot = etcd.snapshot().await;
        let winner = if a == 0 { "left" } else { "right" };
        let view = SpaceView::of(&snapshot);
        assert_eq!(view.in_force(), documents(&format!("{winner}-{round}")));
        assert_eq!(view.documents(), view.in_force());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_folder_and_a_dry_run_change_nothing() {
    let etcd = Etcd::start().await;
    assert_eq!(etcd.apply(&folder(&documents("orders")), &[]).await, 0);
    let before = etcd.snapshot().await;
    let mut faulty = documents("goods");
    faulty.insert("rules.yaml".to_owned(), rule("nowhere").into_bytes());
    let faulty = folder(&faulty);
    assert_eq!(etcd.apply(&faulty, &[]).await, 1);
    assert_eq!(
        etcd.apply(&folder(&documents("goods")), &["--dry-run"])
            .await,
        0
    );
    assert_eq!(etcd.snapshot().await.entries, before.entries);
    assert_eq!(
        run(&["rules", "validate", faulty.path().to_str().unwrap()]).await,
        1
    );
    let good = folder(&documents("goods"));
    assert_eq!(
        run(&[
            "rules",
            "validate",
            good.path().to_str().unwrap(),
            "-o",
            "json"
        ])
        .await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_files_stay_unless_they_are_pruned_and_every_gateway_sees_them_go() {
    let etcd = Etcd::start().await;
    let disk = tempdir().unwrap();
    let mut files = documents("orders");
    files.insert("extra.yaml".to_owned(), b"# nothing yet\n".to_vec());
    assert_eq!(etcd.apply(&folder(&files), &[]).await, 0);
    let gateway = Gateway::start(FeedFrom::Etcd(etcd.config()), "sh-1", disk.path());
    let first = gateway
        .until("a table", |state| state.table.is_some())
        .await;
    let first = first.table.unwrap().revision();

    let smaller = folder(&documents("orders"));
    assert_eq!(etcd.apply(&smaller, &[]).await, 0);
    assert_eq!(SpaceView::of(&etcd.snapshot().await).in_force(), files);
    assert_eq!(etcd.apply(&smaller, &["--prune"]).await, 0);
    let snapshot = etcd.snapshot().await;
    assert_eq!(SpaceView::of(&snapshot).in_force(), documents("orders"));
    let newer = |state: &FeedState| state.table.as_ref().is_some_and(|t| t.revision() > first);
    let state = gateway.until("a newer table", newer).await;
    assert_eq!(
        state.table.unwrap().revision(),
        SpaceView::of(&snapshot).rules_revision(),
        "who lists sees the revision that who watches saw"
    );
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_applied_is_read_back_and_is_no_difference() {
    let etcd = Etcd::start().await;
    let applied = folder(&documents("orders"));
    let path = applied.path().to_str().unwrap();
    assert_eq!(etcd.rules(&["diff", path]).await, 1, "nothing is there yet");
    assert_eq!(etcd.rules(&["get"]).await, 1, "nothing is there yet");
    assert_eq!(etcd.apply(&applied, &[]).await, 0);
    assert_eq!(etcd.rules(&["diff", path, "-o", "json"]).await, 0);
    let back = tempdir().unwrap();
    assert_eq!(etcd.rules(&["get", back.path().to_str().unwrap()]).await, 0);
    for (name, text) in documents("orders") {
        assert_eq!(std::fs::read(back.path().join(name)).unwrap(), text);
    }
    // The live placement, which moves change, wins over what a document wished once.
    let moved = PLACEMENT.replace("0-49", "0-39").replace("50-99", "40-99");
    let put = Transaction::new().put(&Key::Placement, moved.as_str());
    etcd.store().await.commit(&put).await.unwrap();
    assert_eq!(etcd.rules(&["get", back.path().to_str().unwrap()]).await, 0);
    let text = std::fs::read_to_string(back.path().join("placement.yaml")).unwrap();
    assert_eq!(text, moved);
    assert_eq!(etcd.apply(&applied, &[]).await, 0);
    assert_eq!(
        SpaceView::of(&etcd.snapshot().await).placement(),
        Some(moved.as_bytes())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_an_unreachable_etcd_and_a_wrong_space_have_their_exit_codes() {
    let files = folder(&documents("orders"));
    let path = files.path().to_str().unwrap();
    assert_eq!(run(&["rules", "diff", path]).await, 2);
    let nobody = format!("http://127.0.0.1:{}", harness::free_port());
    let target = ["--etcd", nobody.as_str(), "--space", "trade"];
    assert_eq!(
        run(&[&["rules", "diff", path][..], &target].concat()).await,
        3
    );
    let etcd = Etcd::start().await;
    let url = etcd.url();
    let other = [
        "rules", "apply", path, "-m", "w", "--etcd", &url, "--space", "pay",
    ];
    assert_eq!(run(&other).await, 1);
    let several = format!("{nobody},{url}");
    let some = [
        "rules", "apply", path, "-m", "w", "--etcd", &several, "--space", "trade",
    ];
    assert_eq!(run(&some).await, 0, "one endpoint of two is enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_follows_its_gateway_and_goes_with_it() {
    let etcd = Etcd::start().await;
    let disk = tempdir().unwrap();
    assert_eq!(etcd.apply(&folder(&documents("orders")), &[]).await, 0);
    let gateway = Gateway::start(FeedFrom::Etcd(etcd.config()), "sh-1", disk.path());
    let (unit, name) = (
        UnitId::parse("sh-1").unwrap(),
        GatewayId::parse("sh-1-a").unwrap(),
    );
    let table = gateway
        .until("a table", |state| state.table.is_some())
        .await
        .table
        .unwrap();
    let record = |state: &FeedState| state.peers.get(&unit)?.get(&name).cloned();
    let says = |state: &FeedState| record(state).is_some_and(|r| r.revision == table.revision());
    gateway
        .until("its record with the table's revision", says)
        .await;
    gateway
        .own
        .send_modify(|record| record.broker = BrokerHealth::Blocked);
    let blocked =
        |state: &FeedState| record(state).is_some_and(|r| r.broker == BrokerHealth::Blocked);
    gateway.until("its broker's health", blocked).await;
    gateway.stop().await;
    let registrations = etcd.store().await.read(Scope::Registrations).await.unwrap();
    assert!(
        SpaceView::of(&registrations).gateways().is_empty(),
        "the lease was given back"
    );
    assert!(
        registrations.value(&Key::Member(&unit, &name)).is_some(),
        "the member stays"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_asked_for_and_never_shown() {
    let etcd = Etcd::start().await;
    etcd.etcdctl(&["user", "add", "root:r00tsecret"]);
    etcd.etcdctl(&["user", "grant-role", "root", "root"]);
    etcd.etcdctl(&["role", "add", "trade"]);
    let prefix = "/setgate/trade/";
    etcd.etcdctl(&[
        "role",
        "grant-permission",
        "trade",
        "readwrite",
        "--prefix=true",
        prefix,
    ]);
    etcd.etcdctl(&["user", "add", "gateway:g4tesecret"]);
    etcd.etcdctl(&["user", "grant-role", "gateway", "trade"]);
    etcd.etcdctl(&["user", "add", "stranger:str4ngersecret"]);
    etcd.etcdctl(&["auth", "enable"]);
    let with = |username: &str, password: &str| EtcdConfig {
        credentials: Some(EtcdCredentials {
            username: username.to_owned(),
            password: password.to_owned().into(),
        }),
        ..etcd.config()
    };
    let refused = async |config: EtcdConfig| Store::connect(&config, &space()).await.err().unwrap();

    assert!(matches!(
        refused(etcd.config()).await,
        EtcdError::PasswordNeeded { .. }
    ));
    let wrong = refused(with("gateway", "wr0ngsecret")).await;
    assert!(matches!(wrong, EtcdError::WrongPassword { .. }), "{wrong}");
    assert!(!wrong.to_string().contains("secret") && wrong.to_string().contains(&etcd.url()));
    let stranger = refused(with("stranger", "str4ngersecret")).await;
    assert!(
        matches!(stranger, EtcdError::Forbidden { .. }),
        "{stranger}"
    );
    assert!(!format!("{:?}", with("gateway", "g4tesecret")).contains("g4tesecret"));

    let files = folder(&documents("orders"));
    let password = files.path().join("password");
    std::fs::write(&password, "g4tesecret\n").unwrap();
    let file = password.to_str().unwrap();
    let user = ["--etcd-user", "gateway", "--etcd-password-file", file];
    assert_eq!(etcd.apply(&files, &user).await, 0);
    let disk = tempdir().unwrap();
    let from = FeedFrom::Etcd(with("gateway", "g4tesecret"));
    let gateway = Gateway::start(from, "sh-1", disk.path());
    gateway
        .until("a table", |state| has_source(state, "orders"))
        .await;
    gateway
        .until("its registration", |state| !state.peers.is_empty())
        .await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_serves_one_machine_without_etcd() {
    let disk = tempdir().unwrap();
    let files = folder(&documents("orders"));
    let from = FeedFrom::Folder(files.path().to_owned());
    let gateway = Gateway::start(from.clone(), "sh-1", disk.path());
    let state = gateway.handle.state();
    assert!(has_source(&state, "orders") && state.seal.is_some());
    assert_eq!(state.etcd, EtcdState::Unused);
    gateway.stop().await;
    std::fs::write(files.path().join("rules.yaml"), rule("nowhere")).unwrap();
    let (settings, own) = harness::settings(from, "sh-1", disk.path());
    let faulty = Feed::open(settings, own.subscribe());
    assert!(matches!(faulty, Err(FeedError::Faulty(found)) if !found.is_empty()));
}
