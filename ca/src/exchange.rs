//! The token service's signature: transaction tokens for sidecars that exchange one.
//!
//! A sidecar holds no key to mint with. What its app asks for is judged by whoever calls here, and signed with a key that
//! was made for this certificate and this kind of user, under a delegation of its own, so that it is believed as a
//! gateway's token is; whatever revokes the sidecar revokes the key. Such keys live in this process only, an hour at most.
//! Each token is a record of the issuance log, written before it is answered: what cannot be written down is not signed.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use rustls_pki_types::CertificateDer;
use signet_identity::PeerClass;
use signet_token::delegation::{self, Delegation, ScopeCeiling};
use signet_token::txn::{self, MAX_TTL};
use signet_token::{MintError, Minted, SigningKey, TxnClaims};

use crate::authorise::{SharedRegistrar, Stop, random_id};
use crate::authority::{Authority, Inner};
use crate::error::AuthorityError;
use crate::limits::Holder as Counted;
use crate::peer::Peer;
use crate::record::{Entry, Event};
use crate::refusal::Refusal;
use crate::store::{DelegationRow, RevocationKind, Writer};

/// Keys that are kept. One for each sidecar that exchanges tokens, and each issuer of its users.
const KEYS: usize = 4096;

/// What is to be signed, and why, for the record.
pub struct Exchange {
    pub claims: TxnClaims,
    /// What was exchanged: `replaced`, `begun under <grant>`, …
    pub what: String,
}

/// For whom a key mints: the sidecar's certificate, the aliases of user and actor, the kind of credential.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Use {
    serial: Vec<u8>,
    aliases: BTreeSet<String>,
    credential: String,
}

#[derive(Clone)]
pub(crate) struct Held {
    key: Arc<SigningKey>,
    delegation: Arc<str>,
    terms: Arc<Delegation>,
    /// The token key that signed the delegation.
    root: Arc<str>,
}

/// The keys at hand.
#[derive(Default)]
pub(crate) struct Keys(Mutex<HashMap<Use, Held>>);

impl Keys {
    fn get(&self, of: &Use, root: &str, now: u64) -> Option<Held> {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(of).filter(|held| held.is_good(root, now)).cloned()
    }

    fn keep(&self, of: Use, held: Held, now: u64) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= KEYS {
            keys.retain(|_, held| now < held.terms.expires_at);
            if keys.len() >= KEYS {
                keys.clear();
            }
        }
        keys.insert(of, held);
    }
}

impl Held {
    /// No token is cut short by the end of its delegation, and none hangs from a root that signs no more.
    fn is_good(&self, root: &str, now: u64) -> bool {
        *self.root == *root && now.saturating_add(MAX_TTL) < self.terms.expires_at
    }
}

impl Authority {
    /// Signs a transaction token for the sidecar that presented this certificate (its leaf, DER), and records it. The
    /// caller has judged what its app asked for; `req_wl` of the claims must be the sidecar.
    pub async fn sign_exchange(
        &self,
        presented: &CertificateDer<'_>,
        exchange: Exchange,
        registrar: SharedRegistrar,
    ) -> Result<Result<Minted, MintError>, AuthorityError> {
        self.act_of_peer(presented, move |inner, peer| async move {
            let mut writer = inner.store.begin().await?;
            let signed = inner.exchange(&mut writer, &peer, exchange, &registrar).await?;
            let (minted, fresh) = match signed {
                Ok(signed) => signed,
                Err(error) => return Ok(Err(error)),
            };
            writer.commit().await?;
            inner.keep_exchange_key(fresh, peer.now);
            inner.metrics.issued.with_label_values(&["exchange", PeerClass::Sidecar.as_str()]).inc();
            Ok(Ok(minted))
        })
        .await
    }

    /// Records that a peer asked for a token that it does not get.
    pub async fn refuse_exchange(&self, presented: &CertificateDer<'_>, refusal: Refusal) -> AuthorityError {
        let refused = self
            .act_of_peer(presented, move |_, peer| async move {
                let about = signet_identity::Svid::parse(std::slice::from_ref(&peer.leaf));
                Err::<(), _>(Stop::Refused(refusal, about.ok().map(|svid| (svid.id.clone(), svid.class))))
            })
            .await;
        refused.err().unwrap_or(AuthorityError::Refused(refusal))
    }
}

impl Inner {
    pub(crate) fn keep_exchange_key(&self, fresh: Option<Fresh>, now: i64) {
        if let Some(Fresh { of, held }) = fresh {
            self.exchange_keys.keep(of, held, seconds(now));
        }
    }

