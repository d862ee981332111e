//! The gRPC stream of one sidecar: a loop around the pure parts.
//!
//! It waits for one of five things: the sidecar's word, a change of the world, the end of the peer's
//! certificate, the deadline of an answer, the end of the process. Nothing is polled. Queues are short,
//! and a sidecar that does not read or does not answer is dropped: it reconnects and says what it has.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use signet_audit::Signed;
use signet_ca::{Authority, GivenUp};
use signet_identity::{PeerClass, Serial};
use signet_model::WorkloadId;
use signet_proto::v1::{self, from_sidecar::Message as Said, to_sidecar::Message as Tell};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::acks::Acks;
use super::catalog::{MAX_SUBSCRIPTIONS, NotGranted, Subscriptions};
use super::session::{Session, View};
use super::spread::{Place, Spread};
use super::table::{Entry, Table};
use crate::chains::{Chains, Telling};
use crate::clock::unix_now;
use crate::decisions::{Decisions, Record};
use crate::issuers::Issuers;
use crate::listen::mesh::Caller;
use crate::metrics::Metrics;
use crate::world::World;

/// Messages waiting for the sidecar to read: one delta and a few refusals.
const QUEUE: usize = 8;
const HELLO_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const READ_WITHIN: Duration = Duration::from_secs(10);
/// A hello of [`super::session::MAX_HAVE`] resources fits.
pub const MAX_MESSAGE: usize = 8 * 1024 * 1024;
/// Sidecars are told where the log ends so often at most, and may contradict it as often.
const WITNESS_EVERY: Duration = Duration::from_secs(60);
/// `name.namespace` at its longest, and room.
const MAX_SERVICE_NAME: usize = 330;
/// Decision records per stream: so many at once, then so many per second.
const DECISION_BURST: f64 = 1_000.0;
const DECISIONS_PER_SECOND: f64 = 100.0;
/// The same for hops of transactions: what an honest sidecar may have to tell.
const HOP_BURST: f64 = 10_000.0;
const HOPS_PER_SECOND: f64 = 2_500.0;

/// The service.
#[derive(Clone)]
pub struct Delivery {
    pub world: watch::Receiver<Arc<World>>,
    pub table: Arc<Table>,
    pub acks: Arc<Acks>,
    pub spread: Arc<Spread>,
    /// Sidecars that the authority gives up on.
    pub authority: Authority,
    pub decisions: Arc<Decisions>,
    pub chains: Arc<Chains>,
    pub issuers: Arc<Issuers>,
    pub metrics: Metrics,
}

#[tonic::async_trait]
impl v1::delivery_server::Delivery for Delivery {
    type StreamStream = ReceiverStream<Result<v1::ToSidecar, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::FromSidecar>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let caller = crate::services::caller(&request)?;
        let refuse = |reason: &str| self.metrics.refusals.with_label_values(&["stream", reason]).inc();
        if !matches!(caller.peer.class(), PeerClass::Sidecar | PeerClass::Gateway | PeerClass::Agent) {
            refuse("class");
            return Err(Status::permission_denied("delivery is for the classes sidecar, gateway and agent"));
        }
        // Every identity that the authority issues has this shape; a federated one may not.
        let Some(workload) = WorkloadId::of(caller.peer.id(), caller.peer.id().trust_domain()) else {
            refuse("identity");
            return Err(Status::permission_denied("expected an identity ns/<namespace>/sa/<account>"));
        };
        if caller.streaming.swap(true, Ordering::AcqRel) {
            refuse("second_stream");
            return Err(Status::failed_precondition("this connection has a delivery stream already"));
        }
        let (tell, told) = mpsc::channel(QUEUE);
        let stream = Stream {
            delivery: self.clone(),
            peer: caller.peer.id().to_string(),
            serial: caller.peer.serial(),
            offered: Numbers::default(),
            goes_by: 0,
            place: self.spread.enter(caller.peer.id().as_str()),
            told_head: None,
            contradicted: None,
            workload,
            class: caller.peer.class(),
            tell,
            asked: Subscriptions::default(),
            refused: BTreeSet::new(),
            decisions: Bucket::new(DECISION_BURST, DECISIONS_PER_SECOND),
            hops: Bucket::new(HOP_BURST, HOPS_PER_SECOND),
            telling: None,
        };
        tokio::spawn(async move {
            let streaming = Arc::clone(&caller.streaming);
            stream.run(caller, request.into_inner()).await;
            streaming.store(false, Ordering::Release);
        });
        Ok(Response::new(ReceiverStream::new(told)))
    }
}

