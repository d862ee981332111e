//! One cluster whose service accounts are believed: from a token to the pod that holds it.
//!
//! The API server is asked (or, in the fast mode, what it told before), at most once at a time about one token, with a
//! bound on how many questions are open. Three things can come of it: a pod, a refusal with its reason, or
//! nothing, because the server is away. The last is never a refusal and never a certificate.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use signet_ca::{Clock, Instance, Refusal};
use signet_model::WorkloadId;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::api::{Api, ApiError};
use super::circuit::Circuit;
use super::config::{self, Mode};
use super::fast::{Fast, Judged};
use super::keys::KeyRing;
use super::metrics::Metrics;
use super::pods::{List, Pod};
use super::review::{self, Account, Unusable};
use super::token::{self, MAX_TOKEN};
use super::watch::Pods;

/// Questions open at once. A healthy server answers in milliseconds, so that this is thousands a second.
const MAX_OPEN: usize = 32;
/// How long a question waits for its turn.
const TURN: Duration = Duration::from_secs(2);
/// One question, connecting included. A client waits for 10 s.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The token comes back in the answer.
const MAX_REVIEW: usize = 64 * 1024 + 2 * MAX_TOKEN;
/// One object: etcd takes 1.5 MiB.
const MAX_POD: usize = 2 * 1024 * 1024;
/// Pods of one node: the kubelet takes a few hundred at most.
const MAX_PODS_OF_NODE: usize = 32 * 1024 * 1024;

/// Who holds a token, as the cluster vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    pub account: WorkloadId,
    pub instance: Instance,
    /// Empty where nobody asked for them.
    pub labels: BTreeMap<String, String>,
}

/// Why a token proves nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It is no good; about whom, where that is known.
    Refused(Refusal, Option<WorkloadId>),
    /// Nobody can say now.
    Unavailable,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal, None)
    }
}

/// See the module's story.
pub struct Kubernetes {
    config: config::Kubernetes,
    api: Arc<Api>,
    fast: Option<Fast>,
    clock: Arc<dyn Clock>,
    circuit: Mutex<Circuit>,
    in_flight: Mutex<HashSet<[u8; 32]>>,
    open: Semaphore,
    timeout: Duration,
    metrics: Metrics,
}

/// A token that is being looked at.
struct InFlight<'a> {
    tokens: &'a Mutex<HashSet<[u8; 32]>>,
    hash: [u8; 32],
}

impl<'a> InFlight<'a> {
    fn begin(tokens: &'a Mutex<HashSet<[u8; 32]>>, token: &str) -> Result<Self, Failure> {
        let hash = signet_token::sha256(token.as_bytes());
        let new = tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(hash);
        if new { Ok(Self { tokens, hash }) } else { Err(Refusal::EvidenceInFlight.into()) }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.hash);
    }
}

impl Kubernetes {
    #[must_use]
    pub fn new(config: config::Kubernetes, clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        let api = Arc::new(Api::new(&config.place()));
        let fast = (config.mode == Mode::Fast).then(|| Fast {
            keys: KeyRing::new(Arc::clone(&api)),
            pods: Pods::new(Arc::clone(&api), metrics.clone()),
        });
        Self {
            config,
            api,
            fast,
            clock,
            circuit: Mutex::default(),
            in_flight: Mutex::default(),
            open: Semaphore::new(MAX_OPEN),
            timeout: TIMEOUT,
            metrics,
        }
    }

    /// The same with another patience for each question.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Whether a pod without a Workload may join as its service account.
    #[must_use]
    pub fn allows_unregistered(&self) -> bool {
        self.config.allow_unregistered
    }

    /// The audience of tokens for our own clients.
    #[must_use]
    pub fn audience(&self) -> &str {
        &self.config.audience
    }

    /// What the fast mode needs to be current; nothing in the other one.
    pub fn follow(&self, tasks: &mut JoinSet<()>) {
        if let Some(fast) = &self.fast {
            tasks.spawn(Arc::clone(&fast.keys).follow());
            tasks.spawn(Arc::clone(&fast.pods).follow());
        }
    }

