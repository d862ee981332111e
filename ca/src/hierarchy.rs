//! Certificates of authorities: how a root, an issuer and a cross certificate are made and read back.
//!
//! Pure functions of keys and a clock. Whatever is made is read again by other eyes ([`check`]) before it is handed
//! on, nothing ends after its parent, and a chain is verified with the library that peers use before anything is
//! issued under it. When what is made is decided in [`crate::rotation`]; where keys lie, in [`crate::vault`].

use rustls_pki_types::{CertificateDer, UnixTime};
use signet_identity::{Serial, TrustDomain};

use crate::check::{self, CheckError};
use crate::csr::ProvenKey;
use crate::files::FileError;
use crate::keys::{CaKey, KeyError};
use crate::keystore::KeyStoreError;
use crate::profile::{BACKDATE, CaKind, CaProfile, ProfileError, Validity};
use crate::seal::SealError;

#[derive(Debug, thiserror::Error)]
pub enum HierarchyError {
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    KeyStore(#[from] KeyStoreError),
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(
        "{file} is missing although the journal has its {kind}: restore it from a backup, or taint the {kind} and let another take over"
    )]
    KeyMissing { file: String, kind: &'static str },
    #[error(
        "{file} is missing although {present} exists: restore it from a backup, or move the whole data directory away to begin a new mesh"
    )]
    SecretMissing { file: String, present: String },
    #[error(
        "{file} in the data directory is another mesh's than the one that control planes share (replica.sharedKeys): give this control plane a data directory of its own, or the store of its mesh"
    )]
    OtherShared { file: String },
    #[error(
        "{file} in the data directory is not what control planes share under that name (replica.sharedKeys): keep both, and remove the one that is not of this mesh's journal, which `signet ca status` lists where a control plane runs"
    )]
    SharedDiffers { file: String },
    #[error("the private key in {file} is not that of the certificate in the journal")]
    KeyMismatch { file: String },
    #[error("the journal has no active {kind} that can sign: see `signet ca status`")]
    NotActive { kind: &'static str },
    #[error(
        "the root ended at {not_after} (now {now}, seconds since the epoch): a new root is needed before anything can be issued"
    )]
    RootEnded { not_after: i64, now: i64 },
    #[error(
        "the clock says {now}, before the root's beginning at {not_before} (seconds since the epoch): set the clock right"
    )]
    ClockBeforeRoot { not_before: i64, now: i64 },
    #[error("the authority could not prove itself on a throwaway key: {0}")]
    Proof(String),
}

/// A root's or an issuer's certificate, as read back from its DER.
#[derive(Debug, Clone)]
pub(crate) struct CaCertificate {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) serial: Serial,
    pub(crate) subject: String,
    pub(crate) validity: Validity,
    /// SubjectPublicKeyInfo.
    pub(crate) spki: Vec<u8>,
    /// What it demands of those below it.
    pub(crate) parent: check::Parent,
}

impl CaCertificate {
    pub(crate) fn read(der: &[u8]) -> Result<CaCertificate, CheckError> {
        let parsed = check::parse(der)?;
        Ok(CaCertificate {
            serial: Serial::from_der_integer(parsed.raw_serial())
                .map_err(|_| CheckError("its serial is bad"))?,
            subject: parsed.subject().to_string(),
            validity: Validity {
                not_before: parsed.validity().not_before.timestamp(),
                not_after: parsed.validity().not_after.timestamp(),
            },
            spki: parsed.public_key().raw.to_vec(),
            parent: check::Parent::read(&parsed)?,
            der: CertificateDer::from(der.to_vec()),
        })
    }

    /// Whether this is the key that the certificate names.
    pub(crate) fn is_of(&self, key: &CaKey) -> bool {
        rcgen::PublicKeyData::subject_public_key_info(key) == self.spki
    }

    /// Ready to sign.
    pub(crate) fn with_key(self, key: CaKey, file: &str) -> Result<Issuer, HierarchyError> {
        if !self.is_of(&key) {
            return Err(HierarchyError::KeyMismatch { file: file.to_owned() });
        }
        let signer = rcgen::Issuer::from_ca_cert_der(&self.der, key).map_err(ProfileError::from)?;
        Ok(Issuer { id: String::new(), certificate: self, signer, parents: Vec::new() })
    }
}

