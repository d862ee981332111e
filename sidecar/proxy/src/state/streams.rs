//! Where whole connections go: by the routes of a service, or by those that are attached to a gateway's listeners.
//!
//! A route for all connections is chosen by the port alone, one for names by the server name of a hello: the most
//! specific name decides. What no route takes goes nowhere; it never falls to a less specific listener of the same port,
//! of which another one is for that name.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use signet_model::{
    AnyRoute, Gateway, GivenRoute, GivenRoutes, HostPattern, Label, Listener, ListenerProtocol, ObjectName,
    ParentRef,
};

use crate::answer::{Reason, Refusal};
use crate::balance::random;

/// The backends of a route with their shares.
#[derive(Debug)]
pub struct Shares {
    /// `TLSRoute/name.namespace`
    pub name: Box<str>,
    backends: Vec<Share>,
    total: u64,
}

/// One of them.
#[derive(Debug)]
pub struct Share {
    /// `name.namespace`
    pub service: Arc<str>,
    /// The port that its callers dial.
    pub port: u16,
    /// Its part of the weights of all.
    pub weight: u32,
    /// No ReferenceGrant lets the route refer to it.
    pub refused: bool,
}

impl Shares {
    fn new(given: GivenRoute<'_>) -> Option<Arc<Shares>> {
        let route = given.route;
        let own = &route.name().namespace;
        let backends = route.stream()?.backend_refs.iter().map(|backend| Share {
            service: backend.service(own).to_string().into(),
            port: backend.port.get(),
            weight: backend.weight,
            refused: given.refuses(&backend.service(own)),
        });
        let backends: Vec<_> = backends.collect();
        let total = backends.iter().map(|share| u64::from(share.weight)).sum();
        Some(Arc::new(Shares { name: format!("{}/{}", route.kind(), route.name()).into(), backends, total }))
    }

    /// Where one connection goes, by chance.
    pub fn choose(&self) -> Result<&Share, Refusal> {
        let number = if self.total > 1 { random() % self.total } else { 0 };
        match self.choose_by(number) {
            Some(share) if share.refused => Err(Refusal::new(Reason::NoBackend).detail(format_args!(
                "{} may not refer to {}: no ReferenceGrant there",
                self.name, share.service
            ))),
            Some(share) => Ok(share),
            None => Err(Refusal::new(Reason::NoBackend)
                .detail(format_args!("{} has no backend with a weight", self.name))),
        }
    }

    fn choose_by(&self, mut number: u64) -> Option<&Share> {
        self.backends.iter().find(|share| match number.checked_sub(u64::from(share.weight)) {
            Some(left) => {
                number = left;
                false
            }
            None => true,
        })
    }

    /// Where it leads, for people.
    pub fn backends(&self) -> &[Share] {
        &self.backends
    }

    /// The weights of all, put together.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether it still names this port of this service, with whatever weight, and still may.
    pub fn leads_to(&self, service: &str, port: u16) -> bool {
        self.backends.iter().any(|share| !share.refused && *share.service == *service && share.port == port)
    }
}

/// How connections to one port are routed.
#[derive(Debug)]
pub enum Routing<'a> {
    /// Not at all: they go to the service itself.
    Unrouted,
    /// All alike.
    All(&'a Arc<Shares>),
    /// By the server name of their hello.
    ByName,
}

/// Routes of the connections to one service.
#[derive(Debug, Default)]
pub(super) struct Streams(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    parents: Arc<[ParentRef]>,
    /// None: all connections.
    host: Option<HostPattern>,
    shares: Arc<Shares>,
}

impl Streams {
    pub(super) fn compile(service: &ObjectName, routes: &GivenRoutes) -> Streams {
        let mut entries = Vec::new();
        for given in routes.iter() {
            let Some(shares) = Shares::new(given) else { continue };
            let route = given.route;
            let own = &route.name().namespace;
            let parents = route.parents().iter().filter(|parent| parent.is_service(own, service));
            let parents: Arc<[ParentRef]> = parents.cloned().collect();
            entries.extend(each_host(route).map(|host| Entry {
                parents: parents.clone(),
                host,
                shares: shares.clone(),
            }));
        }
        // Stable: of two that are as specific, the same one always.
        entries.sort_by_key(|entry| Reverse(entry.host.as_ref().map(HostPattern::rank)));
        Streams(entries)
    }

