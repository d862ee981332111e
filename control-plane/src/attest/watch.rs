//! Every pod of the cluster that still runs, as the API server last told it: for the fast mode only.
//!
//! A list in pages, then a watch from where the list ended; a watch that the server ends is opened again from the last
//! version seen, one that is too old (410) makes a new list, anything else waits a growing pause. The cache says
//! how current it is. Who asks a cache that is not current, or for a pod that it does not know, asks the
//! server instead.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::api::{Api, ApiError};
use super::metrics::Metrics;
use super::pods::{List, Pod, Raw};
use crate::cluster::reflect::query;
use crate::fetch::jitter;

const PODS: &str = "/api/v1/pods?fieldSelector=status.phase%21%3DSucceeded%2Cstatus.phase%21%3DFailed";
const PAGE: usize = 250;
/// A page of the largest pods that anybody would have.
const MAX_PAGE: usize = 64 * 1024 * 1024;
/// More pods than a cluster may have (Kubernetes is built for 150,000).
const MAX_PODS: usize = 400_000;
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// A watch that was cut is open again within moments; what is older may have missed an end.
const CURRENT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A watch that lived for so long ended for no fault of anybody.
const SETTLED: Duration = Duration::from_secs(5);

/// See the module's story.
pub struct Pods {
    api: Arc<Api>,
    metrics: Metrics,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    by_uid: HashMap<String, Arc<Pod>>,
    /// A watch is open.
    open: bool,
    /// When the last one was lost.
    lost: Option<Instant>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: serde_json::Value,
}

/// Why a watch is over.
#[derive(Debug)]
enum Over {
    /// The server ended it in order.
    Ended,
    /// What we have is too old to go on from.
    TooOld,
    Failed(ApiError),
}

