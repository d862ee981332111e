//! What a refused certificate says of itself.

use std::{fmt, sync::Arc};

use crate::{class::PeerClass, serial::Serial, spiffe_id::SpiffeId, svid::Svid};

/// Whose certificate came, as it says itself: it may be anybody's word. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Received(Arc<Leaf>);

#[derive(PartialEq, Eq)]
struct Leaf {
    id: SpiffeId,
    class: PeerClass,
    serial: Serial,
    not_before: i64,
    not_after: i64,
}

impl Received {
    pub(crate) fn of(svid: &Svid) -> Self {
        let Svid { class, serial, not_before, not_after, .. } = *svid;
        Self(Arc::new(Leaf { id: svid.id.clone(), class, serial, not_before, not_after }))
    }

    /// The identity.
    pub fn id(&self) -> &SpiffeId {
        &self.0.id
    }

    /// The class.
    pub fn class(&self) -> PeerClass {
        self.0.class
    }

    /// The serial, by which the authority's log finds it.
    pub fn serial(&self) -> Serial {
        self.0.serial
    }

    /// The first second of validity, since 1970.
    pub fn not_before(&self) -> i64 {
        self.0.not_before
    }

    /// The last one.
    pub fn not_after(&self) -> i64 {
        self.0.not_after
    }
}

impl PartialEq<SpiffeId> for Received {
    fn eq(&self, id: &SpiffeId) -> bool {
        self.id() == id
    }
}

impl fmt::Display for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id().fmt(f)
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Received").field(self.id()).field(&self.class()).field(&self.serial()).finish()
    }
}