    /// Each name (or none, for all connections) with where it leads, and of which ports of the service; no ports: of all.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Vec<String>, Option<&HostPattern>, &Shares)> {
        let ports = |entry: &Entry| super::calls::shown::ports(&entry.parents);
        self.0.iter().map(move |entry| (ports(entry), entry.host.as_ref(), &*entry.shares))
    }

    fn of(&self, port: &str, number: u16) -> impl Iterator<Item = &Entry> {
        self.0.iter().filter(move |entry| entry.parents.iter().any(|parent| parent.takes(port, number)))
    }

    pub(super) fn routing(&self, port: &str, number: u16) -> Routing<'_> {
        match self.of(port, number).next() {
            None => Routing::Unrouted,
            Some(Entry { host: None, shares, .. }) => Routing::All(shares),
            Some(Entry { host: Some(_), .. }) => Routing::ByName,
        }
    }

    pub(super) fn named(&self, port: &str, number: u16, name: &str) -> Option<&Arc<Shares>> {
        let takes = |entry: &&Entry| entry.host.as_ref().is_some_and(|host| host.matches(name));
        self.of(port, number).find(takes).map(|entry| &entry.shares)
    }
}

/// The names of a route, or none for all connections.
fn each_host(route: &AnyRoute) -> impl Iterator<Item = Option<HostPattern>> {
    let hosts = route.hostnames();
    let all = hosts.is_empty().then_some(None);
    all.into_iter().chain(hosts.iter().cloned().map(Some))
}

/// What the ports of a gateway take from callers outside, as its listeners and the routes attached to them say.
#[derive(Debug, Default)]
pub struct Doors(HashMap<u16, Vec<Door>>);

/// A listener. Those of one port stand in the order in which they are asked: the most specific hostname first.
#[derive(Debug)]
pub struct Door {
    /// Its name in the resource.
    pub name: Box<str>,
    host: Option<HostPattern>,
    takes: Takes,
}

/// What becomes of what comes in at a listener.
#[derive(Debug)]
pub enum Takes {
    /// Plaintext or TLS that ends here: the gateway's own routes say. True: a hello comes first.
    Requests(bool),
    /// It goes on unopened, by its name; the most specific first.
    Names(Vec<(HostPattern, Arc<Shares>)>),
    /// It goes on as it is, where a route is attached.
    Bytes(Option<Arc<Shares>>),
}

/// What a port is for.
#[derive(Debug)]
pub enum PortIs<'a> {
    /// The resource says nothing of it: requests for its routes.
    Undeclared,
    /// Requests in plaintext.
    Plain,
    /// A hello comes first.
    Hello,
    /// Bytes.
    Bytes(Option<&'a Arc<Shares>>),
}

impl Doors {
    /// From a gateway and the routes that are attached to it.
    pub fn compile(gateway: &Gateway, routes: &GivenRoutes) -> Doors {
        let mut doors: HashMap<u16, Vec<Door>> = HashMap::new();
        for listener in &gateway.spec.listeners {
            let attached = routes.iter().filter(|given| attaches(gateway, listener, given.route));
            let mut attached = attached.filter_map(|given| Some((given.route, Shares::new(given)?)));
            let takes = match listener.protocol {
                ListenerProtocol::Http => Takes::Requests(false),
                ListenerProtocol::Https => Takes::Requests(true),
                ListenerProtocol::Tcp => Takes::Bytes(attached.next().map(|(_, shares)| shares)),
                ListenerProtocol::Tls => {
                    let each = attached.flat_map(|(route, shares)| {
                        let hosts = route.hostnames().iter().filter(|host| listener.meets(host));
                        hosts.map(move |host| (host.clone(), shares.clone()))
                    });
                    let mut names: Vec<_> = each.collect();
                    names.sort_by_key(|(host, _)| Reverse(host.rank()));
                    Takes::Names(names)
                }
            };
            let door = Door { name: listener.name.as_str().into(), host: listener.hostname.clone(), takes };
            doors.entry(listener.port.get()).or_default().push(door);
        }
        for doors in doors.values_mut() {
            doors.sort_by_key(|door| Reverse(door.host.as_ref().map(HostPattern::rank)));
        }
        Doors(doors)
    }

