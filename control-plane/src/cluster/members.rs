//! Pods that should be in the mesh and are not: counted, and told to whoever owns them by an event.
//!
//! By the control plane that holds the Lease, from what is known of the cluster anyway. A pod counts when it has been so for
//! a while: one that is just being made, or whose namespace was labelled a moment ago and whose workload is being
//! restarted, is nobody's fault. Each workload is told once an hour, as long as there is such a pod of it, and a few at a
//! time. What it never does: touch a pod.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use signet_kubernetes::translate::Settings;
use signet_kubernetes::translate::members::{Missing, Why, missing};
use tokio::sync::watch;

use super::api::{Api, ApiError};
use super::metrics::Metrics;
use super::store::Store;
use crate::clock::rfc3339_micro;

/// Who says so.
const CONTROLLER: &str = "signet.mesh/control-plane";
/// Named in `managedFields`.
const MANAGER: &str = "signet-control-plane";
/// As long as events are kept.
const AGAIN: Duration = Duration::from_secs(3600);
/// After a failure, and where we may not.
const REST: Duration = Duration::from_secs(60);
/// A namespace that is labelled for the first time may have hundreds of workloads.
const AT_ONCE: usize = 10;
const LIMIT: usize = 2 * 1024 * 1024;
const TIMEOUT: Duration = Duration::from_secs(10);

/// How often it looks, and for how long a pod is to be so.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub every: Duration,
    pub grace: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { every: Duration::from_secs(10), grace: Duration::from_secs(60) }
    }
}

/// See the module's story.
pub struct Watcher {
    pub api: Arc<Api>,
    pub store: Arc<Store>,
    pub settings: Settings,
    /// Whether it is we who look.
    pub leads: watch::Receiver<bool>,
    pub metrics: Metrics,
    /// This process, as events name it.
    pub instance: String,
    pub times: Times,
}

/// What was seen and said before.
#[derive(Default)]
struct Memory {
    /// Since when each pod is so, by its uid.
    since: HashMap<String, Instant>,
    /// When each workload was told, by its uid.
    told: HashMap<String, Instant>,
    rest_until: Option<Instant>,
}

impl Memory {
    /// Those that have been so for long enough.
    fn settled(&mut self, found: Vec<Missing>, grace: Duration, now: Instant) -> Vec<Missing> {
        let here: HashSet<&str> = found.iter().map(|it| it.uid.as_str()).collect();
        self.since.retain(|uid, _| here.contains(uid.as_str()));
        let lasts = |since: &mut HashMap<String, Instant>, it: &Missing| {
            now.saturating_duration_since(*since.entry(it.uid.clone()).or_insert(now)) >= grace
        };
        found.into_iter().filter(|it| lasts(&mut self.since, it)).collect()
    }

    /// Who is to be told now, with one of their pods each.
    fn due<'a>(&mut self, settled: &'a [Missing], now: Instant) -> Vec<&'a Missing> {
        let mut all: BTreeMap<&str, &Missing> = BTreeMap::new();
        for it in settled {
            all.entry(subject(it)).or_insert(it);
        }
        self.told
            .retain(|uid, at| all.contains_key(uid.as_str()) && now.saturating_duration_since(*at) < AGAIN);
        let rests = self.rest_until.is_some_and(|until| until > now);
        let all = all.into_iter().filter(|(uid, _)| !rests && !self.told.contains_key(*uid));
        all.map(|(_, it)| it).take(AT_ONCE).collect()
    }
}

/// Who owns it, by uid.
fn subject(missing: &Missing) -> &str {
    missing.owner.as_ref().map_or(missing.uid.as_str(), |owner| owner.uid.as_str())
}

impl Watcher {
    /// Looks until the future is dropped.
    pub async fn follow(mut self) {
        let mut memory = Memory::default();
        loop {
            if *self.leads.borrow_and_update() {
                self.round(&mut memory).await;
            } else {
                memory = Memory::default();
                self.count(&[]);
            }
            let changed = tokio::select! {
                changed = self.leads.changed() => changed,
                () = tokio::time::sleep(self.times.every) => Ok(()),
            };
            if changed.is_err() {
                return;
            }
        }
    }

    async fn round(&self, memory: &mut Memory) {
        let (snapshot, settings) = (self.store.snapshot(), self.settings.clone());
        // There may be a hundred thousand pods.
        let found = tokio::task::spawn_blocking(move || missing(&snapshot, &settings)).await;
        let now = Instant::now();
        let settled = memory.settled(found.unwrap_or_default(), self.times.grace, now);
        self.count(&settled);
        for it in memory.due(&settled, now) {
            match self.tell(it).await {
                Ok(()) => {
                    memory.told.insert(subject(it).to_owned(), now);
                    tracing::warn!(target: "signet::cluster", namespace = it.namespace, pod = it.pod, reason = it.why.label(), "a pod that should be in the mesh is not");
                }
                // It has gone meanwhile.
                Err(error) if error.code() == Some(404) => {
                    memory.told.insert(subject(it).to_owned(), now);
                }
                Err(error) => {
                    tracing::info!(target: "signet::cluster", %error, namespace = it.namespace, pod = it.pod, "an event about a pod that is not in the mesh was not written");
                    let rest = error.retry_after().unwrap_or(REST).max(REST);
                    memory.rest_until = now.checked_add(rest);
                    return;
                }
            }
        }
    }

