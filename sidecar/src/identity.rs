//! How this process becomes somebody, and stays it.
//!
//! [`Identity::join`] proves by the one-time token who we are and returns with the first certificate in
//! force; [`Identity::keep`] renews it for ever. Every certificate has a key of its own, made here. Nothing
//! is published before our own verifier accepted it, and a failure never costs the certificate that is
//! still valid. An answer that was lost is asked for again with the same request; a refusal of the token is
//! final, because it was used, is foreign or has expired, and trying again cannot mend that.
//!
//! A pod needs no bundle: [`Identity::arrive`] shows its service account's token, and so does each renewal, with the token
//! as it is then. What is refused today may be right tomorrow (a Workload that is yet to be written), so
//! nothing is final there. Who it is it learns with its first certificate, and stays that.

mod attested;

use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use signet_identity::{
    GenerationError, OwnSvid, OwnSvidError, SpiffeId, bootstrap_client_config, server_name,
};
use signet_proto::v1;
use signet_proto::v1::bootstrap_client::BootstrapClient;
use signet_proto::v1::identity_client::IdentityClient;
use tokio::sync::{MutexGuard, Notify};
use tonic::{Code, Status};

use crate::backoff::{Backoff, chance, renew_in};
use crate::candidate::{Candidate, KeyError};
use crate::clock::{self, rfc3339};
use crate::control::convert;
use crate::control::link::{Link, LinkError, Target};
use crate::control::plane::{ControlPlane, PlaneError};
use crate::credentials::{Credentials, CredentialsError, Delivered};
use crate::join::JoinBundle;
use crate::metrics::Metrics;
use crate::pod::{Pod, PodError};

/// One call, from first byte to answer: the authority signs in milliseconds.
const CALL: Duration = Duration::from_secs(10);
/// A certificate with its chain and bundle; anything larger is not one.
pub(crate) const MAX_ANSWER: usize = 256 * 1024;
/// Long waits are slept in pieces, so that a clock that was set, or a suspended machine, is noticed.
pub(crate) const NAP: Duration = Duration::from_secs(30);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The token is not accepted, and never will be.
    #[error(
        "the control plane at {address} refuses the join token for {id}: {reason}; \
         make a new join bundle (`signet join`): a token is used once and expires"
    )]
    Refused {
        /// Who was asked.
        address: String,
        /// Who we wanted to be.
        id: SpiffeId,
        /// Its words.
        reason: String,
    },
    /// The renewal is not accepted.
    #[error("the control plane refuses the renewal ({code:?}): {reason}")]
    RenewalRefused {
        /// The status code.
        code: Code,
        /// Its words.
        reason: String,
    },
    /// Not now; perhaps later.
    #[error("the control plane cannot answer now ({code:?}): {reason}")]
    Unavailable {
        /// The status code.
        code: Code,
        /// Its words.
        reason: String,
    },
    /// No connection.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// No connection under our certificate.
    #[error(transparent)]
    Plane(#[from] PlaneError),
    /// It answered with something that is not our certificate.
    #[error("the control plane's answer cannot be used: {0}")]
    Answer(String),
    /// It answered with a chain that does not belong to our key, or is no SVID.
    #[error("the issued certificate cannot be used: {0}")]
    Svid(#[from] OwnSvidError),
    /// Our own verifier does not accept it.
    #[error("the issued certificate cannot be put into force: {0}")]
    Credentials(#[from] CredentialsError),
    /// The token of our service account is not accepted, for now.
    #[error(
        "the control plane at {address} does not accept this pod ({code:?}): {reason}; why is in its issuance log \
         (`signet ca log`)"
    )]
    NotAttested {
        /// Who was asked.
        address: String,
        /// The status code.
        code: Code,
        /// Its words.
        reason: String,
    },
    /// A file that the kubelet keeps cannot be used.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// The system has no randomness.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The bootstrap configuration cannot be built.
    #[error("TLS for joining cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl IdentityError {
    /// Whether trying again is pointless.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Key(_) | Self::Tls(_))
    }

    /// Whether the authority may have signed although we have no answer: then the same request is right.
    fn may_be_issued(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Link(_) | Self::Plane(_))
    }
}

