//! What a generation was told of revocations while it was in use.
//!
//! Its verifiers look here, so that a revoked peer learns in the handshake that it is, by the alert that TLS has for it.
//! And a ticket or session from before the last news is not taken up again: who comes back after it shows its
//! certificate anew. What decides is the check after the handshake, as ever.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use rustls::{crypto::ring::Ticketer, server::ProducesTickets};

use crate::{
    failure::{HandshakeFailure, Received},
    revocation::RevocationSet,
    svid::Svid,
};

#[derive(Debug, Default)]
pub(crate) struct Told {
    revoked: RwLock<Arc<RevocationSet>>,
    /// How often it became something else.
    times: AtomicU64,
}

impl Told {
    /// Takes news, unless older ones than are held.
    pub(crate) fn learn(&self, revoked: &Arc<RevocationSet>) {
        if Arc::ptr_eq(&self.held(), revoked) {
            return;
        }
        let mut held = self.revoked.write().unwrap_or_else(PoisonError::into_inner);
        if revoked.sequence < held.sequence {
            return;
        }
        let is_other = !revoked.names_the_same(&held);
        *held = revoked.clone();
        if is_other {
            self.times.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Refuses whom it names.
    pub(crate) fn stands(&self, svid: &Svid) -> Result<(), HandshakeFailure> {
        match self.held().revokes(svid) {
            Some(by) => Err(HandshakeFailure::Revoked { received: Received::of(svid), by }),
            None => Ok(()),
        }
    }

    pub(crate) fn times(&self) -> u64 {
        self.times.load(Ordering::SeqCst)
    }

    fn held(&self) -> Arc<RevocationSet> {
        self.revoked.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Seals tickets under a key that is thrown away when there is news.
pub(crate) struct Tickets {
    told: Arc<Told>,
    current: Mutex<(u64, Arc<dyn ProducesTickets>)>,
}

impl Tickets {
    pub(crate) fn new(told: Arc<Told>) -> Result<Self, rustls::Error> {
        Ok(Self { current: Mutex::new((told.times(), Ticketer::new()?)), told })
    }

    /// None where no new key could be had: then nothing is resumed.
    fn current(&self) -> Option<Arc<dyn ProducesTickets>> {
        let times = self.told.times();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != times {
            *current = (times, Ticketer::new().ok()?);
        }
        Some(current.1.clone())
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.current().map_or(0, |current| current.lifetime())
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.current()?.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.current()?.decrypt(cipher)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}
