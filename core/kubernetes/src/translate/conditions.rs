//! What is said of an object in its status.

use std::net::IpAddr;

use serde_json::{Value, json};
use signet_model::{InForce, Problem, Stage, Verdict};

use super::{CONTROLLER, Offered, what};
use crate::kinds::KindId;

/// Longest message of a condition (Kubernetes' own limit).
const MAX_MESSAGE: usize = 32_768;
/// As long as anybody reads.
const MESSAGE: usize = 1_024;

/// Why, in one word.
pub type Reason = &'static str;

/// One condition, without the moment at which it came to be: that is whoever writes it who knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub kind: &'static str,
    pub status: bool,
    pub reason: Reason,
    pub message: String,
}

impl Condition {
    pub(super) fn yes(kind: &'static str, reason: Reason) -> Condition {
        Condition { kind, status: true, reason, message: String::new() }
    }

    pub(super) fn no(kind: &'static str, reason: Reason, message: impl Into<String>) -> Condition {
        let message: String = message.into();
        let message = match message.char_indices().nth(MESSAGE.min(MAX_MESSAGE)) {
            Some((end, _)) => format!("{}…", message.get(..end).unwrap_or_default()),
            None => message,
        };
        Condition { kind, status: false, reason, message }
    }
}

/// What is to stand in the status of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectStatus {
    pub kind: KindId,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Of the spec that was looked at.
    pub generation: i64,
    pub said: Said,
}

/// The words.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    Conditions(Vec<Condition>),
    Gateway {
        conditions: Vec<Condition>,
        listeners: Vec<ListenerStatus>,
        /// Where callers find it, IP addresses and names.
        addresses: Vec<String>,
    },
    /// Of a route: one entry for each parent that is ours.
    Parents(Vec<ParentStatus>),
}

/// Of a listener of a Gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerStatus {
    pub name: String,
    /// Kinds of routes that it takes.
    pub kinds: Vec<&'static str>,
    pub attached: usize,
    pub conditions: Vec<Condition>,
}

/// Of a route at one parent.
#[derive(Debug, Clone, PartialEq)]
pub struct ParentStatus {
    /// As the route writes it.
    pub parent: Value,
    pub conditions: Vec<Condition>,
}

