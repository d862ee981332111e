//! Why a verdict is what it is, for a person.
//!
//! An explanation is kept and shown to operators: it holds names, identities, the user's `sub` and what
//! the policies compared, never a token. Texts are shortened, as some of them were chosen by a caller.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use signet_model::{ClaimMatch, Effect, Mode, PolicySpec};

use crate::condition::{Condition, Truth, from, visible_user, walk};
use crate::facts::{Context, Facts, User};
use crate::narrate::visible;
use crate::set::{Named, PolicySet};
use crate::verdict::Basis;
use crate::when;

/// The outcome of a question by which a request may pass.
pub const ALLOWED: &str = "allowed";

const NEAR_MISSES: usize = 5;
const TEXT: usize = 200;
/// Of a claim or a header's line, as it is written.
const VALUE: usize = 512;

/// The whole story of one decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub verdict: Answer,
    /// One sentence: what decided or, where nothing did, what came nearest.
    pub reason: String,
    pub basis: Basis,
    /// What happens to this peer where no policy matches.
    pub default_allow: bool,
    pub deciding: Vec<Deciding>,
    /// Where nothing matched: the permits that came nearest, at most five. First those that speak of this
    /// caller and request and wanted another user, then those with the fewest conditions that failed.
    pub near_misses: Vec<NearMiss>,
    /// Shadow policies that matched.
    pub shadow: Vec<ShadowLine>,
    /// Forbids that would have decided, but for an exception.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excepted: Vec<Excepted>,
    /// Who else is asked about what is permitted, and what was answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external: Vec<External>,
    /// Policies for whose sake the whole target denies.
    pub not_understood: Vec<NotUnderstood>,
    pub facts: FactsSummary,
}

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Allow,
    Deny,
}

/// A policy that decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deciding {
    pub policy: String,
    pub effect: Effect,
    /// The conditions of a forbid that held because what they ask about was absent.
    pub by_absence: Vec<String>,
}

/// A permit that almost matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NearMiss {
    pub policy: String,
    /// The first condition that failed, as in `user.scopes`.
    pub failed: String,
    pub expected: String,
    pub had: String,
    /// The other conditions that failed.
    pub also_failed: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShadowLine {
    pub policy: String,
    pub would_allow: bool,
    /// Enforced alone beside the others, it would have turned the verdict.
    #[serde(default)]
    pub would_change: bool,
}

/// A forbid that matched and spared this request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Excepted {
    pub policy: String,
    pub owner: String,
    /// RFC 3339.
    pub until: String,
}

/// Somebody else who has a say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct External {
    /// `name.namespace` of the AuthorizationProvider.
    pub provider: String,
    /// As in the metric: `allowed`, `denied`, or why there was no answer. Absent where nobody asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

/// A document that could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotUnderstood {
    pub policy: String,
    pub reason: String,
}

/// What was known of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FactsSummary {
    pub peer: String,
    pub peer_class: String,
    pub user: Option<UserSummary>,
    pub service: String,
    pub port: String,
    pub protocol: String,
    pub method: Option<String>,
    pub path: Option<String>,
    pub grpc: Option<String>,
    /// Each header that a policy of the service looks at, line by line; without lines, it was not there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserSummary {
    pub sub: String,
    pub cred: String,
    pub context: Context,
    /// Who acts for the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Each claim that a policy of the service looks at; `null` for one that was not there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, Value>,
}

