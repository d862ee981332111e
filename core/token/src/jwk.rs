//! One public key (RFC 7517, 7518 §6, 8037 §2): what it may verify, and how it is named.

use std::fmt;

use ring::signature as rs;
use serde_json::{Map, Value};

use crate::algorithm::Algorithm;
use crate::b64;

/// A usable public signature key. Exists only when its type, curve, size and declared use are ones
/// that we verify with.
#[derive(Clone, PartialEq, Eq)]
pub struct Jwk {
    kid: Option<String>,
    alg: Option<Algorithm>,
    material: Material,
    thumbprint: String,
}

#[derive(Clone, PartialEq, Eq)]
enum Material {
    // Uncompressed points, 0x04 first, as ring takes them.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

/// Why a key of a set is not used. Labels are for counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum JwkRefused {
    #[error("kty, a coordinate or another member is missing or of the wrong type or length")]
    Malformed,
    #[error("kty is not EC, RSA or OKP")]
    UnknownType,
    #[error("the curve is not P-256, P-384 or Ed25519")]
    UnknownCurve,
    #[error("a symmetric key (kty oct) has no place among public keys")]
    Symmetric,
    #[error("the private half is in it: a published private key is anyone's")]
    Private,
    #[error("use or key_ops says that it is not for signatures")]
    NotForSignatures,
    #[error("alg is not ES256, ES384, RS256, PS256 or EdDSA")]
    UnknownAlgorithm,
    #[error("alg does not belong to the key's type and curve")]
    AlgorithmMismatch,
    #[error("the RSA modulus is not between 2048 and 8192 bits")]
    RsaSize,
    #[error("the RSA exponent is even or below 65537")]
    RsaExponent,
}

impl JwkRefused {
    pub const fn label(self) -> &'static str {
        match self {
            JwkRefused::Malformed => "malformed",
            JwkRefused::UnknownType => "unknown_type",
            JwkRefused::UnknownCurve => "unknown_curve",
            JwkRefused::Symmetric => "symmetric",
            JwkRefused::Private => "private",
            JwkRefused::NotForSignatures => "not_for_signatures",
            JwkRefused::UnknownAlgorithm => "unknown_algorithm",
            JwkRefused::AlgorithmMismatch => "algorithm_mismatch",
            JwkRefused::RsaSize => "rsa_size",
            JwkRefused::RsaExponent => "rsa_exponent",
        }
    }
}

const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

impl Jwk {
    /// Reads one key from its JSON text.
    pub fn parse(json: &str) -> Result<Jwk, JwkRefused> {
        let map = crate::json::object(json.as_bytes()).map_err(|_| JwkRefused::Malformed)?;
        Jwk::from_map(&map)
    }

    pub(crate) fn from_map(map: &Map<String, Value>) -> Result<Jwk, JwkRefused> {
        let kty = text(map, "kty")?.ok_or(JwkRefused::Malformed)?;
        if kty == "oct" {
            return Err(JwkRefused::Symmetric);
        }
        if PRIVATE_MEMBERS.iter().any(|name| map.contains_key(*name)) {
            return Err(JwkRefused::Private);
        }
        for_signatures(map)?;
        let material = match kty {
            "EC" => match required(map, "crv")? {
                "P-256" => Material::P256(point(map, 32)?),
                "P-384" => Material::P384(point(map, 48)?),
                _ => return Err(JwkRefused::UnknownCurve),
            },
            "OKP" => match required(map, "crv")? {
                "Ed25519" => Material::Ed25519(exactly(map, "x", 32)?),
                _ => return Err(JwkRefused::UnknownCurve),
            },
            "RSA" => rsa(map)?,
            _ => return Err(JwkRefused::UnknownType),
        };
        let alg = match text(map, "alg")? {
            None => None,
            Some(name) => Some(Algorithm::from_name(name).ok_or(JwkRefused::UnknownAlgorithm)?),
        };
        let kid = text(map, "kid")?.map(str::to_owned);
        let thumbprint = material.thumbprint();
        let key = Jwk { kid, alg: None, material, thumbprint };
        match alg {
            Some(alg) if !key.verifies(alg) => Err(JwkRefused::AlgorithmMismatch),
            alg => Ok(Jwk { alg, ..key }),
        }
    }

    /// An ES256 key from its uncompressed point, named by its thumbprint.
    pub(crate) fn es256(point: &[u8]) -> Jwk {
        let material = Material::P256(point.to_vec());
        let thumbprint = material.thumbprint();
        Jwk { kid: Some(thumbprint.clone()), alg: Some(Algorithm::Es256), material, thumbprint }
    }

    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// RFC 7638: base64url of SHA-256 over the required members in order.
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// Whether this key may verify signatures of `alg`: its type and curve fit, and its own `alg`,
    /// when it names one, is the same.
    pub fn verifies(&self, alg: Algorithm) -> bool {
        let fits = match self.material {
            Material::P256(_) => alg == Algorithm::Es256,
            Material::P384(_) => alg == Algorithm::Es384,
            Material::Ed25519(_) => alg == Algorithm::EdDsa,
            Material::Rsa { .. } => matches!(alg, Algorithm::Rs256 | Algorithm::Ps256),
        };
        fits && self.alg.is_none_or(|own| own == alg)
    }

