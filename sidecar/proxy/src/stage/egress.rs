//! A call to a place outside the mesh, by our app or, at an egress gateway, by a peer.
//!
//! The name in each request chooses the place, among those that are listed for the port that was dialled; nothing that the
//! mesh says of users and callers goes with it, and nothing that a place outside says in the mesh's own words comes back. At a
//! gateway the place's own list says who may call it, whatever the caller's sidecar let through.

use std::sync::Arc;

use bytes::Bytes;
use signet_identity::Peer;
use signet_wire::{Edits, RequestView, carrier};

use super::{ConnContext, Direction, Forward, Role, Stage, Target, context};
use crate::answer::{Audience, Reason, Refusal};
use crate::metrics::Via;
use crate::outside::speaks;
use crate::shared::Shared;
use crate::state::{App, AppAddress, PlacePort, Snapshot};

/// What a connection to the outside means, as far as its beginning says.
#[derive(Clone, Debug)]
pub struct Outward {
    /// The place and its port, by name; `None`: whichever lists the port's number.
    pub port: Option<(Arc<str>, Arc<str>)>,
    /// The port's number.
    pub number: u16,
    /// Bytes go to this name or address.
    pub host: Option<Arc<str>>,
    /// Where the app dialled, if the mesh lets it call what is not listed.
    pub unlisted: Option<Arc<App>>,
}

impl Outward {
    /// Whether it may go where the app dialled, although that is not listed.
    pub(crate) fn may_leave(&self, view: &Snapshot) -> bool {
        // What was nobody's may have become the mesh's since.
        let is_nobodys = |app: &Arc<App>| match app.address {
            AppAddress::Tcp(address) => !view.endpoints.is_of_the_mesh(address),
            AppAddress::Unix(_) => false,
        };
        view.policy.mesh.egress_allow && self.unlisted.as_ref().is_some_and(is_nobodys)
    }

    /// How it is called in logs.
    pub fn service(&self) -> &str {
        self.port.as_ref().map_or("outside", |(place, _)| place)
    }
}

/// The stage of calls to the outside.
pub struct Egress {
    shared: Arc<Shared>,
}

impl Egress {
    /// The stage over this state.
    pub fn new(shared: Arc<Shared>) -> Self {
        Egress { shared }
    }

    /// The port that is meant by name, if its place lists the peer that calls.
    pub(crate) fn port(
        view: &Snapshot,
        outward: &Outward,
        peer: Option<&Peer>,
    ) -> Result<Option<Arc<PlacePort>>, Refusal> {
        let Some((place, name)) = &outward.port else { return Ok(None) };
        let denied = |detail: std::fmt::Arguments<'_>| Refusal::new(Reason::EgressDenied).detail(detail);
        let Some(port) = view.endpoints.places().port(place, name) else {
            return Err(denied(format_args!("no ExternalService {place} with a port {name} is for us")));
        };
        let own = view.tls.generation.own().svid().id.trust_domain();
        match peer {
            Some(peer) if !port.lets(peer, own) => {
                Err(denied(format_args!("ExternalService {place} does not list {}", peer.id())))
            }
            _ => Ok(Some(port.clone())),
        }
    }

    /// Whether anything could be called on this connection any more.
    pub(crate) fn may_ask(view: &Snapshot, outward: &Outward, peer: Option<&Peer>) -> bool {
        match &outward.port {
            Some(_) => Egress::port(view, outward, peer).is_ok(),
            None => outward.may_leave(view) || !view.endpoints.places().at(outward.number).is_empty(),
        }
    }

