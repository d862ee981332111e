//! What a token may be exchanged for. Pure rules; who may ask is for the caller to know.
//!
//! A *replacement* keeps `txn`, `sub`, `aud`, the actor and everything else that is said of the user; it may have fewer
//! scopes, says in `rctx.via` whom the transaction came through, and ends with the user's credential, or five minutes
//! after the transaction began, whichever comes first. A transaction that a workload *begins* has a user that somebody
//! vouches for. One that is *continued* later keeps its name and its user, and begins its five minutes anew.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::claims::{Actor, Rctx, Tctx, TxnClaims};
use super::mint::uuid4;
use super::{MAX_TTL, MIN_TTL};
use crate::access::{AccessToken, is_scope};
use crate::b64::sha256;
use crate::claims::is_plain;
use crate::key::KeyError;

/// The longest chain of tokens that replaced one another.
pub const MAX_VIA: usize = 16;
/// The kind of credential of a user whom a workload names without one.
pub const UNPROVEN: &str = "workload";

/// Why there is no other token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    #[error("the token has expired")]
    Expired,
    #[error("the transaction is at its end: {MAX_TTL} s after it began, or with the user's credential")]
    TransactionEnded,
    #[error("`scope` is no list of scopes separated by single blanks")]
    ScopeMalformed,
    #[error("scope `{scope}` is not among those that may be had here")]
    ScopeWidened { scope: String },
    #[error("the transaction has come through {MAX_VIA} exchanges, and may go through no more")]
    ChainTooLong,
    #[error("the subject is not `<alias of an Issuer>|<sub>`, at most 1024 bytes without control characters")]
    SubjectMalformed,
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Scopes as a parameter has them (RFC 6749, 3.3), each once.
pub fn narrowed<'a>(
    wanted: Option<&'a str>,
    allowed: impl IntoIterator<Item = &'a str>,
) -> Result<String, ExchangeError> {
    let allowed: BTreeSet<&str> = allowed.into_iter().collect();
    let Some(wanted) = wanted else {
        return Ok(allowed.into_iter().collect::<Vec<_>>().join(" "));
    };
    if wanted.is_empty() {
        return Ok(String::new());
    }
    let mut scopes = BTreeSet::new();
    for scope in wanted.split(' ') {
        if !is_scope(scope) {
            return Err(ExchangeError::ScopeMalformed);
        }
        if !allowed.contains(scope) {
            return Err(ExchangeError::ScopeWidened { scope: scope.chars().take(256).collect() });
        }
        scopes.insert(scope);
    }
    Ok(scopes.into_iter().collect::<Vec<_>>().join(" "))
}

/// The claims of the token that replaces this one, for `requester`.
pub fn replace(
    held: &TxnClaims,
    scope: Option<&str>,
    requester: &str,
    ttl: u64,
    now: u64,
) -> Result<TxnClaims, ExchangeError> {
    // Without the leeway that a receiver has: an expired token is never replaced.
    if now >= held.expires_at {
        return Err(ExchangeError::Expired);
    }
    let began = held.rctx.began.unwrap_or(held.issued_at);
    let mut next = held.clone();
    next.scope = narrowed(scope, held.scopes())?;
    next.rctx.began = Some(began);
    passed_on(&mut next, held)?;
    next.req_wl = requester.to_owned();
    ends(next, began, ttl, now)
}

/// The claims of a token with which the transaction of `held` goes on at `now`, for `requester`, until `until` at the
/// latest: a sealed context that is opened. Whether it may is the caller's question.
pub fn continued(
    held: &TxnClaims,
    scope: Option<&str>,
    requester: &str,
    (ttl, until): (u64, u64),
    now: u64,
) -> Result<TxnClaims, ExchangeError> {
    let mut next = held.clone();
    next.scope = narrowed(scope, held.scopes())?;
    next.rctx.began = Some(now);
    // The user's credential has ended, perhaps long ago: that it may be outlived so far was granted when it was put off.
    next.rctx.src_exp = Some(until);
    passed_on(&mut next, held)?;
    next.req_wl = requester.to_owned();
    ends(next, now, ttl, now)
}

fn passed_on(next: &mut TxnClaims, held: &TxnClaims) -> Result<(), ExchangeError> {
    if next.rctx.via.len() >= MAX_VIA {
        return Err(ExchangeError::ChainTooLong);
    }
    next.rctx.via.push(held.req_wl.clone());
    Ok(())
}

