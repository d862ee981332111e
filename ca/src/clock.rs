//! The authority's clock: seconds since the epoch, handed in so that tests choose the time.

use std::time::{SystemTime, UNIX_EPOCH};

/// Where the authority learns the time. Every date in a certificate, a token or a record comes from
/// here, never from a request.
pub trait Clock: Send + Sync + 'static {
    /// Seconds since the Unix epoch, UTC.
    fn unix_seconds(&self) -> i64;
}

/// The machine's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn unix_seconds(&self) -> i64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map(|since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
            .unwrap_or(0)
    }
}
