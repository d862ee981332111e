//! A registry of objects that are taken one by one: a mistake in one leaves the others as they are.
//!
//! A folder has one author and is taken whole. A cluster has many, and an API server keeps whatever they write: there one
//! broken object must not hold up the rest, and must not open anything either. So each kind either only grants, and is
//! left out while it is wrong, or it restricts, and then never vanishes ([`stands_for`] is the whole table):
//!
//! * what only grants, is wrong and was right before, stays in force as it was, unless it lets callers in: the change of a
//!   permit, a Gateway or a TokenExchange may have been to end just that;
//! * what restricts and is written wrong makes its target deny, whatever it was before: whoever changed it meant something
//!   else than what was there, and that may let in more (decision 23);
//! * what restricts and was right stays in force even when what it refers to goes away;
//! * what is wrong in one entry of a list, of a Gateway or a TokenExchange, takes that entry out and no other (`trim`,
//!   `salvage`);
//! * a service that is left out keeps its addresses where they are known (`bare`): they are nobody else's.
//!
//! Pure; the memory of what was right comes in and goes out as a [`Kept`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

mod salvage;
mod trim;

use serde_json::Value;

pub use self::salvage::read_entries;
use self::trim::Trim;
use crate::check::{Found, put_together};
use crate::error::Problem;
use crate::object::{Global, Namespaced};
use crate::registry::{Options, Origin, Registry};
use crate::resources::policy::{Effect, PolicySpec, PolicyTarget};
use crate::{Forbidden, GuardRailSpec, Label, Mode, ObjectName, Resource, Subdomain};

/// Which object of a cluster it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// The model's word for its kind.
    pub kind: &'static str,
    /// Empty for an object of the whole mesh.
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} `{}`", self.kind, self.name),
            namespace => write!(f, "{} `{}.{namespace}`", self.kind, self.name),
        }
    }
}

/// An object that may be wrong.
#[derive(Debug, Clone)]
pub struct Offer {
    pub id: ObjectId,
    /// Tells an object from an earlier one of its name, whose last good version it does not inherit.
    pub uid: String,
    pub read: Result<Resource, Vec<Problem>>,
    /// What stands for it where it is wrong and never was right.
    pub stand: Stand,
    /// What stays in force of it while it is wrong.
    pub earlier: Earlier,
    /// Since when it is there, so that the text of an earlier moment comes first: of two that claim the same the older one
    /// has it. Empty where that is not known.
    pub created: String,
    /// What is wrong with single entries of what was read, which lead nowhere (see [`read_entries`]).
    pub flaws: Vec<Problem>,
    /// What of it is there whatever is wrong, and grants nothing: a service's addresses, behind which nobody answers.
    pub bare: Option<Box<Resource>>,
}

/// The version of an object that stays in force while the present one is wrong.
#[derive(Debug, Clone, Default)]
pub enum Earlier {
    /// The last one that was right.
    #[default]
    Kept,
    /// This one.
    Is(Box<Resource>),
    /// None: its author may not have it any more.
    Forfeit,
}

/// What stands for an object that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stand {
    /// Nothing: it only grants, so that without it less is let in.
    Nothing,
    /// This service denies everything.
    Service(ObjectName),
    /// Every service of this namespace does.
    Namespace(Label),
    /// Every service of these namespaces does; of the whole mesh where the list is empty.
    Namespaces(Vec<Label>),
}

/// What stands for an object of this kind, by as much of it as can be read. This is the table of all kinds.
pub fn stands_for(kind: &str, namespace: &str, spec: &Value) -> Stand {
    match kind {
        "Mesh" => Stand::Namespaces(Vec::new()),
        "GuardRail" => Stand::Namespaces(namespaces_of(spec)),
        // A permit that is not there lets nobody in.
        "MeshPolicy" if spec.get("effect").and_then(Value::as_str) == Some("permit") => Stand::Nothing,
        "MeshPolicy" => target_of(namespace, spec),
        // Of its fields only limits restrict.
        "TrafficPolicy" if spec.is_object() && is_absent(spec.get("rateLimits")) => Stand::Nothing,
        "TrafficPolicy" => target_of(namespace, spec),
        // A policy that asks a provider which is not there refuses, and stays.
        "AuthorizationProvider" => Stand::Nothing,
        // A service or place that is not there is not reached, an identity without Workload does not join, a key set
        // that is not there verifies nobody, a share of a route without its backend is refused.
        "Workload"
        | "Service"
        | "ExternalService"
        | "Issuer"
        | "FederatedTrustDomain"
        | "Gateway"
        | "Registration"
        | "TokenExchange"
        | "HTTPRoute"
        | "GRPCRoute"
        | "TLSRoute"
        | "TCPRoute"
        | "ReferenceGrant" => Stand::Nothing,
        _ => Stand::Namespaces(Vec::new()),
    }
}

