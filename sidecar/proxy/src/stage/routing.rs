//! Where a request to a service really goes: the rule of its routes, the backend by weight, what changes on the way, and
//! how often and how long it may be tried.
//!
//! The service that was dialled chooses the routes, never the request. A rule that leads nowhere (no backend, or none
//! with a weight) is answered with 500, as the Gateway API says; a service that has routes of which none takes the
//! request, with 404.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use signet_model::{HostPattern, Redirect, Scheme, ToMatch};
use signet_wire::RequestView;
use signet_wire::canon::Target as PathTarget;

use super::{Calling, Forward, Outbound, Target};
use crate::answer::{Reason, Refusal};
use crate::balance::{below, random};
use crate::state::{Backend, Found, Retry, RouteRule, ServicePort, Snapshot, modified};

/// A request's way from the service that was dialled.
pub struct Way {
    /// Where it goes.
    pub port: Arc<ServicePort>,
    rule: Option<(Arc<RouteRule>, usize, Option<usize>)>,
    /// Who gets a copy.
    copies: Vec<Arc<ServicePort>>,
}

/// Who is asked what, as a redirect needs to know it.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The caller spoke TLS.
    pub tls: bool,
}

impl Outbound {
    /// The way of a request that was sent to this port. A redirect is a refusal with another place in it.
    pub async fn way(
        &self,
        view: &mut Arc<Snapshot>,
        port: Arc<ServicePort>,
        request: RequestView<'_>,
        asked: Asked,
    ) -> Result<Way, Refusal> {
        let Some(calls) = view.endpoints.calls(&port.service).cloned() else {
            return Ok(Way::straight(port));
        };
        let (rule, prefix) = match calls.find(&port.name, port.port, request) {
            Found::Unrouted => return Ok(Way::straight(port)),
            Found::NoMatch => {
                return Err(Refusal::new(Reason::NoRoute)
                    .detail(format_args!("{} has routes and none takes this request", port.service)));
            }
            Found::Rule(rule, prefix) => (rule.clone(), prefix),
        };
        if let Some(redirect) = &rule.redirect {
            return Err(redirected(redirect, request, prefix, asked));
        }
        let number = if rule.total > 1 { random() % rule.total } else { 0 };
        let Some(backend) = rule.backend(number).filter(|_| rule.total > 0) else {
            return Err(Refusal::new(Reason::NoBackend)
                .detail(format_args!("{} has no backend with a weight", rule.name)));
        };
        if backend.refused {
            return Err(Refusal::new(Reason::NoBackend).detail(format_args!(
                "{} may not refer to {}: no ReferenceGrant there",
                rule.name, backend.service
            )));
        }
        let place = rule.backends.iter().position(|one| std::ptr::eq(one, backend));
        let to = if *backend.service == *port.service && backend.port == port.port {
            port
        } else {
            self.find_number(view, &backend.service, backend.port).await?
        };
        let mut copies = Vec::new();
        for copied in &rule.mirrors {
            if copied.millionths >= 1_000_000
                || below(1_000_000) < usize::try_from(copied.millionths).unwrap_or(0)
            {
                // A copy that leads nowhere is no reason to fail.
                copies.extend(self.find_number(view, &copied.service, copied.port).await.ok());
            }
        }
        Ok(Way { port: to, rule: Some((rule, prefix, place)), copies })
    }
}

impl Way {
    /// To the port itself, past any route.
    pub(super) fn straight(port: Arc<ServicePort>) -> Way {
        Way { port, rule: None, copies: Vec::new() }
    }

    /// The request as it is forwarded, apart from what the stage itself changes, which comes after and wins.
    pub fn forward(self, request: RequestView<'_>) -> Result<Forward, Refusal> {
        let mut forward = Forward::to(Target::Service(self.port.clone()), self.port.timeouts);
        let traffic = &self.port.traffic;
        if self.rule.is_none() && traffic.is_plain() {
            return Ok(forward);
        }
        let mut calling = Calling {
            stream: traffic.stream,
            retry: traffic.retry.clone(),
            per_try: traffic.retry.as_ref().and_then(|retry| retry.per_try),
            copies: self.copies,
            ..Calling::default()
        };
        if let Some((rule, prefix, place)) = &self.rule {
            let backend = place.and_then(|place| rule.backends.get(place));
            apply(rule, backend, *prefix, request, &mut forward, &mut calling)?;
        }
        if let Some(retry) = &calling.retry {
            retry.budget.pay_in();
        }
        for fault in &traffic.faults {
            if !selects(fault.to.as_ref(), &self.port.name, request) {
                continue;
            }
            if let Some(abort) = fault.abort.filter(|abort| below(100) < usize::from(abort.percent)) {
                calling.abort = Some(Reason::Fault { status: abort.status, grpc: abort.grpc_code.number() });
            }
            if let Some(delay) = fault.delay.filter(|delay| below(100) < usize::from(delay.percent)) {
                calling.delay = Some(delay.time.get().max(calling.delay.unwrap_or(Duration::ZERO)));
            }
        }
        forward.calling = Some(Box::new(calling));
        Ok(forward)
    }
}