impl PolicySet {
    /// Decides again, at leisure, and says why.
    pub fn explain(&self, facts: &Facts<'_>) -> Explanation {
        let verdict = self.decide(facts);
        let is_default = verdict.basis == Basis::Default;
        let is_understood = verdict.basis != Basis::NotUnderstood;
        let outcomes: Vec<Outcome<'_>> = if is_understood {
            self.policies.iter().map(|policy| Outcome::of(self, policy, facts)).collect()
        } else {
            Vec::new()
        };
        let wanted = match verdict.basis {
            Basis::Forbid => Some(Effect::Forbid),
            Basis::Permit => Some(Effect::Permit),
            Basis::Default | Basis::NotUnderstood | Basis::External => None,
        };
        let matched = || outcomes.iter().filter(|outcome| outcome.failed.is_empty());
        let excepted = matched().filter(|o| o.policy.spec.mode == Mode::Enforce).filter_map(|o| {
            let exception = self.spared(o.policy, facts)?;
            Some(Excepted {
                policy: o.policy.name.to_string(),
                owner: exception.owner.to_string(),
                until: exception.until.to_string(),
            })
        });
        let excepted = excepted.collect();
        let matching = || matched().filter(|o| self.spared(o.policy, facts).is_none());
        let deciding = matching()
            .filter(|o| o.policy.spec.mode == Mode::Enforce && Some(o.policy.spec.effect) == wanted)
            .map(|o| Deciding {
                policy: o.policy.name.to_string(),
                effect: o.policy.spec.effect,
                by_absence: o.absent.iter().map(Condition::name).collect(),
            })
            .collect();
        let shadow = matching()
            .filter(|o| o.policy.spec.mode == Mode::Shadow)
            .map(|o| ShadowLine {
                policy: o.policy.name.to_string(),
                would_allow: o.policy.spec.effect == Effect::Permit,
                would_change: match o.policy.spec.effect {
                    Effect::Permit => !verdict.allowed && is_default,
                    Effect::Forbid | Effect::External => verdict.allowed,
                },
            })
            .collect();
        let mut near: Vec<&Outcome<'_>> = outcomes
            .iter()
            .filter(|_| is_default && !verdict.allowed)
            .filter(|o| o.policy.spec.mode == Mode::Enforce && o.policy.spec.effect == Effect::Permit)
            .collect();
        near.sort_by_key(|o| (!o.wants_another_user(), o.failed.len())); // stable: names break ties
        let external =
            verdict.ask.iter().map(|name| External { provider: (*name).to_owned(), outcome: None });
        let mut explanation = Explanation {
            verdict: if verdict.allowed { Answer::Allow } else { Answer::Deny },
            reason: String::new(),
            basis: verdict.basis,
            default_allow: self.default_allow && facts.peer.is_in(&self.own),
            deciding,
            near_misses: near.iter().filter_map(|o| o.near_miss(facts, self)).take(NEAR_MISSES).collect(),
            shadow,
            excepted,
            external: external.collect(),
            not_understood: self.not_understood.clone(),
            facts: self.summary(facts),
        };
        explanation.reason = visible(&explanation.sentence());
        explanation
    }

    /// The story of a request that policies permitted, with what others answered who were asked, in the order in which they
    /// were.
    pub fn explain_asked(&self, facts: &Facts<'_>, answered: &[(&str, &str)]) -> Explanation {
        let mut told = self.explain(facts);
        told.external = answered
            .iter()
            .map(|(provider, outcome)| External {
                provider: (*provider).to_owned(),
                outcome: Some((*outcome).to_owned()),
            })
            .collect();
        if told.verdict == Answer::Allow && answered.iter().any(|(_, outcome)| *outcome != ALLOWED) {
            (told.verdict, told.basis) = (Answer::Deny, Basis::External);
            told.reason = visible(&told.sentence());
        }
        told
    }

    fn summary(&self, facts: &Facts<'_>) -> FactsSummary {
        FactsSummary {
            peer: short(facts.peer.as_str()),
            peer_class: facts.peer_class.as_str().to_owned(),
            user: facts.user.map(|user| UserSummary {
                sub: short(&user.sub),
                cred: short(&user.cred),
                context: user.context,
                actor: user.actor.as_ref().map(short),
                scopes: user.scopes.iter().map(short).collect(),
                claims: self.claims_of(user),
            }),
            service: self.service.to_string(),
            port: short(facts.port),
            protocol: facts.protocol.as_str().to_owned(),
            method: facts.method.map(short),
            path: facts.path.map(short),
            grpc: facts.grpc.map(short),
            headers: self.headers_of(facts),
        }
    }

    /// What is too long to keep is left out, and unknown to whoever reads the summary.
    fn claims_of(&self, user: &User) -> BTreeMap<String, Value> {
        let claim = |name: &str| (name.to_owned(), user.claims.get(name).cloned().unwrap_or(Value::Null));
        let is_short = |(_, value): &(String, Value)| value.to_string().len() <= VALUE;
        self.reads.claims.iter().map(|name| claim(name)).filter(is_short).collect()
    }

    fn headers_of(&self, facts: &Facts<'_>) -> BTreeMap<String, Vec<String>> {
        let Some(headers) = facts.headers else { return BTreeMap::new() };
        let lines_of = |name: &str| {
            let (mut lines, mut whole) = (Vec::new(), true);
            headers.any_line(name, &mut |line| {
                let text = std::str::from_utf8(line).ok().filter(|text| text.len() <= VALUE);
                whole &= text.is_some();
                lines.extend(text.map(str::to_owned));
                !whole
            });
            whole.then(|| (name.to_owned(), lines))
        };
        self.reads.headers.iter().filter_map(|name| lines_of(name)).collect()
    }
}

