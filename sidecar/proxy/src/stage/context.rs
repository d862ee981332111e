//! User context as a receiver believes it: from a token to a policy's user and the app's header.

use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use serde::Serialize;
use serde_json::{Map, Value};
use signet_policy::{Context, User};
use signet_token::txn::{self, Remembered, Trust};
use signet_token::{AccessToken, Subject, TokenError, TxnClaims, UserRevokedBy};
use signet_wire::{Edits, Known, RequestView};

use crate::answer::{Reason, Refusal};
use crate::exchange::TokenHash;
use crate::hops::{self, Origin};
use crate::shared::Shared;
use crate::state::{Keys, Wanted};

/// What the app reads of a verified user, as one header value: base64url of JSON.
pub type UserHeader = HeaderValue;

/// A verified user with everything that a request needs of it, made once per token.
#[derive(Debug)]
pub(crate) struct Verified {
    /// As policy sees it when the app chose the token (or the receiver verified the credential).
    user: User,
    /// The same when the sidecar attached it: rare, so made on demand.
    attached: OnceLock<User>,
    pub(crate) header: UserHeader,
    /// Of a transaction token: which one.
    pub(crate) txn: Option<Arc<str>>,
    /// And where that one began.
    pub(crate) origin: Option<Origin>,
    /// The token as it is sent on where it is attached: made on demand.
    token: OnceLock<HeaderValue>,
    /// The token's end, in seconds since the epoch.
    pub(crate) until: u64,
    /// The issuer's alias, for JWTs of outside issuers.
    alias: Option<Arc<str>>,
    /// Whom a revocation may name.
    pub(crate) subject: Arc<Subject>,
    /// And who acts for that one.
    pub(crate) actor: Option<Arc<Subject>>,
}

impl Verified {
    pub(crate) fn user(&self, attached: bool) -> &User {
        if !attached {
            return &self.user;
        }
        self.attached.get_or_init(|| User { context: Context::Attached, ..self.user.clone() })
    }

    /// The token that was verified, as a header's value that HPACK must never index.
    pub(crate) fn token(&self, came: &[u8]) -> Option<HeaderValue> {
        if let Some(made) = self.token.get() {
            return Some(made.clone());
        }
        let mut made = HeaderValue::from_bytes(came).ok()?;
        made.set_sensitive(true);
        Some(self.token.get_or_init(|| made).clone())
    }

    /// What revokes the user, or who acts for that one.
    fn revoked_by(&self, keys: &Keys) -> Option<UserRevokedBy> {
        let all = [Some(&self.subject), self.actor.as_ref()];
        all.into_iter().flatten().find_map(|subject| keys.revoked_users.revokes(subject))
    }

    /// Whether nobody has revoked whom it is about.
    pub(crate) fn is_believed(&self, keys: &Keys) -> bool {
        keys.refuse_users.is_none() && self.revoked_by(keys).is_none()
    }

    /// Genuine is not enough: whom it is about may have been revoked since.
    fn unless_revoked(self: Arc<Self>, keys: &Keys) -> Result<Arc<Self>, Refusal> {
        match self.revoked_by(keys) {
            None => Ok(self),
            Some(by) => Err(Reason::ContextInvalid(by.label()).into()),
        }
    }

    fn of_txn(claims: TxnClaims) -> Self {
        let subject = Arc::new(claims.revocable());
        let header = header_of(&Claims {
            sub: &claims.subject,
            scope: &claims.scope,
            claims: &claims.tctx.claims,
            cred: &claims.rctx.cred,
            txn: Some(&claims.txn),
            act: claims.actor.as_ref().map(|actor| Acting { sub: &actor.subject }),
        });
        let scopes = claims.scopes().map(str::to_owned).collect();
        Verified {
            header,
            txn: Some(claims.txn.as_str().into()),
            origin: Some(Origin {
                minted_by: claims.req_wl.as_str().into(),
                began: claims.rctx.began.unwrap_or(claims.issued_at),
                lot: hops::lot(&claims.txn),
            }),
            token: OnceLock::new(),
            until: claims.expires_at,
            attached: OnceLock::new(),
            alias: None,
            subject,
            actor: claims.actor.as_ref().map(|actor| Arc::new(actor.revocable())),
            user: User {
                actor: claims.actor.map(|actor| actor.subject),
                sub: claims.subject,
                scopes,
                claims: claims.tctx.claims,
                cred: claims.rctx.cred,
                context: Context::Forwarded,
            },
        }
    }

