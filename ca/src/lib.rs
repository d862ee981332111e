//! The authority: it decides who gets which certificate, signs it, and writes down that it did.
//!
//! [`Authority`] is the whole of it. Underneath, from the bottom up: `files`, `seal` and `vault` keep private keys at
//! rest, `keystore` makes and opens those of roots and issuers there or in a PKCS #11 token, `keys` and `hierarchy` make roots and issuers, `rotation` decides when one follows another, `external` takes roots that are kept elsewhere, `profile` says
//! what each certificate looks like and `check` reads it again with other eyes, `csr` takes the public key out of a
//! request and nothing else. `authorise` alone makes the right to a certificate, out of a join token (`join`), of a
//! certificate issued before (`renew`), of what somebody vouches for (`attested`), of a person's login (`operator`), of
//! being the control plane itself, or for the app of whoever holds one (`workload`, and `jwt` for tokens); `issue` is the one place that
//! signs, and takes only such a right. `store` remembers, in SQLite or PostgreSQL; every act is one `record` of a hash
//! chain in the same transaction, so that what cannot be written down is not done. `revoke` takes back, `recover` does so for everything that a lost store or a stolen key may have left, `backup` copies what is needed to begin again,
//! `crl` tells strangers of it, `delegate` lends the token key's authority to gateways, `exchange` signs for sidecars that exchange tokens and `defer` seals what they put off, `limits` bounds what a flood may cost.
//!
//! It never takes a name, a usage or a date from a request, never issues past a parent's end, never stores a
//! private key or a token in the database, and never tells a stranger why.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

mod attested;
mod audit;
mod authorise;
mod authority;
mod backup;
mod check;
mod clock;
mod config;
mod crl;
mod csr;
mod defer;
mod delegate;
mod error;
mod exchange;
mod external;
mod files;
mod hierarchy;
mod issue;
mod join;
mod jwt;
mod keys;
mod keystore;
mod limits;
mod metrics;
mod operator;
mod peer;
mod profile;
mod record;
mod recover;
mod refusal;
mod renew;
mod replicas;
mod revoke;
mod rotation;
mod seal;
mod spread;
mod store;
mod vault;
mod vouched;
mod workload;

pub use attested::{Attested, Instance};
pub use authorise::{Registrar, SharedRegistrar};
pub use authority::{Authority, CertificateStatus};
pub use backup::manifest::CopyMismatch;
pub use backup::{Backup, BackupConfig, BackupError};
pub use check::CheckError;
pub use clock::{Clock, SystemClock};
pub use config::{
    AuthorityConfig, ConfigError, LogFailure, MAX_JOIN_TOKEN_TTL, MAX_JWT_SVID_TTL, MAX_SVID_TTL,
    MIN_DEV_SVID_TTL, MIN_JWT_SVID_TTL, MIN_SVID_TTL, SharedKeys,
};
pub use crl::{Crl, Crls};
pub use csr::MAX_CSR;
pub use defer::{Deferral, MAX_DEFERRED, SEALED_PREFIX};
pub use error::AuthorityError;
pub use exchange::Exchange;
pub use external::{Imported, Look, RootChainError, RootRequest, RootSource};
pub use files::FileError;
pub use hierarchy::HierarchyError;
pub use issue::{Issued, SignError};
pub use join::{JoinToken, SecretText, TOKEN_PREFIX};
pub use jwt::JwtSvid;
pub use keys::KeyError;
pub use keystore::{KeyKind, KeyStoreError, KeysConfig, Pkcs11Config, UnknownKeyKind};
#[cfg(feature = "pkcs11")]
pub use keystore::{PinError, TokenError};
pub use operator::{
    LoginRefused, MAX_OPERATOR_LIFE, OperatorCall, OperatorLogin, OperatorSession, Person, login_nonce,
};
pub use profile::ProfileError;
pub use record::{Event, Record};
pub use recover::{Recovered, Recovery};
pub use refusal::{Outward, Refusal};
pub use revoke::{InstanceName, LineageId, NameError, Revocation, Revocations, UserName};
pub use rotation::{Kind, Phase, Published, RotationConfig, SlotStatus};
pub use seal::{Argon2Cost, SealConfig, SealError, SealSource};
pub use spread::{SpreadNote, Told};
pub use store::{
    Acknowledged, ChainError, CopyError, Cursor, GivenUp, Login, PostgresConfig, PostgresError,
    ReplicaStatus, Search, Server, StoreConfig, StoreError, Taken, Tls, Verified, migrate,
};
pub use vouched::{Asked, Judge, Vouched};

#[cfg(test)]
mod fuzzed;

/// For the fuzzer alone.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    /// The public key of a certificate request, as it would be certified.
    pub fn key_of_request(der: &[u8], ed25519: bool) -> Result<Vec<u8>, crate::Refusal> {
        crate::csr::ProvenKey::from_csr_allowing(der, ed25519)
            .map(|key| rcgen::PublicKeyData::der_bytes(&key).to_vec())
    }
}
