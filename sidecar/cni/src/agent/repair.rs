//! Pods that started without being redirected: before this node had an agent, or while something else had rewritten the network's
//! configuration. Nothing of theirs has run, since their first container waits for the redirection. So they are redirected where
//! they are: that ends the wait, needs no right to change or delete a pod, and costs nobody a restart.
//!
//! The runtime has told nobody which namespace is such a pod's, and what the API server says of its addresses may be of
//! yesterday, or a lie. So the namespace itself has to ask: the waiting container holds a name there, for its own options
//! (`signet_redirect::asks`). Nobody gets rules that are asked for elsewhere, nothing that is there is replaced, and the pod is looked
//! up once more between the look into its namespace and the first rule.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::cluster::{Cluster, Event, addresses, is_name, of_node};
use super::judge::{Verdict, of, still_waits, waits};
use super::network::{Place, look, pick, redirect_first};

/// Before the second attempt at a pod that still waits; twice that before the next, and so on.
const AGAIN: Duration = Duration::from_secs(1);
/// At most: its container waits for two minutes at a time.
const SELDOM: Duration = Duration::from_secs(32);
/// Attempts at a time: one that takes long keeps few others waiting.
const AT_ONCE: usize = 16;
/// After the server was away, or ended a watch at once.
const PAUSE: Duration = Duration::from_secs(3);

/// What is known of the node's pods that wait.
pub(super) struct Repair {
    pub(super) cluster: Arc<Cluster>,
    /// Where the runtime has its network namespaces, if that can be seen from here.
    pub(super) folder: Option<PathBuf>,
    /// Of the mesh's sidecars.
    pub(super) uid: u32,
}

/// A pod that waits.
struct Waiter {
    pod: Value,
    /// What was last said about it.
    said: String,
    failures: u32,
    next: Instant,
}

/// What a list and the watch after it have said.
#[derive(Default)]
struct Known {
    /// By uid.
    waiting: BTreeMap<String, Waiter>,
    node: BTreeSet<IpAddr>,
    /// Attempts that came to nothing.
    failed: u64,
}

