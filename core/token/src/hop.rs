//! Hop proofs: a caller's sidecar signs, with the key of its SVID, whom it calls with which transaction token.
//!
//! A JWS in compact form (`typ` is `signet-hop+jwt`, ES256) with `iss`, `aud`, `tth`, `prev`, `depth`, `jti`, `iat` and
//! `exp`. It is worth something to one receiver, with one token, once, for ten seconds, and only over the connection of
//! whoever signed it: the receiver verifies by the key of its TLS peer and no other. Of the proofs before it, it has the
//! digest of the last one and their number: they decide nothing.

use serde_json::{Map, Value};

use crate::algorithm::Algorithm;
use crate::b64;
use crate::claims::{ClaimError, Claims};
use crate::jwk::Jwk;
use crate::jws::{self, Compact, JoseError};

/// The header's type.
pub const TYPE: &str = "signet-hop+jwt";
/// Longest life, seconds.
pub const LIFETIME: u64 = 10;
/// Clocks inside the mesh may differ by so much, seconds.
const LEEWAY: u64 = super::txn::LEEWAY;
/// The longest chain of proofs.
pub const MAX_DEPTH: u8 = 16;
/// Two SPIFFE IDs of 2 KiB at most, and little else.
pub const MAX_PROOF: usize = 8 * 1024;

/// What a proof says. Digests are SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Who calls, a SPIFFE ID.
    pub issuer: String,
    /// Who is called.
    pub audience: String,
    /// Of the transaction token.
    pub token: [u8; 32],
    /// Of the proof by which the caller was called; none where it was called without one.
    pub previous: Option<[u8; 32]>,
    /// How many proofs the chain has, this one counted.
    pub depth: u8,
    /// Unlike any other of the same caller.
    pub id: [u8; 16],
    pub issued_at: u64,
    pub expires_at: u64,
}

/// Why a proof is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HopError {
    #[error(transparent)]
    Jose(#[from] JoseError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("expected the type {TYPE}")]
    Type,
    #[error("expected ES256")]
    Algorithm,
    #[error("the certificate that it names (x5t#S256) is not the peer's")]
    Certificate,
    #[error("{claim} is no digest of 32 bytes, or no name of 16")]
    Digest { claim: &'static str },
    #[error("it is by {got}, and the peer is {expected}")]
    Issuer { expected: String, got: String },
    #[error("it is for {got}, and this is {expected}")]
    Audience { expected: String, got: String },
    #[error("it is for another transaction token")]
    Token,
    #[error("expected a depth from 1 to {MAX_DEPTH}, and a previous proof from 2 on, got {depth}")]
    Depth { depth: u64 },
    #[error("it ended at {expires_at}, and it is {now}")]
    Expired { expires_at: u64, now: u64 },
    #[error("it was made at {issued_at}, and it is {now}")]
    Future { issued_at: u64, now: u64 },
    #[error("it lives for {seconds} s, at most {LIFETIME} are taken")]
    TooLong { seconds: u64 },
}

impl HopError {
    /// For counters and callers.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            HopError::Jose(JoseError::Signature) => "hop_bad_signature",
            HopError::Jose(_) | HopError::Claim(_) | HopError::Digest { .. } => "hop_malformed",
            HopError::Type => "hop_type",
            HopError::Algorithm => "hop_algorithm",
            HopError::Certificate => "hop_certificate",
            HopError::Issuer { .. } => "hop_issuer",
            HopError::Audience { .. } => "hop_audience",
            HopError::Token => "hop_token",
            HopError::Depth { .. } => "hop_depth",
            HopError::Expired { .. } => "hop_expired",
            HopError::Future { .. } => "hop_future",
            HopError::TooLong { .. } => "hop_lifetime",
        }
    }
}

/// What a receiver knows by itself.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The TLS peer's name, its P-256 key as an uncompressed point, and the digest of its certificate.
    pub peer: &'a str,
    pub key: &'a [u8],
    pub certificate: &'a [u8; 32],
    /// The receiver's own name.
    pub own: &'a str,
    /// Of the token that came along.
    pub token: &'a [u8; 32],
}

