//! Moments as people write them.

use std::fmt;
use std::str::FromStr;

use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use super::{Invalid, serde_as_text};

/// A date and time of RFC 3339 with its offset, to the second: `2027-01-31T18:00:00Z`. Said in UTC, whatever offset it
/// was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(OffsetDateTime);

const MOMENT: &str =
    "a date and time with its offset and without a fraction (RFC 3339), as in `2027-01-31T18:00:00Z`";

impl Moment {
    /// None beyond what the calendar's four digits can say.
    pub fn from_unix(seconds: i64) -> Option<Moment> {
        let at = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
        at.format(&Rfc3339).is_ok().then_some(Moment(at))
    }

    /// Seconds since the epoch.
    pub fn unix(self) -> i64 {
        self.0.unix_timestamp()
    }
}

impl FromStr for Moment {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Moment, Invalid> {
        OffsetDateTime::parse(text, &Rfc3339)
            .ok()
            .filter(|at| at.nanosecond() == 0)
            .and_then(|at| at.checked_to_offset(UtcOffset::UTC))
            // What is read can be said.
            .filter(|at| at.format(&Rfc3339).is_ok())
            .map(Moment)
            .ok_or_else(|| Invalid::new(MOMENT, text))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}
serde_as_text!(Moment, MOMENT);
