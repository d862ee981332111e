//! Our `when` against the real Cedar: what we read, its strict validator takes, and it comes to the same.

use std::str::FromStr;

use cedar_policy::{
    Authorizer, Context as CedarContext, Decision, Entities, PolicySet as CedarSet, Request, Schema,
    ValidationMode, Validator,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Map, Value, json};
use signet_identity::{PeerClass, SpiffeId, TrustDomain};
use signet_model::when::{Attribute, ClaimType};
use signet_model::{Moment, Protocol, When};
use signet_policy::{Context, Facts, Headers, PolicySet, User};

/// Conditions that can be put together; among them each operator on each type that it takes.
const ATOMS: &[&str] = &[
    "true",
    "false",
    "principal.namespace == \"shop\"",
    "principal.namespace != \"edge\"",
    "principal has namespace",
    "principal.account == \"web\"",
    "[\"web\", \"jobs\"].contains(principal.account)",
    "principal.trustDomain == \"demo.signet\"",
    "principal.class == \"gateway\"",
    "principal.id == \"spiffe://demo.signet/ns/shop/sa/web\"",
    "resource.service == \"orders\" && resource.port == \"http\"",
    "resource.namespace == \"other\"",
    "action == Action::\"request\"",
    "action != Action::\"connect\"",
    "context has request",
    "context has user",
    "context has user.sub",
    "context has user.claims.groups",
    "context has request.headers",
    "context.user has claims",
    "context.user has claims.level",
    "context.user.claims has groups",
    "context.request.method == \"GET\"",
    "context.request.method like \"P*T\"",
    "[\"GET\", \"HEAD\"].contains(context.request.method)",
    "context.request.params.id == \"7\"",
    "context.request.params has id",
    "context.request.params.id == context.user.claims.customer",
    "context.request.headers has \"x-tenant\"",
    "context.request.headers[\"x-tenant\"].contains(\"blue\")",
    "context.request.headers[\"x-tenant\"].containsAll([\"blue\", \"green\"])",
    "context.request.headers[\"x-tenant\"] == [\"green\", \"blue\", \"green\"]",
    "context.request.headers[\"x-tenant\"].isEmpty()",
    "context.user.sub == \"idp|alice\"",
    "context.user.context == \"direct\"",
    "context.user.scopes.contains(\"orders:read\")",
    "context.user.scopes.containsAny([\"a\", \"orders:list\"])",
    "context.user.scopes.isEmpty()",
    "[\"orders:read\", \"orders:list\", \"a\"].containsAll(context.user.scopes)",
    "context.user.claims.groups.contains(\"staff\")",
    "context.user.claims.groups.containsAny(context.user.scopes)",
    "context.user.claims.groups == [\"staff\"]",
    "context.user.claims.level == 3",
    "context.user.claims.level < 3",
    "context.user.claims.level <= 3",
    "context.user.claims.level > -4",
    "3 >= context.user.claims.level",
    "[1, 3, 5].contains(context.user.claims.level)",
    "context.user.claims.verified",
    "context.user.claims.verified == false",
    "context.user.claims.email like \"*@example.com\"",
    "context.user.claims.email like \"a*c*e\"",
    "context.user.claims.email like \"\\*\"",
    "context.user.claims.email == \"a\\\"b\\\\c\"",
    "context.now < datetime(\"2026-12-24T18:00:00Z\")",
    "context.now >= datetime(\"1999-12-31\")",
    "context.now == datetime(\"1970-01-01\")",
    "context.now.toTime() < duration(\"8h30m\")",
    "context.now.toTime() == duration(\"0s\")",
    "context.now.toTime() >= duration(\"1d\")",
    "datetime(\"2026-01-01\").toTime() <= duration(\"1ms\")",
];

fn condition() -> impl Strategy<Value = String> {
    let atom = select(ATOMS).prop_map(str::to_owned);
    atom.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|a| format!("!({a})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a} && {b}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a} || {b}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) && ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) == ({b}) // said\n")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("({a}) ||\n\t({b})")),
        ]
    })
}

