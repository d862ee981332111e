use v1::from_sidecar::Message;
use v1::resource::Body;

use super::*;

fn resource(name: &str, version: &str, body: Body) -> v1::Resource {
    v1::Resource { name: name.to_owned(), version: version.to_owned(), body: Some(body) }
}

fn service(name: &str, version: &str, address: &str) -> v1::Resource {
    let endpoint = v1::Endpoint {
        address: address.to_owned(),
        ports: [("http".to_owned(), 8443)].into(),
        identity: "spiffe://demo.signet/ns/shop/sa/orders".to_owned(),
        ..Default::default()
    };
    let body = v1::Service {
        name: name.to_owned(),
        ports: vec![v1::ServicePort {
            name: "http".to_owned(),
            port: 80,
            protocol: v1::Protocol::Http1.into(),
            ..Default::default()
        }],
        identities: vec!["spiffe://demo.signet/ns/shop/sa/orders".to_owned()],
        endpoints: vec![endpoint],
        ..Default::default()
    };
    resource(&format!("service/{name}"), version, Body::Service(body))
}

fn inbound(version: &str, policy: &str) -> v1::Resource {
    let body = v1::Inbound {
        service: "orders.shop".to_owned(),
        ports: vec![v1::ServicePort {
            name: "http".to_owned(),
            port: 80,
            protocol: v1::Protocol::Http1.into(),
            ..Default::default()
        }],
        policies: vec![v1::PolicyDocument {
            name: "web-to-orders.shop".to_owned(),
            json: policy.to_owned(),
            refused: Vec::new(),
        }],
        ..Default::default()
    };
    resource("inbound/orders.shop", version, Body::Inbound(body))
}

fn delta(nonce: u64, upserts: Vec<v1::Resource>, removed: &[&str]) -> v1::Delta {
    v1::Delta { nonce, upserts, removed: removed.iter().map(|name| (*name).to_owned()).collect(), now: 0 }
}

fn haves(deliveries: &Deliveries) -> Vec<(String, String)> {
    deliveries.haves().into_iter().map(|have| (have.name, have.version)).collect()
}

fn endpoint_of(deliveries: &Deliveries, name: &str) -> Option<String> {
    match deliveries.get(name) {
        Some(Item::Service(service)) => Some(service.spec.endpoints[0].address.to_string()),
        _ => None,
    }
}

#[test]
fn an_endpoint_behind_a_gateway_says_what_it_is_called_there_or_is_not_taken() {
    let behind = |name: &str| {
        let mut service = service("orders.shop", name, "192.0.2.7");
        let Some(Body::Service(body)) = &mut service.body else { panic!() };
        body.endpoints[0].gateway_service = name.to_owned();
        let mut deliveries = Deliveries::new();
        let (_, answer) = deliveries.apply(delta(1, vec![service], &[]));
        match deliveries.get("service/orders.shop") {
            Some(Item::Service(service)) => Ok(service.spec.endpoints[0].behind.clone()),
            _ => Err(format!("{answer:?}")),
        }
    };
    assert_eq!(behind("stock.west").unwrap(), Some("stock.west".parse().unwrap()));
    assert_eq!(behind("").unwrap(), None);
    for bad in ["stock", "stock.west.", "Stock.west"] {
        let refused = behind(bad).unwrap_err();
        assert!(refused.contains("endpoints[0].gateway_service"), "{refused}");
    }
}

#[test]
fn a_delta_is_applied_acknowledged_and_says_what_it_touched() {
    let mut deliveries = Deliveries::new();
    assert!(!deliveries.is_started());
    let mesh = v1::Mesh { trust_domain: "demo.signet".to_owned(), ..Default::default() };
    let (changed, answer) = deliveries.apply(delta(
        7,
        vec![resource("mesh", "m1", Body::Mesh(mesh)), service("orders.shop", "s1", "10.0.0.1")],
        &[],
    ));
    assert_eq!(answer, Message::Ack(v1::Ack { nonce: 7 }));
    assert!(changed.mesh && !changed.bundles && !changed.keys && changed.inbound.is_empty());
    assert_eq!(changed.services.iter().collect::<Vec<_>>(), ["orders.shop"]);
    assert!(deliveries.is_started());

    let (changed, answer) =
        deliveries.apply(delta(8, vec![], &["service/orders.shop", "service/never.here"]));
    assert_eq!(answer, Message::Ack(v1::Ack { nonce: 8 }));
    assert_eq!(changed.services.iter().collect::<Vec<_>>(), ["orders.shop"]);
    assert!(deliveries.get("service/orders.shop").is_none());
}

