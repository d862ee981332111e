//! A peer calls our app: who is it, for which user, and may it?
//!
//! 1. Identity headers are believed only of a sidecar or gateway of our own trust domain; from anybody
//!    else they are dropped and counted (decisions 1 and 14).
//! 2. A transaction token is verified, and presentable by our app while this exchange is open
//!    (decision 20), unless it came from ourselves. A service in the `original` mode also demands the
//!    caller's JWT and verifies it against the issuers' keys that the control plane pushed.
//! 3. Policy decides. No policy, no request. Who else has to be asked is noted, and asked by the engine.
//! 4. Somebody without an identity, at a port that still lets such callers in, is nobody: no user is believed, and the
//!    port is permissive only while no policy on it asks who calls (decision 16).
//! 5. Limits count what passed so far.
//! 6. The app sees the token, the verified claims and the caller's certificate, all set by us; where it forwards none of
//!    them by itself, also a handle that stands for the request ([`crate::handle`]).

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use signet_identity::Peer;
use signet_policy::{Facts, Headers, User};
use signet_wire::{Edits, Known, RequestView};

use super::context::{self, Verified};
use super::{ConnContext, Forward, Role, Stage, Target};
use crate::answer::{Audience, Reason, Refusal};
use crate::authz::Check;
use crate::exchange;
use crate::handle;
use crate::hop_proof;
use crate::hops::Hop;
use crate::limit::{Caller, Exceeded, Standing};
use crate::metrics::{Carried, Via};
use crate::shared::Shared;
use crate::state::{InboundPort, Protocol, Snapshot, UserContext, monotonic};

/// The stage of our own ports.
pub struct Inbound {
    shared: Arc<Shared>,
}

impl Inbound {
    /// The stage over this state.
    pub fn new(shared: Arc<Shared>) -> Self {
        Inbound { shared }
    }

    /// Decides about a stream of bytes, which has no user and no request.
    pub(crate) fn admit_stream(
        &self,
        view: &Snapshot,
        service: &str,
        port: &str,
        peer: &Peer,
    ) -> Result<Arc<InboundPort>, Refusal> {
        let port = view.routes.inbound(service, port).ok_or(Reason::PortUnknown)?;
        // A client that calls its requests bytes would slip past what a policy says of requests.
        if port.protocol == Protocol::Auto
            && view.policy.of(service).is_some_and(|served| served.policies.speaks_of_requests(&port.name))
        {
            return Err(Refusal::new(Reason::Undetected)
                .detail(format_args!("policies of {service} speak of requests at port {}", port.name)));
        }
        if self.decide(view, port, &connection(peer, &port.name, Protocol::Tcp))?.is_some() {
            return Err(Refusal::new(Reason::ExternalUnavailable("bytes")).detail(format_args!(
                "a provider is to be asked at port {}, and bytes are nothing to ask about",
                port.name
            )));
        }
        Ok(port.clone())
    }

    /// Whether a stream of bytes that was admitted would be again. Nobody asked: nothing is counted or recorded.
    pub(crate) fn still_admits(view: &Snapshot, service: &str, port: &str, peer: &Peer) -> bool {
        let (Some(port), Some(served)) = (view.routes.inbound(service, port), view.policy.of(service)) else {
            return false;
        };
        let turned = port.protocol == Protocol::Auto && served.policies.speaks_of_requests(&port.name);
        let verdict = served.policies.decide(&connection(peer, &port.name, Protocol::Tcp));
        !turned && verdict.allowed && verdict.ask.is_empty()
    }

    /// Whether policy could let this peer make any request on this port, so that its connection is still good for
    /// something.
    pub(crate) fn may_ask(view: &Snapshot, service: &str, port: &str, peer: &Peer) -> bool {
        let (Some(port), Some(served)) = (view.routes.inbound(service, port), view.policy.of(service)) else {
            return false;
        };
        served.policies.may_permit(&connection(peer, &port.name, port.protocol))
    }

    /// Decides about somebody without an identity: let in as nobody, for as long as the port is permissive.
    pub(crate) fn admit_nobody(
        &self,
        view: &Snapshot,
        service: &str,
        port: &str,
    ) -> Result<Arc<InboundPort>, Refusal> {
        let port = view.routes.inbound(service, port).ok_or(Reason::PortUnknown)?;
        let let_in = view.lets_in_plaintext(port, crate::pool::now());
        let_in.map_err(|strict| Refusal::new(Reason::Plaintext).detail(strict))?;
        Ok(port.clone())
    }

    /// Counts a request that was let in, if there is room for it.
    fn limit(
        &self,
        view: &Snapshot,
        port: &InboundPort,
        caller: Caller<'_>,
        head: RequestView<'_>,
        forward: &mut Forward,
    ) -> Result<(), Refusal> {
        let Some(limits) = view.routes.limits(&port.service) else { return Ok(()) };
        match limits.take(&port.name, caller, head, monotonic()) {
            Ok(None) => {}
            Ok(Some(standing)) => tell(&mut forward.answer_edits, &standing),
            Err(exceeded) => {
                self.shared.metrics.limited(&port.service, &exceeded.standing.name);
                return Err(too_many(&exceeded));
            }
        }
        Ok(())
    }

