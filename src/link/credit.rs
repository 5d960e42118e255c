//! How much of a lane may be under way to one receiver.
//!
//! Owns the arithmetic of credits: what a receiver grants to a stream, what a sender has left, and whether a peer kept
//! to it. Promises that the memory behind unanswered parcels is bounded on both sides, however many peers there are, and
//! that an oversized parcel still goes, alone. Knows nothing of HTTP/2 but the size of its window.

use crate::model::ParcelNumber;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The HTTP/2 window of one connection. 64 MiB carry 320 MB/s over 200 ms; hyper's default of 1 MiB would carry 5.
pub const CONNECTION_WINDOW_BYTES: u32 = 64 * 1_024 * 1_024;

/// What all streams of one connection are granted together while they are few: below the connection's window, so that
/// streams that stall can't use it up for the others. 2 MiB are left for frame heads and canaries.
const POOL_BYTES: usize = 62 * 1_024 * 1_024;

/// The most for one stream. A parcel of 1 KiB counts for 2 KiB, so 16 MiB are 8,000 of them: 16,000 a second over 200 ms into
/// a queue that confirms 300 ms late.
const STREAM_BYTES_MAX: usize = 16 * 1_024 * 1_024;

/// The least for one stream, even when everything is spent: [`STREAMS_MAX`] of them are 64 MiB.
const STREAM_BYTES_MIN: usize = 64 * 1_024;

/// Streams on one connection: lanes times two (an old and a new one while a lane moves), with room.
pub const STREAMS_MAX: u32 = 1_024;

/// A parcel costs 1 KiB at least, so more than this can't be under way within the largest credit; channels of this
/// capacity never make a sender wait that keeps to its credit.
const STREAM_PARCELS_MAX: usize = STREAM_BYTES_MAX / 1_024;

/// What may be unanswered at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit {
    /// By [`crate::model::Parcel::cost_bytes`].
    pub bytes: usize,
    /// Parcels, whatever their sizes.
    pub parcels: usize,
}

impl Credit {
    /// The most that a stream is ever granted, also what a local stream has.
    pub const MAX: Self = Self {
        bytes: STREAM_BYTES_MAX,
        parcels: STREAM_PARCELS_MAX,
    };
}

/// What all links of a gateway may bring at a time. Half of it is shared out in even parts, one for each lane that may
/// come; the other half goes to those that have come, a quarter of what is left to each.
#[derive(Debug, Clone)]
pub struct CreditBudget {
    half_bytes: usize,
    spare: Arc<Mutex<usize>>,
}

impl CreditBudget {
    /// So many bytes, by [`crate::model::Parcel::cost_bytes`].
    pub fn new(bytes: usize) -> Self {
        Self {
            half_bytes: bytes / 2,
            spare: Arc::new(Mutex::new(bytes / 2)),
        }
    }

    /// The credits of a new connection.
    pub fn connection(&self) -> CreditPool {
        CreditPool {
            budget: self.clone(),
            free: Arc::new(Mutex::new(POOL_BYTES)),
        }
    }
}

/// The credits of one connection's streams.
#[derive(Debug, Clone)]
pub struct CreditPool {
    budget: CreditBudget,
    free: Arc<Mutex<usize>>,
}

impl CreditPool {
    /// Takes one stream's share, which returns when the grant is dropped. `lanes` are all that may come to the gateway.
    pub fn grant(&self, lanes: usize) -> CreditGrant {
        let (mut free, mut spare) = (self.free.lock(), self.budget.spare.lock());
        let even = self.budget.half_bytes / lanes.max(1);
        let bytes = (even + *spare / 4)
            .min(*free / 4)
            .clamp(STREAM_BYTES_MIN, STREAM_BYTES_MAX);
        let of_pool = bytes.min(*free);
        let of_spare = bytes.saturating_sub(even).min(*spare);
        *free -= of_pool;
        *spare -= of_spare;
        CreditGrant {
            credit: Credit {
                bytes,
                parcels: (bytes / 1_024).min(STREAM_PARCELS_MAX),
            },
            of_pool,
            of_spare,
            pool: self.clone(),
        }
    }
}

/// One stream's share of its connection's pool and of its gateway's budget.
#[derive(Debug)]
pub struct CreditGrant {
    credit: Credit,
    of_pool: usize,
    of_spare: usize,
    pool: CreditPool,
}

impl CreditGrant {
    /// What was granted.
    pub fn credit(&self) -> Credit {
        self.credit
    }
}

impl Drop for CreditGrant {
    fn drop(&mut self) {
        *self.pool.free.lock() += self.of_pool;
        *self.pool.budget.spare.lock() += self.of_spare;
    }
}

/// Why a parcel may not be sent now; from a peer, a breach of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreditBreach {
    /// The window is full.
    #[error(
        "parcel {number} of {cost} bytes is beyond the credit: {bytes} bytes in {parcels} parcels are unanswered"
    )]
    Beyond {
        /// The parcel.
        number: ParcelNumber,
        /// What it costs.
        cost: usize,
        /// Unanswered bytes.
        bytes: usize,
        /// Unanswered parcels.
        parcels: usize,
    },
    /// That number is under way already.
    #[error("parcel {0} is under way already")]
    Twice(ParcelNumber),
}

