//! The root, and the issuer under it.
//!
//! The root's private key is opened only to sign an issuer and forgotten at once. The issuer's is held for
//! as long as the issuer signs: seven days by default, and a new one with a new key is made when less than
//! a third of its life is left, so that a leaf is never clipped. Nothing is issued past its parent's end.
//! Certificate and key of each lie in one sealed file, so that a crash never leaves a key without its
//! certificate.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls_pki_types::{CertificateDer, UnixTime};
use signet_identity::{KeyId, Serial, TrustDomain};
use zeroize::Zeroizing;

use crate::check::{self, CheckError};
use crate::files::{self, FileError};
use crate::keys::{CaKey, KeyError};
use crate::keystore::{KeyRole, KeyStore, KeyStoreError};
use crate::profile::{BACKDATE, CaKind, CaProfile, ProfileError, Validity};
use crate::seal::{Role, SealError, Sealer};

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
    #[error("{file} does not hold a certificate and its key")]
    Content { file: &'static str },
    #[error(
        "root.sealed is missing although {present} exists: restore it from a backup, or move the whole data directory away to begin a new mesh"
    )]
    RootMissing { present: &'static str },
    #[error(
        "{file} is missing although root.sealed exists: restore it from a backup, or move the whole data directory away to begin a new mesh"
    )]
    SecretMissing { file: &'static str },
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
}

impl CaCertificate {
    fn read(der: &[u8]) -> Result<CaCertificate, CheckError> {
        let parsed = check::parse(der)?;
        Ok(CaCertificate {
            serial: Serial::from_der_integer(parsed.raw_serial())
                .map_err(|_| CheckError("its serial is bad"))?,
            subject: parsed.subject().to_string(),
            validity: Validity {
                not_before: parsed.validity().not_before.timestamp(),
                not_after: parsed.validity().not_after.timestamp(),
            },
            der: CertificateDer::from(der.to_vec()),
        })
    }

    /// SHA-256 of the whole certificate: how a join bundle names the root.
    pub(crate) fn sha256(&self) -> KeyId {
        KeyId::of(&self.der)
    }
}

/// What signs leaves.
#[derive(Debug)]
pub(crate) struct Issuer {
    pub(crate) certificate: CaCertificate,
    pub(crate) signer: rcgen::Issuer<'static, CaKey>,
}

impl Issuer {
    /// Whether less than a third of its life is left.
    pub(crate) fn is_due(&self, now: i64) -> bool {
        let Validity { not_before, not_after } = self.certificate.validity;
        let life = not_after.saturating_sub(not_before);
        not_after.saturating_sub(now).saturating_mul(3) < life
    }
}

/// How long the two live, in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lives {
    pub(crate) root: i64,
    pub(crate) issuer: i64,
}

pub(crate) struct Hierarchy {
    trust_domain: TrustDomain,
    lives: Lives,
    sealer: Mutex<Sealer>,
    keys: KeyStore,
    pub(crate) root: CaCertificate,
    issuer: RwLock<Arc<Issuer>>,
    /// The first start has not been finished yet: what is missing beside the root was never made.
    pub(crate) founding: bool,
}

