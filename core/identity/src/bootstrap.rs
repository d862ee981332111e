//! TLS before there is an SVID: how a joining workload finds the control plane.
//!
//! It knows from its join bundle the SHA-256 of the root, and nothing is trusted on first use. The client
//! presents no certificate (it has none) and keeps no session.

use std::sync::Arc;

use rustls::{
    ClientConfig, Error,
    client::{Resumption, Tls12Resumption},
    version::TLS13,
};

use crate::{
    key_id::KeyId, provider::crypto_provider, spiffe_id::SpiffeId, trust_domain::TrustDomain,
    verifier::PinnedRootVerifier,
};

/// The config of a joining client: the server's chain must contain the root with this SHA-256 and lead to
/// it, and be exactly this control plane's, of class `control-plane`. ALPN h2. Dial it with
/// `server_name(control_plane)`.
pub fn bootstrap_client_config(
    domain: TrustDomain,
    root: KeyId,
    control_plane: SpiffeId,
) -> Result<Arc<ClientConfig>, Error> {
    let provider = crypto_provider();
    let algorithms = provider.signature_verification_algorithms;
    let verifier = PinnedRootVerifier { domain, root, control_plane, algorithms };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled().tls12_resumption(Tls12Resumption::Disabled);
    Ok(Arc::new(config))
}
