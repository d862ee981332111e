//! The policies of one service, indexed by caller.

use std::cell::Cell;
use std::collections::BTreeSet;

use foldhash::HashMap;
use signet_identity::TrustDomain;
use signet_model::when::Attribute;
use signet_model::{Effect, Mode, Moment, ObjectName, PolicyDocument, PolicySpec, WorkloadPattern};

use crate::condition::{Truth, from, holds, holds_when};
use crate::explain::NotUnderstood;
use crate::facts::Facts;
use crate::verdict::{Basis, Failed, Few, NAMED, ShadowOutcome, Unproven, Verdict};

/// A policy under the name by which it is reported.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) name: Box<str>,
    pub(crate) spec: PolicySpec,
    exceptions: Vec<Exception>,
    /// `name.namespace` of whom it asks.
    pub(crate) provider: Option<Box<str>>,
}

/// Whom a forbid spares, until when.
#[derive(Debug)]
pub(crate) struct Exception {
    pub(crate) until: Moment,
    pub(crate) owner: Box<str>,
    /// What it asks, as a permit does.
    spec: PolicySpec,
}

impl Exception {
    fn is_over(&self, now_ms: i64) -> bool {
        self.until.unix().saturating_mul(1000) <= now_ms
    }
}

impl Named {
    fn new(name: &str, provider: Option<ObjectName>, mut spec: PolicySpec) -> Named {
        // Kept apart, so that whoever walks the conditions of a policy cannot take them for its own.
        let exceptions = std::mem::take(&mut spec.exceptions);
        let exceptions = exceptions.iter().map(|exception| Exception {
            until: exception.until,
            owner: exception.owner.as_str().into(),
            spec: exception.as_permit(),
        });
        let provider = provider.map(|provider| provider.to_string().into());
        Named { name: name.into(), exceptions: exceptions.collect(), provider, spec }
    }
}

/// Places in the list of policies, by what they can do to a verdict.
#[derive(Debug, Default)]
struct Lane {
    forbids: Vec<usize>,
    permits: Vec<usize>,
    shadows: Vec<usize>,
    externals: Vec<usize>,
}

/// Every policy that targets one service, compiled once and asked for each request.
#[derive(Debug)]
pub struct PolicySet {
    pub(crate) own: TrustDomain,
    pub(crate) service: ObjectName,
    pub(crate) default_allow: bool,
    /// In the order of their names, so that what is reported does not depend on the order of arrival.
    pub(crate) policies: Vec<Named>,
    /// Not empty: everything is denied.
    pub(crate) not_understood: Vec<NotUnderstood>,
    /// Policies without `from`.
    anyone: Lane,
    /// By namespace, for `ns/<namespace>/sa/*`.
    namespaces: HashMap<Box<str>, Lane>,
    /// By `ns/<namespace>/sa/<account>`.
    workloads: HashMap<Box<str>, Lane>,
    /// By federated trust domain: policies that name any workload of it.
    federated: HashMap<TrustDomain, Lane>,
    pub(crate) reads: Reads,
    has: Has,
}

/// Which kinds of policies there are at all: most sets have permits only.
#[derive(Debug, Default)]
struct Has {
    forbids: bool,
    shadows: bool,
    externals: bool,
}

impl Has {
    fn of(policies: &[Named]) -> Has {
        let any = |test: fn(&PolicySpec) -> bool| policies.iter().any(|policy| test(&policy.spec));
        Has {
            forbids: any(|spec| spec.mode == Mode::Enforce && spec.effect == Effect::Forbid),
            shadows: any(|spec| spec.mode == Mode::Shadow),
            externals: any(|spec| spec.mode == Mode::Enforce && spec.effect == Effect::External),
        }
    }
}

