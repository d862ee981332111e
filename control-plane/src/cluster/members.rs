//! Pods that should be in the mesh and are not: counted, and told to whoever owns them by an event.
//!
//! By the control plane that holds the Lease, from what is known of the cluster anyway. A pod counts when it has been so for
//! a while: one that is just being made, or whose namespace was labelled a moment ago and whose workload is being
//! restarted, is nobody's fault. Each workload is told once an hour, as long as there is such a pod of it, and a few at a
//! time. What it never does: touch a pod.
//!
//! Who owns a pod, the pod says itself: whoever makes pods in a namespace writes what he likes there. So nothing of it has
//! a say beyond that namespace, and what the server refuses about one workload is no reason to be silent about others.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use signet_kubernetes::translate::Settings;
use signet_kubernetes::translate::members::{Missing, Why, missing};
use signet_kubernetes::translate::views::Owner;
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
/// While the server has no time for us.
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
    /// When each workload was told, by its namespace and uid.
    told: HashMap<(String, String), Instant>,
    /// The namespace that had the last turn.
    last: String,
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

    /// Who is to be told now, with one of their pods each. Namespaces take turns, so that one with any number of
    /// workloads keeps no other waiting.
    fn due<'a>(&mut self, settled: &'a [Missing], now: Instant) -> Vec<&'a Missing> {
        let mut all: BTreeMap<(&str, &str), &Missing> = BTreeMap::new();
        for it in settled {
            all.entry(subject(it)).or_insert(it);
        }
        self.told.retain(|(namespace, uid), at| {
            all.contains_key(&(namespace.as_str(), uid.as_str()))
                && now.saturating_duration_since(*at) < AGAIN
        });
        if self.rest_until.is_some_and(|until| until > now) {
            return Vec::new();
        }
        let told: HashSet<(&str, &str)> =
            self.told.keys().map(|(namespace, uid)| (namespace.as_str(), uid.as_str())).collect();
        let mut turns: HashMap<&str, usize> = HashMap::new();
        let mut open: Vec<(usize, bool, &Missing)> = Vec::new();
        for (key, it) in all.into_iter().filter(|(key, _)| !told.contains(key)) {
            let turn = turns.entry(key.0).or_default();
            open.push((*turn, key.0 <= self.last.as_str(), it));
            *turn = turn.saturating_add(1);
        }
        // The order of names stays within a turn, and begins behind whoever had the last one.
        open.sort_by_key(|(turn, had, _)| (*turn, *had));
        open.into_iter().map(|(.., it)| it).take(AT_ONCE).collect()
    }

    fn tells(&mut self, missing: &Missing, now: Instant) {
        let (namespace, uid) = subject(missing);
        self.told.insert((namespace.to_owned(), uid.to_owned()), now);
    }
}

/// Who owns it, by namespace and uid.
fn subject(missing: &Missing) -> (&str, &str) {
    let uid = owner(missing).map_or(missing.uid.as_str(), |owner| owner.uid.as_str());
    (&missing.namespace, uid)
}

/// Who owns it, unless it is nobody: no owner is called by more than this, and the server takes no event without.
fn owner(missing: &Missing) -> Option<&Owner> {
    let fits = |text: &str, most: usize| !text.is_empty() && text.len() <= most;
    missing.owner.as_ref().filter(|it| {
        fits(&it.api_version, 317) && fits(&it.kind, 63) && fits(&it.name, 253) && fits(&it.uid, 128)
    })
}