    /// Notes that a transaction came in, for the chain of its calls.
    fn note_hop(
        &self,
        txn: &Verified,
        peer: &Peer,
        port: &InboundPort,
        (attached, refused, depth): (bool, bool, u32),
    ) {
        let (Some(name), Some(origin)) = (&txn.txn, &txn.origin) else { return };
        let hop = Hop {
            txn: name.clone(),
            peer: peer.id().clone(),
            service: port.service.clone(),
            minted_by: origin.minted_by.clone(),
            attached,
            refused,
            depth,
        };
        self.shared.hops.note(hop, origin, || u64::try_from(now_ms()).unwrap_or_default());
    }

    /// Decides by policy, and says who else has to be asked.
    fn decide(
        &self,
        view: &Snapshot,
        port: &Arc<InboundPort>,
        facts: &Facts<'_>,
    ) -> Result<Option<Box<Check>>, Refusal> {
        let Some(served) = view.policy.of(&port.service) else {
            return Err(Reason::PolicyUnavailable.into());
        };
        let explain = || serde_json::to_string(&served.policies.explain(facts)).unwrap_or_default();
        let mut would_change = false;
        let verdict = served.policies.decide_beside(facts, |shadow| {
            would_change |= shadow.changes;
            self.shared.metrics.shadowed(shadow.policy, shadow.would_allow, shadow.changes);
        });
        for failed in verdict.failed.iter() {
            self.shared.metrics.condition_failed(failed.policy, failed.why);
        }
        for policy in verdict.excepted.iter() {
            self.shared.metrics.excepted(policy);
        }
        if verdict.allowed {
            if would_change {
                self.shared.decisions.record_shadow(explain);
            } else if served.samples > 0 && verdict.ask.is_empty() {
                self.shared.decisions.record_sample(served.samples, explain);
            }
            return Check::of(view, served, port, &verdict.ask, facts.user);
        }
        let reason = match verdict.basis {
            signet_policy::Basis::NotUnderstood => Reason::PolicyUnavailable,
            _ => Reason::Policy,
        };
        let mut refusal = Refusal::new(reason);
        self.shared.decisions.record(refusal.decision, explain);
        refusal.recorded = true;
        Err(refusal)
    }
}

/// What is known of a connection.
fn connection<'a>(peer: &'a Peer, port: &'a str, protocol: Protocol) -> Facts<'a> {
    Facts {
        peer: peer.id(),
        peer_class: peer.class(),
        user: None,
        port,
        protocol,
        method: None,
        path: None,
        grpc: None,
        headers: None,
        now_ms: now_ms(),
    }
}

/// The header fields of a request, for policies that look at one.
pub(crate) struct Lines<'a>(pub(crate) RequestView<'a>);

impl Headers for Lines<'_> {
    fn any_line(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.0.get_all(name).any(|line| test(line.trim_ascii()))
    }
}

impl fmt::Debug for Lines<'_> {
    /// Values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lines")
    }
}

/// Milliseconds since the epoch. A clock before it decides as at it.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Whether this peer's word on users and callers counts.
fn has_a_voice(peer: &Peer, view: &Snapshot) -> bool {
    peer.has_a_voice() && peer.is_of_domain(&view.tls.generation.own().svid().id)
}

impl Stage for Inbound {
    fn audience(&self) -> Audience {
        Audience::Mesh
    }