impl PolicySet {
    /// Compiles the policies of `service`: pairs of a name (for messages) and a MeshPolicy or GuardRail as JSON. One
    /// document that cannot be understood, or that targets another service, and the whole set denies.
    /// Identities are those of the trust domain `own`.
    pub fn compile<N: AsRef<str>, J: AsRef<str>>(
        own: &TrustDomain,
        service: &ObjectName,
        docs: impl IntoIterator<Item = (N, J)>,
        default_allow: bool,
    ) -> PolicySet {
        let mut policies = Vec::new();
        let mut not_understood = Vec::new();
        for (name, json) in docs {
            let mut refuse = |reason: String| {
                not_understood.push(NotUnderstood { policy: name.as_ref().to_owned(), reason });
            };
            match PolicyDocument::from_json(json.as_ref()) {
                Err(error) => refuse(error.to_string()),
                Ok(policy) if !policy.targets(service) => refuse(format!("it does not target `{service}`")),
                Ok(policy) => {
                    let (name, provider) = (policy.reported_name(), policy.provider());
                    policies.extend(policy.into_spec().map(|spec| Named::new(&name, provider, spec)));
                }
            }
        }
        // Whoever there is no room for would not be asked.
        let providers: BTreeSet<_> = policies.iter().filter_map(|policy| policy.provider.clone()).collect();
        if providers.len() > NAMED {
            let reason =
                format!("expected at most {NAMED} providers for one service, got {}", providers.len());
            not_understood.push(NotUnderstood { policy: "effect: external".to_owned(), reason });
        }
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        not_understood.sort_by(|a, b| a.policy.cmp(&b.policy));
        let mut set = PolicySet {
            own: own.clone(),
            service: service.clone(),
            default_allow,
            policies: Vec::new(),
            not_understood,
            anyone: Lane::default(),
            namespaces: HashMap::default(),
            workloads: HashMap::default(),
            federated: HashMap::default(),
            reads: Reads::of(&policies),
            has: Has::of(&policies),
        };
        for (place, policy) in policies.iter().enumerate() {
            set.index(place, &policy.spec);
        }
        set.policies = policies;
        set
    }

    /// `name.namespace` of the service that the set is for.
    pub fn service(&self) -> &ObjectName {
        &self.service
    }

    /// The documents for whose sake everything is denied, with reasons; empty when all is well.
    pub fn not_understood(&self) -> &[NotUnderstood] {
        &self.not_understood
    }

    /// Whether the same facts may be decided otherwise at another time.
    pub fn depends_on_time(&self) -> bool {
        let reads_time = |spec: &PolicySpec| spec.when.as_ref().is_some_and(|when| when.reads().time);
        self.policies.iter().any(|policy| !policy.exceptions.is_empty() || reads_time(&policy.spec))
    }

    /// Whether bytes without requests cannot be judged on this port, since a policy speaks of requests there.
    pub fn speaks_of_requests(&self, port: &str) -> bool {
        self.policies.iter().any(|policy| policy.spec.speaks_of_requests(port))
    }

