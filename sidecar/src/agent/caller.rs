//! One connection of one process: who it is, while it is that.
//!
//! The first look, right after it connected, says which program it is; whenever something may have changed (the
//! registry, our certificate, a few seconds) it is looked at again. A process that ended, became another program or
//! changed its user gets nothing more and loses what it has: its streams end with a refusal, its keys are dropped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use signet_identity::SpiffeId;
use signet_model::ProcessFacts;
use signet_proto::v1;
use signet_proto::v1::processes_client::ProcessesClient;
use signet_proxy::state::Tls;
use signet_workload::{Bundles, Caller, Identity, JwtSvid, Process, Refused, Served, State};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::Shared;
use super::entries::{Entry, ask_for_digests, meant};
use super::look::{Blind, Program, Seen};
use super::requests::Requests;
use crate::backoff::{Backoff, chance, renew_in};
use crate::candidate::Candidate;
use crate::clock::{self, rfc3339};
use crate::control::plane::ControlPlane;
use crate::identity::{MAX_ANSWER, call, longest_of_life};
use crate::workload::News;
use crate::workload::leaf::{Leaf, LeafError, believe};
use crate::workload::tokens::{Tokens, refused};

/// A process is looked at again after this long, whatever happens.
const LOOK: Duration = Duration::from_secs(5);
/// Identities of one process.
const MOST: usize = 16;
/// How long a call for a token waits for what is known of its process.
const FIRST: Duration = Duration::from_secs(10);

const NOT_MEANT: &str = "no Registration of this agent means this process";
const NOT_ISSUED: &str = "the authority does not issue to this process";
const REVOKED: &str = "the agent is revoked, or not registered any more";
const GONE: &str = "the process has ended";

/// See the module's story.
pub(super) struct Guest {
    shared: Arc<Shared>,
    caller: Caller,
    process: Arc<Process>,
    state: watch::Sender<State>,
    left: Notify,
    /// What it was when it connected.
    program: Mutex<Option<Program>>,
    /// Its tokens, by the entry that gave them.
    tokens: Mutex<BTreeMap<String, Arc<Tokens>>>,
}

/// What it has by one entry.
struct Held {
    id: SpiffeId,
    leaf: Option<Leaf>,
    denied: bool,
    backoff: Backoff,
    not_before: Instant,
    jitter: f64,
}

/// What the state was made of, so that nobody is woken for nothing.
#[derive(PartialEq)]
struct Made {
    leaves: Vec<signet_identity::Serial>,
    generation: u64,
    refused: Option<&'static str>,
    jwt: News,
}

impl Guest {
    pub(super) fn new(shared: Arc<Shared>, caller: Caller, process: Process) -> Arc<Self> {
        Arc::new(Self {
            shared,
            caller,
            process: Arc::new(process),
            state: watch::Sender::new(State::Waiting),
            left: Notify::new(),
            program: Mutex::default(),
            tokens: Mutex::default(),
        })
    }

    pub(super) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Its connection is gone.
    pub(super) fn leave(&self) {
        self.left.notify_one();
    }

    /// Attends to it until it leaves or ends; its keys go with this.
    pub(super) async fn attend(self: Arc<Self>) {
        tokio::select! {
            () = self.keep() => {}
            () = self.left.notified() => {}
            () = self.process.ended() => {}
        }
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.state.send_replace(State::Refused(GONE));
    }

    /// Looks at it; the first look says which program it is.
    async fn look(&self, entries: &[Entry]) -> Result<Seen, Blind> {
        let looked = self.shared.eyes.look(self.caller, self.process.clone(), ask_for_digests(entries)).await;
        let seen = looked.and_then(|seen| {
            let mut first = self.program.lock().unwrap_or_else(PoisonError::into_inner);
            match first.get_or_insert(seen.program).is_file_of(&seen.program) {
                true => Ok(seen),
                false => Err(Blind::Program),
            }
        });
        let outcome = if seen.is_ok() { "seen" } else { "blind" };
        self.shared.looks.with_label_values(&[outcome]).inc();
        seen
    }

