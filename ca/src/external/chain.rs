//! Reads certificates that were signed elsewhere, before anything is done with them.
//!
//! Each refusal says what was expected, what came and what to do: whoever reads it sits at another machine, with
//! another tool, and signs once a year.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use signet_identity::{SpiffeId, TrustDomain};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519,
};

use crate::check;
use crate::hierarchy::CaCertificate;
use crate::profile::Validity;

/// More text is no chain of two certificates.
pub(crate) const MAX_PEM: usize = 64 * 1024;

/// Why a chain that was signed elsewhere is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootChainError {
    #[error("expected certificates as PEM text of at most {MAX_PEM} bytes, found {0} bytes")]
    TooLong(usize),
    #[error("there is a private key in the text: keep it where it is, only certificates are to be given")]
    PrivateKey,
    #[error("expected certificates as PEM text (-----BEGIN CERTIFICATE-----): {0}")]
    Pem(String),
    #[error(
        "expected two certificates, the one that was signed for the request and then that of the root; found {0}. What stands between root and request is not supported: let the root sign the request itself"
    )]
    Count(usize),
    #[error("{which} cannot be read as a certificate: {reason}")]
    Unreadable { which: Which, reason: String },
    #[error(
        "no certificate is of a key that was asked for: expected the key of {expected}, found {found}. `signet ca csr` shows the request that waits"
    )]
    NotAsked { expected: String, found: String },
    #[error(
        "the certificate's key {id} was asked for, but is {phase} already: `signet ca csr` makes a new request, with a new key"
    )]
    UsedBefore { id: String, phase: &'static str },
    #[error("{which} is not that of an authority: expected basicConstraints with CA:TRUE")]
    NotCa { which: Which },
    #[error(
        "{which} has pathlen:{found}, but {least} authorities come below it: expected pathlen:{least}, more, or none"
    )]
    PathLength { which: Which, found: u32, least: u32 },
    #[error("{which} has key usage {found}: expected keyCertSign and cRLSign")]
    KeyUsage { which: Which, found: String },
    #[error(
        "{which} has no subjectKeyIdentifier, by which certificates name their issuer: sign it again with `subjectKeyIdentifier=hash`"
    )]
    NoKeyIdentifier { which: Which },
    #[error(
        "{which} has name constraints, which the verifiers of the mesh do not support: sign it again without; the trust domain is enforced by them without it"
    )]
    NameConstraints { which: Which },
    #[error(
        "{which} has extended key usages that do not allow servers and clients: sign it again without extendedKeyUsage"
    )]
    ExtendedKeyUsage { which: Which },
    #[error("{which} names {found}: expected URI:{expected} or no URI")]
    TrustDomain { which: Which, expected: String, found: String },
    #[error(
        "{which} is signed with {found}: expected ECDSA or RSA with SHA-256, SHA-384 or SHA-512, or Ed25519"
    )]
    Algorithm { which: Which, found: String },
    #[error(
        "{which} begins at {not_before}, and now is {now} (seconds since the epoch): wait, or set the clocks right"
    )]
    NotYet { which: Which, not_before: i64, now: i64 },
    #[error("{which} ended at {not_after}, and now is {now} (seconds since the epoch): a new one is needed")]
    Ended { which: Which, not_after: i64, now: i64 },
    #[error(
        "the signed certificate is valid for {left} seconds more: expected at least {least}, three times the life of a SVID"
    )]
    TooShort { left: i64, least: i64 },
    #[error(
        "the signed certificate ends at {child}, after its root at {parent} (seconds since the epoch): sign it again, to end with its root at the latest"
    )]
    OutlivesRoot { child: i64, parent: i64 },
    #[error(
        "the signed certificate says that {found:?} signed it, but the root is {expected:?}: give the root that signed it"
    )]
    Issuer { expected: String, found: String },
    #[error(
        "the signed certificate's signature does not verify under the root's key: give the root that signed it"
    )]
    Signature,
    #[error("the root did not sign itself: expected a self-signed certificate, found one of {issuer:?}")]
    NotSelfSigned { issuer: String },
    #[error("the root's own signature does not verify: the file is damaged")]
    RootSignature,
    #[error("peers would refuse what is issued under it: {0}")]
    Proof(String),
}

