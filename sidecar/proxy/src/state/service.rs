//! A service as its callers see it: ports, the identities that may answer, endpoints.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use signet_identity::{Alpn, Generation, SpiffeId, routed_server_name};
use signet_model::{ObjectName, OutlierPolicy, Protocol, TrafficPolicySpec, UserContext};

use super::outlier::{Record, bad_among, monotonic};
use super::traffic::Traffic;

/// The ALPN of a port's connections in the mesh. The receiver's declaration decides, never the client's
/// choice; where it leaves that open, `None`.
pub fn alpn_of(protocol: Protocol) -> Option<Alpn> {
    match protocol {
        Protocol::Http1 => Some(Alpn::Http1),
        Protocol::Http2 | Protocol::Grpc => Some(Alpn::H2),
        Protocol::Tcp => Some(Alpn::Tcp),
        Protocol::Auto => None,
    }
}

/// A service as the control plane tells of it.
#[derive(Clone, Debug, Default)]
pub struct ServiceSpec {
    /// `name.namespace`
    pub name: String,
    /// Its ports.
    pub ports: Vec<PortSpec>,
    /// Any of these may answer; nobody else.
    pub identities: Vec<SpiffeId>,
    /// Virtual addresses by which it is dialled transparently.
    pub addresses: Vec<IpAddr>,
    /// Where it runs.
    pub endpoints: Vec<EndpointSpec>,
    /// Which user context it takes.
    pub user_context: UserContext,
    /// It wants a hop proof with each token.
    pub hop_proof: bool,
    /// How it is called.
    pub traffic: Vec<TrafficPolicySpec>,
    /// Who else is at its addresses, if that is known.
    pub sharing: Option<Sharing>,
}

/// Other services at the addresses of one, `name.namespace`.
pub type Sharing = HashMap<IpAddr, Vec<Arc<str>>>;

/// A port as the control plane tells of it.
#[derive(Clone, Debug)]
pub struct PortSpec {
    /// Its name in the service.
    pub name: String,
    /// The port that callers dial.
    pub port: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// Its limits.
    pub timeouts: Timeouts,
    /// Where the protocol is left open: bytes without requests are refused there.
    pub requests_only: bool,
}

/// How long a port's exchanges and streams may last. `None` is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timeouts {
    /// From the request's head to the response's head.
    pub request: Option<Duration>,
    /// Without a byte either way; also how long an idle connection is kept.
    pub idle: Option<Duration>,
    /// A stream of bytes ends with the SVIDs under which it began, whoever still vouches for the peer.
    pub cut_on_expiry: bool,
}

/// An endpoint as the control plane tells of it.
#[derive(Clone, Debug)]
pub struct EndpointSpec {
    /// The host where its sidecar takes mutual TLS, or another cluster's gateway.
    pub address: IpAddr,
    /// Service port name to that sidecar's or gateway's port.
    pub ports: BTreeMap<String, u16>,
    /// The one identity that answers there. `None` means the service's, if it has exactly one: with
    /// several nobody could be expected, and such an endpoint is not dialled.
    pub identity: Option<SpiffeId>,
    /// Where the address is a gateway's: the service by its name behind it.
    pub behind: Option<ObjectName>,
}

/// The identities that may answer for a service.
pub type Identities = Arc<[SpiffeId]>;

/// A service, ready for use.
#[derive(Debug)]
pub struct Service {
    /// `name.namespace`
    pub name: Arc<str>,
    /// Its ports.
    pub ports: Vec<Arc<ServicePort>>,
    /// Who may answer.
    pub identities: Identities,
    /// Virtual addresses.
    pub addresses: Vec<IpAddr>,
    /// What an app means that dials an endpoint's own address and the port that callers dial: the service's port with
    /// that endpoint and no other.
    pub direct: Vec<(SocketAddr, Arc<ServicePort>)>,
    /// The same by the port that is dialled there, where that is another one.
    pub targets: Vec<(SocketAddr, Arc<ServicePort>)>,
    /// Which user context it takes.
    pub user_context: UserContext,
    /// It wants a hop proof with each token.
    pub hop_proof: bool,
    /// Who else is at its addresses, if that is known.
    pub sharing: Option<Sharing>,
}