    /// Signs, and records it in the same transaction. Nothing counts before that is committed.
    pub(crate) async fn exchange(
        &self,
        writer: &mut Writer,
        peer: &Peer,
        exchange: Exchange,
        registrar: &SharedRegistrar,
    ) -> Result<Result<(Minted, Option<Fresh>), MintError>, Stop> {
        let &Peer { leaf: ref presented, now, ref actor } = peer;
        let holder = self.rules.proxy(writer, presented, &**registrar, now).await?;
        let refuse = |refusal| Stop::Refused(refusal, Some((holder.id.clone(), holder.class)));
        if holder.class != PeerClass::Sidecar {
            return Err(refuse(Refusal::NotAProxy));
        }
        let Exchange { claims, what } = exchange;
        if holder.id.as_str() != claims.req_wl {
            return Err(refuse(Refusal::PeerMismatch));
        }
        let counted = [Counted::of(&holder.tie)];
        if !self.exchanges.lock().unwrap_or_else(PoisonError::into_inner).admit(&counted, now) {
            return Err(refuse(Refusal::TooManyAttempts));
        }
        let aliases = claims.actor.as_ref().map(txn::Actor::alias).into_iter().chain([claims.alias()]);
        let of = Use {
            serial: holder.serial.as_bytes().to_vec(),
            aliases: aliases.map(str::to_owned).collect(),
            credential: claims.rctx.cred.clone(),
        };
        let signer = self.view()?.token().map_err(AuthorityError::from)?;
        let at_hand = self.exchange_keys.get(&of, signer.thumbprint(), seconds(now));
        let (held, fresh) = match at_hand {
            Some(held) => (held, None),
            None => {
                let held = self.delegate_exchange(writer, &of, &claims.req_wl, &signer, now).await?;
                (held.clone(), Some(Fresh { of, held }))
            }
        };
        if writer.is_revoked(RevocationKind::Delegation, held.terms.thumbprint().as_bytes(), now).await? {
            return Err(refuse(Refusal::KeyRevoked));
        }
        let signed = txn::sign(&held.key, &held.delegation, &held.terms, claims, seconds(now));
        let (token, claims) = match signed {
            Ok(signed) => signed,
            Err(error) => return Ok(Err(error)),
        };
        let act = claims.actor.as_ref().map(|actor| format!(", acted for by {}", actor.subject));
        let words = format!(
            "{what}: txn {} for {}{}, scope \"{}\"",
            claims.txn,
            claims.subject,
            act.unwrap_or_default(),
            claims.scope
        );
        let mut entry = Entry::new(now, Event::Exchanged, actor)
            .about(holder.id.as_str(), holder.class.as_str())
            .because(&words);
        entry.not_after = Some(i64::try_from(claims.expires_at).unwrap_or(i64::MAX));
        writer.record(entry).await?;
        Ok(Ok((Minted { token, claims }, fresh)))
    }

    /// A new key, and the delegation under which it is believed.
    async fn delegate_exchange(
        &self,
        writer: &mut Writer,
        of: &Use,
        subject: &str,
        signer: &SigningKey,
        now: i64,
    ) -> Result<Held, Stop> {
        let key = SigningKey::generate().map_err(AuthorityError::from)?;
        let issued_at = seconds(now);
        let terms = Delegation {
            issuer: self.rules.trust_domain.to_string(),
            subject: subject.to_owned(),
            issued_at,
            expires_at: issued_at.saturating_add(delegation::MAX_LIFETIME),
            id: random_id()?.iter().map(|byte| format!("{byte:02x}")).collect(),
            key: key.public_jwk().clone(),
            scope_ceiling: ScopeCeiling::Any,
            aliases: of.aliases.clone(),
            credentials: BTreeSet::from([of.credential.clone()]),
        };
        let delegation = delegation::issue(signer, &terms).map_err(AuthorityError::from)?;
        let expires_at = i64::try_from(terms.expires_at).unwrap_or(i64::MAX);
        let row = DelegationRow {
            thumbprint: terms.thumbprint().to_owned(),
            serial: of.serial.clone(),
            spiffe_id: subject.to_owned(),
            expires_at,
        };
        writer.insert_delegation(&row).await?;
        let mut entry = Entry::new(now, Event::Delegated, subject)
            .about(subject, PeerClass::Sidecar.as_str())
            .because(&format!("for exchanges, kept here: {}", terms.thumbprint()));
        entry.not_after = Some(expires_at);
        writer.record(entry).await?;
        Ok(Held {
            key: Arc::new(key),
            delegation: delegation.into(),
            terms: Arc::new(terms),
            root: signer.thumbprint().into(),
        })
    }
}

/// A key that was just made, to be kept once its record is.
pub(crate) struct Fresh {
    of: Use,
    held: Held,
}

pub(crate) fn seconds(at: i64) -> u64 {
    u64::try_from(at).unwrap_or(0)
}
