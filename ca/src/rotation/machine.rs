//! The rotation machine, pure: journal, facts and clock in, the next step out.
//!
//! ```text
//! (requested) → prepared → published → acknowledged → active → draining → removed
//! ```
//!
//! * *requested*: the key exists, and waits for a signature: an issuer's for the root's, a root's for that of a root
//!   which is kept elsewhere.
//! * *prepared*: the key is durable; nobody has heard of it.
//! * *published*: verifiers are told of it; nothing is signed with it. An issuer travels in the chain of what it
//!   signs, so it needs no publication and goes from prepared to active.
//! * *acknowledged*: whoever is alive has it, or was given up on past the deadline.
//! * *active*: it signs. There is one per kind and owner.
//! * *draining*: it signs no more, and is still believed.
//! * *removed*: it is believed no more and its key is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::config::seconds;

/// What rotates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The mesh's root; its own by default, or an intermediate under a root that is kept elsewhere.
    Root,
    /// One replica's issuer of SVIDs.
    Issuer,
    /// One replica's key under which delegations to gateways are believed.
    Token,
    /// One replica's key for JWT-SVIDs.
    Jwt,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Root, Kind::Issuer, Kind::Token, Kind::Jwt];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Root => "root",
            Kind::Issuer => "issuer",
            Kind::Token => "token",
            Kind::Jwt => "jwt",
        }
    }

    pub fn parse(text: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// Whether verifiers must be told before it may sign.
    pub(crate) fn is_published(self) -> bool {
        self != Kind::Issuer
    }
}

/// Where an authority stands; see the module's story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    Requested,
    Prepared,
    Published,
    Acknowledged,
    Active,
    Draining,
    Removed,
}

impl Phase {
    const ALL: [Phase; 7] = [
        Phase::Requested,
        Phase::Prepared,
        Phase::Published,
        Phase::Acknowledged,
        Phase::Active,
        Phase::Draining,
        Phase::Removed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Requested => "requested",
            Phase::Prepared => "prepared",
            Phase::Published => "published",
            Phase::Acknowledged => "acknowledged",
            Phase::Active => "active",
            Phase::Draining => "draining",
            Phase::Removed => "removed",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Phase> {
        Phase::ALL.into_iter().find(|phase| phase.as_str() == text)
    }

    /// Whether verifiers are told of it.
    pub(crate) fn is_believed(self) -> bool {
        matches!(self, Phase::Published | Phase::Acknowledged | Phase::Active | Phase::Draining)
    }
}

/// How soon a successor is to take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hurry {
    /// When the schedule of the one before says so.
    Schedule,
    /// As soon as the fleet has acknowledged.
    Acknowledged,
    /// At once: an operator forces it.
    Now,
}

impl Hurry {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Hurry::Schedule => "schedule",
            Hurry::Acknowledged => "acknowledged",
            Hurry::Now => "now",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Hurry> {
        [Hurry::Schedule, Hurry::Acknowledged, Hurry::Now].into_iter().find(|hurry| hurry.as_str() == text)
    }
}

/// One authority, as the journal has it. Times are seconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Hex: a certificate's serial, or a key's thumbprint.
    pub(crate) id: String,
    pub(crate) kind: Kind,
    /// The replica; empty for what the whole mesh shares.
    pub(crate) owner: String,
    pub(crate) phase: Phase,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    /// Number of the bundle that first had it; 0 before.
    pub(crate) sequence: u64,
    /// When it came into its phase.
    pub(crate) since: i64,
    /// An issuer's root.
    pub(crate) parent: Option<String>,
    /// Its key may be in other hands, since then.
    pub(crate) tainted_at: Option<i64>,
    pub(crate) hurry: Hurry,
}

impl Slot {
    fn life(&self) -> i64 {
        self.not_after.saturating_sub(self.not_before).max(0)
    }

    fn has_ended(&self, now: i64) -> bool {
        now > self.not_after
    }

    pub(crate) fn is_next(&self) -> bool {
        matches!(self.phase, Phase::Requested | Phase::Prepared | Phase::Published | Phase::Acknowledged)
    }
}

/// Where roots come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Roots {
    /// Keys and certificates are made here.
    #[default]
    Made,
    /// Keys are made here, and certificates are signed under a root that is kept elsewhere.
    Requested,
    /// Keys and certificates are given: none is made here.
    Given,
}

