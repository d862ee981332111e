//! What was decided, small enough to live on the stack.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

/// How many items a verdict names; the rest is in the explanation.
pub(crate) const NAMED: usize = 4;

/// Up to four items without a heap: who decided, and which shadow policies had something to say.
#[derive(Debug, Clone, Copy)]
pub struct Few<T> {
    items: [T; NAMED],
    len: usize,
}

impl<T: Copy + Default> Few<T> {
    pub(crate) fn new() -> Few<T> {
        Few { items: [T::default(); NAMED], len: 0 }
    }

    /// Drops what does not fit.
    pub(crate) fn push(&mut self, item: T) {
        if let Some(place) = self.items.get_mut(self.len) {
            *place = item;
            self.len = self.len.saturating_add(1);
        }
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        self.items.get(..self.len).unwrap_or_default()
    }
}

/// Why the verdict is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// A permit matched and no forbid did.
    Permit,
    /// A forbid matched.
    Forbid,
    /// Nothing matched: the mesh's default.
    Default,
    /// A policy of this target could not be understood: the target denies.
    NotUnderstood,
    /// Policies permit it, and somebody else who was asked does not. Never of a decision that is made here.
    External,
}

impl Basis {
    /// For metrics and for the typed reason of a refusal.
    pub fn label(self) -> &'static str {
        match self {
            Basis::Permit => "permit",
            Basis::Forbid => "forbid",
            Basis::Default => "default",
            Basis::NotUnderstood => "not-understood",
            Basis::External => "external",
        }
    }
}

/// A shadow policy that matched: what it would have voted for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShadowOutcome<'s> {
    /// `name.namespace`
    pub policy: &'s str,
    /// A permit that matched would allow, a forbid would deny.
    pub would_allow: bool,
    /// Enforced alone beside what is enforced now, it would have turned the verdict.
    pub changes: bool,
}

/// A `when` that had no value, since something was absent or of another type than it takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Failed<'s> {
    /// `name.namespace`
    pub policy: &'s str,
    /// `absent` or `type`.
    pub why: &'static str,
}

/// The answer. Names are borrowed from the set that gave it.
#[derive(Debug, Clone, Copy)]
pub struct Verdict<'s> {
    pub allowed: bool,
    pub basis: Basis,
    /// The policies that decided, `name.namespace`: the forbids that matched, or the first permit that did;
    /// none for a default. At most four; the explanation has all.
    pub deciding: Few<&'s str>,
    /// Shadow policies that matched. At most four.
    pub shadow: Few<ShadowOutcome<'s>>,
    /// What the verdict would be were every shadow policy enforced.
    pub shadow_allowed: bool,
    /// Policies whose `when` could not be evaluated: a permit did not match for it, a forbid did. At most four.
    pub failed: Few<Failed<'s>>,
    /// Forbids that matched and did not forbid, by an exception. At most four.
    pub excepted: Few<&'s str>,
    /// Who else has to be asked, `name.namespace`, before what is allowed may pass. Never more than there is room for: a set
    /// that names more denies everything.
    pub ask: Few<&'s str>,
}

/// What becomes of somebody without an identity, at a port that would let one in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unproven<'s> {
    /// A permit that asks for nothing, or the mesh's default, and no forbid.
    Permitted,
    /// Nothing permits it, or something forbids it.
    Denied,
    /// A policy asks on this port what such a caller does not have.
    Asked {
        /// Its name.
        policy: &'s str,
        /// The field by which it asks.
        field: &'static str,
    },
    /// This policy cannot be read: everything is denied.
    NotUnderstood(&'s str),
}
