//! A secret as Envoy takes it: certificates and keys in PEM, roots for its SPIFFE validator or as one pool.

use prost::Message as _;
use prost_types::Any;
use signet_identity::TrustBundle;
use signet_proto::envoy::config::core::v3::{DataSource, Node, TypedExtensionConfig, data_source::Specifier};
use signet_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret::Type,
    spiffe_cert_validator_config::TrustDomain,
};

use super::names::{self, Meaning};
use super::{TYPE_URL, hex};
use crate::api::digest;
use crate::pem;
use crate::provider::Served;

const VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
const VALIDATOR_CONFIG: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// A named secret, ready to be sent.
pub(crate) struct Written {
    pub(crate) name: String,
    /// The same for the same content, on every stream and after every restart. Made of what is public in it.
    pub(crate) version: String,
    pub(crate) any: Any,
}

/// How a client verifies: by trust domain, or (an old Envoy, or one told so) by one pool of roots.
pub(crate) fn pools(node: &Node) -> bool {
    let Some(metadata) = &node.metadata else { return false };
    match metadata.fields.get("disable_spiffe_cert_validation").and_then(|value| value.kind.as_ref()) {
        Some(prost_types::value::Kind::BoolValue(said)) => *said,
        Some(prost_types::value::Kind::StringValue(said)) => said == "true",
        _ => false,
    }
}

/// The secret of this name for this caller, if there is one.
pub(crate) fn write(served: &Served, name: &str, pools: bool) -> Option<Written> {
    let (kind, version) = match names::meaning(served, name, pools)? {
        Meaning::Identity(identity) => {
            let chain = identity.svid.chain();
            let mut key = Vec::new();
            pem::append(&mut key, "PRIVATE KEY", identity.svid.private_key_pkcs8());
            let certificate = TlsCertificate {
                certificate_chain: Some(inline(pem::certificates(chain.iter().map(AsRef::as_ref)))),
                private_key: Some(inline(key)),
            };
            (Type::TlsCertificate(certificate), digest(chain.iter().map(AsRef::as_ref)))
        }
        Meaning::Roots(bundle) => roots(&[bundle], pools),
        Meaning::AllRoots => {
            let all: Vec<&TrustBundle> = served.bundles.x509.iter().map(|bundle| &**bundle).collect();
            roots(&all, pools)
        }
    };
    let secret = Secret { name: name.to_owned(), r#type: Some(kind) };
    let any = Any { type_url: TYPE_URL.to_owned(), value: secret.encode_to_vec() };
    let version = hex(version.get(..8).unwrap_or_default());
    Some(Written { name: name.to_owned(), version, any })
}

fn roots(bundles: &[&TrustBundle], pools: bool) -> (Type, Vec<u8>) {
    let pem = |bundle: &TrustBundle| inline(pem::certificates(bundle.roots().map(AsRef::as_ref)));
    let context = match (pools, bundles) {
        (true, [bundle]) => {
            CertificateValidationContext { trusted_ca: Some(pem(bundle)), custom_validator_config: None }
        }
        _ => {
            let domains = bundles.iter().map(|bundle| TrustDomain {
                name: bundle.trust_domain().to_string(),
                trust_bundle: Some(pem(bundle)),
            });
            let config = SpiffeCertValidatorConfig { trust_domains: domains.collect() };
            let any = Any { type_url: VALIDATOR_CONFIG.to_owned(), value: config.encode_to_vec() };
            let validator = TypedExtensionConfig { name: VALIDATOR.to_owned(), typed_config: Some(any) };
            CertificateValidationContext { trusted_ca: None, custom_validator_config: Some(validator) }
        }
    };
    let public = bundles.iter().flat_map(|bundle| {
        let domain = bundle.trust_domain().as_str().as_bytes();
        std::iter::once(domain).chain(bundle.roots().map(AsRef::as_ref))
    });
    let form: &[u8] = if pools { b"trusted_ca" } else { b"spiffe" };
    (Type::ValidationContext(context), digest(std::iter::once(form).chain(public)))
}

fn inline(bytes: Vec<u8>) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(bytes)) }
}