/// What is unanswered on one stream, against its credit. Sender and receiver keep one each.
#[derive(Debug)]
pub struct CreditWindow {
    credit: Credit,
    bytes: usize,
    under_way: BTreeMap<ParcelNumber, usize>,
}

impl CreditWindow {
    /// Nothing under way.
    pub fn new(credit: Credit) -> Self {
        Self {
            credit,
            bytes: 0,
            under_way: BTreeMap::new(),
        }
    }

    /// Whether a parcel of this cost may go. One larger than the whole credit may, when nothing else is under way:
    /// otherwise it would wait for ever.
    pub fn has_room(&self, cost: usize) -> bool {
        self.under_way.is_empty()
            || (self.under_way.len() < self.credit.parcels
                && self.bytes.saturating_add(cost) <= self.credit.bytes)
    }

    /// Counts a parcel as under way.
    pub fn take(&mut self, number: ParcelNumber, cost: usize) -> Result<(), CreditBreach> {
        if self.under_way.contains_key(&number) {
            return Err(CreditBreach::Twice(number));
        }
        if !self.has_room(cost) {
            return Err(CreditBreach::Beyond {
                number,
                cost,
                bytes: self.bytes,
                parcels: self.under_way.len(),
            });
        }
        self.under_way.insert(number, cost);
        self.bytes += cost;
        Ok(())
    }

    /// Counts a parcel as answered; false when it wasn't under way.
    pub fn release(&mut self, number: ParcelNumber) -> bool {
        match self.under_way.remove(&number) {
            Some(cost) => {
                self.bytes -= cost;
                true
            }
            None => false,
        }
    }

    /// Unanswered bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Unanswered parcels.
    pub fn parcels(&self) -> usize {
        self.under_way.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEBIBYTE: usize = 1_024 * 1_024;

    fn bytes(grants: &[CreditGrant]) -> usize {
        grants.iter().map(|grant| grant.credit().bytes).sum()
    }

    #[test]
    fn few_streams_of_a_connection_stay_below_its_window_together() {
        let pool = CreditBudget::new(1_024 * MEBIBYTE).connection();
        let grants: Vec<_> = (0..14).map(|_| pool.grant(14)).collect();
        let sum = bytes(&grants);
        assert!(
            sum < CONNECTION_WINDOW_BYTES as usize,
            "{sum} bytes granted"
        );
    }

    #[test]
    fn many_streams_of_a_connection_stay_below_the_stated_memory_and_each_has_something() {
        let budget = CreditBudget::new(1_024 * MEBIBYTE);
        let pool = budget.connection();
        let lanes = STREAMS_MAX as usize;
        let grants: Vec<_> = (0..lanes).map(|_| pool.grant(lanes)).collect();
        assert!(bytes(&grants) <= POOL_BYTES + lanes * STREAM_BYTES_MIN);
        assert!(grants.iter().all(|grant| grant.credit().parcels >= 64));
        drop(grants);
        assert_eq!(*pool.free.lock(), POOL_BYTES);
        assert_eq!(*budget.spare.lock(), 512 * MEBIBYTE);
    }

    #[test]
    fn however_many_peers_send_their_streams_stay_within_the_gateways_budget() {
        const PEERS: usize = 50;
        const LANES: usize = 8;
        let budget = CreditBudget::new(128 * MEBIBYTE);
        let pools: Vec<_> = (0..PEERS).map(|_| budget.connection()).collect();
        let grants: Vec<_> = (0..LANES)
            .flat_map(|_| pools.iter().map(|pool| pool.grant(PEERS * LANES)))
            .collect();
        assert!(bytes(&grants) <= 128 * MEBIBYTE);
        assert_eq!(grants[0].credit().bytes, POOL_BYTES / 4);
        let even = 64 * MEBIBYTE / PEERS / LANES;
        assert!(grants.iter().all(|grant| grant.credit().bytes >= even));
    }

    #[test]
    fn an_oversized_parcel_goes_alone() {
        let mut window = CreditWindow::new(Credit {
            bytes: 10_000,
            parcels: 4,
        });
        assert!(window.has_room(50_000));
        window.take(ParcelNumber(1), 50_000).unwrap();
        assert!(!window.has_room(1));
        assert!(matches!(
            window.take(ParcelNumber(2), 1),
            Err(CreditBreach::Beyond { .. })
        ));
        assert!(window.release(ParcelNumber(1)));
        assert!(!window.release(ParcelNumber(1)));
        assert_eq!((window.bytes(), window.parcels()), (0, 0));
    }

    #[test]
    fn a_window_bounds_bytes_and_parcels() {
        let mut window = CreditWindow::new(Credit {
            bytes: 10,
            parcels: 3,
        });
        for number in 1..=3 {
            window.take(ParcelNumber(number), 2).unwrap();
        }
        assert!(!window.has_room(0), "three parcels are the limit");
        window.release(ParcelNumber(2));
        assert!(window.has_room(6) && !window.has_room(7));
        assert_eq!(
            window.take(ParcelNumber(1), 1),
            Err(CreditBreach::Twice(ParcelNumber(1)))
        );
    }
}