fn is_absent(value: Option<&Value>) -> bool {
    value.is_none_or(|value| value.is_null() || value.as_array().is_some_and(Vec::is_empty))
}

/// The list, if all of it can be read; otherwise everywhere.
fn namespaces_of(spec: &Value) -> Vec<Label> {
    let list = spec.get("namespaces").and_then(Value::as_array);
    let read = |list: &Vec<Value>| -> Option<Vec<Label>> {
        list.iter().map(|name| name.as_str()?.parse().ok()).collect()
    };
    list.and_then(read).unwrap_or_default()
}

fn target_of(namespace: &str, spec: &Value) -> Stand {
    let Ok(namespace) = namespace.parse::<Label>() else { return Stand::Namespaces(Vec::new()) };
    let service = spec.pointer("/target/service").and_then(Value::as_str);
    match service.and_then(|name| name.parse::<Subdomain>().ok()) {
        Some(service) => Stand::Service(ObjectName::new(namespace, service)),
        None => Stand::Namespace(namespace),
    }
}

/// Versions of objects that were right.
pub type Kept = BTreeMap<ObjectId, (String, Resource)>;

/// What came of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub in_force: InForce,
    /// Where it went wrong.
    pub stage: Stage,
    pub problems: Vec<Problem>,
}

/// What is in force of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InForce {
    AsWritten,
    /// The last version of it that was right.
    Earlier,
    /// Its target denies everything.
    Denies,
    Nothing,
}

/// How far an object came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Everything is right.
    Fits,
    /// It cannot be read.
    Read,
    /// By itself it is right, and it does not go together with others.
    Refers,
}

/// A registry, with what came of each object that was offered, in their order.
#[derive(Debug)]
pub struct Lenient {
    pub registry: Registry,
    pub verdicts: Vec<Verdict>,
    pub kept: Kept,
}

/// Where an object is on its way down.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    Written,
    /// The earlier version, if it goes with the rest.
    Earlier,
    /// The version that was right, whatever it refers to.
    Pinned,
    Denies,
    /// As much as is there whatever is wrong.
    Bare,
    Out,
}

struct Taking<'a> {
    offers: &'a [Offer],
    kept: &'a Kept,
    choices: Vec<Choice>,
    verdicts: Vec<Verdict>,
    /// What is taken out of an object that stays.
    trims: BTreeMap<usize, BTreeSet<Trim>>,
}

/// A step down.
enum Step {
    /// One entry of it goes.
    Trim(Trim),
    /// It goes as it is.
    Demote,
}

impl Registry {
    /// Puts together what goes together. `kept` is what an earlier call gave back, empty for the first.
    pub fn build_lenient(offers: &[Offer], kept: &Kept, options: &Options) -> Lenient {
        let right = Verdict { in_force: InForce::AsWritten, stage: Stage::Fits, problems: Vec::new() };
        let mut taking = Taking {
            offers,
            kept,
            choices: vec![Choice::Written; offers.len()],
            verdicts: vec![right; offers.len()],
            trims: BTreeMap::new(),
        };
        for (number, offer) in offers.iter().enumerate() {
            if !offer.flaws.is_empty() {
                taking.note(number, Stage::Refers, offer.flaws.iter().cloned());
                let nowhere = salvage::routes_of(&offer.flaws).map(Trim::GatewayRoute);
                taking.trims.entry(number).or_default().extend(nowhere);
            }
            if let Err(problems) = &offer.read {
                taking.note(number, Stage::Read, problems.iter().cloned());
                taking.demote(number);
            }
        }
        // Each round takes at least one object a step down, so that it ends.
        loop {
            let (registry, found) = put_together(taking.chosen(), options);
            let wrong = taking.judge(found);
            if wrong.is_empty() {
                return taking.finish(registry);
            }
            wrong.into_iter().for_each(|(number, step)| taking.step(number, step));
        }
    }
}

