//! Our app asks us knowingly, as its HTTP proxy: what it sends says in full where it goes.
//!
//! A request in absolute form goes to the place outside that its host is listed for, or to the service of the mesh that it
//! names; CONNECT asks for a stream of bytes to the like. Nothing else is to be had: what an ExternalService does not list
//! for us is refused also where the mesh lets an app leave unlisted, since here it is we who would resolve the name. A
//! service's name is `<service>.<namespace>.signet.internal`, which no place outside can have.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderName;
use signet_model::ExternalProtocol;
use signet_wire::RequestView;
use signet_wire::canon::Host;

use super::{ConnContext, Direction, Egress, Forward, Outbound, Outward, Role, Stage, Target};
use crate::answer::{Audience, Reason, Refusal};
use crate::metrics::RouteMetrics;
use crate::shared::Shared;
use crate::state::{Protocol, Routing, Service, ServicePort, Snapshot, Timeouts, alpn_of};

/// What is said to a proxy and to nobody behind it (RFC 9110, 11.7.2; the other was never a standard).
const FOR_THE_PROXY: [HeaderName; 2] =
    [http::header::PROXY_AUTHORIZATION, HeaderName::from_static("proxy-connection")];

/// The stage of our app's own requests to a proxy.
pub struct Explicit {
    shared: Arc<Shared>,
    outbound: Outbound,
    egress: Egress,
}

/// Where a CONNECT leads.
pub(crate) struct Opening {
    pub(crate) target: Target,
    pub(crate) timeouts: Timeouts,
    pub(crate) metrics: Arc<RouteMetrics>,
    /// The app speaks TLS of its own there, for this name and no other.
    pub(crate) hello: Option<Arc<str>>,
    pub(crate) permission: Permission,
}

/// What lets a stream be there: a place's port with this name or address. None where it leads to a service of the mesh,
/// which judges by itself.
#[derive(Clone)]
pub(crate) struct Permission(Option<(Arc<str>, Arc<str>, Arc<str>)>);

impl Permission {
    /// Whether it still stands.
    pub(crate) fn stands(&self, view: &Snapshot) -> bool {
        self.0.as_ref().is_none_or(|(place, port, host)| {
            view.endpoints.places().port(place, port).is_some_and(|port| {
                is_of_bytes(port.protocol)
                    && match host.parse::<IpAddr>() {
                        Ok(ip) => port.takes_address(ip),
                        Err(_) => port.rank(host).is_some(),
                    }
            })
        })
    }
}

fn is_of_bytes(protocol: ExternalProtocol) -> bool {
    matches!(protocol, ExternalProtocol::Tls | ExternalProtocol::Tcp)
}

/// The service of the mesh that a host names, as `name.namespace`.
fn service_of(host: &str) -> Option<Arc<str>> {
    let named = host.strip_suffix(".signet.internal")?;
    (named.split('.').count() == 2).then(|| named.into())
}

impl Explicit {
    /// The stage over this state.
    pub fn new(shared: Arc<Shared>) -> Self {
        Explicit { outbound: Outbound::new(shared.clone()), egress: Egress::new(shared.clone()), shared }
    }

    /// Where a stream goes that is asked for by this authority.
    pub(crate) async fn opening(&self, view: &mut Arc<Snapshot>, asked: &Host) -> Result<Opening, Refusal> {
        let number = asked.port().ok_or(Reason::BadRequest("connect_port"))?;
        match service_of(asked.name()) {
            Some(service) => self.to_service(view, &service, number).await,
            None => self.to_place(view, asked.name(), number),
        }
    }

    fn to_place(&self, view: &Snapshot, name: &str, number: u16) -> Result<Opening, Refusal> {
        let host = name.trim_start_matches('[').trim_end_matches(']');
        let places = view.endpoints.places();
        let found = match host.parse::<IpAddr>() {
            Ok(ip) => places
                .at(number)
                .iter()
                .find(|port| port.protocol == ExternalProtocol::Tcp && port.takes_address(ip)),
            Err(_) => places.find(number, host, is_of_bytes),
        };
        let Some(port) = found else {
            let takes_requests = places.find(number, host, ExternalProtocol::is_http).is_some();
            return Err(match takes_requests {
                true => Refusal::new(Reason::MethodNotAllowed).detail(format_args!(
                    "`{host}` is listed for requests at port {number}: send them in absolute form"
                )),
                false => Refusal::new(Reason::EgressDenied).detail(format_args!(
                    "expected a host that an ExternalService lists for port {number} as tls or tcp, got {host}"
                )),
            });
        };
        Ok(Opening {
            target: port.target_of(Some(host))?,
            timeouts: port.timeouts,
            metrics: self.shared.metrics.route(Direction::Outbound, &port.place),
            hello: (port.protocol == ExternalProtocol::Tls).then(|| host.into()),
            permission: Permission(Some((port.place.clone(), port.name.clone(), host.into()))),
        })
    }