impl Hierarchy {
    /// Loads root and issuer, or makes what is missing. `present` names something that a lost root would
    /// orphan: with it, a missing root is an error and not a new mesh.
    pub(crate) fn open(
        directory: &Path,
        trust_domain: &TrustDomain,
        lives: Lives,
        (mut sealer, keys): (Sealer, KeyStore),
        present: Option<&'static str>,
        now: i64,
    ) -> Result<Hierarchy, HierarchyError> {
        let root = match sealer.read(Role::Root)? {
            Some(content) => unpack(Role::Root, &content)?.0,
            None => match present {
                Some(present) => return Err(HierarchyError::RootMissing { present }),
                None => {
                    sealer.write(Role::Founding, &[])?;
                    make_root(trust_domain, lives.root, (&mut sealer, &keys), now)?
                }
            },
        };
        let founding = sealer.read(Role::Founding)?.is_some();
        if now > root.validity.not_after {
            return Err(HierarchyError::RootEnded { not_after: root.validity.not_after, now });
        }
        if now < root.validity.not_before {
            return Err(HierarchyError::ClockBeforeRoot { not_before: root.validity.not_before, now });
        }
        let loaded = match sealer.read(Role::Issuer)? {
            Some(content) => Some(load_issuer(&content, trust_domain, &root, &keys)?),
            None => None,
        };
        let issuer = match loaded {
            Some(issuer) if !issuer.is_due(now) => issuer,
            _ => make_issuer(trust_domain, lives.issuer, &root, (&mut sealer, &keys), now)?,
        };
        let contents = [sealer.read(Role::Root)?, sealer.read(Role::Issuer)?];
        let stored: Result<Vec<&[u8]>, HierarchyError> = [Role::Root, Role::Issuer]
            .into_iter()
            .zip(&contents)
            .filter_map(|(role, content)| Some(unpack(role, content.as_deref()?).map(|(_, key)| key)))
            .collect();
        for key in keys.orphans(&stored?)? {
            tracing::warn!(target: "signet::ca", key, "the token has a key of this trust domain that nothing uses");
        }
        // For people and for join bundles: it is public, and written anew each time.
        files::write_public(&directory.join("root.pem"), pem(&root.der).as_bytes())?;
        Ok(Hierarchy {
            trust_domain: trust_domain.clone(),
            lives,
            sealer: Mutex::new(sealer),
            keys,
            root,
            issuer: RwLock::new(Arc::new(issuer)),
            founding,
        })
    }

    /// The first start is finished: from now on nothing may be missing.
    pub(crate) fn founded(&self) -> Result<(), HierarchyError> {
        if self.founding {
            self.sealer.lock().unwrap_or_else(PoisonError::into_inner).remove(Role::Founding)?;
        }
        Ok(())
    }

