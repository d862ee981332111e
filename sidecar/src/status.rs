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
use signet_proxy::state::{InboundPort, Snapshot};
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

/// The snapshots that requests see: their numbers, whom we call and whom we serve.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DataPlaneReport {
    endpoints_generation: u64,
    routes_generation: u64,
    policy_generation: u64,
    keys_generation: u64,
    default_allow: bool,
    egress_allow: bool,
    issuers: BTreeMap<String, bool>,
    minting: bool,
    services: BTreeMap<String, Vec<PeerReport>>,
    places: BTreeMap<String, Vec<PlaceReport>>,
    served: BTreeMap<String, ServedReport>,
}

/// One port of a place outside the mesh that we may call.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlaceReport {
    port: String,
    number: u16,
    protocol: &'static str,
    /// The endpoints of the egress gateway that it goes through.
    through: Option<Vec<String>>,
}

/// One endpoint of a service that we call.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerReport {
    port: String,
    address: String,
    identity: String,
    /// Where the address is another cluster's gateway: the service by its name behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    behind_gateway: Option<String>,
    in_flight: usize,
}

/// A service that we serve.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServedReport {
    /// Policies that cannot be understood, with the reason: everything is denied for their sake.
    not_understood: BTreeMap<String, String>,
    /// Its ports that are declared permissive.
    permissive: BTreeMap<String, PermissiveReport>,
}

/// A port that lets callers in without the mesh, or would.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PermissiveReport {
    until: String,
    /// Why it does not, or not any more.
    strict: Option<String>,
    /// Connections without the mesh that were let in, by address.
    sources: BTreeMap<std::net::IpAddr, u64>,
    /// Those from further addresses.
    other_sources: u64,
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
            data_plane: self.data_plane(),
        }
    }

    fn data_plane(&self) -> Option<DataPlaneReport> {
        let shared = self.data_plane.get()?;
        let view = shared.state.view();
        let mut services: BTreeMap<String, Vec<PeerReport>> = BTreeMap::new();
        for service in view.endpoints.services() {
            let peers = services.entry(service.name.to_string()).or_default();
            for port in &service.ports {
                peers.extend(port.endpoints.iter().map(|endpoint| PeerReport {
                    port: port.name.to_string(),
                    address: endpoint.address.to_string(),
                    identity: endpoint.identity.to_string(),
                    behind_gateway: endpoint.behind.as_ref().map(ToString::to_string),
                    in_flight: endpoint.in_flight(),
                }));
            }
        }
        let mut places: BTreeMap<String, Vec<PlaceReport>> = BTreeMap::new();
        for port in view.endpoints.places().ports() {
            let gateway = |gateway: &std::sync::Arc<signet_proxy::state::ServicePort>| {
                gateway.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
            };
            places.entry(port.place.to_string()).or_default().push(PlaceReport {
                port: port.name.to_string(),
                number: port.port,
                protocol: port.protocol.as_str(),
                through: port.through.as_ref().map(gateway),
            });
        }
        let served = self.needed.iter().filter_map(|name| {
            let service = name.strip_prefix("inbound/")?;
            let served = view.policy.of(service)?;
            let not_understood = served.policies.not_understood().iter();
            let not_understood = not_understood.map(|one| (one.policy.clone(), one.reason.clone())).collect();
            let ports = view.routes.inbound_of(service).iter().filter(|port| port.permissive_until.is_some());
            let permissive =
                ports.map(|port| (port.name.to_string(), permissive(shared, &view, port))).collect();
            Some((service.to_owned(), ServedReport { not_understood, permissive }))
        });
        Some(DataPlaneReport {
            endpoints_generation: view.endpoints.generation,
            routes_generation: view.routes.generation,
            policy_generation: view.policy.generation,
            keys_generation: view.keys.generation,
            default_allow: view.policy.mesh.default_allow,
            egress_allow: view.policy.mesh.egress_allow,
            issuers: view.keys.issuers.iter().map(|one| (one.alias().to_owned(), one.has_keys())).collect(),
            minting: view.keys.minter.is_some(),
            services,
            places,
            served: served.collect(),
        })
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

fn permissive(shared: &Shared, view: &Snapshot, port: &InboundPort) -> PermissiveReport {
    let seen = shared.plaintext.seen(&port.service, &port.name);
    let now = u64::try_from(clock::now()).unwrap_or_default();
    PermissiveReport {
        until: rfc3339(port.permissive_until.and_then(|until| i64::try_from(until).ok()).unwrap_or_default()),
        strict: view.lets_in_plaintext(port, now).err().map(|why| why.to_string()),
        sources: seen.connections,
        other_sources: seen.others,
    }
}

#[cfg(test)]
mod tests;
