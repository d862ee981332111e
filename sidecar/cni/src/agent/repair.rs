//! Pods that started without being redirected: before this node had an agent, or while something else had rewritten the network's
//! configuration. Nothing of theirs has run, since their first container waits for the redirection. So they are redirected where
//! they are: that ends the wait, needs no right to change or delete a pod, and costs nobody a restart.
//!
//! The namespace of such a pod is found by its addresses, which no two pods of a node share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::cluster::{Cluster, Event, addresses};
use super::judge::{Verdict, of, waits};
use super::network::{differences, find, redirect};

/// Between attempts at a pod that still waits.
const AGAIN: Duration = Duration::from_secs(2);
/// After the server was away, or ended a watch at once.
const PAUSE: Duration = Duration::from_secs(3);

/// What is known of the node's pods that wait.
pub(super) struct Repair {
    pub(super) cluster: Arc<Cluster>,
    /// Where the runtime has its network namespaces, if that can be seen from here.
    pub(super) folder: Option<PathBuf>,
}

/// Pods that wait, by uid, and what was last said about each.
type Waiting = BTreeMap<String, (Value, String)>;

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
        let mut waiting = Waiting::new();
        pods.into_iter().for_each(|pod| self.note(&mut waiting, pod, false));
        let mut lines = self.cluster.watch(&version).await?;
        let mut next = Instant::now();
        loop {
            if !waiting.is_empty() && Instant::now() >= next {
                waiting = self.mend(waiting).await;
                next = Instant::now().checked_add(AGAIN).unwrap_or(next);
            }
            let line = tokio::select! {
                line = lines.next() => line?,
                () = tokio::time::sleep_until(next), if !waiting.is_empty() => continue,
            };
            let Some(line) = line else { return Ok(()) };
            // What cannot be read is taken for too old: a list says what is.
            let Some((kind, pod)) = Event::read(&line) else { return Ok(()) };
            match kind.as_str() {
                "ADDED" | "MODIFIED" => self.note(&mut waiting, pod, false),
                "DELETED" => self.note(&mut waiting, pod, true),
                "BOOKMARK" => {}
                _ => return Ok(()),
            }
        }
    }

    fn note(&self, waiting: &mut Waiting, pod: Value, gone: bool) {
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let uid = text("/metadata/uid").to_owned();
        let said = waiting.remove(&uid).map(|(_, said)| said).unwrap_or_default();
        if !gone && text("/spec/nodeName") == self.cluster.node && waits(&pod) {
            waiting.insert(uid, (pod, said));
        }
    }

    /// One attempt at each.
    async fn mend(&self, waiting: Waiting) -> Waiting {
        let folder = self.folder.clone();
        let work = move || {
            let mut left = Waiting::new();
            for (uid, (pod, before)) in waiting {
                let name = |field: &str| pod.pointer(field).and_then(Value::as_str).unwrap_or_default();
                let (namespace, name) = (name("/metadata/namespace"), name("/metadata/name"));
                match attempt(folder.as_deref(), &pod) {
                    // It may wait still, for its next attempt at looking: nothing is to be done for it.
                    Ok(None) => {}
                    Ok(Some(said)) => {
                        tracing::info!(target: "signet::cni", namespace, name, said, "redirected belatedly");
                    }
                    Err(error) => {
                        if error != before {
                            tracing::warn!(target: "signet::cni", namespace, name, error, "not redirected, and waits");
                        }
                        left.insert(uid, (pod, error));
                    }
                }
            }
            left
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_default()
    }
}

/// What was done; nothing where nothing was missing.
fn attempt(folder: Option<&Path>, pod: &Value) -> Result<Option<String>, String> {
    let options = match of(pod) {
        Ok(Verdict::Redirect(options)) => options,
        Ok(Verdict::Leave) => return Ok(None),
        Err(failure) => return Err(failure.to_string()),
    };
    let folder = folder.ok_or(
        "its network cannot be found without --netns-dir: delete the pod, so that another takes its place",
    )?;
    let namespace = find(folder, &addresses(pod)).map_err(|error| error.to_string())?;
    if differences(&namespace, &options)?.is_empty() {
        return Ok(None);
    }
    redirect(&namespace, &options).map(Some)
}
