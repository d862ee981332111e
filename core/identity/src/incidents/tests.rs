use super::*;
use crate::class::PeerClass;
use crate::testing::{SvidOptions, TestCa};

const NOW: i64 = 1_795_305_600;

fn unknown_root(ca: &TestCa, short: &str) -> HandshakeFailure {
    HandshakeFailure::UnknownRoot {
        domain: ca.trust_domain().clone(),
        received: Received::of(ca.svid_short(short, PeerClass::Sidecar).svid()),
    }
}

fn from(address: &str, failure: &HandshakeFailure, now: i64) -> Failed<'static> {
    let failure: &'static HandshakeFailure = Box::leak(Box::new(failure.clone()));
    let remote = Some(address.parse().unwrap());
    Failed { direction: "inbound", service: "orders.shop", remote, dialled: false, failure, own: None, now }
}

fn bytes(incidents: &Incidents) -> usize {
    serde_json::to_vec(&incidents.report()).unwrap().len()
}

#[test]
fn the_same_peer_with_the_same_failure_is_one_incident() {
    let incidents = Incidents::default();
    for (port, now) in [(1000, 5), (1001, 7), (1002, 9)] {
        incidents.note(from(&format!("10.0.0.7:{port}"), &HandshakeFailure::Plaintext, NOW + now));
    }
    incidents.note(from("10.0.0.8:1", &HandshakeFailure::Plaintext, NOW + 8));
    incidents.note(from("10.0.0.7:1", &HandshakeFailure::NotTls, NOW + 6));
    let report = incidents.report();
    let told: Vec<_> = report
        .failures
        .iter()
        .map(|one| (one.reason, one.peer.as_deref().unwrap(), one.count, one.first_seen.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("plaintext", "10.0.0.7:1002", 3, "2026-11-22T00:00:05Z"),
            ("plaintext", "10.0.0.8:1", 1, "2026-11-22T00:00:08Z"),
            ("not_tls", "10.0.0.7:1", 1, "2026-11-22T00:00:06Z"),
        ]
    );
    assert_eq!(report.failures[0].last_seen, "2026-11-22T00:00:09Z");
    assert_eq!(report.forgotten, 0);
}

#[test]
fn whom_we_dialled_is_told_apart_by_its_port() {
    let incidents = Incidents::default();
    for address in ["10.0.0.7:1", "10.0.0.7:2"] {
        let failed = Failed { dialled: true, ..from(address, &HandshakeFailure::Timeout, NOW) };
        incidents.note(failed);
    }
    assert_eq!(incidents.report().failures.len(), 2);
}

#[test]
fn an_address_that_sends_a_thousand_names_pushes_out_only_its_own() {
    let incidents = Incidents::default();
    let ca = TestCa::new("demo.signet");
    for n in 0..3 {
        incidents.note(from(&format!("10.0.0.{n}:1"), &unknown_root(&ca, "ns/shop/sa/web"), NOW));
    }
    let name = "n".repeat(1500);
    for n in 0..1000 {
        let flood = unknown_root(&ca, &format!("ns/{name}/sa/x{n}"));
        incidents.note(from("192.0.2.1:1", &flood, NOW + n));
        let sni = Some(format!("{n}.{name}.example"));
        incidents.note(from("192.0.2.1:1", &HandshakeFailure::ForeignHello { sni }, NOW + n));
    }
    let report = incidents.report();
    let honest = report.failures.iter().filter(|one| one.peer.as_deref().unwrap().starts_with("10.0.0."));
    assert_eq!(honest.count(), 3);
    let flood = report.failures.iter().filter(|one| one.peer.as_deref() == Some("192.0.2.1:1"));
    assert_eq!(flood.count(), PER_ADDRESS + 1, "names in a hello make no incidents of their own");
    assert_eq!(report.forgotten, 996);
    assert!(bytes(&incidents) < 64 * 1024, "{}", bytes(&incidents));
}

