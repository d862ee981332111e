//! How this process is doing, for probes and people: written by the tasks that know, read by the admin
//! socket and the metrics listener. Holds no secret.
//!
//! *Ready* means: our certificate is valid, the first delta is applied, the policy of everything that we
//! serve is here, and, at the edge, the gateway's configuration and its delegation too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::Serialize;
use signet_audit::Heads;
use signet_identity::IncidentsReport;
use signet_proxy::Shared;
use tokio::sync::watch;

use crate::clock::{self, rfc3339};
use crate::control::delivery::Deliveries;
use crate::credentials::Credentials;

/// Refusals remembered; services asked for at random must not fill our memory.
const MAX_REFUSED: usize = 256;

/// See the module's story.
pub struct Status {
    id: String,
    credentials: Arc<Credentials>,
    /// Resources without which this process is not ready.
    needed: BTreeSet<String>,
    needs_minter: bool,
    known: Mutex<Known>,
    heads: Mutex<Heads>,
    /// What is missing from the control plane's side; `None` is nothing.
    waiting: watch::Sender<Option<String>>,
    /// What the data plane reads; there once we are somebody.
    data_plane: OnceLock<Arc<Shared>>,
}

#[derive(Default)]
struct Known {
    connected: bool,
    generation: u64,
    last_error: Option<String>,
    applied_at: Option<i64>,
    versions: BTreeMap<String, String>,
    rejected: BTreeMap<String, String>,
    refused: BTreeMap<String, String>,
    minter: bool,
}

/// What the admin socket shows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Who we are.
    pub identity: IdentityReport,
    /// What we know from the control plane.
    pub control: ControlReport,
    /// What the data plane goes by.
    pub data_plane: Option<DataPlaneReport>,
}

/// The certificate in force.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityReport {
    id: String,
    valid: bool,
    generation: Option<u64>,
    class: Option<String>,
    serial: Option<String>,
    not_before: Option<String>,
    not_after: Option<String>,
    issuer: Option<String>,
    trusted: Vec<String>,
    revocations: Option<u64>,
}

/// The delivery stream and what came by it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ControlReport {
    connected: bool,
    last_error: Option<String>,
    applied_at: Option<String>,
    resources: BTreeMap<String, String>,
    rejected: BTreeMap<String, String>,
    refused: BTreeMap<String, String>,
}

impl Status {
    /// Nothing known yet. `served` and `gateway` are names (`name.namespace`) of what must arrive.
    pub fn new(
        id: String,
        credentials: Arc<Credentials>,
        served: &BTreeSet<String>,
        gateway: Option<&str>,
    ) -> Arc<Self> {
        let mut needed: BTreeSet<String> =
            served.iter().map(|service| format!("inbound/{service}")).collect();
        needed.extend(gateway.map(|name| format!("gateway/{name}")));
        let status = Self {
            id,
            credentials,
            needed,
            needs_minter: gateway.is_some(),
            known: Mutex::default(),
            heads: Mutex::default(),
            waiting: watch::Sender::new(None),
            data_plane: OnceLock::new(),
        };
        status.judge(&status.known());
        Arc::new(status)
    }

    /// From now on the report says what the data plane reads. Called once.
    pub fn attach(&self, data_plane: Arc<Shared>) {
        let _ = self.data_plane.set(data_plane);
    }

    /// Our SPIFFE ID: that of the certificate, or before there is one what the join bundle says.
    pub fn id(&self) -> String {
        let tls = self.credentials.current();
        tls.map_or_else(|| self.id.clone(), |tls| tls.generation.own().svid().id.to_string())
    }

    /// What is held of the issuance log.
    pub fn log_heads(&self, heads: Heads) {
        *self.heads.lock().unwrap_or_else(PoisonError::into_inner) = heads;
    }

