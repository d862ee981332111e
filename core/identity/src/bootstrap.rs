//! TLS before there is an SVID: how a joining workload finds the control plane.
//!
//! It knows from its join bundle the SHA-256 of the root, or from a file the roots themselves, and nothing is trusted
//! on first use. The client presents no certificate (it has none) and keeps no session.

use std::sync::Arc;

use rustls::{
    ClientConfig, Error,
    client::{Resumption, Tls12Resumption, danger::ServerCertVerifier},
    version::TLS13,
};

use crate::{
    bundle::{Bundles, TrustBundle},
    chain::Chains,
    class::ClassSet,
    key_id::KeyId,
    provider::crypto_provider,
    spiffe_id::SpiffeId,
    trust_domain::TrustDomain,
    verified::Verifying,
    verifier::{PinnedRootVerifier, ServerVerifier},
};

/// The config of a joining client: the server's chain must contain the root with this SHA-256 and lead to
/// it, and be exactly this control plane's, of class `control-plane`. ALPN h2. Dial it with
/// `server_name(control_plane)`.
pub fn bootstrap_client_config(
    domain: TrustDomain,
    root: KeyId,
    control_plane: SpiffeId,
) -> Result<Arc<ClientConfig>, Error> {
    let algorithms = crypto_provider().signature_verification_algorithms;
    let judge = PinnedRootVerifier { domain, root, control_plane, algorithms };
    strangers_config(Arc::new(Verifying { judge, algorithms }))
}

/// The same for a client that has the roots of its trust domain: the server's chain must lead to one of them.
/// Whom it must be for is the name that is dialled: `server_name(control_plane)`.
pub fn bootstrap_client_config_with_roots(roots: TrustBundle) -> Result<Arc<ClientConfig>, Error> {
    let algorithms = crypto_provider().signature_verification_algorithms;
    let home = Some(roots.trust_domain().clone());
    let chains = Arc::new(Chains::new(Arc::new(Bundles::from(roots)), home, algorithms, 1));
    let judge = ServerVerifier { chains, classes: ClassSet::CONTROL_PLANE, told: Arc::default() };
    strangers_config(Arc::new(Verifying { judge, algorithms }))
}

fn strangers_config(verifier: Arc<dyn ServerCertVerifier>) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled().tls12_resumption(Tls12Resumption::Disabled);
    Ok(Arc::new(config))
}
