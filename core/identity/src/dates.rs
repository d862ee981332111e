//! Dates as people read them.

use rustls::pki_types::UnixTime;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Seconds since 1970 as `2026-11-22T04:21:00Z`; a number that is no date stays a number.
pub(crate) fn rfc3339(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|date| date.format(&Rfc3339).ok())
        .unwrap_or_else(|| seconds.to_string())
}

/// A length of time as `5 s`, `3 min` or `2 h`.
pub(crate) fn span(seconds: i64) -> String {
    let seconds = seconds.saturating_abs();
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds.div_euclid(60)),
        7200..=172_799 => format!("{} h", seconds.div_euclid(3600)),
        _ => format!("{} days", seconds.div_euclid(86_400)),
    }
}

/// The seconds of a TLS library's time.
pub(crate) fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// The TLS library's time for these seconds; before 1970 is 1970.
pub(crate) fn unix_time(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}
