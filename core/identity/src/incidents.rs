//! The latest handshake failures of a process, for people.
//!
//! A metric says how many, a log may have been limited or lost. This keeps for each direction and reason the last few
//! peers that it happened with, each with how often, since when, and everything that is known: what came, what was
//! expected, the dates beside our clock, who we were ourselves at that moment, and what to do.
//!
//! Strangers write here before they are authenticated. So it is bounded whatever they send: so many peers of one reason,
//! so few of one address, and one address that sends a thousand names pushes out only its own. What is shown of their
//! words is cut and escaped.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;

use crate::{
    dates::rfc3339,
    failure::{HandshakeFailure, Received},
    generation::Generation,
    revocation::RevocationSet,
};

/// Peers that are kept of one reason in one direction.
const PER_REASON: usize = 8;
/// Of these from one address.
const PER_ADDRESS: usize = 4;
/// Characters of what others said.
const LONGEST: usize = 1024;

/// Who we were when something failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Our SPIFFE ID.
    pub identity: String,
    /// Our class.
    pub class: String,
    /// Our certificate's serial.
    pub serial: String,
    /// The number of the TLS generation.
    pub generation: u64,
    /// The first second of our certificate, since 1970.
    pub not_before: i64,
    /// The last one.
    pub not_after: i64,
    /// The trust domains that we have roots of.
    pub trusted: Vec<String>,
    /// What revokes us, as far as we were told.
    pub revoked_by: Option<String>,
}

impl Own {
    /// Who we are under this generation, as far as these revocations go.
    pub fn of(generation: &Generation, revoked: &RevocationSet) -> Self {
        let svid = generation.own().svid();
        Self {
            identity: svid.id.to_string(),
            class: svid.class.to_string(),
            serial: svid.serial.to_string(),
            generation: generation.number(),
            not_before: svid.not_before,
            not_after: svid.not_after,
            trusted: generation.bundles().iter().map(|bundle| bundle.trust_domain().to_string()).collect(),
            revoked_by: revoked.revokes(svid).map(|by| by.to_string()),
        }
    }
}

/// One failure, as it happens.
#[derive(Debug)]
pub struct Failed<'a> {
    /// Which way: a word out of a fixed list, the metric's.
    pub direction: &'static str,
    /// The service that was called, where that is known; a name of the registry, never one from the wire.
    pub service: &'a str,
    /// The other end. The port of somebody who comes to us says nothing, and is not what peers are told apart by.
    pub remote: Option<SocketAddr>,
    /// Whether we dialled.
    pub dialled: bool,
    /// What went wrong.
    pub failure: &'a HandshakeFailure,
    /// Who we were.
    pub own: Option<Own>,
    /// Our clock, seconds since 1970.
    pub now: i64,
}

/// See the module's story.
#[derive(Debug, Default)]
pub struct Incidents(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_reason: BTreeMap<(&'static str, &'static str), Vec<Entry>>,
    forgotten: u64,
}

#[derive(Debug)]
struct Entry {
    place: Option<SocketAddr>,
    service: String,
    remote: Option<SocketAddr>,
    failure: HandshakeFailure,
    own: Option<Arc<Own>>,
    count: u64,
    first: i64,
    last: i64,
}

impl Entry {
    fn is_of(&self, place: Option<SocketAddr>, failed: &Failed<'_>) -> bool {
        let id = |failure: &HandshakeFailure| failure.received().map(|one| one.id().clone());
        self.place == place
            && self.service == failed.service
            && id(&self.failure) == id(failed.failure)
            && self.failure.alert() == failed.failure.alert()
    }
}

impl Incidents {
    /// Keeps a failure.
    pub fn note(&self, failed: Failed<'_>) {
        let place = failed.remote.map(|remote| {
            let port = if failed.dialled { remote.port() } else { 0 };
            SocketAddr::new(remote.ip().to_canonical(), port)
        });
        let mut kept = self.lock();
        let Kept { by_reason, forgotten } = &mut *kept;
        let entries = by_reason.entry((failed.direction, failed.failure.label())).or_default();
        let known = entries.iter().position(|entry| entry.is_of(place, &failed));
        // The one that changed last is at the end.
        let (count, first) = match known {
            Some(at) => {
                let entry = entries.remove(at);
                (entry.count.saturating_add(1), entry.first)
            }
            None => {
                let of_address = |entry: &Entry| ip(entry.place) == ip(place);
                let gone = if entries.iter().filter(|entry| of_address(entry)).count() >= PER_ADDRESS {
                    entries.iter().position(of_address)
                } else {
                    (entries.len() >= PER_REASON).then_some(0)
                };
                if let Some(at) = gone {
                    *forgotten = forgotten.saturating_add(entries.remove(at).count);
                }
                (1, failed.now)
            }
        };
        entries.push(Entry {
            place,
            service: failed.service.to_owned(),
            remote: failed.remote,
            failure: failed.failure.clone(),
            own: failed.own.map(Arc::new),
            count,
            first,
            last: failed.now,
        });
    }

