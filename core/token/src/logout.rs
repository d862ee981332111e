//! Logout tokens (OpenID Connect Back-Channel Logout 1.0 §2.4 to §2.6): an issuer says that a user, or one session,
//! is over.
//!
//! Signed like every other token of the issuer, so what tells it from them is looked at closely: the event it is
//! about, no `nonce`, and an audience of its own, the clients by which the issuer knows the mesh. It is good for
//! minutes: an old one must not end a session that began after it.

use serde_json::Value;

use crate::claims::Claims;
use crate::error::TokenError;
use crate::issuer::{IssuerKeys, Issuers};
use crate::jws::Compact;

/// The largest that is read, in bytes.
const MAX_BYTES: usize = 8 * 1024;
/// How long after it was issued it is believed, in seconds.
pub const MAX_AGE: u64 = 120;
/// The event.
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// What a verified logout token says. A user, or a session, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logout {
    pub alias: String,
    pub subject: Option<String>,
    pub session: Option<String>,
    /// Its `jti`.
    pub id: String,
    /// Seconds since the epoch.
    pub issued_at: u64,
}

impl Issuers {
    /// Verifies the logout token of one of these issuers. `is_client`: whether the issuer of this alias knows the mesh by
    /// this client id; none, and it may log nobody out.
    pub fn verify_logout(
        &self,
        token: &str,
        now: u64,
        is_client: impl Fn(&str, &str) -> bool,
    ) -> Result<Logout, TokenError> {
        let compact = Compact::parse(token, MAX_BYTES)?;
        let payload = compact.claims()?;
        let claims = Claims(&payload);
        let issuer = self.select(claims.required_text("iss")?, |_| true)?;
        issuer.verify_signature(&compact, now)?;
        issuer.read_logout(&compact, claims, now, |client| is_client(issuer.alias(), client))
    }
}

impl IssuerKeys {
    fn read_logout(
        &self,
        compact: &Compact<'_>,
        claims: Claims<'_>,
        now: u64,
        is_client: impl Fn(&str) -> bool,
    ) -> Result<Logout, TokenError> {
        let not = |what| Err(TokenError::NotLogout { what });
        // Without a type of its own in the first drafts; every other type is another kind of token.
        let typ = compact.media_type();
        if !typ.as_deref().is_none_or(|typ| matches!(typ, "logout+jwt" | "jwt")) || !compact.typ_is_text() {
            return not("its typ is that of another kind of token");
        }
        let is_logout =
            claims.0.get("events").and_then(|events| events.get(EVENT)).is_some_and(Value::is_object);
        if !is_logout {
            return not("its events do not name a back-channel logout");
        }
        if claims.has("nonce") {
            return not("it has a nonce, as an ID token has");
        }
        let audience = claims.one_or_more("aud")?;
        if !audience.iter().any(|aud| is_client(aud)) {
            return Err(TokenError::WrongAudience { alias: self.alias().to_owned() });
        }
        let issued_at = claims.required_date("iat")?;
        if issued_at > now.saturating_add(self.skew) {
            return Err(TokenError::IssuedInFuture { ahead: issued_at.saturating_sub(now) });
        }
        // `exp` is required by the final text and missing in what came before; the age bounds both.
        let ends = claims.date("exp")?.unwrap_or(u64::MAX).saturating_add(self.skew);
        let too_old = issued_at.saturating_add(MAX_AGE).saturating_add(self.skew);
        if now >= ends.min(too_old) {
            return Err(TokenError::Expired { ago: now.saturating_sub(ends.min(too_old)) });
        }
        let subject = claims.text("sub")?.map(str::to_owned);
        let session = claims.text("sid")?.map(str::to_owned);
        if subject.is_none() && session.is_none() {
            return not("it names neither a sub nor a sid");
        }
        let id = claims.required_text("jti")?.to_owned();
        Ok(Logout { alias: self.alias().to_owned(), subject, session, id, issued_at })
    }
}
