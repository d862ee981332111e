//! TLS sessions of a client, kept for resumption.
//!
//! rustls keys a store by server name, and our server names stand for identities, so sessions of different
//! identities never meet. A store belongs to one config of one generation and dies with it; what it holds counts only
//! until the next news of revocation.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::{
    NamedGroup,
    client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::ServerName,
};

use crate::told::Told;

/// Tickets kept per server: as many as a burst of new connections uses at once. Each holds the server's
/// chain, about 1.5 KB.
const TICKETS: usize = 4;

#[derive(Debug)]
pub(crate) struct Sessions {
    names: usize,
    told: Arc<Told>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_name: HashMap<ServerName<'static>, Server>,
    /// Names in the order they came, for forgetting the oldest.
    order: VecDeque<ServerName<'static>>,
}

#[derive(Debug, Default)]
struct Server {
    group: Option<NamedGroup>,
    /// Each with how much was known of revocations when it came.
    tickets: VecDeque<(u64, Tls13ClientSessionValue)>,
}

impl Sessions {
    /// A store for at most this many servers.
    pub(crate) fn new(names: usize, told: Arc<Told>) -> Self {
        Self { names: names.max(1), told, kept: Mutex::default() }
    }

    pub(crate) fn forget(&self, name: &ServerName<'_>) {
        if let Some(server) = self.lock().by_name.get_mut(&name.to_owned()) {
            server.tickets.clear();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, name: ServerName<'static>, change: impl FnOnce(&mut Server)) {
        let mut kept = self.lock();
        if !kept.by_name.contains_key(&name) {
            while kept.by_name.len() >= self.names
                && let Some(oldest) = kept.order.pop_front()
            {
                kept.by_name.remove(&oldest);
            }
            kept.order.push_back(name.clone());
        }
        change(kept.by_name.entry(name).or_default());
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.with(name, |server| server.group = Some(group));
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.lock().by_name.get(&name.to_owned())?.group
    }

    // TLS 1.2 is not spoken here.
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, name: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let times = self.told.times();
        self.with(name, |server| {
            if server.tickets.len() >= TICKETS {
                server.tickets.pop_front();
            }
            server.tickets.push_back((times, ticket));
        });
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let now = self.told.times();
        let mut kept = self.lock();
        let tickets = &mut kept.by_name.get_mut(name)?.tickets;
        match tickets.pop_back()? {
            (times, ticket) if times == now => Some(ticket),
            // Those before it are older still.
            _ => {
                tickets.clear();
                None
            }
        }
    }
}