/// Whether the server has no time for us, or does not know us. Else it is about what we said.
fn is_about_us(error: &ApiError) -> bool {
    match error {
        ApiError::Status { code, .. } => matches!(code, 401 | 429 | 500..),
        // It answered.
        ApiError::TooLarge(_) | ApiError::Unreadable(_) => false,
        _ => true,
    }
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
            memory.last.clone_from(&it.namespace);
            match self.tell(it).await {
                Ok(()) => {
                    memory.tells(it, now);
                    tracing::warn!(target: "signet::cluster", namespace = it.namespace, pod = it.pod, reason = it.why.label(), "a pod that should be in the mesh is not");
                }
                // It has gone meanwhile.
                Err(error) if error.code() == Some(404) => memory.tells(it, now),
                Err(error) => {
                    tracing::info!(target: "signet::cluster", %error, namespace = it.namespace, pod = it.pod, "an event about a pod that is not in the mesh was not written");
                    if is_about_us(&error) {
                        let rest = error.retry_after().unwrap_or(REST).max(REST);
                        memory.rest_until = now.checked_add(rest);
                        return;
                    }
                    memory.tells(it, now);
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
    let (version, kind, name, uid) = match owner(missing) {
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
    // As client-go has it, but of the pod's name, which the server has judged; a name has 253 characters at most.
    let stem: String = missing.pod.chars().take(200).collect();
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
            let due = memory.due(&all, now);
            rounds.push(due.len());
            due.into_iter().for_each(|it| memory.tells(it, now));
        }
        assert_eq!(rounds, [10, 10, 5, 0]);
        assert_eq!(memory.due(&all, now + AGAIN).len(), AT_ONCE);
        memory.rest_until = Some(now + REST);
        assert!(memory.due(&all, now).is_empty());
    }

    fn owned(name: &str, uid: &str) -> Option<Owner> {
        let (api_version, kind) = ("apps/v1".into(), "ReplicaSet".into());
        Some(Owner { api_version, kind, name: name.into(), uid: uid.into(), controller: true })
    }

    #[test]
    fn a_namespace_with_any_number_of_workloads_keeps_no_other_waiting() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let of = |namespace: &str, uid: String| Missing { namespace: namespace.into(), ..missing(&uid) };
        let mut all: Vec<Missing> = (0..100).map(|number| of("a-crowd", format!("{number:03}"))).collect();
        all.extend([of("shop", "one".into()), of("shop", "two".into()), of("web", "three".into())]);
        let due: Vec<&str> = memory.due(&all, now).into_iter().map(|it| it.namespace.as_str()).collect();
        assert_eq!(due[..5], ["a-crowd", "shop", "web", "a-crowd", "shop"]);
        assert_eq!(due.len(), AT_ONCE);
        // Where each turn ends with a failure, the next begins with somebody else.
        memory.last = "a-crowd".into();
        assert_eq!(memory.due(&all, now)[0].namespace, "shop");
        memory.last = "web".into();
        assert_eq!(memory.due(&all, now)[0].namespace, "a-crowd");
    }

    #[test]
    fn an_owner_who_claims_the_uid_of_another_namespace_is_somebody_else() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let forged = Missing { namespace: "evil".into(), owner: owned("x", "rs"), ..missing("a") };
        let victim = Missing { owner: owned("web-7d9", "rs"), ..missing("b") };
        let all = [forged, victim];
        assert_eq!(memory.due(&all, now).len(), 2);
        memory.tells(&all[0], now);
        assert_eq!(memory.due(&all, now), [&all[1]]);
    }

    #[test]
    fn an_event_is_one_that_the_server_takes_whoever_the_pod_says_owns_it() {
        for (name, uid) in
            [("Not/a name!", "u"), ("", "u"), ("x", ""), (&"x".repeat(1 << 20), "u"), ("x", &"u".repeat(129))]
        {
            let it = Missing { owner: owned(name, uid), ..missing("a") };
            let event = event(&it, "one", Duration::from_secs(1_800_000_000));
            let (said, about) = (event["metadata"]["name"].as_str().unwrap(), &event["regarding"]);
            assert_eq!(said.split_once('.').unwrap().0, "pod-a", "{said}");
            assert!(
                said.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte))
            );
            let is_fit = name == "Not/a name!";
            let who = if is_fit { ("ReplicaSet", name) } else { ("Pod", "pod-a") };
            assert_eq!((&about["kind"], &about["name"]), (&json!(who.0), &json!(who.1)));
            assert_eq!(subject(&it), ("shop", if is_fit { "u" } else { "a" }));
        }
    }

    #[test]
    fn only_what_is_about_us_is_a_reason_to_rest() {
        let status = |code| ApiError::Status { code, message: String::new(), retry_after: None };
        for code in [401, 429, 500, 503, 504] {
            assert!(is_about_us(&status(code)), "{code}");
        }
        for code in [400, 403, 404, 409, 413, 422] {
            assert!(!is_about_us(&status(code)), "{code}");
        }
        assert!(is_about_us(&ApiError::Timeout(TIMEOUT)) && is_about_us(&ApiError::Http(String::new())));
        assert!(!is_about_us(&ApiError::TooLarge(LIMIT)));
    }

    #[test]
    fn an_event_is_about_the_owner_and_within_the_servers_limits() {
        let it = Missing { owner: owned(&"x".repeat(253), "u"), pod: "p".repeat(253), ..missing("a") };
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
