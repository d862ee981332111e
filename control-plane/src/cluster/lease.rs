//! One control plane of several does what only one may: it holds a Lease.
//!
//! As client-go has it. The holder renews with the object that it remembers; who waits takes over only after it has itself
//! seen the same renewal for the holder's whole duration, by its own clock; and a holder that cannot renew for the renew
//! deadline stops by itself, before anybody else may begin. A holder that ends gives the Lease back.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::api::{Api, ApiError};
use super::config::LeaseTimes;
use crate::clock::rfc3339_micro;
use crate::fetch::jitter;

/// Its name, in the control plane's own namespace.
pub const NAME: &str = "signet-control-plane";
/// One object.
const MAX_LEASE: usize = 2 * 1024 * 1024;
/// Waiters ask at longer and uneven intervals (client-go's `JitterFactor`).
const WAITER_JITTER: f64 = 1.2;

/// A name that no other process has: the replica's, or the host's, and chance.
#[must_use]
pub fn identity(replica: Option<&str>) -> String {
    use ring::rand::{SecureRandom as _, SystemRandom};
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut bytes = [0_u8; 8];
    // Without chance the process id still tells apart those of one host.
    let _ = SystemRandom::new().fill(&mut bytes);
    let chance = u64::from_be_bytes(bytes) ^ u64::from(std::process::id());
    format!("{}_{chance:016x}", replica.unwrap_or_else(|| host.trim()))
}

/// A contender.
pub struct Lease {
    pub api: Arc<Api>,
    pub namespace: String,
    /// Of this process, and of no other.
    pub identity: String,
    pub times: LeaseTimes,
}

/// What a contender knows.
#[derive(Default)]
struct Known {
    /// As the server sent it last.
    object: Option<Value>,
    /// Since when nothing in its spec changed, by our own clock.
    seen: Option<Instant>,
}

/// What is to be done about a Lease that was read.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Take,
    Renew,
    Wait,
}

impl Known {
    fn learn(&mut self, object: Value, now: Instant) {
        let spec = |object: &Value| object.get("spec").cloned();
        if self.object.as_ref().map(spec) != Some(spec(&object)) {
            self.seen = Some(now);
        }
        self.object = Some(object);
    }

    fn spec(&self, field: &str) -> Option<&Value> {
        self.object.as_ref()?.get("spec")?.get(field)
    }

    fn next(&self, identity: &str, now: Instant) -> Next {
        let holder = self.spec("holderIdentity").and_then(Value::as_str).unwrap_or_default();
        if holder == identity {
            return Next::Renew;
        }
        let seconds = self.spec("leaseDurationSeconds").and_then(Value::as_u64).unwrap_or(0);
        let lives =
            self.seen.is_some_and(|seen| now.saturating_duration_since(seen) < Duration::from_secs(seconds));
        if holder.is_empty() || !lives { Next::Take } else { Next::Wait }
    }
}

impl Lease {
    /// Contends until the future is dropped or `ends`; `leads` says whether it holds the Lease now.
    pub async fn contend(self, leads: watch::Sender<bool>, ends: impl Future<Output = ()>) {
        let mut known = Known::default();
        tokio::select! {
            () = self.turns(&mut known, &leads) => {}
            () = ends => {}
        }
        let held = leads.send_replace(false);
        if held {
            // Whoever waits need not wait for our duration to pass.
            if let Err(error) = self.release(&known).await {
                tracing::info!(target: "signet::cluster", %error, "the lease was not given back; it ends by itself");
            }
        }
    }

