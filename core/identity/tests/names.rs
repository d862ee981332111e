//! SPIFFE IDs, trust domains, serials, classes and server names.

use std::collections::HashSet;

use proptest::prelude::*;
use signet_identity::{
    ClassSet, KeyId, PeerClass, Serial, SpiffeId, SpiffeIdError, TrustDomain, server_name, service_dns_name,
};

fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

#[test]
fn a_workload_id_names_its_namespace_and_service_account() {
    let id = SpiffeId::workload(&domain("demo.signet"), "shop", "web").unwrap();
    assert_eq!(id.as_str(), "spiffe://demo.signet/ns/shop/sa/web");
    assert_eq!((id.namespace(), id.service_account()), (Some("shop"), Some("web")));
    assert_eq!(id.short(), "ns/shop/sa/web");
    assert_eq!(id.path(), "/ns/shop/sa/web");
    assert_eq!(id.trust_domain().as_str(), "demo.signet");
    assert!(id.is_in(&domain("demo.signet")) && !id.is_in(&domain("demo.signe")));
    assert_eq!(SpiffeId::from_short(&domain("demo.signet"), id.short()).unwrap(), id);
}

#[test]
fn an_id_of_another_shape_has_no_namespace() {
    for text in [
        "spiffe://td",
        "spiffe://td/ns/a",
        "spiffe://td/ns/a/sa/b/c",
        "spiffe://td/x/a/sa/b",
        "spiffe://td/ns/a/SA/b",
    ] {
        let id: SpiffeId = text.parse().unwrap();
        assert_eq!((id.namespace(), id.service_account()), (None, None), "{text}");
    }
    assert!("spiffe://td".parse::<SpiffeId>().unwrap().is_root());
}

#[test]
fn what_a_url_library_would_accept_is_refused() {
    use SpiffeIdError as E;
    let refused = |text: &str| SpiffeId::parse(text).unwrap_err();
    for text in [
        "",
        "spiffe:/td/a",
        "SPIFFE://td/a",
        "Spiffe://td/a",
        "https://td/a",
        " spiffe://td/a",
        "spiffe:td/a",
    ] {
        assert_eq!(refused(text), E::Scheme, "{text:?}");
    }
    assert_eq!(refused("spiffe://"), E::EmptyTrustDomain);
    assert_eq!(refused("spiffe:///ns/a"), E::EmptyTrustDomain);
    for text in [
        "spiffe://TD/a",
        "spiffe://td:443/a",
        "spiffe://u@td/a",
        "spiffe://td%2e/a",
        "spiffe://td?q",
        "spiffe://td#f",
        "spiffe://t\u{e9}/a",
    ] {
        assert!(matches!(refused(text), E::TrustDomainCharacter(_)), "{text:?}");
    }
    for text in ["spiffe://td/", "spiffe://td/a/", "spiffe://td//a", "spiffe://td/a//b"] {
        assert_eq!(refused(text), E::EmptySegment, "{text:?}");
    }
    for text in ["spiffe://td/.", "spiffe://td/a/../b", "spiffe://td/./b"] {
        assert_eq!(refused(text), E::DotSegment, "{text:?}");
    }
    for text in [
        "spiffe://td/a%2fb",
        "spiffe://td/a?b",
        "spiffe://td/a#b",
        "spiffe://td/a b",
        "spiffe://td/a\n",
        "spiffe://td/\u{e9}",
        "spiffe://td/a:b",
        "spiffe://td/a\0",
    ] {
        assert!(matches!(refused(text), E::PathCharacter(_)), "{text:?}");
    }
    assert!(SpiffeId::parse("spiffe://td/...").is_ok(), "three dots are a name");
}

#[test]
fn the_lengths_of_the_standard_are_kept() {
    let long = "a".repeat(255);
    assert!(SpiffeId::parse(format!("spiffe://{long}/x")).is_ok());
    assert_eq!(SpiffeId::parse(format!("spiffe://{long}a/x")), Err(SpiffeIdError::TrustDomainTooLong(256)));
    let path = "p".repeat(2048 - "spiffe://td/".len());
    assert!(SpiffeId::parse(format!("spiffe://td/{path}")).is_ok());
    assert_eq!(SpiffeId::parse(format!("spiffe://td/{path}p")), Err(SpiffeIdError::TooLong(2049)));
}

#[test]
fn a_namespace_or_account_cannot_smuggle_in_a_path() {
    let td = domain("td");
    for bad in ["", ".", "..", "a/b", "a/sa/b", "a b", "*"] {
        assert!(SpiffeId::workload(&td, bad, "web").is_err(), "{bad:?}");
        assert!(SpiffeId::workload(&td, "shop", bad).is_err(), "{bad:?}");
    }
}

#[test]
fn ids_read_back_from_json_are_checked() {
    let id: SpiffeId = serde_json::from_str("\"spiffe://td/ns/a/sa/b\"").unwrap();
    assert_eq!(serde_json::to_string(&id).unwrap(), "\"spiffe://td/ns/a/sa/b\"");
    assert!(serde_json::from_str::<SpiffeId>("\"spiffe://td/../b\"").is_err());
    assert!(serde_json::from_str::<TrustDomain>("\"Td\"").is_err());
}

