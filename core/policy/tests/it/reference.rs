//! The compiled matcher against a slow reading of the same documents that is plainly right, and
//! independence of order.

use crate::common::{doc, own};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::RngSeed;
use serde_json::{Map, Value, json};
use signet_identity::{PeerClass, SpiffeId};
use signet_model::Protocol;
use signet_policy::{Answer, Basis, Context, Facts, PolicySet, User};

// ---- the reference: no index, no types, one rule per function --------------------------------------

/// `Some(true)`, `Some(false)`, or `None` where there is nothing to compare.
type Truth = Option<bool>;

fn all(parts: impl IntoIterator<Item = Truth>) -> Truth {
    let parts: Vec<Truth> = parts.into_iter().collect();
    if parts.contains(&Some(false)) {
        Some(false)
    } else if parts.contains(&None) {
        None
    } else {
        Some(true)
    }
}

fn texts(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .map(|items| items.iter().map(|item| item.as_str().unwrap()).collect())
        .unwrap_or_default()
}

fn template_takes(template: &str, path: &str) -> bool {
    let wanted: Vec<&str> = template.split('/').collect();
    let had: Vec<&str> = path.split('/').collect();
    let tail = wanted.last().unwrap().ends_with("=**}");
    let fixed = if tail { &wanted[..wanted.len() - 1] } else { &wanted[..] };
    let length = if tail { had.len() >= wanted.len() } else { had.len() == wanted.len() };
    length && fixed.iter().zip(&had).all(|(w, h)| if w.starts_with('{') { !h.is_empty() } else { w == h })
}

/// Without path parameters.
fn bare(path: &str) -> String {
    path.split('/').map(|segment| segment.split(';').next().unwrap()).collect::<Vec<_>>().join("/")
}

fn grpc_takes(pattern: &str, method: &str) -> bool {
    match pattern.strip_suffix("/*") {
        Some(service) => {
            method.split('/').collect::<Vec<_>>().len() == 2
                && method.split('/').next() == Some(service)
                && !method.ends_with('/')
        }
        None => pattern == method,
    }
}

fn from_truth(spec: &Value, facts: &Facts<'_>) -> Truth {
    let is_own = facts.peer.as_str().starts_with("spiffe://demo.signet/");
    if spec["from"].is_null() {
        return Some(is_own || spec["effect"] == "forbid");
    }
    // Short forms speak of the mesh's own trust domain, whole IDs of the others.
    Some(texts(&spec["from"]["workloads"]).iter().any(|pattern| {
        let whole = match pattern.starts_with("spiffe://") {
            true => (*pattern).to_owned(),
            false => format!("spiffe://demo.signet/{pattern}"),
        };
        match whole.strip_suffix('*') {
            Some(prefix) => facts
                .peer
                .as_str()
                .strip_prefix(prefix)
                .is_some_and(|rest| !rest.contains('/') && !rest.is_empty()),
            None => whole == facts.peer.as_str(),
        }
    }))
}

fn to_truth(spec: &Value, facts: &Facts<'_>) -> Truth {
    let to = &spec["to"];
    let (ports, methods, paths, grpc) =
        (texts(&to["ports"]), texts(&to["methods"]), texts(&to["paths"]), texts(&to["grpc"]));
    let port = Some(ports.is_empty() || ports.contains(&facts.port));
    let method = if methods.is_empty() { Some(true) } else { facts.method.map(|m| methods.contains(&m)) };
    let path = if paths.is_empty() {
        Some(true)
    } else {
        facts.path.map(|p| {
            paths
                .iter()
                .any(|t| template_takes(t, p) || (spec["effect"] == "forbid" && template_takes(t, &bare(p))))
        })
    };
    let call = match (facts.grpc, facts.path) {
        (Some(method), _) => Some(grpc.iter().any(|p| grpc_takes(p, method))),
        (None, Some(path)) => {
            Some(spec["effect"] == "forbid" && grpc.iter().any(|p| grpc_takes(p, &path[1..])))
        }
        (None, None) => None,
    };
    let has_http = !methods.is_empty() || !paths.is_empty();
    let request = match (has_http, !grpc.is_empty()) {
        (false, false) => Some(true),
        (true, false) => all([method, path]),
        (false, true) => call,
        (true, true) => match (all([method, path]), call) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            _ => None,
        },
    };
    all([port, request])
}

