//! The second pair of eyes.
//!
//! What `rcgen` wrote is read again by `x509-parser`, an independent parser, and compared field by field
//! with what was meant, before it leaves. A certificate with one extension more, one name more or another
//! date is refused; so is one whose signature does not verify under its issuer.

use signet_identity::{Serial, TrustDomain};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_NIST_EC_P384, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384,
    OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_CERTIFICATE_POLICIES,
    OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE, OID_X509_EXT_SUBJECT_ALT_NAME,
    OID_X509_EXT_SUBJECT_KEY_IDENTIFIER, Oid,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Version};

use crate::profile::{CaKind, CaProfile, LeafProfile, Validity};

/// A certificate is not what was meant. This is a fault of ours or of a library, never of a caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the certificate that was made is not the one that was meant, and is withheld: {0}")]
pub struct CheckError(pub(crate) &'static str);

impl CheckError {
    /// What is wrong with the certificate.
    pub(crate) fn reason(&self) -> &'static str {
        self.0
    }
}

/// What a certificate is compared with, whatever its kind.
struct Meant<'a> {
    serial: &'a Serial,
    validity: Validity,
    uri: String,
    dns_names: &'a [String],
    spki: &'a [u8],
    /// Key usage bits as RFC 5280 numbers them: bit 0 is digitalSignature.
    key_usage: u16,
    basic: (bool, Option<u32>),
    /// Content of `certificatePolicies`.
    policies: Option<Vec<u8>>,
    client_and_server: bool,
    empty_subject: bool,
}

/// What an issuer's certificate says of those below it, read once for all that it signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parent {
    /// What its key signs with.
    algorithm: Oid<'static>,
    /// Its name in DER.
    subject: Vec<u8>,
    validity: Validity,
    key_id: Option<Vec<u8>>,
    /// SubjectPublicKeyInfo.
    spki: Vec<u8>,
}

impl Parent {
    pub(crate) fn read(certificate: &X509Certificate<'_>) -> Result<Parent, CheckError> {
        // The digest goes with the signer's curve.
        let named = certificate.public_key().algorithm.parameters.as_ref();
        let algorithm = match named.and_then(|named| named.as_oid().ok()) {
            Some(curve) if curve == OID_EC_P256 => OID_SIG_ECDSA_WITH_SHA256,
            Some(curve) if curve == OID_NIST_EC_P384 => OID_SIG_ECDSA_WITH_SHA384,
            _ => return Err(CheckError("its issuer's key is on neither P-256 nor P-384")),
        };
        Ok(Parent {
            algorithm,
            subject: certificate.subject().as_raw().to_vec(),
            validity: Validity {
                not_before: certificate.validity().not_before.timestamp(),
                not_after: certificate.validity().not_after.timestamp(),
            },
            key_id: key_id(certificate)?.map(<[u8]>::to_vec),
            spki: certificate.public_key().raw.to_vec(),
        })
    }
}

const DIGITAL_SIGNATURE: u16 = 1;
const KEY_CERT_SIGN_AND_CRL_SIGN: u16 = (1 << 5) | (1 << 6);

pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CheckError> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|_| CheckError("it is not X.509 in DER"))?;
    if rest.is_empty() { Ok(certificate) } else { Err(CheckError("bytes follow it")) }
}

/// Compares a SVID with what was meant, under the issuer that should have signed it.
pub(crate) fn leaf(der: &[u8], meant: &LeafProfile, spki: &[u8], issuer: &Parent) -> Result<(), CheckError> {
    let meant = Meant {
        serial: &meant.serial,
        validity: meant.validity,
        uri: meant.id.as_str().to_owned(),
        dns_names: &meant.dns_names,
        spki,
        key_usage: DIGITAL_SIGNATURE,
        basic: (false, None),
        policies: Some(meant.class.policies_der()),
        client_and_server: true,
        empty_subject: true,
    };
    compare(&parse(der)?, &meant, issuer, false)
}

/// Compares a root (which is its own issuer), a root certified by another, or an issuer with what was meant.
pub(crate) fn authority(der: &[u8], meant: &CaProfile, spki: &[u8], issuer: &[u8]) -> Result<(), CheckError> {
    let root = meant.kind == CaKind::Root;
    let meant = Meant {
        serial: &meant.serial,
        validity: meant.validity,
        uri: domain_uri(&meant.trust_domain),
        dns_names: &[],
        spki,
        key_usage: KEY_CERT_SIGN_AND_CRL_SIGN,
        basic: (true, if meant.kind == CaKind::Issuer { Some(0) } else { None }),
        policies: None,
        client_and_server: false,
        empty_subject: false,
    };
    compare(&parse(der)?, &meant, &Parent::read(&parse(issuer)?)?, root)
}

