//! The one crypto provider: `ring`, cut down to what the mesh speaks.

use std::sync::{Arc, OnceLock};

use rustls::crypto::{
    CryptoProvider,
    ring::{cipher_suite, default_provider, kx_group},
};

/// TLS 1.3 suites with AES-128-GCM first (the cheapest where the processor has AES), X25519 before P-256.
///
/// Public so that other TLS of ours (the gateway's edge listeners, a JWKS fetch) names the same provider;
/// with no process-wide default installed, a bare rustls builder panics, and clippy refuses it.
pub fn crypto_provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| {
            Arc::new(CryptoProvider {
                cipher_suites: vec![
                    cipher_suite::TLS13_AES_128_GCM_SHA256,
                    cipher_suite::TLS13_AES_256_GCM_SHA384,
                    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
                ],
                kx_groups: vec![kx_group::X25519, kx_group::SECP256R1],
                ..default_provider()
            })
        })
        .clone()
}
