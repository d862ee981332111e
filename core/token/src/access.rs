//! Access tokens of outside issuers (RFC 9068 §4, with a per-issuer `typ` for those that predate it).
//!
//! The checks stand in the order in which they must run; nothing of the token is believed before its
//! signature, and nothing but `iss` is used before it.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::ClaimError;
use crate::b64;
use crate::claims::{Claims, kind};
use crate::error::TokenError;
use crate::issuer::{IssuerKeys, Issuers, KEYS_STALE_AFTER};
use crate::jwks::KeyLookup;
use crate::jws::Compact;
use crate::revoked::Subject;

const MAX_BYTES: usize = AccessToken::MAX_BYTES;

/// What a verified access token says.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessToken {
    pub alias: Arc<str>,
    pub issuer: String,
    pub subject: String,
    pub audience: Vec<String>,
    /// Seconds since the epoch, as are all dates here.
    pub expires_at: u64,
    pub issued_at: Option<u64>,
    /// Sorted, without repetition.
    pub scopes: Vec<String>,
    /// `client_id`, or `azp` of issuers that predate RFC 9068.
    pub client_id: Option<String>,
    /// Whom a revocation may name.
    pub revocable: Arc<Subject>,
    pub acr: Option<String>,
    pub amr: Vec<String>,
    pub auth_time: Option<u64>,
    /// The claims that the issuer's allow-list names.
    pub claims: Map<String, Value>,
    /// The skew with which it was judged: the token is good until `expires_at + skew`.
    pub skew: u64,
    /// What whoever presents it must prove. Only [`Issuers::verify_bound`] gives tokens that have one.
    pub confirmation: Option<Confirmation>,
}

/// What a token is bound to (`cnf`, RFC 7800 §3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirmation {
    /// A key, by its thumbprint (RFC 9449 §6.1): the caller proves it with each request.
    Key(String),
    /// The certificate of the caller's end of the connection, by its SHA-256 (RFC 8705 §3.1).
    Certificate([u8; 32]),
}

impl AccessToken {
    /// The largest that is read, in bytes.
    pub const MAX_BYTES: usize = 8 * 1024;

    /// Until when (seconds, exclusive) it is good, with the skew of its issuer.
    pub fn good_until(&self) -> u64 {
        self.expires_at.saturating_add(self.skew)
    }

    /// `<alias>|<sub>`: two issuers that know a subject "1" never merge.
    pub fn principal(&self) -> String {
        self.revocable.user.clone()
    }
}

impl Issuers {
    /// Verifies against every issuer that is known.
    pub fn verify(&self, token: &str, now: u64) -> Result<AccessToken, TokenError> {
        self.verify_from(token, now, |_| true)
    }

    /// Verifies against the issuers whose alias `accepts` allows. A cached answer needs that same
    /// question again: whether a token is genuine is not whether it is welcome. A token that is bound to a key or a
    /// certificate is refused: without a proof it is a bearer token stolen.
    pub fn verify_from(
        &self,
        token: &str,
        now: u64,
        accepts: impl Fn(&str) -> bool,
    ) -> Result<AccessToken, TokenError> {
        let verified = self.verify_bound(token, now, accepts)?;
        if verified.confirmation.is_some() { Err(TokenError::Unproven) } else { Ok(verified) }
    }

    /// The same for who proves possession: a token with a [`Confirmation`] is worth nothing before that is proven.
    pub fn verify_bound(
        &self,
        token: &str,
        now: u64,
        accepts: impl Fn(&str) -> bool,
    ) -> Result<AccessToken, TokenError> {
        let compact = Compact::parse(token, MAX_BYTES)?;
        let payload = compact.claims()?;
        let claims = Claims(&payload);

        let issuer = self.select(claims.required_text("iss")?, accepts)?;
        issuer.verify_signature(&compact, now)?;
        issuer.check_kind(&compact, claims)?;
        issuer.check_claims(claims, now)
    }

    pub(crate) fn select(
        &self,
        iss: &str,
        accepts: impl Fn(&str) -> bool,
    ) -> Result<&IssuerKeys, TokenError> {
        let known = self.of(iss);
        let mut welcome = known.iter().filter(|issuer| accepts(issuer.alias()));
        match (welcome.next(), welcome.next(), known.first()) {
            (Some(one), None, _) => Ok(one),
            (Some(_), Some(_), _) => {
                let aliases: Vec<&str> = known.iter().map(|issuer| issuer.alias()).collect();
                Err(TokenError::AmbiguousIssuer { aliases: aliases.join(", ") })
            }
            (None, _, Some(known)) => Err(TokenError::IssuerNotAccepted { alias: known.alias().to_owned() }),
            (None, _, None) => Err(TokenError::UnknownIssuer),
        }
    }
}

impl IssuerKeys {
    fn name(&self) -> String {
        self.alias.to_string()
    }

    pub(crate) fn verify_signature(&self, compact: &Compact<'_>, now: u64) -> Result<(), TokenError> {
        let algorithm = compact.algorithm();
        if !self.algorithms.contains(&algorithm) {
            return Err(TokenError::AlgorithmNotAllowed { alias: self.name(), algorithm });
        }
        let Some(keys) = &self.keys else { return Err(TokenError::KeysUnavailable { alias: self.name() }) };
        let age = now.saturating_sub(keys.at);
        if age > KEYS_STALE_AFTER {
            return Err(TokenError::KeysStale { alias: self.name(), age, max: KEYS_STALE_AFTER });
        }
        let key = keys.jwks.find(compact.kid(), algorithm).map_err(|why| match why {
            KeyLookup::Unknown => TokenError::UnknownKey { alias: self.name(), algorithm },
            KeyLookup::Ambiguous => TokenError::AmbiguousKey { alias: self.name(), algorithm },
        })?;
        Ok(compact.verify(key)?)
    }

