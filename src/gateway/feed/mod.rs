//! The table's way from etcd into the gateway.
//!
//! Owns what is known of the space: the last good table, the seal, the peers, the state of etcd, and the file that keeps
//! them over a restart. Promises that a table is swapped whole, that a faulty change leaves the last good one in place with
//! its faults named, and that a gateway with a table on its disk needs no etcd to start. Tells etcd what this gateway is.

mod disk;
mod folder;
mod follower;
mod inputs;
mod judge;
mod placement;
mod register;
mod state;
mod trouble;

pub use disk::StateError;
pub use folder::{FolderError, is_document, read_folder};
pub use inputs::{Peers, document_files};
pub use judge::changed_before;
pub use placement::{placement_text, with_live_placement};
pub use state::{EtcdState, FeedHandle, FeedState, Leased};
pub use trouble::Trouble;

use crate::etcd::{EtcdConfig, EtcdCredentials, EtcdTls, Files, GatewayRecord};
use crate::gateway::config::EtcdPart;
use crate::model::{
    Backoff, Epoch, Frozen, GatewayId, Lineage, Moves, Revision, Seats, SpaceId, UnitId,
};
use crate::rules::{Context, Fault, NotYet, validate};
use arc_swap::ArcSwapOption;
use follower::Follower;
use inputs::Inputs;
use register::Registrar;
use secrecy::SecretString;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What a feed needs to know of its gateway.
#[derive(Debug, Clone)]
pub struct FeedSettings {
    /// The routing world.
    pub space: SpaceId,
    /// The unit that this gateway serves.
    pub unit: UnitId,
    /// This gateway.
    pub gateway: GatewayId,
    /// Where the documents are.
    pub from: FeedFrom,
    /// Where `table.json` lies; made when absent.
    pub state_dir: PathBuf,
}

/// Where the documents are.
#[derive(Debug, Clone)]
pub enum FeedFrom {
    /// In etcd.
    Etcd(EtcdConfig),
    /// In a folder, read once.
    Folder(PathBuf),
}

impl From<&EtcdPart> for EtcdConfig {
    fn from(part: &EtcdPart) -> Self {
        let credentials = part
            .username
            .clone()
            .zip(part.password.clone())
            .map(|(username, password)| EtcdCredentials { username, password });
        let tls = part.tls.clone().map(|paths| EtcdTls {
            ca: paths.ca,
            identity: paths.identity,
        });
        Self {
            endpoints: part.endpoints.clone(),
            credentials,
            tls,
        }
    }
}

/// A feed that can't start.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The folder of documents.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// What is in it.
    #[error("the routing documents have {} faults; see `setgate rules validate`", .0.len())]
    Faulty(Vec<Fault>),
    /// The kernel's random source.
    #[error("can't read /dev/urandom: {0}; it is needed for the seal's key")]
    Random(std::io::Error),
}

/// Follows a space, and tells it of this gateway.
pub struct Feed {
    settings: FeedSettings,
    own: watch::Receiver<GatewayRecord>,
    leased: watch::Sender<Option<Leased>>,
    follower: Follower,
}

impl Feed {
    /// Takes up what the disk or the folder has; nothing is asked of etcd yet. `own` is what this gateway says of itself;
    /// its revision and epoch are filled in here.
    pub fn open(
        settings: FeedSettings,
        own: watch::Receiver<GatewayRecord>,
    ) -> Result<(Self, FeedHandle), FeedError> {
        disk::prepare(&settings.state_dir)?;
        let (etcd, saved) = match &settings.from {
            FeedFrom::Etcd(_) => {
                let saved = disk::load(&settings.state_dir, &settings.space)?;
                (EtcdState::Connecting, saved)
            }
            FeedFrom::Folder(folder) => {
                let files = read_folder(folder)?;
                let seal = disk::own_seal(&settings.state_dir)?;
                let inputs = folder_inputs(&files, &settings.space, seal)?;
                (
                    EtcdState::Unused,
                    Some(disk::Saved {
                        inputs,
                        peers: Peers::new(),
                        members: BTreeSet::new(),
                    }),
                )
            }
        };
        let state = FeedState {
            table: None,
            seal: None,
            peers: Arc::new(Peers::new()),
            faults: Arc::from([]),
            trouble: None,
            rejected: None,
            etcd,
            lease_ttl: None,
            saved: Revision::default(),
            members: Arc::default(),
            read_at: Revision::default(),
            frozen: Frozen::default(),
            coordinator: None,
        };
        let (state, receiver) = watch::channel(state);
        let table = Arc::new(ArcSwapOption::empty());
        let (leased, leased_seen) = watch::channel(None);
        let handle = FeedHandle {
            leased: leased_seen,
            state: receiver,
            table: table.clone(),
        };
        let mut follower = Follower::new(&settings, state, table).map_err(FeedError::Random)?;
        if let Some(saved) = saved {
            follower.restore(saved);
            if let (FeedFrom::Folder(_), faults) = (&settings.from, &handle.state().faults)
                && !faults.is_empty()
            {
                return Err(FeedError::Faulty(faults.to_vec()));
            }
        }
        Ok((
            Self {
                settings,
                own,
                leased,
                follower,
            },
            handle,
        ))
    }

    /// Follows etcd until cancelled; what goes wrong is in the state, and is tried again.
    pub async fn run(self, cancel: CancellationToken) {
        let Self {
            settings,
            own,
            leased,
            follower,
        } = self;
        let FeedFrom::Etcd(etcd) = &settings.from else {
            cancel.cancelled().await;
            return;
        };
        let registrar = Registrar {
            settings: &settings,
            etcd,
            own,
            leased,
            state: follower.state.subscribe(),
            backoff: Backoff::new(fastrand::u64(..)),
            failures: 0,
            held: None,
        };
        tokio::join!(follower.run(etcd, &cancel), registrar.run(&cancel));
    }
}

/// A folder stands for a space of one life that never changes its seats.
fn folder_inputs(
    files: &[crate::rules::DocumentFile],
    space: &SpaceId,
    seal: SecretString,
) -> Result<Inputs, FeedError> {
    let context = Context {
        space: Some(space),
        not_yet: NotYet::Refuse,
        ..Context::default()
    };
    let faults = validate(files, &context).faults;
    let Some(placement) = placement_text(files).filter(|_| faults.is_empty()) else {
        return Err(FeedError::Faulty(faults));
    };
    Ok(Inputs {
        cluster_id: None,
        revision: Revision(0),
        files: files
            .iter()
            .map(|file| (file.name.clone(), file.text.clone()))
            .collect::<Files>(),
        placement,
        seats: Seats {
            lineage: Lineage("local".into()),
            epoch: Epoch(1),
            ..Seats::default()
        },
        moves: Moves::new(),
        seal,
    })
}
