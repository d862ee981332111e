//! Delegations: the control plane's signed word that a gateway's key may mint transaction tokens.
//!
//! A delegation names the key, the one workload that may be `req_wl`, and what it may mint at most:
//! scopes, issuer aliases, kinds of credential. It travels inside the token, so a sidecar needs nothing
//! but the token roots that it already holds; revoking its thumbprint ends it everywhere.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::algorithm::Algorithm;
use crate::claims::{ClaimError, Claims};
use crate::jwk::{Jwk, JwkRefused};
use crate::jwks::{Jwks, JwksError};
use crate::jws::{Compact, JoseError};
use crate::key::{KeyError, SigningKey};

pub const TYPE: &str = "signet-delegation+jwt";
/// The longest that one may be valid, in seconds.
pub const MAX_LIFETIME: u64 = 3600;
/// The largest that is read, in bytes.
pub const MAX_BYTES: usize = 2560;
/// How far clocks inside the mesh may differ, in seconds.
pub const LEEWAY: u64 = 5;

/// The control planes' public token keys. Everything that the mesh mints hangs from these.
#[derive(Debug, Clone, Default)]
pub struct TokenRoots(Jwks);

impl TokenRoots {
    pub fn parse(document: &str) -> Result<TokenRoots, JwksError> {
        Ok(TokenRoots(Jwks::parse(document)?))
    }

    pub fn of(keys: impl IntoIterator<Item = Jwk>) -> TokenRoots {
        TokenRoots(Jwks::of(keys))
    }

    /// True until the first key set has come: tokens cannot be judged, which is not the token's fault.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn jwks(&self) -> &Jwks {
        &self.0
    }
}

/// The most that a delegated key may put into a token's `scope`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScopeCeiling {
    Any,
    Only(BTreeSet<String>),
}

impl ScopeCeiling {
    pub fn allows(&self, scope: &str) -> bool {
        match self {
            ScopeCeiling::Any => true,
            ScopeCeiling::Only(scopes) => scopes.contains(scope),
        }
    }
}

/// A delegation's content: what the control plane signs, and what verification yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegation {
    /// The trust domain.
    pub issuer: String,
    /// The SPIFFE ID that tokens must carry as `req_wl`.
    pub subject: String,
    pub issued_at: u64,
    pub expires_at: u64,
    pub id: String,
    pub key: Jwk,
    pub scope_ceiling: ScopeCeiling,
    pub aliases: BTreeSet<String>,
    pub credentials: BTreeSet<String>,
}

impl Delegation {
    /// What revocations name.
    pub fn thumbprint(&self) -> &str {
        self.key.thumbprint()
    }

    /// True within its validity, with [`LEEWAY`] for the mesh's clocks.
    pub fn is_valid_at(&self, now: u64) -> bool {
        now.saturating_add(LEEWAY) >= self.issued_at && now < self.good_until()
    }

    /// Until when (seconds, exclusive) it is good, with the mesh's leeway.
    pub fn good_until(&self) -> u64 {
        self.expires_at.saturating_add(LEEWAY)
    }
}

