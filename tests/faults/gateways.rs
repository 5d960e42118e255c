//! Gateways, links and etcd break under traffic.

use crate::harness::{
    DEADLINE, account, assert_clean, borrowed, broker, ended, eventually, lasting_traffic,
    more_delivered, status, takes, traffic, unanswered,
};
use serde_json::Value;
use setgate::lab::http::encode;
use setgate::lab::{Await, Fabric, LabBroker, Node, Place, Ways};
use std::time::Duration;

#[tokio::test]
async fn a_killed_gateway_loses_nothing_and_its_lanes_move_to_the_other_within_five_seconds() {
    let mut fabric = borrowed("gateway-killed", 2).await;
    let first = fabric.gateway("sh-1-a").unwrap().admin;
    let second = fabric.gateway("sh-1-b").unwrap().admin;
    let traffic = lasting_traffic(fabric.dir(), &["--keys", "500", "--rate", "200"]);
    eventually(
        "a gateway of sh-1 takes orders",
        Duration::from_secs(20),
        async || takes(&fabric, &first, "orders").await || takes(&fabric, &second, "orders").await,
    )
    .await;
    let (victim, heir) = if takes(&fabric, &first, "orders").await {
        ("sh-1-a", second)
    } else {
        ("sh-1-b", first)
    };
    let killed: Node = format!("gateway/{victim}").parse().unwrap();
    fabric.kill(&killed).await.unwrap();
    eventually(
        "the other gateway takes orders",
        Duration::from_secs(5),
        async || takes(&fabric, &heir, "orders").await,
    )
    .await;
    more_delivered(&fabric, &heir, "bj-1", 50).await;
    assert_clean(&ended(traffic).await);
    fabric.down().await.unwrap();
}

#[tokio::test]
async fn without_etcd_a_restarted_gateway_serves_from_its_disk() {
    let mut fabric = borrowed("etcd-gone", 1).await;
    let admin = fabric.gateway("sh-1-a").unwrap().admin;
    eventually("its links are up", Duration::from_secs(20), async || {
        let Some(status) = status(&fabric, &admin).await else {
            return false;
        };
        let links = status["links"].as_array().cloned().unwrap_or_default();
        links.len() == 2 && links.iter().all(|link| link["state"] == "up")
    })
    .await;
    let etcd: Place = "etcd".parse().unwrap();
    for unit in ["sh-1", "sh-2", "bj-1"] {
        fabric
            .cut(&unit.parse().unwrap(), &etcd, Ways::Both)
            .unwrap();
    }
    let node: Node = "gateway/sh-1-a".parse().unwrap();
    fabric.kill(&node).await.unwrap();
    fabric.start(&node, Await::Ready).await.unwrap();
    eventually(
        "the status page says that etcd is down",
        Duration::from_secs(20),
        async || {
            status(&fabric, &admin)
                .await
                .is_some_and(|status| status["etcd"] == "down")
        },
    )
    .await;
    let traffic = traffic(fabric.dir(), &["--messages", "1500", "--keys", "200"]);
    assert_clean(&account(traffic).await);
    fabric.down().await.unwrap();
}

#[tokio::test]
async fn a_cut_link_diverts_its_messages_says_why_and_delivers_them_after_healing() {
    let mut fabric = borrowed("link-cut", 1).await;
    let (near, far): (Place, Place) = ("sh-1".parse().unwrap(), "bj-1".parse().unwrap());
    fabric.cut(&near, &far, Ways::Both).unwrap();
    let admin = fabric.gateway("sh-1-a").unwrap().admin;
    let traffic = traffic(
        fabric.dir(),
        &["--messages", "900", "--keys", "200", "--from", "sh-1"],
    );
    eventually(
        "the status page says what is diverted",
        Duration::from_secs(30),
        async || {
            let Some(status) = status(&fabric, &admin).await else {
                return false;
            };
            let lanes = status["lanes"].as_array().cloned().unwrap_or_default();
            lanes.iter().any(|lane| {
                lane["source"] == "orders"
                    && lane["state"] == "taking"
                    && lane["cause"]
                        .as_str()
                        .is_some_and(|cause| cause.contains("bj-1 is diverted (down)"))
            })
        },
    )
    .await;
    fabric.heal(&near, &far, Ways::Both).unwrap();
    assert_clean(&account(traffic).await);
    fabric.down().await.unwrap();
}

#[tokio::test]
async fn a_lane_that_loses_its_channel_leaves_its_diversions_to_the_other_gateway() {
    let mut fabric = borrowed("held-lane", 2).await;
    let (near, far): (Place, Place) = ("sh-1".parse().unwrap(), "bj-1".parse().unwrap());
    fabric.cut(&near, &far, Ways::Both).unwrap();
    let admins = ["sh-1-a", "sh-1-b"].map(|name| fabric.gateway(name).unwrap().admin);
    let traffic = traffic(
        fabric.dir(),
        &["--messages", "6000", "--keys", "300", "--from", "sh-1"],
    );
    let diverts = async |admin: &str| unanswered(&fabric, admin, "bj-1").await >= 1_100;
    eventually("one lane diverts", Duration::from_secs(40), async || {
        diverts(&admins[0]).await || diverts(&admins[1]).await
    })
    .await;
    let first = usize::from(diverts(&admins[1]).await);
    let (holder, heir) = (["sh-1-a", "sh-1-b"][first], &admins[1 - first]);
    let broker = broker(&mut fabric, "sh-1");
    let lane = format!("setgate {}/sh-1/{holder} lane orders/0", fabric.lab().space);
    eventually(
        "the other gateway's lane has found the diversion",
        DEADLINE,
        async || {
            let status = status(&fabric, heir).await.unwrap_or_default();
            let lanes = status["lanes"].as_array().cloned().unwrap_or_default();
            let targets = lanes.iter().filter_map(|lane| lane["targets"].as_array());
            let found = targets
                .flatten()
                .any(|target| target["diversion"]["found"] == true);
            // The broker's list lags behind by seconds: what it closes may be the lane's last connection but one.
            if !found {
                close_connections(&fabric, &broker, &lane).await;
            }
            found
        },
    )
    .await;
    fabric.heal(&near, &far, Ways::Both).unwrap();
    assert_clean(&account(traffic).await);
    fabric.down().await.unwrap();
}

