//! Places outside the mesh that may be called, and how.
//!
//! The control plane tells of every place that we may call, so that a name in a request, or in an app's own TLS, is
//! found here without asking. What is not here is not called, unless the mesh's settings let it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls_pki_types::ServerName;
use signet_identity::{Peer, TrustDomain};
use signet_model::{ExternalPort, ExternalProtocol, ExternalService, HostPattern, Network, WorkloadId};

use super::service::{Service, ServicePort, ServiceSpec, Timeouts};

/// Origins kept of one port; a pattern takes any number of names.
const ORIGINS: usize = 256;

/// A place as the control plane tells of it.
#[derive(Clone, Debug)]
pub struct PlaceSpec {
    /// The resource.
    pub service: Arc<ExternalService>,
    /// Where it goes through an egress gateway: the gateway, with a port for each of the place's.
    pub gateway: Option<ServiceSpec>,
    /// For TLS that we begin ourselves: a config for each port that asks for it, by its name.
    pub tls: HashMap<String, Arc<ClientConfig>>,
}

impl PlaceSpec {
    /// Reads what TLS needs of it; the reason where that cannot be used.
    pub fn new(service: ExternalService, gateway: Option<ServiceSpec>) -> Result<Self, String> {
        let mut tls = HashMap::new();
        for port in &service.spec.ports {
            if let Some(config) =
                client_config(port).map_err(|error| format!("port {}: {error}", port.name))?
            {
                tls.insert(port.name.to_string(), config);
            }
        }
        Ok(PlaceSpec { service: Arc::new(service), gateway, tls })
    }
}

/// The config of TLS that we begin on this port.
fn client_config(port: &ExternalPort) -> Result<Option<Arc<ClientConfig>>, String> {
    let Some(tls) = &port.tls else { return Ok(None) };
    let mut roots = rustls::RootCertStore::empty();
    match &tls.ca_certificates {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|error| format!("tls.caCertificates: {error}"))?;
                roots.add(certificate).map_err(|error| format!("tls.caCertificates: {error}"))?;
            }
        }
    }
    if roots.is_empty() {
        return Err("tls.caCertificates: expected at least one certificate".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = match port.protocol {
        ExternalProtocol::Http1 => vec![b"http/1.1".to_vec()],
        ExternalProtocol::Http2 | ExternalProtocol::Grpc => vec![b"h2".to_vec()],
        ExternalProtocol::Tcp | ExternalProtocol::Tls => Vec::new(),
    };
    Ok(Some(Arc::new(config)))
}

/// A port of a place outside, ready for use.
#[derive(Debug)]
pub struct PlacePort {
    /// `name.namespace` of the ExternalService.
    pub place: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The port that apps dial.
    pub port: u16,
    /// What apps speak.
    pub protocol: ExternalProtocol,
    /// Its limits.
    pub timeouts: Timeouts,
    /// The egress gateway that calls it; its endpoints are of the mesh.
    pub through: Option<Arc<ServicePort>>,
    service: Arc<ExternalService>,
    target: u16,
    tls: Option<Arc<ClientConfig>>,
    server_name: Option<Arc<str>>,
    origins: Mutex<HashMap<Arc<str>, Arc<Origin>>>,
}

/// Where one name of a place is called: what pools key on.
#[derive(Debug)]
pub struct Origin {
    /// Never used again in this process.
    pub id: u64,
    /// The name, or an address as text.
    pub host: Arc<str>,
    /// The port there.
    pub port: u16,
    /// `name.namespace` of the ExternalService, for messages.
    pub place: Arc<str>,
    /// Where the name is, if that is written and not looked up.
    pub addresses: Vec<IpAddr>,
    /// Ranges beside the public internet into which it may lead.
    pub networks: Vec<Network>,
    /// TLS that we begin, and the name that the certificate must have.
    pub tls: Option<(ServerName<'static>, Arc<ClientConfig>)>,
}

/// Ids of origins, of this process.
static NEXT_ORIGIN: AtomicU64 = AtomicU64::new(1);

impl PlacePort {
    /// How exactly one of the place's names is this one, if any is: higher is more exact.
    pub fn rank(&self, host: &str) -> Option<(u8, usize)> {
        self.service.spec.hosts.iter().filter(|pattern| pattern.matches(host)).map(HostPattern::rank).max()
    }

    /// Whether we begin TLS there.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The port there.
    pub fn target(&self) -> u16 {
        self.target
    }

    /// The one place that is meant where a caller says no name.
    pub fn sole_place(&self) -> Option<String> {
        self.service.spec.sole_place()
    }

    /// Whether an app may dial this address without saying a name.
    pub fn takes_address(&self, address: IpAddr) -> bool {
        self.service.spec.takes_address(address)
    }

    /// The names of a port of bytes: they can be known by what they resolve to.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.service.spec.hosts.iter().filter_map(|host| match host {
            HostPattern::Exact(name) => Some(&**name),
            _ => None,
        })
    }

    /// Whether a peer of ours may have this place called for it.
    pub fn lets(&self, peer: &Peer, own: &TrustDomain) -> bool {
        let id = peer.id();
        id.is_in(own) && id.short().parse::<WorkloadId>().is_ok_and(|caller| self.service.lets(&caller))
    }

    /// Where a name of it is called; it is asked for only after [`PlacePort::rank`] or as [`PlacePort::sole_place`].
    pub fn origin(&self, host: &str) -> Option<Arc<Origin>> {
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = origins.get(host) {
            return Some(known.clone());
        }
        let tls = match &self.tls {
            None => None,
            Some(config) => {
                let name = self.server_name.as_deref().unwrap_or(host).to_owned();
                Some((ServerName::try_from(name).ok()?, config.clone()))
            }
        };
        let spec = &self.service.spec;
        let origin = Arc::new(Origin {
            id: NEXT_ORIGIN.fetch_add(1, Ordering::Relaxed),
            host: host.into(),
            port: self.target,
            place: self.place.clone(),
            addresses: match host.parse::<IpAddr>() {
                Ok(address) => vec![address],
                Err(_) => spec.addresses.iter().map(|address| address.get()).collect(),
            },
            networks: spec.networks.clone(),
            tls,
        });
        if origins.len() >= ORIGINS {
            let any = origins.keys().next().cloned();
            any.and_then(|any| origins.remove(&any));
        }
        origins.insert(origin.host.clone(), origin.clone());
        Some(origin)
    }
}

