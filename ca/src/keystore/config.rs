//! What the key store is told.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The kinds of key that sign certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyKind {
    /// ECDSA on P-256 with SHA-256.
    #[default]
    P256,
    /// ECDSA on P-384 with SHA-384. A handshake that verifies such signatures costs several times more.
    P384,
}

impl KeyKind {
    pub fn as_str(self) -> &'static str {
        match self {
            KeyKind::P256 => "p256",
            KeyKind::P384 => "p384",
        }
    }

    /// Length of an uncompressed point.
    pub(crate) fn point(self) -> usize {
        match self {
            KeyKind::P256 => 65,
            KeyKind::P384 => 97,
        }
    }

    pub(crate) fn algorithm(self) -> &'static rcgen::SignatureAlgorithm {
        match self {
            KeyKind::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyKind::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The word names no kind of key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected p256 or p384, found `{0}`")]
pub struct UnknownKeyKind(String);

impl FromStr for KeyKind {
    type Err = UnknownKeyKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "p256" => Ok(KeyKind::P256),
            "p384" => Ok(KeyKind::P384),
            other => Err(UnknownKeyKind(other.to_owned())),
        }
    }
}

/// What new keys of roots and issuers are and where they lie. Keys that exist stay what and where they are.
#[derive(Debug, Clone, Default)]
pub struct KeysConfig {
    pub algorithm: KeyKind,
    /// Without it new keys lie sealed in the data directory.
    pub pkcs11: Option<Pkcs11Config>,
}

/// A PKCS #11 token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pkcs11Config {
    /// The vendor's shared library. It runs inside this process.
    pub module: PathBuf,
    /// Names the token among those that the module knows.
    pub token_label: String,
    /// A file whose first line is the user PIN, mode 0600.
    pub pin_file: PathBuf,
    /// Issuers' keys are made in the token, too. Then every certificate is signed by the token and no
    /// faster than it; without, the token signs only issuers.
    pub issuers: bool,
}
