//! Contexts that are put off: who the user is, sealed for one workload that goes on with the transaction later.
//!
//! What whoever carries it holds is 32 random bytes that say nothing. What it stands for lies in the store, encrypted under a
//! key made of those bytes: the store without a context tells of no user, a context without the store is worth nothing, and
//! both are only good for the workload that it was sealed for, so many times, until its end. Opening one is the same
//! transaction as signing the token that it is opened for.

use std::sync::PoisonError;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls_pki_types::CertificateDer;
use serde_json::Value;
use signet_identity::{PeerClass, SpiffeId};
use signet_token::{Minted, TxnClaims};
use zeroize::Zeroizing;

use crate::authorise::{SharedRegistrar, Stop};
use crate::authority::Authority;
use crate::csr::sha256;
use crate::error::AuthorityError;
use crate::exchange::Exchange;
use crate::files::FileError;
use crate::limits::Holder as Counted;
use crate::record::{Entry, Event};
use crate::refusal::Refusal;
use crate::store::{DeferredRow, StoreError};

/// How a sealed context begins, so that people and scanners know one when they see it.
pub const SEALED_PREFIX: &str = "signet-deferred-";
/// The prefix and 32 bytes in base64url.
const SEALED_LENGTH: usize = SEALED_PREFIX.len() + 43;
/// Contexts of one workload that are kept.
pub const MAX_DEFERRED: i64 = 10_000;

/// A context that is to be sealed.
pub struct Deferral {
    /// Of the token that it is made from.
    pub claims: TxnClaims,
    /// Who may open it.
    pub consumer: SpiffeId,
    /// How long, in seconds.
    pub within: i64,
    /// How often.
    pub openings: i64,
    /// Under which grant, for the record.
    pub grant: String,
}

/// What a context says is only readable with the text.
fn cipher(text: &str) -> Result<LessSafeKey, AuthorityError> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes());
    let key = hmac::sign(&key, b"signet: the content of a deferred context");
    let key = UnboundKey::new(&AES_256_GCM, key.as_ref()).map_err(|_| FileError::Random)?;
    Ok(LessSafeKey::new(key))
}

/// The key is used once.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

impl Authority {
    /// Seals a context for another workload, and records it. The text, and when it ends.
    pub async fn defer(
        &self,
        presented: &CertificateDer<'_>,
        deferral: Deferral,
        registrar: SharedRegistrar,
    ) -> Result<(Zeroizing<String>, i64), AuthorityError> {
        self.act_of_peer(presented, move |inner, peer| async move {
            let now = peer.now;
            let mut writer = inner.store.begin().await?;
            let holder = inner.rules.proxy(&mut writer, &peer.leaf, &*registrar, now).await?;
            let refuse = |refusal| Stop::Refused(refusal, Some((holder.id.clone(), holder.class)));
            if holder.class != PeerClass::Sidecar {
                return Err(refuse(Refusal::NotAProxy));
            }
            let counted = [Counted::of(&holder.tie)];
            if !inner.exchanges.lock().unwrap_or_else(PoisonError::into_inner).admit(&counted, now) {
                return Err(refuse(Refusal::TooManyAttempts));
            }
            if writer.deferred_by(holder.id.as_str(), now).await? >= MAX_DEFERRED {
                return Err(refuse(Refusal::TooManyContexts));
            }
            let Deferral { claims, consumer, within, openings, grant } = deferral;
            let ends_at = now.saturating_add(within);
            let mut secret = Zeroizing::new([0_u8; 32]);
            let filled = SystemRandom::new().fill(secret.as_mut_slice());
            filled.map_err(|_| AuthorityError::File(FileError::Random))?;
            let mut text = Zeroizing::new(String::with_capacity(SEALED_LENGTH));
            text.push_str(SEALED_PREFIX);
            URL_SAFE_NO_PAD.encode_string(secret.as_slice(), &mut text);
            let words = format!(
                "{grant}: txn {} for {}, to be opened by {consumer}, scope \"{}\"",
                claims.txn, claims.subject, claims.scope
            );
            let mut content = Value::Object(claims.to_json()).to_string().into_bytes();
            let sealed = cipher(&text)?.seal_in_place_append_tag(nonce(), Aad::empty(), &mut content);
            sealed.map_err(|_| AuthorityError::File(FileError::Random))?;
            let row = DeferredRow {
                id: sha256(text.as_bytes()),
                spiffe_id: consumer.to_string(),
                producer: holder.id.to_string(),
                content,
                created_at: now,
                ends_at,
                allowed: openings,
            };
            writer.insert_deferred(&row).await?;
            let mut entry = Entry::new(now, Event::Deferred, &peer.actor)
                .about(holder.id.as_str(), holder.class.as_str())
                .because(&words);
            entry.not_after = Some(ends_at);
            writer.record(entry).await?;
            writer.commit().await?;
            Ok((text, ends_at))
        })
        .await
    }

    /// Opens a context, and signs the token that `next` makes of it (of its claims, who put it off, and its end). Where `next`
    /// refuses, it was not opened. Everything that is wrong with the context itself is one refusal.
    pub async fn open_deferred<E>(
        &self,
        presented: &CertificateDer<'_>,
        sealed: Zeroizing<String>,
        next: impl FnOnce(TxnClaims, &str, i64) -> Result<TxnClaims, E> + Send + 'static,
        registrar: SharedRegistrar,
    ) -> Result<Result<Minted, E>, AuthorityError>
    where
        E: From<signet_token::MintError> + Send + 'static,
    {
        self.act_of_peer(presented, move |inner, peer| async move {
            let mut writer = inner.store.begin().await?;
            let holder = inner.rules.proxy(&mut writer, &peer.leaf, &*registrar, peer.now).await?;
            let refuse = |refusal| Stop::Refused(refusal, Some((holder.id.clone(), holder.class)));
            let is_one = sealed.len() == SEALED_LENGTH && sealed.starts_with(SEALED_PREFIX);
            let row = match is_one {
                true => {
                    writer.open_deferred(&sha256(sealed.as_bytes()), holder.id.as_str(), peer.now).await?
                }
                false => None,
            };
            let mut row = row.ok_or_else(|| refuse(Refusal::NotItsContext))?;
            let claims = opened(&sealed, &mut row.content)?;
            let claims = match next(claims, &row.producer, row.ends_at) {
                Ok(claims) => claims,
                Err(error) => return Ok(Err(error)),
            };
            let what = format!("opened, put off by {}", row.producer);
            let exchange = Exchange { claims, what };
            let (minted, fresh) = match inner.exchange(&mut writer, &peer, exchange, &registrar).await? {
                Ok(signed) => signed,
                Err(error) => return Ok(Err(error.into())),
            };
            writer.commit().await?;
            inner.keep_exchange_key(fresh, peer.now);
            inner.metrics.issued.with_label_values(&["exchange", PeerClass::Sidecar.as_str()]).inc();
            Ok(Ok(minted))
        })
        .await
    }
}

/// The row carries our mark: what does not open under its own text was damaged.
fn opened(sealed: &str, content: &mut [u8]) -> Result<TxnClaims, Stop> {
    let corrupt = |what| Stop::from(StoreError::Corrupt { table: "deferred", what });
    let plain = cipher(sealed)?.open_in_place(nonce(), Aad::empty(), content);
    let plain = plain.map_err(|_| corrupt("the content does not open"))?;
    let Ok(Value::Object(map)) = serde_json::from_slice::<Value>(plain) else {
        return Err(corrupt("the content is no object"));
    };
    TxnClaims::from_json(&map).map_err(|_| corrupt("the content is no context"))
}
