//! The delivery stream: opened, kept, opened again.
//!
//! One task owns everything that this process was told. It says hello with what it has, applies what comes,
//! subscribes when a request first needs a service, and hands in records of decisions. When the stream ends
//! it dials again with backoff; meanwhile everything goes on with what is known. A rotation of our own
//! certificate moves the stream to a new connection, so that it never outlives the certificate under it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use signet_daemon::Shutdown;
use signet_identity::SpiffeId;
use signet_proto::v1;
use signet_proto::v1::delivery_client::DeliveryClient;
use signet_proto::v1::from_sidecar::Message as Say;
use signet_proto::v1::to_sidecar::Message as Hear;
use signet_proxy::decision::{DecisionRecord, DecisionSink};
use signet_proxy::hops::Hops;
use signet_proxy::state::Wanted;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::convert::Item;
use super::delivery::Deliveries;
use super::heads::{Damaged, Kept};
use super::hops::Teller;
use super::link::SILENCE;
use super::plane::{ControlPlane, PlaneError};
use super::witness::Witness;
use crate::backoff::{Backoff, chance};
use crate::clock;
use crate::credentials::Credentials;
use crate::gateway;
use crate::metrics::Metrics;
use crate::publish::Publisher;
use crate::status::Status;

/// Messages on their way to the control plane: an answer, a few subscriptions, a batch. When so many wait,
/// nobody reads.
const OUTGOING: usize = 64;
/// One delta: every service of a large mesh. Past it something is wrong with the sender.
const MAX_DELTA: usize = 64 * 1024 * 1024;
/// Services and addresses asked for by requests, the latter on one stream. Together they stay below what the control
/// plane takes of one peer: past that it would end the stream, and an app that dials at random (a scan, a crawler)
/// would cut its sidecar off from news of policies and revocations.
const MAX_WISHED: usize = 2_000;
/// See [`MAX_WISHED`].
pub const MAX_ADDRESSES: usize = 1_000;
/// Names that apps looked up, on one stream, which are no services: most are misspelt, or made up. See [`MAX_WISHED`].
pub const MAX_NAMES: usize = 1_000;
/// So many of the last addresses are asked for again on the next stream.
const ASKED_AGAIN: usize = 64;
/// Records are kept so long or so many before they are sent together.
const BATCH: (Duration, usize) = (Duration::from_millis(500), 64);
/// A stream that lived so long was a good one: the next failure is the first again.
const GOOD: Duration = Duration::from_secs(30);
/// A first answer that takes longer does not come.
const OPENING: Duration = Duration::from_secs(10);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Plane(#[from] PlaneError),
    #[error("the control plane ended the stream ({:?}): {}", .0.code(), .0.message())]
    Status(tonic::Status),
    #[error("the control plane closed the stream")]
    Closed,
    #[error("the control plane did not open the stream within {} s", OPENING.as_secs())]
    Opening,
    #[error("the control plane does not read what we send")]
    Stuck,
    #[error("our certificate was renewed")]
    Rotated,
}

impl Ended {
    /// We are somebody who may not be there any more.
    fn is_shut_out(&self) -> bool {
        matches!(self, Ended::Status(status) if status.code() == tonic::Code::PermissionDenied)
    }

    /// The other side said so, or we did: until this moment there was news.
    fn was_told(&self) -> bool {
        matches!(self, Ended::Closed | Ended::Rotated)
    }
}

/// What the stream needs of the rest of the process.
pub struct Parts {
    /// Whom to dial.
    pub plane: Arc<ControlPlane>,
    /// When to dial anew.
    pub credentials: Arc<Credentials>,
    /// Where news goes.
    pub publisher: Arc<Publisher>,
    /// What is shown to people and probes.
    pub status: Arc<Status>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// First uses of services.
    pub wishes: mpsc::Receiver<Wanted>,
    /// Records of decisions.
    pub decisions: mpsc::Receiver<DecisionRecord>,
    /// Which transactions came in.
    pub hops: Arc<Hops>,
    /// Knows how many records were dropped.
    pub sink: Arc<DecisionSink>,
    /// Where the ends of the issuance log are kept.
    pub kept: Kept,
    /// Services that the configuration dials.
    pub dialled: BTreeSet<String>,
    /// Services that the configuration serves.
    pub served: BTreeSet<String>,
    /// When the process ends, nobody is to wait for it.
    pub shutdown: Shutdown,
}

