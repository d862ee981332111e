//! From what is known of a cluster to the registry that is in force.
//!
//! Level-triggered: whenever anything changed that counts, all of it is made again, once for a crowd of changes. What comes
//! out is handed on only where it differs. While the API server is away the last registry stays, and the state says since
//! when; before every kind has been listed once there is none.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use signet_kubernetes::kinds::KINDS;
use signet_kubernetes::translate::{Settings, Translation, translate};
use signet_model::{Kept, ObjectId, Options, Registry, Resource};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::api::Api;
use super::config::Cluster;
use super::metrics::Metrics;
use super::reflect::{LONGEST_PAUSE, MAX_PAGE, Reflector};
use super::status::Statuses;
use super::store::Store;
use crate::clock::{rfc3339, unix_now};
use crate::registry::State;

/// Changes that come closer together are taken together.
const QUIET: Duration = Duration::from_millis(50);
/// And none waits longer.
const PATIENCE: Duration = Duration::from_millis(500);
/// What was right last, in the data directory: a restart must not deny what was right before.
const KEPT: &str = "registry-kept.json";

/// See the module's story.
pub struct Source {
    pub store: Arc<Store>,
    pub api: Arc<Api>,
    settings: Settings,
    metrics: Metrics,
    kept: Kept,
    kept_file: PathBuf,
    /// What is written there.
    written: String,
    /// The changes that the registry was made of.
    made_of: u64,
    state: watch::Sender<State>,
    statuses: watch::Sender<Statuses>,
}

impl Source {
    /// Follows the cluster from now on, and returns when everything has been listed once.
    pub async fn open(
        config: &Cluster,
        options: Options,
        data_dir: &Path,
        metrics: Metrics,
        background: &mut JoinSet<()>,
    ) -> Self {
        let (api, store) = (Arc::new(Api::new(&config.place)), Arc::new(Store::default()));
        for kind in KINDS {
            let reflector = Reflector {
                api: Arc::clone(&api),
                kind,
                store: Arc::clone(&store),
                metrics: metrics.clone(),
                longest_pause: LONGEST_PAUSE,
                largest_page: MAX_PAGE,
            };
            background.spawn(reflector.follow());
        }
        let mut changes = store.subscribe();
        let mut told = Instant::now();
        loop {
            let missing = store.missing();
            if missing.is_empty() {
                break;
            }
            if told.elapsed() >= Duration::from_secs(10) {
                told = Instant::now();
                let names: Vec<_> = missing.iter().map(|kind| kind.long_name()).collect();
                tracing::warn!(target: "signet::cluster", missing = names.join(", "), "waiting for the cluster's objects before anything is served");
            }
            let _ = tokio::time::timeout(Duration::from_secs(10), changes.changed()).await;
        }
        let kept_file = data_dir.join(KEPT);
        let state = State {
            registry: Arc::default(),
            loaded_at: 0,
            errors: Vec::new(),
            warnings: Vec::new(),
            refused: 0,
        };
        let settings = config.translated_by(options);
        let mut source = Self {
            store,
            api,
            settings,
            metrics,
            kept: read_kept(&kept_file),
            kept_file,
            written: String::new(),
            made_of: 0,
            state: watch::Sender::new(state),
            statuses: watch::Sender::new(Statuses::default()),
        };
        source = source.rebuild().await;
        source
    }

    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// What is to stand in the statuses.
    #[must_use]
    pub fn statuses(&self) -> watch::Receiver<Statuses> {
        self.statuses.subscribe()
    }

    /// Keeps the registry current until the future is dropped. What changed since the registry was made, before anybody called
    /// this, counts too.
    pub async fn follow(mut self) {
        let mut changes = self.store.subscribe();
        loop {
            let now = *changes.borrow_and_update();
            if now.content != self.made_of {
                self = self.rebuild().await;
            } else {
                self.say_health();
            }
            if changes.changed().await.is_err() {
                return;
            }
            let first = Instant::now();
            while first.elapsed() < PATIENCE
                && matches!(tokio::time::timeout(QUIET, changes.changed()).await, Ok(Ok(())))
            {}
        }
    }