    /// The same, to be shown.
    pub fn held_log_heads(&self) -> Heads {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A stream is open.
    pub fn connected(&self, generation: u64) {
        let mut known = self.known();
        known.connected = true;
        known.generation = generation;
        known.last_error = None;
    }

    /// The stream is gone.
    pub fn disconnected(&self, why: &str) {
        let mut known = self.known();
        known.connected = false;
        known.last_error = Some(why.to_owned());
    }

    /// A delta was applied.
    pub fn applied(&self, deliveries: &Deliveries) {
        let mut known = self.known();
        known.applied_at = Some(clock::now());
        known.versions =
            deliveries.versions().into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        known.rejected = deliveries.rejected().clone();
        let Known { refused, versions, .. } = &mut *known;
        refused.retain(|service, _| {
            !versions.contains_key(&format!("service/{service}"))
                && !versions.contains_key(&format!("inbound/{service}"))
        });
        self.judge(&known);
    }

    /// The control plane refuses a service.
    pub fn refused(&self, service: String, reason: String) {
        let mut known = self.known();
        if known.refused.len() < MAX_REFUSED {
            known.refused.insert(service, reason);
        }
        self.judge(&known);
    }

    /// Nothing is minted here, so that nobody waits for it.
    pub fn needs_no_minter(&self) {
        self.minting();
    }

    /// The gateway can mint.
    pub fn minting(&self) {
        let mut known = self.known();
        known.minter = true;
        self.judge(&known);
    }

    /// Ready, or what is missing.
    pub fn ready(&self) -> Result<(), String> {
        if !self.credentials.is_valid(clock::now()) {
            return Err("waiting for a valid certificate".to_owned());
        }
        match &*self.waiting.borrow() {
            None => Ok(()),
            Some(missing) => Err(missing.clone()),
        }
    }

    /// Returns once a first delta was applied.
    pub async fn first_delta(&self) {
        let mut waiting = self.waiting.subscribe();
        // The sender is ours: it cannot be gone.
        let _ = waiting.wait_for(|_| self.known().applied_at.is_some()).await;
    }

    /// Returns once everything that must arrive has arrived.
    pub async fn complete(&self) {
        let _ = self.waiting.subscribe().wait_for(Option::is_none).await;
    }

    /// Handshakes that failed: of the data plane, and with the control plane.
    pub fn handshakes(&self) -> IncidentsReport {
        let control = self.credentials.refusals.incidents().report();
        match self.data_plane.get() {
            Some(shared) => shared.incidents.report().and(control),
            None => control,
        }
    }

    /// Everything, for the admin socket.
    pub fn report(&self) -> Report {
        let tls = self.credentials.current();
        let svid = tls.as_ref().map(|tls| tls.generation.own().svid());
        let known = self.known();
        Report {
            identity: IdentityReport {
                id: self.id(),
                valid: self.credentials.is_valid(clock::now()),
                generation: tls.as_ref().map(|tls| tls.generation.number()),
                class: svid.map(|svid| svid.class.to_string()),
                serial: svid.map(|svid| svid.serial.to_string()),
                not_before: svid.map(|svid| rfc3339(svid.not_before)),
                not_after: svid.map(|svid| rfc3339(svid.not_after)),
                issuer: svid.map(|svid| svid.issuer.clone()),
                trusted: tls
                    .iter()
                    .flat_map(|tls| tls.generation.bundles().iter())
                    .map(|bundle| bundle.trust_domain().to_string())
                    .collect(),
                revocations: tls.as_ref().map(|tls| tls.revoked.sequence),
            },
            control: ControlReport {
                connected: known.connected,
                last_error: known.last_error.clone(),
                applied_at: known.applied_at.map(rfc3339),
                resources: known.versions.clone(),
                rejected: known.rejected.clone(),
                refused: known.refused.clone(),
            },
            data_plane: self.data_plane.get().map(|shared| DataPlaneReport::of(shared, self.served())),
        }
    }

    /// Services that we serve.
    fn served(&self) -> impl Iterator<Item = &str> {
        self.needed.iter().filter_map(|name| name.strip_prefix("inbound/"))
    }

    fn judge(&self, known: &Known) {
        let missing = self.missing(known);
        // Always told, so that whoever waits for a first delta looks again.
        self.waiting.send_replace(missing);
    }

    fn missing(&self, known: &Known) -> Option<String> {
        if known.applied_at.is_none() {
            return Some("waiting for the first delivery from the control plane".to_owned());
        }
        let absent: Vec<String> = self
            .needed
            .iter()
            .filter(|name| !known.versions.contains_key(*name))
            // What is dialled may be a place outside.
            .filter(|name| {
                let place = name.strip_prefix("service/").map(|name| format!("external/{name}"));
                place.is_none_or(|place| !known.versions.contains_key(&place))
            })
            .map(|name| {
                let service = name.split_once('/').map_or(name.as_str(), |(_, service)| service);
                match known.refused.get(service).or_else(|| known.rejected.get(name)) {
                    Some(reason) => format!("{name} ({reason})"),
                    None => name.clone(),
                }
            })
            .collect();
        if !absent.is_empty() {
            return Some(format!("waiting for {}", absent.join(", ")));
        }
        if self.needs_minter && !known.minter {
            return Some("waiting for the delegation to mint transaction tokens".to_owned());
        }
        None
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

mod data_plane;

pub use data_plane::DataPlaneReport;

#[cfg(test)]
mod tests;
