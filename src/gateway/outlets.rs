//! Keeps a stream open from one lane to one target: picks a gateway, opens, reports, and begins again after a pause.

use super::brokers::Vhost;
use super::lane_open::ensure_diversion;
use super::lane_task::LaneSpec;
use super::receiver_own;
use super::shared::Shared;
use crate::lane::Target;
use crate::link::receiver::Full;
use crate::link::{Credit, Hello, Incarnation, PROTOCOL};
use crate::model::{Answer, Backoff, Parcel, ParcelNumber, Reason, UnitId};
use crate::rules::DivertFull;
use crate::wire::{ReceiverPipe, SenderPipe, StreamEvent, local_pipe};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What a lane hears of its targets.
pub(super) struct OutletEvent {
    pub(super) target: Target,
    pub(super) what: What,
}

pub(super) enum What {
    /// A stream is open. Dropping `parcels` gives it up.
    Up {
        parcels: mpsc::Sender<Parcel>,
        credit: Credit,
    },
    /// Answers on the stream that was last said to be up.
    Answers(Vec<(ParcelNumber, Answer)>),
    /// The stream ended, or could not be opened.
    Down { cause: String },
}

/// A stream that lived this long was a good one: the next attempt comes at once.
const GOOD_STREAM: Duration = Duration::from_secs(10);

/// Runs until the lane drops `events`, or is aborted with it.
pub(super) async fn keep_stream(
    shared: Arc<Shared>,
    spec: LaneSpec,
    target: Target,
    events: mpsc::Sender<OutletEvent>,
    incarnation: u64,
) {
    let backoff = Backoff::new(incarnation);
    let mut attempt = 0;
    loop {
        let began = Instant::now();
        let opened = open(&shared, &spec, &target, attempt, incarnation).await;
        let down = match opened {
            Ok(pipe) => forward(pipe, &target, &events).await,
            Err(cause) => Some(cause),
        };
        let Some(cause) = down else { return };
        attempt = if began.elapsed() > GOOD_STREAM {
            0
        } else {
            attempt + 1
        };
        let down = OutletEvent {
            target: target.clone(),
            what: What::Down { cause },
        };
        if events.send(down).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.delay(attempt)) => {}
            () = events.closed() => return,
        }
    }
}

async fn open(
    shared: &Arc<Shared>,
    spec: &LaneSpec,
    target: &Target,
    attempt: u32,
    incarnation: u64,
) -> Result<SenderPipe, String> {
    let rules = shared.rules().ok_or("no table")?;
    let hello = |to: &UnitId| Hello {
        protocol: PROTOCOL,
        space: shared.here.space.clone(),
        lineage: rules.table.lineage().clone(),
        epoch: rules.table.epoch(),
        revision: rules.table.revision(),
        from: shared.here.unit.clone(),
        gateway: shared.here.gateway.clone(),
        to: to.clone(),
        source: spec.source.clone(),
        partition: spec.partition,
        incarnation: Incarnation(incarnation),
    };
    match target {
        Target::Unit(unit) if *unit == shared.here.unit => {
            let (ours, theirs) = local_pipe(hello(unit));
            shared
                .incoming
                .send(theirs)
                .await
                .map_err(|_| "the gateway goes down")?;
            Ok(ours)
        }
        Target::Unit(unit) => shared.links.open(unit, hello(unit), attempt).await,
        Target::Park => {
            let (ours, theirs) = local_pipe(hello(&shared.here.unit));
            let vhost = vhost(shared, spec)?;
            let task = park(Arc::clone(shared), vhost, theirs);
            shared.tracker.spawn(task);
            Ok(ours)
        }
        Target::Diversion(unit) => {
            let (ours, theirs) = local_pipe(hello(&shared.here.unit));
            let vhost = vhost(shared, spec)?;
            ensure_diversion(shared, &vhost, spec, unit).await?;
            let full = match spec.divert.full {
                DivertFull::Stop => Full::Waits,
                DivertFull::Park => Full::Refused(Reason::DivertFull),
            };
            let task = divert(Arc::clone(shared), vhost, full, theirs);
            shared.tracker.spawn(task);
            Ok(ours)
        }
    }
}

fn vhost(shared: &Shared, spec: &LaneSpec) -> Result<Vhost, String> {
    let vhost = shared.brokers.vhost(spec.vhost.as_deref());
    vhost.map_err(|error| error.to_string())
}

// Both end with their sender; the lane settles first when the gateway goes down.

async fn park(shared: Arc<Shared>, vhost: Vhost, pipe: ReceiverPipe) {
    receiver_own::park(&shared, &vhost, pipe, CancellationToken::new()).await;
}

async fn divert(shared: Arc<Shared>, vhost: Vhost, full: Full, pipe: ReceiverPipe) {
    receiver_own::divert(&shared, &vhost, full, pipe, CancellationToken::new()).await;
}

/// Passes a stream's events on, until it ends: then its cause; `None` when the lane has ended.
async fn forward(
    pipe: SenderPipe,
    target: &Target,
    events: &mpsc::Sender<OutletEvent>,
) -> Option<String> {
    let SenderPipe {
        parcels,
        events: mut words,
    } = pipe;
    let mut parcels = Some(parcels);
    loop {
        let word = tokio::select! {
            () = events.closed() => return None,
            word = words.recv() => word,
        };
        let what = match word {
            Some(StreamEvent::Up { credit, .. }) => match parcels.take() {
                Some(parcels) => What::Up { parcels, credit },
                None => return Some("the receiver said twice that it is up".to_owned()),
            },
            Some(StreamEvent::Answers(answers)) => What::Answers(answers),
            Some(StreamEvent::Refused { cause, .. } | StreamEvent::Down { cause }) => {
                return Some(cause);
            }
            None => return Some("the stream ended".to_owned()),
        };
        events
            .send(OutletEvent {
                target: target.clone(),
                what,
            })
            .await
            .ok()?;
    }
}
