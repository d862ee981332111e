//! Outside issuers: what each may sign, and the keys that the control plane fetched for it.
//!
//! The issuer is chosen by the exact, still unverified `iss`; a key is looked up inside that issuer
//! only. Two issuers with the same `kid` or the same `sub` never meet.

use std::collections::HashMap;
use std::sync::Arc;

use crate::algorithm::Algorithm;
use crate::jwks::Jwks;
use crate::jws::short_media_type;

/// Keys older than this are not used: the issuer may have withdrawn them long ago.
pub const KEYS_STALE_AFTER: u64 = 24 * 3600;
/// How far clocks may differ, in seconds, unless configured (at most [`MAX_SKEW`]).
pub const DEFAULT_SKEW: u64 = 30;
pub const MAX_SKEW: u64 = 60;

/// An issuer's configuration, as written.
#[derive(Debug, Clone, Default)]
pub struct IssuerSettings {
    /// The name under which its subjects are known in the mesh: `<alias>|<sub>`.
    pub alias: String,
    /// The exact `iss`.
    pub issuer: String,
    /// Any one must be in the token's `aud`. Empty is an error, never "any".
    pub audiences: Vec<String>,
    /// Names of accepted algorithms; empty means the five that exist.
    pub algorithms: Vec<String>,
    /// Accepted `typ`; empty means `at+jwt`.
    pub token_types: Vec<String>,
    /// The claim that holds scopes; empty means `scope`.
    pub scope_claim: String,
    /// The longest life that is accepted, in seconds.
    pub max_lifetime: Option<u64>,
    /// Claims that are copied into the user's context.
    pub claims: Vec<String>,
    /// Seconds; none means [`DEFAULT_SKEW`].
    pub skew: Option<u64>,
}

/// Why an issuer cannot be configured so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerConfigError {
    #[error("alias {0:?}: expected 1 to 128 of letters, digits, '.', '-', '_' and '/'")]
    Alias(String),
    #[error("issuer {alias}: the issuer's identifier is empty")]
    EmptyIssuer { alias: String },
    #[error(
        "issuer {alias}: audiences is empty or has an empty entry; name the audience that tokens for this mesh carry"
    )]
    EmptyAudience { alias: String },
    #[error("issuer {alias}: {source}")]
    Algorithm { alias: String, source: crate::algorithm::UnknownAlgorithm },
    #[error("issuer {alias}: token type {found:?} is empty or one of the mesh's own")]
    TokenType { alias: String, found: String },
    #[error("issuer {alias}: a clock skew of {found} s, at most {MAX_SKEW} s are allowed")]
    Skew { alias: String, found: u64 },
    #[error("issuer {alias}: maxLifetime is 0")]
    Lifetime { alias: String },
}

/// One issuer, ready to verify with.
#[derive(Debug, Clone)]
pub struct IssuerKeys {
    pub(crate) alias: Arc<str>,
    pub(crate) issuer: String,
    pub(crate) audiences: Vec<String>,
    pub(crate) algorithms: Vec<Algorithm>,
    pub(crate) token_types: Vec<String>,
    pub(crate) scope_claim: String,
    pub(crate) max_lifetime: Option<u64>,
    pub(crate) claims: Vec<String>,
    pub(crate) skew: u64,
    pub(crate) keys: Option<Fetched>,
}

#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub(crate) jwks: Arc<Jwks>,
    pub(crate) at: u64,
}

impl IssuerKeys {
    /// An issuer without keys yet: its tokens are answered with "unavailable".
    pub fn new(settings: IssuerSettings) -> Result<IssuerKeys, IssuerConfigError> {
        let IssuerSettings { alias, issuer, audiences, .. } = settings;
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
        if alias.is_empty() || alias.len() > 128 || !alias.chars().all(allowed) {
            return Err(IssuerConfigError::Alias(alias));
        }
        if issuer.is_empty() {
            return Err(IssuerConfigError::EmptyIssuer { alias });
        }
        if audiences.is_empty() || audiences.iter().any(String::is_empty) {
            return Err(IssuerConfigError::EmptyAudience { alias });
        }
        let algorithms = settings.algorithms.iter().map(|name| name.parse()).collect::<Result<Vec<_>, _>>();
        let mut algorithms =
            algorithms.map_err(|source| IssuerConfigError::Algorithm { alias: alias.clone(), source })?;
        if algorithms.is_empty() {
            algorithms = Algorithm::ALL.to_vec();
        }
        let mut token_types = Vec::new();
        for found in settings.token_types {
            let short = short_media_type(&found);
            // A token of the mesh's own kinds must never pass for an outside credential.
            if short.is_empty() || short == crate::txn::TYPE || short == crate::delegation::TYPE {
                return Err(IssuerConfigError::TokenType { alias, found });
            }
            token_types.push(short);
        }
        if token_types.is_empty() {
            token_types.push("at+jwt".to_owned());
        }
        let skew = settings.skew.unwrap_or(DEFAULT_SKEW);
        if skew > MAX_SKEW {
            return Err(IssuerConfigError::Skew { alias, found: skew });
        }
        if settings.max_lifetime == Some(0) {
            return Err(IssuerConfigError::Lifetime { alias });
        }
        let scope_claim =
            if settings.scope_claim.is_empty() { "scope".to_owned() } else { settings.scope_claim };
        Ok(IssuerKeys {
            alias: alias.into(),
            issuer,
            audiences,
            algorithms,
            token_types,
            scope_claim,
            max_lifetime: settings.max_lifetime,
            claims: settings.claims,
            skew,
            keys: None,
        })
    }

    /// The keys, and when they were fetched (seconds since the epoch). An empty set counts as none: an
    /// issuer that publishes nothing usable is unavailable, and its clients' tokens are not bad.
    #[must_use]
    pub fn with_keys(mut self, jwks: Arc<Jwks>, fetched_at: u64) -> IssuerKeys {
        self.keys = (!jwks.is_empty()).then_some(Fetched { jwks, at: fetched_at });
        self
    }

    pub fn alias(&self) -> &str {
        &self.alias
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn has_keys(&self) -> bool {
        self.keys.is_some()
    }
}

/// The issuers that a process knows, by exact `iss`.
#[derive(Debug, Clone, Default)]
pub struct Issuers {
    by_issuer: HashMap<String, Vec<Arc<IssuerKeys>>>,
}

impl Issuers {
    /// Two issuers with one `iss` are kept apart: their tokens are refused as ambiguous unless the
    /// caller accepts only one of them.
    pub fn new(issuers: impl IntoIterator<Item = IssuerKeys>) -> Issuers {
        let mut by_issuer: HashMap<String, Vec<Arc<IssuerKeys>>> = HashMap::new();
        for issuer in issuers {
            by_issuer.entry(issuer.issuer.clone()).or_default().push(Arc::new(issuer));
        }
        Issuers { by_issuer }
    }

    pub fn is_empty(&self) -> bool {
        self.by_issuer.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &IssuerKeys> {
        self.by_issuer.values().flatten().map(Arc::as_ref)
    }

    pub(crate) fn of(&self, iss: &str) -> &[Arc<IssuerKeys>] {
        self.by_issuer.get(iss).map(Vec::as_slice).unwrap_or_default()
    }
}
