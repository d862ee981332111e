//! Signing keys of our own: ES256 and nothing else, so that whoever verifies has one case.

use std::fmt;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Map, Value};

use crate::b64;
use crate::jwk::Jwk;
use crate::jws;
use crate::secret::Secret;

/// An ECDSA P-256 key pair. The private half does not print and leaves only as a [`Secret`].
pub struct SigningKey {
    pair: EcdsaKeyPair,
    public: Jwk,
    random: SystemRandom,
}

/// Why there is no key, or no signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the system's random source failed")]
    Random,
    #[error("not an ECDSA P-256 private key in PKCS #8: {0}")]
    Pkcs8(String),
}

impl SigningKey {
    /// A new key that lives in this process only.
    pub fn generate() -> Result<SigningKey, KeyError> {
        SigningKey::generate_sealed().map(|(key, _)| key)
    }

    /// A new key and its PKCS #8 form, to be sealed.
    pub fn generate_sealed() -> Result<(SigningKey, Secret), KeyError> {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .map_err(|_| KeyError::Random)?;
        let secret = Secret::new(document.as_ref().to_vec());
        Ok((SigningKey::from_pkcs8(secret.expose())?, secret))
    }

    /// A key that was sealed before.
    pub fn from_pkcs8(der: &[u8]) -> Result<SigningKey, KeyError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random)
            .map_err(|e| KeyError::Pkcs8(e.to_string()))?;
        let public = Jwk::es256(pair.public_key().as_ref());
        Ok(SigningKey { pair, public, random })
    }

    /// The public half; its `kid` is the thumbprint.
    pub fn public_jwk(&self) -> &Jwk {
        &self.public
    }

    /// RFC 7638.
    pub fn thumbprint(&self) -> &str {
        self.public.thumbprint()
    }

    /// A compact JWS. `alg` and `kid` of the header are set here.
    pub fn sign(
        &self,
        typ: &str,
        mut header: Map<String, Value>,
        claims: &Map<String, Value>,
    ) -> Result<String, KeyError> {
        header.insert("typ".into(), typ.into());
        header.insert("alg".into(), "ES256".into());
        header.insert("kid".into(), self.thumbprint().into());
        let mut token = jws::signing_input(&header, claims);
        let signature = self.pair.sign(&self.random, token.as_bytes()).map_err(|_| KeyError::Random)?;
        token.push('.');
        token.push_str(&b64::encode(signature.as_ref()));
        Ok(token)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.thumbprint())
    }
}
