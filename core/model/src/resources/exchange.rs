//! Which workloads may have a transaction token for a user who has not just called them.
//!
//! An object of the whole mesh, for whoever runs it: a namespace cannot let its own workloads speak for users. A token that
//! a workload received, and wants with fewer scopes, needs none of this.

use serde::{Deserialize, Serialize};

use crate::decode::non_empty;
use crate::error::Problem;
use crate::object::{Global, Kind, Name};
use crate::resources::twice;
use crate::text::jose::{ClaimName, ClaimValue};
use crate::{Label, Period, Scope, WorkloadId};

pub type TokenExchange = Global<TokenExchangeSpec>;

/// The bounds of a transaction token's life.
const TTL: (Period, Period) = (Period::from_secs(15), Period::from_secs(300));
/// A context that may be opened later than this has no end that anybody remembers.
const MAX_WITHIN: Period = Period::from_secs(7 * 24 * 3600);
const MAX_OPENINGS: u32 = 100;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TokenExchangeSpec {
    /// Whose apps may.
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub workloads: Vec<WorkloadId>,
    /// For whose users, by the aliases of their issuers.
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub issuers: Vec<Label>,
    /// For these users alone, `<alias>|<sub>`. Absent: every user of the issuers.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub users: Vec<ClaimValue>,
    /// By what the app may name the user.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub subject_tokens: Vec<SubjectToken>,
    /// Who must be acting for the user, where it is not the workload itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actors: Option<Actors>,
    /// The scopes that such a token may have at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<Scope>,
    /// The claims that are copied from an access token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<ClaimName>,
    /// How long a token lives.
    #[serde(default = "minute")]
    pub ttl: Period,
    /// Lets the apps put off a context that they received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defer: Option<Defer>,
}

/// What says who the user is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum SubjectToken {
    /// An access token of the user's issuer, which the app holds.
    AccessToken,
    /// The word of the workload.
    UnsignedJson,
}

/// Users who may act for others, by the transaction token with which they call the workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Actors {
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub issuers: Vec<Label>,
    /// All of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub scopes: Vec<Scope>,
}

/// What a context may be put off for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Defer {
    /// Who may open it.
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub to: Vec<WorkloadId>,
    /// For how long.
    #[serde(default = "day")]
    pub within: Period,
    /// How often, for queues that deliver more than once.
    #[serde(default = "once")]
    pub openings: u32,
}

fn minute() -> Period {
    Period::from_secs(60)
}

fn day() -> Period {
    Period::from_secs(86_400)
}

fn once() -> u32 {
    1
}

impl TokenExchangeSpec {
    /// Whether it is about users like this one, `<alias>|<sub>`.
    pub fn is_for(&self, subject: &str) -> bool {
        let Some((alias, _)) = subject.split_once('|') else { return false };
        self.issuers.iter().any(|issuer| issuer.as_str() == alias)
            && (self.users.is_empty() || self.users.iter().any(|user| user.as_str() == subject))
    }
}

impl Actors {
    /// Whether a user like this one, `<alias>|<sub>`, with these scopes, may act.
    pub fn has(&self, subject: &str, scopes: &[&str]) -> bool {
        subject
            .split_once('|')
            .is_some_and(|(alias, _)| self.issuers.iter().any(|issuer| issuer.as_str() == alias))
            && self.scopes.iter().all(|scope| scopes.contains(&scope.as_str()))
    }
}

impl Kind for TokenExchangeSpec {
    const KIND: &'static str = "TokenExchange";

    fn check(&self, _: &Name<'_>, problems: &mut Vec<Problem>) {
        let mut add = |field: String, reason: String| problems.push(Problem::new(field, reason));
        if self.subject_tokens.is_empty() && self.defer.is_none() {
            add("spec".into(), "expected subjectTokens or defer, got neither: it would allow nothing".into());
        }
        for (index, token) in twice(&self.subject_tokens) {
            add(format!("spec.subjectTokens[{index}]"), format!("{token:?} stands twice"));
        }
        if self.actors.is_some() && self.subject_tokens.is_empty() {
            add(
                "spec.actors".into(),
                "expected none without subjectTokens: nobody acts in a context that is put off".into(),
            );
        }
        if !self.claims.is_empty() && !self.subject_tokens.contains(&SubjectToken::AccessToken) {
            add(
                "spec.claims".into(),
                "expected none without `accessToken` among the subjectTokens: there is nothing to copy from"
                    .into(),
            );
        }
        for (index, user) in self.users.iter().enumerate() {
            let known = user.as_str().split_once('|').is_some_and(|(alias, sub)| {
                !sub.is_empty() && self.issuers.iter().any(|issuer| issuer.as_str() == alias)
            });
            if !known {
                add(
                    format!("spec.users[{index}]"),
                    format!("expected `<alias>|<sub>` with the alias of one of spec.issuers, got `{user}`"),
                );
            }
        }
        if self.ttl < TTL.0 || self.ttl > TTL.1 {
            add("spec.ttl".into(), format!("expected {} to {}, got {}", TTL.0, TTL.1, self.ttl));
        }
        if let Some(defer) = &self.defer {
            if defer.within > MAX_WITHIN || defer.within.seconds() == 0 {
                add("spec.defer.within".into(), format!("expected 1s to {MAX_WITHIN}, got {}", defer.within));
            }
            if !(1..=MAX_OPENINGS).contains(&defer.openings) {
                add(
                    "spec.defer.openings".into(),
                    format!("expected 1 to {MAX_OPENINGS}, got {}", defer.openings),
                );
            }
        }
    }
}