/// Why a delegation is not issued or not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DelegationError {
    #[error("delegation: {0}")]
    Jose(#[from] JoseError),
    #[error("delegation: {0}")]
    Claim(#[from] ClaimError),
    #[error("delegation: {0}")]
    Signing(#[from] KeyError),
    #[error("delegation: the key in cnf.jwk: {0}")]
    Key(#[from] JwkRefused),
    #[error("delegation: the key is not ES256")]
    NotEs256,
    #[error("delegation: made for another key than the one at hand")]
    WrongKey,
    #[error("delegation: typ is not {TYPE}")]
    WrongType,
    #[error("no token roots yet")]
    NoRoots,
    #[error("delegation: no token root has its kid")]
    UnknownRoot,
    #[error("delegation: issued for another trust domain")]
    WrongIssuer,
    #[error("delegation: lives {lifetime} s, at most {MAX_LIFETIME} s are allowed")]
    TooLongLived { lifetime: u64 },
    #[error("delegation: not valid now (valid from {issued_at} to {expires_at}, now {now})")]
    NotValidNow { issued_at: u64, expires_at: u64, now: u64 },
}

impl DelegationError {
    pub const fn label(&self) -> &'static str {
        match self {
            DelegationError::Jose(e) => e.label(),
            DelegationError::Claim(e) => e.label(),
            DelegationError::Signing(_) => "signing",
            DelegationError::Key(_) | DelegationError::NotEs256 => "bad_key",
            DelegationError::WrongKey => "wrong_key",
            DelegationError::WrongType => "wrong_type",
            DelegationError::NoRoots => "no_roots",
            DelegationError::UnknownRoot => "unknown_root",
            DelegationError::WrongIssuer => "wrong_issuer",
            DelegationError::TooLongLived { .. } => "too_long_lived",
            DelegationError::NotValidNow { .. } => "not_valid_now",
        }
    }
}

/// Signs a delegation with the control plane's token key.
pub fn issue(signer: &SigningKey, terms: &Delegation) -> Result<String, DelegationError> {
    let lifetime = terms.expires_at.saturating_sub(terms.issued_at);
    if lifetime > MAX_LIFETIME {
        return Err(DelegationError::TooLongLived { lifetime });
    }
    if !terms.key.verifies(Algorithm::Es256) {
        return Err(DelegationError::NotEs256);
    }
    // Only what names the key: every byte of this travels in every request.
    let mut jwk = terms.key.to_json();
    jwk.retain(|name, _| matches!(name.as_str(), "kty" | "crv" | "x" | "y"));
    let ceiling = match &terms.scope_ceiling {
        ScopeCeiling::Any => json!("*"),
        ScopeCeiling::Only(scopes) => json!(scopes),
    };
    let mut claims = Map::new();
    claims.insert("iss".into(), terms.issuer.as_str().into());
    claims.insert("sub".into(), terms.subject.as_str().into());
    claims.insert("iat".into(), terms.issued_at.into());
    claims.insert("exp".into(), terms.expires_at.into());
    claims.insert("jti".into(), terms.id.as_str().into());
    claims.insert("cnf".into(), json!({ "jwk": jwk }));
    claims.insert("scope_ceiling".into(), ceiling);
    claims.insert("aliases".into(), json!(terms.aliases));
    claims.insert("creds".into(), json!(terms.credentials));
    let token = signer.sign(TYPE, Map::new(), &claims)?;
    if token.len() > MAX_BYTES {
        return Err(JoseError::TooLarge { got: token.len(), max: MAX_BYTES }.into());
    }
    Ok(token)
}

/// Believes a delegation only under `roots`, for `trust_domain`, at `now`.
pub fn verify(
    compact: &str,
    roots: &TokenRoots,
    trust_domain: &str,
    now: u64,
) -> Result<Delegation, DelegationError> {
    let compact = Compact::parse(compact, MAX_BYTES)?;
    if compact.header_text("typ")? != TYPE {
        return Err(DelegationError::WrongType);
    }
    if roots.is_empty() {
        return Err(DelegationError::NoRoots);
    }
    let kid = Some(compact.header_text("kid")?);
    let root = roots.0.find(kid, compact.algorithm()).map_err(|_| DelegationError::UnknownRoot)?;
    compact.verify(root)?;

    let delegation = read(&compact)?;
    if delegation.issuer != trust_domain {
        return Err(DelegationError::WrongIssuer);
    }
    let Delegation { issued_at, expires_at, .. } = delegation;
    let lifetime = expires_at.saturating_sub(issued_at);
    if lifetime > MAX_LIFETIME {
        return Err(DelegationError::TooLongLived { lifetime });
    }
    if !delegation.is_valid_at(now) {
        return Err(DelegationError::NotValidNow { issued_at, expires_at, now });
    }
    Ok(delegation)
}

/// Reads one's own delegation, just received over an authenticated channel from whoever signed it.
/// Checks its shape only; [`verify`] is what a receiver of tokens does.
pub fn peek(compact: &str) -> Result<Delegation, DelegationError> {
    let compact = Compact::parse(compact, MAX_BYTES)?;
    if compact.header_text("typ")? != TYPE {
        return Err(DelegationError::WrongType);
    }
    read(&compact)
}

/// The name (`kid`) of the token root that one's own delegation says it was signed with.
pub fn root_of(compact: &str) -> Result<String, DelegationError> {
    Ok(Compact::parse(compact, MAX_BYTES)?.header_text("kid")?.to_owned())
}

fn read(compact: &Compact<'_>) -> Result<Delegation, DelegationError> {
    let payload = compact.claims()?;
    let claims = Claims(&payload);
    let confirmation = claims.object("cnf")?;
    let key = Jwk::from_map(confirmation.object("jwk")?.0)?;
    if !key.verifies(Algorithm::Es256) {
        return Err(DelegationError::NotEs256);
    }
    let set = |items: Vec<&str>| items.into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
    let scope_ceiling = match claims.0.get("scope_ceiling") {
        Some(Value::String(any)) if any == "*" => ScopeCeiling::Any,
        None => return Err(ClaimError::Missing { claim: "scope_ceiling" }.into()),
        Some(_) => ScopeCeiling::Only(set(claims.list("scope_ceiling")?)),
    };
    Ok(Delegation {
        issuer: claims.required_text("iss")?.to_owned(),
        subject: claims.required_text("sub")?.to_owned(),
        issued_at: claims.required_date("iat")?,
        expires_at: claims.required_date("exp")?,
        id: claims.required_text("jti")?.to_owned(),
        key,
        scope_ceiling,
        aliases: set(claims.list("aliases")?),
        credentials: set(claims.list("creds")?),
    })
}