#[test]
fn what_cannot_be_read_is_named_and_the_rest_is_taken() {
    let mut deliveries = Deliveries::new();
    deliveries.apply(delta(1, vec![service("orders.shop", "s1", "10.0.0.1")], &[]));
    let (changed, answer) = deliveries.apply(delta(
        2,
        vec![service("orders.shop", "s2", "not-an-address"), service("web.shop", "w1", "10.0.0.2")],
        &[],
    ));
    let Message::Nack(nack) = answer else { panic!("expected a nack") };
    assert_eq!(nack.nonce, 2);
    assert_eq!(nack.rejected.len(), 1);
    assert_eq!(nack.rejected[0].name, "service/orders.shop");
    assert!(nack.rejected[0].reason.contains("not-an-address"), "{}", nack.rejected[0].reason);
    assert_eq!(changed.services.iter().collect::<Vec<_>>(), ["web.shop"]);
    // The old one stays, and a new stream says so.
    assert_eq!(endpoint_of(&deliveries, "service/orders.shop").as_deref(), Some("10.0.0.1"));
    assert_eq!(
        haves(&deliveries),
        [
            ("service/orders.shop".to_owned(), "s1".to_owned()),
            ("service/web.shop".to_owned(), "w1".to_owned())
        ]
    );
    assert!(deliveries.rejected().contains_key("service/orders.shop"));

    deliveries.apply(delta(3, vec![service("orders.shop", "s3", "10.0.0.3")], &[]));
    assert!(deliveries.rejected().is_empty());
}

#[test]
fn a_body_of_a_kind_that_we_do_not_know_is_rejected() {
    let mut deliveries = Deliveries::new();
    let unknown = v1::Resource { name: "wasm/x".to_owned(), version: "1".to_owned(), body: None };
    let (changed, answer) = deliveries.apply(delta(1, vec![unknown], &[]));
    assert!(changed.is_empty());
    assert!(matches!(answer, Message::Nack(_)));
}

#[test]
fn a_name_that_its_body_belies_is_rejected() {
    let mut deliveries = Deliveries::new();
    let mut lie = service("orders.shop", "s1", "10.0.0.1");
    lie.name = "service/bank.shop".to_owned();
    let (changed, answer) = deliveries.apply(delta(1, vec![lie], &[]));
    assert!(changed.is_empty() && deliveries.haves().is_empty());
    assert!(matches!(answer, Message::Nack(_)));
}

#[test]
fn a_policy_with_a_field_that_we_do_not_know_is_taken_reported_and_left_to_deny() {
    let mut deliveries = Deliveries::new();
    let policy = r#"{"apiVersion":"signet.mesh/v1alpha1","kind":"MeshPolicy","metadata":{"namespace":"shop","name":"web-to-orders"},"spec":{"effect":"permit","moonPhase":"full"}}"#;
    let (changed, answer) = deliveries.apply(delta(1, vec![inbound("i1", policy)], &[]));
    let Message::Nack(nack) = answer else { panic!("expected a nack") };
    assert_eq!(nack.rejected[0].name, "inbound/orders.shop");
    assert!(nack.rejected[0].reason.contains("moonPhase"), "{}", nack.rejected[0].reason);
    assert!(changed.inbound.contains("orders.shop"));
    // The newer version is the one that counts: the older, laxer one is gone.
    assert_eq!(haves(&deliveries), [("inbound/orders.shop".to_owned(), "i1".to_owned())]);
    let Some(Item::Inbound(held)) = deliveries.get("inbound/orders.shop") else { panic!() };
    assert_eq!(held.policies.len(), 1);
}