/// What is known beside the journal.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) now: i64,
    /// The oldest bundle that a live sidecar still goes by; none where no sidecar is alive. Those that were given
    /// up on do not count.
    pub(crate) acked: Option<u64>,
    /// When the last certificate under a root or issuer ends.
    pub(crate) last_end: BTreeMap<String, i64>,
    /// Live sidecars whose certificate is still under this root or issuer.
    pub(crate) holders: BTreeMap<String, u64>,
    /// Replicas that are alive.
    pub(crate) replicas: BTreeSet<String>,
    pub(crate) roots: Roots,
}

/// When what happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationConfig {
    /// Roots follow each other by themselves. Off, only an operator begins and ends a rotation of the root.
    pub automatic: bool,
    /// How long a successor waits for live sidecars before those that are silent are given up on.
    pub ack_deadline: Duration,
    /// How long a published root or key is waited for by those who fetch the bundle and never acknowledge: five
    /// times their refresh hint.
    pub consumers_wait: Duration,
    /// A successor is made at half of life, but no sooner than this before the end.
    pub prepare_cap: Duration,
    /// It takes over at two thirds of life, but no sooner than this before the end.
    pub activate_cap: Duration,
    /// Life of token and JWT keys.
    pub key_life: Duration,
    /// How far clocks of verifiers may be behind.
    pub skew: Duration,
}

impl Default for RotationConfig {
    fn default() -> Self {
        const DAY: u64 = 24 * 3600;
        RotationConfig {
            automatic: true,
            ack_deadline: Duration::from_secs(600),
            consumers_wait: Duration::from_secs(5 * 300),
            prepare_cap: Duration::from_secs(90 * DAY),
            activate_cap: Duration::from_secs(60 * DAY),
            key_life: Duration::from_secs(30 * DAY),
            skew: Duration::from_secs(120),
        }
    }
}

/// The longest that anything signed by a key is believed: a delegation, or a token minted under one; a JWT-SVID.
pub(crate) const SIGNED_BY_KEY: i64 = 2 * 3600;

/// Who asks: what may be done by one is not done by another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Actor<'a> {
    /// Holds the lease for what concerns the whole mesh.
    pub(crate) leads: bool,
    pub(crate) replica: &'a str,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make a key, and for a root its certificate; for an issuer, the request for one.
    Make {
        kind: Kind,
        hurry: Hurry,
    },
    /// The root signs a requested issuer.
    SignIssuer {
        id: String,
        root: String,
    },
    Publish {
        id: String,
    },
    /// Live sidecars that do not have this bundle are not waited for any longer.
    GiveUp {
        sequence: u64,
    },
    Acknowledge {
        id: String,
    },
    /// It takes over from the one that was active.
    Activate {
        id: String,
        instead_of: Option<String>,
    },
    /// Its replica is gone: it signs no more.
    Retire {
        id: String,
    },
    Remove {
        id: String,
    },
}

/// The step that is due for this actor, if any. Performing it changes the journal so that it is not due again.
pub(crate) fn next(slots: &[Slot], facts: &Facts, config: &RotationConfig, actor: Actor<'_>) -> Option<Step> {
    let machine = Machine { slots, facts, config, actor };
    let root = if actor.leads { machine.succession(Kind::Root, "") } else { None };
    root.or_else(|| machine.requests())
        .or_else(|| {
            [Kind::Issuer, Kind::Token, Kind::Jwt]
                .into_iter()
                .find_map(|kind| machine.succession(kind, actor.replica))
        })
        .or_else(|| machine.lost_replicas())
        .or_else(|| machine.removal())
}

struct Machine<'a> {
    slots: &'a [Slot],
    facts: &'a Facts,
    config: &'a RotationConfig,
    actor: Actor<'a>,
}