/// One of the two certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Signed,
    Root,
}

impl std::fmt::Display for Which {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Which::Signed => "the signed certificate",
            Which::Root => "the root's certificate",
        })
    }
}

/// What is read: an anchor, and the certificate of the key that signs issuers where that is another.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    pub(crate) anchor: CaCertificate,
    pub(crate) intermediate: Option<CaCertificate>,
    /// What is good enough and could be better.
    pub(crate) warnings: Vec<String>,
}

impl Chain {
    /// The certificate of the key that signs issuers.
    pub(crate) fn signing(&self) -> &CaCertificate {
        self.intermediate.as_ref().unwrap_or(&self.anchor)
    }

    /// When the first of the two ends, and the last begins.
    pub(crate) fn validity(&self) -> Validity {
        let (own, anchor) = (self.signing().validity, self.anchor.validity);
        Validity {
            not_before: own.not_before.max(anchor.not_before),
            not_after: own.not_after.min(anchor.not_after),
        }
    }
}

/// What a chain is measured by.
pub(crate) struct Measure<'a> {
    pub(crate) domain: &'a TrustDomain,
    pub(crate) svid_life: i64,
    pub(crate) issuer_life: i64,
    pub(crate) now: i64,
}

/// The certificates of a PEM text.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, RootChainError> {
    if pem.len() > MAX_PEM {
        return Err(RootChainError::TooLong(pem.len()));
    }
    if String::from_utf8_lossy(pem).contains("PRIVATE KEY-----") {
        return Err(RootChainError::PrivateKey);
    }
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| RootChainError::Pem(error.to_string()))
}

/// Reads one of the two.
pub(crate) fn read(which: Which, der: &[u8]) -> Result<CaCertificate, RootChainError> {
    CaCertificate::read(der)
        .map_err(|error| RootChainError::Unreadable { which, reason: error.reason().to_owned() })
}

/// Checks a certificate under the root that is given with it; none where the root itself signs issuers.
pub(crate) fn check(
    measure: &Measure<'_>,
    anchor: CaCertificate,
    intermediate: Option<CaCertificate>,
) -> Result<Chain, RootChainError> {
    let mut warnings = Vec::new();
    // Below an intermediate stand issuers, and below those nothing that is an authority.
    let below = if intermediate.is_some() { 2 } else { 1 };
    let root = parsed(Which::Root, &anchor)?;
    authority(measure, Which::Root, &root, below)?;
    if root.issuer().as_raw() != root.subject().as_raw() {
        return Err(RootChainError::NotSelfSigned { issuer: root.issuer().to_string() });
    }
    root.verify_signature(None).map_err(|_| RootChainError::RootSignature)?;
    if let Some(signed) = &intermediate {
        let own = parsed(Which::Signed, signed)?;
        authority(measure, Which::Signed, &own, 1)?;
        if own.issuer().as_raw() != root.subject().as_raw() {
            return Err(RootChainError::Issuer {
                expected: root.subject().to_string(),
                found: own.issuer().to_string(),
            });
        }
        own.verify_signature(Some(root.public_key())).map_err(|_| RootChainError::Signature)?;
        let (child, parent) = (signed.validity.not_after, anchor.validity.not_after);
        if child > parent {
            return Err(RootChainError::OutlivesRoot { child, parent });
        }
    }
    let chain = Chain { anchor, intermediate, warnings: Vec::new() };
    let left = chain.validity().not_after.saturating_sub(measure.now);
    let least = measure.svid_life.saturating_mul(3);
    if left < least {
        return Err(RootChainError::TooShort { left, least });
    }
    if left < measure.issuer_life {
        warnings.push(format!(
            "it is valid for {left} seconds more, less than an issuer's life of {} seconds: issuers under it end with it",
            measure.issuer_life
        ));
    }
    let signing = parsed(Which::Signed, chain.signing())?;
    if uris(&signing).is_empty() {
        warnings.push(format!(
            "it does not name its trust domain: some SPIFFE clients expect URI:{} in it",
            check::domain_uri(measure.domain)
        ));
    }
    Ok(Chain { warnings, ..chain })
}

