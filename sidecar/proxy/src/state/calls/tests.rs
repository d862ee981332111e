use super::*;
use bytes::BytesMut;
use signet_model::AnyRoute;
use signet_wire::h1::{RequestHead, RequestParser};

fn get(target: &str) -> RequestHead {
    let mut input = BytesMut::from(format!("GET {target} HTTP/1.1\r\nhost: orders\r\n\r\n").as_bytes());
    RequestParser::new(Default::default()).parse(&mut input).unwrap().unwrap()
}

fn calls(routes: &[(&str, &str)]) -> Calls {
    let routes: Vec<_> = routes
        .iter()
        .map(|(name, rules)| {
            let json = format!(
                r#"{{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{{"namespace":"shop","name":"{name}"}},
                    "spec":{{"parentRefs":[{{"kind":"Service","name":"orders"}}],"rules":{rules}}}}}"#
            );
            AnyRoute::from_json(&json).unwrap()
        })
        .collect();
    Calls::compile(&"orders.shop".parse().unwrap(), &routes.into())
}

fn rule(name: &str, path: &str) -> String {
    format!(
        r#"{{"name":"{name}","matches":[{{"path":{{"value":"{path}"}}}}],"backendRefs":[{{"name":"orders","port":80}}]}}"#
    )
}

fn found(calls: &Calls, target: &str) -> String {
    match calls.find("main", 80, RequestView::H1(&get(target))) {
        Found::Rule(rule, _) => rule.name.rsplit('/').next().unwrap().to_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn equal_matches_are_decided_by_the_routes_name_and_then_by_the_rules_place() {
    let (a, b) = (rule("a", "/x"), rule("b", "/x"));
    let calls = calls(&[("zeta", &format!("[{a}]")), ("alpha", &format!("[{b},{}]", rule("c", "/x")))]);
    assert_eq!(found(&calls, "/x"), "b");
}

#[test]
fn prefixes_take_whole_segments_and_the_longest_counts() {
    let calls =
        calls(&[("r", &format!("[{},{},{}]", rule("root", "/"), rule("a", "/a"), rule("ab", "/a/b/")))]);
    for (target, name) in [
        ("/", "root"),
        ("/ab", "root"),
        ("/a", "a"),
        ("/a/", "a"),
        ("/a/bc", "a"),
        ("/a/b", "ab"),
        ("/a/b/c", "ab"),
    ] {
        assert_eq!(found(&calls, target), name, "{target}");
    }
}

#[test]
fn every_backend_gets_exactly_its_share() {
    let rules = r#"[{"backendRefs":[{"name":"a","port":80,"weight":3},{"name":"b","port":80,"weight":0},
                                    {"name":"c","port":80,"weight":2}]}]"#;
    let calls = calls(&[("r", rules)]);
    let Found::Rule(rule, _) = calls.find("main", 80, RequestView::H1(&get("/"))) else { panic!() };
    let order: Vec<_> = (0..rule.total).map(|number| &*rule.backend(number).unwrap().service).collect();
    assert_eq!(order, ["a.shop", "a.shop", "a.shop", "c.shop", "c.shop"]);
    assert!(rule.backend(rule.total).is_none());
}

#[test]
fn parameters_are_compared_as_they_mean() {
    for (query, name, value, is) in [
        ("a=b", "a", "b", true),
        ("a=b&a=c", "a", "c", false),
        ("x&a=b%2Bc", "a", "b+c", true),
        ("a=b+c", "a", "b c", true),
        ("%61=%62", "a", "b", true),
        ("a", "a", "", true),
        ("a=%", "a", "%", false),
        ("a=%ff", "a", "\u{fffd}x", false),
        ("", "a", "", false),
    ] {
        let wanted = [(Box::from(name), Box::from(value))];
        assert_eq!(has_params(Some(query), &wanted), is, "{query}");
    }
    assert!(!has_params(None, &[(Box::from("a"), Box::from("b"))]));
}
