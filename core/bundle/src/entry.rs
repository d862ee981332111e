//! One entry of `keys`: a root, a key for tokens, or something that is to be ignored.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value};
use signet_token::{Jwk, JwkRefused};

use crate::error::EntryError;
use crate::members;

pub(crate) const X509: &str = "x509-svid";
pub(crate) const JWT: &str = "jwt-svid";

/// Key types of the JSON Web Key Types registry that a public signature key can have.
const KEY_TYPES: [&str; 3] = ["EC", "RSA", "OKP"];

pub(crate) enum Entry {
    Root(CertificateDer<'static>),
    Jwt(Jwk),
    /// Of a use, a key type or an algorithm that this version does not know (section 4.1.3: MUST ignore).
    Ignored,
}

pub(crate) fn read(entry: &Value) -> Result<Entry, EntryError> {
    let map = entry.as_object().ok_or(EntryError::NotAnObject)?;
    let text = |name: &'static str| map.get(name).and_then(Value::as_str).ok_or(EntryError::Member(name));
    let (usage, kty) = (text("use")?, text("kty")?);
    if !KEY_TYPES.contains(&kty) {
        return Ok(Entry::Ignored);
    }
    match usage {
        X509 => root(map).map(Entry::Root),
        JWT => jwt(map),
        _ => Ok(Entry::Ignored),
    }
}

fn root(map: &Map<String, Value>) -> Result<CertificateDer<'static>, EntryError> {
    let chain = map.get("x5c").and_then(Value::as_array).ok_or(EntryError::X5c(0))?;
    let [certificate] = chain.as_slice() else { return Err(EntryError::X5c(chain.len())) };
    // RFC 7517, section 4.7: base64, not base64url.
    let der = certificate
        .as_str()
        .and_then(|text| STANDARD.decode(text).ok())
        .map(CertificateDer::from)
        .ok_or(EntryError::Certificate)?;
    // The same section: the certificate's key and the entry's are one. What is believed is the certificate; an
    // entry that says otherwise was put together by somebody who did not look.
    match members::of_certificate(&der) {
        Some(real) if members::agree(map, &real) => Ok(der),
        // None: no certificate at all, or a key that no JWK describes, though the entry does.
        _ => Err(EntryError::OtherKey),
    }
}

fn jwt(map: &Map<String, Value>) -> Result<Entry, EntryError> {
    match map.get("kid").and_then(Value::as_str) {
        Some(kid) if !kid.is_empty() => {}
        _ => return Err(EntryError::NoKid),
    }
    // To the token library every signature key is `sig`: which document it may sign was said by this one.
    let mut signature_key = map.clone();
    signature_key.remove("use");
    match Jwk::parse(&Value::Object(signature_key).to_string()) {
        Ok(key) => Ok(Entry::Jwt(key)),
        Err(JwkRefused::UnknownType | JwkRefused::UnknownCurve | JwkRefused::UnknownAlgorithm) => {
            Ok(Entry::Ignored)
        }
        Err(refused) => Err(refused.into()),
    }
}
