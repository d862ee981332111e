//! What this process serves.

use std::any::Any;
use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::HashMap;
use signet_model::{Protocol, TrafficPolicySpec, UserContext};
use signet_wire::protected::Protected;

use super::service::Timeouts;
use super::streams::Doors;
use super::user_headers::UserHeaders;
use crate::limit::Limits;

/// Where an app listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AppAddress {
    /// A Unix socket.
    Unix(PathBuf),
    /// An address of this host.
    Tcp(SocketAddr),
}

impl fmt::Display for AppAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AppAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            AppAddress::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// An app that this sidecar stands before.
#[derive(Debug)]
pub struct App {
    /// Never used again in this process: what pools key on.
    pub id: u64,
    /// Where it listens.
    pub address: AppAddress,
}

static NEXT_APP: AtomicU64 = AtomicU64::new(1);

impl App {
    /// An app at this address.
    pub fn new(address: AppAddress) -> Arc<Self> {
        Arc::new(App { id: NEXT_APP.fetch_add(1, Ordering::Relaxed), address })
    }
}

/// A port of ours, as the control plane declares it.
#[derive(Clone, Debug)]
pub struct InboundPort {
    /// `name.namespace`
    pub service: Arc<str>,
    /// Its name in the service.
    pub name: Arc<str>,
    /// The port that callers dial.
    pub port: u16,
    /// What it speaks: decides the TLS config, the engine and the form of refusals.
    pub protocol: Protocol,
    /// Its limits.
    pub timeouts: Timeouts,
    /// Which user context the service takes.
    pub user_context: UserContext,
    /// A token comes with a hop proof, or is refused.
    pub hop_proof: bool,
    /// How the app reads of users.
    pub user_headers: Arc<UserHeaders>,
    /// Until this second of the epoch callers without the mesh may be let in; see [`Snapshot::lets_in_plaintext`].
    ///
    /// [`Snapshot::lets_in_plaintext`]: super::Snapshot::lets_in_plaintext
    pub permissive_until: Option<u64>,
}

/// The routes snapshot.
#[derive(Clone, Default)]
pub struct Routes {
    /// Grows with each change.
    pub generation: u64,
    inbound: HashMap<Arc<str>, Vec<Arc<InboundPort>>>,
    /// How many requests a service takes in how long.
    limits: HashMap<Arc<str>, Arc<Limits>>,
    /// Services to which a gateway passes on the hellos of other clusters.
    passed_on: Arc<HashSet<String>>,
    /// What a gateway's ports take from callers outside.
    doors: Arc<Doors>,
    /// The gateway's compiled configuration. Its type belongs to the gateway, which alone reads it.
    pub gateway: Option<Arc<dyn Any + Send + Sync>>,
}

impl Routes {
    /// The next snapshot, with these as the ports of one served service; none removes it.
    #[must_use]
    pub fn with_inbound(&self, service: &str, ports: Vec<InboundPort>) -> Self {
        let mut next = Routes { generation: self.generation + 1, ..self.clone() };
        if ports.is_empty() {
            next.inbound.remove(service);
        } else {
            next.inbound.insert(service.into(), ports.into_iter().map(Arc::new).collect());
        }
        next
    }

    /// Header names that only the mesh may set, for all apps of this process.
    pub(super) fn protected(&self) -> Protected {
        let ports = self.inbound.values().flatten();
        Protected::with_names(ports.flat_map(|port| port.user_headers.names()))
    }

    /// The next snapshot, with the limits of these policies for one served service. Counts go on where nothing changed.
    #[must_use]
    pub fn with_limits(&self, service: &str, policies: &[TrafficPolicySpec]) -> Self {
        let mut next = Routes { generation: self.generation + 1, ..self.clone() };
        if self.limits(service).is_none_or(|limits| !limits.is_of(policies)) {
            match Limits::new(policies) {
                Some(limits) => next.limits.insert(service.into(), Arc::new(limits)),
                None => next.limits.remove(service),
            };
        }
        next
    }

    /// How many requests a served service takes in how long, if that is limited.
    pub fn limits(&self, service: &str) -> Option<&Arc<Limits>> {
        self.limits.get(service)
    }

    /// The next snapshot, with this gateway configuration.
    #[must_use]
    pub fn with_gateway(&self, gateway: Option<Arc<dyn Any + Send + Sync>>) -> Self {
        Routes { generation: self.generation + 1, gateway, ..self.clone() }
    }

    /// The next snapshot, with these as the services to which hellos of other clusters are passed on.
    #[must_use]
    pub fn with_passed_on(&self, services: impl IntoIterator<Item = String>) -> Self {
        let passed_on = Arc::new(services.into_iter().collect());
        Routes { generation: self.generation + 1, passed_on, ..self.clone() }
    }

    /// The next snapshot, in which a gateway's ports take this from callers outside.
    #[must_use]
    pub fn with_doors(&self, doors: Doors) -> Self {
        Routes { generation: self.generation + 1, doors: Arc::new(doors), ..self.clone() }
    }

    /// What a gateway's ports take from callers outside.
    pub fn doors(&self) -> &Doors {
        &self.doors
    }

    /// Whether hellos of other clusters are passed on to this service.
    pub fn is_passed_on(&self, service: &str) -> bool {
        self.passed_on.contains(service)
    }

    /// The services that we serve.
    pub fn served(&self) -> impl Iterator<Item = &str> {
        self.inbound.keys().map(|name| &**name)
    }

    /// The ports of a service that we serve.
    pub fn inbound_of(&self, service: &str) -> &[Arc<InboundPort>] {
        self.inbound.get(service).map_or(&[], Vec::as_slice)
    }

    /// The declaration of one of our ports.
    pub fn inbound(&self, service: &str, port: &str) -> Option<&Arc<InboundPort>> {
        self.inbound_of(service).iter().find(|inbound| &*inbound.name == port)
    }

    /// The declaration of the port that callers dial as this number, whichever service has it. None where two have: by
    /// which policy a caller is judged is not left to chance.
    pub fn inbound_number(&self, number: u16) -> Option<&Arc<InboundPort>> {
        let mut found = self.inbound.values().flatten().filter(|inbound| inbound.port == number);
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routes")
            .field("generation", &self.generation)
            .field("inbound", &self.inbound)
            .field("passed_on", &self.passed_on)
            .field("doors", &self.doors)
            .field("gateway", &self.gateway.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_two_services_have_is_neithers() {
        let port = |service: &str, number: u16| InboundPort {
            hop_proof: false,
            service: service.into(),
            name: "main".into(),
            port: number,
            protocol: Protocol::Tcp,
            timeouts: Timeouts::default(),
            user_context: UserContext::Transaction,
            user_headers: Arc::default(),
            permissive_until: None,
        };
        let routes = Routes::default()
            .with_inbound("a.shop", vec![port("a.shop", 80)])
            .with_inbound("b.shop", vec![port("b.shop", 81)]);
        assert_eq!(&*routes.inbound_number(80).unwrap().service, "a.shop");
        assert_eq!(&*routes.inbound_number(81).unwrap().service, "b.shop");
        let both = routes.with_inbound("b.shop", vec![port("b.shop", 81), port("b.shop", 80)]);
        assert!(both.inbound_number(80).is_none() && both.inbound_number(81).is_some());
    }
}
