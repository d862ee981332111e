//! Who is asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use signet_model::{AuthorizationProvider, HeaderField, LocalAddress};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::answer::{Reason, Refusal};
use crate::stage::Target;
use crate::state::{App, AppAddress, Protocol, Snapshot};

/// An AuthorizationProvider, ready to be asked.
#[derive(Debug)]
pub struct Provider {
    /// `name.namespace`
    pub name: Arc<str>,
    at: At,
    /// From the question to the whole answer.
    pub timeout: Duration,
    /// Headers of the request that it is shown.
    pub(super) include: Vec<HeaderName>,
    /// Headers of the request that it may change.
    pub(super) upstream: Vec<HeaderName>,
    /// Headers of the answer that it may set.
    pub(super) downstream: Vec<HeaderName>,
    /// What it is told with each question.
    pub(super) context: BTreeMap<String, String>,
    /// Questions that may be open.
    room: Semaphore,
}

#[derive(Debug)]
enum At {
    Local(Arc<App>),
    Service {
        service: Arc<str>,
        port: Arc<str>,
    },
    /// The model refuses such a one.
    Nowhere,
}

impl Provider {
    /// The provider of this document.
    pub fn new(document: &AuthorizationProvider) -> Arc<Self> {
        let spec = &document.spec;
        let at = match (&spec.service, &spec.port, &spec.local) {
            (_, _, Some(LocalAddress::Loopback(address))) => At::Local(App::new(AppAddress::Tcp(*address))),
            (_, _, Some(LocalAddress::Unix(path))) => At::Local(App::new(AppAddress::Unix((&**path).into()))),
            (Some(service), Some(port), None) => {
                At::Service { service: service.to_string().into(), port: port.as_str().into() }
            }
            _ => At::Nowhere,
        };
        let names = |fields: &[HeaderField]| {
            fields.iter().filter_map(|field| HeaderName::try_from(field.as_str()).ok()).collect()
        };
        Arc::new(Provider {
            name: document.name.to_string().into(),
            at,
            timeout: spec.timeout.get(),
            include: names(&spec.include_headers),
            upstream: names(&spec.allowed_upstream_headers),
            downstream: names(&spec.allowed_downstream_headers),
            context: spec.context.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            room: Semaphore::new(usize::try_from(spec.max_checks).unwrap_or(1)),
        })
    }

    /// A place for one question; none where too many are open.
    pub(super) fn room(&self) -> Option<SemaphorePermit<'_>> {
        self.room.try_acquire().ok()
    }

    /// Where it is asked, as far as that is known.
    pub(super) fn target(&self, view: &Snapshot) -> Result<Target, Refusal> {
        let unknown = |why: std::fmt::Arguments<'_>| Refusal::new(Reason::ServiceUnknown).detail(why);
        match &self.at {
            At::Local(app) => Ok(Target::App(app.clone())),
            At::Nowhere => Err(unknown(format_args!("it says neither a service nor an address"))),
            At::Service { service, port } => {
                let known = view.endpoints.service(service);
                let known = known.ok_or_else(|| unknown(format_args!("{service} is not known here")))?;
                let found = known
                    .port(port)
                    .filter(|port| matches!(port.protocol, Protocol::Grpc | Protocol::Http2))
                    .ok_or_else(|| unknown(format_args!("{service} has no port {port} that speaks gRPC")))?;
                // What a request is made of is for nobody outside of the mesh.
                let own = view.tls.generation.own().svid().id.trust_domain();
                if !found.endpoints.iter().all(|endpoint| endpoint.identity.is_in(own)) {
                    return Err(unknown(format_args!("{service} is of another trust domain")));
                }
                Ok(Target::Service(found.clone()))
            }
        }
    }

    /// The authority that the question names; nobody decides anything by it.
    pub(super) fn authority(&self) -> &str {
        match &self.at {
            At::Service { service, .. } => service,
            At::Local(_) | At::Nowhere => "localhost",
        }
    }
}