    fn of_access(token: AccessToken) -> Self {
        let sub = token.principal();
        Verified {
            header: claims_header(&sub, &token.scopes.join(" "), &token.claims, "jwt", None),
            txn: None,
            origin: None,
            token: OnceLock::new(),
            until: token.expires_at.saturating_add(token.skew),
            attached: OnceLock::new(),
            alias: Some(token.alias),
            subject: token.revocable,
            actor: None,
            user: User {
                actor: None,
                sub,
                scopes: token.scopes,
                claims: token.claims,
                cred: "jwt".into(),
                context: Context::Direct,
            },
        }
    }
}

#[cfg(test)]
impl Verified {
    /// A user of this name, until this second of the epoch.
    pub(crate) fn named(sub: &str, txn: &str, until: u64) -> Arc<Self> {
        let subject = Subject { user: sub.into(), session: None, token: None, issued_at: 0 };
        Arc::new(Verified {
            header: HeaderValue::from_static("e30"),
            txn: Some(txn.into()),
            origin: None,
            token: OnceLock::new(),
            until,
            attached: OnceLock::new(),
            alias: None,
            subject: Arc::new(subject),
            actor: None,
            user: User {
                actor: None,
                sub: sub.into(),
                scopes: Vec::new(),
                claims: Map::new(),
                cred: "jwt".into(),
                context: Context::Forwarded,
            },
        })
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    scope: &'a str,
    claims: &'a Map<String, Value>,
    cred: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    txn: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    act: Option<Acting<'a>>,
}

/// Who acts for the user (`act`, RFC 8693 section 4.1).
#[derive(Serialize)]
struct Acting<'a> {
    sub: &'a str,
}

/// The header in which the app reads who the user is: base64url of `{sub, scope, claims, cred, txn}`.
pub fn claims_header(
    sub: &str,
    scope: &str,
    claims: &Map<String, Value>,
    cred: &str,
    txn: Option<&str>,
) -> UserHeader {
    header_of(&Claims { sub, scope, claims, cred, txn, act: None })
}