impl Pods {
    #[must_use]
    pub fn new(api: Arc<Api>, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { api, metrics, known: RwLock::default() })
    }

    /// The pod of this uid, if the cache is current and knows it.
    #[must_use]
    pub fn current(&self, uid: &str) -> Option<Arc<Pod>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let current = known.open || known.lost.is_some_and(|lost| lost.elapsed() < CURRENT);
        if current { known.by_uid.get(uid).cloned() } else { None }
    }

    /// Follows the cluster until the future is dropped.
    pub async fn follow(self: Arc<Self>) {
        let mut version: Option<String> = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Instant::now();
            let over = match version.take() {
                None => match self.list().await {
                    Ok(listed) => {
                        version = Some(listed);
                        continue;
                    }
                    Err(error) => Over::Failed(error),
                },
                Some(from) => {
                    let mut at = from;
                    let over = self.watch(&mut at).await;
                    if !matches!(over, Over::TooOld) {
                        version = Some(at);
                    }
                    over
                }
            };
            self.metrics.watch_ended.with_label_values(&[over.label()]).inc();
            let settled = began.elapsed() >= SETTLED;
            if settled {
                pause = FIRST_PAUSE;
            }
            let wait = match &over {
                Over::Ended if settled => continue,
                Over::Failed(error) => {
                    tracing::warn!(target: "signet::attest", reason = error.label(), %error, "the cluster's pods are not watched");
                    error.retry_after().unwrap_or(pause).min(LONGEST_PAUSE).max(pause)
                }
                Over::Ended | Over::TooOld => pause,
            };
            tokio::time::sleep(wait.mul_f64(1.0 + jitter().abs())).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    /// Takes what there is now for all that there is; the version to watch from.
    async fn list(&self) -> Result<String, ApiError> {
        let mut found: HashMap<String, Arc<Pod>> = HashMap::new();
        let mut next = String::new();
        loop {
            let path = format!("{PODS}&limit={PAGE}{}", query("continue", &next));
            let body = self.api.get(&path, "application/json", MAX_PAGE, LIST_TIMEOUT).await?;
            let page: List = serde_json::from_slice(&body)
                .map_err(|_| ApiError::Unreadable("it is not a list of pods"))?;
            found.extend(page.items.into_iter().map(Pod::from).map(|pod| (pod.uid.clone(), Arc::new(pod))));
            if found.len() > MAX_PODS {
                return Err(ApiError::Unreadable("it has more pods than any cluster"));
            }
            next = page.metadata.next;
            if next.is_empty() {
                self.metrics.pods.set(i64::try_from(found.len()).unwrap_or(i64::MAX));
                let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
                known.by_uid = found;
                return Ok(page.metadata.resource_version);
            }
        }
    }

    /// Watches from `version` on, which is kept current.
    async fn watch(&self, version: &mut String) -> Over {
        let path = format!(
            "{PODS}&watch=true&allowWatchBookmarks=true&timeoutSeconds=300{}",
            query("resourceVersion", version)
        );
        let mut lines = match self.api.watch(&path, OPEN_TIMEOUT).await {
            Ok(lines) => lines,
            Err(error) if error.code() == Some(410) => return Over::TooOld,
            Err(error) => return Over::Failed(error),
        };
        self.opened();
        let over = loop {
            match lines.next().await {
                Ok(Some(line)) => {
                    if let Err(over) = self.event(&line, version) {
                        break over;
                    }
                }
                Ok(None) => break Over::Ended,
                Err(error) => break Over::Failed(error),
            }
        };
        self.lost();
        over
    }

    fn event(&self, line: &[u8], version: &mut String) -> Result<(), Over> {
        let unreadable = || Over::Failed(ApiError::Unreadable("a line of the watch is no event"));
        let event: Event = serde_json::from_slice(line).map_err(|_| unreadable())?;
        match event.kind.as_str() {
            "ERROR" => {
                let code = event.object.get("code").and_then(serde_json::Value::as_u64).unwrap_or(0);
                let message = event.object.get("message").and_then(serde_json::Value::as_str).unwrap_or("");
                return Err(match code {
                    410 => Over::TooOld,
                    code => Over::Failed(ApiError::Status {
                        code: u16::try_from(code).unwrap_or(500),
                        message: message.chars().filter(|c| !c.is_control()).take(300).collect(),
                        retry_after: None,
                    }),
                });
            }
            "BOOKMARK" => {
                let at = event.object.pointer("/metadata/resourceVersion").and_then(|v| v.as_str());
                if let Some(at) = at {
                    at.clone_into(version);
                }
                return Ok(());
            }
            _ => {}
        }
        let pod: Pod = serde_json::from_value::<Raw>(event.object).map_err(|_| unreadable())?.into();
        pod.resource_version.clone_into(version);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        match event.kind.as_str() {
            "DELETED" => {
                known.by_uid.remove(&pod.uid);
            }
            // One that falls out of the selection comes as DELETED; more than fit are left to the server.
            _ if known.by_uid.len() < MAX_PODS || known.by_uid.contains_key(&pod.uid) => {
                known.by_uid.insert(pod.uid.clone(), Arc::new(pod));
            }
            _ => {}
        }
        self.metrics.pods.set(i64::try_from(known.by_uid.len()).unwrap_or(i64::MAX));
        Ok(())
    }

    fn opened(&self) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.open = true;
        known.lost = None;
    }

    fn lost(&self) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.open = false;
        known.lost = Some(Instant::now());
    }
}