/// A port of a service with the endpoints that serve it.
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// `name.namespace` of its service.
    pub service: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The port that callers dial.
    pub port: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// Its limits.
    pub timeouts: Timeouts,
    /// Where it is served, by whom.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Endpoints that cannot be dialled, because nobody knows who answers there.
    pub unidentified: usize,
    /// How it is called.
    pub traffic: Arc<Traffic>,
    /// Where the protocol is left open: bytes without requests are refused there.
    pub requests_only: bool,
    /// Where the protocol is left open: who spoke first so far.
    pub manner: Arc<Manner>,
}

/// Who speaks first on a port whose protocol nobody declared, as far as was seen. A hint about how to wait, never about
/// what is let through.
#[derive(Debug, Default)]
pub struct Manner(AtomicU8);

impl Manner {
    /// Callers do, with a request.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 1
    }

    /// The server does, or the caller with something that is no request.
    pub fn is_bytes(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 2
    }

    pub(crate) fn asked(&self) {
        self.0.store(1, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) {
        self.0.store(2, Ordering::Relaxed);
    }
}

/// One place where a port is served. Lives as long as its address and identity stay in the set: its
/// counters survive every other change of the service.
#[derive(Debug)]
pub struct Endpoint {
    /// Never used again in this process: what pools key on.
    pub id: u64,
    /// Where its sidecar takes mutual TLS, or a gateway that leads there.
    pub address: SocketAddr,
    /// Who must answer.
    pub identity: SpiffeId,
    /// The same as a TLS server name, in which the verifier reads it; and the gateway where to lead.
    pub server_name: ServerName<'static>,
    /// Where the address is a gateway's: the service by its name behind it.
    pub behind: Option<ObjectName>,
    /// The same name with the port that is meant, where a receiver could not tell otherwise.
    named: Option<ServerName<'static>>,
    /// Whether it is said which port is meant: others are served at this address.
    is_shared: AtomicBool,
    /// The client config for each protocol, with a session store of this endpoint's own, and its generation.
    configs: [ArcSwapOption<(u64, Arc<ClientConfig>)>; 3],
    /// Requests and streams under way from this process.
    in_flight: AtomicUsize,
    /// Times in a row that nobody was reached there: neither its sidecar, nor its app through it.
    failures: AtomicU32,
    /// Until then these weigh.
    shunned_until: AtomicU64,
    /// What is held against it.
    record: Record,
}

/// Nanoseconds for which an endpoint weighs more after nobody was reached there: twice as long each time in a row, up to
/// what a restart may take.
const SHUNNED: u64 = 250_000_000;
const SHUNNED_MOST: u64 = 10_000_000_000;

/// Ids of endpoints, of this process.
static NEXT_ENDPOINT: AtomicU64 = AtomicU64::new(1);

impl Endpoint {
    /// None where no server name can say all this.
    fn new(
        address: SocketAddr,
        identity: SpiffeId,
        behind: Option<ObjectName>,
        service: &str,
        port: &str,
    ) -> Option<Self> {
        let named = service.parse::<ObjectName>().ok().and_then(|service| {
            routed_server_name(&identity, port, service.name.as_str(), service.namespace.as_str())
        });
        let server_name = match &behind {
            None => signet_identity::server_name(&identity),
            Some(service) => {
                routed_server_name(&identity, port, service.name.as_str(), service.namespace.as_str())?
            }
        };
        Some(Endpoint {
            id: NEXT_ENDPOINT.fetch_add(1, Ordering::Relaxed),
            address,
            server_name,
            behind,
            named,
            is_shared: AtomicBool::new(false),
            identity,
            configs: Default::default(),
            in_flight: AtomicUsize::new(0),
            failures: AtomicU32::new(0),
            shunned_until: AtomicU64::new(0),
            record: Record::default(),
        })
    }

    /// Whether it is still what this says.
    fn is(&self, address: SocketAddr, identity: &SpiffeId, behind: Option<&ObjectName>) -> bool {
        self.address == address && self.identity == *identity && self.behind.as_ref() == behind
    }