#[derive(Debug, Clone)]
struct Input {
    peer: &'static str,
    user: Option<User>,
    id: &'static str,
    method: &'static str,
    tenants: Option<Vec<&'static str>>,
    now_ms: i64,
}

#[derive(Debug)]
struct Lines<'a>(&'a Input);

impl Headers for Lines<'_> {
    fn any_line(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        name == "x-tenant" && self.0.tenants.iter().flatten().any(|line| test(line.as_bytes()))
    }
}

fn claims() -> impl Strategy<Value = Map<String, Value>> {
    let groups = subsequence(vec!["staff", "ops", "orders:read"], 0..=3).prop_map(|it| json!(it));
    let groups = prop_oneof![groups, Just(json!("staff"))];
    let level = select(vec![i64::MIN, -4, 0, 2, 3, 4, i64::MAX]).prop_map(|it| json!(it));
    let email = select(vec!["alice@example.com", "abce", "*", "a\"b\\c", ""]).prop_map(|it| json!(it));
    let all = [
        ("groups", groups.boxed()),
        ("level", level.boxed()),
        ("email", email.boxed()),
        ("verified", any::<bool>().prop_map(|it| json!(it)).boxed()),
        ("customer", select(vec!["7", "8"]).prop_map(|it| json!(it)).boxed()),
    ];
    let each = all.map(|(name, value)| {
        proptest::option::weighted(0.7, value).prop_map(move |value| value.map(|value| (name.to_owned(), value)))
    });
    each.to_vec().prop_map(|claims| claims.into_iter().flatten().collect())
}

fn input() -> impl Strategy<Value = Input> {
    let scopes = subsequence(vec!["orders:read", "orders:list", "staff"], 0..=3);
    let user = (scopes, claims(), select(vec![Context::Forwarded, Context::Direct])).prop_map(|(scopes, claims, context)| User {
        sub: "idp|alice".into(),
        scopes: scopes.into_iter().map(str::to_owned).collect(),
        claims,
        cred: "jwt".into(),
        context,
        actor: None,
    });
    (
        select(vec!["ns/shop/sa/web", "ns/edge/sa/gateway", "other/path"]),
        proptest::option::weighted(0.8, user),
        select(vec!["7", "8", "%2A"]),
        select(vec!["GET", "POST", "PUT"]),
        proptest::option::of(subsequence(vec!["blue", "green", ""], 1..=3)),
        select(vec![0, 1_795_341_600_000, 1_767_225_600_000, 1_798_135_199_999, 1_798_135_200_000, 946_598_399_999]),
    )
        .prop_map(|(peer, user, id, method, tenants, now_ms)| Input { peer, user, id, method, tenants, now_ms })
}

#[derive(Debug, PartialEq, Clone, Copy)]
enum Answer {
    Yes,
    No,
    Error,
}

fn ours(set: &PolicySet, id: &SpiffeId, input: &Input) -> Answer {
    let path = format!("/v1/orders/{}", input.id);
    let lines = Lines(input);
    let verdict = set.decide(&Facts {
        peer: id,
        peer_class: PeerClass::Sidecar,
        user: input.user.as_ref(),
        port: "http",
        protocol: Protocol::Http1,
        method: Some(input.method),
        path: Some(&path),
        grpc: None,
        headers: Some(&lines),
        now_ms: input.now_ms,
    });
    match (verdict.allowed, verdict.failed.is_empty()) {
        (true, _) => Answer::Yes,
        (false, true) => Answer::No,
        (false, false) => Answer::Error,
    }
}