fn parsed(which: Which, certificate: &CaCertificate) -> Result<X509Certificate<'_>, RootChainError> {
    check::parse(&certificate.der)
        .map_err(|error| RootChainError::Unreadable { which, reason: error.reason().to_owned() })
}

/// What every authority's certificate must be.
fn authority(
    measure: &Measure<'_>,
    which: Which,
    certificate: &X509Certificate<'_>,
    least: u32,
) -> Result<(), RootChainError> {
    let algorithm = &certificate.signature_algorithm.algorithm;
    // ECDSA with SHA-512 has no name in the registry of oids; nobody's tool makes it by itself.
    let taken = [
        OID_SIG_ECDSA_WITH_SHA256,
        OID_SIG_ECDSA_WITH_SHA384,
        OID_PKCS1_SHA256WITHRSA,
        OID_PKCS1_SHA384WITHRSA,
        OID_PKCS1_SHA512WITHRSA,
        OID_SIG_ED25519,
    ];
    if !taken.contains(algorithm) {
        return Err(RootChainError::Algorithm { which, found: named(&algorithm.to_id_string()) });
    }
    let (mut ca, mut usage, mut identifier) = (None, None, false);
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(basic) => ca = Some((basic.ca, basic.path_len_constraint)),
            ParsedExtension::KeyUsage(found) => usage = Some(*found),
            ParsedExtension::SubjectKeyIdentifier(_) => identifier = true,
            ParsedExtension::NameConstraints(_) => return Err(RootChainError::NameConstraints { which }),
            ParsedExtension::ExtendedKeyUsage(found)
                if !(found.any || found.server_auth && found.client_auth) =>
            {
                return Err(RootChainError::ExtendedKeyUsage { which });
            }
            ParsedExtension::ParseError { error } => {
                let reason = format!("extension {}: {error}", extension.oid);
                return Err(RootChainError::Unreadable { which, reason });
            }
            _ => {}
        }
    }
    match ca {
        Some((true, None)) => {}
        Some((true, Some(found))) if found >= least => {}
        Some((true, Some(found))) => return Err(RootChainError::PathLength { which, found, least }),
        _ => return Err(RootChainError::NotCa { which }),
    }
    if !usage.as_ref().is_some_and(|usage| usage.key_cert_sign() && usage.crl_sign()) {
        let found = usage.map_or_else(|| "none".to_owned(), |usage| usage.to_string());
        return Err(RootChainError::KeyUsage { which, found });
    }
    if !identifier {
        return Err(RootChainError::NoKeyIdentifier { which });
    }
    let expected = check::domain_uri(measure.domain);
    let names = uris(certificate);
    let ours =
        |uri: &&str| SpiffeId::parse(uri).is_ok_and(|id| id.is_root() && id.trust_domain() == measure.domain);
    if names.len() > 1 || !names.iter().all(ours) {
        return Err(RootChainError::TrustDomain { which, expected, found: names.join(", ") });
    }
    let (not_before, not_after) =
        (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
    let now = measure.now;
    if now < not_before {
        return Err(RootChainError::NotYet { which, not_before, now });
    }
    if now > not_after {
        return Err(RootChainError::Ended { which, not_after, now });
    }
    Ok(())
}

fn uris<'a>(certificate: &X509Certificate<'a>) -> Vec<&'a str> {
    let names = |extension: &x509_parser::extensions::X509Extension<'a>| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => names
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    certificate.extensions().iter().flat_map(names).collect()
}

/// Names that people know, of what is not taken.
fn named(oid: &str) -> String {
    match oid {
        "1.2.840.113549.1.1.5" => "SHA-1 and RSA".into(),
        "1.2.840.10045.4.1" => "SHA-1 and ECDSA".into(),
        "1.2.840.113549.1.1.4" => "MD5 and RSA".into(),
        other => other.into(),
    }
}