impl<'a> Machine<'a> {
    fn find(&self, kind: Kind, owner: &str, phase: impl Fn(&Slot) -> bool) -> Option<&'a Slot> {
        self.slots.iter().find(|slot| slot.kind == kind && slot.owner == owner && phase(slot))
    }

    fn active(&self, kind: Kind, owner: &str) -> Option<&'a Slot> {
        self.find(kind, owner, |slot| slot.phase == Phase::Active)
    }

    /// The next step of one line of authorities towards its next active one.
    fn succession(&self, kind: Kind, owner: &str) -> Option<Step> {
        let active = self.active(kind, owner);
        let Some(next) = self.find(kind, owner, Slot::is_next) else {
            let hurry = self.wanted(kind, active)?;
            if kind == Kind::Root && self.facts.roots == Roots::Given {
                return None;
            }
            // An issuer is signed by a root that is there to sign.
            let possible = kind != Kind::Issuer || self.active(Kind::Root, "").is_some();
            return possible.then_some(Step::Make { kind, hurry });
        };
        let id = next.id.clone();
        if next.tainted_at.is_some() || self.is_outdated(next) {
            return Some(Step::Remove { id });
        }
        match next.phase {
            Phase::Prepared if kind.is_published() => Some(Step::Publish { id }),
            Phase::Published => self.acknowledgement(next, active),
            Phase::Prepared | Phase::Acknowledged if self.takes_over(next, active) => {
                Some(Step::Activate { id, instead_of: active.map(|slot| slot.id.clone()) })
            }
            _ => None,
        }
    }

    /// An issuer that was signed by a root before the one that signs now, and never took over; a request to a root that
    /// is no longer kept elsewhere.
    fn is_outdated(&self, next: &Slot) -> bool {
        if next.kind == Kind::Root {
            return next.phase == Phase::Requested && self.facts.roots != Roots::Requested;
        }
        let root = self.active(Kind::Root, "").map(|root| root.id.as_str());
        next.kind == Kind::Issuer && next.phase == Phase::Prepared && next.parent.as_deref() != root
    }

    /// Whether nobody is told of another of this kind: there is nobody yet who could not verify it. The keys of a
    /// replica that joins a mesh are not the first.
    fn is_first(&self, kind: Kind) -> bool {
        !self
            .slots
            .iter()
            .any(|slot| slot.kind == kind && slot.phase != Phase::Published && slot.phase.is_believed())
    }

    /// Whether a successor is to be made now, and how soon it is to take over.
    fn wanted(&self, kind: Kind, active: Option<&Slot>) -> Option<Hurry> {
        let Some(active) = active else {
            return Some(if self.is_first(kind) { Hurry::Now } else { Hurry::Acknowledged });
        };
        // A root that has ended may be a clock that is wrong: a mesh is not begun anew without an operator's word.
        if kind == Kind::Root && active.has_ended(self.facts.now) {
            return None;
        }
        if active.tainted_at.is_some() || active.has_ended(self.facts.now) {
            return Some(Hurry::Acknowledged);
        }
        if kind == Kind::Issuer {
            let root = self.active(Kind::Root, "");
            if root.is_some_and(|root| active.parent.as_deref() != Some(root.id.as_str())) {
                return Some(Hurry::Now);
            }
            // Under a root that is about to end, a new issuer would end no later than the present one.
            if root.is_some_and(|root| root.not_after <= active.not_after) {
                return None;
            }
        }
        (self.goes_by_itself(kind) && self.facts.now >= prepare_at(active, self.config))
            .then_some(Hurry::Schedule)
    }

    fn acknowledgement(&self, next: &Slot, active: Option<&Slot>) -> Option<Step> {
        let now = self.facts.now;
        let waited = now.saturating_sub(next.since);
        // Where nothing is in force there is nobody who could still be served by waiting.
        let alone = match active {
            Some(active) => active.has_ended(now),
            None => self.is_first(next.kind),
        };
        let lagging = self.facts.acked.is_some_and(|acked| acked < next.sequence);
        if next.hurry == Hurry::Now || alone || (!lagging && waited >= self.consumers_wait(next, active)) {
            return Some(Step::Acknowledge { id: next.id.clone() });
        }
        let deadline = seconds(self.config.ack_deadline);
        (lagging && waited >= deadline).then_some(Step::GiveUp { sequence: next.sequence })
    }

    /// A tainted authority is not waited for longer than the sidecars need.
    fn consumers_wait(&self, next: &Slot, active: Option<&Slot>) -> i64 {
        let tainted = active.is_some_and(|active| active.tainted_at.is_some());
        // Delegations and their keys are known to sidecars alone, and a replica that joins is not to be without a key
        // for long.
        if tainted || next.kind == Kind::Token || active.is_none() {
            0
        } else {
            seconds(self.config.consumers_wait)
        }
    }

    fn takes_over(&self, next: &Slot, active: Option<&Slot>) -> bool {
        let Some(active) = active else { return true };
        next.hurry != Hurry::Schedule
            || active.tainted_at.is_some()
            || active.has_ended(self.facts.now)
            || self.goes_by_itself(next.kind) && self.facts.now >= activate_at(active, self.config)
    }

    fn goes_by_itself(&self, kind: Kind) -> bool {
        kind != Kind::Root || self.config.automatic
    }

    /// Issuers that wait for the root's signature; only the leader opens it.
    fn requests(&self) -> Option<Step> {
        if !self.actor.leads {
            return None;
        }
        let root = self.active(Kind::Root, "").filter(|root| !root.has_ended(self.facts.now))?;
        let request = self.slots.iter().find(|s| s.kind == Kind::Issuer && s.phase == Phase::Requested)?;
        Some(Step::SignIssuer { id: request.id.clone(), root: root.id.clone() })
    }

    /// Keys of replicas that were not seen for long sign no more. The leader's act.
    fn lost_replicas(&self) -> Option<Step> {
        if !self.actor.leads {
            return None;
        }
        let lost = |slot: &&Slot| {
            !slot.owner.is_empty()
                && !self.facts.replicas.contains(&slot.owner)
                && !matches!(slot.phase, Phase::Draining | Phase::Removed)
        };
        self.slots.iter().find(lost).map(|slot| Step::Retire { id: slot.id.clone() })
    }

    fn removal(&self) -> Option<Step> {
        let mine = |slot: &&Slot| {
            slot.phase == Phase::Draining
                && (slot.owner == self.actor.replica
                    || self.actor.leads
                        && (slot.owner.is_empty() || !self.facts.replicas.contains(&slot.owner)))
        };
        let done = self.slots.iter().filter(mine).find(|slot| self.is_drained(slot))?;
        Some(Step::Remove { id: done.id.clone() })
    }

    /// Whether nothing is left that needs it.
    fn is_drained(&self, slot: &Slot) -> bool {
        let now = self.facts.now;
        let skew = seconds(self.config.skew);
        let last_end = self.facts.last_end.get(&slot.id).copied().unwrap_or(slot.since);
        let ended = now > last_end.max(slot.since).saturating_add(skew);
        let waited = now > slot.since.saturating_add(seconds(self.config.ack_deadline));
        let tainted = slot.tainted_at.is_some();
        // What a tainted one signed was to be replaced at once.
        let replaced = tainted && (waited || self.facts.holders.get(&slot.id).copied().unwrap_or(0) == 0);
        match slot.kind {
            Kind::Issuer => ended || replaced || slot.has_ended(now),
            Kind::Token | Kind::Jwt => {
                tainted && waited || now > slot.since.saturating_add(SIGNED_BY_KEY).saturating_add(skew)
            }
            Kind::Root => {
                let successor = self.active(Kind::Root, "").is_some_and(|root| !root.has_ended(now));
                let signs = self.slots.iter().any(|issuer| {
                    issuer.kind == Kind::Issuer
                        && matches!(issuer.phase, Phase::Prepared | Phase::Active)
                        && issuer.parent.as_deref() == Some(slot.id.as_str())
                        && !issuer.has_ended(now)
                });
                successor && !signs && (ended || replaced)
            }
        }
    }
}

/// When a successor is made. An issuer's whole rotation happens in its last third.
pub(crate) fn prepare_at(slot: &Slot, config: &RotationConfig) -> i64 {
    let before_end = match slot.kind {
        Kind::Issuer => slot.life() / 3,
        _ => (slot.life() / 2).min(seconds(config.prepare_cap)),
    };
    slot.not_after.saturating_sub(before_end)
}

/// When it takes over.
pub(crate) fn activate_at(slot: &Slot, config: &RotationConfig) -> i64 {
    let before_end = match slot.kind {
        Kind::Issuer => slot.life() / 3,
        _ => (slot.life() / 3).min(seconds(config.activate_cap)),
    };
    slot.not_after.saturating_sub(before_end)
}