/// Makes a proof. `certificate` is the digest of the signer's own, and `sign` makes an ES256 signature (r and s, 32 bytes
/// each).
pub fn sign(
    hop: &Hop,
    certificate: &[u8; 32],
    sign: impl FnOnce(&[u8]) -> Option<[u8; 64]>,
) -> Option<String> {
    let mut header = Map::new();
    header.insert("typ".into(), TYPE.into());
    header.insert("alg".into(), "ES256".into());
    header.insert("x5t#S256".into(), b64::encode(certificate).into());
    let mut claims = Map::new();
    claims.insert("iss".into(), hop.issuer.as_str().into());
    claims.insert("aud".into(), hop.audience.as_str().into());
    claims.insert("tth".into(), b64::encode(&hop.token).into());
    if let Some(previous) = &hop.previous {
        claims.insert("prev".into(), b64::encode(previous).into());
    }
    claims.insert("depth".into(), hop.depth.into());
    claims.insert("jti".into(), b64::encode(&hop.id).into());
    claims.insert("iat".into(), hop.issued_at.into());
    claims.insert("exp".into(), hop.expires_at.into());
    let mut proof = jws::signing_input(&header, &claims);
    let signature = sign(proof.as_bytes())?;
    proof.push('.');
    proof.push_str(&b64::encode(&signature));
    Some(proof)
}

/// Believes a proof, but for whether it came before.
pub fn verify(proof: &str, expected: &Expected<'_>, now: u64) -> Result<Hop, HopError> {
    let compact = Compact::parse(proof, MAX_PROOF)?;
    if compact.typ()? != Some(TYPE) {
        return Err(HopError::Type);
    }
    if compact.algorithm() != Algorithm::Es256 {
        return Err(HopError::Algorithm);
    }
    if digest(compact.header_text("x5t#S256")?) != Some(*expected.certificate) {
        return Err(HopError::Certificate);
    }
    compact.verify(&Jwk::es256(expected.key))?;
    let hop = read(&compact.claims()?)?;
    if hop.issuer != expected.peer {
        return Err(HopError::Issuer { expected: expected.peer.to_owned(), got: hop.issuer });
    }
    if hop.audience != expected.own {
        return Err(HopError::Audience { expected: expected.own.to_owned(), got: hop.audience });
    }
    if hop.token != *expected.token {
        return Err(HopError::Token);
    }
    let seconds = hop.expires_at.saturating_sub(hop.issued_at);
    if seconds > LIFETIME || seconds == 0 {
        return Err(HopError::TooLong { seconds });
    }
    if hop.issued_at > now.saturating_add(LEEWAY) {
        return Err(HopError::Future { issued_at: hop.issued_at, now });
    }
    if now >= hop.expires_at.saturating_add(LEEWAY) {
        return Err(HopError::Expired { expires_at: hop.expires_at, now });
    }
    Ok(hop)
}

fn read(claims: &Map<String, Value>) -> Result<Hop, HopError> {
    let claims = Claims(claims);
    let bytes = |claim| Ok::<_, HopError>(digest(claims.required_text(claim)?));
    let wrong = |claim| HopError::Digest { claim };
    let previous = match claims.has("prev") {
        true => Some(bytes("prev")?.ok_or(wrong("prev"))?),
        false => None,
    };
    let depth = claims.required_date("depth")?;
    let in_bounds = u8::try_from(depth).ok().filter(|depth| (1..=MAX_DEPTH).contains(depth));
    // Who was called without a proof begins anew.
    let depth =
        in_bounds.filter(|depth| (*depth > 1) == previous.is_some()).ok_or(HopError::Depth { depth })?;
    let id = b64::decode(claims.required_text("jti")?).and_then(|id| id.try_into().ok());
    Ok(Hop {
        issuer: long_text(claims, "iss")?,
        audience: long_text(claims, "aud")?,
        token: bytes("tth")?.ok_or(wrong("tth"))?,
        previous,
        depth,
        id: id.ok_or(wrong("jti"))?,
        issued_at: claims.required_date("iat")?,
        expires_at: claims.required_date("exp")?,
    })
}