    async fn admit(
        &self,
        conn: &ConnContext,
        view: &mut Arc<Snapshot>,
        head: RequestView<'_>,
    ) -> Result<Forward, Refusal> {
        let Role::Inbound { service, port, app } = &conn.role else {
            return Err(Refusal::new(Reason::Internal).detail("an inbound request that is not inbound"));
        };
        let Some(peer) = &conn.peer else {
            let port = self.admit_nobody(view, service, port)?;
            // No identity, no user, and no word of its own about either.
            let stripped =
                head.protected_count().saturating_add(head.also_protected(&self.shared.protected()));
            conn.metrics.stripped.inc_by(u64::from(stripped));
            conn.metrics.context(Via::None);
            let mut forward = Forward::to(Target::App(app.clone()), port.timeouts);
            handle::receive(&self.shared, &conn.metrics, head, &mut forward, None);
            self.limit(view, &port, Caller { workload: "", user: None }, head, &mut forward)?;
            return Ok(forward);
        };
        let port = view.routes.inbound(service, port).ok_or(Reason::PortUnknown)?;
        let mut forward = Forward::to(Target::App(app.clone()), port.timeouts);
        let now = crate::pool::now();

        let mut via = Via::None;
        let mut user: Option<&User> = None;
        let mut brought = None;
        let mut came = None;
        let mut proven = None;
        let mut opened = None;
        let (txn, jwt);
        let voice = has_a_voice(peer, view);
        if !voice {
            conn.metrics.stripped.inc_by(u64::from(head.protected_count()));
        } else if let Some(token) = head.get(Known::TxnToken) {
            let hash = exchange::hash(token);
            txn = context::transaction(&self.shared, &view.keys, (token, &hash), now)?;
            let attached = head.get(Known::SignetContext).is_none_or(|how| how != b"forwarded");
            via = if attached { Via::Attached(Carried::Header) } else { Via::Forwarded };
            user = Some(txn.user(attached));
            came = Some((&txn, attached));
            forward.subjects.add(txn.subject.clone());
            txn.actor.iter().for_each(|actor| forward.subjects.add(actor.clone()));
            if port.hop_proof {
                let proofs = &self.shared.proofs;
                let believed = hop_proof::believe(proofs, view, peer, head, &hash, now);
                proven =
                    Some(believed.inspect_err(|_| self.note_hop(&txn, peer, port, (attached, true, 0)))?);
            }
            forward.edits.keep(Known::TxnToken);
            port.user_headers.tell(&mut forward.edits, &txn.header, txn.user(attached));
            // A call that this pod made to itself brings nothing that it did not have.
            if peer.svid().key != view.tls.generation.own().svid().key {
                let exchanges = &self.shared.exchanges;
                forward.exchange = Some(exchanges.open_as(hash, txn.until, attached));
                opened = proven.map(|proven| (hash, proven));
                brought = Some((&txn, token));
            }
        }
        if port.user_context == UserContext::Original {
            let aliases = view.policy.of(service).map_or(&[][..], |served| &served.issuer_aliases);
            jwt = context::original(&self.shared, &view.keys, head.get(Known::Authorization), aliases, now)?;
            via = Via::Original;
            user = Some(jwt.user(false));
            forward.subjects.add(jwt.subject.clone());
            port.user_headers.tell(&mut forward.edits, &jwt.header, jwt.user(false));
        }
        conn.metrics.context(via);
        conn.metrics.stripped.inc_by(u64::from(head.also_protected(&self.shared.protected())));

        let grpc = head.is_grpc().then(|| head.path().strip_prefix('/')).flatten();
        let lines = Lines(head);
        let facts = Facts {
            peer: peer.id(),
            peer_class: peer.class(),
            user,
            port: &port.name,
            protocol: conn.protocol,
            method: Some(head.method()),
            path: Some(head.path()),
            grpc,
            headers: Some(&lines),
            now_ms: now_ms(),
        };
        let caller = Caller { workload: peer.id().as_str(), user: user.map(|user| user.sub.as_str()) };
        let passed = self.decide(view, port, &facts).and_then(|check| {
            forward.check = check;
            self.limit(view, port, caller, head, &mut forward)
        });
        if let Some((txn, attached)) = came {
            let depth = proven.map_or(0, |proven| u32::from(proven.depth));
            self.note_hop(txn, peer, port, (attached, passed.is_err(), depth));
        }
        passed?;
        // Whom policy turns away has no say in what our app's calls are proven to follow.
        if let Some((token, proven)) = opened {
            self.shared.exchanges.came_by(&token, proven);
        }
        handle::receive(&self.shared, &conn.metrics, head, &mut forward, brought);
        if let Some(xfcc) = &conn.xfcc {
            set_xfcc(&mut forward.edits, xfcc);
        }
        Ok(forward)
    }
}

/// A caller under a limit reads in each answer how it stands.
fn tell(edits: &mut Edits, standing: &Standing) {
    let (limit, policy) = standing.headers();
    for (name, value) in [("ratelimit", limit), ("ratelimit-policy", policy)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            edits.set(http::HeaderName::from_static(name), value);
        }
    }
}

fn too_many(exceeded: &Exceeded) -> Refusal {
    let seconds = u32::try_from(exceeded.retry_after.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
    let mut refusal = Refusal::new(Reason::TooManyRequests)
        .detail(format_args!("limit {}", exceeded.standing.name))
        .retry_after(seconds.max(1));
    refusal.limit = Some(Box::new(exceeded.standing.headers()));
    refusal
}

/// Envoy's `SANITIZE_SET`: whatever came is dropped, and the caller's own certificate is said.
fn set_xfcc(edits: &mut Edits, xfcc: &HeaderValue) {
    edits.append(http::HeaderName::from_static("x-forwarded-client-cert"), xfcc.clone());
}

/// What `x-forwarded-client-cert` says of this caller. Made once per connection.
pub(crate) fn xfcc(peer: &Peer, leaf: &[u8], own: &signet_identity::SpiffeId) -> Option<HeaderValue> {
    use std::fmt::Write as _;
    let mut hash = String::with_capacity(64);
    for byte in exchange::hash(leaf) {
        let _ = write!(hash, "{byte:02x}");
    }
    let element = signet_wire::xfcc::Element {
        by: vec![own.to_string()],
        hash: Some(hash),
        uri: vec![peer.id().to_string()],
        ..Default::default()
    };
    let mut text = String::with_capacity(256);
    element.write(&mut text);
    HeaderValue::try_from(text).ok()
}
