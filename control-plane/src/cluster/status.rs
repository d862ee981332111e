//! Writes what came of each object into its status.
//!
//! Level-triggered: what is to stand there is compared with what stands there, and only a difference is written, by a merge
//! patch that names the version it was made for. Our own write comes back as an event that changes nothing; what others
//! write beside us stays. A write that is refused is not tried again before the object changes, and one that could not be made
//! waits as long as the server asks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use signet_kubernetes::kinds::KindId;
use signet_kubernetes::translate::views::{Content, Key};
use signet_kubernetes::translate::{ObjectStatus, merged};
use tokio::sync::watch;

use super::api::{Api, ApiError};
use super::metrics::Metrics;
use super::store::Store;
use crate::clock::{rfc3339, unix_now};

/// Named in `managedFields`.
const MANAGER: &str = "signet-control-plane";
const MAX_OBJECT: usize = 4 * 1024 * 1024;
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks: so that a crowd of changes is written once.
const GATHER: Duration = Duration::from_millis(200);
/// After a write that could not be made.
const AGAIN: Duration = Duration::from_secs(5);
/// Right to write statuses may be given later.
const FORBIDDEN: Duration = Duration::from_secs(60);
/// Of one object in a row, when somebody else keeps writing over us.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(300);

/// What is to stand in the statuses.
pub type Statuses = Arc<Vec<ObjectStatus>>;

/// See the module's story.
pub struct Writer {
    pub api: Arc<Api>,
    pub store: Arc<Store>,
    pub statuses: watch::Receiver<Statuses>,
    /// Whether it is we who write.
    pub leads: watch::Receiver<bool>,
    pub metrics: Metrics,
}

/// What we did about an object before.
struct Before {
    /// The version that our last write was made for; it is not made twice.
    version: String,
    /// What we wrote.
    status: Value,
    not_before: Instant,
    rest: Duration,
}

/// What we did, and when we may go on.
#[derive(Default)]
struct Done {
    objects: HashMap<(KindId, Key), Before>,
    /// Kinds whose statuses we may not write.
    forbidden: HashMap<KindId, Instant>,
    /// The server wants rest until then, whatever changes meanwhile.
    rest_until: Option<Instant>,
}