    /// Makes the registry again.
    async fn rebuild(self) -> Self {
        let mut this = self;
        // Before the objects are looked at: what changes from here on makes it again.
        this.made_of = this.store.changes().content;
        let (snapshot, settings) = (this.store.snapshot(), this.settings.clone());
        let kept = std::mem::take(&mut this.kept);
        let made = tokio::task::spawn_blocking(move || {
            let made = translate(&snapshot, &settings, &kept);
            let written = write_kept(&made.kept);
            (made, written)
        });
        match made.await {
            Ok((made, written)) => this.take(made, written).await,
            // It cannot be aborted; a panic is a mistake of ours, and the last good registry stays.
            Err(error) => {
                tracing::error!(target: "signet::cluster", %error, "the registry was not made; the last one stays");
                this.kept = read_kept(&this.kept_file);
            }
        }
        this
    }

    async fn take(&mut self, made: Translation, text: String) {
        let Translation { registry, kept, statuses, mut warnings, refused, verdicts: _ } = made;
        self.metrics.refused.set(i64::try_from(refused.len()).unwrap_or(i64::MAX));
        // Endpoints come and go, and nothing of them is written down.
        if text != self.written {
            let (file, text) = (self.kept_file.clone(), text);
            let written = tokio::task::spawn_blocking(move || {
                signet_daemon::write_private(&file, text.as_bytes()).map(|()| text)
            });
            match written.await {
                Ok(Ok(text)) => self.written = text,
                Ok(Err(error)) => {
                    tracing::warn!(target: "signet::cluster", %error, "what was right last is not written down");
                }
                Err(_) => {}
            }
        }
        self.kept = kept;
        warnings.splice(0..0, refused);
        let changed = self.accept(registry, warnings);
        self.metrics.rebuilds.with_label_values(&[if changed { "changed" } else { "same" }]).inc();
        self.statuses.send_if_modified(|now| {
            let differ = **now != statuses;
            if differ {
                *now = Arc::new(statuses);
            }
            differ
        });
    }

    fn accept(&self, registry: Registry, warnings: Vec<String>) -> bool {
        let errors = self.troubles();
        let mut differs = false;
        self.state.send_if_modified(|state| {
            differs = *state.registry != registry || state.loaded_at == 0;
            let said = state.warnings != warnings || state.errors != errors;
            if differs {
                tracing::info!(target: "signet::registry", "registry made of the cluster");
                state.registry = Arc::new(registry);
                state.loaded_at = unix_now();
            }
            for warning in warnings.iter().filter(|warning| !state.warnings.contains(warning)) {
                tracing::warn!(target: "signet::registry", warning, "the registry may not do what it was meant to");
            }
            state.warnings = warnings;
            state.errors = errors;
            differs || said
        });
        differs
    }

    fn say_health(&self) {
        let errors = self.troubles();
        self.state.send_if_modified(|state| {
            let differ = state.errors != errors;
            state.errors = errors;
            differ
        });
    }

    /// What is not followed now, in words.
    fn troubles(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for (kind, since, why) in self.store.troubles() {
            all.push(format!(
                "{} are not followed since {}, and stay as they were: {why}",
                kind.long_name(),
                rfc3339(since)
            ));
        }
        all
    }
}

/// Only what restricts: of what grants, a restart may do without what is wrong.
fn write_kept(kept: &Kept) -> String {
    let restricts = |kind: &str| ["Mesh", "GuardRail", "MeshPolicy", "TrafficPolicy"].contains(&kind);
    let list = kept.iter().filter(|(id, _)| restricts(id.kind));
    let list = list.map(|(id, (uid, resource))| {
        let document: serde_json::Value =
            serde_json::from_str(&resource.canonical_json()).unwrap_or_default();
        serde_json::json!({"namespace": id.namespace, "name": id.name, "uid": uid, "document": document})
    });
    serde_json::Value::Array(list.collect()).to_string()
}

/// What cannot be read was not right.
fn read_kept(file: &Path) -> Kept {
    let Ok(text) = std::fs::read(file) else { return Kept::new() };
    let list: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap_or_default();
    let read = |entry: serde_json::Value| {
        let text = |name: &str| entry.get(name)?.as_str().map(str::to_owned);
        let resource = Resource::from_document(entry.get("document")?.clone()).ok()?;
        let id = ObjectId { kind: resource.kind(), namespace: text("namespace")?, name: text("name")? };
        Some((id, (text("uid")?, resource)))
    };
    list.into_iter().filter_map(read).collect()
}