    /// True only for a signature by this key, with an algorithm that [`verifies`](Self::verifies) allows.
    pub(crate) fn signature_holds(&self, alg: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        if !self.verifies(alg) {
            return false;
        }
        let checked = match (&self.material, alg) {
            (Material::P256(point), _) => {
                rs::UnparsedPublicKey::new(&rs::ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Material::P384(point), _) => {
                rs::UnparsedPublicKey::new(&rs::ECDSA_P384_SHA384_FIXED, point).verify(message, signature)
            }
            (Material::Ed25519(x), _) => {
                rs::UnparsedPublicKey::new(&rs::ED25519, x).verify(message, signature)
            }
            (Material::Rsa { n, e }, Algorithm::Ps256) => {
                rs::RsaPublicKeyComponents { n, e }.verify(&rs::RSA_PSS_2048_8192_SHA256, message, signature)
            }
            (Material::Rsa { n, e }, _) => rs::RsaPublicKeyComponents { n, e }.verify(
                &rs::RSA_PKCS1_2048_8192_SHA256,
                message,
                signature,
            ),
        };
        checked.is_ok()
    }

    /// The public JWK, with `use: sig` and, where known, `kid` and `alg`. As text by [`fmt::Display`].
    pub fn to_json(&self) -> Map<String, Value> {
        let mut map = self.material.members();
        map.insert("use".into(), "sig".into());
        if let Some(kid) = &self.kid {
            map.insert("kid".into(), kid.as_str().into());
        }
        if let Some(alg) = self.alg {
            map.insert("alg".into(), alg.name().into());
        }
        map
    }
}

impl fmt::Display for Jwk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Value::Object(self.to_json()).fmt(f)
    }
}

impl fmt::Debug for Jwk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwk")
            .field("kid", &self.kid)
            .field("alg", &self.alg)
            .field("thumbprint", &self.thumbprint)
            .finish()
    }
}

impl Material {
    fn members(&self) -> Map<String, Value> {
        let halves = |point: &[u8]| {
            let body = point.get(1..).unwrap_or_default();
            let (x, y) = body.split_at(body.len().wrapping_div(2));
            (b64::encode(x), b64::encode(y))
        };
        let mut map = Map::new();
        let mut put = |name: &str, value: String| map.insert(name.to_owned(), Value::String(value));
        match self {
            Material::P256(point) | Material::P384(point) => {
                let curve = if matches!(self, Material::P256(_)) { "P-256" } else { "P-384" };
                let (x, y) = halves(point);
                put("kty", "EC".into());
                put("crv", curve.into());
                put("x", x);
                put("y", y);
            }
            Material::Ed25519(x) => {
                put("kty", "OKP".into());
                put("crv", "Ed25519".into());
                put("x", b64::encode(x));
            }
            Material::Rsa { n, e } => {
                put("kty", "RSA".into());
                put("n", b64::encode(n));
                put("e", b64::encode(e));
            }
        }
        map
    }

    fn thumbprint(&self) -> String {
        // RFC 7638 §3.2: the required members only, in the order of their names. Each value is
        // base64url or a curve's name, so nothing needs escaping.
        let members: std::collections::BTreeMap<String, Value> = self.members().into_iter().collect();
        let mut text = String::from("{");
        for (name, value) in &members {
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(&format!("\"{name}\":{value}"));
        }
        text.push('}');
        b64::encode(&b64::sha256(text.as_bytes()))
    }
}

fn text<'a>(map: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, JwkRefused> {
    match map.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(JwkRefused::Malformed),
    }
}

fn required<'a>(map: &'a Map<String, Value>, name: &str) -> Result<&'a str, JwkRefused> {
    text(map, name)?.ok_or(JwkRefused::Malformed)
}

fn bytes(map: &Map<String, Value>, name: &str) -> Result<Vec<u8>, JwkRefused> {
    b64::decode(required(map, name)?).ok_or(JwkRefused::Malformed)
}

fn exactly(map: &Map<String, Value>, name: &str, length: usize) -> Result<Vec<u8>, JwkRefused> {
    let value = bytes(map, name)?;
    if value.len() == length { Ok(value) } else { Err(JwkRefused::Malformed) }
}

fn point(map: &Map<String, Value>, coordinate: usize) -> Result<Vec<u8>, JwkRefused> {
    let mut point = vec![0x04];
    point.extend(exactly(map, "x", coordinate)?);
    point.extend(exactly(map, "y", coordinate)?);
    Ok(point)
}

fn rsa(map: &Map<String, Value>) -> Result<Material, JwkRefused> {
    // RFC 7518 §6.3.1.1 wants the fewest octets; some issuers still send a leading zero.
    let unsigned = |mut value: Vec<u8>| {
        let zeros = value.iter().take_while(|b| **b == 0).count();
        value.drain(..zeros);
        value
    };
    let n = unsigned(bytes(map, "n")?);
    let e = unsigned(bytes(map, "e")?);
    let bits = n.len().saturating_mul(8).saturating_sub(n.first().map_or(0, |b| b.leading_zeros() as usize));
    if !(2048..=8192).contains(&bits) {
        return Err(JwkRefused::RsaSize);
    }
    // Up to 33 bits, as ring takes it; anything longer is no exponent that anybody uses.
    let exponent = match e.len() {
        1..=5 => e.iter().fold(0u64, |value, byte| (value << 8) | u64::from(*byte)),
        _ => return Err(JwkRefused::RsaExponent),
    };
    if exponent < 65_537 || exponent & 1 == 0 || exponent >= 1 << 33 {
        return Err(JwkRefused::RsaExponent);
    }
    Ok(Material::Rsa { n, e })
}

fn for_signatures(map: &Map<String, Value>) -> Result<(), JwkRefused> {
    if text(map, "use")?.is_some_and(|usage| usage != "sig") {
        return Err(JwkRefused::NotForSignatures);
    }
    match map.get("key_ops") {
        None => Ok(()),
        Some(Value::Array(ops)) if ops.iter().any(|op| op == "verify") => Ok(()),
        Some(Value::Array(_)) => Err(JwkRefused::NotForSignatures),
        Some(_) => Err(JwkRefused::Malformed),
    }
}