impl Repair {
    /// Follows the node's pods for as long as the process runs.
    pub(super) async fn follow(self) {
        let mut said = false;
        loop {
            let failed = self.once().await.err();
            match (&failed, said) {
                (Some(error), false) => {
                    tracing::warn!(target: "signet::cni", %error, "the node's pods cannot be followed");
                }
                (None, true) => tracing::info!(target: "signet::cni", "the node's pods are followed again"),
                _ => {}
            }
            said = failed.is_some();
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A list, and a watch from there until it ends.
    async fn once(&self) -> Result<(), signet_apiserver::api::ApiError> {
        let (pods, version) = self.cluster.list().await?;
        let mut known = Known::default();
        pods.into_iter().for_each(|pod| self.note(&mut known, pod, false));
        let mut lines = self.cluster.watch(&version).await?;
        loop {
            let next = known.waiting.values().map(|one| one.next).min();
            if next.is_some_and(|next| next <= Instant::now()) {
                self.mend(&mut known).await;
                continue;
            }
            let line = tokio::select! {
                line = lines.next() => line?,
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => continue,
            };
            let Some(line) = line else { return Ok(()) };
            // What cannot be read is taken for too old: a list says what is.
            let Some((kind, pod)) = Event::read(&line) else { return Ok(()) };
            match kind.as_str() {
                "ADDED" | "MODIFIED" => self.note(&mut known, pod, false),
                "DELETED" => self.note(&mut known, pod, true),
                "BOOKMARK" => {}
                _ => return Ok(()),
            }
        }
    }

    fn note(&self, known: &mut Known, pod: Value, gone: bool) {
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let uid = text("/metadata/uid").to_owned();
        let before = known.waiting.remove(&uid);
        if gone || text("/spec/nodeName") != self.cluster.node {
            return;
        }
        known.node.extend(of_node(&pod));
        if waits(&pod) {
            let (said, failures, next) =
                before.map_or((String::new(), 0, Instant::now()), |one| (one.said, one.failures, one.next));
            known.waiting.insert(uid, Waiter { pod, said, failures, next });
        }
    }

    /// One attempt at each that is due, but for too many.
    async fn mend(&self, known: &mut Known) {
        let now = Instant::now();
        let due: Vec<String> = known
            .waiting
            .iter()
            .filter(|(_, one)| one.next <= now)
            .map(|(uid, _)| uid.clone())
            .take(AT_ONCE)
            .collect();
        let due: Vec<(String, Waiter)> =
            due.into_iter().filter_map(|uid| known.waiting.remove_entry(&uid)).collect();
        let round = Round {
            cluster: Arc::clone(&self.cluster),
            handle: Handle::current(),
            node: known.node.clone(),
            uid: self.uid,
        };
        let folder = self.folder.clone();
        let done = tokio::task::spawn_blocking(move || round.all(folder.as_deref(), due)).await;
        for (uid, mut one, outcome) in done.unwrap_or_default() {
            let name = |field: &str| one.pod.pointer(field).and_then(Value::as_str).unwrap_or_default();
            let (namespace, name) = (name("/metadata/namespace"), name("/metadata/name"));
            match outcome {
                Ok(true) => tracing::info!(target: "signet::cni", namespace, name, "redirected belatedly"),
                // It may wait still, for its next attempt at looking: nothing is to be done for it.
                Ok(false) => {}
                Err(error) => {
                    known.failed = known.failed.saturating_add(1);
                    if error != one.said {
                        let failed = known.failed;
                        tracing::warn!(target: "signet::cni", namespace, name, error, failed, "not redirected, and waits");
                    }
                    one.said = error;
                    one.failures = one.failures.saturating_add(1);
                    one.next = Instant::now().checked_add(pause(one.failures)).unwrap_or(now);
                    known.waiting.insert(uid, one);
                }
            }
        }
    }
}

/// Before the next attempt, after so many.
fn pause(failures: u32) -> Duration {
    AGAIN.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(SELDOM)
}

/// What all attempts of a time have in common.
struct Round {
    cluster: Arc<Cluster>,
    handle: Handle,
    node: BTreeSet<IpAddr>,
    uid: u32,
}

impl Round {
    /// Blocks until all have been tried, one beside the other.
    fn all(
        &self,
        folder: Option<&Path>,
        due: Vec<(String, Waiter)>,
    ) -> Vec<(String, Waiter, Result<bool, String>)> {
        let places = folder
            .ok_or_else(|| {
                "its network cannot be found without --netns-dir: delete the pod, so that another takes its place"
                    .to_owned()
            })
            .and_then(|folder| look(folder).map_err(|error| format!("{}: {error}", folder.display())));
        std::thread::scope(|scope| {
            let places = &places;
            let work: Vec<_> = due
                .into_iter()
                .map(|(uid, one)| {
                    scope.spawn(move || {
                        let outcome = places
                            .as_ref()
                            .map_err(Clone::clone)
                            .and_then(|places| self.attempt(places, &one.pod));
                        (uid, one, outcome)
                    })
                })
                .collect();
            work.into_iter().filter_map(|one| one.join().ok()).collect()
        })
    }

    /// Whether something was done; not where nothing was missing.
    fn attempt(&self, places: &[Place], pod: &Value) -> Result<bool, String> {
        let options = match of(pod, self.uid) {
            Ok(Verdict::Redirect(options)) => options,
            Ok(Verdict::Leave) => return Ok(false),
            Err(failure) => return Err(failure.to_string()),
        };
        let namespace = pick(places, &addresses(pod), &self.node, &options)?;
        // It is open: whatever becomes of the pod, this is the one that asked. Whether it is still that pod's, the server says.
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (group, name) = (text("/metadata/namespace"), text("/metadata/name"));
        if !is_name(group) || !is_name(name) {
            return Err(format!("expected the names of a namespace and a pod, got {group:?} and {name:?}"));
        }
        let now = self.handle.block_on(self.cluster.pod(group, name));
        let now = now.map_err(|error| format!("the API server does not say what it is now: {error}"))?;
        if !still_waits(pod, &now) {
            return Err("it is not the pod any more that waited".to_owned());
        }
        redirect_first(namespace, &options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_be_helped_is_tried_ever_less_often() {
        let pauses: Vec<_> = (1..=8).map(|failures| pause(failures).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 32, 32]);
        assert_eq!(pause(u32::MAX), SELDOM);
    }
}
