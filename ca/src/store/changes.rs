//! What others are told of: that something changed, never what. Whoever hears it reads the store again.

/// A part of the store that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Revocations,
    /// The journal of rotations.
    Rotation,
    /// News may have been missed: everything is to be read again.
    Everything,
}

impl Change {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Change::Revocations => "revocations",
            Change::Rotation => "rotation",
            Change::Everything => "everything",
        }
    }

    /// What a control plane of another version says, and this one does not know, is reason to read everything.
    pub(super) fn parse(text: &str) -> Change {
        [Change::Revocations, Change::Rotation]
            .into_iter()
            .find(|change| change.as_str() == text)
            .unwrap_or(Change::Everything)
    }
}
