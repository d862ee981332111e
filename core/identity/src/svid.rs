//! What a certificate chain says, read strictly.
//!
//! The rules are those of the X.509-SVID standard for a leaf and for signing certificates, tightened where
//! ours are narrower (exactly one class of ours, version 3, no extension twice). A chain that breaks one is
//! refused whole, with the rule that it broke. Certificates of another trust domain may have been made by an
//! authority that knows nothing of Signet: they need no class, and are then of class `workload`, and no
//! extended key usage. Reading proves nothing: signatures are `chain.rs`' work.

use rustls::pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension, X509Extension},
    prelude::FromDer,
    x509::X509Version,
};

use crate::{
    class::PeerClass,
    key_id::KeyId,
    serial::{Serial, SerialError},
    spiffe_id::{SpiffeId, SpiffeIdError},
    trust_domain::TrustDomain,
};

/// The longest chain that is read: leaf, issuer, root, and room for a federated peer's intermediates. Bounds
/// what a stranger can make us parse.
pub const MAX_CHAIN: usize = 6;

/// When a certificate of anybody's ends, seconds since the epoch; none if it cannot be read.
#[must_use]
pub fn not_after(certificate: &[u8]) -> Option<i64> {
    let (_, read) = X509Certificate::from_der(certificate).ok()?;
    Some(read.validity().not_after.timestamp())
}

/// Why a chain is not an X.509-SVID of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    #[error("the chain is empty")]
    EmptyChain,
    #[error("the chain has {0} certificates, at most {MAX_CHAIN} are read")]
    ChainTooLong(usize),
    #[error("a certificate is not readable DER: {0}")]
    Encoding(String),
    #[error("a certificate is not X.509 version 3")]
    Version,
    #[error("the serial number: {0}")]
    Serial(#[from] SerialError),
    #[error("the extension {0} appears twice")]
    DuplicateExtension(String),
    #[error("the extension {0} is not readable")]
    UnreadableExtension(String),
    #[error("exactly one URI name is expected (the SPIFFE ID), this certificate has {0}")]
    UriNames(usize),
    #[error("the URI name: {0}")]
    SpiffeId(#[from] SpiffeIdError),
    #[error("a workload's SPIFFE ID has a path, this one names only the trust domain")]
    RootPath,
    #[error("subjectAltName must be critical where the subject is empty")]
    SanNotCritical,
    #[error("a leaf may not be a certificate authority")]
    LeafIsCa,
    #[error("key usage must be present and critical")]
    KeyUsageMissing,
    #[error("a leaf's key usage must be digitalSignature without keyCertSign and cRLSign")]
    KeyUsage,
    #[error("extended key usage must list both serverAuth and clientAuth")]
    ExtendedKeyUsage,
    #[error(
        "exactly one peer class of Signet's is expected in certificatePolicies, this certificate has {0}"
    )]
    Classes(usize),
    #[error("the peer class {0} is not known; is this peer newer than this process?")]
    UnknownClass(String),
    #[error("the certificate ends before it begins")]
    Dates,
    #[error("a signing certificate must have CA:TRUE and keyCertSign")]
    SignerIsNotCa,
    #[error("a signing certificate's SPIFFE ID must be that of the trust domain alone, without a path")]
    SignerPath,
    #[error("a signing certificate of trust domain {signer} stands in a chain of {leaf}")]
    SignerTrustDomain { signer: TrustDomain, leaf: TrustDomain },
}

/// The facts of a leaf, and of the signing certificates that came with it.
#[derive(Debug, Clone)]
pub struct Svid {
    /// Whose it is.
    pub id: SpiffeId,
    /// What kind of thing holds the key.
    pub class: PeerClass,
    /// The certificate's serial.
    pub serial: Serial,
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub key: KeyId,
    /// The key itself, as its subjectPublicKey has it: of an elliptic curve, the point.
    pub public_key: Box<[u8]>,
    /// SHA-256 of the certificate.
    pub thumbprint: [u8; 32],
    /// First second of validity, since 1970.
    pub not_before: i64,
    /// Last second of validity, since 1970.
    pub not_after: i64,
    /// The issuer's distinguished name, for people.
    pub issuer: String,
    /// The DNS names, in the certificate's order.
    pub dns_names: Vec<String>,
    /// The other certificates of the chain, in the order they came.
    pub issuers: Vec<IssuerFacts>,
}

/// The facts of a signing certificate in a chain.
#[derive(Debug, Clone)]
pub struct IssuerFacts {
    pub serial: Serial,
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub key: KeyId,
    pub not_before: i64,
    pub not_after: i64,
}

