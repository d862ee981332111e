//! How old what we know of the mesh is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Until when our view was known to be the control plane's own. One second of the epoch that the control client writes
/// and that the data plane reads; revocations and policies are not older than it.
#[derive(Debug, Default)]
pub struct Freshness(AtomicU64);

/// The stream of news is open and answers: the view is as new as it can be.
const LIVE: u64 = u64::MAX;

impl Freshness {
    /// News arrives from now on.
    pub fn live(&self) {
        self.0.store(LIVE, Ordering::Relaxed);
    }

    /// News arrived until this second of the epoch. Nothing changes when it had stopped before.
    pub fn lost(&self, at: u64) {
        let _ = self.0.compare_exchange(LIVE, at, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether news arrives, so that a question would be answered.
    pub fn is_live(&self) -> bool {
        self.0.load(Ordering::Relaxed) == LIVE
    }

    /// How old the view is at this second of the epoch; zero while news arrives. One that never did is as old as the
    /// epoch.
    pub fn age(&self, now: u64) -> Duration {
        Duration::from_secs(now.saturating_sub(self.0.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_ages_from_the_first_loss_of_news_until_they_come_again() {
        let freshness = Freshness::default();
        assert_eq!(freshness.age(1_000), Duration::from_secs(1_000));
        freshness.lost(900);
        assert_eq!(freshness.age(1_000), Duration::from_secs(1_000));
        freshness.live();
        assert!(freshness.is_live());
        assert_eq!(freshness.age(1_000), Duration::ZERO);
        freshness.lost(1_000);
        freshness.lost(1_007);
        assert_eq!(freshness.age(1_010), Duration::from_secs(10));
        assert!(!freshness.is_live());
    }
}
