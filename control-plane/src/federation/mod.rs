//! The bundles of federated trust domains: fetched here, once for the whole mesh, kept across a restart, and
//! delivered to those whose policies name that domain.
//!
//! One task per trust domain, so that a partner that hangs, floods or lies delays nobody else. What was held
//! before stays whenever a fetch fails or brings something that is not to be believed ([`held::accept`]); it is
//! never dropped for its age, since a partner's outage must not become ours, and its age is a metric. Bundles of
//! different trust domains are kept apart from the first byte to the last.

mod cache;
pub mod held;
pub mod source;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use signet_identity::TrustDomain;
use signet_model::{EndpointProfile, FederatedSpec, Registry};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use cache::Cache;
use held::{Held, Refused, accept};
use source::{SourceError, initial, tls};

use crate::clock::unix_now;
use crate::fetch::schedule::{Pace, Schedule};
use crate::fetch::{Answer, Client, FetchError, Validator, jitter, now};
use crate::metrics::Metrics;

/// How long an operator's own refresh may take: a fetch, and one that was under way.
const REFRESH_WITHIN: Duration = Duration::from_secs(15);

/// Why a refresh brought nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FederationError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl FederationError {
    /// A short name for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Source(error) => error.label(),
            Self::Fetch(error) => error.label(),
            Self::Refused(error) => error.label(),
        }
    }
}

/// What is known of one federated trust domain.
#[derive(Debug, Clone)]
pub struct DomainState {
    /// The resource's name.
    pub name: String,
    pub spec: Arc<FederatedSpec>,
    /// What is believed of it now.
    pub held: Option<Arc<Held>>,
    /// When that was last confirmed by the endpoint, seconds since the epoch; 0 is never.
    pub confirmed_at: i64,
    /// What is wrong now; empty when nothing.
    pub error: String,
    /// The last of an operator's requests that an attempt began after.
    answered: u64,
}

impl DomainState {
    /// A domain that was not asked yet by this process.
    #[must_use]
    pub fn new(name: String, spec: FederatedSpec, held: Option<Arc<Held>>, confirmed_at: i64) -> Self {
        Self { name, spec: Arc::new(spec), held, confirmed_at, error: String::new(), answered: 0 }
    }
}

/// States by trust domain.
pub type Federated = Arc<BTreeMap<TrustDomain, DomainState>>;

/// The fetchers.
pub struct Federation {
    client: Client,
    states: watch::Sender<Federated>,
    tasks: Mutex<BTreeMap<TrustDomain, Fetcher>>,
    cache: Mutex<Cache>,
    metrics: Metrics,
}

struct Fetcher {
    spec: Arc<FederatedSpec>,
    wanted: Arc<Wanted>,
    task: JoinHandle<()>,
}

/// Operators' requests to ask now.
#[derive(Default)]
struct Wanted {
    requests: AtomicU64,
    notify: Notify,
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Federation {
    /// Fetchers that keep what they fetched in `kept` across a restart.
    #[must_use]
    pub fn new(client: Client, kept: &Path, metrics: Metrics) -> Arc<Self> {
        let cache = Mutex::new(Cache::open(kept));
        Arc::new(Self { client, states: watch::Sender::default(), tasks: Mutex::default(), cache, metrics })
    }

    /// Every change of any state.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Federated> {
        self.states.subscribe()
    }

    /// What is known now.
    #[must_use]
    pub fn states(&self) -> Federated {
        self.states.borrow().clone()
    }

