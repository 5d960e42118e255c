//! A space in etcd: one endpoint at a time, a time-out around every call.
//!
//! The client's own balancer goes on handing calls to an endpoint that refuses them, so a store speaks to a single one, the
//! first that answers with a quorum; whoever sees it fail connects anew, and the next endpoint's turn comes first.

use super::config::{EtcdConfig, EtcdTls};
use super::error::{Asked, EtcdError};
use super::keys::{self, Key};
use super::lease::Lease;
use super::snapshot::{ClusterId, Entry, Snapshot};
use super::transaction::{Commit, Transaction};
use super::watch::Watch;
use crate::model::{Revision, SpaceId};
use etcd_client::{
    Certificate, Client, ConnectOptions, GetOptions, GetResponse, Identity, SortOrder, SortTarget,
    TlsOptions, WatchOptions,
};
use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Longest wait for one answer. A round trip between cities is 30 ms, an election of etcd about 1 s: three seconds mean that
/// this endpoint is of no use now.
const CALL_MAX: Duration = Duration::from_secs(3);

/// HTTP/2 pings, idle or not: a frozen server is noticed after their sum, 8 s.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3));

/// Keys of one page. Each is at most 1.5 MiB by etcd's default, so a page is below 48 MiB.
const PAGE_KEYS: i64 = 32;

/// Largest answer: a page, with room for a server whose limits were raised a little.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A connection to one endpoint, for one space. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    client: Client,
    asked: Asked,
}

/// The newest write under the prefix, `history/` aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newest {
    /// Who answered.
    pub cluster_id: ClusterId,
    /// Of the newest key; 0 when there is none.
    pub mod_revision: Revision,
}

/// Which part of a space is read: no more than a user needs a permission for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All but `history/`: what a gateway needs.
    Everything,
    /// Documents, files in force, placement, seats and moves; not the seal.
    Rules,
    /// Members, and the gateways that hold a lease.
    Registrations,
    /// What moves are judged by: all but the seal and the history.
    Ownership,
    /// Who changed what and why.
    History,
}

