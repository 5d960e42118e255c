//! Links to every gateway of every other unit.
//!
//! A reconciler: it compares the links that run with the gateways that are registered, and takes no hint of what
//! changed. Which gateway of a unit a lane's stream goes to is chosen here: the first that is up, and the next one at
//! each further attempt.

use super::config::HostPort;
use super::feed::Peers;
use super::metrics::{Direction, Metrics};
use super::status::{LinkState as Shown, StatusHub};
use crate::link::{Ask, Hello, Here, LinkState, Standing};
use crate::model::{GatewayId, UnitId};
use crate::routing::Table;
use crate::wire::{
    ClientSettings, KnownAnswer, LinkCap, LinkClient, LinkSecurity, LinkStatus, LinkTarget,
    SenderPipe,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

type Name = (UnitId, GatewayId);

struct Running {
    client: Arc<LinkClient>,
    cancel: CancellationToken,
}

/// What a link is made with, besides its target.
pub(super) struct LinksSettings {
    pub(super) here: Here,
    pub(super) security: LinkSecurity,
    pub(super) message_max: usize,
    pub(super) standing: watch::Receiver<Option<Arc<Standing>>>,
    pub(super) via: BTreeMap<Name, HostPort>,
}

/// See the file's head.
pub(super) struct Links {
    settings: LinksSettings,
    running: Mutex<BTreeMap<Name, Running>>,
    /// By the unit that is sent to. They outlive links and tables, which share them: as many as tables have named units.
    caps: Mutex<BTreeMap<UnitId, Arc<LinkCap>>>,
    status: StatusHub,
    metrics: Metrics,
    tracker: TaskTracker,
}

impl Links {
    pub(super) fn new(
        settings: LinksSettings,
        status: StatusHub,
        metrics: Metrics,
        tracker: TaskTracker,
    ) -> Self {
        Self {
            settings,
            running: Mutex::default(),
            caps: Mutex::default(),
            status,
            metrics,
            tracker,
        }
    }

    /// Caps what this gateway sends to each unit, as a new table says.
    pub(super) fn cap(&self, table: &Table) {
        let here = &self.settings.here.unit;
        for unit in table.units() {
            self.cap_of(&unit.name)
                .set(table.link_bytes_per_second(here, &unit.name));
        }
    }

    fn cap_of(&self, unit: &UnitId) -> Arc<LinkCap> {
        Arc::clone(self.caps.lock().entry(unit.clone()).or_default())
    }

    /// Makes the links that run the links that `peers` want. A link that is up ends only when its peer does.
    pub(super) fn reconcile(&self, peers: &Peers, cancel: &CancellationToken) {
        let mut running = self.running.lock();
        let wanted: BTreeMap<Name, String> = peers
            .iter()
            .filter(|(unit, _)| **unit != self.settings.here.unit)
            .flat_map(|(unit, gateways)| {
                gateways.iter().map(|(gateway, record)| {
                    let name = (unit.clone(), gateway.clone());
                    let via = self.settings.via.get(&name).map(ToString::to_string);
                    let address = via.unwrap_or_else(|| record.link.clone());
                    (name, address)
                })
            })
            .collect();
        running.retain(|name, link| {
            let keep = match wanted.get(name) {
                Some(address) => *address == link.client.target().address,
                // Leases are granted anew after etcd was away: who is gone from there may be well.
                None => link.client.status().borrow().state.is_up(),
            };
            if !keep {
                link.cancel.cancel();
                self.status.drop_link(&name.0, &name.1);
            }
            keep
        });
        for (name, address) in wanted {
            if let Entry::Vacant(place) = running.entry(name) {
                let link = self.start(place.key(), address, cancel);
                place.insert(link);
            }
        }
    }

    fn start(
        &self,
        (unit, gateway): &Name,
        address: String,
        cancel: &CancellationToken,
    ) -> Running {
        let settings = ClientSettings {
            here: self.settings.here.clone(),
            target: LinkTarget {
                unit: unit.clone(),
                gateway: gateway.clone(),
                address,
            },
            security: self.settings.security.clone(),
            message_max: self.settings.message_max,
            standing: self.settings.standing.clone(),
            cap: self.cap_of(unit),
            seed: fastrand::u64(..),
        };
        let client = Arc::new(LinkClient::new(settings, self.tracker.clone()));
        let cancel = cancel.child_token();
        let (run, until) = (Arc::clone(&client), cancel.clone());
        self.tracker.spawn(async move { run.run(until).await });
        self.tracker.spawn(report(
            Arc::clone(&client),
            self.status.clone(),
            self.metrics.clone(),
            cancel.clone(),
        ));
        Running { client, cancel }
    }

    /// Opens a lane's stream to some gateway of a unit.
    pub(super) async fn open(
        &self,
        unit: &UnitId,
        hello: Hello,
        attempt: u32,
    ) -> Result<SenderPipe, String> {
        let chosen = self.choose(unit, attempt)?;
        chosen
            .open_stream(hello)
            .await
            .map_err(|error| error.to_string())
    }

    /// Asks some gateway of a unit what it has delivered of slots.
    pub(super) async fn ask_known(
        &self,
        unit: &UnitId,
        ask: Ask,
        attempt: u32,
    ) -> Result<KnownAnswer, String> {
        let chosen = self.choose(unit, attempt)?;
        let asked = chosen.ask_known(ask).await;
        asked.map_err(|error| error.to_string())
    }

    /// When what each peer last granted leave to was sent, since the machine started.
    pub(super) fn leaves(&self) -> Vec<(Name, Duration)> {
        let running = self.running.lock();
        let leaves = running.iter().filter_map(|(name, link)| {
            let sent = link.client.status().borrow().leave?;
            Some((name.clone(), sent))
        });
        leaves.collect()
    }

    /// The round trip to the farthest gateway of a unit that is up.
    pub(super) fn distance(&self, unit: &UnitId) -> Option<Duration> {
        let running = self.running.lock();
        let of_unit = running.iter().filter(|((of, _), _)| of == unit);
        let up = of_unit.filter_map(|(_, link)| {
            let status = link.client.status();
            let status = status.borrow();
            status.state.is_up().then(|| status.distance.round_trip())?
        });
        up.max()
    }

    fn choose(&self, unit: &UnitId, attempt: u32) -> Result<Arc<LinkClient>, String> {
        let running = self.running.lock();
        let of_unit = running
            .iter()
            .filter(|((of, _), _)| of == unit)
            .map(|(_, link)| link);
        let (mut up, mut causes) = (Vec::new(), Vec::new());
        for link in of_unit {
            let status = link.client.status();
            let state = status.borrow().state.clone();
            if state.is_up() {
                up.push(Arc::clone(&link.client));
            } else {
                let target = link.client.target();
                let cause = state.cause().unwrap_or("not open yet");
                causes.push(format!("{} at {}: {cause}", target.gateway, target.address));
            }
        }
        match up.len() {
            0 if causes.is_empty() => Err(format!("no gateway of {unit} is registered")),
            0 => Err(format!(
                "no gateway of {unit} can be reached: {}",
                causes.join("; ")
            )),
            n => Ok(Arc::clone(&up[attempt as usize % n])),
        }
    }
}

/// Status and metrics of a link follow it at most this often: its bytes change all the time.
const REPORT_EVERY: Duration = Duration::from_secs(1);

async fn report(
    client: Arc<LinkClient>,
    status: StatusHub,
    metrics: Metrics,
    cancel: CancellationToken,
) {
    let LinkTarget { unit, gateway, .. } = client.target().clone();
    let mut states = client.status();
    let (mut bytes_in, mut bytes_out) = (0, 0);
    let mut was_up = false;
    loop {
        let now: LinkStatus = states.borrow_and_update().clone();
        let shown = match now.state {
            LinkState::Down { .. } => Shown::Down,
            LinkState::Opening { .. } => Shown::Opening,
            LinkState::Up { .. } => Shown::Up,
            LinkState::Draining { .. } => Shown::Draining,
        };
        let rtt_ms = now
            .round_trip
            .map(|rtt| u64::try_from(rtt.as_millis()).unwrap_or(u64::MAX));
        status.set_link(
            &unit,
            &gateway,
            shown,
            rtt_ms,
            now.state.cause().map_or_else(
                || {
                    now.capped
                        .map(|rate| format!("link capped at {rate} bytes a second"))
                },
                |cause| Some(cause.to_owned()),
            ),
        );
        // Gateways of one unit share its series: each adds what is its own.
        let is_up = now.state.is_up();
        if is_up != was_up {
            metrics.link_up(&unit).add(if is_up { 1 } else { -1 });
            was_up = is_up;
        }
        if let Some(rtt) = now.round_trip {
            metrics.link_round_trip(&unit).set(rtt.as_secs_f64());
        }
        metrics
            .link_bytes(&unit, Direction::In)
            .inc_by(now.bytes_in.saturating_sub(bytes_in));
        metrics
            .link_bytes(&unit, Direction::Out)
            .inc_by(now.bytes_out.saturating_sub(bytes_out));
        (bytes_in, bytes_out) = (now.bytes_in, now.bytes_out);
        tokio::select! {
            () = cancel.cancelled() => break,
            changed = states.changed() => if changed.is_err() { break },
        }
        tokio::select! {
            () = cancel.cancelled() => break,
            () = tokio::time::sleep(REPORT_EVERY), if is_up && states.borrow().state.is_up() => {}
            () = std::future::ready(()), if !(is_up && states.borrow().state.is_up()) => {}
        }
    }
    if was_up {
        metrics.link_up(&unit).add(-1);
    }
}