fn claim_truth(wanted: &Value, had: Option<&Value>) -> Truth {
    let had: Vec<&str> = match had? {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().map(Value::as_str).collect::<Option<_>>()?,
        _ => return None,
    };
    let any_of = texts(&wanted["anyOf"]);
    let all_of = texts(&wanted["allOf"]);
    Some(
        (any_of.is_empty() || any_of.iter().any(|value| had.contains(value)))
            && all_of.iter().all(|value| had.contains(value))
            && wanted["equals"]
                .as_str()
                .is_none_or(|value| !had.is_empty() && had.iter().all(|item| *item == value)),
    )
}

fn user_truth(spec: &Value, facts: &Facts<'_>) -> Truth {
    let wanted = &spec["user"];
    if wanted.is_null() || wanted["required"] == false {
        return Some(true);
    }
    let user = facts.user?;
    let mut context = texts(&wanted["context"]);
    if context.is_empty() {
        context = if spec["effect"] == "permit" { vec!["forwarded"] } else { vec!["forwarded", "attached"] };
    }
    let is = if user.context == Context::Attached { "attached" } else { "forwarded" };
    let cred = texts(&wanted["cred"]);
    let mut parts = vec![
        Some(context.contains(&is)),
        Some(cred.is_empty() || cred.contains(&user.cred.as_str())),
        Some(texts(&wanted["scopes"]).iter().all(|scope| user.scopes.iter().any(|had| had == scope))),
    ];
    if let Some(claims) = wanted["claims"].as_object() {
        parts.extend(claims.iter().map(|(name, claim)| claim_truth(claim, user.claims.get(name))));
    }
    all(parts)
}

fn matches(spec: &Value, facts: &Facts<'_>) -> bool {
    let truth = all([from_truth(spec, facts), to_truth(spec, facts), user_truth(spec, facts)]);
    truth.unwrap_or(spec["effect"] == "forbid" && spec["ifAbsent"] != "skip")
}

fn verdict<'v>(
    specs: impl Iterator<Item = &'v Value> + Clone,
    default_allow: bool,
    facts: &Facts<'_>,
) -> (bool, Basis) {
    let any = |effect: &str| specs.clone().any(|spec| spec["effect"] == effect && matches(spec, facts));
    if any("forbid") {
        (false, Basis::Forbid)
    } else if any("permit") {
        (true, Basis::Permit)
    } else {
        (default_allow && facts.peer.as_str().starts_with("spiffe://demo.signet/"), Basis::Default)
    }
}

// ---- documents and facts, from words so few that they meet -----------------------------------------

const CLAIMS: [&str; 3] = ["groups", "tier", "level"];
const WORDS: [&str; 3] = ["a", "b", "c"];
const PATHS: [&str; 11] = [
    "/v1/a;x=1",
    "/v1;y/;z/b",
    "/;/a/b",
    "/",
    "/v1",
    "/v1/",
    "/v1/a",
    "/v1/a/b",
    "/v1/b",
    "/s.A/Get",
    "/s.A/Put",
];

fn some_of(words: &'static [&'static str]) -> impl Strategy<Value = Value> {
    subsequence(words, 1..=words.len()).prop_map(|list| json!(list))
}