    /// Decides about somebody without an identity at a port that is permissive. Nothing is asked of such a caller: where
    /// any policy would ask, nobody of that kind is let in, so that no condition ever meets a caller without facts.
    pub fn decide_unproven(&self, port: &str) -> Unproven<'_> {
        if let Some(policy) = self.not_understood.first() {
            return Unproven::NotUnderstood(&policy.policy);
        }
        let (mut permitted, mut forbidden) = (self.default_allow, false);
        for policy in self.policies.iter().filter(|policy| policy.spec.is_on(port)) {
            if let Some(field) = policy.spec.asks_on(port) {
                return Unproven::Asked { policy: &policy.name, field };
            }
            match (policy.spec.mode, policy.spec.effect) {
                (Mode::Shadow, _) => {}
                (Mode::Enforce, Effect::Permit) => permitted = true,
                // An external asks on its port whatever it is: it came no further than the line above.
                (Mode::Enforce, Effect::Forbid | Effect::External) => forbidden = true,
            }
        }
        if permitted && !forbidden { Unproven::Permitted } else { Unproven::Denied }
    }

    /// Decides. Allocates nothing.
    pub fn decide(&self, facts: &Facts<'_>) -> Verdict<'_> {
        self.decide_beside(facts, |_| ())
    }

    /// As [`PolicySet::decide`]; `shadow` hears of every shadow policy that matched.
    pub fn decide_beside<'s>(
        &'s self,
        facts: &Facts<'_>,
        mut shadow: impl FnMut(ShadowOutcome<'s>),
    ) -> Verdict<'s> {
        let mut verdict = Verdict {
            allowed: false,
            basis: Basis::NotUnderstood,
            deciding: Few::new(),
            shadow: Few::new(),
            shadow_allowed: false,
            failed: Few::new(),
            excepted: Few::new(),
            ask: Few::new(),
        };
        if !self.not_understood.is_empty() {
            return verdict;
        }
        let failed = Cell::new(Few::new());
        let lanes = self.lanes(facts);
        if self.has.forbids {
            for policy in self.matching(&lanes, facts, &failed, |lane| &lane.forbids) {
                let spared = self.spared(policy, facts).is_some();
                (if spared { &mut verdict.excepted } else { &mut verdict.deciding }).push(&*policy.name);
            }
        }
        let is_forbidden = !verdict.deciding.is_empty();
        let permit = self.matching(&lanes, facts, &failed, |lane| &lane.permits).next();
        (verdict.allowed, verdict.basis) = match permit {
            _ if is_forbidden => (false, Basis::Forbid),
            Some(policy) => {
                verdict.deciding.push(&*policy.name);
                (true, Basis::Permit)
            }
            // The mesh's default is for its own: somebody of another trust domain needs to be named.
            None => (self.default_allow && lanes.is_own, Basis::Default),
        };
        if verdict.allowed && self.has.externals {
            for policy in self.matching(&lanes, facts, &failed, |lane| &lane.externals) {
                match policy.provider.as_deref() {
                    Some(provider) if !verdict.ask.contains(&provider) => verdict.ask.push(provider),
                    Some(_) => {}
                    // The model refuses it: somebody is to be asked, and nobody knows who.
                    None => (verdict.allowed, verdict.basis) = (false, Basis::NotUnderstood),
                }
            }
        }
        let (mut shadow_forbids, mut shadow_permits) = (false, false);
        if self.has.shadows {
            for policy in self.matching(&lanes, facts, &failed, |lane| &lane.shadows) {
                if self.spared(policy, facts).is_some() {
                    continue;
                }
                let would_allow = policy.spec.effect == Effect::Permit;
                *(if would_allow { &mut shadow_permits } else { &mut shadow_forbids }) = true;
                let changes = if would_allow { !verdict.allowed && !is_forbidden } else { verdict.allowed };
                let outcome = ShadowOutcome { policy: &policy.name, would_allow, changes };
                verdict.shadow.push(outcome);
                shadow(outcome);
            }
        }
        verdict.shadow_allowed = !shadow_forbids && (verdict.allowed || (shadow_permits && !is_forbidden));
        verdict.failed = failed.get();
        verdict
    }

    /// Whether some request of this peer on this port could be permitted: of the facts only who calls, where and when is
    /// looked at. `false` says that the connection is good for nothing any more, whatever is asked on it.
    pub fn may_permit(&self, facts: &Facts<'_>) -> bool {
        if !self.not_understood.is_empty() {
            return false;
        }
        let lanes = self.lanes(facts);
        let mut forbids = self.concerning(&lanes, facts, |lane| &lane.forbids);
        if forbids
            .any(|policy| !policy.spec.speaks_of_requests(facts.port) && !self.could_be_spared(policy, facts))
        {
            return false;
        }
        let is_permitted = self.concerning(&lanes, facts, |lane| &lane.permits).next().is_some();
        is_permitted || self.default_allow && lanes.is_own
    }

    /// The exception by which a forbid that matches does not forbid.
    pub(crate) fn spared<'s>(&'s self, policy: &'s Named, facts: &Facts<'_>) -> Option<&'s Exception> {
        policy.exceptions.iter().find(|exception| {
            !exception.is_over(facts.now_ms)
                && from(&exception.spec, facts, &self.own) == Truth::Yes
                && holds(&exception.spec, facts, &self.service, |_| ())
        })
    }

    /// Whether some request of this peer could be spared.
    fn could_be_spared(&self, policy: &Named, facts: &Facts<'_>) -> bool {
        policy.exceptions.iter().any(|exception| {
            let spec = &exception.spec;
            !exception.is_over(facts.now_ms)
                && from(spec, facts, &self.own) == Truth::Yes
                && spec.is_on(facts.port)
                && (spec.speaks_of_requests(facts.port) || holds_when(spec, facts, &self.service))
        })
    }

    /// Those of a kind that speak of this peer and this port, whatever they ask besides.
    fn concerning<'s, 'q>(
        &'s self,
        lanes: &'q Lanes<'s>,
        facts: &'q Facts<'_>,
        part: fn(&Lane) -> &Vec<usize>,
    ) -> impl Iterator<Item = &'s Named> + use<'s, 'q> {
        lanes
            .all()
            .flat_map(move |lane| part(lane).iter())
            .filter_map(move |place| self.policies.get(*place))
            .filter(move |policy| lanes.is_own || from(&policy.spec, facts, &self.own) == Truth::Yes)
            .filter(move |policy| policy.spec.is_on(facts.port))
            // What its `when` says of requests and users is not known yet; what it says of the caller and the time is.
            .filter(move |policy| {
                policy.spec.speaks_of_requests(facts.port) || holds_when(&policy.spec, facts, &self.service)
            })
    }

    /// The lanes in which policies on this peer stand. A peer of another trust domain has those that speak of
    /// anyone, and those that name its domain, of which each is asked whether it is meant.
    fn lanes(&self, facts: &Facts<'_>) -> Lanes<'_> {
        if !facts.peer.is_in(&self.own) {
            let federated = self.federated.get(facts.peer.trust_domain());
            return Lanes {
                anyone: Some(&self.anyone),
                namespace: None,
                workload: None,
                federated,
                is_own: false,
            };
        }
        let namespace = match facts.peer.namespace() {
            Some(namespace) if !self.namespaces.is_empty() => self.namespaces.get(namespace),
            _ => None,
        };
        let workload = if self.workloads.is_empty() { None } else { self.workloads.get(facts.peer.short()) };
        Lanes { anyone: Some(&self.anyone), namespace, workload, federated: None, is_own: true }
    }

    fn matching<'s, 'q>(
        &'s self,
        lanes: &'q Lanes<'s>,
        facts: &'q Facts<'_>,
        failed: &'q Cell<Few<Failed<'s>>>,
        part: fn(&Lane) -> &Vec<usize>,
    ) -> impl Iterator<Item = &'s Named> + use<'s, 'q> {
        lanes
            .all()
            .flat_map(move |lane| part(lane).iter())
            .filter_map(move |place| self.policies.get(*place))
            // The lanes of our own say all of `from`. A permit without it is for our own trust domain, and
            // whether a federated peer is the one that is named, the policy itself says.
            .filter(move |policy| lanes.is_own || from(&policy.spec, facts, &self.own) == Truth::Yes)
            .filter(move |policy| {
                holds(&policy.spec, facts, &self.service, |failure| {
                    let mut names = failed.get();
                    names.push(Failed { policy: &policy.name, why: failure.label() });
                    failed.set(names);
                })
            })
    }

    fn index(&mut self, place: usize, spec: &PolicySpec) {
        let Some(from) = &spec.from else { return self.anyone.add(place, spec) };
        // Named twice, by namespace and by itself, a workload finds the policy once.
        let namespaces: Vec<_> = from
            .workloads
            .iter()
            .filter_map(|pattern| match pattern {
                WorkloadPattern::Namespace(namespace) => Some(namespace),
                _ => None,
            })
            .collect();
        for pattern in &from.workloads {
            let lane = match pattern {
                WorkloadPattern::Namespace(namespace) => {
                    self.namespaces.entry(namespace.as_str().into()).or_default()
                }
                WorkloadPattern::Exact(id) if namespaces.contains(&&id.namespace) => continue,
                WorkloadPattern::Exact(id) => self.workloads.entry(id.to_string().into()).or_default(),
                WorkloadPattern::Federated(id) => {
                    self.federated.entry(id.trust_domain().clone()).or_default()
                }
                WorkloadPattern::FederatedNamespace(domain, _) => {
                    self.federated.entry(domain.clone()).or_default()
                }
            };
            lane.add(place, spec);
        }
    }
}

