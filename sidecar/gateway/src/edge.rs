//! The gateway's stage, from a request's head to where it goes. Read [`Edge::admit`] top to bottom.

use std::sync::Arc;

use prometheus::Registry;
use signet_daemon::Clock;
use signet_model::{ForwardCredential, Route, Scope};
use signet_proxy::answer::{Audience, Reason, Refusal};
use signet_proxy::hop_proof::Prove;
use signet_proxy::stage::{Asked, ConnContext, Direction, Entered, Forward, Outbound, Role, Stage};
use signet_proxy::state::{Protocol, ServicePort, Snapshot, UserContext, Wanted, alpn_of};
use signet_proxy::{Shared, metrics::Via};
use signet_token::{AccessToken, Minted, Subject, TokenCache, TokenError};
use signet_wire::{Known, RequestView};

use crate::auth::seen::Seen;
use crate::auth::{self, Caller, Evidence, Failure};
use crate::events::Events;
use crate::routes::Compiled;
use crate::{challenge, context, head};

/// Verified access tokens remembered per process.
const TOKENS: usize = 16 * 1024;

/// The stage of a process in the role `gateway`.
pub struct Edge {
    shared: Arc<Shared>,
    // Finds services as an app's own calls do.
    outbound: Outbound,
    clock: Arc<dyn Clock>,
    tokens: TokenCache<AccessToken>,
    // Of possession, that came once.
    proofs: Seen,
    events: Events,
}

impl Edge {
    /// Registers its counters in `registry`.
    pub fn new(
        shared: Arc<Shared>,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Edge, prometheus::Error> {
        let (outbound, tokens) = (Outbound::new(shared.clone()), TokenCache::new(TOKENS));
        Ok(Edge { shared, outbound, clock, tokens, proofs: Seen::default(), events: Events::new(registry)? })
    }

    /// Who calls, and the transaction token for them. None where the route lets strangers in.
    fn authenticate(
        &self,
        route: &Route,
        conn: &ConnContext,
        view: &Snapshot,
        request: RequestView<'_>,
    ) -> Result<Option<(Minted, Arc<Subject>)>, Refusal> {
        let keys = &*view.keys;
        let now = u64::try_from(self.clock.now_unix()).unwrap_or_default();
        let realm = &*keys.trust_domain;
        let refuse = |method, reason, caller: Option<&Caller>, refusal: Refusal| {
            self.events.refused(method, reason, route, caller, &refusal, now);
            refusal
        };

        let Edge { tokens, proofs, .. } = self;
        let evidence = Evidence { keys, tokens, proofs, tls: conn.tls, now };
        let (method, judged) = auth::authenticate(route, request, &evidence);
        let caller = judged.map_err(|failure| {
            self.ask_for_keys(&failure);
            let scheme = auth::authorization::scheme(request);
            let refusal = challenge::unauthenticated(&failure, scheme, &route.auth, realm);
            refuse(method, failure.label(), None, refusal)
        })?;
        let Some(caller) = caller else {
            self.events.allowed(method, route, None);
            return Ok(None);
        };

        let has = |scope: &Scope| caller.token.scopes.iter().any(|had| had == scope.as_str());
        if !route.scopes.iter().all(has) {
            let refusal = challenge::insufficient_scope(&route.scopes, realm);
            return Err(refuse(method, "insufficient_scope", Some(&caller), refusal));
        }

        let address = conn.remote.map(|remote| remote.ip());
        let minted =
            context::mint(&caller, route, request.method(), address, keys, now).map_err(|error| {
                refuse(method, error.label(), Some(&caller), challenge::unminted(&error, realm))
            })?;
        self.events.allowed(method, route, Some((&caller, &minted.claims)));
        Ok(Some((minted, caller.token.revocable.clone())))
    }

    /// A token that names a key which its issuer did not have: the issuer may have rotated. Whether to fetch
    /// is the control plane's decision, at most every so often.
    fn ask_for_keys(&self, failure: &Failure) {
        if let Failure::Refused(TokenError::UnknownKey { alias, .. }) = failure {
            self.shared.state.want(Wanted::IssuerKeys(alias.as_str().into()));
        }
    }
}

/// A request is for the listener that its connection came in by: what another one sends on unopened, or opens by another
/// name, is not to be had by saying so inside.
fn here(conn: &ConnContext, view: &Snapshot, request: RequestView<'_>) -> Result<(), Refusal> {
    let Role::Edge(Entered { port, name }) = &conn.role else {
        return Err(
            Refusal::new(Reason::Internal).detail("a request at the edge that came in by no listener")
        );
    };
    let host = request.authority().map(|host| host.name());
    if view.routes.doors().lets(*port, name.as_deref(), host) {
        return Ok(());
    }
    let (shown, named) = (host.unwrap_or("(none)"), name.as_deref().unwrap_or("(none)"));
    let reason = if conn.tls { Reason::Misdirected } else { Reason::NoRoute };
    Err(Refusal::new(reason)
        .detail(format_args!("the listener of `{named}` at port {port} is not that of host `{shown}`")))
}

/// Nothing translates between HTTP/1.1 and HTTP/2: a listener's routes lead to ports that speak what it speaks.
fn fits(conn: &ConnContext, port: &ServicePort) -> Result<(), Refusal> {
    let fits = port.protocol == Protocol::Auto || alpn_of(conn.protocol) == alpn_of(port.protocol);
    let detail = || {
        format!(
            "port `{}` of {} speaks {}, this listener {}: route it from a listener with its protocol",
            port.name,
            port.service,
            port.protocol.as_str(),
            conn.protocol.as_str(),
        )
    };
    if fits { Ok(()) } else { Err(Refusal::new(Reason::NotImplemented).detail(detail())) }
}

impl Stage for Edge {
    fn audience(&self) -> Audience {
        Audience::Outside
    }

