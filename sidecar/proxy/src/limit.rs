//! How many requests in how long: GCRA, in bounded memory.
//!
//! Each limit counts by itself, for each value of its key one number: the time at which all that was taken will have been
//! paid back (the "theoretical arrival time" of ITU-T I.371). A request passes when that is not further ahead than the
//! burst allows; then it moves on by one interval. An idle count is worth nothing and is forgotten. Where more values are
//! under way at once than there is room for, newcomers share one count: memory has a bound, and nobody gets more than
//! the limit for it.
//!
//! What was refused is not counted. A request under several limits passes all of them or takes from none; two requests
//! at the very same time may overshoot by one.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, Hasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use signet_model::{LimitKey, RateLimit, TrafficPolicySpec};
use signet_wire::RequestView;

use crate::stage::selects;

/// Shards keep two workers from waiting for each other.
const SHARDS: usize = 16;
/// Counts under way per shard, 64 Ki in all: about 3 MiB.
const SHARD_BOUND: usize = 4096;

/// The limits of one service.
#[derive(Debug)]
pub struct Limits {
    /// As they were written, to see whether they changed.
    policies: Vec<TrafficPolicySpec>,
    /// By port, or for all that have none of their own; with the number of each limit.
    limits: Vec<(Option<Box<str>>, Vec<Limit>)>,
    counts: Counts,
}

#[derive(Debug)]
struct Limit {
    number: u32,
    spec: RateLimit,
    /// Nanoseconds that one request costs, and how far ahead one may be.
    interval: u64,
    tolerance: u64,
}

/// What a caller is told of the limit that leaves it least.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// The limit.
    pub name: String,
    /// Requests that may come now.
    pub remaining: u64,
    /// Until all of the quota is there again, in seconds.
    pub reset: u64,
    quota: u32,
    window: u64,
}

impl Standing {
    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10).
    pub fn headers(&self) -> (String, String) {
        let Standing { name, remaining, reset, quota, window } = self;
        (format!("\"{name}\";r={remaining};t={reset}"), format!("\"{name}\";q={quota};w={window}"))
    }
}

/// A limit that is met.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exceeded {
    /// How the caller stands.
    pub standing: Standing,
    /// After so long one request may come.
    pub retry_after: Duration,
}

/// Who asks, for limits that tell callers apart.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The peer's identity.
    pub workload: &'a str,
    /// The verified user.
    pub user: Option<&'a str>,
}

impl Limits {
    /// The limits of these policies; `None` where there are none.
    pub fn new(policies: &[TrafficPolicySpec]) -> Option<Limits> {
        let mut number = 0;
        let mut limits = Vec::new();
        for policy in policies {
            let compile = |spec: &RateLimit| {
                let per = u64::try_from(spec.per.get().as_nanos()).unwrap_or(u64::MAX);
                let interval = (per / u64::from(spec.requests.max(1))).max(1);
                let burst = u64::from(spec.burst.unwrap_or(spec.requests).max(1));
                number += 1;
                let tolerance = interval.saturating_mul(burst - 1);
                Limit { number, spec: spec.clone(), interval, tolerance }
            };
            let port = policy.target.port.as_ref().map(|port| Box::from(port.as_str()));
            limits.push((port, policy.rate_limits.iter().map(compile).collect()));
        }
        (number > 0).then(|| Limits { policies: policies.to_vec(), limits, counts: Counts::new() })
    }

    /// Whether these are the limits of those policies, so that their counts may go on.
    pub fn is_of(&self, policies: &[TrafficPolicySpec]) -> bool {
        self.policies == policies
    }

    fn of(&self, port: &str) -> &[Limit] {
        let own = self.limits.iter().find(|(name, _)| name.as_deref() == Some(port));
        let found = own.or_else(|| self.limits.iter().find(|(name, _)| name.is_none()));
        found.map_or(&[], |(_, limits)| limits)
    }

    /// Counts one request at `now` (nanoseconds on a clock that never goes back), if every limit that speaks of it has
    /// room; how its caller stands then, if any limit does.
    pub fn take(
        &self,
        port: &str,
        caller: Caller<'_>,
        request: RequestView<'_>,
        now: u64,
    ) -> Result<Option<Standing>, Exceeded> {
        let limits = self.of(port).iter().filter(|limit| selects(limit.spec.to.as_ref(), port, request));
        let keyed: Vec<_> = limits.map(|limit| (limit, self.counts.key(limit, caller))).collect();
        for (limit, key) in &keyed {
            let due = self.counts.due(*key, now);
            if due - now > limit.tolerance {
                let retry_after = Duration::from_nanos(due - now - limit.tolerance);
                return Err(Exceeded { standing: limit.standing(due, now), retry_after });
            }
        }
        let taken = keyed.iter().map(|(limit, key)| {
            let due = self.counts.move_on(*key, limit.number, limit.interval, now);
            limit.standing(due, now)
        });
        Ok(taken.min_by_key(|standing| standing.remaining))
    }
}

impl Limit {
    fn standing(&self, due: u64, now: u64) -> Standing {
        let ahead = due.saturating_sub(now);
        let room = self.tolerance.saturating_add(self.interval).saturating_sub(ahead);
        Standing {
            name: self.spec.name.to_string(),
            remaining: room / self.interval,
            reset: ahead.div_ceil(1_000_000_000),
            quota: self.spec.requests,
            window: self.spec.per.get().as_secs().max(1),
        }
    }
}

/// What was taken, by limit and key.
#[derive(Debug)]
struct Counts {
    shards: [Mutex<HashMap<u64, u64>>; SHARDS],
    hasher: RandomState,
}

impl Counts {
    fn new() -> Self {
        Counts { shards: Default::default(), hasher: RandomState::new() }
    }

    /// A keyed hash: whoever chooses names cannot choose collisions.
    fn key(&self, limit: &Limit, caller: Caller<'_>) -> u64 {
        let mut state = self.hasher.build_hasher();
        limit.number.hash(&mut state);
        for part in &limit.spec.key {
            match part {
                LimitKey::Workload => caller.workload.hash(&mut state),
                LimitKey::User => caller.user.hash(&mut state),
            }
        }
        state.finish()
    }

    /// Under which those share a count for whom there is no room.
    fn overflow(&self, number: u32) -> u64 {
        self.hasher.hash_one((number, "overflow"))
    }

    fn shard(&self, key: u64) -> std::sync::MutexGuard<'_, HashMap<u64, u64>> {
        let index = usize::try_from(key % SHARDS as u64).unwrap_or(0);
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When all is paid back; not before now.
    fn due(&self, key: u64, now: u64) -> u64 {
        self.shard(key).get(&key).copied().unwrap_or(0).max(now)
    }

    fn move_on(&self, key: u64, number: u32, interval: u64, now: u64) -> u64 {
        {
            let mut shard = self.shard(key);
            if shard.len() >= SHARD_BOUND && !shard.contains_key(&key) {
                shard.retain(|_, due| *due > now);
            }
            if shard.len() < SHARD_BOUND || shard.contains_key(&key) {
                let due = shard.entry(key).or_insert(0);
                *due = (*due).max(now).saturating_add(interval);
                return *due;
            }
        }
        let key = self.overflow(number);
        let mut shard = self.shard(key);
        let due = shard.entry(key).or_insert(0);
        *due = (*due).max(now).saturating_add(interval);
        *due
    }
}

#[cfg(test)]
mod tests;