    /// Follows exactly the trust domains of this registry from now on: new ones begin with what was kept of them
    /// and are asked at once, changed ones begin anew, absent ones are forgotten.
    pub fn follow(self: &Arc<Self>, registry: &Registry) {
        let wanted: BTreeMap<TrustDomain, (String, &FederatedSpec)> = registry
            .federated()
            .map(|object| (object.spec.trust_domain.clone(), (object.name.to_string(), &object.spec)))
            .collect();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|domain, fetcher| wanted.get(domain).is_some_and(|(_, spec)| **spec == *fetcher.spec));
        let mut cache = self.cache();
        cache.retain(|domain| wanted.contains_key(domain));
        self.states.send_if_modified(|states| {
            let stays = |domain: &TrustDomain| tasks.contains_key(domain);
            let changed = states.keys().any(|d| !stays(d)) || wanted.keys().any(|d| !states.contains_key(d));
            if changed {
                let mut next = (**states).clone();
                next.retain(|domain, _| stays(domain));
                for (domain, (name, spec)) in &wanted {
                    next.entry(domain.clone()).or_insert_with(|| {
                        let (held, confirmed_at) = cache.held(spec).unzip();
                        let (held, confirmed_at) = (held.map(Arc::new), confirmed_at.unwrap_or(0));
                        DomainState::new(name.clone(), (*spec).clone(), held, confirmed_at)
                    });
                }
                *states = Arc::new(next);
            }
            changed
        });
        drop(cache);
        for (domain, (_, spec)) in wanted {
            tasks.entry(domain).or_insert_with(|| {
                let (spec, wanted) = (Arc::new(spec.clone()), Arc::<Wanted>::default());
                let work = Arc::clone(self).run(Arc::clone(&spec), Arc::clone(&wanted));
                Fetcher { spec, wanted, task: tokio::spawn(work) }
            });
        }
    }

    /// Asks an endpoint now, and says what is known after it; none where the domain is not federated, or where
    /// the fetcher did not finish in time.
    pub async fn refresh(&self, domain: &TrustDomain) -> Option<DomainState> {
        let mut states = self.subscribe();
        let wanted = {
            let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(&tasks.get(domain)?.wanted)
        };
        let request = wanted.requests.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        wanted.notify.notify_one();
        // An attempt that was under way may have seen what was there before.
        let finished = states.wait_for(|now| now.get(domain).is_none_or(|state| state.answered >= request));
        let states = tokio::time::timeout(REFRESH_WITHIN, finished).await.ok()?.ok()?;
        states.get(domain).cloned()
    }

    /// Stops every fetcher.
    pub fn stop(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn run(self: Arc<Self>, spec: Arc<FederatedSpec>, wanted: Arc<Wanted>) {
        let domain = &spec.trust_domain;
        let mut schedule = Schedule::new(Pace::BUNDLES, now());
        let (mut validator, mut answered) = (None, 0);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(schedule.due().into()) => {}
                // An operator who asks is not kept waiting.
                () = wanted.notify.notified() => if wanted.requests.load(Ordering::SeqCst) <= answered {
                    continue;
                },
            }
            schedule.started(now());
            let request = wanted.requests.load(Ordering::SeqCst);
            answered = request;
            let result = self.attempt(&spec, &mut validator).await;
            let label = result.as_ref().map_or_else(FederationError::label, |()| "ok");
            self.metrics.federation_fetches.with_label_values(&[domain.as_str(), label]).inc();
            match &result {
                Ok(()) => {
                    let hint = self.held(domain).and_then(|held| held.document.refresh_hint());
                    schedule.succeeded(now(), spec.refresh.map(|refresh| refresh.get()).or(hint), jitter());
                }
                Err(error) => {
                    schedule.failed(now(), jitter());
                    tracing::warn!(target: "signet::federation", %domain, reason = label, %error, "bundle not refreshed; what was held before goes on");
                }
            }
            self.change(domain, |state| {
                state.answered = request;
                state.error = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
                if result.is_ok() {
                    state.confirmed_at = unix_now();
                }
            });
            self.keep(domain).await;
        }
    }

    /// One attempt, in full: what the operator brought, who answers, what it says.
    async fn attempt(
        &self,
        spec: &FederatedSpec,
        validator: &mut Option<Validator>,
    ) -> Result<(), FederationError> {
        let domain = &spec.trust_domain;
        if let EndpointProfile::Spiffe(profile) = &spec.profile {
            self.take_initial(spec, profile, validator).await?;
        }
        let held = self.held(domain);
        let client = match tls(&spec.profile, held.as_deref()).await? {
            Some(config) => self.client.with_tls(config),
            None => self.client.clone(),
        };
        let url = spec.url.as_str();
        match client.within(client.get(url, validator.as_ref())).await? {
            Answer::NotModified(_) => Ok(()),
            Answer::Body(headers, text) => {
                let next = accept(held.as_deref(), domain, &text, unix_now())?;
                *validator = Validator::of(url, &headers);
                self.believe(domain, held.as_deref(), next);
                Ok(())
            }
        }
    }

    /// A bundle that an operator brings is the latest until the endpoint is asked again (SPIFFE Federation,
    /// section 4.2): the first one, and each that differs from the one before.
    async fn take_initial(
        &self,
        spec: &FederatedSpec,
        profile: &signet_model::SpiffeProfile,
        validator: &mut Option<Validator>,
    ) -> Result<(), FederationError> {
        let domain = &spec.trust_domain;
        let held = self.held(domain);
        let brought = match initial(domain, &profile.initial_bundle).await {
            Ok(brought) => brought,
            Err(error) if held.is_some() => {
                tracing::warn!(target: "signet::federation", %domain, %error, "the initial bundle cannot be read; the one held goes on");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        if held.as_ref().is_some_and(|held| held.initial == Some(brought.digest)) {
            return Ok(());
        }
        tracing::info!(target: "signet::federation", %domain, "taking the initial bundle");
        *validator = None;
        let next = Held::initial(held.as_deref(), brought, unix_now());
        self.change(domain, |state| state.confirmed_at = 0);
        self.believe(domain, held.as_deref(), next);
        Ok(())
    }

    fn believe(&self, domain: &TrustDomain, before: Option<&Held>, next: Held) {
        if before.is_none_or(|before| before.revision != next.revision) {
            let roots = next.document.roots().map_or(0, |bundle| bundle.roots().count());
            let sequence = next.document.sequence();
            tracing::info!(target: "signet::federation", %domain, roots, sequence, "a federated trust domain's keys changed");
            if roots == 0 {
                tracing::warn!(target: "signet::federation", %domain, "its bundle holds no root: nobody of it is believed");
            }
        }
        self.change(domain, |state| state.held = Some(Arc::new(next)));
    }

    fn held(&self, domain: &TrustDomain) -> Option<Arc<Held>> {
        self.states.borrow().get(domain).and_then(|state| state.held.clone())
    }

    async fn keep(self: &Arc<Self>, domain: &TrustDomain) {
        let (federation, domain) = (Arc::clone(self), domain.clone());
        // A few kilobytes, but a disk's.
        let kept = tokio::task::spawn_blocking(move || {
            let states = federation.states();
            if let Some(state) = states.get(&domain) {
                federation.cache().keep(state);
            }
        });
        // It logs its own failures; a panic there must not end the fetcher.
        let _ = kept.await;
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, domain: &TrustDomain, edit: impl FnOnce(&mut DomainState)) {
        self.states.send_if_modified(|states| {
            // Absent: it was removed while the fetch was under way.
            let Some(before) = states.get(domain) else { return false };
            let mut after = before.clone();
            edit(&mut after);
            let mut next = (**states).clone();
            next.insert(domain.clone(), after);
            *states = Arc::new(next);
            true
        });
    }
}