#[test]
fn each_unreadable_field_is_told_by_its_name() {
    let cases: Vec<(v1::Resource, &str)> = vec![
        (
            resource(
                "mesh",
                "1",
                Body::Mesh(v1::Mesh { trust_domain: "UPPER".to_owned(), ..Default::default() }),
            ),
            "trust_domain",
        ),
        (
            resource(
                "revocations",
                "1",
                Body::Revocations(v1::Revocations { keys: vec![vec![1, 2]], ..Default::default() }),
            ),
            "keys[0]",
        ),
        (
            resource(
                "revocations",
                "1",
                Body::Revocations(v1::Revocations { identities: vec!["x".to_owned()], ..Default::default() }),
            ),
            "identities[0]",
        ),
        (
            resource(
                "token-roots",
                "1",
                Body::TokenRoots(v1::TokenRoots { jwks: "{".to_owned(), tainted: Vec::new() }),
            ),
            "jwks",
        ),
        (
            resource(
                "revocation-lists",
                "1",
                Body::RevocationLists(v1::RevocationLists { lists_der: vec![vec![1, 2]] }),
            ),
            "lists_der[0]",
        ),
        (
            resource(
                "issuer/a",
                "1",
                Body::Issuer(v1::Issuer { alias: "a".to_owned(), ..Default::default() }),
            ),
            "issuer",
        ),
        (
            resource(
                "bundle/demo.signet",
                "1",
                Body::Bundle(v1::TrustBundle {
                    trust_domain: "demo.signet".to_owned(),
                    ..Default::default()
                }),
            ),
            "demo.signet",
        ),
    ];
    for (resource, word) in cases {
        let name = resource.name.clone();
        let (_, answer) = Deliveries::new().apply(delta(1, vec![resource], &[]));
        let Message::Nack(nack) = answer else { panic!("{name}: expected a nack") };
        assert!(nack.rejected[0].reason.contains(word), "{name}: {}", nack.rejected[0].reason);
    }
}

#[test]
fn a_set_with_a_kind_of_a_later_version_is_taken_whole_and_no_user_is_believed_while_it_stands() {
    let set = |sequence: u64, others: Vec<v1::OtherRevocation>| {
        let identities = vec!["spiffe://demo.signet/ns/shop/sa/web".to_owned()];
        let body = v1::Revocations { sequence, identities, others, ..Default::default() };
        resource("revocations", &sequence.to_string(), Body::Revocations(body))
    };
    let other = |if_unknown: i32| v1::OtherRevocation {
        kind: "api-key".into(),
        value: b"orders".to_vec(),
        if_unknown,
        issued_until: 0,
    };
    let unenforced = |deliveries: &Deliveries| match deliveries.get("revocations") {
        Some(Item::Revocations(revocations)) => {
            assert_eq!(revocations.peers.identities.len(), 1, "the kinds that are known are in force");
            revocations.unenforced()
        }
        _ => panic!("the set is taken"),
    };
    let mut deliveries = Deliveries::new();
    let (changed, answer) = deliveries.apply(delta(1, vec![set(1, vec![other(0)])], &[]));
    assert!(changed.revocations && unenforced(&deliveries).unwrap().contains("api-key"));
    assert!(matches!(answer, Message::Nack(nack) if nack.rejected[0].reason.contains("no user context")));
    // What to do with it may be new as well.
    deliveries.apply(delta(2, vec![set(2, vec![other(77)])], &[]));
    assert!(unenforced(&deliveries).is_some());
    // Others enforce it.
    let (_, answer) = deliveries.apply(delta(3, vec![set(3, vec![other(v1::IfUnknown::Carry.into())])], &[]));
    assert_eq!((unenforced(&deliveries), matches!(answer, Message::Ack(_))), (None, true));
    assert!(deliveries.rejected().is_empty());
}

#[test]
fn revoked_users_are_told_from_others_and_what_cannot_be_read_refuses_all() {
    let other = |kind: &str, value: &[u8], issued_until: i64| v1::OtherRevocation {
        kind: kind.into(),
        value: value.to_vec(),
        if_unknown: 0,
        issued_until,
    };
    let taken = |others: Vec<v1::OtherRevocation>| {
        let body = v1::Revocations { sequence: 1, others, ..Default::default() };
        let mut deliveries = Deliveries::new();
        deliveries.apply(delta(1, vec![resource("revocations", "1", Body::Revocations(body))], &[]));
        match deliveries.get("revocations") {
            Some(Item::Revocations(revocations)) => ((*revocations.users).clone(), revocations.unenforced()),
            _ => panic!("the set is taken"),
        }
    };
    let (users, unenforced) = taken(vec![
        other("logout", b"idp|alice", 7),
        other("session", b"idp|s", 0),
        other("token", b"idp|t", 0),
        other("user", b"idp|bob", 0),
    ]);
    assert_eq!((users.users.len(), users.sessions.len(), users.tokens.len()), (1, 1, 1));
    assert_eq!((users.logouts.get("idp|alice"), unenforced), (Some(&7), None));
    // No name, no text, no date, or one that a later version may mean something by.
    let odd: [(&str, &[u8], i64); 6] = [
        ("user", b"alice", 0),
        ("user", b"idp|\xff", 0),
        ("logout", b"idp|alice", 0),
        ("logout", b"idp|alice", -1),
        ("user", b"idp|alice", 7),
        ("session", b"", 0),
    ];
    for (kind, value, until) in odd {
        let (users, unenforced) = taken(vec![other(kind, value, until)]);
        assert!(
            users.is_empty() && unenforced.is_some_and(|why| why.contains(kind)),
            "{kind} {value:?} {until}"
        );
    }
}