/// One policy against the facts, every condition looked at.
struct Outcome<'s> {
    policy: &'s Named,
    failed: Vec<Condition<'s>>,
    absent: Vec<Condition<'s>>,
}

impl<'s> Outcome<'s> {
    fn of(set: &PolicySet, policy: &'s Named, facts: &Facts<'_>) -> Outcome<'s> {
        let spec = &policy.spec;
        let (mut failed, mut absent) = (Vec::new(), Vec::new());
        let patterns = spec.from.as_ref().map_or(&[][..], |from| &from.workloads);
        if !from(spec, facts, &set.own).holds_for(spec) {
            failed.push(Condition::From(patterns));
        }
        // Goes through to the end.
        let _ = walk(spec, facts, &set.service, |condition, truth| {
            if !truth.holds_for(spec) {
                failed.push(condition);
            } else if truth == Truth::Absent {
                absent.push(condition);
            }
            ControlFlow::Continue(())
        });
        Outcome { policy, failed, absent }
    }

    /// `from` and `to` hold: the policy speaks of this request, and failed on the user alone.
    fn wants_another_user(&self) -> bool {
        self.failed.iter().all(Condition::is_on_user)
    }

    fn near_miss(&self, facts: &Facts<'_>, set: &PolicySet) -> Option<NearMiss> {
        let (first, others) = self.failed.split_first()?;
        let had = first.had(&self.policy.spec, facts, set);
        Some(NearMiss {
            policy: self.policy.name.to_string(),
            failed: first.name(),
            expected: short(first.expected()),
            had: if had.is_empty() { "an empty text".to_owned() } else { short(had) },
            also_failed: others.iter().map(Condition::name).collect(),
        })
    }
}