    async fn admit(
        &self,
        conn: &ConnContext,
        view: &mut Arc<Snapshot>,
        request: RequestView<'_>,
    ) -> Result<Forward, Refusal> {
        // The request's own view, kept while `view` may move on to a newer one.
        let seen = view.clone();
        here(conn, &seen, request)?;
        let host = request.authority().map_or("", |host| host.name());
        let found = Compiled::of(&seen).and_then(|gateway| gateway.find(host, request.path()));
        let Some((route, place)) = found else {
            return Err(
                Refusal::new(Reason::NoRoute).detail("no route of the gateway takes this host and path")
            );
        };

        let (minted, subject) = self.authenticate(route, conn, &seen, request)?.unzip();
        let port = self.outbound.find(view, &place.service, &place.port, None).await?;
        fits(conn, &port)?;
        let way = self.outbound.way(view, port, request, Asked { tls: conn.tls }).await?;
        let own = view.tls.generation.own().svid().id.trust_domain();
        if !way.port.endpoints.iter().all(|endpoint| endpoint.identity.is_in(own)) {
            // A gateway speaks for users, and nobody of another trust domain hears of them.
            return Err(Refusal::new(Reason::NoRoute)
                .detail(format_args!("{} is of another trust domain", way.port.service)));
        }

        let metrics = self.shared.metrics.route(Direction::Edge, &place.service);
        metrics.context(if minted.is_some() { Via::Forwarded } else { Via::None });
        metrics.stripped.inc_by(request.protected_count().into());

        // A route without methods reads no credential, so it has none to take away. And where the service's own routes send
        // the request is not the gateway's to say: whoever does not ask for the original does not get it.
        let known = view.endpoints.service(&way.port.service);
        let asks = known.is_some_and(|service| service.user_context == UserContext::Original);
        let forwards = asks && route.forward_credential == ForwardCredential::Original;
        let consumed = route.auth.jwt.is_some() && !forwards;
        let wants_proof = known.is_some_and(|service| service.hop_proof);
        let mut forward = way.forward(request)?;
        head::edit(&mut forward.edits, request, conn, minted.as_ref(), consumed);
        if request.authority().is_none() && forward.edits.authority().is_none() {
            // HTTP/1.0 may leave Host out; the request goes on as HTTP/1.1, which demands one.
            forward.edits.set_authority(place.service.as_bytes().to_vec().into());
        }
        if let Some(minted) = minted.as_ref().filter(|_| wants_proof) {
            forward.prove = Some(Prove::new(minted.token.as_bytes(), None));
        }
        subject.into_iter().for_each(|subject| forward.subjects.add(subject));
        forward.metrics = Some(metrics);
        // A sidecar's refusal keeps its id, which the caller may quote; its reason stays inside.
        forward.answer_edits.keep(Known::SignetDecisionId);
        Ok(forward)
    }
}
