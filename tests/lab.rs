//! What the harness itself promises to tests.

#![expect(clippy::unwrap_used, reason = "a fixture that fails is a failed test")]

use setgate::lab::http::{HttpClient, Login, encode};
use setgate::lab::{Fabric, FabricSpec, LabBroker, LabFile, Node, Ways};
use std::time::Duration;

async fn vhosts(broker: &LabBroker) -> Vec<String> {
    let login = broker.operator();
    let url = format!("{}/api/vhosts", broker.management);
    let all = HttpClient::new().get_json(&url, Some(login)).await.unwrap();
    let all = all.as_array().unwrap().iter();
    all.map(|vhost| vhost["name"].as_str().unwrap().to_owned())
        .collect()
}

/// On shared brokers a test has vhosts, a space and gateways of its own; more units than there are clusters share them;
/// and nothing is left of it afterwards.
#[tokio::test]
async fn a_test_on_shared_brokers_is_alone_and_leaves_nothing() {
    let spec = FabricSpec::profile("active-active")
        .units(4)
        .rtt(Duration::from_millis(2));
    let mut fabric = Fabric::borrowed("lab-alone", spec).await.unwrap();
    let lab = fabric.lab();
    assert_eq!(lab.units.len(), 4);
    let mut uris: Vec<&str> = lab
        .units
        .iter()
        .map(|unit| unit.brokers[0].uri.as_str())
        .collect();
    uris.sort_unstable();
    uris.dedup();
    assert_eq!(uris.len(), 4, "each unit has a vhost of its own");
    assert!(lab.space.as_str().starts_with("lab-alone-"));

    let broker = &lab.units[0].brokers[0];
    let login = Login {
        user: &broker.user,
        password: &broker.password,
    };
    let url = format!(
        "{}/api/queues/{}",
        broker.management,
        broker.vhost_encoded()
    );
    let queues = fabric.http().get_json(&url, Some(login)).await.unwrap();
    let names: Vec<&str> = queues
        .as_array()
        .unwrap()
        .iter()
        .map(|queue| queue["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"app.orders.local"), "{names:?}");

    let (a, b) = ("sh-1".parse().unwrap(), "bj-1".parse().unwrap());
    fabric.cut(&a, &b, Ways::OneWay).unwrap();
    assert_eq!(fabric.cuts().len(), 1);
    fabric.heal(&a, &b, Ways::Both).unwrap();
    assert_eq!(fabric.cuts(), []);

    let shared: Node = "broker/sh-1".parse().unwrap();
    let refused = fabric.kill(&shared).await.unwrap_err().to_string();
    assert!(refused.contains("Fabric::up"), "{refused}");

    let dir = fabric.dir().to_owned();
    fabric.down().await.unwrap();
    assert!(LabFile::read(&dir).is_err());
    let left = vhosts(broker).await;
    assert!(
        !left.iter().any(|vhost| vhost.starts_with("lab-alone.")),
        "{left:?}"
    );
    assert_eq!(encode("/"), "%2F");
}