/// How a stream ends.
enum End {
    /// The sidecar closed it or is gone.
    Gone,
    /// We close it; the label is for metrics.
    Told(&'static str, Status),
}

impl End {
    fn protocol(reason: impl Into<String>) -> Self {
        Self::Told("protocol", Status::invalid_argument(reason.into()))
    }
}

/// Numbers of the bundle and of the revocations in one view of the world.
#[derive(Debug, Clone, Copy, Default)]
struct Numbers {
    bundle: u64,
    revocations: u64,
}

struct Stream {
    delivery: Delivery,
    peer: String,
    serial: Serial,
    /// In what is under way to the sidecar.
    offered: Numbers,
    /// Number of the last bundle that it took.
    goes_by: u64,
    /// Where it is said which revocations it goes by.
    place: Place,
    /// When it was told last where the log ends, and when it contradicted that.
    told_head: Option<Instant>,
    contradicted: Option<Instant>,
    workload: WorkloadId,
    class: PeerClass,
    tell: mpsc::Sender<Result<v1::ToSidecar, Status>>,
    asked: Subscriptions,
    refused: BTreeSet<(String, NotGranted)>,
    decisions: Bucket,
    hops: Bucket,
    /// As who it tells of transactions, once it does.
    telling: Option<Telling>,
}

/// So many at once, then so many per second.
struct Bucket {
    tokens: f64,
    burst: f64,
    per_second: f64,
    at: Instant,
}

impl Bucket {
    fn new(burst: f64, per_second: f64) -> Self {
        Self { tokens: burst, burst, per_second, at: Instant::now() }
    }

    fn admits(&mut self) -> bool {
        let now = Instant::now();
        let idle = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + idle * self.per_second).min(self.burst);
        let admits = self.tokens >= 1.0;
        if admits {
            self.tokens -= 1.0;
        }
        admits
    }
}

impl Stream {
    async fn run(mut self, caller: Caller, said: Streaming<v1::FromSidecar>) {
        let metrics = self.delivery.metrics.clone();
        metrics.streams.inc();
        let end = self.talk(caller, said).await;
        metrics.streams.dec();
        let label = match end {
            End::Gone => "gone",
            End::Told(label, status) => {
                tracing::info!(target: "signet::delivery", peer = %self.peer, reason = label, detail = status.message(), "stream ended");
                // A full queue means a peer that does not read: it will see the connection's end instead.
                let _ = self.tell.try_send(Err(status));
                label
            }
        };
        metrics.streams_ended.with_label_values(&[label]).inc();
    }