#[test]
fn a_port_is_permissive_until_the_second_that_is_said_and_strict_where_none_is() {
    for (said, until) in [(0, None), (1_801_418_400, Some(1_801_418_400)), (-1, None)] {
        let mut resource = inbound("i1", "{}");
        let Some(Body::Inbound(body)) = &mut resource.body else { panic!() };
        body.ports[0].permissive_until = said;
        body.policies.clear();
        let mut deliveries = Deliveries::new();
        deliveries.apply(delta(1, vec![resource], &[]));
        let Some(Item::Inbound(held)) = deliveries.get("inbound/orders.shop") else { panic!() };
        assert_eq!(held.ports[0].permissive_until, until);
    }
}

#[test]
fn a_provider_that_cannot_be_read_is_taken_as_such_and_named() {
    let provider = |version: &str, spec: &str| {
        let json = format!(
            r#"{{"apiVersion":"signet.mesh/v1alpha1","kind":"AuthorizationProvider","metadata":{{"namespace":"shop","name":"asked"}},"spec":{spec}}}"#
        );
        resource(
            "provider/asked.shop",
            version,
            Body::Provider(v1::Provider { name: "asked.shop".to_owned(), json }),
        )
    };
    let mut deliveries = Deliveries::new();
    let (changed, answer) =
        deliveries.apply(delta(1, vec![provider("1", r#"{"local":"127.0.0.1:9191"}"#)], &[]));
    assert_eq!(answer, Message::Ack(v1::Ack { nonce: 1 }));
    assert_eq!(changed.providers.iter().collect::<Vec<_>>(), ["asked.shop"]);
    assert!(
        matches!(deliveries.get("provider/asked.shop"), Some(Item::Provider(asked)) if asked.provider.is_ok())
    );
    // The older one does not go on being asked.
    let newer = provider("2", r#"{"local":"127.0.0.1:9191","stricter":true}"#);
    let (changed, answer) = deliveries.apply(delta(2, vec![newer], &[]));
    let Message::Nack(nack) = answer else { panic!("expected a nack") };
    assert!(
        nack.rejected[0].reason.contains("what it would be asked about is refused"),
        "{:?}",
        nack.rejected
    );
    assert_eq!(changed.providers.len(), 1);
    assert!(
        matches!(deliveries.get("provider/asked.shop"), Some(Item::Provider(asked)) if asked.provider.is_err())
    );
}

#[test]
fn names_for_users_that_mean_something_else_are_refused_with_their_service() {
    let mut deliveries = Deliveries::new();
    let with = |version: &str, header: &str| {
        let mut told = inbound(version, r#"{"spec":{}}"#);
        if let Some(Body::Inbound(body)) = &mut told.body {
            body.policies.clear();
            body.ports[0].user_headers = Some(v1::UserHeaders {
                header: header.to_owned(),
                claims: [("x-groups".to_owned(), "groups".to_owned())].into(),
            });
        }
        told
    };
    let (_, answer) = deliveries.apply(delta(1, vec![with("1", "x-jwt-payload")], &[]));
    assert_eq!(answer, Message::Ack(v1::Ack { nonce: 1 }));
    let Some(Item::Inbound(read)) = deliveries.get("inbound/orders.shop") else { panic!("an inbound") };
    assert_eq!(read.ports[0].user_headers.names().collect::<Vec<_>>(), ["x-jwt-payload", "x-groups"]);
    let (_, answer) = deliveries.apply(delta(2, vec![with("2", "host")], &[]));
    let Message::Nack(nack) = answer else { panic!("expected a nack") };
    assert!(nack.rejected[0].reason.contains("expected another header than `host`"), "{:?}", nack.rejected);
}