fn apply(
    rule: &RouteRule,
    backend: Option<&Backend>,
    prefix: usize,
    request: RequestView<'_>,
    forward: &mut Forward,
    calling: &mut Calling,
) -> Result<(), Refusal> {
    rule.request.apply(&mut forward.edits);
    if let Some(backend) = backend {
        backend.request.apply(&mut forward.edits);
        backend.answer.apply(&mut forward.answer_edits);
    }
    rule.answer.apply(&mut forward.answer_edits);
    if let Some(rewrite) = &rule.rewrite {
        if let Some(HostPattern::Exact(name)) = &rewrite.hostname {
            forward.edits.set_authority(Bytes::copy_from_slice(name.as_bytes()));
        }
        if let Some(modifier) = &rewrite.path
            && request.path() != "*"
        {
            let mut target = modified(request.path(), prefix, modifier);
            if let Some(query) = request.target().query() {
                target.push('?');
                target.push_str(query);
            }
            // Both parts are canonical; the same check that every request passes says so once more.
            let target = PathTarget::new(target.into()).map_err(|error| {
                Refusal::new(Reason::Internal).detail(format_args!("{}: {error}", rule.name))
            })?;
            forward.edits.set_target(target);
        }
    }
    if let Some(limit) = rule.request_timeout {
        forward.timeouts.request = limit;
    }
    if let Some((written, alone)) = &rule.retry {
        calling.retry = Some(match &calling.retry {
            Some(of_port) => Arc::new(Retry::of_route(written, Some(of_port))),
            None => alone.clone(),
        });
    }
    if rule.try_timeout.is_some() {
        calling.per_try = rule.try_timeout;
    }
    Ok(())
}

/// The answer that sends the caller elsewhere (Gateway API, HTTPRequestRedirectFilter).
fn redirected(redirect: &Redirect, request: RequestView<'_>, prefix: usize, asked: Asked) -> Refusal {
    let own = if asked.tls { "https" } else { "http" };
    let scheme = match redirect.scheme {
        Some(Scheme::Http) => "http",
        Some(Scheme::Https) => "https",
        None => own,
    };
    let host = match (&redirect.hostname, request.authority()) {
        (Some(HostPattern::Exact(name)), _) => name.to_string(),
        (_, Some(authority)) => authority.name().to_owned(),
        (_, None) => String::new(),
    };
    // A scheme of its own has its own port; otherwise the request's stays.
    let port = match (redirect.port, redirect.scheme) {
        (Some(port), _) => Some(port.get()),
        (None, Some(_)) => None,
        (None, None) => request.authority().and_then(signet_wire::canon::Host::port),
    };
    let port = port.filter(|port| !matches!((scheme, port), ("http", 80) | ("https", 443)));
    let path = match &redirect.path {
        Some(modifier) => modified(request.path(), prefix, modifier),
        None => request.path().to_owned(),
    };
    let mut location = format!("{scheme}://{host}");
    if let Some(port) = port {
        location.push_str(&format!(":{port}"));
    }
    location.push_str(&path);
    if let Some(query) = request.target().query() {
        location.push('?');
        location.push_str(query);
    }
    Refusal::new(Reason::Redirected(redirect.status_code.unwrap_or(302))).location(location)
}

/// Whether a rule with these conditions speaks of this request. Where both HTTP requests and gRPC calls are described,
/// either will do.
pub(crate) fn selects(to: Option<&ToMatch>, port: &str, request: RequestView<'_>) -> bool {
    let Some(to) = to else { return true };
    if !to.ports.is_empty() && !to.ports.iter().any(|one| *one == *port) {
        return false;
    }
    let is_http = !(to.methods.is_empty() && to.paths.is_empty());
    let http = || {
        (to.methods.is_empty() || to.methods.iter().any(|one| *one == *request.method()))
            && (to.paths.is_empty() || to.paths.iter().any(|one| one.matches(request.path())))
    };
    let grpc = || {
        request.is_grpc()
            && request
                .path()
                .strip_prefix('/')
                .is_some_and(|call| to.grpc.iter().any(|pattern| pattern.matches(call)))
    };
    match (is_http, !to.grpc.is_empty()) {
        (false, false) => true,
        (true, false) => http(),
        (false, true) => grpc(),
        (true, true) => http() || grpc(),
    }
}