/// A certificate with its key: what signs.
#[derive(Debug)]
pub(crate) struct Issuer {
    /// Its name in the journal.
    pub(crate) id: String,
    pub(crate) certificate: CaCertificate,
    pub(crate) signer: rcgen::Issuer<'static, CaKey>,
    /// What stands between it and the anchor: an intermediate, where the root is kept elsewhere.
    pub(crate) parents: Vec<CertificateDer<'static>>,
}

impl Issuer {
    /// What travels after a leaf: the issuer itself, and what stands above it below the anchor.
    pub(crate) fn chain(&self) -> impl Iterator<Item = CertificateDer<'static>> {
        std::iter::once(self.certificate.der.clone()).chain(self.parents.iter().cloned())
    }
}

/// Makes a root's certificate for its key.
pub(crate) fn make_root(
    trust_domain: &TrustDomain,
    key: &CaKey,
    life: i64,
    now: i64,
) -> Result<CaCertificate, HierarchyError> {
    let profile = CaProfile {
        trust_domain: trust_domain.clone(),
        kind: CaKind::Root,
        serial: Serial::fresh().map_err(|_| KeyError::Generate)?,
        validity: Validity { not_before: now.saturating_sub(BACKDATE), not_after: now.saturating_add(life) },
    };
    let der = profile.params()?.self_signed(key).map_err(ProfileError::from)?.der().clone();
    check::authority(&der, &profile, &rcgen::PublicKeyData::subject_public_key_info(key), &der)?;
    Ok(CaCertificate::read(&der)?)
}

/// Certifies an issuer's key under a root.
pub(crate) fn make_issuer(
    trust_domain: &TrustDomain,
    key: &ProvenKey,
    life: i64,
    root: &Issuer,
    now: i64,
) -> Result<CaCertificate, HierarchyError> {
    let profile = under(trust_domain, CaKind::Issuer, life, root, now)?;
    signed(&profile, key, root)
}

/// Certifies the key of a new root under the one before it, for as long as both live.
pub(crate) fn make_cross(
    trust_domain: &TrustDomain,
    new: &CaCertificate,
    new_key: &CaKey,
    old: &Issuer,
    now: i64,
) -> Result<CaCertificate, HierarchyError> {
    let life = new.validity.not_after.saturating_sub(now);
    let profile = under(trust_domain, CaKind::Cross(new.serial), life, old, now)?;
    signed(&profile, new_key, old)
}

fn under(
    trust_domain: &TrustDomain,
    kind: CaKind,
    life: i64,
    parent: &Issuer,
    now: i64,
) -> Result<CaProfile, HierarchyError> {
    let Validity { not_before, not_after } = parent.certificate.validity;
    if now >= not_after {
        return Err(HierarchyError::RootEnded { not_after, now });
    }
    Ok(CaProfile {
        trust_domain: trust_domain.clone(),
        kind,
        serial: Serial::fresh().map_err(|_| KeyError::Generate)?,
        validity: Validity {
            not_before: now.saturating_sub(BACKDATE).max(not_before),
            not_after: now.saturating_add(life).min(not_after),
        },
    })
}

fn signed(
    profile: &CaProfile,
    key: &impl rcgen::PublicKeyData,
    parent: &Issuer,
) -> Result<CaCertificate, HierarchyError> {
    let der = profile.params()?.signed_by(key, &parent.signer).map_err(ProfileError::from)?.der().clone();
    check::authority(&der, profile, &key.subject_public_key_info(), &parent.certificate.der)?;
    Ok(CaCertificate::read(&der)?)
}

/// Reads an issuer's certificate as it was meant, under its root.
pub(crate) fn check_issuer(
    trust_domain: &TrustDomain,
    certificate: &CaCertificate,
    root: &CaCertificate,
) -> Result<(), HierarchyError> {
    let profile = CaProfile {
        trust_domain: trust_domain.clone(),
        kind: CaKind::Issuer,
        serial: certificate.serial,
        validity: certificate.validity,
    };
    Ok(check::authority(&certificate.der, &profile, &certificate.spki, &root.der)?)
}

/// Verifies a chain as a peer would, with the library that peers use.
pub(crate) fn verify_like_a_peer(
    anchor: &CertificateDer<'_>,
    leaf: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    now: i64,
) -> Result<(), HierarchyError> {
    let failed = |e: webpki::Error| HierarchyError::Proof(e.to_string());
    let anchor = webpki::anchor_from_trusted_cert(anchor).map_err(failed)?;
    let end_entity = webpki::EndEntityCert::try_from(leaf).map_err(failed)?;
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(now).unwrap_or(0)));
    for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
        end_entity
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                std::slice::from_ref(&anchor),
                between,
                time,
                usage,
                None,
                None,
            )
            .map_err(failed)?;
    }
    Ok(())
}