    /// What a hello to it is for. Who dials for `own` may have to say which port is meant; of another trust domain's
    /// services we do not know what they are called there.
    pub(crate) fn hello_name(&self, own: &SpiffeId) -> ServerName<'static> {
        let named = self.named.as_ref().filter(|_| {
            self.behind.is_none()
                && self.is_shared.load(Ordering::Relaxed)
                && self.identity.trust_domain() == own.trust_domain()
        });
        named.unwrap_or(&self.server_name).clone()
    }

    /// Requests and streams under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// What balancing compares: what is under way, and for a while a penalty where nobody was reached. Who is back is
    /// found by the next call after that, which costs it a further connect at the most.
    pub(crate) fn load(&self) -> usize {
        match self.failures.load(Ordering::Relaxed) {
            0 => self.in_flight(),
            failures => self.load_at(failures, monotonic()),
        }
    }

    fn load_at(&self, failures: u32, now: u64) -> usize {
        let weight = if now < self.shunned_until.load(Ordering::Relaxed) { failures.min(16) } else { 0 };
        self.in_flight().saturating_add(usize::try_from(weight).unwrap_or(0).saturating_mul(64))
    }

    /// The TLS config to dial with. Sessions are this endpoint's: replicas of one service share an
    /// identity but not their ticket keys.
    pub fn client_config(&self, generation: &Generation, alpn: Alpn) -> Arc<ClientConfig> {
        let [h2, http1, tcp] = &self.configs;
        let kept = match alpn {
            Alpn::H2 => h2,
            Alpn::Http1 => http1,
            Alpn::Tcp => tcp,
        };
        if let Some(known) = kept.load().as_ref().filter(|known| known.0 == generation.number()) {
            return known.1.clone();
        }
        let config = generation.client_config_for_endpoint(alpn);
        kept.store(Some(Arc::new((generation.number(), config.clone()))));
        config
    }

    /// Forgets the sessions with this endpoint, after a resumed connection failed its check.
    pub(crate) fn forget_sessions(&self) {
        self.configs.iter().for_each(|kept| kept.store(None));
    }

    /// Notes that a connect failed or did not.
    pub(crate) fn connected(&self, worked: bool) {
        if worked {
            self.reached();
        } else {
            self.unreached(monotonic());
        }
    }

    /// Somebody answered for its app.
    pub(crate) fn reached(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Nobody did.
    fn unreached(&self, now: u64) {
        let before = self.failures.fetch_add(1, Ordering::Relaxed);
        let shunned = SHUNNED.saturating_mul(1 << before.min(16)).min(SHUNNED_MOST);
        self.shunned_until.store(now.saturating_add(shunned), Ordering::Relaxed);
    }

    /// Whether it is left out now, since it failed too often.
    pub fn is_out(&self, now: u64) -> bool {
        self.record.is_out(now)
    }

    /// How long it is left out still, if it is.
    pub fn left_out(&self) -> Option<Duration> {
        self.record.left(monotonic())
    }

    /// A try of a request of this port succeeded here, or failed. True: it is left out from now on.
    pub(crate) fn judged(&self, good: bool, policy: &OutlierPolicy, port: &ServicePort, now: u64) -> bool {
        if good {
            self.record.good(now);
            return false;
        }
        bad_among(&self.record, || port.endpoints.iter().map(|endpoint| &endpoint.record), policy, now)
    }

    /// Counts one request until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }
}

/// One request or stream under way at an endpoint.
#[derive(Debug)]
pub struct InFlight(Arc<Endpoint>);