#[test]
fn many_addresses_fill_no_more_than_their_reasons_share() {
    let incidents = Incidents::default();
    let ca = TestCa::new("demo.signet");
    incidents.note(from("10.0.0.1:1", &HandshakeFailure::Plaintext, NOW));
    for n in 0..2000_u32 {
        let address = format!("{}:1", std::net::Ipv4Addr::from(0xC633_6400 + n));
        incidents.note(from(&address, &unknown_root(&ca, "ns/shop/sa/web"), NOW));
    }
    let report = incidents.report();
    assert_eq!(report.failures.len(), PER_REASON + 1);
    assert!(report.failures.iter().any(|one| one.reason == "plaintext"));
    assert_eq!(report.forgotten, 2000 - 8);
}

#[test]
fn what_strangers_say_is_cut_and_escaped() {
    let incidents = Incidents::default();
    let sni = Some(format!("a\u{1b}[2K\r\nb\u{202e}{}", "x".repeat(5000)));
    incidents.note(from("10.0.0.1:1", &HandshakeFailure::ForeignHello { sni }, NOW));
    let why = format!("\u{1b}]0;evil\u{7}{}", "y".repeat(5000));
    incidents.note(from("10.0.0.1:1", &HandshakeFailure::Protocol(why), NOW));
    for one in incidents.report().failures {
        for text in [&one.message, &one.what_to_do] {
            assert!(text.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{text:?}");
            assert!(text.chars().count() < 1100, "{}", text.len());
        }
    }
}

#[test]
fn an_incident_has_both_certificates_and_the_skew() {
    let ca = TestCa::new("demo.signet");
    let own = Own::of(&ca.generation("ns/shop/sa/orders", PeerClass::Sidecar), &RevocationSet::new(0));
    let svid = ca.svid(&ca.id("ns/shop/sa/web"), PeerClass::Sidecar, SvidOptions::default().ends_in(-30));
    let failure = HandshakeFailure::Expired {
        received: Some(Received::of(svid.svid())),
        not_after: NOW - 30,
        now: NOW,
    };
    let incidents = Incidents::default();
    incidents.note(Failed { own: Some(own), ..from("10.0.0.1:1", &failure, NOW) });
    let json = serde_json::to_value(incidents.report()).unwrap();
    let one = &json["failures"][0];
    assert_eq!(one["received"]["identity"], "spiffe://demo.signet/ns/shop/sa/web");
    assert_eq!(one["received"]["class"], "sidecar");
    assert_eq!(one["received"]["notAfter"], "2026-11-21T23:59:30Z");
    assert_eq!((&one["now"], &one["skewSeconds"]), (&"2026-11-22T00:00:00Z".into(), &30.into()));
    assert_eq!(one["own"]["identity"], "spiffe://demo.signet/ns/shop/sa/orders");
    assert_eq!(one["own"]["trusted"][0], "demo.signet");
    let what = one["whatToDo"].as_str().unwrap();
    assert!(what.contains("30 s") && what.contains("clock"), "{what}");
}

#[test]
fn an_alert_is_explained_by_who_we_were() {
    let ca = TestCa::new("demo.signet");
    let own = |options: SvidOptions, revoked: bool| {
        let svid = ca.svid(&ca.id("ns/shop/sa/web"), PeerClass::Sidecar, options);
        let mut set = RevocationSet::new(1);
        if revoked {
            set.serials.insert(svid.svid().serial);
        }
        let options = crate::testing::test_options();
        Own::of(&Generation::build(7, svid, ca.bundles(), options).unwrap(), &set)
    };
    let says = |alert, own: &Own| HandshakeFailure::AlertReceived(alert).what_to_do(Some(own), NOW);
    use rustls::AlertDescription as A;
    let good = says(A::CertificateExpired, &own(SvidOptions::default(), false));
    assert!(good.contains("By our clock it is good, so the two clocks differ by 60 s"), "{good}");
    let late = says(A::CertificateExpired, &own(SvidOptions::default().ends_in(-5), false));
    assert!(late.contains("ended by our own clock") && late.contains("2026-11-21T23:59:55Z"), "{late}");
    let early = says(A::CertificateExpired, &own(SvidOptions::default().begins_in(5), false));
    assert!(early.contains("not begun by our own clock"), "{early}");
    let known = says(A::CertificateRevoked, &own(SvidOptions::default(), true));
    assert!(known.contains("we know it too"), "{known}");
    let untold = says(A::CertificateRevoked, &own(SvidOptions::default(), false));
    assert!(untold.contains("We have not been told"), "{untold}");
}