/// One place.
#[derive(Debug)]
struct Place {
    ports: Vec<Arc<PlacePort>>,
    gateway: Option<Service>,
    service: Arc<ExternalService>,
}

impl Place {
    fn build(name: &Arc<str>, spec: PlaceSpec, before: Option<&Place>) -> Place {
        let gateway =
            spec.gateway.map(|gateway| Service::build(gateway, before.and_then(|it| it.gateway.as_ref())));
        // Pooled connections outlive what does not concern them.
        let same = before.filter(|before| before.service == spec.service);
        let ports = spec.service.spec.ports.iter().map(|port| {
            let through = gateway.as_ref().and_then(|gateway| gateway.port(port.name.as_str()).cloned());
            let known =
                same.and_then(|place| place.ports.iter().find(|known| *known.name == *port.name.as_str()));
            let origins =
                known.map(|known| known.origins.lock().unwrap_or_else(PoisonError::into_inner).clone());
            let server_name = port.tls.as_ref().and_then(|tls| tls.server_name.as_ref());
            Arc::new(PlacePort {
                place: name.clone(),
                name: port.name.as_str().into(),
                port: port.port.get(),
                protocol: port.protocol,
                timeouts: Timeouts {
                    request: port.request_timeout.map(|period| period.get()),
                    idle: port.idle_timeout.map(|period| period.get()),
                    cut_on_expiry: false,
                },
                through,
                service: spec.service.clone(),
                target: port.target_port.unwrap_or(port.port).get(),
                tls: spec.tls.get(port.name.as_str()).cloned(),
                server_name: server_name.map(|name| name.to_string().into()),
                origins: Mutex::new(origins.unwrap_or_default()),
            })
        });
        let ports = ports.collect();
        Place { ports, gateway, service: spec.service }
    }
}

/// All places.
#[derive(Clone, Debug, Default)]
pub struct Places {
    by_name: HashMap<Arc<str>, Arc<Place>>,
    by_port: HashMap<u16, Vec<Arc<PlacePort>>>,
}

impl Places {
    /// With these places put in, replaced, or taken out.
    #[must_use]
    pub fn with<'a>(&self, places: impl IntoIterator<Item = (&'a str, Option<PlaceSpec>)>) -> Places {
        let mut by_name = self.by_name.clone();
        for (name, spec) in places {
            let Some(spec) = spec else {
                by_name.remove(name);
                continue;
            };
            let name: Arc<str> = name.into();
            let place = Place::build(&name, spec, by_name.get(&name).map(|place| &**place));
            by_name.insert(name, Arc::new(place));
        }
        let mut by_port: HashMap<u16, Vec<Arc<PlacePort>>> = HashMap::new();
        for port in by_name.values().flat_map(|place| &place.ports) {
            by_port.entry(port.port).or_default().push(port.clone());
        }
        // Of two that are as exact, the same one always.
        by_port.values_mut().for_each(|ports| ports.sort_by(|a, b| a.place.cmp(&b.place)));
        Places { by_name, by_port }
    }

    /// Whether there is one of this name, `name.namespace`.
    pub fn contains(&self, place: &str) -> bool {
        self.by_name.contains_key(place)
    }

    /// A port of a place by both names.
    pub fn port(&self, place: &str, port: &str) -> Option<&Arc<PlacePort>> {
        self.by_name.get(place)?.ports.iter().find(|known| &*known.name == port)
    }

    /// Every port of every place.
    pub fn ports(&self) -> impl Iterator<Item = &Arc<PlacePort>> {
        self.by_name.values().flat_map(|place| &place.ports)
    }

    /// Whatever may be meant by a port's number.
    pub fn at(&self, number: u16) -> &[Arc<PlacePort>] {
        self.by_port.get(&number).map_or(&[], Vec::as_slice)
    }

    /// Of the ports with this number that speak so, the one that has this name most exactly.
    pub fn find(
        &self,
        number: u16,
        host: &str,
        speaks: impl Fn(ExternalProtocol) -> bool,
    ) -> Option<&Arc<PlacePort>> {
        let ranked = self.at(number).iter().filter(|port| speaks(port.protocol));
        let ranked = ranked.filter_map(|port| Some((port.rank(host)?, port)));
        // The first of those that are as exact.
        ranked.rev().max_by_key(|(rank, _)| *rank).map(|(_, port)| port)
    }

    /// Addresses where an egress gateway takes mutual TLS: of the mesh, and never dialled in plaintext.
    pub fn gateways(&self) -> impl Iterator<Item = std::net::SocketAddr> {
        let ports = self.by_name.values().filter_map(|place| place.gateway.as_ref()).flat_map(|it| &it.ports);
        ports.flat_map(|port| &port.endpoints).map(|endpoint| endpoint.address)
    }
}