    /// The issuer at hand, due or not.
    pub(crate) fn current(&self) -> Arc<Issuer> {
        Arc::clone(&self.issuer.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The issuer that signs now; a new one when the old is in its last third. The root's key is opened
    /// only then. On failure an issuer that is still valid goes on.
    pub(crate) fn issuer(&self, now: i64) -> Result<Arc<Issuer>, HierarchyError> {
        let current = self.current();
        if !current.is_due(now) {
            return Ok(current);
        }
        let mut sealer = self.sealer.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current();
        if !current.is_due(now) {
            return Ok(current);
        }
        let end = current.certificate.validity.not_after;
        // Under a root that is about to end a new issuer would end no later than the present one.
        if end >= self.root.validity.not_after && now < end {
            return Ok(current);
        }
        let keep = (&mut *sealer, &self.keys);
        match make_issuer(&self.trust_domain, self.lives.issuer, &self.root, keep, now) {
            Ok(issuer) => {
                let issuer = Arc::new(issuer);
                *self.issuer.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&issuer);
                Ok(issuer)
            }
            Err(error) if now < end => {
                tracing::error!(target: "signet::ca", %error, not_after = end, "a new issuer could not be made; the old one goes on");
                Ok(current)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens another secret that lies sealed beside the keys; the first start makes it.
    pub(crate) fn secret(
        &self,
        role: Role,
        make: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, KeyError>,
    ) -> Result<Zeroizing<Vec<u8>>, HierarchyError> {
        let mut sealer = self.sealer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(secret) = sealer.read(role)? {
            return Ok(secret);
        }
        if !self.founding {
            return Err(HierarchyError::SecretMissing { file: role.file_name() });
        }
        let secret = make()?;
        sealer.write(role, &secret)?;
        Ok(secret)
    }

    /// Verifies a chain as a peer would, with the library that peers use.
    pub(crate) fn verify_like_a_peer(
        &self,
        leaf: &CertificateDer<'_>,
        issuer: &CertificateDer<'_>,
        now: i64,
    ) -> Result<(), HierarchyError> {
        let failed = |e: webpki::Error| HierarchyError::Proof(e.to_string());
        let anchor = webpki::anchor_from_trusted_cert(&self.root.der).map_err(failed)?;
        let end_entity = webpki::EndEntityCert::try_from(leaf).map_err(failed)?;
        let time =
            UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(now).unwrap_or(0)));
        for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
            end_entity
                .verify_for_usage(
                    webpki::ALL_VERIFICATION_ALGS,
                    std::slice::from_ref(&anchor),
                    std::slice::from_ref(issuer),
                    time,
                    usage,
                    None,
                    None,
                )
                .map_err(failed)?;
        }
        Ok(())
    }
}

fn make_root(
    trust_domain: &TrustDomain,
    life: i64,
    (sealer, keys): (&mut Sealer, &KeyStore),
    now: i64,
) -> Result<CaCertificate, HierarchyError> {
    let stored = keys.generate(KeyRole::Root)?;
    let key = keys.open(stored.as_bytes())?;
    let profile = CaProfile {
        trust_domain: trust_domain.clone(),
        kind: CaKind::Root,
        serial: Serial::random().map_err(|_| KeyError::Generate)?,
        validity: Validity { not_before: now.saturating_sub(BACKDATE), not_after: now.saturating_add(life) },
    };
    let der = profile.params()?.self_signed(&key).map_err(ProfileError::from)?.der().clone();
    check::authority(&der, &profile, &rcgen::PublicKeyData::subject_public_key_info(&key), &der)?;
    sealer.write(Role::Root, &pack(&der, stored.as_bytes()))?;
    tracing::info!(target: "signet::ca", serial = %profile.serial, not_after = profile.validity.not_after, "made a root");
    Ok(CaCertificate::read(&der)?)
}

fn make_issuer(
    trust_domain: &TrustDomain,
    life: i64,
    root: &CaCertificate,
    (sealer, keys): (&mut Sealer, &KeyStore),
    now: i64,
) -> Result<Issuer, HierarchyError> {
    let content =
        sealer.read(Role::Root)?.ok_or(HierarchyError::RootMissing { present: "the running authority" })?;
    let (sealed_root, root_key) = unpack(Role::Root, &content)?;
    if sealed_root.der != root.der {
        return Err(HierarchyError::Content { file: Role::Root.file_name() });
    }
    if now >= root.validity.not_after {
        return Err(HierarchyError::RootEnded { not_after: root.validity.not_after, now });
    }
    let root_key = keys.open_for(root_key, check::parse(&root.der)?.public_key().raw)?;
    let root_signer = rcgen::Issuer::from_ca_cert_der(&root.der, root_key).map_err(ProfileError::from)?;
    let stored = keys.generate(KeyRole::Issuer)?;
    let key = keys.open(stored.as_bytes())?;
    let profile = CaProfile {
        trust_domain: trust_domain.clone(),
        kind: CaKind::Issuer,
        serial: Serial::random().map_err(|_| KeyError::Generate)?,
        validity: Validity {
            not_before: now.saturating_sub(BACKDATE).max(root.validity.not_before),
            not_after: now.saturating_add(life).min(root.validity.not_after),
        },
    };
    let der = profile.params()?.signed_by(&key, &root_signer).map_err(ProfileError::from)?.der().clone();
    check::authority(&der, &profile, &rcgen::PublicKeyData::subject_public_key_info(&key), &root.der)?;
    let before = sealer.read(Role::Issuer)?;
    sealer.write(Role::Issuer, &pack(&der, stored.as_bytes()))?;
    // The file is replaced; in a token the key of the one before would stay.
    if let Some(before) = before
        && let Err(error) = unpack(Role::Issuer, &before).and_then(|(_, key)| Ok(keys.destroy(key)?))
    {
        tracing::warn!(target: "signet::ca", %error, "the key of the issuer before this one could not be destroyed");
    }
    tracing::info!(target: "signet::ca", serial = %profile.serial, not_after = profile.validity.not_after, "made an issuer");
    Ok(Issuer {
        certificate: CaCertificate::read(&der)?,
        signer: rcgen::Issuer::from_ca_cert_der(&der, key).map_err(ProfileError::from)?,
    })
}

fn load_issuer(
    content: &[u8],
    trust_domain: &TrustDomain,
    root: &CaCertificate,
    keys: &KeyStore,
) -> Result<Issuer, HierarchyError> {
    let (certificate, stored) = unpack(Role::Issuer, content)?;
    let key = keys.open_for(stored, check::parse(&certificate.der)?.public_key().raw)?;
    let profile = CaProfile {
        trust_domain: trust_domain.clone(),
        kind: CaKind::Issuer,
        serial: certificate.serial,
        validity: certificate.validity,
    };
    let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
    check::authority(&certificate.der, &profile, &spki, &root.der)?;
    let signer = rcgen::Issuer::from_ca_cert_der(&certificate.der, key).map_err(ProfileError::from)?;
    Ok(Issuer { certificate, signer })
}

/// Certificate length (u32), certificate, what is kept of its key.
fn pack(certificate: &[u8], key: &[u8]) -> Zeroizing<Vec<u8>> {
    let length = u32::try_from(certificate.len()).unwrap_or(u32::MAX);
    let mut content = Zeroizing::new(Vec::with_capacity(4 + certificate.len() + key.len()));
    content.extend_from_slice(&length.to_be_bytes());
    content.extend_from_slice(certificate);
    content.extend_from_slice(key);
    content
}

fn unpack(role: Role, content: &[u8]) -> Result<(CaCertificate, &[u8]), HierarchyError> {
    let error = || HierarchyError::Content { file: role.file_name() };
    let (length, rest) = content.split_first_chunk::<4>().ok_or_else(error)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| error())?;
    let (certificate, key) = rest.split_at_checked(length).ok_or_else(error)?;
    Ok((CaCertificate::read(certificate)?, key))
}

