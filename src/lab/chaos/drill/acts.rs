//! What each drill does.

use super::{AROUND, Drill, FAR, LOST, STAND_IN, Seen, gateways, node, place, rules_dir};
use crate::etcd::{EtcdConfig, Key, Store, Transaction};
use crate::lab::{Await, LabError, Node, Place, Ways};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What becomes of a unit's seat.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// Another unit stands in.
    TakenOver,
    /// Nothing.
    Stays,
}

impl Drill<'_> {
    pub(super) async fn planned_move(&mut self) -> Result<(), LabError> {
        for (slots, to) in [("0-1999", STAND_IN), ("0-1999", LOST)] {
            let done = self.moved(slots, to, "60").await?;
            self.expect_stage(&done, "done");
            // The account reads who owns what now and then: each owner is to be seen.
            sleep(AROUND).await;
        }
        Ok(())
    }

    pub(super) async fn rule_change(&mut self) -> Result<(), LabError> {
        const FILE: &str = "orders.yaml";
        let file = rules_dir(self.fabric).join(FILE);
        let text = std::fs::read_to_string(&file).map_err(LabError::file("read", &file))?;
        let gray = format!("route: owner\ngray: {{percent: 50, salt: drill, unit: {FAR}}}\n");
        for wish in [text.replace("route: owner\n", &gray), text] {
            let last = self.status(None).await?["id"].clone();
            let lab = self.fabric.lab();
            let put = async {
                let store = Store::connect(&EtcdConfig::plain(lab.etcd), &lab.space).await?;
                let put = Transaction::new().put(&Key::Document(FILE), wish);
                store.commit(&put).await
            };
            put.await
                .map_err(|error| LabError::Refused(format!("putting {FILE}: {error}")))?;
            self.until("its move has begun", async |drill| {
                let newest = drill.status(None).await.unwrap_or_default();
                newest["kind"] == "rules" && newest["id"] != last
            })
            .await?;
            let id = self.status(None).await?["id"].to_string();
            let done = self.until_over(&id).await?;
            self.expect_stage(&done, "done");
            sleep(AROUND).await;
        }
        Ok(())
    }

    pub(super) async fn not_drained(&mut self) -> Result<(), LabError> {
        let away = node("gateway/bj-1-b")?;
        self.fabric.stop(&away).await?;
        let undone = self.moved("0-999", STAND_IN, "3").await?;
        self.expect_stage(&undone, "undone");
        self.fabric.start(&away, Await::Ready).await
    }

    pub(super) async fn unit_loss(&mut self) -> Result<(), LabError> {
        let lost = self.lose().await?;
        self.follow_takeover(lost).await?;
        self.restore().await?;
        self.give_back().await
    }

    pub(super) async fn failback(&mut self) -> Result<(), LabError> {
        let lost = self.lose().await?;
        self.follow_takeover(lost).await?;
        self.restore().await?;
        self.seen = Seen::default();
        self.give_back().await
    }

    pub(super) async fn flapping(&mut self) -> Result<(), LabError> {
        let before = self.epoch().await?;
        let gateways = gateways()?;
        for _ in 0..3 {
            for gateway in &gateways {
                self.fabric.kill(gateway).await?;
            }
            // Its leases outlive this, and it is back within the grace.
            sleep(AROUND).await;
            for gateway in &gateways {
                self.fabric.start(gateway, Await::Ready).await?;
            }
        }
        let after = self.epoch().await?;
        if before != after {
            self.complain(format!("the epoch went from {before} to {after}"));
        }
        Ok(())
    }

    pub(super) async fn cut_off(
        &mut self,
        ends: &[&str],
        expected: Expected,
    ) -> Result<(), LabError> {
        let near = place(LOST)?;
        let before = self.epoch().await?;
        let ends: Vec<Place> = ends
            .iter()
            .map(|end| place(end))
            .collect::<Result<_, _>>()?;
        for end in &ends {
            self.fabric.cut(&near, end, Ways::Both)?;
        }
        let lost = Instant::now();
        match expected {
            Expected::TakenOver => self.follow_takeover(lost).await?,
            // Longer than it would take.
            Expected::Stays => sleep(Duration::from_secs(40)).await,
        }
        for end in &ends {
            self.fabric.heal(&near, end, Ways::Both)?;
        }
        match expected {
            Expected::TakenOver => {
                self.until_back().await?;
                self.give_back().await?;
            }
            Expected::Stays => {
                let after = self.epoch().await?;
                if before != after {
                    self.complain(format!("the epoch went from {before} to {after}"));
                }
            }
        }
        Ok(())
    }

    pub(super) async fn paused(&mut self, nodes: &[Node]) -> Result<(), LabError> {
        for node in nodes {
            self.fabric.pause(node)?;
        }
        self.follow_takeover(Instant::now()).await?;
        for node in nodes {
            self.fabric.resume(node)?;
        }
        self.until_back().await?;
        self.give_back().await
    }

    pub(super) async fn stale_gateway(&mut self) -> Result<(), LabError> {
        let stale = node("gateway/sh-1-b")?;
        self.fabric.stop(&stale).await?;
        let retire = ["members", "retire", "sh-1/sh-1-b", "-m", "a drill"];
        self.setgate(&retire).await?;
        let done = self.moved("0-999", STAND_IN, "60").await?;
        self.expect_stage(&done, "done");
        let (near, etcd) = (place(LOST)?, Place::Etcd);
        self.fabric.cut(&near, &etcd, Ways::Both)?;
        self.fabric.start(&stale, Await::Nothing).await?;
        self.until("the stale gateway may not deliver", async |drill| {
            drill.has_no_right("sh-1-b").await
        })
        .await?;
        // Its links are up by now, and it would have leave if anybody granted it.
        sleep(AROUND).await;
        if !self.has_no_right("sh-1-b").await {
            self.complain("a gateway with an old table may deliver".to_owned());
        }
        self.fabric.heal(&near, &etcd, Ways::Both)?;
        self.until_back().await?;
        let done = self.moved("0-999", LOST, "60").await?;
        self.expect_stage(&done, "done");
        Ok(())
    }

    /// Whether a gateway says that it may not deliver.
    pub(super) async fn has_no_right(&mut self, name: &str) -> bool {
        let Some(gateway) = self.fabric.lab().gateway(name).cloned() else {
            return false;
        };
        let url = format!("http://{}/v1/status", gateway.admin);
        let status = self.fabric.http().get_json(&url, None).await;
        let faults = status.unwrap_or_default()["faults"].clone();
        let mut faults = faults.as_array().into_iter().flatten();
        faults.any(|fault| fault["subject"] == "right to deliver")
    }

    pub(super) async fn coordinator_loss(&mut self, crashes: u32) -> Result<(), LabError> {
        for crash in 0..crashes {
            let to = if crash % 2 == 0 { STAND_IN } else { LOST };
            // After the last crash its lease has to run out first.
            self.until("some gateway leads", async |drill| {
                drill.coordinator().await.is_some()
            })
            .await?;
            let asked = self.ask("0-999", to, "60").await?;
            sleep(Duration::from_millis(fastrand::u64(..700))).await;
            let coordinator = self.coordinator().await;
            if let Some(coordinator) = &coordinator {
                self.fabric.kill(coordinator).await?;
            }
            if let Some(coordinator) = &coordinator {
                self.fabric.start(coordinator, Await::Ready).await?;
            }
            let over = self.until_over(&asked).await?;
            self.report.say(format!(
                "crash {} of {}: move {asked} {}",
                crash + 1,
                coordinator.map_or_else(|| "nobody".to_owned(), |node| node.to_string()),
                over["stage"]
            ));
            // One that was undone is asked for again, so that the next one finds its slots where it thinks.
            if over["stage"] == "undone" {
                let done = self.moved("0-999", to, "60").await?;
                self.expect_stage(&done, "done");
            }
        }
        if crashes % 2 == 1 {
            let done = self.moved("0-999", LOST, "60").await?;
            self.expect_stage(&done, "done");
        }
        Ok(())
    }

    pub(super) async fn etcd_loss(&mut self) -> Result<(), LabError> {
        let members: Vec<Node> = (1..=3)
            .map(|number| node(&format!("etcd/{number}")))
            .collect::<Result<_, _>>()?;
        for member in &members {
            self.fabric.kill(member).await?;
        }
        let refused = self.ask("0-9", STAND_IN, "60").await;
        if refused.is_ok() {
            self.complain("a move was asked for without etcd".to_owned());
        }
        sleep(Duration::from_secs(40)).await;
        for member in &members {
            self.fabric.start(member, Await::Nothing).await?;
        }
        self.until("etcd answers again", async |drill| {
            drill.status(None).await.is_ok()
        })
        .await
    }
}
