//! The question and its answer, for one request.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};
use signet_policy::{ALLOWED, Facts, User};
use signet_wire::RequestView;
use tokio::time::Instant;

use super::Provider;
use super::answer::{Change, Changes, Denial, Ruling, rule};
use super::question::{About, question};
use crate::answer::{Given, Reason, Refusal};
use crate::decision::DecisionId;
use crate::h2::{Unanswered, unary};
use crate::session::Session;
use crate::stage::{Forward, Lines, Stage};
use crate::state::{InboundPort, Served, Snapshot};

const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Bytes of an answer; a longer one is none.
const MOST_ANSWER: usize = 64 * 1024;

/// What has to be asked before a request may go on. Policy has permitted it.
pub struct Check {
    providers: Vec<Arc<Provider>>,
    served: Arc<Served>,
    port: Arc<InboundPort>,
    user: Option<User>,
}

impl fmt::Debug for Check {
    /// Users are nobody's to print.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.providers.iter().map(|provider| &provider.name).collect();
        f.debug_struct("Check").field("providers", &names).finish_non_exhaustive()
    }
}

impl Check {
    /// The check that a verdict demands, if it does. One who is to be asked and of whom nothing is known refuses.
    pub(crate) fn of(
        view: &Snapshot,
        served: &Arc<Served>,
        port: &Arc<InboundPort>,
        names: &[&str],
        user: Option<&User>,
    ) -> Result<Option<Box<Check>>, Refusal> {
        if names.is_empty() {
            return Ok(None);
        }
        let known = |name: &&str| {
            view.policy.provider(name).cloned().ok_or_else(|| {
                let unknown =
                    format_args!("provider {name} is to be asked, and is not known or cannot be read");
                Refusal::new(Reason::ExternalUnavailable("unknown")).detail(unknown)
            })
        };
        let providers = names.iter().map(known).collect::<Result<_, Refusal>>()?;
        let (served, port, user) = (served.clone(), port.clone(), user.cloned());
        Ok(Some(Box::new(Check { providers, served, port, user })))
    }
}

/// Asks what a request's stage has found to be asked. Nothing of the request went anywhere yet.
pub(crate) async fn ask<E: Stage>(
    session: &Session<E>,
    view: &Arc<Snapshot>,
    head: RequestView<'_>,
    forward: &mut Forward,
) -> Result<(), Refusal> {
    let Some(check) = forward.check.take() else { return Ok(()) };
    let Some(peer) = &session.conn.peer else {
        return Err(
            Refusal::new(Reason::Internal).detail("somebody is to be asked about a caller without identity")
        );
    };
    let shared = &session.worker().shared;
    let id = DecisionId::random();
    let about = About {
        id,
        peer: peer.id().as_str(),
        own: view.tls.generation.own().svid().id.as_str(),
        remote: session.conn.remote,
        local: session.conn.local,
        service: &check.port.service,
        port: &check.port.name,
        user: check.user.as_ref(),
    };
    let lines = Lines(head);
    let facts = Facts {
        peer: peer.id(),
        peer_class: peer.class(),
        user: check.user.as_ref(),
        port: &check.port.name,
        protocol: session.conn.protocol,
        method: Some(head.method()),
        path: Some(head.path()),
        grpc: head.is_grpc().then(|| head.path().strip_prefix('/')).flatten(),
        headers: Some(&lines),
        now_ms: crate::stage::now_ms(),
    };
    let mut answered: Vec<(&str, &str)> = Vec::with_capacity(check.providers.len());
    let explain = |answered: &[(&str, &str)]| {
        serde_json::to_string(&check.served.policies.explain_asked(&facts, answered)).unwrap_or_default()
    };
    for provider in &check.providers {
        let began = Instant::now();
        let ruling = one(session, view, provider, &about, head).await;
        let outcome = match &ruling {
            Ok(Ruling::Allow(_)) => ALLOWED,
            Ok(Ruling::Deny(_)) => "denied",
            Err(Failed { label, .. }) => label,
        };
        shared.metrics.external.asked(&provider.name, outcome, began.elapsed());
        answered.push((&provider.name, outcome));
        let mut refusal = match ruling {
            Ok(Ruling::Allow(changes)) => {
                shared.metrics.external.dropped(&provider.name, changes.dropped);
                apply(changes, head, forward);
                continue;
            }
            Ok(Ruling::Deny(denial)) => {
                shared.metrics.external.dropped(&provider.name, denial.dropped);
                let refusal = Refusal::new(Reason::External);
                Refusal { given: given(denial), ..refusal }.detail(format_args!("provider {}", provider.name))
            }
            Err(Failed { label, detail }) => Refusal::new(Reason::ExternalUnavailable(label))
                .detail(format_args!("provider {}: {detail}", provider.name))
                .retry_after(1),
        };
        // What the provider may have logged, and what the caller is told, are one id.
        refusal.decision = id;
        shared.decisions.record(id, || explain(&answered));
        refusal.recorded = true;
        return Err(refusal);
    }
    if check.served.samples > 0 {
        shared.decisions.record_sample(check.served.samples, || explain(&answered));
    }
    Ok(())
}

