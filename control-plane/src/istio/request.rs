//! What a client of Istio's authority asks, read strictly. Pure.

use std::time::Duration;

use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use signet_ca::MAX_CSR;
use signet_identity::{SpiffeId, TrustDomain};
use signet_model::WorkloadId;
use signet_proto::istio::IstioCertificateRequest;
use tonic::Status;
use tonic::metadata::MetadataMap;

/// The longest PEM of a request that is looked at: base64 and its lines add well under a half.
const MAX_PEM: usize = 2 * MAX_CSR;

/// What is asked, as far as it can be granted at all.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) csr_der: Vec<u8>,
    /// `None`: the default.
    pub(super) ttl: Option<Duration>,
    /// Somebody else's certificate.
    pub(super) of: Option<WorkloadId>,
}

impl Asked {
    pub(super) fn read(
        request: &IstioCertificateRequest,
        max_ttl: Duration,
        trust_domain: &TrustDomain,
    ) -> Result<Asked, Status> {
        let invalid = |message: String| Err(Status::invalid_argument(message));
        if request.csr.len() > MAX_PEM {
            return invalid("the certificate request is too long".into());
        }
        let Ok(csr) = CertificateSigningRequestDer::from_pem_slice(request.csr.as_bytes()) else {
            return invalid("the certificate request is not PKCS #10 in PEM".into());
        };
        let ttl = match u64::try_from(request.validity_duration) {
            Ok(0) => None,
            Ok(seconds) if seconds <= max_ttl.as_secs() => Some(Duration::from_secs(seconds)),
            Ok(seconds) => {
                let max = max_ttl.as_secs();
                return invalid(format!(
                    "requested TTL {seconds} s is greater than the max allowed TTL {max} s"
                ));
            }
            Err(_) => return invalid("requested TTL is negative".into()),
        };
        if text(request, "CertSigner")?.is_some() {
            return invalid("no other signer can be chosen here (CertSigner)".into());
        }
        let of = match text(request, "ImpersonatedIdentity")? {
            None => None,
            Some(id) => {
                let workload = SpiffeId::parse(id).ok().and_then(|id| WorkloadId::of(&id, trust_domain));
                Some(workload.ok_or_else(super::unauthenticated)?)
            }
        };
        Ok(Asked { csr_der: csr.as_ref().to_vec(), ttl, of })
    }
}

/// A text of the request's metadata; an empty one says nothing.
fn text<'a>(request: &'a IstioCertificateRequest, key: &str) -> Result<Option<&'a str>, Status> {
    use prost_types::value::Kind;
    let value = request.metadata.as_ref().and_then(|metadata| metadata.fields.get(key));
    match value.and_then(|value| value.kind.as_ref()) {
        None | Some(Kind::NullValue(_)) => Ok(None),
        Some(Kind::StringValue(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => Err(Status::invalid_argument(format!("expected a text in metadata {key}"))),
    }
}

/// The token of `authorization: Bearer`; of exactly one such header.
pub(super) fn bearer(metadata: &MetadataMap) -> Option<String> {
    let mut values = metadata.get_all("authorization").iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost_types::value::Kind;
    use prost_types::{Struct, Value};
    use rcgen::{CertificateParams, KeyPair};
    use tonic::Code;

    use super::*;

    fn request() -> IstioCertificateRequest {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        IstioCertificateRequest { csr, validity_duration: 0, metadata: None }
    }

    fn with(key: &str, kind: Kind) -> IstioCertificateRequest {
        let fields = BTreeMap::from([(key.to_owned(), Value { kind: Some(kind) })]);
        IstioCertificateRequest { metadata: Some(Struct { fields }), ..request() }
    }

    fn read(request: &IstioCertificateRequest) -> Result<Asked, Status> {
        Asked::read(request, Duration::from_secs(3600), &TrustDomain::parse("demo.signet").unwrap())
    }

    #[test]
    fn a_life_of_zero_is_the_default_and_a_negative_or_too_long_one_is_refused() {
        let asked = |seconds| read(&IstioCertificateRequest { validity_duration: seconds, ..request() });
        assert_eq!(asked(0).unwrap().ttl, None);
        assert_eq!(asked(3600).unwrap().ttl, Some(Duration::from_secs(3600)));
        for bad in [-1, i64::MIN, 3601, i64::MAX] {
            assert_eq!(asked(bad).unwrap_err().code(), Code::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn what_is_no_request_in_pem_is_refused() {
        let pem = request().csr;
        for bad in [
            String::new(),
            "-----BEGIN CERTIFICATE REQUEST-----\n".into(),
            pem.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
            "A".repeat(MAX_PEM + 1),
        ] {
            let status = read(&IstioCertificateRequest { csr: bad, ..request() }).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
        }
    }

    #[test]
    fn metadata_is_read_by_its_known_keys() {
        let text = |text: &str| Kind::StringValue(text.into());
        let of = read(&with("ImpersonatedIdentity", text("spiffe://demo.signet/ns/shop/sa/web"))).unwrap().of;
        assert_eq!(of.unwrap().to_string(), "ns/shop/sa/web");
        assert!(read(&with("ImpersonatedIdentity", text(""))).unwrap().of.is_none());
        assert!(read(&with("Other", Kind::BoolValue(true))).unwrap().of.is_none());
        for (key, kind, code) in [
            ("ImpersonatedIdentity", text("spiffe://other/ns/shop/sa/web"), Code::Unauthenticated),
            ("ImpersonatedIdentity", text("shop/web"), Code::Unauthenticated),
            ("ImpersonatedIdentity", Kind::NumberValue(1.0), Code::InvalidArgument),
            ("CertSigner", text("another"), Code::InvalidArgument),
        ] {
            assert_eq!(read(&with(key, kind)).unwrap_err().code(), code, "{key}");
        }
    }

    #[test]
    fn a_token_comes_in_one_authorization_header() {
        let of = |values: &[&str]| {
            let mut metadata = MetadataMap::new();
            for value in values {
                metadata.append("authorization", value.parse().unwrap());
            }
            bearer(&metadata)
        };
        assert_eq!(of(&["Bearer a.b.c"]).as_deref(), Some("a.b.c"));
        assert_eq!(of(&["bearer a.b.c"]).as_deref(), Some("a.b.c"));
        for bad in [&[][..], &["a.b.c"], &["Basic a.b.c"], &["Bearer "], &["Bearer a", "Bearer b"]] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
    }
}
