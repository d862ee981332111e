//! A certificate that was signed elsewhere comes back.

use signet_identity::{PeerClass, Serial, SpiffeId, TrustDomain};

use super::RootSource;
use super::chain::{self, Chain, Measure, RootChainError, Which};
use crate::authority::{Authority, Inner};
use crate::csr::{ProvenKey, sha256};
use crate::error::AuthorityError;
use crate::hierarchy::{self, CaCertificate, HierarchyError};
use crate::keys::{self, CaKey, name_of_digest};
use crate::profile::{BACKDATE, LeafProfile, Validity};
use crate::record::{Entry as LogEntry, Event};
use crate::refusal::Refusal;
use crate::rotation::machine::{Hurry, Kind, Phase};
use crate::rotation::steps::Outcome;
use crate::store::Journal;

/// Another replica may change the journal between looking and writing; so often in a row it does not.
const TRIES: usize = 8;

/// What was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Of the key, as in the journal.
    pub id: String,
    /// SHA-256 of the root's certificate, hex.
    pub root_sha256: String,
    pub not_after: i64,
    /// Where it is now.
    pub phase: Phase,
    /// What is good enough and could be better.
    pub warnings: Vec<String>,
}

impl Authority {
    /// Takes a certificate that an external root signed for our request, with that root, as PEM text. From here it goes
    /// the way of every new root: published, acknowledged by the fleet, active.
    pub async fn import_root(&self, pem: Vec<u8>, actor: &str) -> Result<Imported, AuthorityError> {
        let now = self.inner.clock.unix_seconds();
        if self.inner.root_source != RootSource::External {
            return Err(self.inner.refuse_operator(Refusal::RootNotExternal, actor, now).await);
        }
        let actor = actor.to_owned();
        let done = self.act(move |inner| async move {
            for _ in 0..TRIES {
                let found = {
                    let _one_at_a_time = inner.rotating.lock().await;
                    let journal = inner.store.journal().await?;
                    let chain = match inner.chain_of_request(&journal, &pem, now) {
                        Ok(chain) => chain,
                        Err(error) => return Ok(Err(error)),
                    };
                    let id = name_of_digest(&sha256(&chain.signing().spki));
                    if let Err(error) = inner.prove_chain(&chain, now).await? {
                        return Ok(Err(error));
                    }
                    match inner.take_signed(&journal, &id, &chain, &actor, now).await? {
                        Outcome::Done => Some((id, chain)),
                        Outcome::Replan => None,
                    }
                };
                let Some((id, chain)) = found else { continue };
                tracing::info!(target: "signet::ca", id, actor, not_after = chain.validity().not_after,
                    "a certificate under the external root was imported");
                inner.advance(now).await?;
                let journal = inner.store.journal().await?;
                let phase = journal.entries.iter().find(|entry| entry.slot.id == id);
                return Ok(Ok(Imported {
                    phase: phase.map_or(Phase::Prepared, |entry| entry.slot.phase),
                    root_sha256: signet_identity::KeyId::of(&chain.anchor.der).to_string(),
                    not_after: chain.validity().not_after,
                    warnings: chain.warnings,
                    id,
                }));
            }
            Err(AuthorityError::Interrupted("another replica keeps changing the journal".into()))
        });
        done.await?.map_err(AuthorityError::External)
    }
}

