//! Reads the unit's journal, from the copy in the state folder as far as it goes, then from the broker.

use super::copy::{CopyFolder, Keep, Kept, Stretch, WAITING_MAX};
use super::{Journal, vhost};
use crate::broker::{FollowEnd, Followed, StreamFollower, StreamFrom};
use crate::gateway::shared::Shared;
use crate::model::{Backoff, own_queues};
use prometheus::IntCounter;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Read for so long, it counts as read, whatever the clocks of those who wrote it say: a lane that is taken waits for it anyway.
const READ_MAX: Duration = Duration::from_secs(30);

/// A journal that has nothing more to give for so long has been read.
const QUIET: Duration = Duration::from_millis(300);

/// A copy that lies where the stream says something else isn't of this stream; one that can't be compared within this time
/// isn't worth waiting for.
const COMPARE_MAX: Duration = Duration::from_secs(5);

/// A disk on which an entry isn't written within this time copies no more.
const KEEP_MAX: Duration = Duration::from_secs(2);

/// Follows the journal until cancelled, and keeps a copy of it in the state folder.
pub(in crate::gateway) async fn follow(
    shared: Arc<Shared>,
    state_dir: PathBuf,
    cancel: CancellationToken,
) {
    let journal = shared.journal.clone();
    let (keep, kept) = mpsc::channel(WAITING_MAX);
    let reader = Reader {
        stream: own_queues::seen(&shared.here.space),
        begun: journal.now(),
        foreign: shared.metrics.journal_foreign(),
        folder: CopyFolder::new(&state_dir),
        keep: Some(keep),
        from: None,
        attempt: 0,
        journal,
        shared,
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = reader.run(kept) => {}
    }
}

struct Reader {
    shared: Arc<Shared>,
    journal: Journal,
    stream: String,
    begun: Duration,
    foreign: IntCounter,
    folder: CopyFolder,
    /// None: no more is copied.
    keep: Option<mpsc::Sender<Keep>>,
    from: Option<StreamFrom>,
    attempt: u32,
}

impl Reader {
    async fn run(mut self, kept: mpsc::Receiver<Keep>) {
        let backoff = Backoff::new(fastrand::u64(..));
        // How far back it has to be read, sources say. Without them nothing is received.
        let mut rules = self.shared.rules.clone();
        if rules.wait_for(Option::is_some).await.is_err() {
            return;
        }
        self.begun = self.journal.now();
        let mut copied = self.copied().await;
        let mut kept = Some(kept);
        loop {
            let begin = match (&copied, self.from) {
                (Some(stretch), _) => StreamFrom::At(stretch.last.followed.offset),
                (None, Some(from)) => from,
                (None, None) => StreamFrom::Since(self.back()),
            };
            let cause = match open_follower(&self.shared, &self.stream, begin).await {
                Err(cause) => cause,
                Ok(mut follower) => {
                    if let Some(stretch) = copied.take() {
                        let compared = match self.compare(&mut follower, &stretch).await {
                            Compared::Same => self.restore(&stretch).await,
                            other => other,
                        };
                        match compared {
                            Compared::Same => {}
                            Compared::Other => {
                                self.forget_copy().await;
                                self.start_keeping(&mut kept, None);
                                continue;
                            }
                            Compared::Lost(cause) => {
                                copied = Some(stretch);
                                self.pause(&backoff, &cause).await;
                                continue;
                            }
                        }
                        self.start_keeping(&mut kept, Some(stretch));
                    }
                    self.start_keeping(&mut kept, None);
                    self.read(&mut follower).await
                }
            };
            self.pause(&backoff, &cause).await;
        }
    }

    async fn pause(&mut self, backoff: &Backoff, cause: &str) {
        self.attempt += 1;
        tracing::debug!(%cause, attempt = self.attempt, "the journal isn't followed");
        sleep(backoff.delay(self.attempt)).await;
    }

    /// From when on the journal is read.
    fn back(&self) -> Duration {
        self.journal.now().saturating_sub(self.journal.reach())
    }