/// What the policies of a set look at that only they know of.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    pub(crate) claims: BTreeSet<Box<str>>,
    pub(crate) headers: BTreeSet<Box<str>>,
}

impl Reads {
    fn of(policies: &[Named]) -> Reads {
        let mut reads = Reads::default();
        for policy in policies {
            let exceptions = policy.exceptions.iter().map(|exception| &exception.spec);
            for spec in std::iter::once(&policy.spec).chain(exceptions) {
                let claims = spec.user.iter().flat_map(|user| user.claims.keys());
                reads.claims.extend(claims.map(|name| name.as_str().into()));
                for attribute in spec.when.iter().flat_map(|when| &when.reads().attributes) {
                    match attribute {
                        Attribute::Claim(name, _) => _ = reads.claims.insert(name.clone()),
                        Attribute::Header(name) => _ = reads.headers.insert(name.clone()),
                        _ => {}
                    }
                }
            }
        }
        reads
    }
}

struct Lanes<'s> {
    anyone: Option<&'s Lane>,
    namespace: Option<&'s Lane>,
    workload: Option<&'s Lane>,
    federated: Option<&'s Lane>,
    is_own: bool,
}

impl<'s> Lanes<'s> {
    fn all(&self) -> impl Iterator<Item = &'s Lane> + use<'s> {
        [self.workload, self.namespace, self.federated, self.anyone].into_iter().flatten()
    }
}

impl Lane {
    /// Adds a policy once, however often its `from` names the same workload.
    fn add(&mut self, place: usize, spec: &PolicySpec) {
        let part = match (spec.mode, spec.effect) {
            (Mode::Shadow, _) => &mut self.shadows,
            (Mode::Enforce, Effect::External) => &mut self.externals,
            (Mode::Enforce, Effect::Forbid) => &mut self.forbids,
            (Mode::Enforce, Effect::Permit) => &mut self.permits,
        };
        if part.last() != Some(&place) {
            part.push(place);
        }
    }
}
