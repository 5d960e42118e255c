//! How far a peer is, whatever its machine does meanwhile.

use std::collections::VecDeque;
use std::time::Duration;

/// Round trips that are looked back on: with a canary each second, half a minute of them.
const RECENT: usize = 30;

/// The last round trips of a link. A loaded machine answers late and never early: the shortest says how far it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Distance {
    recent: VecDeque<Duration>,
}

impl Distance {
    /// A canary came back after so long.
    pub fn measured(&mut self, round_trip: Duration) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(round_trip);
    }

    /// The shortest of the last round trips.
    pub fn round_trip(&self) -> Option<Duration> {
        self.recent.iter().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_makes_nobody_far_and_a_longer_way_shows_after_half_a_minute() {
        let ms = Duration::from_millis;
        let mut distance = Distance::default();
        assert_eq!(distance.round_trip(), None);
        for round_trip in [30, 1, 40] {
            distance.measured(ms(round_trip));
        }
        assert_eq!(distance.round_trip(), Some(ms(1)));
        for _ in 0..RECENT {
            distance.measured(ms(20));
        }
        assert_eq!(distance.round_trip(), Some(ms(20)));
    }
}
