//! Wall-clock time, in seconds since the epoch, as certificates have it.

use signet_daemon::{Clock, SystemClock};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Now.
pub fn now() -> i64 {
    SystemClock.now_unix()
}

/// As people and logs read it.
pub fn rfc3339(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| seconds.to_string())
}
