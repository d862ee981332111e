//! `userContext`: how calls of an app that forwards no transaction token find their user.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Off unless it is set, since what it yields is a hint: an app can carry a handle to the wrong call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AttachContext {
    /// Requests with a user get a handle in `baggage` and `tracestate`, and calls that carry it get that user.
    #[serde(default)]
    pub attach: bool,
    /// How long a handle is good after its request has ended.
    #[serde(default)]
    pub grace_seconds: u64,
}

/// Work that goes on for longer after its answer is a job, and asks for a context of its own.
const MAX_GRACE_SECONDS: u64 = 30;

impl AttachContext {
    /// Field, what was expected, and what came, where it makes no sense.
    pub(super) fn check(&self, serves: bool) -> Result<(), (&'static str, &'static str, String)> {
        if self.grace_seconds > MAX_GRACE_SECONDS {
            return Err(("userContext.graceSeconds", "at most 30 seconds", self.grace_seconds.to_string()));
        }
        if self.grace_seconds > 0 && !self.attach {
            return Err(("userContext.graceSeconds", "attach: true beside it", "attach: false".to_owned()));
        }
        if self.attach && !serves {
            return Err((
                "userContext.attach",
                "a service that this workload serves (inbound or transparent.serves), with whose requests users come",
                "none".to_owned(),
            ));
        }
        Ok(())
    }

    /// The grace, where handles are in use.
    pub fn grace(&self) -> Option<Duration> {
        self.attach.then(|| Duration::from_secs(self.grace_seconds))
    }
}
