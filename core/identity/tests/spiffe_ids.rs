//! SPIFFE IDs made by the standard's grammar, and nearly so, judged by the parser and by a second reader
//! written here from the standard (SPIFFE-ID, sections 2.1 to 2.4) in another way: character by character,
//! as a machine of states.

use proptest::prelude::*;
use signet_identity::{SpiffeId, TrustDomain};

/// The second reader: trust domain and path, or nothing.
fn read(text: &[u8]) -> Option<(String, String)> {
    #[derive(PartialEq)]
    enum At {
        Domain,
        /// Behind a slash; how long the segment is and whether it is dots alone.
        Segment {
            length: usize,
            dots: bool,
        },
    }
    // 2.3: at most 2048 bytes. 2.1: the scheme; what follows `//` is the authority.
    if text.len() > 2048 || !text.starts_with(b"spiffe://") {
        return None;
    }
    let (mut domain, mut path) = (String::new(), String::new());
    let mut at = At::Domain;
    let ends_well = |length: usize, dots: bool| length > 0 && !(dots && length <= 2);
    for byte in &text[9..] {
        let letter = char::from(*byte);
        at = match (at, letter) {
            (At::Domain, '/') => At::Segment { length: 0, dots: true },
            // 2.1: lower case, digits, dots, dashes and underscores; no user, port or percent.
            (At::Domain, 'a'..='z' | '0'..='9' | '.' | '-' | '_') => {
                domain.push(letter);
                At::Domain
            }
            // 2.2: no empty segment, no relative one.
            (At::Segment { length, dots }, '/') if ends_well(length, dots) => {
                At::Segment { length: 0, dots: true }
            }
            (At::Segment { length, dots }, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_') => {
                At::Segment { length: length + 1, dots: dots && letter == '.' }
            }
            _ => return None,
        };
        if at != At::Domain {
            path.push(letter);
        }
    }
    match at {
        At::Segment { length, dots } if !ends_well(length, dots) => return None,
        _ => {}
    }
    // 2.3: a trust domain has 1 to 255 bytes.
    (1..=255).contains(&domain.len()).then_some((domain, path))
}

fn agree(text: &[u8]) -> Result<(), TestCaseError> {
    let (parsed, expected) = (SpiffeId::parse(text), read(text));
    prop_assert_eq!(parsed.is_ok(), expected.is_some(), "{}", text.escape_ascii());
    if let (Ok(id), Some((domain, path))) = (parsed, expected) {
        prop_assert_eq!(id.trust_domain().as_str(), domain);
        prop_assert_eq!(id.path(), path.as_str());
        prop_assert_eq!(id.as_str().as_bytes(), text);
        prop_assert_eq!(id.is_root(), path.is_empty());
    }
    Ok(())
}

/// IDs by the grammar, up to and past every limit of length.
fn valid() -> impl Strategy<Value = String> {
    let domain = prop_oneof!["[a-z0-9._-]{1,30}", "[a-z0-9._-]{250,255}"];
    let segment = prop_oneof!["[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,20}", "\\.{3,5}", "[a-zA-Z0-9]{200,300}"];
    (domain, proptest::collection::vec(segment, 0..6)).prop_map(|(domain, segments)| {
        let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
        format!("spiffe://{domain}{path}")
    })
}

/// What breaks one: characters that URL libraries normalise, limits, relative segments, other schemes.
fn breakage() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "/", "//", "/.", "/..", "/./", "/../", "%2e", "%2F", "?", "#", "@", ":", ":443", "\\", " ", "\t",
        "\0", "\u{e9}", "\u{0430}", "A", "*", "~", "!", "$", "&", "'", "(", ")", "+", ",", ";", "=", "[",
        "]",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_grammar_makes_is_accepted_within_the_limits(text in valid()) {
        prop_assert_eq!(SpiffeId::parse(&text).is_ok(), text.len() <= 2048, "{}", text);
        agree(text.as_bytes())?;
    }

    #[test]
    fn a_broken_id_is_judged_the_same_by_both(
        text in valid(), wedge in breakage(), at in any::<prop::sample::Index>(), replace in any::<bool>(),
    ) {
        let mut bytes = text.into_bytes();
        let at = at.index(bytes.len());
        let end = if replace { (at + wedge.len()).min(bytes.len()) } else { at };
        bytes.splice(at..end, wedge.bytes());
        agree(&bytes)?;
    }

    #[test]
    fn any_byte_anywhere_is_judged_the_same_by_both(
        text in valid(), edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = text.into_bytes();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        agree(&bytes)?;
    }

    #[test]
    fn a_trust_domain_is_exactly_what_may_stand_in_an_id(name in "[a-zA-Z0-9._:@%/ -]{0,20}") {
        let in_an_id = read(format!("spiffe://{name}").as_bytes()).is_some_and(|(domain, _)| domain == name);
        prop_assert_eq!(TrustDomain::parse(&name).is_ok(), in_an_id);
    }
}

#[test]
fn the_limits_of_length_are_exact_in_both() {
    for (domain, path) in [(255, 0), (256, 0), (255, 2048 - 9 - 255), (255, 2048 - 9 - 255 + 1), (0, 5)] {
        let mut text = format!("spiffe://{}", "d".repeat(domain));
        if path > 0 {
            text = format!("{text}/{}", "p".repeat(path - 1));
        }
        agree(text.as_bytes()).unwrap();
    }
}