impl<'a> Taking<'a> {
    fn earlier(&self, number: usize) -> Option<&'a Resource> {
        let offer = self.offers.get(number)?;
        match &offer.earlier {
            Earlier::Kept => {
                let kept = self.kept.get(&offer.id).filter(|(uid, _)| *uid == offer.uid);
                kept.map(|(_, resource)| resource)
            }
            Earlier::Is(resource) => Some(resource),
            Earlier::Forfeit => None,
        }
    }

    /// The resource without what is taken out of it.
    fn trimmed(&self, number: usize, choice: Choice) -> Option<Resource> {
        let mut resource = self.resource(number, choice)?.clone();
        self.trims.get(&number).into_iter().flatten().for_each(|trim| trim.apply(&mut resource));
        Some(resource)
    }

    fn resource(&self, number: usize, choice: Choice) -> Option<&'a Resource> {
        match choice {
            Choice::Written => self.offers.get(number)?.read.as_ref().ok(),
            Choice::Earlier | Choice::Pinned => self.earlier(number),
            Choice::Bare => self.offers.get(number)?.bare.as_deref(),
            Choice::Denies | Choice::Out => None,
        }
    }

    fn chosen(&self) -> impl Iterator<Item = (Origin, Resource)> {
        self.choices.iter().enumerate().filter_map(|(number, choice)| {
            let resource = self.trimmed(number, *choice)?;
            let offer = self.offers.get(number)?;
            Some((Origin::offered(&offer.id.to_string(), number, &offer.created), resource))
        })
    }

    /// The objects that cannot stay as they are chosen, of those that others build on first: who refers to one of them may
    /// fit again once it is an earlier version. What is wrong is noted where it counts.
    fn judge(&mut self, found: Vec<Found>) -> Vec<(usize, Step)> {
        let (mut wrong, mut tolerated) = (Vec::new(), Vec::new());
        for found in found {
            let Some(number) = found.offer else { continue };
            let Some(choice) = self.choices.get(number).copied() else { continue };
            let problem = Problem::new(found.error.field, found.error.reason);
            if self.is_refused_by_itself(number, choice, &problem) {
                continue;
            }
            match choice == Choice::Pinned || self.is_tolerated(number, &problem) {
                true => tolerated.push((number, choice, problem)),
                false => wrong.push((number, choice, problem)),
            }
        }
        let level = |number: usize| self.offers.get(number).map_or(0, |offer| level(offer.id.kind));
        let lowest = wrong.iter().map(|(number, ..)| level(*number)).min();
        let (now, _): (Vec<_>, Vec<_>) =
            wrong.into_iter().partition(|(number, ..)| Some(level(*number)) == lowest);
        let noted = if now.is_empty() { tolerated } else { now };
        let mut steps: BTreeMap<usize, Vec<Option<Trim>>> = BTreeMap::new();
        for (number, choice, problem) in noted {
            let is_written = self.offers.get(number).and_then(|offer| offer.read.as_ref().ok())
                == self.resource(number, choice);
            // What an earlier version has against it is of no use to whoever looks at the present one.
            if is_written {
                self.note(number, Stage::Refers, [problem.clone()]);
            }
            if lowest.is_some() {
                let trim =
                    self.trimmed(number, choice).and_then(|resource| Trim::of(&resource, &problem.field));
                steps.entry(number).or_default().push(trim);
            }
        }
        let each = steps.into_iter().flat_map(|(number, trims)| {
            // Two mistakes may be in one entry.
            let all: Option<BTreeSet<Trim>> = trims.into_iter().collect();
            match all {
                Some(trims) => trims.into_iter().map(|trim| (number, Step::Trim(trim))).collect(),
                None => vec![(number, Step::Demote)],
            }
        });
        each.collect()
    }

    fn step(&mut self, number: usize, step: Step) {
        match step {
            // An entry that is wrong without being there is wrong for good.
            Step::Trim(trim) if self.trims.entry(number).or_default().insert(trim.clone()) => {
                let choice = self.choices.get(number).copied().unwrap_or(Choice::Out);
                if self.trimmed(number, choice).is_none_or(|resource| trim.leaves_nothing(&resource)) {
                    self.demote(number);
                }
            }
            Step::Trim(_) | Step::Demote => self.demote(number),
        }
    }

    /// What is wrong in one part and leaves the others right. A route's backend that is not there gets nothing, and the
    /// others get their share (Gateway API, HTTPBackendRef); an endpoint's address and port that mean two services mean
    /// neither to whoever dials them, and each service is called as ever.
    fn is_tolerated(&self, number: usize, problem: &Problem) -> bool {
        let field = problem.field.as_str();
        match self.offers.get(number).map(|offer| &offer.read) {
            Some(Ok(Resource::Route(_))) => {
                let backend = field.contains(".backendRefs[") || field.contains(".backendRef.");
                backend && (field.ends_with(".name") || field.ends_with(".port"))
            }
            Some(Ok(Resource::Service(_))) => {
                let endpoint = field.starts_with("spec.endpoints[") && field.contains("].ports.");
                // Its sidecars make a port strict of which a policy asks who calls.
                endpoint || field.starts_with("spec.ports[") && field.ends_with("].permissive")
            }
            _ => false,
        }
    }

    /// A gateway's route that leads nowhere is there to refuse what it is for, and why was said.
    fn is_refused_by_itself(&self, number: usize, choice: Choice, problem: &Problem) -> bool {
        let trims = self.trims.get(&number).into_iter().flatten();
        matches!(self.resource(number, choice), Some(Resource::Gateway(_)))
            && trims
                .filter_map(Trim::route)
                .any(|at| problem.field.starts_with(&format!("spec.routes[{at}].")))
    }

    fn note(&mut self, number: usize, stage: Stage, problems: impl IntoIterator<Item = Problem>) {
        let Some(verdict) = self.verdicts.get_mut(number) else { return };
        verdict.stage = stage;
        for problem in problems {
            if !verdict.problems.contains(&problem) {
                verdict.problems.push(problem);
            }
        }
    }

    fn demote(&mut self, number: usize) {
        let Some(offer) = self.offers.get(number) else { return };
        let earlier = self.earlier(number);
        let Some(choice) = self.choices.get_mut(number) else { return };
        let differs = offer.read.as_ref().ok() != earlier;
        let is_strict = offer.stand != Stand::Nothing || earlier.is_some_and(must_stay);
        // What was let in before may be just what the change was to end.
        let lets_in = matches!(offer.id.kind, "MeshPolicy" | "Gateway" | "TokenExchange");
        self.trims.remove(&number);
        *choice = match (*choice, earlier) {
            // It is what it was, and something else went away.
            (Choice::Written, Some(earlier)) if !differs && must_stay(earlier) => Choice::Pinned,
            _ if is_strict => Choice::Denies,
            (Choice::Written, Some(_)) if differs && !lets_in => Choice::Earlier,
            (Choice::Written | Choice::Earlier, _) if offer.bare.is_some() => Choice::Bare,
            _ => Choice::Out,
        };
    }

    /// All that may be what an object is for that is wrong: as it is written, and as it was.
    fn stands(&self, number: usize) -> Vec<Stand> {
        let Some(offer) = self.offers.get(number) else { return Vec::new() };
        let before = self.earlier(number).filter(|it| must_stay(it)).map(|it| {
            let spec = serde_json::from_str::<Value>(&it.canonical_json()).unwrap_or_default();
            let spec = spec.get("spec").cloned().unwrap_or_default();
            stands_for(it.kind(), &offer.id.namespace, &spec)
        });
        let mut all = vec![offer.stand.clone()];
        all.extend(before.filter(|before| *before != offer.stand));
        all
    }

    fn finish(mut self, mut registry: Registry) -> Lenient {
        let mut kept = Kept::new();
        for (number, offer) in self.offers.iter().enumerate() {
            let choice = self.choices.get(number).copied().unwrap_or(Choice::Out);
            if choice == Choice::Denies {
                self.stands(number).iter().for_each(|stand| deny(&mut registry, &offer.id, stand));
            }
            let is_bare = choice == Choice::Bare;
            let is_written = choice == Choice::Written
                || !is_bare
                    && self.resource(number, choice).is_some_and(|it| offer.read.as_ref().ok() == Some(it));
            if let Some(verdict) = self.verdicts.get_mut(number) {
                verdict.in_force = match choice {
                    _ if is_written => InForce::AsWritten,
                    Choice::Written | Choice::Earlier | Choice::Pinned => InForce::Earlier,
                    Choice::Denies => InForce::Denies,
                    Choice::Bare | Choice::Out => InForce::Nothing,
                };
            }
            // One that is out for now may come back as it was: what it refers to may only be late.
            let right = self.resource(number, choice).filter(|_| !is_bare).or_else(|| self.earlier(number));
            if let Some(resource) = right {
                kept.insert(offer.id.clone(), (offer.uid.clone(), resource.clone()));
            }
        }
        Lenient { registry, verdicts: self.verdicts, kept }
    }
}