pub(crate) fn domain_uri(domain: &TrustDomain) -> String {
    format!("spiffe://{domain}")
}

fn ensure(holds: bool, what: &'static str) -> Result<(), CheckError> {
    if holds { Ok(()) } else { Err(CheckError(what)) }
}

fn extension<'c, 'a>(
    certificate: &'c X509Certificate<'a>,
    oid: &Oid<'_>,
    what: &'static str,
) -> Result<Option<&'c X509Extension<'a>>, CheckError> {
    certificate.get_extension_unique(oid).map_err(|_| CheckError(what))
}

fn compare(
    certificate: &X509Certificate<'_>,
    meant: &Meant<'_>,
    issuer: &Parent,
    self_signed: bool,
) -> Result<(), CheckError> {
    ensure(certificate.version() == X509Version::V3, "its version is not 3")?;
    ensure(
        Serial::from_der_integer(certificate.raw_serial()).is_ok_and(|serial| serial == *meant.serial),
        "its serial differs",
    )?;
    ensure(
        certificate.signature_algorithm.algorithm == issuer.algorithm
            && certificate.tbs_certificate.signature.algorithm == issuer.algorithm,
        "its signature algorithm is not the one that goes with its issuer's key",
    )?;
    ensure(certificate.issuer().as_raw() == issuer.subject, "its issuer's name differs")?;
    ensure(
        certificate.subject().iter().next().is_none() == meant.empty_subject,
        "its subject is empty or not, against what was meant",
    )?;
    let (from, to) = (certificate.validity().not_before, certificate.validity().not_after);
    ensure(
        from.timestamp() == meant.validity.not_before && to.timestamp() == meant.validity.not_after,
        "its dates differ",
    )?;
    let parent = issuer.validity;
    ensure(
        parent.not_before <= from.timestamp() && to.timestamp() <= parent.not_after,
        "it is valid when its issuer is not",
    )?;
    ensure(certificate.public_key().raw == meant.spki, "its public key differs")?;
    ensure(
        certificate.issuer_uid.is_none() && certificate.subject_uid.is_none(),
        "it has unique identifiers",
    )?;
    extensions(certificate, meant, issuer, self_signed)?;
    let (_, key) = SubjectPublicKeyInfo::from_der(&issuer.spki)
        .map_err(|_| CheckError("its issuer's key is not in DER"))?;
    certificate
        .verify_signature(Some(&key))
        .map_err(|_| CheckError("its signature does not verify under its issuer"))
}

fn extensions(
    certificate: &X509Certificate<'_>,
    meant: &Meant<'_>,
    issuer: &Parent,
    self_signed: bool,
) -> Result<(), CheckError> {
    // Subject key id, basic constraints, key usage and names are on all; the others as counted here.
    let expected = 4
        + usize::from(!self_signed)
        + usize::from(meant.client_and_server)
        + usize::from(meant.policies.is_some());
    ensure(certificate.extensions().len() == expected, "it has an extension too many or too few")?;

    let basic = extension(certificate, &OID_X509_EXT_BASIC_CONSTRAINTS, "its basic constraints repeat")?;
    ensure(
        basic.is_some_and(|e| {
            e.critical
                && matches!(e.parsed_extension(), ParsedExtension::BasicConstraints(b)
                    if (b.ca, b.path_len_constraint) == meant.basic)
        }),
        "its basic constraints differ",
    )?;
    let usage = extension(certificate, &OID_X509_EXT_KEY_USAGE, "its key usage repeats")?;
    ensure(
        usage.is_some_and(|e| {
            e.critical
                && matches!(e.parsed_extension(), ParsedExtension::KeyUsage(k) if k.flags == meant.key_usage)
        }),
        "its key usage differs",
    )?;
    let extended =
        extension(certificate, &OID_X509_EXT_EXTENDED_KEY_USAGE, "its extended key usage repeats")?;
    ensure(
        extended.is_some() == meant.client_and_server
            && extended.is_none_or(|e| {
                matches!(e.parsed_extension(), ParsedExtension::ExtendedKeyUsage(u)
                    if u.server_auth && u.client_auth && !u.any && !u.code_signing && !u.email_protection
                        && !u.time_stamping && !u.ocsp_signing && u.other.is_empty())
            }),
        "its extended key usage differs",
    )?;
    let policies = extension(certificate, &OID_X509_EXT_CERTIFICATE_POLICIES, "its policies repeat")?;
    ensure(
        policies.map(|e| (e.critical, e.value)) == meant.policies.as_deref().map(|value| (false, value)),
        "its class differs",
    )?;
    names(certificate, meant)?;

    let own = key_id(certificate)?;
    ensure(own.is_some_and(|id| !id.is_empty()), "its subject key identifier is missing")?;
    let authority = extension(
        certificate,
        &OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER,
        "its authority key identifier repeats",
    )?;
    let named = authority.and_then(|e| match e.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(a) => a.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    });
    ensure(
        if self_signed { authority.is_none() } else { named.is_some() && named == issuer.key_id.as_deref() },
        "its authority key identifier is not its issuer's",
    )
}