/// A plain restatement of the standard, to compare the parser with.
fn is_valid(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Some(rest) = text.strip_prefix("spiffe://") else { return false };
    let (td, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    bytes.len() <= 2048
        && (1..=255).contains(&td.len())
        && td.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c))
        && path.split('/').skip(1).all(|s| {
            !matches!(s, "" | "." | "..") && s.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
        })
}

proptest! {
    #[test]
    fn any_bytes_are_judged_by_the_standard(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        prop_assert_eq!(SpiffeId::parse(&bytes).is_ok(), is_valid(&bytes));
    }

    #[test]
    fn nearly_valid_ids_are_judged_by_the_standard(tail in "[a-zA-Z0-9./_:%@?# -]{0,40}") {
        let text = format!("spiffe://{tail}");
        let parsed = SpiffeId::parse(&text);
        prop_assert_eq!(parsed.is_ok(), is_valid(text.as_bytes()));
        if let Ok(id) = parsed {
            prop_assert_eq!(id.to_string(), text.clone());
            prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
        }
    }

    #[test]
    fn a_workload_id_reads_back_as_itself(td in "[a-z0-9._-]{1,40}", ns in "[A-Za-z0-9_-]{1,20}", sa in "[A-Za-z0-9_-]{1,20}") {
        let id = SpiffeId::workload(&domain(&td), &ns, &sa).unwrap();
        prop_assert_eq!(id.namespace(), Some(ns.as_str()));
        prop_assert_eq!(id.service_account(), Some(sa.as_str()));
        prop_assert_eq!(id.to_string().parse::<SpiffeId>().unwrap(), id);
    }

    #[test]
    fn a_serial_reads_back_as_itself(bytes in proptest::collection::vec(any::<u8>(), 0..24)) {
        match Serial::from_bytes(&bytes) {
            Ok(serial) => {
                prop_assert_eq!(serial.to_string().parse::<Serial>().unwrap(), serial);
                prop_assert!(!serial.as_bytes().is_empty() && serial.as_bytes()[0] != 0);
            }
            Err(_) => {
                let number: Vec<_> = bytes.iter().skip_while(|b| **b == 0).collect();
                prop_assert!(number.is_empty() || number.len() > 20);
            }
        }
    }
}

#[test]
fn a_fresh_serial_is_positive_and_sixteen_bytes_wherever_it_is_written() {
    let mut seen = HashSet::new();
    for _ in 0..1000 {
        let serial = Serial::fresh().unwrap();
        assert_eq!(serial.as_bytes().len(), 16);
        assert!(matches!(serial.as_bytes()[0], 0x40..=0x7f));
        assert_eq!(serial.to_string().len(), 32);
        assert!(seen.insert(serial));
    }
}

#[test]
fn a_negative_or_zero_serial_is_refused() {
    assert!(Serial::from_der_integer(&[0x80]).is_err());
    assert!(Serial::from_der_integer(&[0, 0]).is_err());
    assert!(Serial::from_der_integer(&[]).is_err());
    assert!(
        "0g".parse::<Serial>().is_err()
            && "+1".parse::<Serial>().is_err()
            && "abc".parse::<Serial>().is_err()
    );
    let signed = Serial::from_der_integer(&[0, 0x80]).unwrap();
    assert_eq!(signed.to_string(), "80");
}

#[test]
fn every_class_has_its_own_policy_and_word() {
    let policies: HashSet<_> = PeerClass::ALL.into_iter().map(PeerClass::policies_der).collect();
    assert_eq!(policies.len(), 6);
    for class in PeerClass::ALL {
        assert_eq!(class.to_string().parse::<PeerClass>().unwrap(), class);
        assert_eq!(serde_json::to_string(&class).unwrap(), format!("\"{class}\""));
    }
    assert!("Sidecar".parse::<PeerClass>().is_err());
    assert!(!ClassSet::DATA_PLANE.contains(PeerClass::Operator));
    assert_eq!(ClassSet::DATA_PLANE.to_string(), "sidecar or gateway or workload");
}

#[test]
fn a_server_name_is_the_digest_of_the_whole_id() {
    let id: SpiffeId = "spiffe://demo.signet/ns/shop/sa/web".parse().unwrap();
    // From: printf 'spiffe://demo.signet/ns/shop/sa/web' | openssl dgst -sha256 -binary | base32 | tr -d = | tr A-Z a-z
    assert_eq!(
        server_name(&id).to_str(),
        "hruz2w2yumz7jhnqex7rlxfujcfsrbolyd756nmnyni3tvv56qvq.id.signet.internal"
    );
    let other: SpiffeId = "spiffe://demo.signet/ns/shop/sa/web2".parse().unwrap();
    assert_ne!(server_name(&id), server_name(&other));
    assert_eq!(service_dns_name("orders", "shop"), "orders.shop.signet.internal");
}

#[test]
fn a_key_id_reads_back_from_hex() {
    let id = KeyId::of(b"key");
    assert_eq!(id.to_string().parse::<KeyId>().unwrap(), id);
    assert!("00".parse::<KeyId>().is_err());
}