impl InFlight {
    /// Where.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The port at each address of an endpoint, with the endpoints that are there: usually one. A loopback address is
/// nobody's but the caller's own.
fn at_each_address(
    port: &ServicePort,
    places: &[(IpAddr, Option<Arc<Endpoint>>)],
) -> Vec<(SocketAddr, Arc<ServicePort>)> {
    let mut found: BTreeMap<IpAddr, ServicePort> = BTreeMap::new();
    for (ip, endpoint) in places.iter().filter(|(ip, _)| !ip.is_loopback()) {
        let none = || ServicePort { endpoints: Vec::new(), unidentified: 0, ..port.clone() };
        let here = found.entry(ip.to_canonical()).or_insert_with(none);
        match endpoint {
            Some(endpoint) => here.endpoints.push(endpoint.clone()),
            None => here.unidentified += 1,
        }
    }
    found.into_iter().map(|(ip, here)| (SocketAddr::new(ip, port.port), Arc::new(here))).collect()
}

/// The same by the port at which each is served, where callers dial another one.
fn at_each_target(
    port: &ServicePort,
    direct: &[(SocketAddr, Arc<ServicePort>)],
) -> Vec<(SocketAddr, Arc<ServicePort>)> {
    let each =
        direct.iter().flat_map(|(_, here)| here.endpoints.iter().map(move |endpoint| (endpoint, here)));
    let others = each.filter(|(endpoint, _)| endpoint.address.port() != port.port);
    others
        .map(|(endpoint, here)| {
            let address = endpoint.address;
            (SocketAddr::new(address.ip().to_canonical(), address.port()), here.clone())
        })
        .collect()
}

/// Whether other services are at this address, as far as is known.
fn is_shared(sharing: Option<&Sharing>, address: IpAddr) -> bool {
    let others = sharing.and_then(|sharing| sharing.get(&address.to_canonical()));
    others.is_some_and(|others| !others.is_empty())
}

impl Service {
    /// Builds the service; endpoints that `before` has under the same address and identity are kept.
    pub(crate) fn build(spec: ServiceSpec, before: Option<&Service>) -> Service {
        let name: Arc<str> = spec.name.into();
        let only = match &*spec.identities {
            [one] => Some(one),
            _ => None,
        };
        let mut ports = Vec::with_capacity(spec.ports.len());
        let (mut direct, mut targets) = (Vec::new(), Vec::new());
        for port in spec.ports {
            let known = before.and_then(|service| service.port(&port.name));
            let mut endpoints = Vec::new();
            // Where each is, or would be if anybody knew who answers there. Nobody who dials a gateway means one.
            let mut places: Vec<(IpAddr, Option<Arc<Endpoint>>)> = Vec::new();
            let mut unidentified = 0;
            for endpoint in &spec.endpoints {
                let Some(number) = endpoint.ports.get(&port.name) else { continue };
                // An identity that the service does not list does not answer for it (decision 3).
                let listed = endpoint.identity.as_ref().is_none_or(|id| spec.identities.contains(id));
                let Some(identity) = endpoint.identity.as_ref().or(only).filter(|_| listed) else {
                    unidentified += 1;
                    if endpoint.behind.is_none() {
                        places.push((endpoint.address, None));
                    }
                    continue;
                };
                let address = SocketAddr::new(endpoint.address, *number);
                let behind = &endpoint.behind;
                let kept = known.and_then(|port| {
                    port.endpoints.iter().find(|kept| kept.is(address, identity, behind.as_ref())).cloned()
                });
                let made = kept.or_else(|| {
                    Endpoint::new(address, identity.clone(), behind.clone(), &name, &port.name).map(Arc::new)
                });
                let Some(made) = made else {
                    unidentified += 1;
                    continue;
                };
                made.is_shared.store(is_shared(spec.sharing.as_ref(), endpoint.address), Ordering::Relaxed);
                if behind.is_none() {
                    places.push((endpoint.address, Some(made.clone())));
                }
                endpoints.push(made);
            }
            let traffic = Traffic::of_port(&spec.traffic, &port.name, known.map(|known| &known.traffic));
            let port = ServicePort {
                service: name.clone(),
                name: port.name.into(),
                port: port.port,
                protocol: port.protocol,
                timeouts: port.timeouts,
                endpoints,
                unidentified,
                traffic,
                requests_only: port.requests_only,
                manner: known.map(|known| known.manner.clone()).unwrap_or_default(),
            };
            let here = at_each_address(&port, &places);
            targets.extend(at_each_target(&port, &here));
            direct.extend(here);
            ports.push(Arc::new(port));
        }
        Service {
            name,
            ports,
            identities: spec.identities.into(),
            addresses: spec.addresses,
            direct,
            targets,
            user_context: spec.user_context,
            hop_proof: spec.hop_proof,
            sharing: spec.sharing,
        }
    }

    /// A port by name.
    pub fn port(&self, name: &str) -> Option<&Arc<ServicePort>> {
        self.ports.iter().find(|port| &*port.name == name)
    }

    /// A port by the number that callers dial.
    pub fn port_number(&self, number: u16) -> Option<&Arc<ServicePort>> {
        self.ports.iter().find(|port| port.port == number)
    }
}
