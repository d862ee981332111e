//! Between a token's ECDSA and that of certificates: curves by object identifier, points with or without
//! their wrapping, signatures as two numbers side by side or as ASN.1.

use ring::digest::{Digest, SHA256, SHA384, digest as hash};

use super::KeyKind;

/// CKA_EC_PARAMS: the curve's object identifier in DER.
pub(super) fn named_curve(kind: KeyKind) -> &'static [u8] {
    match kind {
        // 1.2.840.10045.3.1.7
        KeyKind::P256 => &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        // 1.3.132.0.34
        KeyKind::P384 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22],
    }
}

/// The digest that goes with the curve in a certificate's signature algorithm.
pub(super) fn digest(kind: KeyKind, message: &[u8]) -> Digest {
    match kind {
        KeyKind::P256 => hash(&SHA256, message),
        KeyKind::P384 => hash(&SHA384, message),
    }
}

/// The uncompressed point of a CKA_EC_POINT: an OCTET STRING of it by the standard, the bare point by some
/// tokens. Both begin with 4, so the length decides.
pub(super) fn point(kind: KeyKind, attribute: &[u8]) -> Option<Vec<u8>> {
    let bare = if attribute.len() == kind.point() {
        attribute
    } else {
        let (header, rest) = attribute.split_at_checked(2)?;
        (header == [4, u8::try_from(kind.point()).ok()?]).then_some(rest)?
    };
    (bare.len() == kind.point() && bare.first() == Some(&4)).then(|| bare.to_vec())
}

/// `r || s`, each as long as the curve's order or shorter, as ECDSA-Sig-Value in DER (RFC 3279, 2.2.3).
pub(super) fn der(kind: KeyKind, raw: &[u8]) -> Option<Vec<u8>> {
    let longest = kind.point().checked_sub(1)?;
    if raw.is_empty() || raw.len() > longest || !raw.len().is_multiple_of(2) {
        return None;
    }
    let (r, s) = raw.split_at_checked(raw.len() / 2)?;
    let body = [integer(r)?, integer(s)?].concat();
    // At most 2 × (2 + 1 + 48) = 102 bytes: every length fits one byte below 128.
    let mut out = vec![0x30, u8::try_from(body.len()).ok().filter(|length| *length < 128)?];
    out.extend_from_slice(&body);
    Some(out)
}

/// A positive INTEGER, without needless zeros. Zero is no part of a signature.
fn integer(number: &[u8]) -> Option<Vec<u8>> {
    let start = number.iter().position(|byte| *byte != 0)?;
    let number = number.get(start..)?;
    let sign = usize::from(number.first().is_some_and(|byte| byte & 0x80 != 0));
    let mut out = vec![0x02, u8::try_from(number.len().checked_add(sign)?).ok()?];
    out.resize(out.len().checked_add(sign)?, 0);
    out.extend_from_slice(number);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ring::rand::SystemRandom;
    use ring::signature::{self, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey};

    #[test]
    fn a_raw_signature_is_turned_into_one_that_verifies() {
        let random = SystemRandom::new();
        let cases: [(KeyKind, &signature::EcdsaSigningAlgorithm, &signature::EcdsaVerificationAlgorithm); 2] = [
            (KeyKind::P256, &signature::ECDSA_P256_SHA256_FIXED_SIGNING, &signature::ECDSA_P256_SHA256_ASN1),
            (KeyKind::P384, &signature::ECDSA_P384_SHA384_FIXED_SIGNING, &signature::ECDSA_P384_SHA384_ASN1),
        ];
        for (kind, signing, verifying) in cases {
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(signing, &random).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(signing, pkcs8.as_ref(), &random).unwrap();
            let public = UnparsedPublicKey::new(verifying, pair.public_key().as_ref());
            // Enough for numbers that begin with a zero byte or a set bit.
            for n in 0..600u32 {
                let raw = pair.sign(&random, &n.to_be_bytes()).unwrap();
                let der = der(kind, raw.as_ref()).unwrap();
                public.verify(&n.to_be_bytes(), &der).unwrap();
            }
        }
    }

    #[test]
    fn a_point_is_taken_wrapped_and_bare_and_no_other_way() {
        for kind in [KeyKind::P256, KeyKind::P384] {
            let mut bare = vec![9; kind.point()];
            bare[0] = 4;
            let wrapped = [&[4, kind.point() as u8][..], &bare].concat();
            assert_eq!(point(kind, &bare), Some(bare.clone()));
            assert_eq!(point(kind, &wrapped), Some(bare.clone()));
            assert_eq!(point(kind, &wrapped[1..]), None);
            assert_eq!(point(kind, &[&wrapped[..], &[0]].concat()), None);
            bare[0] = 2;
            assert_eq!(point(kind, &bare), None);
            assert_eq!(point(kind, &[]), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_become_der_of_the_same_numbers_or_nothing(raw in proptest::collection::vec(any::<u8>(), 0..120)) {
            for kind in [KeyKind::P256, KeyKind::P384] {
                let Some(der) = der(kind, &raw) else {
                    let half = raw.len() / 2;
                    prop_assert!(raw.is_empty() || raw.len() > kind.point() - 1 || raw.len() % 2 == 1
                        || raw[..half].iter().all(|b| *b == 0) || raw[half..].iter().all(|b| *b == 0));
                    continue;
                };
                prop_assert_eq!(usize::from(der[1]), der.len() - 2);
                let r_end = 4 + usize::from(der[3]);
                let number = |bytes: &[u8]| bytes.iter().copied().skip_while(|b| *b == 0).collect::<Vec<_>>();
                prop_assert_eq!(number(&der[4..r_end]), number(&raw[..raw.len() / 2]));
                prop_assert_eq!(number(&der[r_end + 2..]), number(&raw[raw.len() / 2..]));
                for first in [der[4], der[r_end + 2]] {
                    prop_assert!(first & 0x80 == 0, "a negative number");
                }
            }
        }
    }
}
