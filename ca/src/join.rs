//! Join tokens: how a workload outside Kubernetes becomes somebody.
//!
//! A token is 256 random bits, bound to one identity and class, valid for ten minutes, stored as its
//! SHA-256 only and consumed by one statement in the transaction that issues. A request that is refused for
//! another reason (a bad certificate request, a revoked identity) does not consume it. Whoever proves the key that the
//! token was used for gets the same certificate once more, so that an answer that was lost costs nothing.

use std::fmt;
use std::sync::PoisonError;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};
use signet_identity::{PeerClass, SpiffeId};
use zeroize::Zeroizing;

use crate::authorise::{Joining, SharedRegistrar, Stop};
use crate::authority::{Authority, Caller, Inner};
use crate::config::{MAX_JOIN_TOKEN_TTL, seconds};
use crate::csr::{bounded, sha256};
use crate::error::AuthorityError;
use crate::files::FileError;
use crate::issue::{self, Issued};
use crate::record::{Entry, Event};
use crate::refusal::Refusal;
use crate::store::{Guarded, TokenRow};

/// How a token begins, so that people and secret scanners know one when they see it.
pub const TOKEN_PREFIX: &str = "signet-join-";
/// The prefix and 32 bytes in base64url.
const TOKEN_LENGTH: usize = TOKEN_PREFIX.len() + 43;

/// A new join token. The text exists here and with whoever it is given to.
#[derive(Debug)]
pub struct JoinToken {
    pub text: SecretText,
    pub spiffe_id: SpiffeId,
    pub class: PeerClass,
    /// Seconds since the epoch.
    pub expires_at: i64,
}

/// Text that must not be seen: it prints as dots and is wiped when dropped.
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    fn new(text: String) -> SecretText {
        SecretText(Zeroizing::new(text))
    }

    /// The text itself, for the one who is to have it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

impl Authority {
    /// Makes a one-time join token for one identity. `ttl` defaults to the configured ten minutes. `actor`
    /// is recorded: `uid:<n>` of the operator.
    pub async fn create_join_token(
        &self,
        id: SpiffeId,
        class: PeerClass,
        ttl: Option<Duration>,
        actor: &str,
    ) -> Result<JoinToken, AuthorityError> {
        let actor = actor.to_owned();
        self.act(move |inner| async move {
            let now = inner.clock.unix_seconds();
            let allowed = inner.rules.may_join(&id, class).and_then(|()| match ttl {
                Some(ttl) if ttl.as_secs() == 0 || ttl > MAX_JOIN_TOKEN_TTL => Err(Refusal::Lifetime),
                _ => Ok(()),
            });
            if let Err(refusal) = allowed {
                let stop = Stop::Refused(refusal, Some((id, class)));
                return Err(inner.refuse(stop, Caller::Peer, &actor, now).await);
            }
            let ttl = ttl.map_or(inner.join_token_ttl, seconds);
            let mut secret = Zeroizing::new([0u8; 32]);
            SystemRandom::new().fill(secret.as_mut_slice()).map_err(|_| FileError::Random)?;
            let mut text = String::with_capacity(TOKEN_LENGTH);
            text.push_str(TOKEN_PREFIX);
            URL_SAFE_NO_PAD.encode_string(secret.as_slice(), &mut text);
            let text = SecretText::new(text);
            let row = TokenRow {
                hash: sha256(text.expose().as_bytes()),
                spiffe_id: id.to_string(),
                class: class.as_str().to_owned(),
                created_at: now,
                expires_at: now.saturating_add(ttl),
                created_by: actor.clone(),
            };
            let mut writer = inner.store.begin().await?;
            writer.insert_token(&row).await?;
            let mut entry = Entry::new(now, Event::TokenMade, &actor).about(id.as_str(), class.as_str());
            entry.not_after = Some(row.expires_at);
            writer.record(entry).await?;
            writer.commit().await?;
            tracing::info!(target: "signet::ca", %id, %class, actor, expires_at = row.expires_at, "made a join token");
            Ok(JoinToken { text, spiffe_id: id, class, expires_at: row.expires_at })
        })
        .await
    }

    /// Issues the first certificate of a workload that holds a join token. `source` is the caller's address:
    /// it is recorded, and failed attempts are counted by it, so it should leave out the port.
    pub async fn attest_join_token(
        &self,
        token: &str,
        csr: &[u8],
        source: &str,
        registrar: SharedRegistrar,
    ) -> Result<Issued, AuthorityError> {
        // Bounds before copies: what is too long is not even moved into the task.
        let hash = token_hash(token);
        let csr = bounded(csr);
        let source = source.to_owned();
        self.act(move |inner| async move {
            let now = inner.clock.unix_seconds();
            match inner.attest(hash, csr, &source, registrar, now).await {
                Ok((by, issued)) => {
                    inner.issued(by, &issued);
                    Ok(issued)
                }
                Err(stop) => Err(inner.refuse_stranger(stop, &source, now).await),
            }
        })
        .await
    }
}

impl Inner {
    async fn attest(
        &self,
        hash: Result<[u8; 32], Refusal>,
        csr: Result<Vec<u8>, Refusal>,
        source: &str,
        registrar: SharedRegistrar,
        now: i64,
    ) -> Result<(&'static str, Issued), Stop> {
        let refuse = |refusal| Stop::Refused(refusal, None);
        if !self.attempts.lock().unwrap_or_else(PoisonError::into_inner).allows(source, now) {
            return Err(refuse(Refusal::TooManyAttempts));
        }
        let hash = hash.map_err(refuse)?;
        let csr = csr.map_err(refuse)?;
        if !self.store.knows_token(&hash).await? {
            return Err(refuse(Refusal::TokenUnknown));
        }
        let key = self.key_of(&csr).map_err(refuse)?;
        let issuer = self.issuer(now).await?;
        let key_hash = key.sha256();
        let mut writer = self.store.begin_once(&[Guarded::Origin(&hash), Guarded::Key(&key_hash)]).await?;
        match self.rules.by_join_token(&mut writer, &hash, &key, &*registrar, now).await? {
            Joining::Granted(authorized) => {
                let issued =
                    issue::issue(&mut writer, &authorized, &key, &issuer, (self.svid_ttl, now), source)
                        .await?;
                writer.commit().await?;
                Ok(("join-token", issued))
            }
            Joining::Again(row) => Ok(("resent", self.again(writer, row, source, now).await?)),
        }
    }
}

/// The hash under which a token is stored, if the text has the form of one.
fn token_hash(text: &str) -> Result<[u8; 32], Refusal> {
    let body = text.strip_prefix(TOKEN_PREFIX).ok_or(Refusal::TokenMalformed)?;
    let well_formed = text.len() == TOKEN_LENGTH
        && body.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if well_formed { Ok(sha256(text.as_bytes())) } else { Err(Refusal::TokenMalformed) }
}
