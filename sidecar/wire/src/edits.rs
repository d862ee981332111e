//! What the stages want changed in a head before it is forwarded, the same for HTTP/1 and HTTP/2.
//!
//! The defaults are the safe ones: protected names ([`crate::protected`]) are dropped unless a stage keeps them by
//! name, and hop-by-hop headers are always dropped.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    canon::Target,
    names::{Known, KnownSet},
    protected::{self, Protected},
};

/// Changes to one head. Reusable: [`Edits::clear`] keeps the allocation.
#[derive(Debug, Clone, Default)]
pub struct Edits {
    pub(crate) removed: KnownSet,
    pub(crate) removed_others: Vec<HeaderName>,
    /// Removed in whichever spelling.
    pub(crate) overruled: Vec<HeaderName>,
    pub(crate) added: Vec<(HeaderName, HeaderValue)>,
    pub(crate) keep: KnownSet,
    pub(crate) keep_all_protected: bool,
    /// Whoever sent the head has no voice: nothing protected passes whatever else was said.
    pub(crate) distrusted: bool,
    pub(crate) authority: Option<Bytes>,
    pub(crate) target: Option<Target>,
}

impl Edits {
    /// No change but the defaults (see the module).
    pub fn new() -> Edits {
        Edits::default()
    }

    /// Forgets everything but the memory.
    pub fn clear(&mut self) {
        self.removed = KnownSet::EMPTY;
        self.removed_others.clear();
        self.overruled.clear();
        self.added.clear();
        self.keep = KnownSet::EMPTY;
        self.keep_all_protected = false;
        self.distrusted = false;
        self.authority = None;
        self.target = None;
    }

    /// Removes every field of that name.
    pub fn remove(&mut self, name: HeaderName) {
        match Known::of_lower_case(name.as_str().as_bytes()) {
            Known::Other => self.removed_others.push(name),
            known => self.removed.insert(known),
        }
    }

    /// Whether every field of that name as it came is dropped, or replaced.
    pub(crate) fn removes(&self, known: Known) -> bool {
        self.removed.contains(known)
    }

    /// Replaces every field of that name by one.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.added.retain(|(other, _)| *other != name);
        self.remove(name.clone());
        self.add(name, value);
    }

    /// Replaces every field of that name, also where `_` stands for `-`, by one or by none: a reader that takes the two
    /// for the same finds nothing else.
    pub fn overrule(&mut self, name: HeaderName, value: Option<HeaderValue>) {
        self.added
            .retain(|(other, _)| !protected::alike(other.as_str().as_bytes(), name.as_str().as_bytes()));
        self.overruled.push(name.clone());
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    /// Adds one more field of that name, after those there are. The names that frame a message (`content-length`,
    /// `transfer-encoding`, `connection`, `host`) are the codec's: adding them is ignored.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.add(name, value);
    }

    fn add(&mut self, name: HeaderName, value: HeaderValue) {
        if !writes_itself(Known::of_lower_case(name.as_str().as_bytes())) {
            self.added.push((name, value));
        }
    }

    /// Lets one protected header through as it came, under its exact name (an alias with `_` never passes).
    pub fn keep(&mut self, known: Known) {
        self.keep.insert(known);
    }

    /// Takes back what [`Edits::set`], [`Edits::append`] and [`Edits::keep`] said of a name: it is dropped.
    pub fn withhold(&mut self, name: &HeaderName) {
        self.added.retain(|(other, _)| other != name);
        self.keep.remove(Known::of_lower_case(name.as_str().as_bytes()));
        self.remove(name.clone());
    }

    /// Lets every protected header through: for answers of a sidecar or gateway on their way back.
    pub fn keep_all_protected(&mut self) {
        self.keep_all_protected = true;
    }

    /// Whether whoever sends the head is nobody whose words under protected names count: then none passes, whatever was
    /// to be kept. To be said anew for each sender.
    pub fn distrust(&mut self, distrusted: bool) {
        self.distrusted = distrusted;
    }

    /// Forwards under this `Host` or `:authority` instead of the request's own. Must be a valid authority.
    pub fn set_authority(&mut self, authority: Bytes) {
        self.authority = Some(authority);
    }

    /// The authority set by [`Edits::set_authority`].
    pub fn authority(&self) -> Option<&Bytes> {
        self.authority.as_ref()
    }

    /// Forwards under this target instead of the request's own.
    pub fn set_target(&mut self, target: Target) {
        self.target = Some(target);
    }

    /// The target set by [`Edits::set_target`].
    pub fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    /// Whether a received field is to be dropped, and whether because it is protected.
    pub(crate) fn verdict(
        &self,
        name: &[u8],
        known: Known,
        is_protected: bool,
        extra: &Protected,
    ) -> Verdict {
        let kept = (self.keep_all_protected || self.keep.contains(known)) && !self.distrusted;
        if !kept && (is_protected || extra.is_extra(name)) {
            return Verdict::Protected;
        }
        let removed = match known {
            Known::Other => {
                !self.removed_others.is_empty()
                    && self.removed_others.iter().any(|n| name.eq_ignore_ascii_case(n.as_str().as_bytes()))
            }
            known => self.removed.contains(known),
        };
        let removed =
            removed || self.overruled.iter().any(|one| protected::alike(name, one.as_str().as_bytes()));
        if removed { Verdict::Removed } else { Verdict::Forwarded }
    }

    /// The fields to add: none that the codec writes itself.
    pub(crate) fn additions(&self) -> &[(HeaderName, HeaderValue)] {
        &self.added
    }

    /// Applies the edits to an HTTP/2 head (or trailers); returns how many protected fields were dropped.
    pub fn apply(&self, headers: &mut HeaderMap, extra: &Protected) -> u32 {
        let mut dropped = 0u32;
        let doomed: Vec<HeaderName> = headers
            .keys()
            .filter(|name| {
                let bytes = name.as_str().as_bytes();
                let known = Known::of_lower_case(bytes);
                let verdict = self.verdict(bytes, known, protected::is_protected(bytes), extra);
                if matches!(verdict, Verdict::Protected) {
                    let count = headers.get_all(*name).iter().count();
                    dropped = dropped.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
                }
                !matches!(verdict, Verdict::Forwarded)
            })
            .cloned()
            .collect();
        for name in &doomed {
            headers.remove(name);
        }
        for (name, value) in self.additions() {
            headers.append(name.clone(), value.clone());
        }
        dropped
    }
}

/// What becomes of one received field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Forwarded,
    Removed,
    Protected,
}

/// Whether the codec alone writes fields of this name.
fn writes_itself(known: Known) -> bool {
    matches!(known, Known::ContentLength | Known::TransferEncoding | Known::Connection | Known::Host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_withheld_goes_neither_as_it_came_nor_as_it_was_set() {
        let token = HeaderName::from_static("txn-token");
        let other = HeaderName::from_static("x-other");
        for set in [true, false] {
            let mut edits = Edits::new();
            edits.keep(Known::TxnToken);
            edits.set(other.clone(), HeaderValue::from_static("ours"));
            if set {
                edits.set(token.clone(), HeaderValue::from_static("minted"));
            }
            edits.withhold(&token);
            edits.withhold(&other);
            let mut headers = HeaderMap::new();
            headers.insert(token.clone(), HeaderValue::from_static("came"));
            headers.insert(other.clone(), HeaderValue::from_static("came"));
            edits.apply(&mut headers, &Protected::default());
            assert!(headers.is_empty(), "{headers:?}");
        }
    }
}
