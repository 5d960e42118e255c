//! Changes that are refused, taken back, remembered and forgotten.

use crate::harness::{Etcd, documents, folder};
use setgate::etcd::{HISTORY_MAX, Key, Scope, SpaceView, Transaction, files_hash, history};
use setgate::model::MoveId;

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_puts_back_what_was_in_force_and_the_history_shows_all_changes() {
    let etcd = Etcd::start().await;
    assert_eq!(etcd.rules(&["history"]).await, 0, "there is none yet");
    assert_eq!(etcd.rules(&["show", "1"]).await, 1, "there is none yet");
    assert_eq!(etcd.apply(&folder(&documents("orders")), &[]).await, 0);
    let first = SpaceView::of(&etcd.snapshot().await).rules_revision().0;
    let mut more = documents("payments");
    more.insert("extra.yaml".to_owned(), b"# nothing yet\n".to_vec());
    assert_eq!(etcd.apply(&folder(&more), &["--prune"]).await, 0);
    assert_eq!(SpaceView::of(&etcd.snapshot().await).in_force(), more);

    let at = first.to_string();
    assert_eq!(etcd.rules(&["show", &at]).await, 0);
    assert_eq!(etcd.rules(&["show", &(first - 1).to_string()]).await, 1);
    let back = ["rollback", at.as_str(), "-m"];
    let rollback = |more: &[&'static str]| [&back[..], more].concat();
    assert_eq!(etcd.rules(&rollback(&[" "])).await, 2, "it wants a reason");
    assert_eq!(etcd.rules(&rollback(&["why", "--dry-run"])).await, 0);
    assert_eq!(SpaceView::of(&etcd.snapshot().await).in_force(), more);
    assert_eq!(etcd.rules(&rollback(&["payments broke"])).await, 0);
    let snapshot = etcd.snapshot().await;
    let view = SpaceView::of(&snapshot);
    assert_eq!(view.in_force(), documents("orders"));
    assert_eq!(view.documents(), documents("orders"));

    let kept = etcd.store().await.read(Scope::History).await.unwrap();
    let whys: Vec<String> = history(&kept).into_iter().map(|(_, one)| one.why).collect();
    let last = format!("rollback to revision {first}: payments broke");
    assert_eq!(whys, ["a test", "a test", last.as_str()]);
    assert_eq!(etcd.rules(&["history", "-o", "json"]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_owners_waits_for_its_move_unless_it_is_to_apply_at_once() {
    let etcd = Etcd::start().await;
    assert_eq!(etcd.apply(&folder(&documents("orders")), &[]).await, 0);
    let before = SpaceView::of(&etcd.snapshot().await).in_force();
    let first = SpaceView::of(&etcd.snapshot().await).rules_revision().0;
    let mut elsewhere = before.clone();
    for text in elsewhere.values_mut() {
        *text = String::from_utf8(text.clone())
            .unwrap()
            .replace("route: owner", "route: center")
            .into_bytes();
    }
    assert_ne!(elsewhere, before);
    let changed = folder(&elsewhere);
    for _ in 0..2 {
        assert_eq!(etcd.apply(&changed, &[]).await, 0);
        let snapshot = etcd.snapshot().await;
        let view = SpaceView::of(&snapshot);
        assert_eq!(view.in_force(), before, "until the move is through");
        assert_eq!(view.documents(), elsewhere);
        let moves = view.moves();
        assert_eq!(moves.len(), 1, "asked for once");
        let rules = moves[&MoveId(1)].rules().unwrap();
        assert_eq!(rules.documents, files_hash(&elsewhere));
    }
    assert_eq!(etcd.apply(&changed, &["--unordered"]).await, 0);
    assert_eq!(SpaceView::of(&etcd.snapshot().await).in_force(), elsewhere);
    let back = first.to_string();
    let rollback = ["rollback", back.as_str(), "-m", "a test"];
    assert_eq!(etcd.rules(&rollback).await, 0);
    let snapshot = etcd.snapshot().await;
    assert_eq!(SpaceView::of(&snapshot).in_force(), elsewhere);
    assert_eq!(
        SpaceView::of(&snapshot).moves().len(),
        2,
        "owners change too"
    );
    let at_once = [&rollback[..], &["--unordered"]].concat();
    assert_eq!(etcd.rules(&at_once).await, 0);
    assert_eq!(SpaceView::of(&etcd.snapshot().await).in_force(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_forgets_its_oldest_changes_beyond_a_thousand() {
    let etcd = Etcd::start().await;
    let store = etcd.store().await;
    let entry = |number: usize| {
        format!("{{\"who\": \"a\", \"why\": \"{number}\", \"at\": \"\", \"before\": {{}}}}")
    };
    for hundred in 0..10 {
        let numbers = hundred * 100..(hundred + 1) * 100;
        let put = numbers.fold(Transaction::new(), |transaction, number| {
            let id = format!("{number:04}");
            transaction.put(&Key::History(&id), entry(number))
        });
        store.commit(&put).await.unwrap();
    }
    for number in [1_000, 1_001] {
        let put = Transaction::new().put(&Key::History(&number.to_string()), entry(number));
        store.commit(&put).await.unwrap();
    }
    assert_eq!(etcd.apply(&folder(&documents("orders")), &[]).await, 0);
    let kept = history(&store.read(Scope::History).await.unwrap());
    assert_eq!(kept.len(), HISTORY_MAX);
    // The hundred of one transaction are of one revision, and go in the order of their names.
    assert!(
        kept.iter()
            .all(|(_, one)| !["0", "1", "2"].contains(&one.why.as_str()))
    );
    assert_eq!(kept.last().unwrap().1.why, "a test");
}
