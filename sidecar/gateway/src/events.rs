//! One event per authentication, of one schema whatever the method: `method`, `outcome`, `reason`, `route`,
//! `issuer`, `sub` (a digest), `cred` (a digest), `txn`, `decision`. Never a credential, and never a text that
//! a caller wrote. Refusals are logged at most so many a second, since anybody can cause them; all are counted.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{IntCounterVec, Opts, Registry};
use signet_model::Route;
use signet_proxy::answer::Refusal;
use signet_token::{TxnClaims, sha256};

use crate::auth::Caller;

/// Refusals logged in one second; the rest is in the counter.
const LOGGED_PER_SECOND: u64 = 50;

pub(crate) struct Events {
    attempts: IntCounterVec,
    // The current second and how many it has had, in one word.
    logged: AtomicU64,
}

impl Events {
    pub(crate) fn new(registry: &Registry) -> Result<Events, prometheus::Error> {
        let attempts = IntCounterVec::new(
            Opts::new("signet_gateway_auth_total", "Authentications at the edge"),
            &["method", "outcome", "reason"],
        )?;
        registry.register(Box::new(attempts.clone()))?;
        Ok(Events { attempts, logged: AtomicU64::new(0) })
    }

    /// A request came in, with a user or, where the route allows, without one.
    pub(crate) fn allowed(&self, method: &'static str, route: &Route, caller: Option<(&Caller, &TxnClaims)>) {
        self.attempts.with_label_values(&[method, "allowed", "ok"]).inc();
        let Some((caller, txn)) = caller else { return };
        tracing::debug!(
            target: "signet::auth",
            method, outcome = "allowed", reason = "ok", route = %route.name,
            issuer = &*caller.token.alias, sub = pseudonym(&txn.subject), cred = caller.rctx.cred_id.as_deref(),
            txn = txn.txn, "authenticated"
        );
    }

    /// It did not: by the caller's fault (`denied`) or by ours (`unavailable`).
    pub(crate) fn refused(
        &self,
        method: &'static str,
        reason: &'static str,
        route: &Route,
        caller: Option<&Caller>,
        refusal: &Refusal,
        now: u64,
    ) {
        let outcome = if refusal.reason.status() == 503 { "unavailable" } else { "denied" };
        self.attempts.with_label_values(&[method, outcome, reason]).inc();
        if !self.may_log(now) {
            return;
        }
        tracing::info!(
            target: "signet::auth",
            method, outcome, reason, route = %route.name,
            issuer = caller.map(|caller| &*caller.token.alias),
            sub = caller.map(|caller| pseudonym(&caller.token.principal())),
            cred = caller.and_then(|caller| caller.rctx.cred_id.as_deref()),
            decision = %refusal.decision, "not authenticated"
        );
    }

    fn may_log(&self, now: u64) -> bool {
        let now = now & 0xffff_ffff;
        let next = |window: u64| match (window >> 32 == now, window & 0xffff_ffff) {
            (false, _) => Some((now << 32) | 1),
            (true, count) => (count < LOGGED_PER_SECOND).then_some(window.wrapping_add(1)),
        };
        self.logged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

/// Tells events of one subject together without naming it. Whoever has a list of subjects can still match
/// them: it is a pseudonym and not anonymity.
fn pseudonym(subject: &str) -> String {
    short_hex(&sha256(subject.as_bytes()))
}

/// The first 16 of 32 bytes: enough to name a credential or subject, and half of the line.
pub(crate) fn short_hex(digest: &[u8; 32]) -> String {
    hex(digest.first_chunk::<16>().map(<[u8; 16]>::as_slice).unwrap_or_default())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
