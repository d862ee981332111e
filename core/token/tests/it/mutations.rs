//! No change to a token survives verification.

use std::sync::LazyLock;

use proptest::prelude::*;
use signet_token::Issuers;

use crate::support::{Forger, NOW, claims, issuers, settings};
use crate::transactions::{Mesh, request};

static ACCESS: LazyLock<(Issuers, String, String)> = LazyLock::new(|| {
    let forger = Forger::new();
    let mut open = settings();
    open.algorithms.clear();
    let other = crate::support::claims_with("sub", Some("mallory".into()));
    (issuers(&forger, open), forger.token(&claims()), forger.token(&other))
});

static TXN: LazyLock<(Mesh, String, String)> = LazyLock::new(|| {
    let mesh = Mesh::new();
    let (one, two) = (mesh.mint(request()).unwrap().0, mesh.mint(request()).unwrap().0);
    (mesh, one, two)
});

#[derive(Debug, Clone)]
enum Mutation {
    Replace(prop::sample::Index, char),
    Insert(prop::sample::Index, char),
    Remove(prop::sample::Index),
    Truncate(prop::sample::Index),
    // One part of the other token, which is as good as this one.
    Graft(usize),
    Swap(usize, usize),
    Header(&'static str, &'static str),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let symbol = || {
        prop_oneof![
            8 => "[A-Za-z0-9_-]".prop_map(|s| s.chars().next().unwrap()),
            1 => any::<char>(),
            1 => prop::sample::select(vec!['.', '=', '+', '/', ' ', '\0', ',']),
        ]
    };
    let at = || any::<prop::sample::Index>();
    prop_oneof![
        6 => (at(), symbol()).prop_map(|(at, c)| Mutation::Replace(at, c)),
        3 => (at(), symbol()).prop_map(|(at, c)| Mutation::Insert(at, c)),
        2 => at().prop_map(Mutation::Remove),
        1 => at().prop_map(Mutation::Truncate),
        1 => (0usize..3).prop_map(Mutation::Graft),
        1 => (0usize..3, 0usize..3).prop_map(|(a, b)| Mutation::Swap(a, b)),
        1 => prop::sample::select(vec![
            ("ES256", "none"), ("ES256", "HS256"), ("ES256", "es256"), ("ES256", "EdDSA"), ("alg", "Alg"),
            ("kid", "kiD"), ("+jwt", "+JWT"), ("{", "{ "),
        ]).prop_map(|(from, to)| Mutation::Header(from, to)),
    ]
}

fn mutated(token: &str, other: &str, mutation: &Mutation) -> String {
    let mut chars: Vec<char> = token.chars().collect();
    let mut parts: Vec<&str> = token.split('.').collect();
    match mutation {
        Mutation::Replace(at, c) => {
            let at = at.index(chars.len());
            chars[at] = *c;
        }
        Mutation::Insert(at, c) => chars.insert(at.index(chars.len() + 1), *c),
        Mutation::Remove(at) => _ = chars.remove(at.index(chars.len())),
        Mutation::Truncate(at) => chars.truncate(at.index(chars.len())),
        Mutation::Graft(at) => {
            parts[*at] = other.split('.').nth(*at).unwrap();
            return parts.join(".");
        }
        Mutation::Swap(a, b) => {
            parts.swap(*a, *b);
            return parts.join(".");
        }
        Mutation::Header(from, to) => {
            use base64::Engine as _;
            let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(parts[0]).unwrap();
            let header = crate::support::b64(String::from_utf8(bytes).unwrap().replacen(from, to, 1));
            parts[0] = &header;
            return parts.join(".");
        }
    }
    chars.into_iter().collect()
}

/// So many changed tokens of each kind; `make fuzz` asks for a million.
fn cases() -> u32 {
    std::env::var("SIGNET_CASES").ok().and_then(|count| count.parse().ok()).unwrap_or(10_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn a_changed_access_token_is_never_accepted(mutation in mutation()) {
        let (issuers, token, other) = &*ACCESS;
        let changed = mutated(token, other, &mutation);
        prop_assert!(changed == *token || changed == *other || issuers.verify(&changed, NOW).is_err());
    }

    #[test]
    fn a_changed_transaction_token_is_never_accepted(mutation in mutation()) {
        let (mesh, token, other) = &*TXN;
        let changed = mutated(token, other, &mutation);
        prop_assert!(changed == *token || changed == *other || mesh.verify(&changed, NOW).is_err());
    }

    #[test]
    fn junk_is_refused_and_never_panics(text in "\\PC{0,200}|[A-Za-z0-9_.-]{0,400}") {
        let (issuers, ..) = &*ACCESS;
        prop_assert!(issuers.verify(&text, NOW).is_err());
        let (mesh, ..) = &*TXN;
        prop_assert!(mesh.verify(&text, NOW).is_err());
    }
}

#[test]
fn the_tokens_that_are_changed_were_good() {
    assert!(ACCESS.0.verify(&ACCESS.1, NOW).is_ok() && ACCESS.0.verify(&ACCESS.2, NOW).is_ok());
    assert!(TXN.0.verify(&TXN.1, NOW).is_ok() && TXN.0.verify(&TXN.2, NOW).is_ok());
}
