//! Connections that a route sends on unopened: from outside through a gateway, or our app's.
//!
//! Which backend takes one is decided once, at its beginning. At a gateway the route is also the permission: a connection
//! ends when the route is gone, no longer attached, or leads elsewhere. Inside the mesh it is a way and no more, so that a
//! stream outlives it as it outlives a change of weights.

use std::sync::Arc;

use super::Outbound;
use crate::answer::{Reason, Refusal};
use crate::state::{Protocol, ServicePort, Share, Snapshot};

/// By which listener of its resource a caller came into a gateway.
#[derive(Clone, Debug, Default)]
pub struct Entered {
    /// The port that the resource says.
    pub port: u16,
    /// The server name of its hello.
    pub name: Option<Arc<str>>,
}

/// One such connection.
#[derive(Clone, Debug)]
pub struct Passed {
    /// At a gateway: how it came in.
    entered: Option<Entered>,
    /// `name.namespace` of the service that takes it.
    service: Arc<str>,
    /// The port that callers of that service dial.
    number: u16,
}

impl Passed {
    /// From outside, to this backend.
    pub(crate) fn outside(entered: Entered, share: &Share) -> Passed {
        Passed { entered: Some(entered), service: share.service.clone(), number: share.port }
    }

    /// From our app, to this backend.
    pub(crate) fn of_app(share: &Share) -> Passed {
        Passed { entered: None, service: share.service.clone(), number: share.port }
    }

    /// What was turned away before anybody knew where it leads.
    pub(crate) fn nowhere() -> Passed {
        Passed { entered: Some(Entered::default()), service: "edge".into(), number: 0 }
    }

    /// The service that takes it.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Whether what let it in still does.
    pub(crate) fn stands(&self, view: &Snapshot) -> bool {
        self.entered.as_ref().is_none_or(|Entered { port, name }| {
            let shares = view.routes.doors().passes(*port, name.as_deref());
            shares.is_some_and(|shares| shares.leads_to(&self.service, self.number))
        })
    }

    /// The port that it goes to.
    pub(crate) async fn find(
        &self,
        outbound: &Outbound,
        view: &mut Arc<Snapshot>,
    ) -> Result<Arc<ServicePort>, Refusal> {
        let port = outbound.find_number(view, &self.service, self.number).await?;
        if port.protocol != Protocol::Tcp {
            return Err(Refusal::new(Reason::NotImplemented)
                .detail(format_args!("port `{}` of {} is not tcp", port.name, port.service)));
        }
        let own = view.tls.generation.own().svid().id.trust_domain();
        if self.entered.is_some() && !port.endpoints.iter().all(|endpoint| endpoint.identity.is_in(own)) {
            return Err(Refusal::new(Reason::NoRoute)
                .detail(format_args!("{} is of another trust domain", port.service)));
        }
        Ok(port)
    }
}