    /// What is kept, the latest first.
    pub fn report(&self) -> IncidentsReport {
        let kept = self.lock();
        let all = kept.by_reason.iter().flat_map(|((direction, _), entries)| {
            entries.iter().map(move |entry| (entry.last, shown(direction, entry)))
        });
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(last, _)| std::cmp::Reverse(*last));
        IncidentsReport {
            failures: all.into_iter().map(|(_, shown)| shown).collect(),
            forgotten: kept.forgotten,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        // Every change leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ip(place: Option<SocketAddr>) -> Option<std::net::IpAddr> {
    place.map(|place| place.ip())
}

/// The answer of an admin socket.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IncidentsReport {
    /// The latest first.
    pub failures: Vec<Incident>,
    /// How many happened of which nothing but the metric is left, since there were too many kinds.
    pub forgotten: u64,
}

impl IncidentsReport {
    /// This and another one, as one.
    pub fn and(mut self, other: Self) -> Self {
        self.failures.extend(other.failures);
        // Dates of one form and zone: in the order of their letters.
        self.failures.sort_by(|a, b| b.last_seen.cmp(&a.last_seen));
        self.forgotten = self.forgotten.saturating_add(other.forgotten);
        self
    }
}

/// Failures of one kind with one peer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Incident {
    /// `inbound`, `outbound`, …
    pub direction: &'static str,
    /// The metric's label.
    pub reason: &'static str,
    /// The service that was called; empty where that was not known.
    pub service: String,
    /// The other end; the port is that of the last time.
    pub peer: Option<String>,
    /// How often.
    pub count: u64,
    /// When first.
    pub first_seen: String,
    /// When last. All that follows is of that time.
    pub last_seen: String,
    /// What happened.
    pub message: String,
    /// What to do.
    pub what_to_do: String,
    /// Who was expected, where that was the matter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// Which classes were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_class: Option<String>,
    /// What the certificate that came says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<ReceivedReport>,
    /// The alert that the peer sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alert: Option<String>,
    /// Our clock.
    pub now: String,
    /// By how many seconds it would have to be wrong for the certificate to be good: ahead, or, negative, behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skew_seconds: Option<i64>,
    /// Who we were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own: Option<OwnReport>,
}

/// What a refused certificate says of itself.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReceivedReport {
    pub identity: String,
    pub class: String,
    pub serial: String,
    pub not_before: String,
    pub not_after: String,
}

/// Who we were.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnReport {
    pub identity: String,
    pub class: String,
    pub serial: String,
    pub generation: u64,
    pub not_before: String,
    pub not_after: String,
    pub trusted: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_by: Option<String>,
}

fn shown(direction: &'static str, entry: &Entry) -> Incident {
    let Entry { failure, own, last, .. } = entry;
    let own = own.as_deref();
    Incident {
        direction,
        reason: failure.label(),
        service: entry.service.clone(),
        peer: entry.remote.map(|remote| remote.to_string()),
        count: entry.count,
        first_seen: rfc3339(entry.first),
        last_seen: rfc3339(*last),
        message: visible(&failure.to_string()),
        what_to_do: visible(&failure.what_to_do(own, *last)),
        expected: failure.expected().as_deref().map(visible),
        expected_class: failure.expected_class().map(|classes| classes.to_string()),
        received: failure.received().map(received),
        alert: failure.alert(),
        now: rfc3339(*last),
        skew_seconds: failure.skew(),
        own: own.map(own_report),
    }
}

fn received(received: &Received) -> ReceivedReport {
    ReceivedReport {
        identity: visible(received.id().as_str()),
        class: received.class().to_string(),
        serial: received.serial().to_string(),
        not_before: rfc3339(received.not_before()),
        not_after: rfc3339(received.not_after()),
    }
}

fn own_report(own: &Own) -> OwnReport {
    OwnReport {
        identity: own.identity.clone(),
        class: own.class.clone(),
        serial: own.serial.clone(),
        generation: own.generation,
        not_before: rfc3339(own.not_before),
        not_after: rfc3339(own.not_after),
        trusted: own.trusted.clone(),
        revoked_by: own.revoked_by.clone(),
    }
}

/// What others said, in a line and of a length that one can read: for a log as for an answer.
pub fn visible(text: &str) -> String {
    let turns =
        |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut shown = String::new();
    for (at, c) in text.chars().enumerate() {
        if at == LONGEST {
            shown.push('…');
            break;
        }
        if c.is_control() || turns(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests;
