//! Durations as the Gateway API writes them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{Invalid, serde_as_text};

/// One to four whole numbers of at most five digits, each with its unit: `500ms`, `1m30s`, `0s` (Gateway API,
/// GEP-2257). Zero switches off what it bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteDuration(Duration);

const DURATION: &str =
    "a duration of one to four numbers with a unit (h, m, s, ms), as in `500ms` or `1m30s`";
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl RouteDuration {
    /// None where it is zero, which means no limit.
    pub fn limit(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }

    /// As it stands, zero included.
    pub fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for RouteDuration {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<RouteDuration, Invalid> {
        let invalid = || Invalid::new(DURATION, text);
        let mut total = 0u64;
        let mut left = text;
        let mut parts = 0u8;
        while !left.is_empty() {
            let digits_end = left.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
            let (digits, rest) = left.split_at_checked(digits_end).ok_or_else(invalid)?;
            let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let (unit, rest) = rest.split_at_checked(unit_end).ok_or_else(invalid)?;
            let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?;
            if digits.is_empty() || digits.len() > 5 || parts == 4 {
                return Err(invalid());
            }
            let number = digits.parse::<u64>().map_err(|_| invalid())?;
            total = total.saturating_add(number.saturating_mul(*scale));
            left = rest;
            parts = parts.saturating_add(1);
        }
        if parts == 0 {
            return Err(invalid());
        }
        Ok(RouteDuration(Duration::from_millis(total)))
    }
}

impl fmt::Display for RouteDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, scale) in UNITS {
            let count = left.checked_div(scale).unwrap_or(0);
            // Hours are the last resort of what has no larger unit, and take as many parts as they need.
            let mut count_left = count;
            while count_left > 0 {
                let part = count_left.min(99_999);
                write!(f, "{part}{unit}")?;
                count_left = count_left.saturating_sub(part);
            }
            left = left.saturating_sub(count.saturating_mul(scale));
        }
        Ok(())
    }
}
serde_as_text!(RouteDuration, DURATION);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_the_gateway_api() {
        for (text, millis) in
            [("0s", 0), ("500ms", 500), ("1m30s", 90_000), ("1h1m1s1ms", 3_661_001), ("90s", 90_000)]
        {
            let read: RouteDuration = text.parse().unwrap();
            assert_eq!(read.get(), Duration::from_millis(millis), "{text}");
            assert_eq!(read.to_string().parse::<RouteDuration>().unwrap(), read, "{text}");
        }
        assert_eq!("0ms".parse::<RouteDuration>().unwrap().limit(), None);
        for bad in ["", "1", "s", "1.5s", "-1s", "1d", "123456s", "1h1m1s1ms1ms", "1s ", "1S"] {
            assert!(bad.parse::<RouteDuration>().is_err(), "{bad}");
        }
    }
}