    fn count(&self, settled: &[Missing]) {
        for why in Why::ALL {
            let count = settled.iter().filter(|it| it.why == why).count();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.metrics.missing.with_label_values(&[why.label()]).set(count);
        }
    }

    async fn tell(&self, missing: &Missing) -> Result<(), ApiError> {
        let path =
            format!("/apis/events.k8s.io/v1/namespaces/{}/events?fieldManager={MANAGER}", missing.namespace);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let body = event(missing, &self.instance, since).to_string();
        self.api.post(&path, body, LIMIT, TIMEOUT).await.map(drop)
    }
}

/// An event of `events.k8s.io/v1`.
fn event(missing: &Missing, instance: &str, since_epoch: Duration) -> Value {
    let (version, kind, name, uid) = match &missing.owner {
        Some(owner) => (&*owner.api_version, &*owner.kind, &owner.name, &owner.uid),
        None => ("v1", "Pod", &missing.pod, &missing.uid),
    };
    let what = match missing.why {
        Why::NoSidecar => "has no sidecar",
        Why::Incomplete => "has a part of a sidecar only",
    };
    let note = format!(
        "Pod {} should be in the mesh and {what}: it was made before its namespace was labelled, while nobody injected, or past \
         the webhook. Restart its workload, or label the pod signet.mesh/inject: disabled.",
        missing.pod
    );
    // As client-go has it; a name has 253 characters at most.
    let stem: String = name.chars().take(200).collect();
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {
            "namespace": missing.namespace,
            "name": format!("{}.{:x}", stem.trim_end_matches(['.', '-']), since_epoch.as_nanos()),
        },
        "eventTime": rfc3339_micro(since_epoch), "type": "Warning", "reason": "NotInMesh", "action": "Inspect",
        "reportingController": CONTROLLER,
        "reportingInstance": instance.chars().take(128).collect::<String>(),
        "regarding": {"apiVersion": version, "kind": kind, "namespace": missing.namespace, "name": name, "uid": uid},
        "note": note.chars().take(1000).collect::<String>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(uid: &str) -> Missing {
        let (namespace, pod) = ("shop".to_owned(), format!("pod-{uid}"));
        Missing { namespace, pod, uid: uid.into(), owner: None, why: Why::NoSidecar }
    }

    #[test]
    fn a_pod_counts_when_it_has_been_so_for_a_while_and_begins_anew_when_it_was_not() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let grace = Duration::from_secs(60);
        let at = |seconds| now + Duration::from_secs(seconds);
        assert!(memory.settled(vec![missing("a")], grace, now).is_empty());
        assert!(memory.settled(vec![missing("a"), missing("b")], grace, at(59)).is_empty());
        let settled = memory.settled(vec![missing("a"), missing("b")], grace, at(60));
        assert_eq!(settled.iter().map(|it| it.uid.as_str()).collect::<Vec<_>>(), ["a"]);
        assert!(memory.settled(Vec::new(), grace, at(61)).is_empty());
        assert!(memory.settled(vec![missing("a")], grace, at(62)).is_empty(), "anew");
    }

    #[test]
    fn each_workload_is_told_once_an_hour_and_a_few_at_a_time() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let all: Vec<Missing> = (0..25).map(|number| missing(&format!("{number:02}"))).collect();
        let mut rounds = Vec::new();
        for _ in 0..4 {
            let told: Vec<String> = memory.due(&all, now).iter().map(|it| it.uid.clone()).collect();
            rounds.push(told.len());
            memory.told.extend(told.into_iter().map(|uid| (uid, now)));
        }
        assert_eq!(rounds, [10, 10, 5, 0]);
        assert_eq!(memory.due(&all, now + AGAIN).len(), AT_ONCE);
        memory.rest_until = Some(now + REST);
        assert!(memory.due(&all, now).is_empty());
    }

    #[test]
    fn an_event_is_about_the_owner_and_within_the_servers_limits() {
        let owner = signet_kubernetes::translate::views::Owner {
            api_version: "apps/v1".into(),
            kind: "ReplicaSet".into(),
            name: "x".repeat(253),
            uid: "u".into(),
            controller: true,
        };
        let it = Missing { owner: Some(owner), pod: "p".repeat(253), ..missing("a") };
        let event = event(&it, &"i".repeat(300), Duration::from_secs(1_800_000_000));
        assert!(event["metadata"]["name"].as_str().unwrap().len() <= 253);
        assert_eq!(event["reportingInstance"].as_str().unwrap().len(), 128);
        assert!(event["note"].as_str().unwrap().len() <= 1024);
        assert_eq!(
            (&event["regarding"]["kind"], &event["regarding"]["uid"]),
            (&json!("ReplicaSet"), &json!("u"))
        );
        assert_eq!(event["eventTime"], "2027-01-15T08:00:00.000000Z");
    }
}
