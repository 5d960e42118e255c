//! Looking through the park: to list, to show one, to drop what was counted.

use super::entry::{Entry, Filter, Read, SHOWN_BYTES, shown};
use super::{Job, Park, ParkError, SCAN_MAX, SILENCE_MAX, Taken};
use crate::model::DeliveryTag;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

/// What lies in a unit's park.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The oldest of those that are meant.
    pub entries: Vec<Entry>,
    /// How many are meant.
    pub matched: u64,
    /// How many were looked at.
    pub looked_at: u64,
    /// How many were not, for want of time or because there are more than one command looks at.
    pub unseen: u64,
}

/// What became of a drop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// How many are gone.
    pub dropped: u64,
}

/// How a look through a queue goes on after a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Look,
    Enough,
}

pub(super) async fn list(job: Job, filter: Filter, limit: usize) -> Result<Listing, ParkError> {
    let mut listing = Listing::default();
    for vhost in job.vhosts()? {
        let Some(mut park) = job.open(&vhost).await? else {
            continue;
        };
        let looked = look(&job, &mut park, |read, _| {
            listing.looked_at += 1;
            if read.is_meant(&filter) {
                listing.matched += 1;
                if listing.entries.len() < limit {
                    listing.entries.push(read.entry);
                }
            }
            Next::Look
        });
        let unseen = looked.await;
        park.close().await?;
        listing.unseen += unseen?;
    }
    Ok(listing)
}

pub(super) async fn show(job: Job, id: String) -> Result<Option<Value>, ParkError> {
    let filter = Filter {
        id: Some(id),
        ..Filter::default()
    };
    for vhost in job.vhosts()? {
        let Some(mut park) = job.open(&vhost).await? else {
            continue;
        };
        let mut found = None;
        let looked = look(&job, &mut park, |read, taken| {
            if !read.is_meant(&filter) {
                return Next::Look;
            }
            let body = &taken.message.body;
            let beginning = match body.get(..SHOWN_BYTES).unwrap_or(body) {
                [] => &taken.beginning[..],
                beginning => beginning,
            };
            found = Some(shown(&read, &taken.message, beginning));
            Next::Enough
        });
        let looked = looked.await;
        park.close().await?;
        looked?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// All parks are looked through before anything is dropped, so that the count is that of the whole unit.
pub(super) async fn drop_all(job: Job, filter: Filter, count: u64) -> Result<Dropped, ParkError> {
    let mut parks: Vec<(Park, Vec<DeliveryTag>)> = Vec::new();
    let mut found = Ok(0);
    for vhost in job.vhosts()? {
        match job.open(&vhost).await {
            Ok(None) => {}
            Ok(Some(mut park)) => {
                let mut meant = Vec::new();
                let looked = look(&job, &mut park, |read, taken| {
                    if read.is_meant(&filter) {
                        meant.push(taken.tag);
                    }
                    Next::Look
                });
                let looked = looked.await;
                let matched = meant.len() as u64;
                parks.push((park, meant));
                found = looked.and(found).map(|found: u64| found + matched);
            }
            Err(error) => found = Err(error),
        }
        if found.is_err() {
            break;
        }
    }
    let found = found.and_then(|found| {
        if found == count {
            Ok(found)
        } else {
            let named = count;
            Err(ParkError::OtherCount { named, found })
        }
    });
    let mut gone = Ok(());
    for (park, meant) in parks {
        if found.is_ok() {
            for tag in meant {
                let done = park.reader.consumer.acknowledge_alone(tag);
                gone = gone.and(done.map_err(|error| ParkError::Broker(error.to_string())));
            }
        }
        // In order, so the broker has taken the acknowledgements in when this returns.
        let closed = park.close().await;
        gone = gone.and(closed);
    }
    let dropped = found?;
    gone?;
    Ok(Dropped { dropped })
}

/// Reads a park queue to its end as it was at the beginning. Returns how many messages there was no time for.
async fn look(
    job: &Job,
    park: &mut Park,
    mut each: impl FnMut(Read, &Taken) -> Next,
) -> Result<u64, ParkError> {
    let due = park.waiting.min(u64::from(SCAN_MAX));
    let beyond = park.waiting - due;
    let mut left = due;
    while left > 0 {
        let silence = Instant::now() + SILENCE_MAX;
        let taken = tokio::select! {
            biased;
            () = job.cancel.cancelled() => {
                return Err(ParkError::Broker("this gateway is ending".to_owned()));
            }
            () = tokio::time::sleep_until(silence.min(job.deadline)) => break,
            taken = park.reader.next() => taken?,
        };
        let Some(taken) = taken else {
            continue;
        };
        left -= 1;
        let read = job.read(&taken.message, taken.body, &park.vhost);
        if each(read, &taken) == Next::Enough {
            return Ok(0);
        }
    }
    Ok(left + beyond)
}