    /// Who holds this token. `needs_labels` says whether who a pod of that account is may depend on its
    /// labels; they are looked up only then.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn attest(
        &self,
        token: &str,
        audience: &str,
        caller: IpAddr,
        needs_labels: impl Fn(&WorkloadId) -> bool,
    ) -> Result<Proven, Failure> {
        if token.len() > MAX_TOKEN {
            return Err(Refusal::EvidenceTooLarge.into());
        }
        let claims = unverified(token)?;
        let _in_flight = InFlight::begin(&self.in_flight, token)?;
        let now = self.clock.unix_seconds();
        let judged = self.fast.as_ref().map_or(Judged::Unknown, |fast| fast.judge(token, audience, now));
        let (account, known) = match judged {
            Judged::Proven(account, pod) => {
                self.count("fast", "authenticated");
                (account, Some(pod))
            }
            Judged::Refused(refusal) => {
                self.count("fast", "refused");
                return Err(refusal.into());
            }
            Judged::Unknown => (self.review(token, audience, &claims).await?, None),
        };
        let about = |refusal| Failure::Refused(refusal, Some(account.account.clone()));
        let mut labels = BTreeMap::new();
        let needs_labels = needs_labels(&account.account);
        if needs_labels || self.config.check_address {
            let pod = match known {
                Some(pod) => pod,
                None => Arc::new(self.pod(&account).await?),
            };
            pod.is_that_of(&account).map_err(about)?;
            if self.config.check_address {
                pod.is_at(caller).map_err(about)?;
            }
            if needs_labels {
                labels.clone_from(&pod.labels);
            }
        }
        let instance = Instance {
            cluster: self.config.cluster.clone(),
            namespace: account.account.namespace.to_string(),
            pod: account.pod,
            pod_uid: account.pod_uid,
            node: account.node,
        };
        Ok(Proven { account: account.account, instance, labels })
    }

    /// Whether some pod of this account is on that node, and has not ended.
    ///
    /// # Errors
    /// [`Failure::Unavailable`].
    pub async fn runs_on(&self, account: &WorkloadId, node: &str) -> Result<bool, Failure> {
        if !review::is_object_text(node) {
            return Ok(false);
        }
        let path = format!(
            "/api/v1/namespaces/{}/pods?fieldSelector=spec.nodeName%3D{node}&resourceVersion=0",
            account.namespace
        );
        let body = self
            .ask(self.api.get(&path, "application/json", MAX_PODS_OF_NODE, self.timeout))
            .await
            .map_err(drop);
        let Ok(body) = body else { return Err(Failure::Unavailable) };
        let list: List = serde_json::from_slice(&body).map_err(|_| {
            self.unreadable("it is not a list of pods");
            Failure::Unavailable
        })?;
        let is_there = |pod: Pod| pod.account == account.account.as_str() && pod.node == node && !pod.ended;
        Ok(list.items.into_iter().map(Pod::from).any(is_there))
    }

    async fn review(&self, token: &str, audience: &str, claims: &token::Claims) -> Result<Account, Failure> {
        let began = Instant::now();
        let question = review::question(token, audience);
        let answer = self.ask(self.api.post(review::PATH, question, MAX_REVIEW, self.timeout)).await;
        self.metrics.seconds.observe(began.elapsed().as_secs_f64());
        let judged = match answer {
            Ok(body) => review::judge(&body, token, audience).and_then(|account| {
                review::agrees(&account, claims, self.clock.unix_seconds())?;
                Ok(account)
            }),
            // The server does not even take the question: it is the token that is wrong with it.
            Err(Some(ApiError::Status { code: 400 | 413 | 422, .. })) => Err(Refusal::EvidenceRefused.into()),
            Err(_) => {
                self.count("server", "unavailable");
                return Err(Failure::Unavailable);
            }
        };
        match judged {
            Ok(account) => {
                self.count("server", "authenticated");
                Ok(account)
            }
            Err(Unusable::Refused(refusal)) => {
                self.count("server", "refused");
                Err(refusal.into())
            }
            Err(Unusable::Unreadable(what)) => {
                self.unreadable(what);
                self.count("server", "unavailable");
                Err(Failure::Unavailable)
            }
        }
    }

    async fn pod(&self, account: &Account) -> Result<Pod, Failure> {
        let path = format!("/api/v1/namespaces/{}/pods/{}", account.account.namespace, account.pod);
        match self.ask(self.api.get(&path, "application/json", MAX_POD, self.timeout)).await {
            Ok(body) => Pod::parse(&body).ok_or_else(|| {
                self.unreadable("it is not a pod");
                Failure::Unavailable
            }),
            Err(Some(ApiError::Status { code: 404, .. })) => {
                Err(Failure::Refused(Refusal::EvidencePod, Some(account.account.clone())))
            }
            Err(_) => Err(Failure::Unavailable),
        }
    }

    /// One question, if the server is asked at all. `None`: it was not.
    async fn ask(
        &self,
        question: impl Future<Output = Result<Bytes, ApiError>>,
    ) -> Result<Bytes, Option<ApiError>> {
        let Ok(Ok(_turn)) = tokio::time::timeout(TURN, self.open.acquire()).await else {
            self.metrics.failures.with_label_values(&["turn"]).inc();
            return Err(None);
        };
        if !self.circuit().admits(Instant::now()) {
            self.metrics.failures.with_label_values(&["circuit"]).inc();
            return Err(None);
        }
        let answer = question.await;
        match &answer {
            Ok(_) => self.circuit().succeeded(),
            // It answers; what it says is about this question only.
            Err(error) if matches!(error.code(), Some(400 | 404 | 413 | 422)) => self.circuit().succeeded(),
            Err(error) => {
                self.metrics.failures.with_label_values(&[error.label()]).inc();
                self.circuit().failed(Instant::now(), error.retry_after());
                tracing::warn!(target: "signet::attest", reason = error.label(), %error, "the API server does not answer a question");
            }
        }
        self.metrics.up.set(i64::from(!self.circuit().is_open()));
        answer.map_err(Some)
    }

    fn circuit(&self) -> std::sync::MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unreadable(&self, what: &'static str) {
        self.metrics.failures.with_label_values(&["unreadable"]).inc();
        self.circuit().failed(Instant::now(), None);
        tracing::warn!(target: "signet::attest", what, "the API server's answer cannot be used");
    }

    fn count(&self, by: &str, result: &str) {
        self.metrics.judged.with_label_values(&[by, result]).inc();
    }
}

/// What the token says of itself, whatever its signature.
fn unverified(token: &str) -> Result<token::Claims, Refusal> {
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::EvidenceMalformed);
    };
    let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| Refusal::EvidenceMalformed)?;
    token::claims(&payload)
}