/// Of our own objects.
pub(super) fn of_customs(offered: &[Offered<'_>], verdicts: &[Verdict]) -> Vec<ObjectStatus> {
    let ours = offered.iter().zip(verdicts).filter_map(|(offered, verdict)| {
        let (kind, object) = offered.of?;
        let metadata = &object.metadata;
        let is_ours = kind.kind().group == crate::kinds::SIGNET;
        is_ours.then(|| ObjectStatus {
            kind,
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
            generation: metadata.generation,
            said: Said::Conditions(of_verdict(verdict)),
        })
    });
    ours.collect()
}

/// `Accepted`, and whether all that it refers to is there.
pub(super) fn of_verdict(verdict: &Verdict) -> Vec<Condition> {
    let words = || format!("{} ({})", list(&verdict.problems), what(verdict.in_force));
    let accepted = match verdict.in_force {
        InForce::AsWritten => Condition::yes("Accepted", "Accepted"),
        InForce::Earlier => Condition::no("Accepted", "EarlierVersionStays", words()),
        InForce::Denies => Condition::no("Accepted", "TargetDenies", words()),
        InForce::Nothing => Condition::no("Accepted", "Invalid", words()),
    };
    let resolved = match verdict.stage {
        Stage::Fits => Condition::yes("ResolvedRefs", "ResolvedRefs"),
        Stage::Read => Condition::no("ResolvedRefs", "Invalid", "it cannot be read"),
        Stage::Refers => Condition::no("ResolvedRefs", "InvalidReference", list(&verdict.problems)),
    };
    vec![accepted, resolved]
}

pub(super) fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The status that is to stand there, beside what others say in it, if it is not what stands there now. `now` is the moment
/// at which a condition changes that does (RFC 3339).
///
/// Others' conditions stay, and of a route the entries of other controllers.
#[must_use]
pub fn merged(said: &Said, generation: i64, present: &Value, now: &str) -> Option<Value> {
    let status = match said {
        Said::Conditions(conditions) => {
            json!({"conditions": conditions_beside(conditions, generation, present.get("conditions"), now)})
        }
        Said::Gateway { conditions, listeners, addresses } => {
            let listeners: Vec<Value> = listeners
                .iter()
                .map(|listener| {
                    let old = entries(present.get("listeners"))
                        .find(|old| old.get("name").and_then(Value::as_str) == Some(&listener.name));
                    let kinds: Vec<Value> = listener
                        .kinds
                        .iter()
                        .map(|kind| json!({"group": crate::kinds::GATEWAY, "kind": kind}))
                        .collect();
                    let old = old.and_then(|old| old.get("conditions"));
                    json!({
                        "name": listener.name, "supportedKinds": kinds, "attachedRoutes": listener.attached,
                        "conditions": conditions_of(&listener.conditions, generation, old, now),
                    })
                })
                .collect();
            let addresses = addresses.iter().map(|address| {
                let kind = if address.parse::<IpAddr>().is_ok() { "IPAddress" } else { "Hostname" };
                json!({"type": kind, "value": address})
            });
            json!({
                "addresses": addresses.collect::<Vec<_>>(),
                "conditions": conditions_beside(conditions, generation, present.get("conditions"), now),
                "listeners": listeners,
            })
        }
        Said::Parents(parents) => {
            let is_ours =
                |entry: &&Value| entry.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER);
            let others = entries(present.get("parents")).filter(|entry| !is_ours(entry)).cloned();
            let own = parents.iter().map(|parent| {
                let old = entries(present.get("parents"))
                    .filter(is_ours)
                    .find(|entry| entry.get("parentRef") == Some(&parent.parent));
                let old = old.and_then(|old| old.get("conditions"));
                json!({
                    "parentRef": parent.parent, "controllerName": CONTROLLER,
                    "conditions": conditions_of(&parent.conditions, generation, old, now),
                })
            });
            json!({"parents": others.chain(own).collect::<Vec<_>>()})
        }
    };
    let fields = status.as_object()?;
    let changed = fields.iter().any(|(name, value)| match present.get(name) {
        Some(old) => old != value,
        None => value.as_array().is_none_or(|list| !list.is_empty()),
    });
    changed.then_some(status)
}

fn entries(list: Option<&Value>) -> impl Iterator<Item = &Value> {
    list.and_then(Value::as_array).into_iter().flatten()
}

/// Ours in the places of their earlier ones, and everybody else's.
fn conditions_beside(
    conditions: &[Condition],
    generation: i64,
    present: Option<&Value>,
    now: &str,
) -> Vec<Value> {
    let is_ours = |entry: &&Value| {
        let kind = entry.get("type").and_then(Value::as_str);
        conditions.iter().any(|condition| Some(condition.kind) == kind)
    };
    let others = entries(present).filter(|entry| !is_ours(entry)).cloned();
    conditions_of(conditions, generation, present, now).into_iter().chain(others).collect()
}

fn conditions_of(
    conditions: &[Condition],
    generation: i64,
    present: Option<&Value>,
    now: &str,
) -> Vec<Value> {
    conditions
        .iter()
        .map(|condition| {
            let status = if condition.status { "True" } else { "False" };
            let old = entries(present).find(|old| {
                old.get("type").and_then(Value::as_str) == Some(condition.kind)
                    && old.get("status").and_then(Value::as_str) == Some(status)
            });
            // It is the moment at which the status changed, not the words about it.
            let since = old.and_then(|old| old.get("lastTransitionTime")).and_then(Value::as_str);
            json!({
                "type": condition.kind, "status": status, "reason": condition.reason,
                "message": condition.message, "observedGeneration": generation,
                "lastTransitionTime": since.unwrap_or(now),
            })
        })
        .collect()
}