    /// The same listeners without any route.
    #[must_use]
    pub fn closed(&self) -> Doors {
        let close = |door: &Door| Door {
            name: door.name.clone(),
            host: door.host.clone(),
            takes: match &door.takes {
                Takes::Requests(hello) => Takes::Requests(*hello),
                Takes::Names(_) => Takes::Names(Vec::new()),
                Takes::Bytes(_) => Takes::Bytes(None),
            },
        };
        Doors(self.0.iter().map(|(port, doors)| (*port, doors.iter().map(close).collect())).collect())
    }

    /// Every listener with its port, for people.
    pub fn all(&self) -> impl Iterator<Item = (u16, &Door)> {
        self.0.iter().flat_map(|(port, doors)| doors.iter().map(|door| (*port, door)))
    }

    /// What a port is for. Its listeners agree in that.
    pub fn port(&self, port: u16) -> PortIs<'_> {
        match self.0.get(&port).and_then(|doors| doors.first()).map(|door| &door.takes) {
            None => PortIs::Undeclared,
            Some(Takes::Requests(false)) => PortIs::Plain,
            Some(Takes::Requests(true) | Takes::Names(_)) => PortIs::Hello,
            Some(Takes::Bytes(shares)) => PortIs::Bytes(shares.as_ref()),
        }
    }

    /// The listener that a name means, or none of its names: the most specific, and no other.
    pub fn of_name(&self, port: u16, name: Option<&str>) -> Option<&Door> {
        self.0.get(&port)?.iter().find(|door| match (&door.host, name) {
            (None, _) => true,
            (Some(host), Some(name)) => host.matches(name),
            (Some(_), None) => false,
        })
    }

    /// Whether a request for this host is for the listener that its connection came in by. Undeclared ports know no
    /// other.
    pub fn lets(&self, port: u16, name: Option<&str>, host: Option<&str>) -> bool {
        let Some(doors) = self.0.get(&port) else { return true };
        // In plaintext nothing was said before the request.
        let is_plain = doors.iter().all(|door| matches!(door.takes, Takes::Requests(false)));
        match (self.of_name(port, host), self.of_name(port, name)) {
            (Some(_), _) if is_plain => true,
            (Some(one), Some(two)) => std::ptr::eq(one, two) && matches!(one.takes, Takes::Requests(_)),
            _ => false,
        }
    }

    /// Where a connection that came in by this name, or by none, goes on to unopened.
    pub fn passes(&self, port: u16, name: Option<&str>) -> Option<&Arc<Shares>> {
        match (&self.of_name(port, name)?.takes, name) {
            (Takes::Requests(_), _) | (Takes::Names(_), None) => None,
            (Takes::Names(names), Some(name)) => {
                names.iter().find(|(host, _)| host.matches(name)).map(|(_, shares)| shares)
            }
            (Takes::Bytes(shares), _) => shares.as_ref(),
        }
    }
}

impl Door {
    /// The names that it is for; none: all.
    pub fn host(&self) -> Option<&HostPattern> {
        self.host.as_ref()
    }

    /// What becomes of what comes in here.
    pub fn takes(&self) -> &Takes {
        &self.takes
    }
}

fn attaches(gateway: &Gateway, listener: &Listener, route: &AnyRoute) -> bool {
    let own: &Label = &route.name().namespace;
    let fits = match route {
        AnyRoute::Tls(_) => listener.protocol == ListenerProtocol::Tls,
        AnyRoute::Tcp(_) => listener.protocol == ListenerProtocol::Tcp,
        AnyRoute::Http(_) | AnyRoute::Grpc(_) => false,
    };
    fits && listener.lets(own, &gateway.name.namespace)
        && route.parents().iter().any(|parent| {
            parent.is_gateway(own, &gateway.name) && parent.takes(listener.name.as_str(), listener.port.get())
        })
}
