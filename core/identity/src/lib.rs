//! Who a peer is, and how two peers find out.
//!
//! Everything in Signet that names, proves or checks an identity is here, and nothing here does I/O:
//!
//! * [`TrustDomain`] and [`SpiffeId`] exist only when valid; [`PeerClass`] and [`Serial`] likewise.
//! * [`Svid`] is what a certificate chain says, read strictly by the X.509-SVID rules.
//! * [`Bundles`] holds the roots of each trust domain apart: a peer is verified against the roots of
//!   *its own* domain and no other.
//! * [`Generation`] is one set of roots together with one own SVID, and all the TLS machinery that may
//!   be shared under them: configs, verifiers, tickets, sessions, the cache of verified chains. Nothing
//!   is shared between generations, so that a changed root or a renewed SVID forgets every session.
//! * [`Generation::check`] runs after **every** handshake, resumed or not, before the first byte of the
//!   application. rustls does not look at certificates again when it resumes; this function does.
//! * [`HandshakeFailure`] is the one list of what can go wrong on the way, and [`Incidents`] keeps the latest.
//!
//! TLS is 1.3 only, on `ring`, X25519 before P-256, AES-128-GCM first; no 0-RTT.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod alpn;
mod bootstrap;
mod bundle;
mod chain;
mod check;
mod class;
mod dates;
mod failure;
mod federation;
mod generation;
mod incidents;
mod key_id;
mod own;
mod provider;
mod revocation;
mod revocation_list;
mod serial;
mod server_name;
mod sessions;
mod spiffe_id;
mod svid;
mod told;
mod trust_domain;
mod verified;
mod verifier;

#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "a test's own authority may panic")]
pub mod testing;

pub use alpn::Alpn;
pub use bootstrap::{bootstrap_client_config, bootstrap_client_config_with_roots};
pub use bundle::{BundleError, Bundles, TrustBundle};
pub use chain::CacheCounts;
pub use check::{Expected, Peer};
pub use class::{ARC_UUID, ClassSet, PeerClass, UnknownClass};
pub use failure::{HandshakeFailure, Received};
pub use federation::bundle_client_config;
pub use generation::{Generation, GenerationError, GenerationOptions};
pub use incidents::{Failed, Incident, Incidents, IncidentsReport, Own, OwnReport, ReceivedReport, visible};
pub use key_id::KeyId;
pub use own::{OwnSvid, OwnSvidError};
pub use provider::crypto_provider;
pub use revocation::{RevocationSet, RevokedBy};
pub use revocation_list::{RevocationList, RevocationListError};
pub use serial::{Serial, SerialError};
pub use server_name::{
    IdentityHash, MESH_SUFFIX, RoutedName, routed_name_fits, routed_server_name, server_name,
    service_dns_name,
};
pub use spiffe_id::{SpiffeId, SpiffeIdError};
pub use svid::{IssuerFacts, MAX_CHAIN, Svid, SvidError, not_after};
pub use trust_domain::TrustDomain;