    /// It must be an access token, and not the ID token of the same login.
    fn check_kind(&self, compact: &Compact<'_>, claims: Claims<'_>) -> Result<(), TokenError> {
        let typ = compact.media_type().unwrap_or_default();
        if !self.token_types.contains(&typ) {
            return Err(TokenError::WrongType { alias: self.name() });
        }
        for sign in ["nonce", "at_hash", "c_hash"] {
            if claims.has(sign) {
                return Err(TokenError::IdToken { sign });
            }
        }
        // Only where `typ` itself does not already say "access token": there an audience that is the
        // client and nothing else is what every ID token looks like.
        if typ != "at+jwt"
            && let Some(client) = client_id(claims)?
            && claims.one_or_more("aud")?.iter().all(|aud| *aud == client)
        {
            return Err(TokenError::IdToken { sign: "its only audience is its client" });
        }
        Ok(())
    }

    fn check_claims(&self, claims: Claims<'_>, now: u64) -> Result<AccessToken, TokenError> {
        // All four are required and typed before any of them is compared.
        let issuer = claims.required_text("iss")?;
        let subject = claims.required_text("sub")?;
        let audience = claims.one_or_more("aud")?;
        let expires_at = claims.required_date("exp")?;
        let issued_at = claims.date("iat")?;
        let not_before = claims.date("nbf")?;

        if !audience.iter().any(|aud| self.audiences.iter().any(|ours| ours == aud)) {
            return Err(TokenError::WrongAudience { alias: self.name() });
        }
        // RFC 7519 §4.1.4: "on or after" exp is too late.
        if now >= expires_at.saturating_add(self.skew) {
            return Err(TokenError::Expired { ago: now.saturating_sub(expires_at) });
        }
        let latest = now.saturating_add(self.skew);
        if let Some(iat) = issued_at
            && iat > latest
        {
            return Err(TokenError::IssuedInFuture { ahead: iat.saturating_sub(now) });
        }
        if let Some(nbf) = not_before
            && nbf > latest
        {
            return Err(TokenError::NotYetValid { within: nbf.saturating_sub(now) });
        }
        if let Some(max) = self.max_lifetime {
            let lifetime = expires_at.saturating_sub(issued_at.unwrap_or(now));
            if lifetime > max {
                return Err(TokenError::TooLongLived { alias: self.name(), lifetime, max });
            }
        }
        let confirmation = claims.0.get("cnf").map(confirmation).transpose()?;
        let revocable = Subject {
            // Two issuers that know a subject "1" never merge.
            user: format!("{}|{subject}", self.alias),
            session: claims.text("sid")?.map(str::to_owned),
            token: claims.text("jti")?.map(str::to_owned),
            issued_at: issued_at.unwrap_or_default(),
        };
        Ok(AccessToken {
            alias: self.alias.clone(),
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            audience: audience.into_iter().map(str::to_owned).collect(),
            expires_at,
            issued_at,
            scopes: self.scopes(claims)?,
            client_id: client_id(claims)?.map(str::to_owned),
            revocable: Arc::new(revocable),
            acr: claims.text("acr")?.map(str::to_owned),
            amr: claims.list("amr")?.into_iter().map(str::to_owned).collect(),
            auth_time: claims.date("auth_time")?,
            claims: self.copied(claims),
            skew: self.skew,
            confirmation,
        })
    }

    fn scopes(&self, claims: Claims<'_>) -> Result<Vec<String>, TokenError> {
        let wrong = |value: &Value| ClaimError::Type {
            claim: "scope",
            expected: "a string of scopes separated by spaces, or an array of scopes",
            found: kind(value),
        };
        let mut scopes: Vec<String> = match claims.0.get(&self.scope_claim) {
            None => Vec::new(),
            Some(Value::String(text)) => {
                text.split(' ').filter(|s| !s.is_empty()).map(str::to_owned).collect()
            }
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned).ok_or_else(|| wrong(item)))
                .collect::<Result<_, _>>()?,
            Some(other) => return Err(wrong(other).into()),
        };
        // RFC 6749 §3.3; a scope with a space in it would become two in a space-separated list.
        if let Some(Some(value)) =
            scopes.iter().any(|s| !is_scope(s)).then(|| claims.0.get(&self.scope_claim))
        {
            return Err(wrong(value).into());
        }
        scopes.sort_unstable();
        scopes.dedup();
        Ok(scopes)
    }

    fn copied(&self, claims: Claims<'_>) -> Map<String, Value> {
        let wanted = self.claims.iter().filter_map(|name| Some((name.clone(), claims.0.get(name)?.clone())));
        wanted.collect()
    }
}

/// Exactly one way to confirm, of those that we can ask for. Of two somebody might check the easier one.
fn confirmation(cnf: &Value) -> Result<Confirmation, TokenError> {
    let members = cnf.as_object().filter(|members| members.len() == 1).ok_or(TokenError::Unproven)?;
    let text = |member: &str| members.get(member).and_then(Value::as_str);
    if let Some(thumbprint) = text("jkt") {
        return Ok(Confirmation::Key(thumbprint.to_owned()));
    }
    let digest = text("x5t#S256").and_then(b64::decode).and_then(|digest| digest.try_into().ok());
    digest.map(Confirmation::Certificate).ok_or(TokenError::Unproven)
}

fn client_id(claims: Claims<'_>) -> Result<Option<&str>, ClaimError> {
    match claims.text("client_id")? {
        Some(id) => Ok(Some(id)),
        None => claims.text("azp"),
    }
}

/// RFC 6749 §3.3: visible ASCII without `"` and `\`.
pub(crate) fn is_scope(scope: &str) -> bool {
    !scope.is_empty() && scope.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}