impl Inner {
    pub(super) fn measure(&self, now: i64) -> Measure<'_> {
        Measure {
            domain: &self.rules.trust_domain,
            svid_life: self.svid_ttl,
            issuer_life: self.lives.issuer,
            now,
        }
    }

    /// The two certificates of a text, of which one is of a key that we asked for.
    fn chain_of_request(&self, journal: &Journal, pem: &[u8], now: i64) -> Result<Chain, RootChainError> {
        let certificates = chain::certificates(pem)?;
        let [first, second] = certificates.as_slice() else {
            return Err(RootChainError::Count(certificates.len()));
        };
        let (first, second) = (chain::read(Which::Signed, first)?, chain::read(Which::Root, second)?);
        let waits = |certificate: &CaCertificate| {
            let id = name_of_digest(&sha256(&certificate.spki));
            journal.entries.iter().find(|entry| entry.is(Kind::Root) && entry.slot.id == id)
        };
        let (signed, root, entry) = match (waits(&first), waits(&second)) {
            (Some(entry), _) => (first, second, entry),
            (None, Some(entry)) => (second, first, entry),
            (None, None) => {
                let asked: Vec<&str> = journal
                    .entries
                    .iter()
                    .filter(|entry| entry.is(Kind::Root) && entry.slot.phase == Phase::Requested)
                    .map(|entry| entry.slot.id.as_str())
                    .collect();
                let expected =
                    if asked.is_empty() { "no request, none waits".into() } else { asked.join(", ") };
                let found = [&first, &second].map(|one| name_of_digest(&sha256(&one.spki))).join(" and ");
                return Err(RootChainError::NotAsked { expected, found });
            }
        };
        if entry.slot.phase != Phase::Requested {
            return Err(RootChainError::UsedBefore {
                id: entry.slot.id.clone(),
                phase: entry.slot.phase.as_str(),
            });
        }
        chain::check(&self.measure(now), root, Some(signed))
    }

    /// Issues to a throwaway issuer and a throwaway leaf, and verifies both with the library that peers use. The
    /// request's key is opened for it.
    async fn prove_chain(
        &self,
        chain: &Chain,
        now: i64,
    ) -> Result<Result<(), RootChainError>, AuthorityError> {
        let (chain, name, life) = (chain.clone(), self.rules.control_plane.clone(), self.svid_ttl);
        let domain = self.rules.trust_domain.clone();
        self.with_vault(move |vault| {
            let signing = chain.signing().clone();
            let id = name_of_digest(&sha256(&signing.spki));
            let key = vault.key(Kind::Root, &id, &signing.spki)?;
            Ok(proved(&domain, &chain, key, name, (life, now)))
        })
        .await
    }

    async fn take_signed(
        &self,
        journal: &Journal,
        id: &str,
        chain: &Chain,
        actor: &str,
        now: i64,
    ) -> Result<Outcome, AuthorityError> {
        let Some(mut entry) = journal.entries.iter().find(|entry| entry.slot.id == id).cloned() else {
            return Ok(Outcome::Replan);
        };
        entry.slot.phase = Phase::Prepared;
        entry.slot.since = now;
        entry.slot.hurry = entry.slot.hurry.max(Hurry::Acknowledged);
        entry.take(chain);
        let log = LogEntry::new(now, Event::RootImported, actor)
            .certificate(&chain.signing().serial.to_string(), entry.slot.not_after);
        self.change(journal, vec![entry], false, Some(log), now).await
    }
}

/// Whether peers that hold the anchor would accept what is issued by this key.
pub(super) fn proved(
    domain: &TrustDomain,
    chain: &Chain,
    key: CaKey,
    name: SpiffeId,
    (life, now): (i64, i64),
) -> Result<(), RootChainError> {
    let prove = move || -> Result<(), HierarchyError> {
        let signer = chain.signing().clone().with_key(key, "the imported key")?;
        let own = CaKey::from_pkcs8(&keys::generate()?)?;
        let issuer = hierarchy::make_issuer(domain, &ProvenKey::own(&own), life, &signer, now)?;
        let issuer = issuer.with_key(own, "the key of the proof")?;
        let serial = Serial::fresh().map_err(|_| keys::KeyError::Generate)?;
        let begin = now.saturating_sub(BACKDATE).max(issuer.certificate.validity.not_before);
        let validity = Validity { not_before: begin, not_after: issuer.certificate.validity.not_after };
        let leaf = LeafProfile {
            id: name,
            dns_names: vec!["proof.signet.internal".into()],
            class: PeerClass::Sidecar,
            serial,
            validity,
        };
        let key = CaKey::from_pkcs8(&keys::generate()?)?;
        let params = leaf.params()?;
        let leaf = params.signed_by(&key, &issuer.signer).map_err(crate::profile::ProfileError::from)?;
        let mut between = vec![issuer.certificate.der.clone()];
        between.extend(chain.intermediate.iter().map(|one| one.der.clone()));
        hierarchy::verify_like_a_peer(&chain.anchor.der, leaf.der(), &between, now)
    };
    prove().map_err(|error| RootChainError::Proof(error.to_string()))
}