fn theirs(policies: &CedarSet, when: &When, id: &SpiffeId, input: &Input) -> Answer {
    let mut principal = json!({"id": id.as_str(), "trustDomain": "demo.signet", "class": "sidecar"});
    for (name, value) in [("namespace", id.namespace()), ("account", id.service_account())] {
        if let Some(value) = value {
            principal[name] = json!(value);
        }
    }
    let entities = json!([
        {"uid": {"type": "Workload", "id": "w"}, "attrs": principal, "parents": []},
        {"uid": {"type": "Service", "id": "s"}, "attrs": {"service": "orders", "namespace": "shop", "port": "http"}, "parents": []},
    ]);
    let now = Moment::from_unix(input.now_ms.div_euclid(1000)).unwrap().to_string();
    let now = now.replace('Z', &format!(".{:03}Z", input.now_ms.rem_euclid(1000)));
    let mut headers = json!({});
    if let Some(lines) = &input.tenants {
        headers["x-tenant"] = json!(lines);
    }
    let mut context = json!({
        "now": {"__extn": {"fn": "datetime", "arg": now}},
        "request": {"method": input.method, "params": {"id": input.id}, "headers": headers},
    });
    if let Some(user) = &input.user {
        // A text that is used as a set is a set of one: ours, and said in the documentation.
        let claims = user.claims.iter().map(|(name, value)| {
            let as_set = when.reads().attributes.contains(&Attribute::Claim(name.as_str().into(), ClaimType::Texts));
            let value = if as_set && value.is_string() { json!([value]) } else { value.clone() };
            (name.clone(), value)
        });
        context["user"] = json!({"sub": user.sub, "cred": user.cred, "context": user.context.as_str(),
            "scopes": user.scopes, "claims": claims.collect::<Map<_, _>>()});
    }
    let uid = |text: &str| text.parse().unwrap();
    let request = Request::new(
        uid("Workload::\"w\""),
        uid("Action::\"request\""),
        uid("Service::\"s\""),
        CedarContext::from_json_value(context, None).unwrap(),
        None,
    )
    .unwrap();
    let entities = Entities::from_json_value(entities, None).unwrap();
    let response = Authorizer::new().is_authorized(&request, policies, &entities);
    match (response.decision(), response.diagnostics().errors().next().is_some()) {
        (_, true) => Answer::Error,
        (Decision::Allow, false) => Answer::Yes,
        (Decision::Deny, false) => Answer::No,
    }
}

/// The schema of this condition: everything is there, and a claim is what the condition takes it for.
fn schema(when: &When) -> Schema {
    let claims: Vec<String> = ["groups", "level", "email", "verified", "customer"]
        .iter()
        .map(|name| {
            let taken = when.reads().attributes.iter().find_map(|attribute| match attribute {
                Attribute::Claim(had, of) if **had == **name => Some(*of),
                _ => None,
            });
            let of = match taken {
                Some(ClaimType::Long) => "Long",
                Some(ClaimType::Bool) => "Bool",
                Some(ClaimType::Texts) => "Set<String>",
                _ => "String",
            };
            format!("\"{name}\": {of}")
        })
        .collect();
    let text = format!(
        "entity Workload = {{\"id\": String, \"trustDomain\": String, \"namespace\": String, \"account\": String, \"class\": String}};
         entity Service = {{\"service\": String, \"namespace\": String, \"port\": String}};
         action \"connect\", \"request\" appliesTo {{ principal: Workload, resource: Service, context: {{
           \"now\": datetime,
           \"request\": {{\"method\": String, \"params\": {{\"id\": String}}, \"headers\": {{\"x-tenant\": Set<String>}}}},
           \"user\": {{\"sub\": String, \"cred\": String, \"context\": String, \"scopes\": Set<String>, \"claims\": {{{}}}}}
         }} }};",
        claims.join(", ")
    );
    Schema::from_cedarschema_str(&text).unwrap().0
}