    async fn to_service(
        &self,
        view: &mut Arc<Snapshot>,
        service: &Arc<str>,
        number: u16,
    ) -> Result<Opening, Refusal> {
        let dialled = self.numbered(view, service, number).await?;
        let takes_bytes = |port: &ServicePort| match port.protocol {
            Protocol::Tcp => Ok(()),
            _ => Err(Refusal::new(Reason::MethodNotAllowed).detail(format_args!(
                "port `{}` of {} is not tcp: send it requests in absolute form",
                port.name, port.service
            ))),
        };
        takes_bytes(&dialled)?;
        let calls = view.endpoints.calls(service).cloned();
        let (to, number) = match calls.as_ref().map(|calls| calls.routing(&dialled.name, dialled.port)) {
            None | Some(Routing::Unrouted) => (service.clone(), number),
            Some(Routing::All(shares)) => {
                let share = shares.choose()?;
                (share.service.clone(), share.port)
            }
            Some(Routing::ByName) => {
                return Err(Refusal::new(Reason::NoRoute).detail(format_args!(
                    "port `{}` of {service} goes by server names: dial a listener of its own for it",
                    dialled.name
                )));
            }
        };
        let port = self.outbound.find_number(view, &to, number).await?;
        takes_bytes(&port)?;
        Ok(Opening {
            timeouts: port.timeouts,
            target: Target::Service(port),
            metrics: self.shared.metrics.route(Direction::Outbound, service),
            hello: None,
            permission: Permission(None),
        })
    }

    /// A service's port by its number, with or without endpoints.
    async fn numbered(
        &self,
        view: &mut Arc<Snapshot>,
        service: &Arc<str>,
        number: u16,
    ) -> Result<Arc<ServicePort>, Refusal> {
        let found: Arc<Service> = self.outbound.service(view, service).await?;
        found.port_number(number).cloned().ok_or_else(|| {
            Refusal::new(Reason::PortUnknown).detail(format_args!("{service} has no port {number}"))
        })
    }
}

impl Stage for Explicit {
    fn audience(&self) -> Audience {
        Audience::Mesh
    }

    async fn admit(
        &self,
        conn: &ConnContext,
        view: &mut Arc<Snapshot>,
        head: RequestView<'_>,
    ) -> Result<Forward, Refusal> {
        let Some(authority) = head.authority() else { return Err(Reason::BadRequest("host_missing").into()) };
        if head.is_https() {
            return Err(Refusal::new(Reason::NotImplemented).detail(
                "TLS is the app's own, by CONNECT, or begun where an ExternalService says so, and never by a request's word",
            ));
        }
        let number = authority.port().unwrap_or(80);
        let mut forward = match service_of(authority.name()) {
            Some(service) => {
                let port = self.numbered(view, &service, number).await?;
                let fits = port.protocol == Protocol::Auto
                    || port.protocol != Protocol::Tcp && alpn_of(conn.protocol) == alpn_of(port.protocol);
                if !fits {
                    return Err(Refusal::new(Reason::NotImplemented).detail(format_args!(
                        "port `{}` of {service} speaks {}, and the request came by {}",
                        port.name,
                        port.protocol.as_str(),
                        conn.protocol.as_str(),
                    )));
                }
                let metrics = self.shared.metrics.route(Direction::Outbound, &service);
                let role = Role::Outbound { service, port: port.name.clone(), endpoint: None };
                let inner = ConnContext { role, metrics: metrics.clone(), ..conn.clone() };
                let mut forward = self.outbound.admit(&inner, view, head).await?;
                forward.metrics = Some(metrics);
                forward
            }
            None => {
                let outward = Outward { port: None, number, host: None, unlisted: None };
                let inner = ConnContext { role: Role::Egress(outward), ..conn.clone() };
                self.egress.admit(&inner, view, head).await?
            }
        };
        FOR_THE_PROXY.into_iter().for_each(|name| forward.edits.remove(name));
        Ok(forward)
    }
}
