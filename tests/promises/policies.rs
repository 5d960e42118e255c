//! A policy of the broker that endangers setgate's own queues is named, with what to do about it.

use crate::harness::{BY_OWNER, DEADLINE, ORDERS, World, eventually, world};
use serde_json::json;
use setgate::lab::{Await, Node};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_lets_own_queues_lose_messages_is_a_fault() {
    let places = world(&["sh-1"]);
    let files = [
        ("world.yaml", places.as_str()),
        ("orders.yaml", ORDERS),
        ("rules.yaml", BY_OWNER),
    ];
    let mut world = World::start("policies", &files).await;
    let broker = world.fabric.lab().unit("sh-1").unwrap().brokers[0].clone();
    let vhost = broker.vhost_encoded();
    let url = format!("{}/api/policies/{vhost}/short-lived", broker.management);
    let login = broker.operator();
    let policy = json!({"pattern": ".*", "definition": {"message-ttl": 60_000}});
    world.fabric.http().put(&url, login, &policy).await.unwrap();

    // A gateway looks soon after its start, and each minute from then on.
    let gateway = Node::Gateway("sh-1-a".parse().unwrap());
    world.fabric.stop(&gateway).await.unwrap();
    world.fabric.start(&gateway, Await::Ready).await.unwrap();
    let named = async || {
        let status = world.status("sh-1").await;
        let faults = status["faults"].as_array().unwrap().clone();
        faults.into_iter().find(|fault| {
            let message = fault["message"].as_str().unwrap();
            message.contains("short-lived") && message.contains("expire")
        })
    };
    let (fault, _) = eventually("the policy is named", DEADLINE, named).await;
    let mend = fault["mend"].as_str().unwrap();
    assert!(mend.contains("own-queues.policy.json"), "{mend}");
    world.end().await;
}
