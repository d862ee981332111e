//! Verifying a chain against the roots of its own trust domain, once.
//!
//! The work of a full mutual handshake is nearly half signature checks on certificates that were checked a
//! second ago. A verified chain is remembered by the digest of all its certificates until the first of them
//! ends, within one generation of roots, so that a repeated peer costs one signature: its proof of
//! possession. Identity, class and revocation are not part of what is remembered: they are looked at every
//! time.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use ring::digest::{Context, SHA256};
use rustls::{
    crypto::WebPkiSupportedAlgorithms,
    pki_types::{CertificateDer, UnixTime},
};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};

use crate::{
    bundle::Bundles,
    dates::{rfc3339, seconds},
    failure::{HandshakeFailure, Received},
    key_id::KeyId,
    svid::Svid,
    trust_domain::TrustDomain,
};

/// A chain that was verified: what it says, and which root stood behind it.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) svid: Svid,
    /// SHA-256 of the root certificate.
    pub(crate) root: KeyId,
    /// The seconds in which every certificate of the chain, and the root, is valid.
    from: i64,
    until: i64,
}

/// How often the cache of verified chains had the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheCounts {
    /// Chains that were known.
    pub hits: u64,
    /// Chains that had to be verified, with whatever result.
    pub misses: u64,
}

/// The roots of one generation and the chains verified against them.
#[derive(Debug)]
pub(crate) struct Chains {
    bundles: Arc<Bundles>,
    home: Option<TrustDomain>,
    algorithms: WebPkiSupportedAlgorithms,
    known: Mutex<Known>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Chains {
    /// `home` is our own trust domain: its certificates are read by our own rules, those of others by the
    /// standard's. `capacity` bounds how many verified chains are kept (about 1 KB each).
    pub(crate) fn new(
        bundles: Arc<Bundles>,
        home: Option<TrustDomain>,
        algorithms: WebPkiSupportedAlgorithms,
        capacity: usize,
    ) -> Self {
        Self {
            bundles,
            home,
            algorithms,
            known: Mutex::new(Known { half: capacity.div_euclid(2).max(1), ..Known::default() }),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    pub(crate) fn counts(&self) -> CacheCounts {
        CacheCounts { hits: self.hits.load(Ordering::Relaxed), misses: self.misses.load(Ordering::Relaxed) }
    }

    /// Verifies a chain now, from the cache or by its signatures.
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Arc<Verified>, HandshakeFailure> {
        let digest = chain_digest(leaf, rest);
        if let Some(verified) = self.lock().get(&digest)
            && (verified.from..=verified.until).contains(&seconds(now))
        {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(verified);
        }
        // A chain outside its dates is verified again, for the precise error.
        self.misses.fetch_add(1, Ordering::Relaxed);
        let verified = Arc::new(self.verify_signatures(leaf, rest, now)?);
        self.lock().insert(digest, verified.clone());
        Ok(verified)
    }

    fn verify_signatures(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Verified, HandshakeFailure> {
        let svid = Svid::parse_parts(leaf, rest, |domain| self.home.as_ref() == Some(domain))?;
        let bundle = self.bundles.get(svid.id.trust_domain()).ok_or_else(|| {
            let trusted: Vec<_> = self.bundles.iter().map(|bundle| bundle.trust_domain().as_str()).collect();
            HandshakeFailure::WrongTrustDomain {
                expected: trusted.join(" or "),
                received: Received::of(&svid),
            }
        })?;
        let failed = |error| from_webpki(error, &svid, now);
        let end_entity = EndEntityCert::try_from(leaf).map_err(failed)?;
        let path = end_entity
            .verify_for_usage(self.algorithms.all, bundle.anchors(), rest, now, BothUsages, None, None)
            .map_err(failed)?;
        let root = bundle
            .roots_of(path.anchor())
            .find(|root| (root.facts.not_before..=root.facts.not_after).contains(&seconds(now)))
            .ok_or_else(|| root_has_ended(svid.id.as_str(), now))?;
        let signers = svid.issuers.iter().chain(std::iter::once(&root.facts));
        let (from, until) = signers.fold((svid.not_before, svid.not_after), |(from, until), signer| {
            (from.max(signer.not_before), until.min(signer.not_after))
        });
        Ok(Verified { root: root.digest, from, until, svid })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        // The map is whole between calls, even if a thread died holding it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// webpki never looks at a trust anchor's own dates; a root that has ended vouches for nobody.
fn root_has_ended(received: &str, now: UnixTime) -> HandshakeFailure {
    let now = rfc3339(seconds(now));
    HandshakeFailure::BadChain(format!("the root behind {received} is not valid at {now}; rotate the root"))
}

fn from_webpki(error: webpki::Error, svid: &Svid, now: UnixTime) -> HandshakeFailure {
    use webpki::Error as E;
    match error {
        E::CertExpired { not_after, .. } => HandshakeFailure::expired(svid, seconds(not_after), now),
        E::CertNotValidYet { not_before, .. } => {
            HandshakeFailure::not_yet_valid(svid, seconds(not_before), now)
        }
        // A root of the same name with another key fails on the signature.
        E::UnknownIssuer | E::InvalidSignatureForPublicKey => HandshakeFailure::UnknownRoot {
            domain: svid.id.trust_domain().clone(),
            received: Received::of(svid),
        },
        other => HandshakeFailure::BadChain(other.to_string()),
    }
}

/// Both directions at once: a certificate that restricts its usage must allow servers and clients, so that
/// one verified chain serves either side of a connection.
struct BothUsages;

impl ExtendedKeyUsageValidator for BothUsages {
    fn validate(&self, iter: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        // 1.3.6.1.5.5.7.3.1 and .2
        const SERVER: [usize; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 1];
        const CLIENT: [usize; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 2];
        let (mut any, mut server, mut client) = (false, false, false);
        for purpose in iter {
            let purpose = purpose?.to_decoded_oid();
            any = true;
            server |= purpose == SERVER;
            client |= purpose == CLIENT;
        }
        // An issuer without the extension is not restricted; a leaf of ours without it was refused when it was read.
        if !any || (server && client) {
            return Ok(());
        }
        Err(webpki::Error::RequiredEkuNotFoundContext(webpki::RequiredEkuNotFoundContext {
            required: if server { webpki::KeyUsage::client_auth() } else { webpki::KeyUsage::server_auth() },
            present: Vec::new(),
        }))
    }
}

/// The digest of a whole chain. Each certificate is preceded by its length, so that no two chains share one.
fn chain_digest(leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for certificate in std::iter::once(leaf).chain(rest) {
        context.update(&u64::try_from(certificate.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(certificate);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// A bounded map in two halves: when the recent half is full it becomes the old one, and what the old one
/// still held is forgotten. What is in use is moved up again.
#[derive(Debug, Default)]
struct Known {
    half: usize,
    recent: HashMap<[u8; 32], Arc<Verified>>,
    old: HashMap<[u8; 32], Arc<Verified>>,
}

impl Known {
    fn get(&mut self, digest: &[u8; 32]) -> Option<Arc<Verified>> {
        if let Some(verified) = self.recent.get(digest) {
            return Some(verified.clone());
        }
        let verified = self.old.remove(digest)?;
        self.insert(*digest, verified.clone());
        Some(verified)
    }

    fn insert(&mut self, digest: [u8; 32], verified: Arc<Verified>) {
        if self.recent.len() >= self.half && !self.recent.contains_key(&digest) {
            self.old = std::mem::take(&mut self.recent);
        }
        self.recent.insert(digest, verified);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.recent.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{SvidOptions, TestCa, test_now};
    use crate::{class::PeerClass, provider::crypto_provider};

    fn chains(ca: &TestCa, capacity: usize) -> Chains {
        Chains::new(
            ca.bundles(),
            Some(ca.trust_domain().clone()),
            crypto_provider().signature_verification_algorithms,
            capacity,
        )
    }

    #[test]
    fn the_cache_of_chains_is_bounded_and_keeps_what_is_in_use() {
        let ca = TestCa::new("demo.signet");
        let chains = chains(&ca, 8);
        let favourite = ca.svid_short("ns/shop/sa/web", PeerClass::Sidecar);
        for n in 0..40 {
            let other = ca.svid_short(&format!("ns/shop/sa/w{n}"), PeerClass::Sidecar);
            for svid in [&other, &favourite] {
                let (leaf, rest) = svid.chain().split_first().unwrap();
                chains.verify(leaf, rest, test_now()).unwrap();
            }
            assert!(chains.lock().len() <= 8);
        }
        assert_eq!(chains.counts(), CacheCounts { hits: 39, misses: 41 });
    }

    #[test]
    fn a_remembered_chain_is_not_believed_past_its_end() {
        let ca = TestCa::new("demo.signet");
        let chains = chains(&ca, 8);
        let id = ca.id("ns/shop/sa/web");
        let svid = ca.svid(&id, PeerClass::Sidecar, SvidOptions::default().ends_in(60));
        let (leaf, rest) = svid.chain().split_first().unwrap();
        chains.verify(leaf, rest, test_now()).unwrap();
        let later = UnixTime::since_unix_epoch(std::time::Duration::from_secs(test_now().as_secs() + 61));
        let failure = chains.verify(leaf, rest, later).unwrap_err();
        assert!(matches!(failure, HandshakeFailure::Expired { received: Some(ref who), .. } if *who == id));
    }

    #[test]
    fn the_order_and_number_of_certificates_are_part_of_what_is_remembered() {
        let ca = TestCa::new("demo.signet");
        let svid = ca.svid_short("ns/shop/sa/web", PeerClass::Sidecar);
        let (leaf, rest) = svid.chain().split_first().unwrap();
        assert_ne!(chain_digest(leaf, rest), chain_digest(leaf, &[]));
        assert_ne!(chain_digest(leaf, rest), chain_digest(&rest[0], std::slice::from_ref(leaf)));
    }
}