impl Writer {
    /// Writes until the future is dropped.
    pub async fn follow(mut self) {
        let mut changes = self.store.subscribe();
        let mut done = Done::default();
        loop {
            let leads = *self.leads.borrow_and_update();
            self.metrics.leader.set(i64::from(leads));
            let mut again = None;
            if leads {
                changes.mark_unchanged();
                again = self.round(&mut done).await;
            } else {
                // Another one writes meanwhile. What the server asked for holds for whoever we are.
                done.objects.clear();
            }
            let pause = async {
                match again {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let changed = tokio::select! {
                changed = self.statuses.changed() => changed,
                changed = self.leads.changed() => changed,
                changed = changes.changed(), if leads => changed,
                () = pause => Ok(()),
            };
            if changed.is_err() {
                return;
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Writes all that differs; when to look again, if there is something that could not be written.
    async fn round(&self, done: &mut Done) -> Option<Instant> {
        if let Some(rest) = done.rest_until.filter(|rest| *rest > Instant::now()) {
            return Some(rest);
        }
        done.rest_until = None;
        done.forbidden.retain(|_, until| *until > Instant::now());
        let statuses = self.statuses.borrow().clone();
        let snapshot = self.store.snapshot();
        let mut again: Option<Instant> = None;
        let mut later = |at: Instant| again = Some(again.map_or(at, |before| before.min(at)));
        let mut seen = std::collections::HashSet::new();
        for wanted in statuses.iter() {
            if !*self.leads.borrow() {
                return None;
            }
            let key: Key = (wanted.namespace.as_str().into(), wanted.name.as_str().into());
            seen.insert((wanted.kind, key.clone()));
            let Some(object) = snapshot.get(wanted.kind, &key) else { continue };
            let Content::Custom(custom) = &object.content else { continue };
            // What was said of an earlier spec is not said of this one.
            if object.metadata.uid != wanted.uid || object.metadata.generation != wanted.generation {
                continue;
            }
            let version = &object.metadata.resource_version;
            let Some(status) = merged(&wanted.said, wanted.generation, &custom.status, &rfc3339(unix_now()))
            else {
                continue;
            };
            if let Some(until) = done.forbidden.get(&wanted.kind) {
                later(*until);
                continue;
            }
            let entry = (wanted.kind, key);
            let before = done.objects.get(&entry);
            if before.is_some_and(|before| before.version == *version) {
                continue;
            }
            if let Some(before) = before.filter(|before| before.not_before > Instant::now()) {
                later(before.not_before);
                continue;
            }
            let rest = match before {
                Some(before) if without_times(&before.status) == without_times(&status) => {
                    before.rest.saturating_mul(2).min(LONGEST_REST)
                }
                _ => FIRST_REST,
            };
            match self.write(wanted, version, &status).await {
                Wrote::Done => {
                    let not_before = Instant::now().checked_add(rest).unwrap_or_else(Instant::now);
                    done.objects.insert(entry, Before { version: version.clone(), status, not_before, rest });
                }
                // Of another kind we may.
                Wrote::Forbidden => {
                    let until = Instant::now().checked_add(FORBIDDEN).unwrap_or_else(Instant::now);
                    done.forbidden.insert(wanted.kind, until);
                    later(until);
                }
                Wrote::Later(pause) => {
                    let at = Instant::now().checked_add(pause).unwrap_or_else(Instant::now);
                    // The server wants rest from all of us.
                    done.rest_until = Some(at);
                    return Some(at);
                }
            }
        }
        done.objects.retain(|entry, _| seen.contains(entry));
        again
    }

    async fn write(&self, wanted: &ObjectStatus, version: &str, status: &Value) -> Wrote {
        let kind = wanted.kind.kind();
        let served =
            self.store.version(wanted.kind).unwrap_or_else(|| kind.versions.first().unwrap_or(&"v1"));
        let path = format!(
            "{}/status?fieldManager={MANAGER}",
            kind.path_of(served, &wanted.namespace, &wanted.name)
        );
        let patch = json!({"metadata": {"resourceVersion": version}, "status": status}).to_string();
        let written = self
            .api
            .send_as(Method::PATCH, &path, "application/merge-patch+json", patch, MAX_OBJECT, TIMEOUT)
            .await;
        let result = match &written {
            Ok(_) => "written",
            Err(error) => match error.code() {
                Some(404) => "gone",
                Some(409) => "conflict",
                Some(400 | 422) => "refused",
                _ => error.label(),
            },
        };
        self.metrics.status_writes.with_label_values(&[result]).inc();
        let Err(error) = written else { return Wrote::Done };
        match error.code() {
            // A newer version is on its way to us, or its end.
            Some(404 | 409) => Wrote::Done,
            Some(403) => {
                self.failed(wanted, &error);
                Wrote::Forbidden
            }
            Some(400 | 413 | 415 | 422) => {
                self.failed(wanted, &error);
                Wrote::Done
            }
            _ => Wrote::Later(error.retry_after().unwrap_or(AGAIN).min(FORBIDDEN)),
        }
    }

    fn failed(&self, wanted: &ObjectStatus, error: &ApiError) {
        tracing::warn!(
            target: "signet::cluster", kind = wanted.kind.kind().long_name(), namespace = wanted.namespace,
            name = wanted.name, %error, "a status is not written"
        );
    }
}

/// What came of a write.
enum Wrote {
    /// It is not made again for this version of the object.
    Done,
    /// We may not write statuses of this kind.
    Forbidden,
    Later(Duration),
}

/// The moments at which conditions changed are not what a status says.
fn without_times(status: &Value) -> Value {
    match status {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| *name != "lastTransitionTime")
            .map(|(name, value)| (name.clone(), without_times(value)))
            .collect(),
        Value::Array(items) => items.iter().map(without_times).collect(),
        other => other.clone(),
    }
}
