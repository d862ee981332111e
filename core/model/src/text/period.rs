//! Durations as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{Invalid, serde_as_text};

/// A whole number and one unit: `500ms`, `15s`, `5m`, `1h`. Zero is not a duration, and nothing may
/// exceed a year: a longer one is a typing mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(Duration);

const PERIOD: &str =
    "a duration: a whole number above zero and one of ms, s, m, h, as in `15s`, at most a year";
const YEAR_MS: u64 = 366 * 24 * 3_600_000;
/// Longest unit first, as `Display` chooses; `ms` must be looked for before `m` and `s` when reading.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Period {
    pub const fn from_secs(seconds: u64) -> Period {
        Period(Duration::from_secs(seconds))
    }

    pub const fn from_millis(millis: u64) -> Period {
        Period(Duration::from_millis(millis))
    }

    pub fn get(self) -> Duration {
        self.0
    }

    /// Whole milliseconds; a year fits with room to spare.
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// Whole seconds, rounded down.
    pub fn seconds(self) -> u64 {
        self.0.as_secs()
    }
}

impl FromStr for Period {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Period, Invalid> {
        let invalid = || Invalid::new(PERIOD, text);
        let digits_end = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
        let (digits, unit) = text.split_at_checked(digits_end).ok_or_else(invalid)?;
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?;
        let millis = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(*scale)).ok_or_else(invalid)?;
        if millis == 0 || millis > YEAR_MS {
            return Err(invalid());
        }
        Ok(Period(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.millis();
        for (unit, scale) in UNITS {
            if let (Some(0), Some(count)) = (millis.checked_rem(scale), millis.checked_div(scale)) {
                return write!(f, "{count}{unit}");
            }
        }
        Ok(())
    }
}
serde_as_text!(Period, PERIOD);
