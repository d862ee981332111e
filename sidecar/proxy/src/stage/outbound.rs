//! Our app calls a service of the mesh.
//!
//! What the app says about users and callers is dropped, with one exception: a transaction token that this
//! sidecar received in an exchange that is still open (decision 20). It travels on as `forwarded`, which
//! only sidecars may say. Where the app chose none, the token of the request whose handle the call carries may be attached
//! ([`crate::handle`]). A token never travels to another trust domain, where nobody could verify it and everybody
//! could read it. The service comes from the listener or the original destination, never from the request; where
//! the destination is an endpoint's own address, so does the endpoint.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use signet_wire::{Known, RequestView, carrier};

use super::{Asked, ConnContext, Forward, Role, Stage, Way, context};
use crate::answer::{Audience, Reason, Refusal};
use crate::exchange::{self, Standing};
use crate::handle;
use crate::hop_proof::Prove;
use crate::metrics::{Carried, Via};
use crate::shared::Shared;
use crate::state::{Service, ServicePort, Snapshot, UserContext, Wanted};

/// The stage of our app's calls.
pub struct Outbound {
    shared: Arc<Shared>,
}

impl Outbound {
    /// The stage over this state.
    pub fn new(shared: Arc<Shared>) -> Self {
        Outbound { shared }
    }

    /// Finds the service port, waiting for the control plane on first use only; with `endpoint`, the one that is there
    /// alone.
    pub async fn find(
        &self,
        view: &mut Arc<Snapshot>,
        service: &Arc<str>,
        port: &str,
        endpoint: Option<SocketAddr>,
    ) -> Result<Arc<ServicePort>, Refusal> {
        let found = self.service(view, service).await?;
        let port = found.port(port).ok_or_else(|| {
            Refusal::new(Reason::PortUnknown).detail(format_args!("{service} has no port {port}"))
        })?;
        let port = match endpoint {
            None => port,
            // Whoever has the address now is somebody else.
            Some(address) => view.endpoints.endpoint(address, service, &port.name).ok_or_else(|| {
                let gone = format_args!("{service} has no endpoint at {address} any more");
                Refusal::new(Reason::NoEndpoint).detail(gone)
            })?,
        };
        check_endpoints(port)?;
        Ok(port.clone())
    }

    /// The same, by the number that the port's callers dial.
    pub(crate) async fn find_number(
        &self,
        view: &mut Arc<Snapshot>,
        service: &Arc<str>,
        number: u16,
    ) -> Result<Arc<ServicePort>, Refusal> {
        let found = self.service(view, service).await?;
        let port = found.port_number(number).ok_or_else(|| {
            Refusal::new(Reason::PortUnknown).detail(format_args!("{service} has no port {number}"))
        })?;
        check_endpoints(port)?;
        Ok(port.clone())
    }

    pub(super) async fn service(
        &self,
        view: &mut Arc<Snapshot>,
        service: &Arc<str>,
    ) -> Result<Arc<Service>, Refusal> {
        let wanted = || Wanted::Service(service.clone());
        let found = self
            .shared
            .state
            .first_use(view, wanted, |endpoints| {
                // A refusal of the control plane ends the wait as well.
                let known = endpoints.service(service).cloned();
                (known.is_some() || endpoints.refusal(service).is_some()).then_some(known)
            })
            .await;
        found.flatten().ok_or_else(|| {
            let why =
                view.endpoints.refusal(service).map_or("the control plane has not told of it", |why| why);
            Refusal::new(Reason::ServiceUnknown).detail(format_args!("{service}: {why}"))
        })
    }
}

/// Nobody is dialled without knowing who must answer.
pub(crate) fn check_endpoints(port: &ServicePort) -> Result<(), Refusal> {
    match (port.endpoints.is_empty(), port.unidentified) {
        (false, _) => Ok(()),
        (true, 0) => Err(Reason::NoEndpoint.into()),
        (true, count) => Err(Refusal::new(Reason::NoIdentity)
            .detail(format_args!("{count} endpoints of {} have no identity that it lists", port.service))),
    }
}

impl Stage for Outbound {
    fn audience(&self) -> Audience {
        Audience::Mesh
    }

    async fn admit(
        &self,
        conn: &ConnContext,
        view: &mut Arc<Snapshot>,
        head: RequestView<'_>,
    ) -> Result<Forward, Refusal> {
        let Role::Outbound { service, port, endpoint } = &conn.role else {
            return Err(Refusal::new(Reason::Internal).detail("an outbound request without a service"));
        };
        let port = self.find(view, service, port, *endpoint).await?;
        // Who dials one endpoint means it, whatever routes the service has.
        let way = match endpoint {
            Some(_) => Way::straight(port),
            None => self.way(view, port, head, Asked { tls: conn.tls }).await?,
        };
        let port = way.port.clone();
        let own = view.tls.generation.own().svid().id.trust_domain();
        let is_ours = port.endpoints.iter().all(|endpoint| endpoint.identity.is_in(own));
        let mut forward = way.forward(head)?;
        let known = view.endpoints.service(&port.service);
        let takes_original = known.is_some_and(|service| service.user_context == UserContext::Original);
        let wants_proof = known.is_some_and(|service| service.hop_proof);
        if !(is_ours && takes_original) {
            let kept = context::keep_home(&self.shared, &view.keys, head, &mut forward.edits);
            conn.metrics.stripped.inc_by(u64::from(kept));
        }
        if head.authority().is_none() && forward.edits.authority().is_none() {
            // HTTP/1.0 may leave Host out; the request goes on as HTTP/1.1, which demands one.
            forward.edits.set_authority(service.as_bytes().to_vec().into());
        }
        let named = head.also_protected(&self.shared.protected());
        let mut stripped = head.protected_count().saturating_add(named);
        // A handle goes no further, whatever it is good for.
        let found = carrier::take(head, &mut forward.edits);
        let standing = |token| self.shared.exchanges.standing(&exchange::hash(token), crate::pool::now());
        let (via, sent) = match head.get(Known::TxnToken) {
            None => handle::attach(&self.shared, view, &found, is_ours, &mut forward.edits, wants_proof),
            Some(token) => match standing(token).filter(|_| is_ours) {
                Some(standing) => {
                    handle::agrees(&self.shared, view, token, &found)
                        .inspect_err(|_| conn.metrics.context(Via::Mismatch))?;
                    stripped = stripped.saturating_sub(1);
                    forward.edits.keep(Known::TxnToken);
                    let (how, via) = match standing {
                        Standing::Forwarded => ("forwarded", Via::Forwarded),
                        // Somebody before us was not sure whose call it was, and our app cannot know better.
                        Standing::Attached => ("attached", Via::Attached(Carried::Header)),
                    };
                    let how = HeaderValue::from_static(how);
                    forward.edits.set(HeaderName::from_static("signet-context"), how);
                    (via, wants_proof.then(|| exchange::hash(token)))
                }
                None => (Via::Unseen, None),
            },
        };
        if let Some(sent) = sent {
            forward.prove = Some(Prove::of(sent, self.shared.exchanges.proven(&sent)));
        }
        conn.metrics.context(via);
        conn.metrics.stripped.inc_by(u64::from(stripped));
        // Who answers is a sidecar or gateway of ours, proven: its refusals reach our app with their ids. What
        // somebody of another trust domain says in our own words is dropped.
        if is_ours {
            forward.answer_edits.keep_all_protected();
        }
        Ok(forward)
    }
}