/// Why there is no ruling.
struct Failed {
    /// As in the metric and the record.
    label: &'static str,
    detail: String,
}

async fn one<E: Stage>(
    session: &Session<E>,
    view: &Arc<Snapshot>,
    provider: &Provider,
    about: &About<'_>,
    head: RequestView<'_>,
) -> Result<Ruling, Failed> {
    let failed = |label, detail: &dyn fmt::Display| Failed { label, detail: detail.to_string() };
    let Some(_room) = provider.room() else {
        return Err(failed("overloaded", &"as many questions are open as may be"));
    };
    let target = provider.target(view).map_err(|refusal| failed("unknown", &refusal))?;
    let request = request(provider).map_err(|error| failed("unknown", &error))?;
    let message = question(provider, about, head);
    let call = unary(session.worker(), view, &target, request, message, MOST_ANSWER);
    // Finer than the wheel that all other waits go by.
    let answer = match tokio::time::timeout(provider.timeout, call).await {
        Ok(answer) => answer,
        Err(_) => return Err(failed("timeout", &format_args!("no answer within {:?}", provider.timeout))),
    };
    let message = answer.map_err(|error| match &error {
        Unanswered::Unreached(refusal) => match refusal.reason {
            Reason::PeerHandshake(_) => failed("identity", &refusal),
            _ => failed("unreachable", &refusal),
        },
        Unanswered::Status(_) => failed("status", &error),
        Unanswered::TooLong | Unanswered::NoMessage(_) => failed("invalid", &error),
    })?;
    let protected = session.worker().shared.protected();
    rule(&message, provider, &protected).map_err(|why| failed("invalid", &why))
}

fn request(provider: &Provider) -> Result<http::Request<()>, http::Error> {
    let uri =
        http::Uri::builder().scheme("https").authority(provider.authority()).path_and_query(PATH).build()?;
    http::Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .header(
            "grpc-timeout",
            signet_wire::grpc::write_timeout(provider.timeout.max(Duration::from_millis(1))),
        )
        .body(())
}

/// What a yes changes, put among the changes of the request.
fn apply(changes: Changes, head: RequestView<'_>, forward: &mut Forward) {
    let is_there = |name: &HeaderName| head.get_all(name.as_str()).next().is_some();
    for change in changes.request {
        let edits = &mut forward.edits;
        match change {
            Change::Set(name, value) => edits.overrule(name, Some(value)),
            Change::Append(name, value) => edits.append(name, value),
            Change::AddIfAbsent(name, value) if !is_there(&name) => edits.overrule(name, Some(value)),
            Change::SetIfPresent(name, value) if is_there(&name) => edits.overrule(name, Some(value)),
            Change::AddIfAbsent(..) | Change::SetIfPresent(..) => {}
            Change::Remove(name) => edits.overrule(name, None),
        }
    }
    for change in changes.answer {
        let edits = &mut forward.answer_edits;
        match change {
            Change::Set(name, value) => edits.overrule(name, Some(value)),
            Change::Append(name, value) => edits.append(name, value),
            // What the app will answer nobody knows yet.
            Change::AddIfAbsent(..) | Change::SetIfPresent(..) | Change::Remove(_) => {}
        }
    }
}

/// A no in the provider's words, if it had any.
fn given(denial: Denial) -> Option<Box<Given>> {
    let Denial { status, headers, body, .. } = denial;
    if status.is_none() && headers.is_empty() && body.is_empty() {
        return None;
    }
    let mut headers: Vec<_> =
        headers.into_iter().map(|(name, text)| (name.as_str().to_owned().into(), text)).collect();
    let says_type = headers.iter().any(|(name, _): &(std::borrow::Cow<'_, str>, _)| name == "content-type");
    if !body.is_empty() && !says_type {
        headers.push(("content-type".into(), HEADER_TEXT.to_owned()));
    }
    Some(Box::new(Given { status: status.unwrap_or(Reason::External.status()), headers, body: body.into() }))
}

const HEADER_TEXT: &str = "text/plain; charset=utf-8";