impl Svid {
    /// Reads a chain, leaf first. Never panics, whatever the bytes are.
    pub fn parse(chain: &[CertificateDer<'_>]) -> Result<Self, SvidError> {
        let (leaf, rest) = chain.split_first().ok_or(SvidError::EmptyChain)?;
        Self::parse_parts(leaf, rest, |_| true)
    }

    /// `is_ours` says whose certificates follow our own rules.
    pub(crate) fn parse_parts(
        leaf: &[u8],
        rest: &[CertificateDer<'_>],
        is_ours: impl Fn(&TrustDomain) -> bool,
    ) -> Result<Self, SvidError> {
        if rest.len() >= MAX_CHAIN {
            return Err(SvidError::ChainTooLong(rest.len().saturating_add(1)));
        }
        let mut svid = parse_leaf(leaf, is_ours)?;
        for signer in rest {
            let (facts, domain) = parse_signer(signer)?;
            if let Some(signer) = domain.filter(|domain| !svid.id.is_in(domain)) {
                return Err(SvidError::SignerTrustDomain { signer, leaf: svid.id.trust_domain().clone() });
            }
            svid.issuers.push(facts);
        }
        Ok(svid)
    }
}

/// What every certificate must be, whoever it belongs to.
struct Common<'a> {
    certificate: X509Certificate<'a>,
    serial: Serial,
    key: KeyId,
    not_before: i64,
    not_after: i64,
}

fn common(der: &[u8]) -> Result<Common<'_>, SvidError> {
    let (trailing, certificate) =
        X509Certificate::from_der(der).map_err(|error| SvidError::Encoding(error.to_string()))?;
    if !trailing.is_empty() {
        return Err(SvidError::Encoding("bytes follow the certificate".to_owned()));
    }
    if certificate.version() != X509Version::V3 {
        return Err(SvidError::Version);
    }
    let extensions = certificate.extensions();
    for (index, extension) in extensions.iter().enumerate() {
        if extensions.iter().skip(index.saturating_add(1)).any(|later| later.oid == extension.oid) {
            return Err(SvidError::DuplicateExtension(extension.oid.to_string()));
        }
        if matches!(extension.parsed_extension(), ParsedExtension::ParseError { .. }) {
            return Err(SvidError::UnreadableExtension(extension.oid.to_string()));
        }
    }
    let serial = Serial::from_der_integer(certificate.raw_serial())?;
    let key = KeyId::of(certificate.public_key().raw);
    let not_before = certificate.validity().not_before.timestamp();
    let not_after = certificate.validity().not_after.timestamp();
    if not_after < not_before {
        return Err(SvidError::Dates);
    }
    Ok(Common { certificate, serial, key, not_before, not_after })
}

fn parse_leaf(der: &[u8], is_ours: impl Fn(&TrustDomain) -> bool) -> Result<Svid, SvidError> {
    let Common { certificate, serial, key, not_before, not_after } = common(der)?;
    let mut names = Names::default();
    let mut classes = Vec::new();
    let (mut key_usage, mut extended) = (None, None);
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(_) => {
                if certificate.subject().iter_rdn().next().is_none() && !extension.critical {
                    return Err(SvidError::SanNotCritical);
                }
                names = Names::read(extension)?;
            }
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                return Err(SvidError::LeafIsCa);
            }
            ParsedExtension::KeyUsage(usage) => key_usage = extension.critical.then_some(usage),
            ParsedExtension::ExtendedKeyUsage(usage) => extended = Some(usage),
            ParsedExtension::CertificatePolicies(policies) => {
                classes.extend(
                    policies.iter().filter_map(|p| PeerClass::from_policy_oid(p.policy_id.as_bytes())),
                );
            }
            _ => {}
        }
    }
    let id = match names.uris.as_slice() {
        [uri] => SpiffeId::parse(uri)?,
        uris => return Err(SvidError::UriNames(uris.len())),
    };
    let public_key = certificate.public_key().subject_public_key.data.as_ref().into();
    if id.is_root() {
        return Err(SvidError::RootPath);
    }
    let usage = key_usage.ok_or(SvidError::KeyUsageMissing)?;
    if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
        return Err(SvidError::KeyUsage);
    }
    let is_ours = is_ours(id.trust_domain());
    if !extended.map_or(!is_ours, |usage| usage.server_auth && usage.client_auth) {
        return Err(SvidError::ExtendedKeyUsage);
    }
    let class = match classes.as_slice() {
        [Ok(class)] => *class,
        [] if !is_ours => PeerClass::Workload,
        [Err(unknown)] => return Err(SvidError::UnknownClass(unknown.clone())),
        several => return Err(SvidError::Classes(several.len())),
    };
    Ok(Svid {
        id,
        class,
        serial,
        key,
        public_key,
        thumbprint: *KeyId::of(der).as_bytes(),
        not_before,
        not_after,
        issuer: certificate.issuer().to_string(),
        dns_names: names.dns,
        issuers: Vec::new(),
    })
}

/// Reads a signing certificate; the trust domain is that of its SPIFFE ID, which it need not have.
pub(crate) fn parse_signer(der: &[u8]) -> Result<(IssuerFacts, Option<TrustDomain>), SvidError> {
    let Common { certificate, serial, key, not_before, not_after } = common(der)?;
    let (mut is_ca, mut may_sign, mut names) = (false, false, Names::default());
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) => is_ca = constraints.ca,
            ParsedExtension::KeyUsage(usage) => may_sign = usage.key_cert_sign(),
            ParsedExtension::SubjectAlternativeName(_) => names = Names::read(extension)?,
            _ => {}
        }
    }
    if !is_ca || !may_sign {
        return Err(SvidError::SignerIsNotCa);
    }
    let domain = match names.uris.as_slice() {
        [] => None,
        [uri] => Some(SpiffeId::parse(uri)?),
        uris => return Err(SvidError::UriNames(uris.len())),
    };
    if domain.as_ref().is_some_and(|id| !id.is_root()) {
        return Err(SvidError::SignerPath);
    }
    let domain = domain.map(|id| id.trust_domain().clone());
    Ok((IssuerFacts { serial, key, not_before, not_after }, domain))
}

#[derive(Default)]
struct Names {
    uris: Vec<String>,
    dns: Vec<String>,
}

impl Names {
    fn read(extension: &X509Extension<'_>) -> Result<Self, SvidError> {
        let mut names = Self::default();
        let ParsedExtension::SubjectAlternativeName(san) = extension.parsed_extension() else {
            return Ok(names);
        };
        for name in &san.general_names {
            match name {
                GeneralName::URI(uri) => names.uris.push((*uri).to_owned()),
                GeneralName::DNSName(dns) => names.dns.push((*dns).to_owned()),
                GeneralName::Invalid(..) => {
                    return Err(SvidError::UnreadableExtension(extension.oid.to_string()));
                }
                _ => {}
            }
        }
        Ok(names)
    }
}