    async fn keep(&self) {
        let (mut credentials, mut news) = (self.shared.credentials.watch(), self.shared.news.clone());
        let mut held: BTreeMap<String, Held> = BTreeMap::new();
        let mut made: Option<Made> = None;
        let mut told: Option<Result<ProcessFacts, Blind>> = None;
        loop {
            let tls = credentials.borrow_and_update().clone();
            let heard = news.borrow_and_update().clone();
            let entries = heard.processes.clone().unwrap_or_default();
            let seen = self.look(&entries).await;
            self.tell(&seen, &mut told);
            let (refusal, facts) = match &seen {
                Ok(seen) => (None, Some(&seen.facts)),
                Err(blind) => (Some(blind.outward()), None),
            };
            let meant = facts.map(|facts| meant(&entries, facts, MOST)).unwrap_or_default();
            self.drop_what_is_over(&meant, &mut held, tls.as_ref());
            let refusal = refusal
                .or_else(|| (heard.shut_out || tls.as_ref().is_some_and(is_revoked)).then_some(REVOKED))
                .or_else(|| (heard.processes.is_some() && meant.is_empty()).then_some(NOT_MEANT));
            // What it no longer has is taken back before anything new is asked for.
            self.publish(&meant, &held, refusal, tls.as_ref(), &heard, &mut made);
            let mut wait = LOOK;
            if let (None, Some(tls), Some(facts)) = (refusal, &tls, facts) {
                for entry in &meant {
                    let one = held.entry(entry.name.clone()).or_insert_with(|| Held::new(entry.id.clone()));
                    if self.is_due(one).is_zero() {
                        self.issue(entry, facts, tls, one).await;
                    }
                    wait = wait.min(self.is_due(one));
                }
                self.publish(&meant, &held, None, Some(tls), &heard, &mut made);
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = credentials.changed() => if changed.is_err() { return },
                changed = news.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Drops keys and tokens of what no longer means it, or does not fit the roots any more.
    fn drop_what_is_over(&self, meant: &[Entry], held: &mut BTreeMap<String, Held>, tls: Option<&Tls>) {
        held.retain(|name, one| meant.iter().any(|entry| entry.name == *name && entry.id == one.id));
        for one in held.values_mut() {
            if one.leaf.as_ref().is_some_and(|leaf| !leaf.fits(tls)) {
                one.leaf = None;
                one.not_before = Instant::now();
            }
        }
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|name, _| meant.iter().any(|entry| entry.name == *name));
    }

    /// How long it still is until a certificate is to be asked for.
    fn is_due(&self, one: &Held) -> Duration {
        let due = match &one.leaf {
            None => Duration::ZERO,
            Some(leaf)
                if self.shared.credentials.taints(leaf.svid.svid())
                    && !self.shared.credentials.is_tainted() =>
            {
                Duration::ZERO
            }
            Some(leaf) => renew_in(leaf.issued_at, leaf.not_after(), leaf.renew_at, clock::now(), one.jitter),
        };
        due.max(one.not_before.saturating_duration_since(Instant::now()))
    }

    async fn issue(&self, entry: &Entry, facts: &ProcessFacts, tls: &Tls, one: &mut Held) {
        let issued = issue(&self.shared.requests, entry, facts, tls).await;
        self.shared.metrics.workload_issued("svid", issued.is_ok());
        let Caller { uid, pid, .. } = self.caller;
        match issued {
            Ok(leaf) => {
                let svid = leaf.svid.svid();
                tracing::info!(target: "signet::agent", id = %svid.id, serial = %svid.serial, uid, pid,
                    registration = entry.name, not_after = %rfc3339(svid.not_after), "a certificate for a process");
                let life = leaf.not_after().saturating_sub(leaf.issued_at);
                *one = Held {
                    backoff: Backoff::new(Duration::from_secs(1), longest_of_life(life)),
                    jitter: chance(),
                    leaf: Some(leaf),
                    ..Held::new(entry.id.clone())
                };
            }
            Err(error) => {
                one.denied = error.is_denied();
                let retry = one.backoff.next(chance());
                one.not_before = Instant::now() + retry;
                tracing::warn!(target: "signet::agent", %error, uid, pid, registration = entry.name,
                    retry_in_ms = retry.as_millis() as u64, has_valid = one.leaf.is_some(),
                    "no new certificate for a process");
            }
        }
    }

    /// Tells of what changed, and of nothing else.
    fn publish(
        &self,
        meant: &[Entry],
        held: &BTreeMap<String, Held>,
        refused: Option<&'static str>,
        tls: Option<&Tls>,
        news: &News,
        made: &mut Option<Made>,
    ) {
        let now = clock::now();
        let all: Vec<&Held> = meant.iter().filter_map(|entry| held.get(&entry.name)).collect();
        let leaves: Vec<&Leaf> = all
            .iter()
            .filter_map(|one| one.leaf.as_ref())
            // Nobody is served what has ended.
            .filter(|leaf| now <= leaf.not_after())
            .collect();
        let denied = leaves.is_empty() && !all.is_empty() && all.iter().all(|one| one.denied);
        let refused = refused.or(denied.then_some(NOT_ISSUED));
        let this = Made {
            leaves: leaves.iter().map(|leaf| leaf.svid.svid().serial).collect(),
            generation: tls.map_or(0, |tls| tls.generation.number()),
            refused,
            jwt: News { processes: None, ..news.clone() },
        };
        if made.as_ref() == Some(&this) {
            return;
        }
        let state = match (refused, tls) {
            (Some(why), _) => State::Refused(why),
            (None, Some(tls)) if !leaves.is_empty() => State::Served(Arc::new(Served {
                identities: leaves
                    .iter()
                    .map(|leaf| Identity { svid: leaf.svid.clone(), hint: String::new() })
                    .collect(),
                bundles: Bundles {
                    x509: tls.generation.bundles().clone(),
                    jwt: news.jwt.clone(),
                    crls: news.lists.clone(),
                },
            })),
            _ => State::Waiting,
        };
        self.state.send_replace(state);
        *made = Some(this);
    }

    /// Tokens, for what the process is at this moment.
    pub(super) async fn tokens(
        &self,
        audiences: Vec<String>,
        wanted: Option<SpiffeId>,
    ) -> Result<Vec<JwtSvid>, Refused> {
        let late = || Refused::Unavailable("nothing is known of this process yet; try again".to_owned());
        let denied = |why: &str| Refused::Denied(why.to_owned());
        let mut news = self.shared.news.clone();
        let known = tokio::time::timeout(FIRST, news.wait_for(|news| news.processes.is_some()));
        let heard = known.await.ok().and_then(Result::ok).map(|news| news.clone()).ok_or_else(late)?;
        let entries = heard.processes.clone().ok_or_else(late)?;
        if heard.shut_out || self.shared.credentials.current().is_some_and(|tls| is_revoked(&tls)) {
            return Err(denied(REVOKED));
        }
        let seen = self.look(&entries).await.map_err(|blind| denied(blind.outward()))?;
        let mut meant = meant(&entries, &seen.facts, MOST);
        if meant.is_empty() {
            return Err(denied(NOT_MEANT));
        }
        if let Some(wanted) = wanted {
            meant.retain(|entry| entry.id == wanted);
            if meant.is_empty() {
                return Err(denied("the SPIFFE ID is another's"));
            }
        }
        let mut tokens = Vec::new();
        for entry in &meant {
            let kept = {
                let mut all = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
                Arc::clone(all.entry(entry.name.clone()).or_default())
            };
            let plane = &self.shared.plane;
            let ask = async |audiences: &[String]| ask_for_token(plane, entry, &seen.facts, audiences).await;
            let token = kept.get(&entry.id, audiences.clone(), ask).await;
            self.shared.metrics.workload_issued("jwt-svid", token.is_ok());
            tokens.push(token?);
        }
        Ok(tokens)
    }

    /// Says in the log who somebody is, once and whenever that changes.
    fn tell(&self, seen: &Result<Seen, Blind>, told: &mut Option<Result<ProcessFacts, Blind>>) {
        let now = seen.as_ref().map(|seen| seen.facts.clone()).map_err(|blind| *blind);
        if told.as_ref() == Some(&now) {
            return;
        }
        let (pid, connection) = (self.process.pid(), self.caller.connection);
        match &now {
            Ok(facts) => {
                tracing::info!(target: "signet::agent", pid, connection, %facts, "a process connected")
            }
            Err(blind) => {
                tracing::warn!(target: "signet::agent", pid, connection, uid = self.caller.uid, reason = %blind,
                    "a process gets nothing");
            }
        }
        *told = Some(now);
    }
}

impl Held {
    fn new(id: SpiffeId) -> Self {
        Self {
            id,
            leaf: None,
            denied: false,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            not_before: Instant::now(),
            jitter: chance(),
        }
    }
}

fn is_revoked(tls: &Tls) -> bool {
    tls.revoked.revokes(tls.generation.own().svid()).is_some()
}

fn said(facts: &ProcessFacts) -> v1::ProcessFacts {
    v1::ProcessFacts {
        uid: facts.uid,
        gid: facts.gid,
        user: facts.user.clone().unwrap_or_default(),
        group: facts.group.clone().unwrap_or_default(),
        supplementary_gids: facts.supplementary_gids.clone(),
        path: facts.path.clone().unwrap_or_default(),
        sha256: facts.sha256.map(Vec::from).unwrap_or_default(),
    }
}

/// Asks for a certificate by this entry, with a key that was made for it.
async fn issue(
    requests: &Requests,
    entry: &Entry,
    facts: &ProcessFacts,
    tls: &Tls,
) -> Result<Leaf, LeafError> {
    let candidate = Candidate::new()?;
    let asked = v1::ProcessX509 {
        csr_der: candidate.csr_der().to_vec(),
        registration: entry.name.clone(),
        facts: Some(said(facts)),
    };
    let issued = requests.ask(asked).await.map_err(|status| LeafError::refused(&status))?;
    believe(issued, &candidate, &entry.id, tls)
}

async fn ask_for_token(
    plane: &Arc<ControlPlane>,
    entry: &Entry,
    facts: &ProcessFacts,
    audiences: &[String],
) -> Result<v1::IssuedJwtSvid, Refused> {
    let (_, link) = plane.link().await.map_err(|error| Refused::Unavailable(error.to_string()))?;
    let origin = link.origin();
    let mut client = ProcessesClient::with_origin(link, origin).max_decoding_message_size(MAX_ANSWER);
    let request = v1::IssueProcessJwtRequest {
        audiences: audiences.to_vec(),
        registration: entry.name.clone(),
        facts: Some(said(facts)),
    };
    call(client.issue_jwt(request)).await.map_err(|status| refused(&status))
}
