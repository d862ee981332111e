//! TLS at a SPIFFE bundle endpoint, where trust domains that do not know each other yet meet.
//!
//! The profile `https_spiffe` (SPIFFE Federation, section 5.2.2): the server presents its own SVID and asks for
//! no certificate; the client holds a bundle of the server's trust domain and expects exactly one SPIFFE ID.
//! The server name of the URL proves nothing here and is not looked at. No session is kept on either side: a
//! fetch is rare, and a bundle that changed must count for the next one.

use std::{fmt, sync::Arc};

use rustls::{
    ClientConfig, Error, ServerConfig,
    client::Resumption,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::NoServerSessionStorage,
    sign::SingleCertAndKey,
    version::TLS13,
};

use crate::{
    bundle::{Bundles, TrustBundle},
    chain::Chains,
    failure::{HandshakeFailure, Received},
    generation::Generation,
    provider::crypto_provider,
    spiffe_id::SpiffeId,
    verified::{ServerJudge, Verifying},
};

/// HTTP/1.1 is what every client of a bundle endpoint speaks.
const HTTP1: &[u8] = b"http/1.1";

impl Generation {
    /// For a bundle endpoint: our own SVID, no client certificate, no resumption.
    pub fn bundle_endpoint_config(&self) -> Result<Arc<ServerConfig>, Error> {
        let own = SingleCertAndKey::from(self.own().certified().clone());
        let mut config = ServerConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(own));
        config.alpn_protocols = vec![HTTP1.to_vec()];
        config.max_early_data_size = 0;
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }
}

/// For fetching a bundle: the server's chain must lead to a root of `bundle`, and be exactly `endpoint`'s.
pub fn bundle_client_config(bundle: TrustBundle, endpoint: SpiffeId) -> Result<Arc<ClientConfig>, Error> {
    let provider = crypto_provider();
    let algorithms = provider.signature_verification_algorithms;
    // Nobody here is of our own trust domain: what the standard demands of an SVID is all that is demanded.
    let chains = Chains::new(Arc::new(Bundles::from(bundle)), None, algorithms, 1);
    let verifier = Verifying { judge: EndpointVerifier { chains, endpoint }, algorithms };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP1.to_vec()];
    config.enable_early_data = false;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

struct EndpointVerifier {
    chains: Chains,
    endpoint: SpiffeId,
}

impl ServerJudge for EndpointVerifier {
    fn judge_server(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), HandshakeFailure> {
        let verified = self.chains.verify(leaf, rest, now)?;
        if verified.svid.id != self.endpoint {
            return Err(HandshakeFailure::WrongIdentity {
                expected: self.endpoint.to_string(),
                received: Received::of(&verified.svid),
            });
        }
        Ok(())
    }
}

impl fmt::Debug for EndpointVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointVerifier").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