fn compiled(text: &str) -> PolicySet {
    let policy = json!({"apiVersion": "signet.mesh/v1alpha1", "kind": "MeshPolicy",
        "metadata": {"namespace": "shop", "name": "p"},
        "spec": {"effect": "permit", "to": {"paths": ["/v1/orders/{id}"]}, "when": text}});
    let own = TrustDomain::parse("demo.signet").unwrap();
    let docs = [("p.shop", policy.to_string())];
    let set = PolicySet::compile(&own, &"orders.shop".parse().unwrap(), docs, false);
    assert!(set.not_understood().is_empty(), "{text}: {:?}", set.not_understood());
    set
}

#[test]
fn a_condition_comes_to_what_cedar_says() {
    const INPUTS: usize = 10;
    let cases: usize = std::env::var("SIGNET_CASES").ok().and_then(|it| it.parse().ok()).unwrap_or(10_000);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let (mut told, mut skipped) = ([0_usize; 3], 0);
    while told.iter().sum::<usize>() < cases {
        let text = condition().new_tree(&mut runner).unwrap().current();
        // A claim of two types is refused here, and by Cedar's validator where it has a schema.
        let Ok(when) = When::from_str(&text) else {
            skipped += 1;
            continue;
        };
        let policies: CedarSet =
            format!("permit(principal, action, resource) when {{ {text}\n }};").parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        let validated = Validator::new(schema(&when)).validate(&policies, ValidationMode::Strict);
        assert!(validated.validation_passed(), "{text}: {validated}");
        let set = compiled(&text);
        for _ in 0..INPUTS {
            let input = input().new_tree(&mut runner).unwrap().current();
            let id = SpiffeId::parse(format!("spiffe://demo.signet/{}", input.peer)).unwrap();
            let (ours, theirs) = (ours(&set, &id, &input), theirs(&policies, &when, &id, &input));
            assert_eq!(ours, theirs, "{text}\n{input:?}");
            told[ours as usize] += 1;
        }
    }
    let [yes, no, error] = told;
    println!("{yes} yes, {no} no, {error} errors; {skipped} conditions were refused");
    assert!(told.iter().all(|count| *count > cases / 20), "every answer is asked for often enough: {told:?}");
    assert!(skipped < cases / INPUTS / 4, "{skipped}");
}

/// Texts that we read by mistake would be read otherwise by somebody who knows Cedar.
#[test]
fn what_cedar_does_not_read_is_not_read_here() {
    let pieces: Vec<&str> = vec![
        "principal", "action", "resource", "context", ".", "user", "claims", "request", "has", "like", "==", "!=", "<", ">=",
        "&&", "||", "!", "(", ")", "[", "]", "\"a\"", "\"x-tenant\"", "1", "-", "true", "Action", "::", "\"request\"",
        "datetime", "\"2026-01-01\"", "toTime", "contains", "isEmpty", "sub", "groups", "namespace", ",", "\"\\n\"", "// a\n",
    ];
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[9; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = proptest::collection::vec(select(pieces), 1..12);
    let (mut read, mut tried) = (0, 0);
    let mut check = |text: &str| {
        tried += 1;
        if When::from_str(text).is_ok() {
            read += 1;
            let policy = format!("permit(principal, action, resource) when {{ {text}\n }};");
            assert!(CedarSet::from_str(&policy).is_ok(), "{text}");
        }
    };
    for _ in 0..20_000 {
        check(&strategy.new_tree(&mut runner).unwrap().current().join(" "));
    }
    // Close to what is right: one piece of a good condition left out, or said twice.
    for atom in ATOMS {
        let words: Vec<&str> = atom.split_inclusive([' ', '.', '(', ')', '"', '[', ']']).collect();
        for at in 0..words.len() {
            let without: String = words.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, word)| *word).collect();
            let twice: String =
                words.iter().enumerate().map(|(i, word)| if i == at { word.repeat(2) } else { (*word).to_owned() }).collect();
            check(&without);
            check(&twice);
        }
    }
    assert!(read > 50 && read < tried, "{read} of {tried}");
}
