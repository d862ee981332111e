//! Vectors that others wrote, read from `$SIGNET_VECTORS`. Left out, and said so, without it; with it
//! a missing file is a failure.
#![allow(clippy::print_stdout)]

use std::path::{Path, PathBuf};

use serde_json::Value;
use signet_token::jws::Compact;
use signet_token::{JoseError, Jwk, json};

// The cases' keys go up to 8192 bits; the limit of real tokens is tested elsewhere.
const MAX: usize = 64 * 1024;

fn folder(name: &str) -> Option<PathBuf> {
    match std::env::var_os("SIGNET_VECTORS") {
        Some(root) => Some(Path::new(&root).join(name)),
        None => {
            println!("left out: SIGNET_VECTORS is not set, {name} was not read");
            None
        }
    }
}

fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn verifies(key: &Jwk, token: &str) -> bool {
    Compact::parse(token, MAX).is_ok_and(|token| token.verify(key).is_ok())
}

/// Cases that are not judged as marked, with the reason.
const EXCEPTIONS: &[(&str, u64, &str)] = &[(
    "json_web_crypto_test.json",
    46,
    "marked invalid for its RSA key alone, made by the flawed generator known as ROCA; the signature itself is \
     right, and a modulus is judged here by its size only",
)];

fn wycheproof(file: &str) {
    let Some(folder) = folder("wycheproof/testvectors_v1") else { return };
    let document = read(&folder.join(file));
    let (mut verified, mut refused, mut not_offered) = (0, 0, 0);
    for group in document["testGroups"].as_array().unwrap() {
        let key = Jwk::parse(&group["public"].to_string());
        for case in group["tests"].as_array().unwrap() {
            let id = case["tcId"].as_u64().unwrap();
            let Some(token) = case["jws"].as_str() else { continue };
            let unknown = matches!(Compact::parse(token, MAX), Err(JoseError::Algorithm { .. }));
            let Some(key) = key.as_ref().ok().filter(|_| !unknown) else {
                not_offered += 1;
                continue;
            };
            let mut expected = case["result"] == "valid";
            if let Some((.., why)) =
                EXCEPTIONS.iter().find(|(in_file, case, _)| (*in_file, *case) == (file, id))
            {
                println!("{file}, case {id}: {why}");
                expected = !expected;
            }
            assert_eq!(verifies(key, token), expected, "case {id}: {}", case["comment"]);
            if expected { verified += 1 } else { refused += 1 }
        }
    }
    println!(
        "{file}: {verified} verified, {refused} refused, {not_offered} of keys or algorithms not offered"
    );
    assert!(verified > 0 && refused > 0);
}

#[test]
fn wycheproof_signatures_verify_exactly_when_they_should() {
    wycheproof("json_web_signature_test.json");
}

#[test]
fn wycheproof_crypto_cases_verify_exactly_when_they_should() {
    wycheproof("json_web_crypto_test.json");
}

#[test]
fn json_is_accepted_and_refused_as_the_test_suite_says() {
    let Some(folder) = folder("json/test_parsing") else { return };
    let mut counts = [0; 3];
    for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let result = json::value(&std::fs::read(&path).unwrap());
        match name.split('_').next().unwrap() {
            // Legal JSON, and still refused: a member twice has no one meaning.
            "y" if name.contains("duplicated_key") => assert!(result.is_err(), "{name}"),
            "y" => assert!(result.is_ok(), "{name}: {result:?}"),
            "n" => assert!(result.is_err(), "{name}"),
            _ => {}
        }
        counts[["y", "n", "i"].iter().position(|kind| name.starts_with(kind)).unwrap()] += 1;
    }
    assert!(counts[0] > 90 && counts[1] > 180 && counts[2] > 30, "{counts:?}");
}

#[test]
fn the_cookbooks_compact_examples_verify_and_the_others_are_no_bearer_tokens() {
    let Some(folder) = folder("jose-cookbook") else { return };
    let examples = [
        ("jws/4_1.rsa_v15_signature.json", true),
        // PS384, ES512 and HS256 are not offered.
        ("jws/4_2.rsa-pss_signature.json", false),
        ("jws/4_3.ecdsa_signature.json", false),
        ("jws/4_4.hmac-sha2_integrity_protection.json", false),
        ("jws/4_5.signature_with_detached_content.json", false),
        ("jws/4_6.protecting_specific_header_fields.json", false),
        ("jws/4_7.protecting_content_only.json", false),
        ("jws/4_8.multiple_signatures.json", false),
        ("rfc7797/4.2.hmac-sha2_b64_false.json", false),
        ("rfc7797/hmac-sha2_b64_false.json", false),
        ("curve25519/jws.json", true),
    ];
    for (name, expected) in examples {
        let example = read(&folder.join(name));
        let keys = match &example["input"]["key"] {
            Value::Array(keys) => keys.clone(),
            key => vec![key.clone()],
        };
        let forms = ["compact", "json", "json_flat"].map(|form| match &example["output"][form] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        let any = keys.iter().any(|key| {
            let mut public = key.clone();
            public
                .as_object_mut()
                .unwrap()
                .retain(|name, _| !matches!(name.as_str(), "d" | "p" | "q" | "dp" | "dq" | "qi"));
            let Ok(key) = Jwk::parse(&public.to_string()) else { return false };
            // The JSON serialisations are never bearer tokens, whatever they hold.
            assert!(!forms[1..].iter().any(|form| verifies(&key, form)), "{name}");
            verifies(&key, &forms[0])
        });
        assert_eq!(any, expected, "{name}");
    }
}