enum End {
    Key(&'static str),
    Space,
}

impl Scope {
    fn ranges(self) -> Vec<(&'static str, End)> {
        match self {
            Self::Everything => {
                vec![
                    ("", End::Key(keys::HISTORY)),
                    (keys::AFTER_HISTORY, End::Space),
                ]
            }
            // A range ends before its end: `0` follows `/`, and a zero byte follows a whole key.
            Self::Rules => vec![
                (keys::DOCUMENTS, End::Key("documents0")),
                (keys::IN_FORCE, End::Key("in-force0")),
                (keys::MOVES, End::Key("moves0")),
                ("placement", End::Key("placement\0")),
                ("seats", End::Key("seats\0")),
            ],
            Self::History => vec![(keys::HISTORY, End::Key(keys::AFTER_HISTORY))],
            Self::Ownership => vec![
                ("coordinator", End::Key("coordinator\0")),
                (keys::DOCUMENTS, End::Key("documents0")),
                (keys::FROZEN, End::Key("frozen\0")),
                (keys::GATEWAYS, End::Key("gateways0")),
                (keys::IN_FORCE, End::Key("in-force0")),
                (keys::MEMBERS, End::Key("members0")),
                (keys::MOVES, End::Key("moves0")),
                ("placement", End::Key("placement\0")),
                ("seats", End::Key("seats\0")),
            ],
            Self::Registrations => vec![
                (keys::GATEWAYS, End::Key("gateways0")),
                (keys::MEMBERS, End::Key("members0")),
            ],
        }
    }
}

/// Where the next connection begins, so that a failed endpoint isn't the first one asked again.
static TURN: AtomicUsize = AtomicUsize::new(0);

impl Store {
    /// Connects to the first endpoint that answers, beginning with another one than last time. An error is that of the
    /// endpoint asked last, or the first one that trying elsewhere can't mend.
    pub async fn connect(config: &EtcdConfig, space: &SpaceId) -> Result<Self, EtcdError> {
        let options = options(config).await?;
        let first = TURN.fetch_add(1, Ordering::Relaxed);
        let count = config.endpoints.len();
        let mut last = EtcdError::BadEndpoint {
            endpoint: String::new(),
            cause: "no endpoint is configured".to_owned(),
        };
        for offset in 0..count {
            let endpoint = &config.endpoints[(first + offset) % count];
            // Boxed: the client's connecting future is 17 KiB, and would be part of everything that connects.
            let one = Self::connect_one(endpoint, config, options.clone(), space);
            match Box::pin(one).await {
                Ok(store) => return Ok(store),
                Err(error) if error.is_unreachable() => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    async fn connect_one(
        endpoint: &str,
        config: &EtcdConfig,
        options: ConnectOptions,
        space: &SpaceId,
    ) -> Result<Self, EtcdError> {
        let asked = Asked {
            endpoint: endpoint.to_owned(),
            username: config
                .credentials
                .as_ref()
                .map(|user| user.username.clone()),
            prefix: keys::prefix(space),
        };
        if endpoint.starts_with("https://") && config.tls.is_none() {
            return Err(EtcdError::BadEndpoint {
                endpoint: endpoint.to_owned(),
                cause: "an https endpoint needs etcd.tls.ca".to_owned(),
            });
        }
        let doing = "connecting";
        let client = asked
            .call(doing, Client::connect([endpoint], Some(options)))
            .await?;
        let store = Self { client, asked };
        // A linearizable read, of a key that every user of the space may read: an endpoint without a quorum behind it is
        // as good as none.
        store.read_key(doing, &Key::Seats).await?;
        Ok(store)
    }

    /// The endpoint that this store speaks to.
    pub fn endpoint(&self) -> &str {
        &self.asked.endpoint
    }

    /// Everything under the prefix but `history/`, at one revision.
    pub async fn read_all(&self) -> Result<Snapshot, EtcdError> {
        self.read(Scope::Everything).await
    }

    /// A part of the space, at one revision, in pages.
    pub async fn read(&self, scope: Scope) -> Result<Snapshot, EtcdError> {
        let prefix = &self.asked.prefix;
        let mut entries = BTreeMap::new();
        let mut at = None;
        for (from, end) in scope.ranges() {
            let mut from = format!("{prefix}{from}");
            let end = match end {
                End::Key(end) => format!("{prefix}{end}"),
                End::Space => prefix_end(prefix),
            };
            loop {
                let page = self
                    .page(&from, &end, at.map(|(_, revision)| revision))
                    .await?;
                let (cluster_id, revision) = header(&page);
                at = at.or(Some((cluster_id, revision)));
                for kv in page.kvs() {
                    let key = String::from_utf8_lossy(kv.key());
                    let Some(below) = key.strip_prefix(prefix.as_str()) else {
                        continue;
                    };
                    let mod_revision = Revision(kv.mod_revision());
                    let entry = Entry {
                        value: kv.value().to_vec(),
                        mod_revision,
                    };
                    entries.insert(below.to_owned(), entry);
                }
                match page.kvs().last() {
                    // The next key after it: the same bytes and a zero.
                    Some(last) if page.more() => {
                        from = format!("{}\0", String::from_utf8_lossy(last.key()));
                    }
                    Some(_) | None => break,
                }
            }
        }
        let (cluster_id, revision) = at.unwrap_or((ClusterId(0), Revision(0)));
        Ok(Snapshot {
            cluster_id,
            revision,
            entries,
        })
    }

    /// One key's value.
    pub async fn get(&self, key: &Key<'_>) -> Result<Option<Vec<u8>>, EtcdError> {
        self.read_key("reading a key", key).await
    }

    async fn read_key(
        &self,
        doing: &'static str,
        key: &Key<'_>,
    ) -> Result<Option<Vec<u8>>, EtcdError> {
        let full = format!("{}{}", self.asked.prefix, key.text());
        let mut kv = self
            .client
            .kv_client()
            .max_decoding_message_size(ANSWER_BYTES_MAX);
        let answer = self.asked.call(doing, kv.get(full, None)).await?;
        Ok(answer.kvs().first().map(|kv| kv.value().to_vec()))
    }

    async fn page(
        &self,
        from: &str,
        end: &str,
        at: Option<Revision>,
    ) -> Result<GetResponse, EtcdError> {
        let mut options = GetOptions::new().with_range(end).with_limit(PAGE_KEYS);
        if let Some(revision) = at {
            options = options.with_revision(revision.0);
        }
        let mut kv = self
            .client
            .kv_client()
            .max_decoding_message_size(ANSWER_BYTES_MAX);
        self.asked
            .call("reading the space's keys", kv.get(from, Some(options)))
            .await
    }

    /// Asks for the newest key alone: what shows that this endpoint still answers, and that no change was missed.
    pub async fn newest(&self) -> Result<Newest, EtcdError> {
        let prefix = &self.asked.prefix;
        let mut newest = Newest {
            cluster_id: ClusterId(0),
            mod_revision: Revision(0),
        };
        let below_history = (prefix.clone(), format!("{prefix}{}", keys::HISTORY));
        let above_history = (
            format!("{prefix}{}", keys::AFTER_HISTORY),
            prefix_end(prefix),
        );
        for (from, end) in [below_history, above_history] {
            let options = GetOptions::new()
                .with_range(end)
                .with_sort(SortTarget::Mod, SortOrder::Descend)
                .with_keys_only()
                .with_limit(1);
            let mut kv = self.client.kv_client();
            let answer = self
                .asked
                .call("reading the newest key", kv.get(from, Some(options)));
            let answer = answer.await?;
            newest.cluster_id = header(&answer).0;
            for key in answer.kvs() {
                newest.mod_revision = newest.mod_revision.max(Revision(key.mod_revision()));
            }
        }
        Ok(newest)
    }

    /// Watches everything under the prefix from the revision after `seen`.
    pub async fn watch(&self, seen: Revision) -> Result<Watch, EtcdError> {
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(seen.0 + 1)
            .with_progress_notify();
        let mut client = self
            .client
            .watch_client()
            .max_decoding_message_size(ANSWER_BYTES_MAX);
        let prefix = self.asked.prefix.clone();
        let stream = self.asked.call(
            "watching the space's keys",
            client.watch(prefix, Some(options)),
        );
        Ok(Watch::new(stream.await?, self.asked.clone()))
    }

    /// Writes all of a transaction, or nothing of it.
    pub async fn commit(&self, transaction: &Transaction) -> Result<Commit, EtcdError> {
        let txn = transaction.build(&self.asked.prefix);
        let mut kv = self.client.kv_client();
        let answer = self.asked.call("writing a change", kv.txn(txn)).await?;
        if !answer.succeeded() {
            return Ok(Commit::Conflict);
        }
        Ok(Commit::Done(Revision(
            answer
                .header()
                .map_or(0, etcd_client::ResponseHeader::revision),
        )))
    }

    /// A lease of this length, to be renewed within it.
    pub async fn grant(&self, ttl: Duration) -> Result<Lease, EtcdError> {
        let ttl_seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).max(1);
        let mut client = self.client.lease_client();
        let answer = self
            .asked
            .call("granting a lease", client.grant(ttl_seconds, None))
            .await?;
        let kept = self
            .asked
            .call("keeping a lease alive", client.keep_alive(answer.id()));
        let (keeper, stream) = kept.await?;
        Ok(Lease::new(answer.id(), keeper, stream, self.asked.clone()))
    }

    /// Ends a lease and what was written under it.
    pub async fn revoke(&self, lease: Lease) -> Result<(), EtcdError> {
        let mut client = self.client.lease_client();
        self.asked
            .call("ending a lease", client.revoke(lease.id()))
            .await?;
        Ok(())
    }
}

impl Asked {
    /// A call with its time-out, and its error in the operator's words.
    pub(super) async fn call<T>(
        &self,
        doing: &'static str,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, EtcdError> {
        match tokio::time::timeout(CALL_MAX, call).await {
            Ok(answer) => answer.map_err(|error| self.error(doing, &error)),
            Err(_) => Err(self.timed_out(doing, CALL_MAX)),
        }
    }
}

fn header(answer: &GetResponse) -> (ClusterId, Revision) {
    answer
        .header()
        .map_or((ClusterId(0), Revision(0)), |header| {
            (ClusterId(header.cluster_id()), Revision(header.revision()))
        })
}

/// The first key after all that begin with the prefix, which ends in `/`: `0` follows it in ASCII.
fn prefix_end(prefix: &str) -> String {
    format!("{}0", prefix.trim_end_matches('/'))
}

async fn options(config: &EtcdConfig) -> Result<ConnectOptions, EtcdError> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CALL_MAX)
        .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let Some(user) = &config.credentials {
        options = options.with_user(user.username.clone(), user.password_text());
    }
    if let Some(EtcdTls { ca, identity }) = &config.tls {
        let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(pem(ca).await?));
        if let Some((cert, key)) = identity {
            tls = tls.identity(Identity::from_pem(pem(cert).await?, pem(key).await?));
        }
        options = options.with_tls(tls);
    }
    Ok(options)
}

async fn pem(path: &Path) -> Result<Vec<u8>, EtcdError> {
    tokio::fs::read(path)
        .await
        .map_err(|error| EtcdError::BadTls {
            path: path.to_owned(),
            cause: error.to_string(),
        })
}