    async fn turns(&self, known: &mut Known, leads: &watch::Sender<bool>) {
        // When the renewal was asked for that the server confirmed last.
        let mut renewed: Option<Instant> = None;
        loop {
            let asked = Instant::now();
            // What does not answer in time is taken up again at the next turn.
            match tokio::time::timeout(self.timeout(), self.turn(known)).await {
                Ok(Ok(holds)) => renewed = holds.then_some(asked),
                Ok(Err(error)) => {
                    tracing::debug!(target: "signet::cluster", reason = error.label(), %error, "the lease was not read or written");
                }
                Err(_) => {
                    tracing::debug!(target: "signet::cluster", "the lease was not read or written in time");
                }
            }
            // A holder that hears nothing stops by itself, before anybody else may begin.
            let left = renewed.map(|at| self.times.renew_deadline.saturating_sub(at.elapsed()));
            let left = left.filter(|left| !left.is_zero());
            self.say(leads, left.is_some());
            let pause = match left {
                Some(left) => self.times.retry_period.min(left),
                None => {
                    renewed = None;
                    self.times.retry_period.mul_f64(1.0 + WAITER_JITTER * jitter().abs())
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn say(&self, leads: &watch::Sender<bool>, holds: bool) {
        leads.send_if_modified(|leads| {
            let changed = *leads != holds;
            if changed {
                tracing::info!(target: "signet::cluster", leads = holds, identity = self.identity, "who writes statuses has changed");
            }
            *leads = holds;
            changed
        });
    }

    /// One try; whether we hold it.
    async fn turn(&self, known: &mut Known) -> Result<bool, ApiError> {
        let now = Instant::now();
        if known.next(&self.identity, now) == Next::Renew && known.object.is_some() {
            match self.put(known, false).await {
                Ok(()) => return Ok(true),
                // Somebody wrote it meanwhile, or took it away: as it is now.
                Err(error) if matches!(error.code(), Some(404 | 409)) => {}
                Err(error) => return Err(error),
            }
        }
        match self.api.get(&self.path(NAME), "application/json", MAX_LEASE, self.timeout()).await {
            Ok(body) => known.learn(object(&body)?, Instant::now()),
            Err(error) if error.code() == Some(404) => return self.create(known).await,
            Err(error) => return Err(error),
        }
        match known.next(&self.identity, Instant::now()) {
            Next::Wait => Ok(false),
            Next::Renew => self.raced(known, false).await,
            Next::Take => self.raced(known, true).await,
        }
    }

    /// A write that somebody else may have won.
    async fn raced(&self, known: &mut Known, takes: bool) -> Result<bool, ApiError> {
        match self.put(known, takes).await {
            Ok(()) => Ok(true),
            Err(error) if error.code() == Some(409) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn create(&self, known: &mut Known) -> Result<bool, ApiError> {
        let now = now();
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": NAME, "namespace": self.namespace},
            "spec": {
                "holderIdentity": self.identity, "leaseDurationSeconds": self.times.duration.as_secs(),
                "acquireTime": now, "renewTime": now, "leaseTransitions": 0,
            },
        });
        let path = self.path("");
        match self.send(Method::POST, &path, &lease).await {
            Ok(body) => {
                known.learn(body, Instant::now());
                Ok(true)
            }
            Err(error) if error.code() == Some(409) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Renews what we remember, or takes what we read.
    async fn put(&self, known: &mut Known, takes: bool) -> Result<(), ApiError> {
        let now = now();
        let transitions = known.spec("leaseTransitions").and_then(Value::as_u64).unwrap_or(0);
        let acquired = known.spec("acquireTime").cloned();
        let (transitions, acquired) = match takes {
            true => (transitions.saturating_add(1), json!(now)),
            false => (transitions, acquired.unwrap_or_else(|| json!(now))),
        };
        let spec = json!({
            "holderIdentity": self.identity, "leaseDurationSeconds": self.times.duration.as_secs(),
            "acquireTime": acquired, "renewTime": now, "leaseTransitions": transitions,
        });
        let lease = with_spec(known, spec)?;
        let answer = self.send(Method::PUT, &self.path(NAME), &lease).await?;
        known.learn(answer, Instant::now());
        Ok(())
    }

    async fn release(&self, known: &Known) -> Result<(), ApiError> {
        let now = now();
        let transitions = known.spec("leaseTransitions").and_then(Value::as_u64).unwrap_or(0);
        let spec = json!({
            "holderIdentity": "", "leaseDurationSeconds": 1, "acquireTime": now, "renewTime": now,
            "leaseTransitions": transitions,
        });
        let lease = with_spec(known, spec)?;
        self.send(Method::PUT, &self.path(NAME), &lease).await.map(drop)
    }

    async fn send(&self, method: Method, path: &str, lease: &Value) -> Result<Value, ApiError> {
        let body = lease.to_string();
        let answer =
            self.api.send_as(method, path, "application/json", body, MAX_LEASE, self.timeout()).await?;
        object(&answer)
    }

    fn timeout(&self) -> Duration {
        self.times.renew_deadline / 2
    }

    /// Of the Lease, or, without a name, of all of the namespace.
    fn path(&self, name: &str) -> String {
        let all = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace);
        if name.is_empty() { all } else { format!("{all}/{name}") }
    }
}

fn with_spec(known: &Known, spec: Value) -> Result<Value, ApiError> {
    let mut lease = known.object.clone().unwrap_or_default();
    match lease.as_object_mut() {
        Some(fields) => {
            fields.insert("spec".into(), spec);
            Ok(lease)
        }
        None => Err(ApiError::Unreadable("it is not a Lease")),
    }
}

fn object(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|_| ApiError::Unreadable("it is not a Lease"))
}

fn now() -> String {
    rfc3339_micro(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, renewed: u32) -> Value {
        json!({"spec": {"holderIdentity": holder, "leaseDurationSeconds": 6, "renewTime": renewed}})
    }

    #[test]
    fn a_holder_is_waited_for_by_the_waiters_own_clock() {
        let (mut known, start) = (Known::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        known.learn(lease("a", 1), after(0));
        assert_eq!(known.next("b", after(5)), Next::Wait);
        // It renewed, whatever time it says.
        known.learn(lease("a", 0), after(5));
        assert_eq!(known.next("b", after(10)), Next::Wait);
        known.learn(lease("a", 0), after(10));
        assert_eq!(known.next("b", after(11)), Next::Take);
        assert_eq!(known.next("a", after(11)), Next::Renew);
    }

    #[test]
    fn one_that_was_given_back_is_taken_at_once() {
        let mut known = Known::default();
        known.learn(lease("", 1), Instant::now());
        assert_eq!(known.next("b", Instant::now()), Next::Take);
    }

    /// What two contenders with the stock client did, judged step by step.
    #[test]
    fn in_a_recorded_election_we_would_have_taken_and_waited_as_they_did() {
        let file = include_str!("../../../tests/data/kubernetes/lease/election.jsonl");
        let mut known: std::collections::BTreeMap<String, Known> = Default::default();
        let start = Instant::now();
        let mut took = 0;
        for line in file.lines() {
            let step: Value = serde_json::from_str(line).unwrap();
            let who = step["contender"].as_str().unwrap().to_owned();
            let at = start + Duration::from_secs_f64(step["t"].as_f64().unwrap());
            let (method, spec) = (&step["request"]["method"], &step["request"]["body"]["spec"]);
            let mine = known.entry(who).or_default();
            if method == "PUT" {
                let identity = spec["holderIdentity"].as_str().unwrap();
                let is_taking = mine.spec("holderIdentity") != spec.get("holderIdentity");
                if !identity.is_empty() && is_taking {
                    assert_eq!(mine.next(identity, at), Next::Take, "{line}");
                    took += 1;
                } else if !identity.is_empty() {
                    assert_eq!(mine.next(identity, at), Next::Renew, "{line}");
                }
            }
            if step["response"]["status"] == 200 || step["response"]["status"] == 201 {
                mine.learn(step["response"]["body"].clone(), at);
            }
        }
        assert_eq!(took, 2, "both contenders took it over once");
    }
}