/// See the module's story.
pub struct Identity {
    /// Who we are to be; for a pod who it is since its first certificate.
    id: OnceLock<SpiffeId>,
    /// What we are, if we are a pod.
    pod: Option<Pod>,
    plane: Arc<ControlPlane>,
    credentials: Arc<Credentials>,
    metrics: Arc<Metrics>,
    /// Renew now, whatever the plan says.
    at_once: Notify,
    /// Held by whoever renews; the candidate in it is one whose fate is unknown.
    renewing: tokio::sync::Mutex<Option<Candidate>>,
    /// Of the certificate in force.
    term: std::sync::Mutex<Option<Term>>,
}

/// While it is held nothing is renewed.
#[derive(Debug)]
pub struct Hold<'a>(
    #[allow(dead_code, reason = "its life is its meaning")] MutexGuard<'a, Option<Candidate>>,
);

/// A certificate in force, and when the next one is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Seconds since the epoch, each of them.
    pub issued_at: i64,
    /// The certificate's end.
    pub not_after: i64,
    /// When the authority wants it renewed; 0 leaves that open.
    pub renew_at: i64,
}

impl Identity {
    /// Somebody who is to be `id`.
    pub fn new(
        id: SpiffeId,
        plane: Arc<ControlPlane>,
        credentials: Arc<Credentials>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Self::make(OnceLock::from(id), None, plane, credentials, metrics)
    }

    /// A pod, which is who the cluster says.
    pub fn of_pod(
        pod: Pod,
        plane: Arc<ControlPlane>,
        credentials: Arc<Credentials>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Self::make(OnceLock::new(), Some(pod), plane, credentials, metrics)
    }

