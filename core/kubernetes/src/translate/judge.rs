//! What the author of an object is told when it is written: read as the registry reads it, and held against what is there.

use signet_model::{Problem, Resource};

use super::conditions::Said;
use super::custom::{document_of, limits};
use super::views::{Content, Metadata, Object};
use super::{Settings, Snapshot, translate};
use crate::kinds::{Kind, KindId};

/// What is wrong with an object of ours in itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// It cannot be read.
    Unreadable(Vec<Problem>),
    /// It says what objects of its namespace may not.
    Forbidden(Vec<Problem>),
}

/// Reads an object of one of our kinds as the registry does. `is_admin` says whether its namespace may speak for others.
///
/// # Errors
/// [`Wrong`].
pub fn judge(
    kind: &Kind,
    metadata: &Metadata,
    spec: &serde_json::Value,
    is_admin: bool,
) -> Result<(), Wrong> {
    let problems = limits(kind.id, spec, is_admin);
    if !problems.is_empty() {
        return Err(Wrong::Forbidden(problems));
    }
    match Resource::from_document(document_of(kind.kind, kind.group, metadata, spec)) {
        Ok(_) => Ok(()),
        // It may say only what Kubernetes' Service of the same name does not: that one has the ports.
        Err(_) if kind.id == KindId::Service && spec.get("ports").is_none() => {
            let mut whole = spec.clone();
            if let Some(fields) = whole.as_object_mut() {
                fields.insert(
                    "ports".into(),
                    serde_json::json!([{"name": "any", "port": 80, "protocol": "tcp"}]),
                );
            }
            let read = Resource::from_document(document_of(kind.kind, kind.group, metadata, &whole));
            read.map(drop).map_err(Wrong::Unreadable)
        }
        Err(problems) => Err(Wrong::Unreadable(problems)),
    }
}

/// What would be said of an object if it were there beside all that is: what it refers to and is not there, and what does
/// not go together with it. Only of one that is right in itself.
#[must_use]
pub fn foreseen(snapshot: &Snapshot, settings: &Settings, kind: KindId, object: Object) -> Vec<String> {
    let Content::Custom(_) = &object.content else { return Vec::new() };
    let key = object.key();
    let mut there = snapshot.clone();
    there.put(kind, object);
    let made = translate(&there, settings, &signet_model::Kept::default());
    let of_it = |status: &&super::ObjectStatus| {
        status.kind == kind && status.namespace == *key.0 && status.name == *key.1
    };
    let Some(status) = made.statuses.iter().find(of_it) else {
        return vec!["nobody of this mesh reads objects of this namespace".to_owned()];
    };
    let Said::Conditions(conditions) = &status.said else { return Vec::new() };
    let mut said: Vec<String> =
        conditions.iter().filter(|it| !it.status).map(|it| it.message.clone()).collect();
    said.dedup();
    // One message of the two says also what is in force; the other is in it.
    said.truncate(1);
    said
}