    async fn talk(&mut self, mut caller: Caller, mut said: Streaming<v1::FromSidecar>) -> End {
        let hello = tokio::select! {
            ended = caller.lifeline.ended() => return End::Told(ended.label(), ended.status()),
            first = tokio::time::timeout(HELLO_WITHIN, said.message()) => match first {
                Ok(Ok(Some(v1::FromSidecar { message: Some(Said::Hello(hello)) }))) => hello,
                Ok(Ok(Some(_))) => return End::protocol("expected a hello first"),
                Ok(Ok(None) | Err(_)) => return End::Gone,
                Err(_) => return End::Told("no_hello", Status::deadline_exceeded("no hello")),
            },
        };
        let entry = self.delivery.table.enter(v1::SidecarStatus {
            spiffe_id: self.peer.clone(),
            peer_class: self.class.to_string(),
            connected_at: unix_now(),
            version: hello.version,
            ..Default::default()
        });
        let mut session = match Session::new(hello.have) {
            Ok(session) => session,
            Err(error) => return End::protocol(error.to_string()),
        };
        if let Err(end) = self.subscribe(hello.services, hello.serves, &[]) {
            return end;
        }
        let mut world = self.delivery.world.clone();
        let (mut view, mut numbers) = match self.look(&mut world).await {
            Ok(seen) => seen,
            Err(end) => return end,
        };
        let mut given_up = self.delivery.authority.given_up();
        let mut head = self.delivery.authority.log_head();
        head.mark_changed();
        let mut answer_by = tokio::time::Instant::now();
        loop {
            if let Some(delta) = session.next(&view, unix_now()) {
                self.delivery.metrics.deltas.with_label_values(&["sent"]).inc();
                if let Err(end) = self.tell(Tell::Delta(delta)).await {
                    return end;
                }
                self.offered = numbers;
                answer_by = tokio::time::Instant::now() + ANSWER_WITHIN;
            } else if !session.waits() {
                // Nothing of it differs from what the sidecar has.
                self.took(numbers, &session);
            }
            progress(&entry, &session);
            let look = tokio::select! {
                biased;
                ended = caller.lifeline.ended() => return End::Told(ended.label(), ended.status()),
                changed = world.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return End::Told("draining", Status::unavailable("the control plane is ending")),
                },
                message = said.message() => match message {
                    Ok(Some(v1::FromSidecar { message: Some(message) })) => match self.hear(message, &mut session) {
                        Ok(look) => look,
                        Err(end) => return end,
                    },
                    // A message of a kind that this control plane does not know: a newer sidecar.
                    Ok(Some(v1::FromSidecar { message: None })) => false,
                    Ok(None) | Err(_) => return End::Gone,
                },
                Ok(()) = head.changed() => {
                    let signed = head.borrow_and_update().clone();
                    if let Err(end) = self.witness(signed).await {
                        return end;
                    }
                    false
                },
                lost = given_up.recv() => match self.is_lost(lost) {
                    true => return End::Told("stale", Status::failed_precondition(
                        "the newest roots and keys were not acknowledged in time: connect again and take them"
                    )),
                    false => false,
                },
                () = tokio::time::sleep_until(answer_by), if session.waits() => {
                    return End::Told("slow", Status::deadline_exceeded("no answer to a delta"));
                }
            };
            if look {
                (view, numbers) = match self.look(&mut world).await {
                    Ok(seen) => seen,
                    Err(end) => return end,
                };
            }
        }
    }

    /// What this peer may have now; new refusals are said at once.
    async fn look(&mut self, world: &mut watch::Receiver<Arc<World>>) -> Result<(View, Numbers), End> {
        let now = Arc::clone(&world.borrow_and_update());
        let granted = now.catalog.view(&self.workload, self.class, &self.asked);
        let new: Vec<_> = granted.refused.difference(&self.refused).cloned().collect();
        self.refused = granted.refused;
        for (service, why) in new {
            self.delivery.metrics.subscriptions_refused.with_label_values(&[why.label()]).inc();
            tracing::info!(target: "signet::delivery", peer = %self.peer, ?service, reason = why.label(), "subscription refused");
            self.tell(Tell::Refused(v1::Refused { service, reason: why.reason().into() })).await?;
        }
        Ok((granted.view, Numbers { bundle: now.bundle, revocations: now.revocations }))
    }

    /// True when the view must be looked at again.
    fn hear(&mut self, message: Said, session: &mut Session) -> Result<bool, End> {
        let metrics = &self.delivery.metrics;
        match message {
            Said::Hello(_) => Err(End::protocol("a second hello")),
            Said::Subscribe(v1::Subscribe { services, addresses }) => {
                self.subscribe(services, Vec::new(), &addresses)
            }
            Said::Ack(v1::Ack { nonce }) => {
                metrics.deltas.with_label_values(&["acked"]).inc();
                session.ack(nonce).map_err(|e| End::protocol(e.to_string()))?;
                self.took(self.offered, session);
                Ok(false)
            }
            Said::Nack(v1::Nack { nonce, rejected }) => {
                metrics.deltas.with_label_values(&["nacked"]).inc();
                session.nack(nonce, rejected).map_err(|e| End::protocol(e.to_string()))?;
                for (name, reason) in session.rejected() {
                    tracing::warn!(target: "signet::delivery", peer = %self.peer, name, ?reason, "resource rejected");
                }
                self.took(self.offered, session);
                Ok(false)
            }
            Said::Decisions(v1::Decisions { records, dropped, hops }) => {
                metrics.decisions.with_label_values(&["dropped_by_sidecar"]).inc_by(dropped);
                records.into_iter().for_each(|record| self.record(record));
                if let Some(hops) = hops {
                    self.received(hops);
                }
                Ok(false)
            }
            Said::Leaving(v1::Leaving {}) => {
                self.delivery.acks.leaves(self.serial);
                Ok(false)
            }
            Said::LogContradiction(report) => {
                self.contradicts(&report);
                Ok(false)
            }
            Said::UnknownKey(v1::UnknownKey { issuer_alias }) => {
                self.delivery.issuers.want(&issuer_alias);
                Ok(false)
            }
        }
    }

    /// The sidecar goes by the bundle with this number, if it took the roots and keys in it, and by these revocations.
    fn took(&mut self, Numbers { bundle, revocations }: Numbers, session: &Session) {
        if !session.rejected().keys().any(|name| name.starts_with("revocations")) {
            self.place.holds(revocations);
        }
        let of_bundle = |name: &String| {
            name.starts_with("bundle/") || name.starts_with("jwt-bundle/") || name == "token-roots"
        };
        if bundle > self.goes_by && !session.rejected().keys().any(of_bundle) {
            self.goes_by = bundle;
            self.delivery.acks.goes_by(self.serial, bundle);
        }
    }

    /// Tells where the log ends, now and then.
    async fn witness(&mut self, signed: Option<Arc<Signed>>) -> Result<(), End> {
        let lately = |at: Instant| at.elapsed() < WITNESS_EVERY;
        let Some(signed) = signed.filter(|_| self.told_head.is_none_or(|at| !lately(at))) else {
            return Ok(());
        };
        self.told_head = Some(Instant::now());
        let statement = &signed.statement;
        self.tell(Tell::LogHead(v1::LogHead {
            audit_key: self.delivery.authority.audit_key().to_pem(),
            replica: statement.replica.clone(),
            sequence: statement.sequence,
            hash: statement.hash.to_vec(),
            at: statement.at,
            signature: signed.signature.clone(),
        }))
        .await
    }

    /// What a sidecar remembers of the log is not what it was told now. A sidecar in other hands may say so of any log:
    /// many that do are what counts.
    fn contradicts(&mut self, report: &v1::LogContradiction) {
        let reason = match report.reason.as_str() {
            known @ ("key" | "signature" | "regress" | "fork") => known,
            _ => "other",
        };
        self.delivery.metrics.log_contradictions.with_label_values(&[reason]).inc();
        if self.contradicted.is_none_or(|at| at.elapsed() >= WITNESS_EVERY) {
            self.contradicted = Some(Instant::now());
            // Numbers only: a sidecar in other hands must not fill the log with words of its own.
            let sequence = |head: &Option<v1::LogHead>| head.as_ref().map(|head| head.sequence);
            tracing::error!(target: "signet::audit", peer = %self.peer, reason,
                held = sequence(&report.held), told = sequence(&report.told), "a sidecar remembers another issuance log: compare it with an export (signet ca audit verify)");
        }
    }

    /// Whether this sidecar is one of those that were given up on. Who lags behind the news of it looks again when
    /// it renews.
    fn is_lost(&self, lost: Result<Arc<Vec<GivenUp>>, broadcast::error::RecvError>) -> bool {
        lost.is_ok_and(|lost| {
            lost.iter().any(|one| one.spiffe_id == self.peer && self.goes_by < one.sequence)
        })
    }

    fn subscribe(
        &mut self,
        dials: Vec<String>,
        serves: Vec<String>,
        addresses: &[String],
    ) -> Result<bool, End> {
        let before = self.asked.len();
        if dials.iter().chain(&serves).any(|name| name.len() > MAX_SERVICE_NAME) {
            return Err(End::protocol("a service name is too long"));
        }
        self.asked.dials.extend(dials);
        self.asked.serves.extend(serves);
        for address in addresses {
            let Ok(address) = address.parse::<IpAddr>() else {
                return Err(End::protocol("an address is not an IP literal"));
            };
            self.asked.addresses.insert(address.to_canonical());
        }
        if self.asked.len() > MAX_SUBSCRIPTIONS {
            return Err(End::Told("too_many", Status::resource_exhausted("too many subscriptions")));
        }
        Ok(self.asked.len() != before)
    }

    fn record(&mut self, decision: v1::Decision) {
        let result = if !self.decisions.admits() {
            "flood"
        } else {
            let v1::Decision { id, at_ms, workload, json, beside } = decision;
            let record = Record { id, at_ms, workload, json };
            self.delivery.decisions.report(&self.peer, record, beside).map_or_else(|r| r.label(), |()| "kept")
        };
        self.delivery.metrics.decisions.with_label_values(&[result]).inc();
    }

    /// What came in at the sidecar. It tells by one name for as long as the stream lives.
    fn received(&mut self, hops: v1::Hops) {
        let chains = &self.delivery.chains;
        let telling =
            self.telling.get_or_insert_with(|| chains.comes(&self.peer, self.serial, hops.reporter));
        telling.hear(hops, || self.hops.admits());
    }

    async fn tell(&self, message: Tell) -> Result<(), End> {
        let message = v1::ToSidecar { message: Some(message) };
        match tokio::time::timeout(READ_WITHIN, self.tell.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::Told("slow", Status::deadline_exceeded("the stream is not read"))),
        }
    }
}

fn progress(entry: &Entry, session: &Session) {
    let rejected = session.rejected().iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
    entry.progress(session.sent_nonce(), session.acked_nonce(), rejected);
}