fn object(fields: Vec<(&'static str, Option<Value>)>) -> Value {
    Value::Object(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
}

fn claim() -> impl Strategy<Value = Value> {
    (option::of(some_of(&WORDS)), option::of(some_of(&WORDS)), option::of(select(&WORDS[..])))
        .prop_filter("says something", |(a, b, c)| a.is_some() || b.is_some() || c.is_some())
        .prop_map(|(any_of, all_of, equals)| {
            object(vec![("anyOf", any_of), ("allOf", all_of), ("equals", equals.map(Value::from))])
        })
}

fn user_match() -> impl Strategy<Value = Value> {
    (
        option::of(some_of(&WORDS)),
        option::of(vec((select(&CLAIMS[..]), claim()), 1..3)),
        option::weighted(0.2, Just(json!(["jwt"]))),
        option::of(some_of(&["forwarded", "attached"])),
        option::of(any::<bool>()),
    )
        .prop_map(|(scopes, claims, cred, context, required)| {
            let claims = claims.map(|list| {
                list.into_iter().map(|(name, claim)| (name.to_owned(), claim)).collect::<Map<_, _>>()
            });
            object(vec![
                ("scopes", scopes),
                ("claims", claims.map(Value::Object)),
                ("cred", cred),
                ("context", context),
                ("required", required.map(Value::Bool)),
            ])
        })
}

fn to_match() -> impl Strategy<Value = Value> {
    (
        option::weighted(0.3, some_of(&["http", "grpc", "db"])),
        option::weighted(0.4, some_of(&["GET", "POST", "PUT"])),
        option::weighted(
            0.4,
            some_of(&["/", "/v1/{x}", "/v1/{x=**}", "/v1/a", "/{p}/{q}/b", "/{p}/", "/{all=**}"]),
        ),
        option::weighted(0.3, some_of(&["s.A/Get", "s.A/*", "s.B/Get"])),
    )
        .prop_map(|(ports, methods, paths, grpc)| {
            object(vec![("ports", ports), ("methods", methods), ("paths", paths), ("grpc", grpc)])
        })
}

/// Only specs that the model takes; what it refuses is tested there.
fn spec() -> impl Strategy<Value = Value> {
    (
        select(&["permit", "forbid"][..]),
        option::weighted(0.2, Just(json!("shadow"))),
        option::weighted(
            0.7,
            some_of(&[
                "ns/shop/sa/web",
                "ns/shop/sa/*",
                "ns/edge/sa/gw",
                "ns/edge/sa/*",
                "spiffe://other.signet/ns/shop/sa/web",
                "spiffe://other.signet/ns/shop/sa/*",
                "spiffe://third.signet/odd",
            ]),
        ),
        option::of(user_match()),
        option::weighted(0.7, to_match()),
        option::weighted(0.3, Just(json!("skip"))),
        any::<bool>(),
    )
        .prop_map(|(effect, mode, from, user, to, if_absent, targeted)| {
            object(vec![
                ("effect", Some(json!(effect))),
                ("mode", mode),
                ("target", targeted.then(|| json!({"service": "orders"}))),
                ("from", from.map(|list| json!({"workloads": list}))),
                ("user", user),
                ("to", to),
                ("ifAbsent", if_absent),
            ])
        })
        .prop_filter("taken by the model", |spec| {
            signet_model::MeshPolicy::from_json(&doc("p", spec).1).is_ok()
        })
}

fn user() -> impl Strategy<Value = User> {
    let claim_value = prop_oneof![
        select(&WORDS[..]).prop_map(Value::from),
        vec(select(&WORDS[..]), 0..3).prop_map(|list| json!(list)),
        Just(json!(7)),
        Just(Value::Null),
        Just(json!(["a", 1])),
    ];
    (
        vec(select(&WORDS[..]), 0..3),
        vec((select(&CLAIMS[..]), claim_value), 0..4),
        select(&["jwt", "key"][..]),
        select(&[Context::Forwarded, Context::Attached, Context::Direct][..]),
    )
        .prop_map(|(scopes, claims, cred, context)| User {
            sub: "idp|u".into(),
            scopes: scopes.into_iter().map(str::to_owned).collect(),
            claims: claims.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            cred: cred.into(),
            context,
            actor: None,
        })
}

#[derive(Debug, Clone)]
struct Request {
    peer: SpiffeId,
    user: Option<User>,
    /// Method, path, whether it was recognised as gRPC; none for bytes.
    http: Option<(&'static str, &'static str, bool)>,
    port: &'static str,
}

impl Request {
    fn facts(&self) -> Facts<'_> {
        Facts {
            peer: &self.peer,
            peer_class: PeerClass::Sidecar,
            user: self.user.as_ref(),
            port: self.port,
            protocol: if self.http.is_some() { Protocol::Http2 } else { Protocol::Tcp },
            method: self.http.map(|(method, _, _)| method),
            path: self.http.map(|(_, path, _)| path),
            grpc: self.http.filter(|(_, _, grpc)| *grpc).map(|(_, path, _)| &path[1..]),
            headers: None,
            now_ms: crate::common::NOW,
        }
    }
}

fn request() -> impl Strategy<Value = Request> {
    let ids = [
        "spiffe://demo.signet/ns/shop/sa/web",
        "spiffe://demo.signet/ns/shop/sa/other",
        "spiffe://demo.signet/ns/edge/sa/gw",
        "spiffe://demo.signet/ns/else/sa/web",
        "spiffe://demo.signet/odd",
        "spiffe://other.signet/ns/shop/sa/web",
        "spiffe://other.signet/ns/shop/sa/other",
        "spiffe://other.signet/ns/shop",
        "spiffe://third.signet/odd",
        "spiffe://third.signet/ns/shop/sa/web",
    ];
    let http = (select(&["GET", "POST"][..]), select(&PATHS[..]), any::<bool>());
    (
        select(ids.to_vec()),
        option::weighted(0.7, user()),
        option::weighted(0.8, http),
        select(&["http", "grpc", "db"][..]),
    )
        .prop_map(|(peer, user, http, port)| Request {
            peer: SpiffeId::parse(peer).unwrap(),
            user,
            http,
            port,
        })
}

fn compile(docs: &[(String, String)], default_allow: bool) -> PolicySet {
    PolicySet::compile(
        &own(),
        &"orders.shop".parse().unwrap(),
        docs.iter().map(|(n, j)| (n, j)),
        default_allow,
    )
}

proptest! {
    // A fixed seed: the same cases in every run; another one looks further.
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn the_matcher_decides_as_the_reference_does(specs in vec(spec(), 0..8), requests in vec(request(), 1..8), default_allow: bool) {
        let docs: Vec<_> = specs.iter().enumerate().map(|(i, spec)| doc(&format!("p{i}"), spec)).collect();
        let set = compile(&docs, default_allow);
        prop_assert!(set.not_understood().is_empty());
        for request in &requests {
            let facts = request.facts();
            let got = set.decide(&facts);
            let enforced = specs.iter().filter(|spec| spec["mode"].is_null());
            let expected = verdict(enforced.clone(), default_allow, &facts);
            prop_assert_eq!((got.allowed, got.basis), expected);
            prop_assert!(!got.allowed || set.may_permit(&facts), "a connection with a request that is permitted is good for something");
            prop_assert_eq!(got.shadow_allowed, verdict(specs.iter(), default_allow, &facts).0);
            let shadows = specs.iter().filter(|spec| !spec["mode"].is_null() && matches(spec, &facts)).count();
            prop_assert_eq!(got.shadow.len(), shadows.min(4));

            let told = set.explain(&facts);
            prop_assert_eq!((told.verdict == Answer::Allow, told.basis), expected);
            let effect = match expected.1 { Basis::Forbid => "forbid", Basis::Permit => "permit", _ => "" };
            let deciding: Vec<String> = specs.iter().enumerate()
                .filter(|(_, spec)| spec["mode"].is_null() && spec["effect"] == effect && matches(spec, &facts))
                .map(|(i, _)| format!("p{i}.shop"))
                .collect();
            prop_assert_eq!(told.deciding.iter().map(|d| d.policy.clone()).collect::<Vec<_>>(), deciding.clone());
            for name in got.deciding.iter() {
                prop_assert!(deciding.iter().any(|d| d == name));
            }
            for miss in &told.near_misses {
                prop_assert!(!miss.failed.is_empty() && !miss.expected.is_empty() && !miss.had.is_empty());
            }
        }
    }

    #[test]
    fn the_order_of_policies_never_matters(
        specs in vec(spec(), 1..8),
        request in request(),
        order in any::<prop::sample::Index>(),
        default_allow: bool,
    ) {
        let docs: Vec<_> = specs.iter().enumerate().map(|(i, spec)| doc(&format!("p{i}"), spec)).collect();
        let mut other = docs.clone();
        other.rotate_left(order.index(docs.len()));
        other.reverse();
        let (one, two) = (compile(&docs, default_allow), compile(&other, default_allow));
        let facts = request.facts();
        prop_assert_eq!(&*one.decide(&facts).deciding, &*two.decide(&facts).deciding);
        prop_assert_eq!(one.explain(&facts), two.explain(&facts));
    }

    /// Adding a forbid never allows more, adding a permit never denies more.
    #[test]
    fn forbids_only_narrow_and_permits_only_widen(specs in vec(spec(), 0..5), more in spec(), request in request(), default_allow: bool) {
        prop_assume!(more["mode"].is_null());
        let mut docs: Vec<_> = specs.iter().enumerate().map(|(i, spec)| doc(&format!("p{i}"), spec)).collect();
        let before = compile(&docs, default_allow).decide(&request.facts()).allowed;
        docs.push(doc("more", &more));
        let after = compile(&docs, default_allow).decide(&request.facts()).allowed;
        if more["effect"] == "forbid" {
            prop_assert!(before || !after);
        } else {
            prop_assert!(after || !before);
        }
    }
}
