//! User context for apps that forward nothing: a handle goes in with a request and comes back with the calls made for it.
//!
//! Where a workload opted in, the inbound stage mints a handle for each request that brought a user, and offers it in
//! headers that tracing libraries copy ([`signet_wire::carrier`]). When our app calls, the outbound stage takes the handle
//! out again, always, and where it is the handle of a request that is still open, attaches that request's token.
//!
//! A handle is a hint. It says which request the app's tracing library *thinks* this call is made for, and job limiters,
//! batchers and lazily started workers are known to think wrong. So what it yields is called `attached` on the wire, which
//! policies do not take for `forwarded`; a handle is worth nothing once its request has ended, in another pod, or beside
//! another that differs; and nothing is ever guessed from what is not there.

mod coverage;
mod mint;
mod table;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use signet_wire::carrier::{self, Found};
use signet_wire::{Edits, RequestView};
use tokio::time::Instant;

use crate::answer::{Reason, Refusal};
use crate::exchange::{self, TokenHash};
use crate::metrics::{Carried, Offering, RouteMetrics, Via};
use crate::shared::Shared;
use crate::stage::{Forward, Verified, transaction};
use crate::state::{Keys, Snapshot};
use coverage::Seen;
pub use coverage::{Coverage, Verdict};
use mint::Mint;
pub use table::Open;
use table::{Table, Taken};

/// The handles of one process. Nothing in here costs anything until [`Handles::enable`].
#[derive(Debug, Default)]
pub struct Handles {
    on: OnceLock<On>,
}

#[derive(Debug)]
struct On {
    mint: Mint,
    table: Arc<Table>,
    seen: Seen,
}

impl Handles {
    /// From now on requests with a user get handles, which are good for so long after their request has ended. Once.
    pub fn enable(&self, grace: Duration) {
        let table = Arc::new(Table::new(grace));
        let _ = self.on.set(On { mint: Mint::new(), table, seen: Seen::default() });
    }

    /// What became of handles so far; nothing where they are not in use.
    pub fn coverage(&self) -> Option<Coverage> {
        self.on.get().map(|on| on.seen.report(&on.table))
    }
}

/// A request to our app: what others say of handles is taken out, and where it brought a user, ours is offered.
pub(crate) fn receive(
    shared: &Shared,
    metrics: &RouteMetrics,
    head: RequestView<'_>,
    forward: &mut Forward,
    user: Option<(&Arc<Verified>, &[u8])>,
) {
    let stripped = match (shared.handles.on.get(), user) {
        (Some(on), Some((user, token))) => on.offer(shared, head, forward, user, token),
        _ => carrier::strip(head, &mut forward.edits),
    };
    metrics.stripped.inc_by(stripped.into());
}

impl On {
    fn offer(
        &self,
        shared: &Shared,
        head: RequestView<'_>,
        forward: &mut Forward,
        user: &Arc<Verified>,
        token: &[u8],
    ) -> u32 {
        // A token came as a header value, so it is one.
        let token = user.token(token);
        let entered =
            self.mint.handle().zip(token).map(|(handle, token)| {
                (handle, self.table.enter(handle, user.clone(), token, Instant::now()))
            });
        let (handle, open) = match entered {
            Some((handle, Taken { open: Some(open), evicted })) => {
                if evicted {
                    shared.metrics.handle(Offering::Evicted);
                }
                (handle, open)
            }
            _ => {
                shared.metrics.handle(Offering::Full);
                return carrier::strip(head, &mut forward.edits);
            }
        };
        let offered = carrier::offer(head, &mut forward.edits, &handle);
        shared.metrics.handle(match (offered.baggage, offered.tracestate) {
            (true, true) => Offering::Both,
            (true, false) => Offering::Baggage,
            (false, true) => Offering::Tracestate,
            (false, false) => Offering::NoRoom,
        });
        self.seen.request(offered.any());
        if offered.any() {
            // An app that answers with what it was asked would tell its caller.
            forward.answer_edits.remove(HeaderName::from_static("baggage"));
            forward.answer_edits.remove(HeaderName::from_static("tracestate"));
            forward.handle = Some(open);
        }
        offered.stripped
    }

    /// The user of a handle, if its request is open and nobody has revoked them since.
    fn user(&self, handle: &carrier::Handle, keys: &Keys) -> Option<(Arc<Verified>, HeaderValue)> {
        let (user, token) = self.table.get(handle, Instant::now())?;
        let stands = crate::pool::now() < user.until && user.is_believed(keys);
        stands.then_some((user, token))
    }
}

/// A call of our app that chose no token: that of the request whose handle it carries, if it is for a peer of ours. Which
/// one was attached, if that is to be proven.
pub(crate) fn attach(
    shared: &Shared,
    view: &Snapshot,
    found: &Found,
    is_ours: bool,
    edits: &mut Edits,
    wants_proof: bool,
) -> (Via, Option<TokenHash>) {
    let Some(on) = shared.handles.on.get() else {
        return (if found.is_nothing() { Via::None } else { Via::Unknown }, None);
    };
    let mut attached = None;
    let via = match found {
        Found::Nothing => Via::None,
        Found::Malformed => Via::Unknown,
        Found::Several(_) => Via::Ambiguous,
        Found::One { handle, baggage, tracestate } => match on.user(handle, &view.keys) {
            Some(_) if !is_ours => Via::None,
            Some((_, token)) => {
                attached = wants_proof.then(|| exchange::hash(token.as_bytes()));
                edits.set(HeaderName::from_static("txn-token"), token);
                edits.set(HeaderName::from_static("signet-context"), HeaderValue::from_static("attached"));
                Via::Attached(Carried::by(*baggage, *tracestate))
            }
            None if on.mint.made(handle) => Via::Ended,
            None => Via::Unknown,
        },
    };
    if is_ours {
        on.seen.call(via, &on.table);
    }
    (via, attached)
}

/// A call of our app that chose a token: a handle beside it must not speak of another transaction. Which of two users is
/// meant nobody can say, and one of them is wrong. A token that the app asked for by itself is no such mistake.
pub(crate) fn agrees(shared: &Shared, view: &Snapshot, token: &[u8], found: &Found) -> Result<(), Refusal> {
    let Some(on) = shared.handles.on.get() else { return Ok(()) };
    on.seen.call(Via::Forwarded, &on.table);
    for handle in found.handles().iter().flatten() {
        let Some((user, same)) = on.user(handle, &view.keys) else { continue };
        if same.as_bytes() == token {
            continue;
        }
        // A token that replaced another keeps its transaction.
        let hash = exchange::hash(token);
        let chosen = transaction(shared, &view.keys, (token, &hash), crate::pool::now())?;
        let asked_for = || shared.exchanges.was_asked_for(&hash);
        if chosen.txn != user.txn && !asked_for() {
            return Err(Refusal::new(Reason::ContextMismatch).detail(
                "the app forwarded a transaction token with the handle of a request of another transaction",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
