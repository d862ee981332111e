//! The wall clock, for what leaves the process: dates in records, statuses and deltas.

use signet_daemon::{Clock, SystemClock};

/// Seconds since the epoch.
#[must_use]
pub fn unix_now() -> i64 {
    SystemClock.now_unix()
}

/// A moment as Kubernetes writes it (RFC 3339): `2026-01-31T18:00:00Z`.
#[must_use]
pub fn rfc3339(unix: i64) -> String {
    let (days, second) = (unix.div_euclid(86_400), unix.rem_euclid(86_400));
    // The civil calendar, counted in eras of 400 years that begin on the first of March.
    let shifted = days.saturating_add(719_468);
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let leap = |day: i64| {
        let fours = day.div_euclid(1_460).saturating_sub(day.div_euclid(36_524));
        fours.saturating_add(day.div_euclid(146_096))
    };
    let year = day.saturating_sub(leap(day)).div_euclid(365);
    let begun =
        year.saturating_mul(365).saturating_add(year.div_euclid(4)).saturating_sub(year.div_euclid(100));
    let of_year = day.saturating_sub(begun);
    let month = of_year.saturating_mul(5).saturating_add(2).div_euclid(153);
    let day =
        of_year.saturating_sub(month.saturating_mul(153).saturating_add(2).div_euclid(5)).saturating_add(1);
    let (month, later) = if month < 10 { (month.saturating_add(3), 0) } else { (month.saturating_sub(9), 1) };
    let year = era.saturating_mul(400).saturating_add(year).saturating_add(later);
    let (hour, minute) = (second.div_euclid(3_600), second.div_euclid(60).rem_euclid(60));
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z", second.rem_euclid(60))
}

/// The same with six decimals, as in a Lease: anything else is refused there.
#[must_use]
pub fn rfc3339_micro(since_epoch: std::time::Duration) -> String {
    let seconds = rfc3339(i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX));
    format!("{}.{:06}Z", seconds.trim_end_matches('Z'), since_epoch.subsec_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_kubernetes_writes_them() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_795_306_347, "2026-11-22T00:12:27Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(unix), text);
            assert_eq!(text.parse::<signet_model::Moment>().unwrap().unix(), unix);
        }
        let micro = rfc3339_micro(std::time::Duration::new(0, 42_000));
        assert_eq!(micro, "1970-01-01T00:00:00.000042Z");
    }
}
