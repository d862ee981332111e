//! The wall clock, for what leaves the process: dates in records, statuses and deltas.

use signet_daemon::{Clock, SystemClock};

/// Seconds since the epoch.
#[must_use]
pub fn unix_now() -> i64 {
    SystemClock.now_unix()
}
