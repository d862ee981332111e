//! The gateway's configuration, ready for requests.

use std::sync::Arc;

use signet_model::{Gateway, Route};
use signet_proxy::state::Snapshot;

/// A Gateway resource with what each request needs of it made once. Published in
/// [`Routes::gateway`](signet_proxy::state::Routes::gateway).
#[derive(Debug)]
pub struct Compiled {
    gateway: Gateway,
    places: Vec<Place>,
}

/// Where a route leads.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// `name.namespace`
    pub(crate) service: Arc<str>,
    pub(crate) port: Arc<str>,
}

impl Compiled {
    /// From the resource, which is valid by its type.
    pub fn new(gateway: Gateway) -> Arc<Compiled> {
        let place = |route: &Route| Place {
            service: route.service.to_string().into(),
            port: route.port.as_str().into(),
        };
        let places = gateway.spec.routes.iter().map(place).collect();
        Arc::new(Compiled { gateway, places })
    }

    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// The gateway's configuration in this view; none before it has come.
    pub(crate) fn of(view: &Snapshot) -> Option<&Compiled> {
        view.routes.gateway.as_ref()?.downcast_ref()
    }

    /// The most specific route for this host (without port) and canonical path.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<(&Route, &Place)> {
        let found = self.gateway.spec.route(host, path)?;
        self.gateway.spec.routes.iter().zip(&self.places).find(|(route, _)| std::ptr::eq(*route, found))
    }
}
