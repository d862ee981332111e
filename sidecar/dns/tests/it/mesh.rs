//! Names of the mesh: who is asked about them, who waits, and for how long.

use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use signet_dns::metrics::Outcome;
use signet_model::ExternalService;
use signet_proxy::state::{PlaceSpec, Wanted};

use crate::support::{Pod, Resolver, addresses, ask, over_tcp, query};

#[test]
fn a_service_has_its_virtual_addresses_by_every_name_of_it_and_nobody_else_is_asked() {
    let resolver = Resolver::saying("192.0.2.1");
    let pod = Pod::before(&[resolver.address]);
    pod.knows("orders.shop", &["10.96.0.7", "fd96::7"]);
    pod.knows("mail.office", &["10.96.0.9"]);
    for name in ["orders.", "orders.shop.", "orders.shop.svc.", "Orders.Shop.svc.CLUSTER.local."] {
        assert_eq!(addresses(&ask(&pod, name, RecordType::A)), ["10.96.0.7"], "{name}");
        assert_eq!(addresses(&ask(&pod, name, RecordType::AAAA)), ["fd96::7"], "{name}");
    }
    assert_eq!(addresses(&ask(&pod, "mail.office.svc.cluster.local.", RecordType::A)), ["10.96.0.9"]);
    // A name that is there has no data of another kind, and no resolver may say that it is not there.
    for kind in [RecordType::AAAA, RecordType::HTTPS, RecordType::TXT] {
        let answer = ask(&pod, "mail.office.", kind);
        assert_eq!((answer.response_code, answer.answers.len()), (ResponseCode::NoError, 0), "{kind}");
    }
    assert!(!resolver.was_asked());
    assert_eq!((pod.counted(Outcome::Answered), pod.counted(Outcome::Forwarded)), (12, 0));
    // Another namespace's, and what is below a service, are not meant.
    for name in ["mail.", "db-0.orders.shop.svc.cluster.local.", "orders.shop.shop.svc.cluster.local."] {
        assert_eq!(addresses(&ask(&pod, name, RecordType::A)), ["192.0.2.1"], "{name}");
    }
}

#[test]
fn a_service_without_virtual_addresses_is_what_the_resolvers_say() {
    let resolver = Resolver::saying("10.1.0.5");
    let pod = Pod::before(&[resolver.address]);
    pod.knows("db.shop", &[]);
    assert_eq!(addresses(&ask(&pod, "db.shop.svc.cluster.local.", RecordType::A)), ["10.1.0.5"]);
    assert_eq!(pod.counted(Outcome::Forwarded), 1);
}

#[test]
fn a_service_does_not_stand_in_for_a_listed_place_of_the_world() {
    let resolver = Resolver::saying("192.0.2.1");
    let pod = Pod::before(&[resolver.address]);
    // `shop` is a top-level domain, too.
    pod.knows("acme.shop", &["10.96.0.66"]);
    let document = serde_json::json!({
        "apiVersion": "signet.mesh/v1alpha1",
        "kind": "ExternalService",
        "metadata": {"namespace": "office", "name": "acme"},
        "spec": {"hosts": ["acme.shop"], "ports": [{"name": "https", "port": 443, "protocol": "tls"}]},
    });
    assert_eq!(addresses(&ask(&pod, "acme.shop.", RecordType::A)), ["10.96.0.66"]);
    let place = ExternalService::from_json(&document.to_string()).unwrap();
    let place = PlaceSpec::new(place, None).unwrap();
    pod.state.update_endpoints(|endpoints| endpoints.with_places([("acme.office", Some(place.clone()))]));
    assert_eq!(addresses(&ask(&pod, "Acme.Shop.", RecordType::A)), ["192.0.2.1"]);
    // By a name that can mean nothing else it is what it is.
    assert_eq!(addresses(&ask(&pod, "acme.shop.svc.cluster.local.", RecordType::A)), ["10.96.0.66"]);
}

#[test]
fn a_name_that_is_not_known_yet_is_asked_for_and_answered_when_it_comes() {
    let resolver = Resolver::saying("192.0.2.1");
    let mut pod = Pod::before(&[resolver.address]);
    pod.state.update_endpoints(|endpoints| endpoints.with_namespaces(["shop"]));
    let address = pod.address;
    let asks = std::thread::spawn(move || {
        let packet = query(5, "orders.shop.svc.cluster.local.", RecordType::A).to_vec().unwrap();
        hickory_proto::op::Message::from_vec(&over_tcp(address, &packet).unwrap()).unwrap()
    });
    assert_eq!(pod.wanted.blocking_recv(), Some(Wanted::Name("orders.shop".into())));
    pod.knows("orders.shop", &["10.96.0.7"]);
    assert_eq!(addresses(&asks.join().unwrap()), ["10.96.0.7"]);
    assert!(!resolver.was_asked());
}

#[test]
fn a_name_that_is_refused_is_passed_on_and_remembered() {
    let resolver = Resolver::saying("192.0.2.1");
    let mut pod = Pod::before(&[resolver.address]);
    pod.state.update_endpoints(|endpoints| endpoints.with_namespaces(["shop"]));
    std::thread::scope(|scope| {
        let asks = scope.spawn(|| addresses(&ask_at(pod.address, "nothing.shop.")));
        assert_eq!(pod.wanted.blocking_recv(), Some(Wanted::Name("nothing.shop".into())));
        pod.state.update_endpoints(|endpoints| endpoints.refuse("nothing.shop", "no such service"));
        assert_eq!(asks.join().unwrap(), ["192.0.2.1"]);
    });
    assert_eq!(addresses(&ask(&pod, "nothing.shop.", RecordType::A)), ["192.0.2.1"]);
    assert!(pod.wanted.try_recv().is_err(), "it is not asked for again");
}

fn ask_at(address: std::net::SocketAddr, name: &str) -> hickory_proto::op::Message {
    let packet = query(5, name, RecordType::A).to_vec().unwrap();
    hickory_proto::op::Message::from_vec(&over_tcp(address, &packet).unwrap()).unwrap()
}

#[test]
fn names_of_the_world_are_not_asked_of_the_control_plane() {
    let resolver = Resolver::saying("192.0.2.1");
    let mut pod = Pod::before(&[resolver.address]);
    pod.state.update_endpoints(|endpoints| endpoints.with_namespaces(["shop"]));
    for name in ["example.com.", "www.example.com.", "example.com.svc.cluster.local.", "a.b.shop."] {
        assert_eq!(addresses(&ask(&pod, name, RecordType::A)), ["192.0.2.1"], "{name}");
    }
    assert!(pod.wanted.try_recv().is_err());
}

#[test]
fn a_control_plane_that_says_nothing_costs_a_moment_and_one_that_is_away_nothing() {
    let resolver = Resolver::saying("192.0.2.1");
    let pod = Pod::before(&[resolver.address]);
    pod.state.update_endpoints(|endpoints| endpoints.with_namespaces(["shop"]));
    let took = |name: &str| {
        let began = Instant::now();
        assert_eq!(addresses(&ask(&pod, name, RecordType::A)), ["192.0.2.1"]);
        began.elapsed()
    };
    let (first, second) = (took("orders.shop."), took("orders.shop."));
    assert!(first < Duration::from_millis(1800), "{first:?}");
    assert!(second < Duration::from_millis(500), "it was missed a moment ago: {second:?}");
    pod.state.freshness.lost(0);
    let away = took("stock.shop.");
    assert!(away < Duration::from_millis(500), "{away:?}");
}