fn names(certificate: &X509Certificate<'_>, meant: &Meant<'_>) -> Result<(), CheckError> {
    let names = extension(certificate, &OID_X509_EXT_SUBJECT_ALT_NAME, "its names repeat")?;
    let Some(ParsedExtension::SubjectAlternativeName(found)) = names.map(|e| e.parsed_extension()) else {
        return Err(CheckError("its names are missing"));
    };
    ensure(names.is_some_and(|e| e.critical == meant.empty_subject), "its names are critical, or not")?;
    let mut found = found.general_names.iter();
    ensure(
        matches!(found.next(), Some(GeneralName::URI(uri)) if *uri == meant.uri),
        "its SPIFFE ID differs",
    )?;
    let dns_names: Option<Vec<&str>> =
        found.map(|name| if let GeneralName::DNSName(name) = name { Some(*name) } else { None }).collect();
    ensure(dns_names.is_some_and(|names| names == meant.dns_names), "its DNS names differ")
}

fn key_id<'a>(certificate: &X509Certificate<'a>) -> Result<Option<&'a [u8]>, CheckError> {
    let found =
        extension(certificate, &OID_X509_EXT_SUBJECT_KEY_IDENTIFIER, "its subject key identifier repeats")?;
    Ok(found.and_then(|e| match e.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{CaKey, generate};
    use rcgen::{CertificateParams, IsCa, KeyUsagePurpose, PublicKeyData as _, SanType};
    use rustls_pki_types::CertificateDer;
    use signet_identity::{PeerClass, SpiffeId};

    struct Desk {
        issuer: rcgen::Issuer<'static, CaKey>,
        issuer_der: CertificateDer<'static>,
        key: CaKey,
        meant: LeafProfile,
    }

    fn key() -> CaKey {
        CaKey::from_pkcs8(&generate().unwrap()).unwrap()
    }

    fn desk() -> Desk {
        let issuer_key = key();
        let profile = CaProfile {
            trust_domain: TrustDomain::parse("demo.signet").unwrap(),
            kind: CaKind::Root,
            serial: Serial::fresh().unwrap(),
            validity: Validity { not_before: 1_000_000, not_after: 2_000_000 },
        };
        let issuer_der = profile.params().unwrap().self_signed(&issuer_key).unwrap().der().clone();
        Desk {
            issuer: rcgen::Issuer::from_ca_cert_der(&issuer_der, issuer_key).unwrap(),
            issuer_der,
            key: key(),
            meant: LeafProfile {
                id: SpiffeId::parse("spiffe://demo.signet/ns/shop/sa/web").unwrap(),
                dns_names: vec!["web.shop.signet.internal".into()],
                class: PeerClass::Sidecar,
                serial: Serial::fresh().unwrap(),
                validity: Validity { not_before: 1_500_000, not_after: 1_600_000 },
            },
        }
    }

    impl Desk {
        fn parent(&self) -> Parent {
            Parent::read(&parse(&self.issuer_der).unwrap()).unwrap()
        }

        /// The verdict on a leaf that differs from what was meant in this one way.
        fn verdict(&self, change: impl FnOnce(&mut CertificateParams)) -> Result<(), CheckError> {
            let mut params = self.meant.params().unwrap();
            change(&mut params);
            let der = params.signed_by(&self.key, &self.issuer).unwrap().der().clone();
            leaf(&der, &self.meant, &self.key.subject_public_key_info(), &self.parent())
        }
    }

    #[track_caller]
    fn withheld(verdict: Result<(), CheckError>, why: &str) {
        let error = verdict.unwrap_err();
        assert!(error.0.contains(why), "{error}, not {why}");
    }

    #[test]
    fn what_was_meant_passes() {
        assert_eq!(desk().verdict(|_| ()), Ok(()));
    }

    #[test]
    fn any_one_difference_withholds_the_certificate() {
        let desk = desk();
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        withheld(desk.verdict(|p| p.serial_number = Some(vec![0x41; 16].into())), "serial");
        withheld(desk.verdict(|p| p.not_before += time::Duration::SECOND), "dates");
        withheld(desk.verdict(|p| p.not_after -= time::Duration::SECOND), "dates");
        withheld(desk.verdict(|p| p.distinguished_name.push(rcgen::DnType::CommonName, "x")), "subject");
        withheld(desk.verdict(|p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0))), "basic");
        withheld(desk.verdict(|p| p.is_ca = IsCa::NoCa), "too many or too few");
        withheld(desk.verdict(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)), "key usage");
        withheld(desk.verdict(|p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement]), "key usage");
        withheld(desk.verdict(|p| drop(p.extended_key_usages.pop())), "extended key usage");
        withheld(
            desk.verdict(|p| p.extended_key_usages.push(rcgen::ExtendedKeyUsagePurpose::CodeSigning)),
            "extended key usage",
        );
        withheld(
            desk.verdict(|p| p.subject_alt_names[0] = uri("spiffe://demo.signet/ns/shop/sa/admin")),
            "SPIFFE",
        );
        withheld(desk.verdict(|p| p.subject_alt_names.push(uri("spiffe://demo.signet/x"))), "DNS names");
        withheld(desk.verdict(|p| drop(p.subject_alt_names.pop())), "DNS names");
        withheld(desk.verdict(|p| p.subject_alt_names.swap(0, 1)), "SPIFFE");
        withheld(desk.verdict(|p| p.use_authority_key_identifier_extension = false), "too many or too few");
        withheld(
            desk.verdict(|p| {
                let policies = PeerClass::Gateway.policies_der();
                p.custom_extensions =
                    vec![rcgen::CustomExtension::from_oid_content(&PeerClass::EXTENSION_OID, policies)];
            }),
            "class",
        );
        withheld(desk.verdict(|p| p.custom_extensions[0].set_criticality(true)), "class");
        withheld(
            desk.verdict(|p| {
                let extra = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 99], vec![5, 0]);
                p.custom_extensions.push(extra);
            }),
            "too many or too few",
        );
    }

    #[test]
    fn another_key_another_issuer_or_a_bad_signature_withholds_it() {
        let (desk, other) = (desk(), desk());
        let params = desk.meant.params().unwrap();
        let spki = desk.key.subject_public_key_info();
        let der = params.signed_by(&other.key, &desk.issuer).unwrap().der().clone();
        withheld(leaf(&der, &desk.meant, &spki, &desk.parent()), "public key");
        let der = params.signed_by(&desk.key, &other.issuer).unwrap().der().clone();
        withheld(leaf(&der, &desk.meant, &spki, &desk.parent()), "issuer's name");

        // The right issuer's name and key identifier, another's signature.
        let forger = rcgen::Issuer::from_ca_cert_der(&desk.issuer_der, key()).unwrap();
        let der = params.signed_by(&desk.key, &forger).unwrap().der().clone();
        withheld(leaf(&der, &desk.meant, &spki, &desk.parent()), "signature");
        let mut der = params.signed_by(&desk.key, &desk.issuer).unwrap().der().to_vec();
        der.push(0);
        withheld(leaf(&der, &desk.meant, &spki, &desk.parent()), "bytes follow");
    }

    #[test]
    fn a_leaf_that_outlives_its_issuer_is_withheld_even_if_it_was_meant() {
        let mut desk = desk();
        desk.meant.validity.not_after = 2_000_001;
        withheld(desk.verdict(|_| ()), "valid when its issuer is not");
        desk.meant.validity = Validity { not_before: 999_999, not_after: 1_600_000 };
        withheld(desk.verdict(|_| ()), "valid when its issuer is not");
    }
}