/// Kinds that others refer to come first.
fn level(kind: &str) -> u8 {
    match kind {
        "Mesh" | "Workload" | "Issuer" | "FederatedTrustDomain" => 0,
        "Service" => 1,
        "Gateway" | "Registration" | "TokenExchange" | "GuardRail" => 2,
        "ExternalService" | "AuthorizationProvider" => 3,
        _ => 4,
    }
}

/// Whether less is let in by it than without it.
fn must_stay(resource: &Resource) -> bool {
    match resource {
        Resource::Mesh(_) | Resource::GuardRail(_) => true,
        Resource::MeshPolicy(policy) => policy.spec.effect != Effect::Permit,
        Resource::TrafficPolicy(policy) => !policy.spec.rate_limits.is_empty(),
        _ => false,
    }
}

/// Puts a forbid without conditions where the object would have been.
fn deny(registry: &mut Registry, id: &ObjectId, stand: &Stand) {
    let spec = |target| PolicySpec { target, ..PolicySpec::of(Effect::Forbid) };
    match stand {
        Stand::Nothing => {}
        Stand::Service(service) => match service.name.as_str().parse() {
            Ok(name) => deny_in(registry, id, &service.namespace, spec(Some(PolicyTarget { service: name }))),
            Err(_) => deny_in(registry, id, &service.namespace, spec(None)),
        },
        Stand::Namespace(namespace) => deny_in(registry, id, namespace, spec(None)),
        Stand::Namespaces(namespaces) => {
            let spec = GuardRailSpec {
                mode: Mode::Enforce,
                namespaces: namespaces.clone(),
                forbid: Some(Forbidden::default()),
                exceptions: Vec::new(),
                permits: None,
            };
            let free = free_name(id, |name| !registry.guard_rails.contains_key(name));
            if let Some(name) = free {
                registry.guard_rails.insert(name.clone(), Global { name, spec });
            }
        }
    }
}