impl Over {
    fn label(&self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::TooOld => "too_old",
            Self::Failed(error) => error.label(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::pods::tests::POD;

    fn pods() -> Arc<Pods> {
        let config = crate::attest::config::Kubernetes {
            cluster: "c".into(),
            server: ("127.0.0.1".into(), 1),
            token_file: "/nonexistent".into(),
            ca_file: "/nonexistent".into(),
            audience: "a".into(),
            mode: crate::attest::config::Mode::Fast,
            check_address: false,
            allow_unregistered: false,
        };
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        Pods::new(Arc::new(Api::new(&config.place())), metrics)
    }

    fn say(pods: &Pods, kind: &str, object: &str, version: &mut String) -> Result<(), Over> {
        pods.event(format!(r#"{{"type":"{kind}","object":{object}}}"#).as_bytes(), version)
    }

    #[test]
    fn events_come_in_and_an_error_says_whether_to_list_again() {
        let pods = pods();
        pods.opened();
        let mut version = "1".to_owned();
        say(&pods, "ADDED", POD, &mut version).unwrap();
        assert_eq!((version.as_str(), pods.current("u1").unwrap().terminating), ("7", false));
        let ending = POD.replace("\"7\"", "\"8\",\"deletionTimestamp\":\"2026-11-22T00:25:48Z\"");
        say(&pods, "MODIFIED", &ending, &mut version).unwrap();
        assert!(pods.current("u1").unwrap().terminating);
        say(&pods, "BOOKMARK", r#"{"metadata":{"resourceVersion":"99"}}"#, &mut version).unwrap();
        assert_eq!(version, "99");
        say(&pods, "DELETED", &ending, &mut version).unwrap();
        assert!(pods.current("u1").is_none());
        let gone = r#"{"kind":"Status","code":410,"message":"too old resource version"}"#;
        assert!(matches!(say(&pods, "ERROR", gone, &mut version), Err(Over::TooOld)));
        let other = r#"{"kind":"Status","code":500,"message":"no"}"#;
        assert!(matches!(say(&pods, "ERROR", other, &mut version), Err(Over::Failed(_))));
        assert!(matches!(say(&pods, "ADDED", "{}", &mut version), Err(Over::Failed(_))));
        assert!(matches!(pods.event(b"not json\n", &mut version), Err(Over::Failed(_))));
    }

    /// Recorded from a real API server.
    #[test]
    fn the_life_of_a_real_pod_is_followed_from_its_place_to_its_end() {
        const LIFE: &str = include_str!("../../../tests/data/kubernetes/watch/pods-one-life.jsonl");
        let pods = pods();
        pods.opened();
        let mut version = String::new();
        let mut seen = Vec::new();
        for line in LIFE.lines() {
            pods.event(line.as_bytes(), &mut version).unwrap();
            let known = pods.known.read().unwrap();
            seen.push(
                known
                    .by_uid
                    .values()
                    .next()
                    .map(|pod| (pod.node.clone(), pod.addresses.len(), pod.terminating, pod.ended)),
            );
        }
        seen.dedup();
        let placed =
            |addresses, terminating, ended| Some(("node2".to_owned(), addresses, terminating, ended));
        let expected = [
            Some((String::new(), 0, false, false)),
            placed(0, false, false),
            placed(2, false, false),
            placed(2, true, false),
            placed(2, true, true),
            None,
        ];
        assert_eq!(seen, expected);
        assert_eq!(version, "449");
        let gone = include_str!("../../../tests/data/kubernetes/watch/gone-410.jsonl");
        assert!(matches!(pods.event(gone.as_bytes(), &mut version), Err(Over::TooOld)));
    }

    #[test]
    fn a_list_of_real_pods_is_read_whole() {
        let recorded: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/data/kubernetes/watch/list-pods.json"))
                .unwrap();
        let list: List = serde_json::from_value(recorded["response"]["body"].clone()).unwrap();
        assert_eq!((list.metadata.resource_version.as_str(), list.metadata.next.as_str()), ("737", ""));
        let found: Vec<Pod> = list.items.into_iter().map(Pod::from).collect();
        assert_eq!(found.len(), 7);
        let inventory = found.iter().find(|pod| pod.account == "inventory").unwrap();
        assert_eq!((inventory.namespace.as_str(), inventory.node.as_str()), ("shop", "node2"));
        assert_eq!(inventory.labels.get("app").map(String::as_str), Some("inventory"));
    }

    #[test]
    fn a_cache_that_never_watched_or_lost_its_watch_long_ago_knows_nothing() {
        let pods = pods();
        let mut version = String::new();
        say(&pods, "ADDED", POD, &mut version).unwrap();
        assert!(pods.current("u1").is_none(), "never watched");
        pods.opened();
        assert!(pods.current("u1").is_some());
        pods.lost();
        assert!(pods.current("u1").is_some(), "a watch that just broke is about to be open again");
        pods.known.write().unwrap().lost = Instant::now().checked_sub(CURRENT);
        assert!(pods.current("u1").is_none());
    }

    #[test]
    fn what_goes_into_a_query_is_escaped() {
        assert_eq!(query("continue", "a b&c=ü"), "&continue=a%20b%26c%3D%C3%BC");
        assert_eq!(query("continue", ""), "");
    }
}