    /// Where a request goes: the port, and the name that it is called by.
    fn place(
        conn: &ConnContext,
        view: &Snapshot,
        outward: &Outward,
        head: RequestView<'_>,
    ) -> Result<Option<(Arc<PlacePort>, Named)>, Refusal> {
        let authority = head.authority();
        let named = authority.map(|host| host.name().to_ascii_lowercase());
        // A port that is not the one that was dialled is another place.
        let number = authority.and_then(signet_wire::canon::Host::port);
        let port = Egress::port(view, outward, conn.peer.as_ref())?;
        if let Some(port) = &port {
            let listed = named.as_deref().filter(|host| port.rank(host).is_some());
            let fits = |number: u16| number == port.port || number == port.target();
            if let Some(host) = listed.filter(|_| number.is_none_or(fits)) {
                return Ok(Some((port.clone(), Named::Asked(host.into()))));
            }
            // A listener of its own for one name: what the app calls it there says nothing.
            if let Some(sole) = port.sole_place().filter(|_| conn.peer.is_none()) {
                return Ok(Some((port.clone(), Named::Sole(sole.into()))));
            }
        } else if let Some(host) = &named
            && number.is_none_or(|number| number == outward.number)
            && let Some(port) =
                view.endpoints.places().find(outward.number, host, |declared| speaks(declared, conn.protocol))
        {
            return Ok(Some((port.clone(), Named::Asked(host.as_str().into()))));
        }
        if outward.may_leave(view) {
            return Ok(None);
        }
        let shown = named.as_deref().unwrap_or("(none)");
        Err(Refusal::new(Reason::EgressDenied).detail(format_args!(
            "expected a host that an ExternalService lists for port {}, got {shown}",
            outward.number
        )))
    }
}

/// By which name a place is called.
enum Named {
    /// The one that the request says.
    Asked(Arc<str>),
    /// The only one that there is.
    Sole(Arc<str>),
}

impl Stage for Egress {
    fn audience(&self) -> Audience {
        Audience::Mesh
    }

    async fn admit(
        &self,
        conn: &ConnContext,
        view: &mut Arc<Snapshot>,
        head: RequestView<'_>,
    ) -> Result<Forward, Refusal> {
        let Role::Egress(outward) = &conn.role else {
            return Err(Refusal::new(Reason::Internal).detail("a request outward without a place"));
        };
        // Users and callers are the mesh's own matter; the defaults drop all that speaks of them, both ways.
        let named = head.also_protected(&self.shared.protected());
        conn.metrics.stripped.inc_by(u64::from(head.protected_count().saturating_add(named)));
        conn.metrics.context(if head.get(signet_wire::Known::TxnToken).is_some() {
            Via::Unseen
        } else {
            Via::None
        });
        // Handles are of this pod, and nobody else's.
        let mut edits = Edits::new();
        carrier::strip(head, &mut edits);
        let Some((port, named)) = Egress::place(conn, view, outward, head)? else {
            let app = outward.unlisted.clone().ok_or(Reason::Internal)?;
            let mut forward = Forward::to(Target::App(app), crate::state::Timeouts::default());
            forward.edits = edits;
            let kept = context::keep_home(&self.shared, &view.keys, head, &mut forward.edits);
            conn.metrics.stripped.inc_by(u64::from(kept));
            return Ok(forward);
        };
        let (Named::Asked(host) | Named::Sole(host)) = &named;
        let target = port.target_of(Some(host))?;
        let mut forward = Forward::to(target, port.timeouts);
        forward.edits = edits;
        let kept = context::keep_home(&self.shared, &view.keys, head, &mut forward.edits);
        conn.metrics.stripped.inc_by(u64::from(kept));
        if let Named::Sole(host) = &named {
            forward.edits.set_authority(authority(host, &port));
        }
        if outward.port.is_none() {
            forward.metrics = Some(self.shared.metrics.route(Direction::Outbound, &port.place));
        }
        Ok(forward)
    }
}

/// Host and port as a request there says them.
fn authority(host: &str, port: &PlacePort) -> Bytes {
    let usual = if port.is_tls() { 443 } else { 80 };
    let name = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    match port.target() {
        number if number == usual => name.into(),
        number => format!("{name}:{number}").into(),
    }
}

impl PlacePort {
    /// Where it is called by this name: at its egress gateway, or there.
    pub(crate) fn target_of(&self, host: Option<&str>) -> Result<Target, Refusal> {
        if let Some(gateway) = &self.through {
            return Ok(Target::Service(gateway.clone()));
        }
        let origin = host.and_then(|host| self.origin(host));
        origin.map(Target::Outside).ok_or_else(|| {
            let detail = format_args!("{} is no name that can be called", host.unwrap_or("(none)"));
            Refusal::new(Reason::EgressDenied).detail(detail)
        })
    }
}
