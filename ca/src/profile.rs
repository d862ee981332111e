//! Every certificate that the authority makes, in one place: root, issuer, SVID.
//!
//! No name constraints anywhere (rustls-webpki refuses any on URIs; the trust domain is enforced by the
//! verifier). The root has no path length, so that a later root can be cross-signed by it; an issuer has
//! zero. A SVID's subject is empty, so its names are critical.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyUsagePurpose, SanType, SerialNumber,
};
use signet_identity::{PeerClass, Serial, SpiffeId, TrustDomain};
use time::OffsetDateTime;

/// Clocks differ: a certificate is valid a minute before it was made, never before its issuer.
pub(crate) const BACKDATE: i64 = 60;

/// Dates in a certificate, seconds since the epoch, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

/// A root or an issuer as it is meant to be.
#[derive(Debug, Clone)]
pub(crate) struct CaProfile {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) kind: CaKind,
    pub(crate) serial: Serial,
    pub(crate) validity: Validity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CaKind {
    Root,
    /// The root with this serial again, its key certified by the root before it.
    Cross(Serial),
    Issuer,
}

/// A SVID as it is meant to be. All of it comes from the authority.
#[derive(Debug, Clone)]
pub(crate) struct LeafProfile {
    pub(crate) id: SpiffeId,
    pub(crate) dns_names: Vec<String>,
    pub(crate) class: PeerClass,
    pub(crate) serial: Serial,
    pub(crate) validity: Validity,
}

#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("{0} seconds since the epoch is no date that a certificate can hold")]
    Date(i64),
    #[error("the certificate could not be written: {0}")]
    Encode(#[from] rcgen::Error),
}

fn date(seconds: i64) -> Result<OffsetDateTime, ProfileError> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| ProfileError::Date(seconds))
}

fn base(serial: &Serial, validity: Validity) -> Result<CertificateParams, ProfileError> {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    params.not_before = date(validity.not_before)?;
    params.not_after = date(validity.not_after)?;
    params.distinguished_name = DistinguishedName::new();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn uri(text: &str) -> Result<SanType, ProfileError> {
    Ok(SanType::URI(text.try_into()?))
}

impl CaProfile {
    pub(crate) fn params(&self) -> Result<CertificateParams, ProfileError> {
        let mut params = base(&self.serial, self.validity)?;
        let (title, named, constraint) = match self.kind {
            CaKind::Root => ("Signet root", self.serial, BasicConstraints::Unconstrained),
            CaKind::Cross(root) => ("Signet root", root, BasicConstraints::Unconstrained),
            CaKind::Issuer => ("Signet issuer", self.serial, BasicConstraints::Constrained(0)),
        };
        // A common name has at most 64 characters; a trust domain may have 255 and stands in the URI.
        let mut short: String = named.to_string();
        short.truncate(16);
        params.distinguished_name.push(DnType::CommonName, format!("{title} {short}"));
        params.subject_alt_names = vec![uri(&format!("spiffe://{}", self.trust_domain))?];
        params.is_ca = IsCa::Ca(constraint);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = self.kind != CaKind::Root;
        Ok(params)
    }
}

impl LeafProfile {
    pub(crate) fn params(&self) -> Result<CertificateParams, ProfileError> {
        let mut params = base(&self.serial, self.validity)?;
        params.subject_alt_names = vec![uri(self.id.as_str())?];
        for name in &self.dns_names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        // Written as an explicit `CA: false`; rcgen adds the subject key identifier only beside it.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.custom_extensions =
            vec![CustomExtension::from_oid_content(&PeerClass::EXTENSION_OID, self.class.policies_der())];
        Ok(params)
    }
}