fn header_of(claims: &Claims<'_>) -> UserHeader {
    // Strings and maps always serialise, and base64url is always a header value.
    let json = serde_json::to_vec(claims).unwrap_or_default();
    HeaderValue::try_from(URL_SAFE_NO_PAD.encode(json)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Something is revoked that this version cannot tell from others: then nobody is believed.
fn all_can_be_told(keys: &Keys) -> Result<(), Refusal> {
    match &keys.refuse_users {
        None => Ok(()),
        Some(why) => Err(Refusal::new(Reason::ContextUnavailable).detail(why)),
    }
}

/// Verifies a transaction token, or remembers that it was verified under these keys. `hash` is its own.
pub(crate) fn transaction(
    shared: &Shared,
    keys: &Keys,
    (token, hash): (&[u8], &TokenHash),
    now: u64,
) -> Result<Arc<Verified>, Refusal> {
    all_can_be_told(keys)?;
    let Ok(token) = std::str::from_utf8(token) else {
        return Err(Reason::ContextInvalid("txn_malformed").into());
    };
    if let Some(known) = shared.tokens.get_by(keys.generation, hash, now) {
        return known.unless_revoked(keys);
    }
    let trust = Trust {
        trust_domain: &keys.trust_domain,
        issuer: &keys.token_issuer,
        roots: &keys.roots,
        revoked: &|thumbprint| keys.revoked_delegations.contains(thumbprint),
        remembered: Some(Remembered { cache: &shared.delegations, generation: keys.generation }),
    };
    match txn::verify_with_grant(token, &trust, now) {
        Ok((claims, grant)) => {
            shared.minting.note(grant, now);
            let verified = Arc::new(Verified::of_txn(claims));
            shared.tokens.insert(keys.generation, token, verified.clone(), verified.until);
            verified.unless_revoked(keys)
        }
        Err(error) if error.is_unavailable() => Err(Refusal::new(Reason::ContextUnavailable).detail(error)),
        Err(error) => Err(Refusal::new(Reason::ContextInvalid(error.label())).detail(error)),
    }
}

/// Verifies the original JWT of an `Authorization` header against the issuers whose aliases are listed; an
/// empty list is all of them.
pub(crate) fn original(
    shared: &Shared,
    keys: &Keys,
    authorization: Option<&[u8]>,
    aliases: &[Arc<str>],
    now: u64,
) -> Result<Arc<Verified>, Refusal> {
    let Some(authorization) = authorization else { return Err(Reason::OriginalMissing.into()) };
    let Some(token) = std::str::from_utf8(authorization).ok().and_then(bearer) else {
        return Err(Refusal::new(Reason::OriginalMissing).detail("Authorization is not of the Bearer scheme"));
    };
    all_can_be_told(keys)?;
    let accepts = |alias: &str| aliases.is_empty() || aliases.iter().any(|known| &**known == alias);
    match genuine(shared, keys, token, now, accepts) {
        Ok(verified) => verified.unless_revoked(keys),
        Err(error) => {
            if let TokenError::UnknownKey { alias, .. } = &error {
                shared.state.want(Wanted::IssuerKeys(alias.as_str().into()));
            }
            let reason = match error.is_unavailable() {
                true => Reason::ContextUnavailable,
                false => Reason::OriginalInvalid(error.label()),
            };
            Err(Refusal::new(reason).detail(error))
        }
    }
}

/// A JWT of one of these issuers, verified, or remembered from before. Whether its user was revoked is not asked.
fn genuine(
    shared: &Shared,
    keys: &Keys,
    token: &str,
    now: u64,
    accepts: impl Fn(&str) -> bool,
) -> Result<Arc<Verified>, TokenError> {
    // Whether a token is genuine is not whether it is welcome: a remembered one is asked again.
    if let Some(known) = shared.originals.get(keys.generation, token, now)
        && known.alias.as_deref().is_some_and(&accepts)
    {
        return Ok(known);
    }
    let verified = Arc::new(Verified::of_access(keys.issuers.verify_from(token, now, accepts)?));
    shared.originals.insert(keys.generation, token, verified.clone(), verified.until);
    Ok(verified)
}

/// Takes a user's own JWT out of a request that leads to nobody who is to have it: the original mode is for the services
/// that name it, and ends at egress. Another `Authorization` is the app's own affair. Returns how many fields went.
///
/// It is known by its signature, under the keys that this process verifies users with; who has none of them was sent no
/// such token.
pub(crate) fn keep_home(shared: &Shared, keys: &Keys, head: RequestView<'_>, edits: &mut Edits) -> u32 {
    if keys.issuers.is_empty() {
        return 0;
    }
    let is_users = |line: &[u8]| {
        let token = std::str::from_utf8(line).ok().and_then(bearer);
        token.is_some_and(|token| genuine(shared, keys, token, crate::pool::now(), |_| true).is_ok())
    };
    if head.get(Known::Authorization).is_some_and(is_users) {
        edits.remove(http::header::AUTHORIZATION);
        return 1;
    }
    0
}

/// The token of `Bearer <token>` (RFC 6750, 2.1; the scheme in any case).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