/// See the module's story.
pub struct Discovery {
    parts: Parts,
    deliveries: Deliveries,
    witness: Witness,
    /// Everything that we subscribe to: configured, wished for, routed to.
    services: BTreeSet<String>,
    /// Names that apps looked up and that this stream asked for, and whether they were refused.
    names: HashMap<String, bool>,
    /// Addresses that this stream asked for.
    addresses: usize,
    /// The last of them, by whichever stream: when it ended, some may not have been answered.
    asked: VecDeque<String>,
    batch: Vec<v1::Decision>,
    hops: Teller,
}

/// Goes on with what was known of the issuance log before a restart. What cannot be believed of it is said and counted,
/// and no reason not to run.
fn resume(parts: &Parts, trust_domain: &str) -> Witness {
    let mut witness = Witness::new(trust_domain);
    let resumed = parts
        .kept
        .read(trust_domain)
        .and_then(|kept| kept.map_or(Ok(None), |heads| witness.resume(&heads)).map_err(Damaged::from));
    match resumed {
        Ok(newest) => {
            if let Some(signed_at) = newest {
                parts.metrics.log_head_signed.set(signed_at);
            }
        }
        Err(error) => {
            tracing::error!(target: "signet::audit", %error,
                "what was kept of the issuance log cannot be believed: it was put aside as log-heads.json.refused, and what was known is forgotten");
            parts.metrics.log_contradictions.with_label_values(&["file"]).inc();
        }
    }
    parts.status.log_heads(witness.heads());
    witness
}

impl Discovery {
    /// A discovery that knows nothing yet.
    pub fn new(parts: Parts) -> Self {
        let services = parts.dialled.clone();
        let own = SpiffeId::parse(parts.status.id());
        let hops = Teller::new(parts.hops.clone());
        let witness = resume(&parts, own.as_ref().map_or("", |id| id.trust_domain().as_str()));
        Self {
            parts,
            deliveries: Deliveries::new(),
            witness,
            services,
            names: HashMap::new(),
            addresses: 0,
            asked: VecDeque::new(),
            batch: Vec::new(),
            hops,
        }
    }

