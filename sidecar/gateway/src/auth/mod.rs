//! Authentication methods. Each is one file with one pure function of the request, the keys and the time; what
//! they find has one shape, so that minting, policy and events need not know which it was.

pub(crate) mod authorization;
pub(crate) mod jwt;
mod possession;
pub(crate) mod seen;

use std::sync::Arc;

use signet_model::Route;
use signet_proxy::state::Keys;
use signet_token::txn::Rctx;
use signet_token::{AccessToken, TokenCache, TokenError};
use signet_wire::RequestView;

use seen::Seen;

/// Somebody whose credential was good.
#[derive(Debug)]
pub(crate) struct Caller {
    /// Everything that was verified. Every method of today ends in one of these.
    pub(crate) token: Arc<AccessToken>,
    /// How they were known, for the transaction token.
    pub(crate) rctx: Rctx,
}

/// Why possession of a token is not proven.
#[derive(Debug)]
pub(crate) struct Unproven {
    /// `invalid_token` or `invalid_dpop_proof` (RFC 9449 §7.1).
    pub(crate) error: &'static str,
    pub(crate) label: &'static str,
    /// For the log.
    pub(crate) why: Box<str>,
}

/// Why nobody is known.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No credential of a kind that the route takes.
    Missing,
    /// The request cannot be read as one credential; the label says how.
    Malformed(&'static str),
    /// The credential is larger than anything we read.
    TooLarge,
    /// The credential is not good; the reason is for the log alone.
    Refused(TokenError),
    /// The token is good, and its caller did not prove that it is theirs.
    Unproven(Unproven),
    /// The token is good, and its user must log in otherwise, or again.
    StepUp(&'static str),
    /// It cannot be judged now, and that is our fault.
    Unavailable(TokenError),
    /// More than we can keep in mind, which is our fault too.
    Overloaded(&'static str),
}

impl Failure {
    /// The typed reason in events and counters.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Failure::Missing => "missing",
            Failure::Malformed(label)
            | Failure::Unproven(Unproven { label, .. })
            | Failure::StepUp(label)
            | Failure::Overloaded(label) => label,
            Failure::TooLarge => "too_large",
            Failure::Refused(error) | Failure::Unavailable(error) => error.label(),
        }
    }
}

/// What methods verify with.
pub(crate) struct Evidence<'a> {
    pub(crate) keys: &'a Keys,
    pub(crate) tokens: &'a TokenCache<AccessToken>,
    /// Proofs of possession that came before.
    pub(crate) proofs: &'a Seen,
    /// Whether the caller came in by TLS.
    pub(crate) tls: bool,
    /// Seconds since the epoch.
    pub(crate) now: u64,
}

/// The name of the method that judged, and its judgement. `None` is a caller without a user, where the route
/// lets those in: only one who presents nothing counts as one, a bad credential never does.
pub(crate) fn authenticate(
    route: &Route,
    request: RequestView<'_>,
    evidence: &Evidence<'_>,
) -> (&'static str, Result<Option<Caller>, Failure>) {
    let Some(accepts) = &route.auth.jwt else { return ("none", Ok(None)) };
    let judged = jwt::verify(request, accepts, evidence);
    match judged {
        Err(Failure::Missing) if route.auth.anonymous && !authorization::is_presented(request) => {
            ("none", Ok(None))
        }
        judged => (jwt::METHOD, judged.map(Some)),
    }
}