/// RFC 7468 text of a certificate.
pub(crate) fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys;
    use crate::keystore::KeysConfig;
    use crate::seal::SealConfig;

    fn keys_of(dir: &Path) -> KeyStore {
        let domain = TrustDomain::parse("demo.signet").unwrap();
        KeyStore::connect(&KeysConfig::default(), &domain, dir).unwrap()
    }

    fn open(dir: &Path, now: i64) -> Hierarchy {
        let mut config = SealConfig::key_file(dir.join("key"));
        config.create_if_missing = true;
        let sealer = Sealer::open(dir, "demo.signet", &config).unwrap();
        let lives = Lives { root: 1_000_000, issuer: 10_000 };
        Hierarchy::open(
            dir,
            &TrustDomain::parse("demo.signet").unwrap(),
            lives,
            (sealer, keys_of(dir)),
            None,
            now,
        )
        .unwrap()
    }

    #[test]
    fn the_proof_fails_for_a_chain_that_peers_would_not_accept() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now = 1_800_000_000;
        let (mine, other) = (open(a.path(), now), open(b.path(), now));
        let leaf = |hierarchy: &Hierarchy| {
            let key = CaKey::from_pkcs8(&keys::generate().unwrap()).unwrap();
            let profile = crate::profile::LeafProfile {
                id: signet_identity::SpiffeId::parse("spiffe://demo.signet/ns/a/sa/b").unwrap(),
                dns_names: Vec::new(),
                class: signet_identity::PeerClass::Sidecar,
                serial: Serial::random().unwrap(),
                validity: Validity { not_before: now - 60, not_after: now + 60 },
            };
            let issuer = hierarchy.current();
            let der = profile.params().unwrap().signed_by(&key, &issuer.signer).unwrap().der().clone();
            (der, issuer.certificate.der.clone())
        };
        let (good, issuer) = leaf(&mine);
        mine.verify_like_a_peer(&good, &issuer, now).unwrap();
        assert!(mine.verify_like_a_peer(&good, &issuer, now + 61).is_err());
        let (foreign, foreign_issuer) = leaf(&other);
        let error = mine.verify_like_a_peer(&foreign, &foreign_issuer, now).unwrap_err();
        assert!(matches!(error, HierarchyError::Proof(_)), "{error}");
    }

    #[test]
    fn an_issuer_of_another_root_does_not_load() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::copy(open_and_key(a.path()), b.path().join("key")).unwrap();
        drop(open(b.path(), 1_800_000_000));
        std::fs::copy(a.path().join("issuer.sealed"), b.path().join("issuer.sealed")).unwrap();
        let sealer =
            Sealer::open(b.path(), "demo.signet", &SealConfig::key_file(b.path().join("key"))).unwrap();
        let lives = Lives { root: 1_000_000, issuer: 10_000 };
        let domain = TrustDomain::parse("demo.signet").unwrap();
        let opened =
            Hierarchy::open(b.path(), &domain, lives, (sealer, keys_of(b.path())), None, 1_800_000_000);
        assert!(matches!(opened.map(|_| ()), Err(HierarchyError::Check(_))));
    }

    fn open_and_key(dir: &Path) -> std::path::PathBuf {
        drop(open(dir, 1_800_000_000));
        dir.join("key")
    }
}
