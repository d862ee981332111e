//! Minting. What a delegation does not allow is not minted: a sidecar would refuse it anyway, and the
//! gateway can still tell the caller why.

use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::Map;

use super::claims::{Actor, Rctx, Tctx, TxnClaims};
use super::{MAX_BYTES, MAX_TTL, MIN_TTL, TYPE};
use crate::delegation::Delegation;
use crate::key::{KeyError, SigningKey};

/// What a token is minted from: an authenticated caller on a route.
#[derive(Debug, Clone)]
pub struct Request {
    /// The `iss` of the mesh's tokens.
    pub issuer: String,
    /// The alias of the issuer that knows the subject.
    pub alias: String,
    /// The subject as that issuer names it.
    pub subject: String,
    /// The credential's scopes; those above the delegation's ceiling are left out.
    pub scopes: Vec<String>,
    /// Seconds, brought into 15–300.
    pub ttl: u64,
    pub tctx: Tctx,
    pub rctx: Rctx,
}

/// Why nothing was minted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    #[error("no delegation yet: the control plane has not answered")]
    NoDelegation,
    #[error("the delegation is not valid now (it ends at {expires_at}, now {now})")]
    DelegationEnded { expires_at: u64, now: u64 },
    #[error("the delegation is for another key")]
    WrongKey,
    #[error("the delegation does not cover issuer alias {alias:?}")]
    AliasNotDelegated { alias: String },
    #[error("the delegation does not cover credentials of kind {cred:?}")]
    CredentialNotDelegated { cred: String },
    #[error("the caller's credential ended at {src_exp}, now {now}")]
    SourceEnded { src_exp: u64, now: u64 },
    #[error("the token would be {got} bytes, at most {MAX_BYTES} are allowed: copy fewer claims")]
    TooLarge { got: usize },
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl MintError {
    pub const fn label(&self) -> &'static str {
        match self {
            MintError::NoDelegation => "no_delegation",
            MintError::DelegationEnded { .. } => "delegation_ended",
            MintError::WrongKey => "wrong_key",
            MintError::AliasNotDelegated { .. } => "alias_not_delegated",
            MintError::CredentialNotDelegated { .. } => "credential_not_delegated",
            MintError::SourceEnded { .. } => "source_ended",
            MintError::TooLarge { .. } => "too_large",
            MintError::Key(_) => "signing",
        }
    }

    /// The gateway cannot mint for anybody just now: 503, and the caller may try again.
    pub const fn is_unavailable(&self) -> bool {
        matches!(
            self,
            MintError::NoDelegation
                | MintError::DelegationEnded { .. }
                | MintError::WrongKey
                | MintError::Key(_)
        )
    }
}

/// Signs a token with a delegated key. `delegation` is `terms` as the control plane signed it.
pub fn mint(
    key: &SigningKey,
    delegation: &str,
    terms: &Delegation,
    request: Request,
    now: u64,
) -> Result<(String, TxnClaims), MintError> {
    if key.thumbprint() != terms.thumbprint() {
        return Err(MintError::WrongKey);
    }
    if now >= terms.expires_at {
        return Err(MintError::DelegationEnded { expires_at: terms.expires_at, now });
    }
    if !terms.aliases.contains(&request.alias) {
        return Err(MintError::AliasNotDelegated { alias: request.alias });
    }
    if !terms.credentials.contains(&request.rctx.cred) {
        return Err(MintError::CredentialNotDelegated { cred: request.rctx.cred });
    }
    let source = request.rctx.src_exp.unwrap_or(u64::MAX);
    if source <= now {
        return Err(MintError::SourceEnded { src_exp: source, now });
    }
    let subject = format!("{}|{}", request.alias, request.subject);
    if subject.len() > crate::claims::MAX_TEXT {
        return Err(MintError::TooLarge { got: subject.len() });
    }
    let wanted = now.saturating_add(request.ttl.clamp(MIN_TTL, MAX_TTL));
    let mut scopes = request.scopes;
    scopes.retain(|scope| terms.scope_ceiling.allows(scope));

    let claims = TxnClaims {
        actor: None,
        issuer: request.issuer,
        audience: terms.issuer.clone(),
        issued_at: now,
        expires_at: wanted.min(source).min(terms.expires_at),
        txn: uuid4()?,
        subject,
        scope: scopes.join(" "),
        req_wl: terms.subject.clone(),
        tctx: request.tctx,
        rctx: request.rctx,
    };
    Ok((sealed(key, delegation, &claims)?, claims))
}

/// Signs these claims, if the delegation covers them. They end no later than it.
pub fn sign(
    key: &SigningKey,
    delegation: &str,
    terms: &Delegation,
    mut claims: TxnClaims,
    now: u64,
) -> Result<(String, TxnClaims), MintError> {
    if key.thumbprint() != terms.thumbprint() {
        return Err(MintError::WrongKey);
    }
    if now >= terms.expires_at {
        return Err(MintError::DelegationEnded { expires_at: terms.expires_at, now });
    }
    let actor = claims.actor.as_ref().map(Actor::alias);
    if let Some(alias) =
        actor.into_iter().chain([claims.alias()]).find(|alias| !terms.aliases.contains(*alias))
    {
        return Err(MintError::AliasNotDelegated { alias: alias.to_owned() });
    }
    if !terms.credentials.contains(&claims.rctx.cred) {
        return Err(MintError::CredentialNotDelegated { cred: claims.rctx.cred });
    }
    claims.expires_at = claims.expires_at.min(terms.expires_at);
    Ok((sealed(key, delegation, &claims)?, claims))
}

fn sealed(key: &SigningKey, delegation: &str, claims: &TxnClaims) -> Result<String, MintError> {
    let mut header = Map::new();
    header.insert("dlg".into(), delegation.into());
    let token = key.sign(TYPE, header, &claims.to_json())?;
    if token.len() > MAX_BYTES {
        return Err(MintError::TooLarge { got: token.len() });
    }
    Ok(token)
}

/// A random UUID (RFC 9562 §5.4), which names a transaction.
pub fn uuid4() -> Result<String, KeyError> {
    let mut bytes = [0u8; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| KeyError::Random)?;
    let mut value = u128::from_be_bytes(bytes);
    value = (value & !(0xf << 76)) | (0x4 << 76);
    value = (value & !(0x3 << 62)) | (0x2 << 62);
    let hex = format!("{value:032x}");
    let mut text = String::with_capacity(36);
    for (at, digit) in hex.chars().enumerate() {
        if matches!(at, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(digit);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_id_is_a_random_uuid() {
        let (one, two) = (uuid4().unwrap(), uuid4().unwrap());
        assert_ne!(one, two);
        let parts: Vec<usize> = one.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert_eq!(one.as_bytes()[14], b'4');
        assert!(matches!(one.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
    }
}