/// RFC 7468 text of a certificate.
pub(crate) fn pem(der: &[u8]) -> String {
    armored("CERTIFICATE", der)
}

/// RFC 7468 text of whatever.
pub(crate) fn armored(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys;
    use crate::profile::LeafProfile;

    const NOW: i64 = 1_800_000_000;

    fn domain() -> TrustDomain {
        TrustDomain::parse("demo.signet").unwrap()
    }

    fn key() -> CaKey {
        CaKey::from_pkcs8(&keys::generate().unwrap()).unwrap()
    }

    struct Line {
        root: Issuer,
        issuer: Issuer,
    }

    fn line() -> Line {
        let root_key = key();
        let root = make_root(&domain(), &root_key, 1_000_000, NOW).unwrap().with_key(root_key, "r").unwrap();
        let issuer_key = key();
        let issuer = make_issuer(&domain(), &ProvenKey::own(&issuer_key), 10_000, &root, NOW).unwrap();
        Line { root, issuer: issuer.with_key(issuer_key, "i").unwrap() }
    }

    fn leaf(line: &Line) -> CertificateDer<'static> {
        let profile = LeafProfile {
            id: signet_identity::SpiffeId::parse("spiffe://demo.signet/ns/a/sa/b").unwrap(),
            dns_names: Vec::new(),
            class: signet_identity::PeerClass::Sidecar,
            serial: Serial::fresh().unwrap(),
            validity: Validity { not_before: NOW - 60, not_after: NOW + 60 },
        };
        profile.params().unwrap().signed_by(&key(), &line.issuer.signer).unwrap().der().clone()
    }

    #[test]
    fn the_proof_fails_for_a_chain_that_peers_would_not_accept() {
        let (mine, other) = (line(), line());
        let issuer = [mine.issuer.certificate.der.clone()];
        let good = leaf(&mine);
        verify_like_a_peer(&mine.root.certificate.der, &good, &issuer, NOW).unwrap();
        assert!(verify_like_a_peer(&mine.root.certificate.der, &good, &issuer, NOW + 61).is_err());
        let foreign = [other.issuer.certificate.der.clone()];
        let error = verify_like_a_peer(&mine.root.certificate.der, &leaf(&other), &foreign, NOW).unwrap_err();
        assert!(matches!(error, HierarchyError::Proof(_)), "{error}");
    }

    #[test]
    fn a_cross_certificate_leads_from_a_new_chain_to_the_root_before() {
        let (old, new) = (line(), line());
        let root_key = key();
        let root = make_root(&domain(), &root_key, 1_000_000, NOW).unwrap();
        let cross = make_cross(&domain(), &root, &root_key, &old.root, NOW).unwrap();
        assert_eq!(cross.subject, root.subject);
        let root = root.with_key(root_key, "r").unwrap();
        let issuer_key = key();
        let issuer = make_issuer(&domain(), &ProvenKey::own(&issuer_key), 10_000, &root, NOW).unwrap();
        let fresh = Line { issuer: issuer.with_key(issuer_key, "i").unwrap(), root };
        let leaf = leaf(&fresh);
        let between = [fresh.issuer.certificate.der.clone(), cross.der.clone()];
        for anchor in [&old.root.certificate.der, &fresh.root.certificate.der] {
            verify_like_a_peer(anchor, &leaf, &between, NOW).unwrap();
        }
        assert!(verify_like_a_peer(&new.root.certificate.der, &leaf, &between, NOW).is_err());
        let without = [fresh.issuer.certificate.der.clone()];
        assert!(verify_like_a_peer(&old.root.certificate.der, &leaf, &without, NOW).is_err());
    }

    #[test]
    fn an_issuer_of_another_root_and_a_key_of_another_certificate_are_refused() {
        let (mine, other) = (line(), line());
        check_issuer(&domain(), &mine.issuer.certificate, &mine.root.certificate).unwrap();
        check_issuer(&domain(), &other.issuer.certificate, &mine.root.certificate).unwrap_err();
        let error = mine.root.certificate.clone().with_key(key(), "root-1.sealed").unwrap_err();
        assert!(error.to_string().contains("root-1.sealed"), "{error}");
    }
}