/// Closes connections of this name, as an operator would from the management page.
async fn close_connections(fabric: &Fabric, broker: &LabBroker, name: &str) {
    let (url, login) = (
        format!("{}/api/connections", broker.management),
        broker.operator(),
    );
    let open = fabric.http().get_json(&url, Some(login)).await;
    let open = open.unwrap_or_default();
    let named = |one: &&Value| one["client_properties"]["connection_name"] == name;
    for one in open.as_array().into_iter().flatten().filter(named) {
        let id = encode(one["name"].as_str().unwrap_or_default());
        // It may be gone by now.
        let _ = fabric.http().delete(&format!("{url}/{id}"), login).await;
    }
}

#[tokio::test]
async fn a_frozen_gateway_that_wakes_up_does_no_harm() {
    let mut fabric = borrowed("gateway-frozen", 2).await;
    let admins = ["sh-1-a", "sh-1-b"].map(|name| fabric.gateway(name).unwrap().admin);
    let traffic = lasting_traffic(fabric.dir(), &["--keys", "500", "--rate", "200"]);
    eventually("a gateway of sh-1 takes orders", DEADLINE, async || {
        takes(&fabric, &admins[0], "orders").await || takes(&fabric, &admins[1], "orders").await
    })
    .await;
    let first = usize::from(takes(&fabric, &admins[1], "orders").await);
    let (frozen, heir) = (["sh-1-a", "sh-1-b"][first], &admins[1 - first]);
    more_delivered(&fabric, &admins[first], "bj-1", 50).await;
    let node: Node = format!("gateway/{frozen}").parse().unwrap();
    fabric.pause(&node).unwrap();
    // After three heartbeats its broker has dropped all of its connections, and with them its lanes and locks.
    let broker = broker(&mut fabric, "sh-1");
    let of_frozen = format!("setgate {}/sh-1/{frozen}", fabric.lab().space);
    let vhost = broker.vhost_encoded();
    let url = format!("{}/api/vhosts/{vhost}/connections", broker.management);
    eventually("it has no connection left", DEADLINE, async || {
        let open = fabric.http().get_json(&url, Some(broker.operator())).await;
        let open = open.unwrap_or_default();
        let mut names = open.as_array().into_iter().flatten().map(|one| {
            let name = &one["client_properties"]["connection_name"];
            name.as_str().unwrap_or_default()
        });
        open.is_array() && !names.any(|name| name.starts_with(&of_frozen))
    })
    .await;
    more_delivered(&fabric, heir, "bj-1", 50).await;
    fabric.resume(&node).unwrap();
    eventually("it knows that it has lost its lane", DEADLINE, async || {
        let page = status(&fabric, &admins[first]).await;
        page.is_some() && !takes(&fabric, &admins[first], "orders").await
    })
    .await;
    more_delivered(&fabric, heir, "bj-1", 50).await;
    assert_clean(&ended(traffic).await);
    fabric.down().await.unwrap();
}

#[tokio::test]
async fn a_rolling_restart_of_a_unit_under_traffic_is_invisible() {
    let mut fabric = borrowed("rolling-restart", 2).await;
    let traffic = lasting_traffic(fabric.dir(), &["--keys", "300", "--rate", "200"]);
    // Either may have the lane of sh-2.
    let near = ["sh-2-a", "sh-2-b"].map(|name| fabric.gateway(name).unwrap().admin);
    let more = async |fabric: &Fabric| {
        tokio::select! {
            () = more_delivered(fabric, &near[0], "sh-1", 50) => {}
            () = more_delivered(fabric, &near[1], "sh-1", 50) => {}
        }
    };
    more(&fabric).await;
    for name in ["sh-1-a", "sh-1-b"] {
        let node: Node = format!("gateway/{name}").parse().unwrap();
        fabric.stop(&node).await.unwrap();
        fabric.start(&node, Await::Ready).await.unwrap();
        // Both ways: what the unit sends, by whoever has its lane now, and what it receives.
        let own = ["sh-1-a", "sh-1-b"].map(|name| fabric.gateway(name).unwrap().admin);
        eventually("a gateway of sh-1 takes orders", DEADLINE, async || {
            takes(&fabric, &own[0], "orders").await || takes(&fabric, &own[1], "orders").await
        })
        .await;
        more(&fabric).await;
    }
    assert_clean(&ended(traffic).await);
    fabric.down().await.unwrap();
}