    fn make(
        id: OnceLock<SpiffeId>,
        pod: Option<Pod>,
        plane: Arc<ControlPlane>,
        credentials: Arc<Credentials>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            pod,
            plane,
            credentials,
            metrics,
            at_once: Notify::new(),
            renewing: tokio::sync::Mutex::default(),
            term: std::sync::Mutex::default(),
        })
    }

    /// Nothing is renewed while the answer is held. None where a renewal may have been granted without our knowing.
    pub async fn hold(&self) -> Option<Hold<'_>> {
        let renewing = self.renewing.lock().await;
        renewing.is_none().then(|| Hold(renewing))
    }

    /// When the certificate in force was issued, and is to be renewed.
    pub fn term(&self) -> Option<Term> {
        *self.term.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on with the certificate of a predecessor.
    pub fn inherit(&self, own: OwnSvid, bundle: Delivered, term: Term) -> Result<Term, IdentityError> {
        let not_after = own.svid().not_after;
        if not_after <= clock::now() {
            return Err(IdentityError::Answer(format!("the certificate ended at {}", rfc3339(not_after))));
        }
        let term = Term { not_after, ..term };
        self.force(own, Some(bundle), term, "svid taken over")
    }

    /// The first certificate, with the bundle's token. Tries until it has one, or until the token is refused.
    pub async fn join(&self, bundle: &JoinBundle) -> Result<Term, IdentityError> {
        let candidate = Candidate::new()?;
        self.until_joined(|| self.attest(bundle, &candidate)).await
    }

    /// The first certificate of a pod. Tries until it has one.
    pub async fn arrive(&self) -> Result<Term, IdentityError> {
        self.until_joined(|| self.attest_pod("svid issued")).await
    }

    async fn until_joined<F>(&self, attempt: impl Fn() -> F) -> Result<Term, IdentityError>
    where
        F: Future<Output = Result<Term, IdentityError>>,
    {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        loop {
            let error = match attempt().await {
                Ok(term) => return Ok(term),
                Err(error) if error.is_final() => return Err(error),
                Err(error) => error,
            };
            let wait = backoff.next(chance());
            tracing::warn!(target: "signet::identity", %error, attempt = backoff.failures(),
                retry_in_ms = wait.as_millis() as u64, "cannot join the mesh yet");
            tokio::time::sleep(wait).await;
        }
    }

    /// Renews for ever, first when `term` says so.
    pub async fn keep(&self, mut term: Term) {
        loop {
            self.wait(renewal(term)).await;
            let mut backoff = Backoff::new(Duration::from_secs(1), longest_backoff(term));
            term = loop {
                // The candidate whose fate is unknown is kept for the next attempt.
                let outcome = self.renew(&mut *self.renewing.lock().await).await;
                let error = match outcome {
                    Ok(term) => break term,
                    Err(error) => error,
                };
                let wait = backoff.next(chance());
                self.metrics.renewal(false);
                let left = term.not_after.saturating_sub(clock::now());
                if left > 0 {
                    tracing::warn!(target: "signet::identity", %error, attempt = backoff.failures(),
                        valid_for_s = left, retry_in_ms = wait.as_millis() as u64,
                        "svid not renewed; the valid one is kept");
                } else {
                    tracing::error!(target: "signet::identity", %error, attempt = backoff.failures(),
                        expired_for_s = left.saturating_neg(), retry_in_ms = wait.as_millis() as u64,
                        "svid expired and not renewed; {}", self.remedy());
                }
                tokio::time::sleep(wait).await;
            };
        }
    }

    /// What helps when renewals fail until the certificate has ended.
    fn remedy(&self) -> &'static str {
        match self.pod {
            None => "put a new join bundle in place and restart",
            Some(_) => "this pod is attested again as soon as the control plane accepts it",
        }
    }

    /// The next renewal is due now: what we have no longer fits the roots.
    pub fn renew_at_once(&self) {
        self.at_once.notify_one();
    }

    async fn wait(&self, plan: impl Fn() -> Duration) {
        loop {
            let left = plan();
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(left.min(NAP)) => {}
                () = self.at_once.notified() => return,
            }
        }
    }

    async fn attest(&self, bundle: &JoinBundle, candidate: &Candidate) -> Result<Term, IdentityError> {
        let control_plane = self.plane.id();
        let tls =
            bootstrap_client_config(bundle.trust_domain.clone(), bundle.root_sha256, control_plane.clone())?;
        let target = Target {
            address: bundle.bootstrap_address.clone(),
            server_name: server_name(control_plane),
            tls,
            // The pinned-root verifier has checked everything, and this connection never resumes.
            check: Arc::new(|_| Ok(())),
            told: self.credentials.told(),
        };
        let link = Link::dial(&target).await?;
        let origin = link.origin();
        let mut client = BootstrapClient::with_origin(link, origin).max_decoding_message_size(MAX_ANSWER);
        let request = v1::AttestRequest {
            csr_der: candidate.csr_der().to_vec(),
            evidence: Some(v1::attest_request::Evidence::JoinToken(bundle.token.as_str().to_owned())),
        };
        let issued = call(client.attest(request)).await.map_err(|status| match status.code() {
            // FAILED_PRECONDITION and the like do not become true by waiting either.
            Code::Unauthenticated
            | Code::InvalidArgument
            | Code::PermissionDenied
            | Code::FailedPrecondition => IdentityError::Refused {
                address: bundle.bootstrap_address.clone(),
                id: bundle.spiffe_id.clone(),
                reason: said(&status),
            },
            code => IdentityError::Unavailable { code, reason: said(&status) },
        })?;
        self.take(issued, candidate, "svid issued")
    }

    /// One renewal. `kept` holds a candidate that may have been certified without our knowing.
    async fn renew(&self, kept: &mut Option<Candidate>) -> Result<Term, IdentityError> {
        if self.pod.is_some() {
            let term = self.attest_pod("svid renewed").await?;
            self.metrics.renewal(true);
            return Ok(term);
        }
        let candidate = match kept.take() {
            Some(candidate) => candidate,
            None => Candidate::new()?,
        };
        let outcome = self.renew_with(&candidate).await;
        if outcome.as_ref().is_err_and(IdentityError::may_be_issued) {
            *kept = Some(candidate);
        }
        outcome
    }

    async fn renew_with(&self, candidate: &Candidate) -> Result<Term, IdentityError> {
        let (_, link) = self.plane.link().await?;
        let origin = link.origin();
        let mut client = IdentityClient::with_origin(link, origin).max_decoding_message_size(MAX_ANSWER);
        let request = v1::RenewRequest { csr_der: candidate.csr_der().to_vec(), kubernetes: None };
        let issued = call(client.renew(request)).await.map_err(|status| match status.code() {
            code @ (Code::Unauthenticated
            | Code::InvalidArgument
            | Code::PermissionDenied
            | Code::FailedPrecondition) => IdentityError::RenewalRefused { code, reason: said(&status) },
            code => IdentityError::Unavailable { code, reason: said(&status) },
        })?;
        let term = self.take(issued, candidate, "svid renewed")?;
        self.metrics.renewal(true);
        Ok(term)
    }

    /// Puts what was issued into force, or says why not.
    fn take(
        &self,
        issued: v1::IssuedSvid,
        candidate: &Candidate,
        event: &'static str,
    ) -> Result<Term, IdentityError> {
        let chain: Vec<_> = issued.chain_der.into_iter().map(CertificateDer::from).collect();
        let own = OwnSvid::new(chain, candidate.key())?;
        let svid = own.svid();
        if let Some(id) = self.id.get()
            && svid.id != *id
        {
            return Err(IdentityError::Answer(format!(
                "expected a certificate of {id}, got one of {}{}",
                svid.id,
                if self.pod.is_some() { "; restart the pod to become that" } else { "" }
            )));
        }
        let now = clock::now();
        if svid.not_after <= now {
            return Err(IdentityError::Answer(format!(
                "the certificate ended at {}, it is now {} here; check both clocks",
                rfc3339(svid.not_after),
                rfc3339(now)
            )));
        }
        let bundle = match &issued.bundle {
            Some(bundle) => Some(convert::bundle(bundle).map_err(IdentityError::Answer)?),
            None => None,
        };
        // The certificate's own dates, not what was said about them.
        let term = Term { issued_at: now, not_after: svid.not_after, renew_at: issued.renew_at };
        self.force(own, bundle, term, event)
    }

    fn force(
        &self,
        own: OwnSvid,
        bundle: Option<Delivered>,
        term: Term,
        event: &'static str,
    ) -> Result<Term, IdentityError> {
        let svid = own.svid();
        let (id, serial, not_after) = (svid.id.clone(), svid.serial, rfc3339(svid.not_after));
        let generation = self.credentials.issued(own, bundle)?;
        *self.term.lock().unwrap_or_else(PoisonError::into_inner) = Some(term);
        let id = self.id.get_or_init(|| id);
        self.metrics.identity(generation.own().svid());
        tracing::info!(target: "signet::identity", %id, %serial, %not_after,
            generation = generation.number(), "{event}");
        Ok(term)
    }
}

/// Says how long it still is to the renewal of `term`, whenever asked.
fn renewal(term: Term) -> impl Fn() -> Duration {
    let chance = chance();
    move || renew_in(term.issued_at, term.not_after, term.renew_at, clock::now(), chance)
}

/// A twentieth of life, so that many attempts fit into what is left, between 2 s and 5 min.
fn longest_backoff(term: Term) -> Duration {
    longest_of_life(term.not_after.saturating_sub(term.issued_at))
}

/// The same, of a life in seconds.
pub(crate) fn longest_of_life(life: i64) -> Duration {
    let life = u64::try_from(life).unwrap_or_default();
    Duration::from_secs((life / 20).clamp(2, 300))
}

pub(crate) async fn call<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(CALL, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", CALL.as_secs()))),
    }
}

/// The server's words, bounded and on one line.
pub(crate) fn said(status: &Status) -> String {
    let words: String = status.message().chars().filter(|c| !c.is_control()).take(300).collect();
    if words.is_empty() { status.code().description().to_owned() } else { words }
}

/// Whether a change of roots leaves us without a fitting certificate.
pub fn needs_renewal(error: &CredentialsError) -> bool {
    matches!(error, CredentialsError::Generation(GenerationError::OwnSvid(_)))
}
