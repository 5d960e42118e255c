//! The main job, on the shipped rules: what is published anywhere arrives where it belongs, once, in order.

use crate::harness::World;
use setgate::lab::FabricSpec;
use setgate::lab::checker::Account;
use setgate::lab::traffic::{EtcdPlace, KeyMap, Ownership, Plan, measure, units_of_lab};

fn assert_clean(account: &Account, delivered: u64) {
    assert!(account.is_clean(), "{account:?}");
    assert_eq!(account.delivered, delivered, "{account:?}");
    assert_eq!(account.parked, 0, "{account:?}");
    assert_eq!(account.marked_in_doubt, 0, "{account:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keyed_message_of_any_unit_arrives_in_the_owning_unit_once_and_in_order() {
    let mut world = World::of("main_job", FabricSpec::profile("two-sites-three-centers")).await;
    let lab = world.fabric.lab();
    let units = units_of_lab(world.fabric.dir()).unwrap();
    assert_eq!(units.len(), 3);
    let ownership = Ownership::Live {
        etcd: EtcdPlace {
            urls: lab.etcd.clone(),
            space: lab.space.to_string(),
            saved: Vec::new(),
        },
        map: KeyMap::Hash,
    };

    let mut orders = Plan::new(units.clone(), "orders", &["orders.local"]);
    orders.messages = 2_000;
    orders.keys = 60;
    orders.ownership = ownership.clone();
    orders.park = Some(world.own_queue("park"));
    assert_clean(&measure(orders).await.unwrap(), 2_000);

    // Shared ones go through the same gateways, each to all three units.
    let mut catalog = Plan::new(units, "catalog", &["catalog"]).shared();
    catalog.messages = 300;
    catalog.keys = 20;
    catalog.ownership = ownership;
    assert_clean(&measure(catalog).await.unwrap(), 900);
    world.end().await;
}