    /// What the state folder has of the journal, where that is enough.
    async fn copied(&self) -> Option<Stretch> {
        let folder = self.folder.clone();
        let found = tokio::task::spawn_blocking(move || folder.read(|_| ())).await;
        let stretch = match found {
            Ok(Ok(stretch)) => stretch,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the copy of the journal in state_dir can't be read");
                None
            }
            Err(_) => None,
        };
        let enough = stretch.filter(|stretch| stretch.reaches(self.back()));
        if enough.is_none() {
            self.forget_copy().await;
        }
        enough
    }

    async fn forget_copy(&self) {
        let folder = self.folder.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || folder.clear()).await {
            tracing::warn!(%error, "the copy of the journal in state_dir can't be removed");
        }
    }

    /// Whether the stream has at the copy's last offset what the copy has there.
    async fn compare(&self, follower: &mut StreamFollower, stretch: &Stretch) -> Compared {
        match timeout(COMPARE_MAX, follower.next()).await {
            Ok(Ok(followed)) if followed == stretch.last.followed => Compared::Same,
            Ok(Err(FollowEnd::Lost { cause })) => Compared::Lost(cause),
            Ok(Ok(_) | Err(FollowEnd::Deleted)) | Err(_) => Compared::Other,
        }
    }

    /// Takes in what was copied. Without all of it, what the stream has before its end is still to be read.
    async fn restore(&mut self, compared: &Stretch) -> Compared {
        let (folder, journal) = (self.folder.clone(), self.journal.clone());
        let restored = tokio::task::spawn_blocking(move || {
            let mut count = 0_u64;
            let stretch = folder.read(|kept| {
                // What was copied had been taken in once.
                count += u64::from(journal.take_in(kept.followed).is_ok());
            });
            (count, stretch)
        });
        match restored.await {
            Ok((entries, Ok(Some(stretch)))) if stretch == *compared => {
                tracing::info!(entries, "read the journal from its copy in state_dir");
                self.from = Some(StreamFrom::Behind(stretch.last.followed.offset));
                Compared::Same
            }
            Ok((_, Err(error))) => {
                tracing::warn!(%error, "the copy of the journal in state_dir can't be read; it is read from the broker");
                Compared::Other
            }
            Ok((_, Ok(_))) | Err(_) => Compared::Other,
        }
    }

    /// The first time alone.
    fn start_keeping(&self, kept: &mut Option<mpsc::Receiver<Keep>>, known: Option<Stretch>) {
        if let Some(kept) = kept.take() {
            let (folder, journal) = (self.folder.clone(), self.journal.clone());
            let keeping = folder.keep(known, kept, move || journal.reach());
            self.shared.tracker.spawn(keeping);
        }
    }

    /// Takes in what comes; why there is no more.
    async fn read(&mut self, follower: &mut StreamFollower) -> String {
        loop {
            let next = if *self.journal.0.read.borrow() {
                follower.next().await
            } else if let Ok(next) = timeout(QUIET, follower.next()).await {
                next
            } else {
                self.journal.0.read.send_replace(true);
                continue;
            };
            match next {
                Ok(followed) => {
                    self.attempt = 0;
                    self.from = Some(StreamFrom::Behind(followed.offset));
                    self.take_in(followed).await;
                }
                Err(end @ FollowEnd::Deleted) => {
                    self.from = None;
                    self.keep(Keep::Anew).await;
                    return end.to_string();
                }
                Err(end @ FollowEnd::Lost { .. }) => return end.to_string(),
            }
        }
    }

    async fn take_in(&mut self, followed: Followed) {
        let copy = followed.clone();
        let mut is_new = false;
        match self.journal.take_in(followed) {
            Ok(at) => {
                is_new = at >= self.begun;
                self.keep(Keep::Entry(Kept { followed: copy, at })).await;
            }
            Err(error) => {
                // Whoever puts one there may put many: they are counted.
                if self.foreign.get() == 0 {
                    tracing::warn!(%error, "something in the journal was written by no gateway");
                }
                self.foreign.inc();
            }
        }
        // Whatever it is that comes, it can't keep this gateway from receiving for ever.
        let took = self.journal.now().saturating_sub(self.begun);
        if is_new || took >= READ_MAX {
            self.journal.0.read.send_replace(true);
        }
    }

    async fn keep(&mut self, keep: Keep) {
        if let Some(to) = &self.keep
            && to.send_timeout(keep, KEEP_MAX).await.is_err()
        {
            tracing::warn!(
                "the disk of state_dir is too slow for a copy of the journal; a restart takes longer"
            );
            self.keep = None;
        }
    }
}

/// A copy beside its stream.
enum Compared {
    Same,
    Other,
    /// Not seen: the connection ended.
    Lost(String),
}

async fn open_follower(
    shared: &Shared,
    stream: &str,
    from: StreamFrom,
) -> Result<StreamFollower, String> {
    let vhost = vhost(shared, stream).await?;
    let opened = StreamFollower::open(&vhost.dialer, "follows the journal", stream, from).await;
    opened.map_err(|error| error.to_string())
}