impl Condition<'_> {
    fn is_on_user(&self) -> bool {
        match self {
            Condition::From(_)
            | Condition::Ports(_)
            | Condition::Methods(_)
            | Condition::Paths(_)
            | Condition::Grpc(_)
            | Condition::Request(_) => false,
            Condition::User
            | Condition::Context(_)
            | Condition::Credential(_)
            | Condition::Scopes(_)
            | Condition::Claim(..) => true,
            Condition::When(when, _) => when.reads().user,
        }
    }

    /// The field of the policy.
    fn name(&self) -> String {
        match self {
            Condition::From(_) => "from.workloads".into(),
            Condition::Ports(_) => "to.ports".into(),
            Condition::Methods(_) => "to.methods".into(),
            Condition::Paths(_) => "to.paths".into(),
            Condition::Grpc(_) => "to.grpc".into(),
            Condition::Request(_) => "to".into(),
            Condition::User => "user".into(),
            Condition::Context(_) => "user.context".into(),
            Condition::Credential(_) => "user.cred".into(),
            Condition::Scopes(_) => "user.scopes".into(),
            Condition::Claim(name, _) => format!("user.claims.{name}"),
            Condition::When(..) => "when".into(),
        }
    }

    fn expected(&self) -> String {
        match self {
            Condition::From([]) => "a peer of the mesh's own trust domain".into(),
            Condition::From(list) => any(list),
            Condition::Ports(list) => any(list),
            Condition::Methods(list) => any(list),
            Condition::Paths(list) => any(list),
            Condition::Grpc(list) => any(list),
            Condition::Request(to) => {
                let http = [any(&to.methods), any(&to.paths)].join(" ");
                format!("{} or {}", http.trim(), any(&to.grpc))
            }
            Condition::User => "a user".into(),
            Condition::Context(list) => {
                any(&list.iter().map(|kind| format!("{kind:?}").to_lowercase()).collect::<Vec<_>>())
            }
            Condition::Credential(list) => any(&list.iter().map(|kind| kind.as_str()).collect::<Vec<_>>()),
            Condition::Scopes(list) => join(list, " and "),
            Condition::Claim(_, claim) => claim_text(claim),
            Condition::When(when, _) => when.as_str().split_whitespace().collect::<Vec<_>>().join(" "),
        }
    }

    fn had(&self, spec: &PolicySpec, facts: &Facts<'_>, set: &PolicySet) -> String {
        let own = &set.own;
        let or_none = |text: Option<&str>| text.unwrap_or("none").to_owned();
        match self {
            Condition::From([]) => facts.peer.as_str().to_owned(),
            // An identity of another trust domain is shown whole: its path alone could be one of ours.
            Condition::From(_) if !facts.peer.is_in(own) => facts.peer.as_str().to_owned(),
            Condition::From(_) => facts.peer.short().to_owned(),
            Condition::Ports(_) => facts.port.to_owned(),
            Condition::Methods(_) => or_none(facts.method),
            Condition::Paths(_) => or_none(facts.path),
            Condition::Grpc(_) => match (facts.grpc, facts.path) {
                (None, Some(_)) => "a request that is not gRPC".to_owned(),
                (method, _) => or_none(method),
            },
            Condition::Request(_) => match (facts.grpc, facts.method, facts.path) {
                (Some(method), _, _) => method.to_owned(),
                (None, Some(method), Some(path)) => format!("{method} {path}"),
                _ => "none".to_owned(),
            },
            Condition::User => if facts.user.is_some() { "a user" } else { "none" }.to_owned(),
            Condition::Context(_) => or_none(facts.user.map(|user| user.context.as_str())),
            Condition::Credential(_) => or_none(facts.user.map(|user| user.cred.as_str())),
            Condition::Scopes(_) => match facts.user {
                Some(user) if !user.scopes.is_empty() => user.scopes.join(" "),
                _ => "none".to_owned(),
            },
            Condition::Claim(name, _) => match facts.user.and_then(|user| user.claims.get(name.as_str())) {
                None => "no such claim".to_owned(),
                Some(Value::String(text)) => text.clone(),
                Some(Value::Array(items)) if items.iter().all(Value::is_string) => {
                    format!("[{}]", items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "))
                }
                Some(_) => "a claim that is neither a text nor a list of texts".to_owned(),
            },
            Condition::When(when, _) => when::had(when, spec, facts, &set.service, visible_user(spec, facts)),
        }
    }
}

fn claim_text(claim: &ClaimMatch) -> String {
    let mut parts = Vec::new();
    if !claim.any_of.is_empty() {
        parts.push(format!("any of {}", join(&claim.any_of, ", ")));
    }
    if !claim.all_of.is_empty() {
        parts.push(format!("all of {}", join(&claim.all_of, ", ")));
    }
    if let Some(value) = &claim.equals {
        parts.push(format!("exactly {value}"));
    }
    parts.join(" and ")
}

fn any<T: fmt::Display>(items: &[T]) -> String {
    join(items, " or ")
}

fn join<T: fmt::Display>(items: &[T], separator: &str) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(separator)
}

fn short(text: impl AsRef<str>) -> String {
    let text = text.as_ref();
    let mut out: String = text.chars().take(TEXT).collect();
    if text.chars().nth(TEXT).is_some() {
        out.push('…');
    }
    out
}