/// A SPIFFE ID may be longer than other texts; it is compared whole.
fn long_text(claims: Claims<'_>, claim: &'static str) -> Result<String, ClaimError> {
    match claims.0.get(claim) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => {
            Err(ClaimError::Type { claim, expected: "a string", found: crate::claims::kind(other) })
        }
        None => Err(ClaimError::Missing { claim }),
    }
}

fn digest(text: &str) -> Option<[u8; 32]> {
    b64::decode(text)?.try_into().ok()
}

/// An ES256 signature as X.509 and TLS write it (SEQUENCE of two INTEGERs) as JOSE does: 32 bytes each.
#[must_use]
pub fn fixed(der: &[u8]) -> Option<[u8; 64]> {
    let [0x30, length, rest @ ..] = der else { return None };
    if usize::from(*length) != rest.len() {
        return None;
    }
    let (r, rest) = integer(rest)?;
    let (s, rest) = integer(rest)?;
    let mut out = [0; 64];
    let (first, second) = out.split_at_mut(32);
    first.copy_from_slice(&r);
    second.copy_from_slice(&s);
    rest.is_empty().then_some(out)
}

fn integer(der: &[u8]) -> Option<([u8; 32], &[u8])> {
    let [0x02, length, rest @ ..] = der else { return None };
    let (number, rest) = rest.split_at_checked(usize::from(*length))?;
    let number = match number {
        [0, number @ ..] => number,
        number => number,
    };
    let mut out = [0; 32];
    let from = out.len().checked_sub(number.len())?;
    out.get_mut(from..)?.copy_from_slice(number);
    Some((out, rest))
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    };

    use super::*;

    const NOW: u64 = 1_790_000_000;
    const CERTIFICATE: [u8; 32] = [7; 32];
    const TOKEN: [u8; 32] = [8; 32];

    struct Signer(EcdsaKeyPair, Vec<u8>);

    impl Signer {
        fn new() -> Self {
            let random = SystemRandom::new();
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            let pair =
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
            Signer(pair, pkcs8.as_ref().to_vec())
        }

        fn prove(&self, hop: &Hop) -> String {
            let random = SystemRandom::new();
            let signed = |input: &[u8]| self.0.sign(&random, input).ok()?.as_ref().try_into().ok();
            sign(hop, &CERTIFICATE, signed).unwrap()
        }

        fn judge(&self, proof: &str) -> Result<Hop, &'static str> {
            let expected = Expected {
                peer: "spiffe://td/ns/b/sa/b",
                key: self.0.public_key().as_ref(),
                certificate: &CERTIFICATE,
                own: "spiffe://td/ns/c/sa/c",
                token: &TOKEN,
            };
            verify(proof, &expected, NOW).map_err(|error| error.label())
        }
    }

    fn hop() -> Hop {
        Hop {
            issuer: "spiffe://td/ns/b/sa/b".into(),
            audience: "spiffe://td/ns/c/sa/c".into(),
            token: TOKEN,
            previous: Some([9; 32]),
            depth: 2,
            id: [1; 16],
            issued_at: NOW,
            expires_at: NOW + LIFETIME,
        }
    }

    #[test]
    fn a_proof_is_believed_by_whom_it_is_for() {
        let signer = Signer::new();
        assert_eq!(signer.judge(&signer.prove(&hop())), Ok(hop()));
        let first = Hop { previous: None, depth: 1, ..hop() };
        assert_eq!(signer.judge(&signer.prove(&first)), Ok(first));
        let last = Hop { depth: MAX_DEPTH, ..hop() };
        assert_eq!(signer.judge(&signer.prove(&last)), Ok(last));
    }

    #[test]
    fn whatever_is_not_exactly_it_is_refused_by_name() {
        let signer = Signer::new();
        let of = |hop: Hop| signer.judge(&signer.prove(&hop)).unwrap_err();
        assert_eq!(of(Hop { issuer: "spiffe://td/ns/x/sa/x".into(), ..hop() }), "hop_issuer");
        assert_eq!(of(Hop { audience: "spiffe://td/ns/x/sa/x".into(), ..hop() }), "hop_audience");
        assert_eq!(of(Hop { token: [0; 32], ..hop() }), "hop_token");
        assert_eq!(of(Hop { depth: MAX_DEPTH + 1, ..hop() }), "hop_depth");
        assert_eq!(of(Hop { depth: 0, previous: None, ..hop() }), "hop_depth");
        assert_eq!(of(Hop { previous: None, ..hop() }), "hop_depth");
        assert_eq!(of(Hop { depth: 1, ..hop() }), "hop_depth");
        assert_eq!(of(Hop { expires_at: NOW + LIFETIME + 1, ..hop() }), "hop_lifetime");
        assert_eq!(of(Hop { expires_at: NOW, ..hop() }), "hop_lifetime");
        let at = |issued_at: u64| Hop { issued_at, expires_at: issued_at + LIFETIME, ..hop() };
        assert_eq!(of(at(NOW + LEEWAY + 1)), "hop_future");
        assert_eq!(of(at(NOW - LIFETIME - LEEWAY)), "hop_expired");
        assert!(signer.judge(&signer.prove(&at(NOW - LIFETIME - LEEWAY + 1))).is_ok());
        // Somebody else's key.
        assert_eq!(signer.judge(&Signer::new().prove(&hop())), Err("hop_bad_signature"));
        let other = sign(&hop(), &[0; 32], |_| Some([0; 64])).unwrap();
        assert_eq!(signer.judge(&other), Err("hop_certificate"));
        assert_eq!(signer.judge("a.b.c"), Err("hop_malformed"));
        assert_eq!(signer.judge(""), Err("hop_malformed"));
    }

    #[test]
    fn no_other_token_of_ours_is_a_proof() {
        let signer = Signer::new();
        let proof = signer.prove(&hop());
        let mut parts = proof.split('.');
        let (header, rest) = (parts.next().unwrap(), parts.collect::<Vec<_>>().join("."));
        let text = String::from_utf8(b64::decode(header).unwrap()).unwrap();
        for (from, to, label) in [
            (TYPE, "txntoken+jwt", "hop_type"),
            (TYPE, "JWT", "hop_type"),
            ("ES256", "RS256", "hop_algorithm"),
            ("ES256", "none", "hop_malformed"),
        ] {
            let header = b64::encode(text.replace(from, to).as_bytes());
            assert_eq!(signer.judge(&format!("{header}.{rest}")), Err(label), "{to}");
        }
    }

    #[test]
    fn a_signature_as_tls_makes_one_is_the_same_signature() {
        let signer = Signer::new();
        let random = SystemRandom::new();
        let asn1 = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &signer.1, &random).unwrap();
        for _ in 0..300 {
            let proof = sign(&hop(), &CERTIFICATE, |input| fixed(asn1.sign(&random, input).ok()?.as_ref()));
            assert_eq!(signer.judge(&proof.unwrap()), Ok(hop()));
        }
        for bad in [
            &[][..],
            &[0x30],
            &[0x30, 0],
            &[0x30, 3, 2, 1, 1],
            &[0x30, 2, 2, 200],
            &[0x31, 6, 2, 1, 1, 2, 1, 1],
        ] {
            assert_eq!(fixed(bad), None, "{bad:?}");
        }
    }

    /// `cargo nextest run … --run-ignored only what_a_proof_costs --no-capture`
    #[test]
    #[ignore = "measures"]
    fn what_a_proof_costs() {
        let signer = Signer::new();
        let began = std::time::Instant::now();
        for _ in 0..1000 {
            let _ = std::hint::black_box(signer.prove(&hop()));
        }
        let made = began.elapsed();
        let proof = signer.prove(&hop());
        let began = std::time::Instant::now();
        for _ in 0..1000 {
            let _ = std::hint::black_box(signer.judge(&proof));
        }
        let verified = began.elapsed();
        let each = |all: std::time::Duration| all.as_secs_f64() * 1e3;
        println!("{:.1} us to make, {:.1} us to verify, {} bytes", each(made), each(verified), proof.len());
    }
}