fn ends(mut next: TxnClaims, began: u64, ttl: u64, now: u64) -> Result<TxnClaims, ExchangeError> {
    let source = next.rctx.src_exp.unwrap_or(u64::MAX);
    let last = began.saturating_add(MAX_TTL).min(source);
    next.issued_at = now;
    next.expires_at = now.saturating_add(ttl.clamp(MIN_TTL, MAX_TTL)).min(last);
    if next.expires_at <= now {
        return Err(ExchangeError::TransactionEnded);
    }
    Ok(next)
}

/// By what the user of a transaction that a workload begins is known.
pub enum Source<'a> {
    /// A token of the user's issuer that the app holds, with its text.
    Access(&'a AccessToken, &'a str),
    /// The workload's word alone: `<alias>|<sub>`.
    Named(&'a str),
}

/// A transaction that a workload begins by itself.
pub struct Begin<'a> {
    pub source: Source<'a>,
    /// Who acts for the user, and when the credential ends by which that one is known.
    pub actor: Option<(Actor, Option<u64>)>,
    /// Scopes that it may have.
    pub allowed: BTreeSet<&'a str>,
    /// Scopes that it asks for.
    pub scope: Option<&'a str>,
    /// The claims that are copied from an access token.
    pub claims: &'a dyn Fn(&str) -> bool,
    pub details: Map<String, Value>,
    /// Under which grant; it takes the place of a route.
    pub grant: &'a str,
    pub issuer: &'a str,
    pub audience: &'a str,
    pub requester: &'a str,
    pub ttl: u64,
}

/// The claims of its first token.
pub fn begin(asked: Begin<'_>, now: u64) -> Result<TxnClaims, ExchangeError> {
    let (actor, actor_until) = asked.actor.unzip();
    let (subject, claims, mut rctx, scope) = match asked.source {
        Source::Access(token, text) => {
            let had = token.scopes.iter().map(String::as_str);
            let scope = narrowed(asked.scope, had.filter(|scope| asked.allowed.contains(scope)))?;
            let claims = token.claims.iter().filter(|(name, _)| (asked.claims)(name));
            let claims = claims.map(|(name, value)| (name.clone(), value.clone())).collect();
            (token.principal(), claims, of_access(token, text), scope)
        }
        Source::Named(subject) => {
            let is_named = subject
                .split_once('|')
                .is_some_and(|(alias, sub)| is_plain(alias) && is_plain(sub) && is_plain(subject));
            if !is_named {
                return Err(ExchangeError::SubjectMalformed);
            }
            // A logout ends what was signed in for before it. Here nobody signed in: one that comes later counts.
            let rctx = Rctx { cred: UNPROVEN.to_owned(), src_iat: Some(now), ..Rctx::default() };
            (subject.to_owned(), Map::new(), rctx, narrowed(asked.scope, asked.allowed)?)
        }
    };
    // An actor acts no longer than it is somebody.
    rctx.src_exp = rctx.src_exp.into_iter().chain(actor_until.flatten()).min();
    let claims = TxnClaims {
        issuer: asked.issuer.to_owned(),
        audience: asked.audience.to_owned(),
        issued_at: now,
        expires_at: now,
        txn: uuid4()?,
        subject,
        scope,
        req_wl: asked.requester.to_owned(),
        actor,
        tctx: Tctx { route: asked.grant.to_owned(), method: String::new(), claims, details: asked.details },
        rctx,
    };
    ends(claims, now, asked.ttl, now)
}

fn of_access(token: &AccessToken, text: &str) -> Rctx {
    let name = sha256(text.as_bytes());
    let name: String = name.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    Rctx {
        cred: "jwt".to_owned(),
        cred_id: Some(format!("sha256:{name}")),
        issuer: Some(token.issuer.clone()),
        client_id: token.client_id.clone(),
        src_exp: Some(token.expires_at),
        src_iat: Some(token.revocable.issued_at),
        src_jti: token.revocable.token.clone(),
        acr: token.acr.clone(),
        amr: token.amr.clone(),
        auth_time: token.auth_time,
        session_id: token.revocable.session.clone(),
        ..Rctx::default()
    }
}
