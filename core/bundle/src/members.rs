//! A certificate's public key as the members of a JWK (RFC 7518, section 6; RFC 8037, section 2).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

/// Members that say which key it is, by key type.
const NAMED: [&str; 6] = ["kty", "crv", "x", "y", "n", "e"];

/// The members of the certificate's key; `None` for a kind of key that no JWK describes.
pub(crate) fn of_certificate(der: &[u8]) -> Option<Map<String, Value>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let spki = certificate.public_key();
    let mut map = Map::new();
    let mut put = |name: &str, value: String| map.insert(name.to_owned(), Value::String(value));
    match spki.parsed().ok()? {
        PublicKey::EC(point) => {
            // Uncompressed (SEC 1, section 2.3.3): 4, x, y.
            let (4, body) = point.data().split_first()? else { return None };
            let curve = match body.len() {
                64 => "P-256",
                96 => "P-384",
                132 => "P-521",
                _ => return None,
            };
            let (x, y) = body.split_at_checked(body.len().div_euclid(2))?;
            put("kty", "EC".into());
            put("crv", curve.into());
            put("x", URL_SAFE_NO_PAD.encode(x));
            put("y", URL_SAFE_NO_PAD.encode(y));
        }
        PublicKey::RSA(key) => {
            put("kty", "RSA".into());
            put("n", URL_SAFE_NO_PAD.encode(unsigned(key.modulus)));
            put("e", URL_SAFE_NO_PAD.encode(unsigned(key.exponent)));
        }
        // id-Ed25519 (RFC 8410, section 3).
        PublicKey::Unknown(raw) if spki.algorithm.algorithm.to_id_string() == "1.3.101.112" => {
            put("kty", "OKP".into());
            put("crv", "Ed25519".into());
            put("x", URL_SAFE_NO_PAD.encode(raw));
        }
        _ => return None,
    }
    Some(map)
}

/// Whether an entry that describes a key describes this one. What it leaves out it does not contradict.
pub(crate) fn agree(entry: &Map<String, Value>, certificate: &Map<String, Value>) -> bool {
    NAMED.iter().all(|name| match (entry.get(*name), certificate.get(*name)) {
        (Some(said), Some(real)) => said == real,
        (Some(_), None) => false,
        (None, _) => true,
    })
}

/// Without the zero that DER puts before a set top bit.
fn unsigned(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    bytes.get(start..).unwrap_or_default()
}
