//! Path and host canon.

use bytes::Bytes;
use proptest::prelude::*;
use signet_wire::canon::{Host, HostError, PathError, Target, path};

#[test]
fn canonical_paths_pass_untouched() {
    for text in [
        "/",
        "/a",
        "/a/",
        "/a.b/..c/...",
        "/a;v=1/b",
        "/@:!$&'()*+,;=~-_",
        "/%E4%BD%A0",
        "/[slug]|^",
        "/%40%3B",
        "/%2525",
    ] {
        assert_eq!(path(text.as_bytes()).unwrap(), text);
    }
}

#[test]
fn equivalent_spellings_become_one() {
    for (text, expected) in [
        ("/%61dmin", "/admin"),
        ("/%7euser", "/~user"),
        ("/%e4%bd%a0", "/%E4%BD%A0"),
        ("/a%2db%3a", "/a-b%3A"),
    ] {
        assert_eq!(path(text.as_bytes()).unwrap(), expected);
    }
}

#[test]
fn whatever_two_readers_could_understand_differently_is_refused() {
    for (text, error) in [
        ("", PathError::NoLeadingSlash),
        ("a", PathError::NoLeadingSlash),
        ("*", PathError::NoLeadingSlash),
        ("//", PathError::EmptySegment),
        ("/a//b", PathError::EmptySegment),
        ("/.", PathError::DotSegment),
        ("/a/./b", PathError::DotSegment),
        ("/a/..", PathError::DotSegment),
        ("/..;/b", PathError::DotSegment),
        ("/..;x=1", PathError::DotSegment),
        ("/..%3bx", PathError::DotSegment),
        ("/.;/b", PathError::DotSegment),
        ("/%2e%2E/b", PathError::DotSegment),
        ("/.%2e", PathError::DotSegment),
        ("/a%2fb", PathError::EncodedSlash),
        ("/a%2Fb", PathError::EncodedSlash),
        ("/a\\b", PathError::Backslash),
        ("/a%5cb", PathError::Backslash),
        ("/a%00", PathError::EncodedControl),
        ("/a%0a", PathError::EncodedControl),
        ("/a%7f", PathError::EncodedControl),
        ("/a%", PathError::BadTriplet),
        ("/a%2", PathError::BadTriplet),
        ("/a%zz", PathError::BadTriplet),
        ("/a%+1", PathError::BadTriplet),
        ("/%c0%af", PathError::NotUtf8),
        ("/%e9", PathError::NotUtf8),
        ("/a#b", PathError::Fragment),
        ("/é", PathError::NonAscii),
        ("/a b", PathError::InvalidCharacter),
        ("/a\"", PathError::InvalidCharacter),
        ("/{a}", PathError::InvalidCharacter),
        ("/a\t", PathError::InvalidCharacter),
    ] {
        assert_eq!(path(text.as_bytes()), Err(error), "{text}");
    }
}

#[test]
fn the_query_passes_as_it_is() {
    let target = Target::new(Bytes::from_static(b"/%61?x=//../%zz&y=%2f?")).unwrap();
    assert_eq!(
        (target.as_str(), target.path(), target.query()),
        ("/a?x=//../%zz&y=%2f?", "/a", Some("x=//../%zz&y=%2f?"))
    );
    assert_eq!(Target::new(Bytes::from_static(b"/a?")).unwrap().query(), Some(""));
    assert_eq!(Target::new(Bytes::from_static(b"/a")).unwrap().query(), None);
    for (text, error) in
        [("/?a#b", PathError::Fragment), ("/?a b", PathError::InvalidCharacter), ("/?é", PathError::NonAscii)]
    {
        assert_eq!(Target::new(Bytes::from_static(text.as_bytes())), Err(error));
    }
}

#[test]
fn hosts_have_one_spelling() {
    for (text, expected) in [
        ("Shop.Example", "shop.example"),
        ("shop.example.", "shop.example"),
        ("SHOP.:8080", "shop:8080"),
        ("a_b-c:080", "a_b-c:80"),
        ("10.0.0.1:1", "10.0.0.1:1"),
        ("[2001:DB8:0::1]:443", "[2001:db8::1]:443"),
        ("[::1]", "[::1]"),
    ] {
        let host = Host::new(&Bytes::from_static(text.as_bytes())).unwrap();
        assert_eq!(host.to_string(), expected);
        let again = Host::new(&Bytes::from(expected.to_owned())).unwrap();
        assert_eq!(again, host);
    }
}

#[test]
fn what_is_no_host_is_refused() {
    for (text, error) in [
        ("", HostError::Empty),
        (".", HostError::Name),
        ("a..b", HostError::Name),
        (".a", HostError::Name),
        ("a..", HostError::Name),
        ("a/b", HostError::Name),
        ("a%62", HostError::Name),
        ("é", HostError::Name),
        ("a:b", HostError::Port),
        ("a:", HostError::Port),
        ("a:1:2", HostError::Port),
        ("a:65536", HostError::Port),
        ("a:0", HostError::Port),
        ("u@a", HostError::UserInfo),
        ("[::1", HostError::Ipv6),
        ("[::1]x", HostError::Ipv6),
        ("[fe80::1%eth0]", HostError::Ipv6),
        ("[]", HostError::Ipv6),
        ("::1", HostError::Port),
    ] {
        assert_eq!(Host::new(&Bytes::from_static(text.as_bytes())), Err(error), "{text}");
    }
    assert_eq!(Host::new(&Bytes::from("a".repeat(64))), Err(HostError::Name));
    assert_eq!(Host::new(&Bytes::from("a.".repeat(127) + "aa")), Err(HostError::Name));
}

proptest! {
    #[test]
    fn the_canon_is_its_own_canon_and_hides_nothing(text in "(/|[a-c.;%2fFeE5cC~\\\\]|%2e|%61|%C3%A4){0,20}") {
        if let Ok(canonical) = path(text.as_bytes()) {
            prop_assert_eq!(path(canonical.as_bytes()).unwrap(), canonical.clone());
            let lower = canonical.to_ascii_lowercase();
            for hidden in ["//", "/../", "/./", "%2e", "%2f", "%5c", "\\", "%61"] {
                prop_assert!(!lower.contains(hidden), "{} in {}", hidden, canonical);
            }
        }
    }

    #[test]
    fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = path(&bytes);
        let _ = Target::new(Bytes::from(bytes.clone()));
        let _ = Host::new(&Bytes::from(bytes));
    }
}