fn deny_in(registry: &mut Registry, id: &ObjectId, namespace: &Label, spec: PolicySpec) {
    let object = |name: &Label| ObjectName::new(namespace.clone(), name.to_subdomain());
    let free = free_name(id, |name| !registry.policies.contains_key(&object(name)));
    if let Some(name) = free {
        let name = object(&name);
        registry.policies.insert(name.clone(), Namespaced { name, spec });
    }
}

/// A name that nobody else has and that says what is refused, as far as a label can. Two objects that begin alike are told
/// apart by a digest, so that it need not be looked for.
fn free_name(id: &ObjectId, is_free: impl Fn(&Label) -> bool) -> Option<Label> {
    // FNV-1a: what meets by chance, or is made to, gets a number.
    let digest = id
        .to_string()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let mut name: String = format!("refused-{}-{}", id.kind.to_lowercase(), id.name.replace('.', "-"));
    name.truncate(46);
    let name = format!("{}-{digest:08x}", name.trim_end_matches('-'));
    let numbered =
        (1_u32..).map(|number| if number == 1 { name.clone() } else { format!("{name}-{number}") });
    // There are fewer objects than numbers, and six digits still fit.
    numbered.take(999_999).filter_map(|name| name.parse().ok()).find(is_free)
}

impl Verdict {
    /// Whether the object does what its author wrote.
    pub fn is_right(&self) -> bool {
        self.problems.is_empty() && self.in_force == InForce::AsWritten
    }
}