    /// Runs for ever.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(15));
        loop {
            let began = tokio::time::Instant::now();
            let mut credentials = self.parts.credentials.watch();
            credentials.mark_unchanged();
            let ended = match self.stream(&mut credentials).await {
                Ok(never) => match never {},
                Err(ended) => ended,
            };
            // A link that went silent was given up late: what it last said may be as old as that.
            let silence = if ended.was_told() { Duration::ZERO } else { SILENCE };
            self.parts.publisher.is_cut_off(clock::now().saturating_sub(silence.as_secs() as i64));
            if ended.is_shut_out() {
                self.parts.publisher.shut_out(true);
            }
            self.parts.metrics.connected.set(0);
            self.parts.status.disconnected(&ended.to_string());
            if matches!(ended, Ended::Rotated) {
                tracing::debug!(target: "signet::control", "moving to a connection under the new certificate");
                continue;
            }
            if began.elapsed() >= GOOD {
                backoff.reset();
            }
            let wait = backoff.next(chance());
            tracing::warn!(target: "signet::control", reason = %ended, retry_in_ms = wait.as_millis() as u64,
                address = self.parts.plane.address(), "no delivery stream; going on with what is known");
            tokio::time::sleep(wait).await;
        }
    }

    async fn stream(
        &mut self,
        credentials: &mut watch::Receiver<Option<signet_proxy::state::Tls>>,
    ) -> Result<std::convert::Infallible, Ended> {
        let (generation, link) = self.parts.plane.link().await?;
        let origin = link.origin();
        let mut client = DeliveryClient::with_origin(link, origin).max_decoding_message_size(MAX_DELTA);
        let (say, said) = mpsc::channel(OUTGOING);
        send(&say, Say::Hello(self.hello()))?;
        // What was looked up in vain is not asked for again before somebody looks it up again.
        self.names.clear();
        self.addresses = self.asked.len();
        if !self.asked.is_empty() {
            let addresses = self.asked.iter().cloned().collect();
            send(&say, Say::Subscribe(v1::Subscribe { services: Vec::new(), addresses }))?;
        }
        self.parts.publisher.asks_anew();
        self.hops.begins();
        let opening = tokio::time::timeout(OPENING, client.stream(ReceiverStream::new(said)));
        let mut hear: Streaming<v1::ToSidecar> =
            opening.await.map_err(|_| Ended::Opening)?.map_err(Ended::Status)?.into_inner();
        self.parts.metrics.connected.set(1);
        self.parts.status.connected(generation);
        tracing::info!(target: "signet::control", address = self.parts.plane.address(), generation,
            have = self.deliveries.versions().len(), "delivery stream open");

        let shutdown = self.parts.shutdown.clone();
        let mut leaving = std::pin::pin!(shutdown.draining());
        let mut left = false;
        let mut flush = tokio::time::interval(BATCH.0);
        flush.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                heard = hear.message() => match heard {
                    Ok(Some(message)) => self.hear(message, &say)?,
                    Ok(None) => return Err(Ended::Closed),
                    Err(status) => return Err(Ended::Status(status)),
                },
                changed = credentials.changed() => {
                    // The sender lives as long as the process.
                    let rotated = changed.is_ok() && credentials.borrow_and_update().as_ref()
                        .is_some_and(|tls| tls.generation.number() != generation);
                    if rotated {
                        return Err(Ended::Rotated);
                    }
                }
                Some(wanted) = self.parts.wishes.recv() => self.wish(wanted, &say)?,
                Some(record) = self.parts.decisions.recv(), if self.batch.len() < BATCH.1 => self.batch.push(self.decision(record)),
                _ = flush.tick() => {
                    self.parts.kept.keep(Instant::now(), || self.witness.heads());
                    self.flush(&say)?;
                }
                () = &mut leaving, if !left => {
                    left = true;
                    send(&say, Say::Leaving(v1::Leaving {}))?;
                }
            }
        }
    }

    fn hello(&self) -> v1::Hello {
        v1::Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            have: self.deliveries.haves(),
            services: self.services.iter().cloned().collect(),
            serves: self.parts.served.iter().cloned().collect(),
        }
    }

    fn hear(&mut self, message: v1::ToSidecar, say: &mpsc::Sender<v1::FromSidecar>) -> Result<(), Ended> {
        match message.message {
            Some(Hear::Delta(delta)) => self.apply(delta, say),
            Some(Hear::Refused(refused)) if self.is_misspelt(&refused.service) => {
                tracing::debug!(target: "signet::control", service = refused.service, reason = refused.reason,
                    "a name that was looked up is no service");
                self.parts.publisher.refused(&refused.service, &refused.reason);
                Ok(())
            }
            Some(Hear::Refused(refused)) => {
                tracing::warn!(target: "signet::control", service = refused.service, reason = refused.reason,
                    "the control plane refuses a service");
                self.parts.publisher.refused(&refused.service, &refused.reason);
                self.parts.status.refused(refused.service, refused.reason);
                Ok(())
            }
            Some(Hear::LogHead(head)) => match self.witness.hear(head) {
                Ok(signed_at) => {
                    self.parts.metrics.log_head_signed.set(signed_at);
                    self.parts.status.log_heads(self.witness.heads());
                    self.parts.kept.change();
                    self.parts.kept.keep(Instant::now(), || self.witness.heads());
                    Ok(())
                }
                Err((wrong, report)) => {
                    tracing::error!(target: "signet::audit", reason = wrong.label(), ?report,
                        "the issuance log contradicts what was said of it before");
                    self.parts.metrics.log_contradictions.with_label_values(&[wrong.label()]).inc();
                    send(say, Say::LogContradiction(*report))
                }
            },
            // From a newer control plane: what we do not know cannot be needed by what we do.
            None => Ok(()),
        }
    }

    fn apply(&mut self, delta: v1::Delta, say: &mpsc::Sender<v1::FromSidecar>) -> Result<(), Ended> {
        let metrics = &self.parts.metrics;
        if delta.now != 0 {
            metrics.clock_skew.set(delta.now.saturating_sub(clock::now()));
        }
        let (changed, answer) = self.deliveries.apply(delta);
        if let Say::Nack(nack) = &answer {
            for rejected in &nack.rejected {
                tracing::error!(target: "signet::control", resource = rejected.name, reason = rejected.reason,
                    "a resource cannot be read");
            }
        }
        self.parts.publisher.publish(&self.deliveries, &changed);
        // The first delta of a stream comes even when nothing differs: before it a view is not known to be new.
        self.parts.publisher.is_live();
        metrics.deltas.inc();
        metrics.rejected.set(i64::try_from(self.deliveries.rejected().len()).unwrap_or(i64::MAX));
        self.parts.status.applied(&self.deliveries);
        send(say, answer)?;

        // What came by address, and what the gateway routes to, is asked for by name from now on.
        self.services.extend(
            changed
                .services
                .iter()
                .filter(|service| self.deliveries.get(&format!("service/{service}")).is_some())
                .cloned(),
        );
        self.names.retain(|name, _| !self.services.contains(name));
        if changed.gateway {
            let routed: Vec<String> = self
                .deliveries
                .items()
                .filter_map(|item| match item {
                    Item::Gateway(gateway, attached) => Some(gateway::services(gateway, attached)),
                    _ => None,
                })
                .flatten()
                .filter(|service| !self.services.contains(service))
                .collect();
            self.services.extend(routed.iter().cloned());
            if !routed.is_empty() {
                send(say, Say::Subscribe(v1::Subscribe { services: routed, addresses: Vec::new() }))?;
            }
        }
        Ok(())
    }

    /// Whether this was only ever looked up by an app; from now on it is known to be refused.
    fn is_misspelt(&mut self, service: &str) -> bool {
        match self.names.get_mut(service) {
            Some(refused) if !self.services.contains(service) => {
                *refused = true;
                true
            }
            _ => false,
        }
    }

    fn wish(&mut self, wanted: Wanted, say: &mpsc::Sender<v1::FromSidecar>) -> Result<(), Ended> {
        let mut subscribe = v1::Subscribe::default();
        match wanted {
            Wanted::Service(name) => {
                if self.services.len() >= MAX_WISHED {
                    self.parts.publisher.refused(&name, "too many services were asked for");
                    return Ok(());
                }
                self.services.insert(name.to_string());
                subscribe.services.push(name.to_string());
            }
            Wanted::Name(name) => match self.names.get(&*name) {
                // It is not refused twice on one stream; and what was forgotten of it is said again.
                Some(true) => {
                    self.parts.publisher.refused(&name, "no such service was there when it was looked up");
                    return Ok(());
                }
                Some(false) => return Ok(()),
                None if self.names.len() >= MAX_NAMES => {
                    self.parts.publisher.refused(&name, "too many names were looked up that are no services");
                    return Ok(());
                }
                None => {
                    self.names.insert(name.to_string(), false);
                    subscribe.services.push(name.to_string());
                }
            },
            // Unanswered, it is refused when the first use has waited its time.
            Wanted::Address(_) if self.addresses >= MAX_ADDRESSES => return Ok(()),
            Wanted::Address(address) => {
                self.addresses += 1;
                let address = address.to_string();
                if !self.asked.contains(&address) {
                    if self.asked.len() >= ASKED_AGAIN {
                        self.asked.pop_front();
                    }
                    self.asked.push_back(address.clone());
                }
                subscribe.addresses.push(address);
            }
            Wanted::IssuerKeys(alias) => {
                return send(say, Say::UnknownKey(v1::UnknownKey { issuer_alias: alias.to_string() }));
            }
        }
        send(say, Say::Subscribe(subscribe))
    }

    fn decision(&self, record: DecisionRecord) -> v1::Decision {
        v1::Decision {
            id: record.id.to_string(),
            at_ms: i64::try_from(record.at_ms).unwrap_or(i64::MAX),
            workload: self.parts.status.id().to_owned(),
            json: record.json,
            beside: record.beside,
        }
    }

    fn flush(&mut self, say: &mpsc::Sender<v1::FromSidecar>) -> Result<(), Ended> {
        let dropped = self.parts.sink.take_dropped();
        self.parts.metrics.decisions_dropped.inc_by(dropped);
        let hops = self.hops.report();
        if self.batch.is_empty() && dropped == 0 && hops.is_none() {
            return Ok(());
        }
        // Kept until it is on its way: a stream that broke is no reason to forget why somebody was refused. Hops that
        // are lost are missed, as each report says where the one before ended.
        send(say, Say::Decisions(v1::Decisions { records: self.batch.clone(), dropped, hops }))?;
        self.batch.clear();
        Ok(())
    }
}

fn send(say: &mpsc::Sender<v1::FromSidecar>, message: Say) -> Result<(), Ended> {
    say.try_send(v1::FromSidecar { message: Some(message) }).map_err(|error| match error {
        TrySendError::Full(_) => Ended::Stuck,
        TrySendError::Closed(_) => Ended::Closed,
    })
}
