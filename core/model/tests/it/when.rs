//! What a `when` may say, and how it is told what it may not.

use signet_model::when::{Attribute, Pattern};
use signet_model::{MeshPolicy, When};

fn refusal(text: &str) -> String {
    text.parse::<When>().expect_err(text).to_string()
}

#[test]
fn conditions_of_the_subset_are_read() {
    for text in [
        "true",
        "principal.namespace == \"edge\"",
        "principal has account && principal.account != \"batch\"",
        "[\"edge\", \"shop\"].contains(principal.namespace)",
        "context has user && context.user.claims.groups.contains(\"staff\")",
        "context has user.claims.groups",
        "context.user has claims.groups",
        "context.user.claims[\"https://example.com/level\"] >= 3",
        "context.user.claims.email_verified",
        "context.user.claims.level < -1 || context.user.scopes.containsAll([\"a\", \"b\"])",
        "context.request.headers[\"x-tenant\"].containsAny([\"a\"])",
        "context.request.headers has \"x-tenant\"",
        "context.request.method like \"P*\"",
        "context.user.claims.email like \"*@example.com\"",
        "context.now < datetime(\"2027-01-01\") && context.now >= datetime(\"2026-12-24T18:00:00Z\")",
        "context.now.toTime() >= duration(\"8h30m\")",
        "action == Action::\"connect\"",
        "!(context.user.scopes.isEmpty()) // every user has one\n && true",
        "(((context.user.sub == \"idp|alice\")))",
        "context.user.claims.level == 3 && 3 == context.user.claims.level",
        "context.user.claims[\"in\"] == \"x\"",
        "[1, 2, -3].contains(context.user.claims.level)",
        "context.user.claims.note == \"a \\\"quoted\\\" \\\\ text\"",
    ] {
        let when: When = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(when.to_string(), text);
    }
}

#[test]
fn what_is_outside_is_refused_with_its_place_and_what_was_expected() {
    for (text, message) in [
        (
            "",
            "expected principal, action, resource, context, a text, a number, a set, `datetime(…)` or `duration(…)`, got the end, at line 1, column 1",
        ),
        (
            "principal.nam == \"x\"",
            "expected id, trustDomain, namespace, account or class of `principal`, got `nam`, at line 1, column 11",
        ),
        (
            "true &&\n  context.who == \"x\"",
            "expected now, request or user of `context`, got `who`, at line 2, column 11",
        ),
        ("principal.namespace == 3", "expected a text, got a whole number, at line 1, column 24"),
        ("context.user.scopes == \"a\"", "expected a set of texts, got a text, at line 1, column 24"),
        ("context.user.scopes", "expected true or false, got a set of texts, at line 1, column 1"),
        ("context.user", "expected true or false, got `context.user`, at line 1, column 1"),
        (
            "context.user == context.user",
            "expected one of its attributes, got `context.user`, at line 1, column 1",
        ),
        (
            "principal in Workload::\"x\"",
            "expected `==`, or `[…].contains(…)` for one of several, got `in`, which is for entities, at line 1, column 11",
        ),
        (
            "principal is Workload",
            "expected `==`, or `[…].contains(…)` for one of several, got `is`, which is for entities, at line 1, column 11",
        ),
        (
            "if true then true else false",
            "expected `&&`, `||` and `!`, got `if`, which conditions here do without, at line 1, column 1",
        ),
        (
            "context.user.claims.a + 1 == 2",
            "expected an operator that cannot fail (there is no arithmetic), got `+`, at line 1, column 23",
        ),
        (
            "1 < 2 == true",
            "expected one comparison (put brackets around each), got `==`, at line 1, column 7",
        ),
        (
            "context.user.claims.a == context.user.claims.b",
            "expected something whose type is known on one side, got two claims, at line 1, column 26",
        ),
        (
            "context.user.claims.a == 1 && context.user.claims.a == \"x\"",
            "expected claim `a` to be a whole number as before, got a text, at line 1, column 31",
        ),
        (
            "principal.id like \"*admin*\"",
            "expected `==`: an identity is compared whole, got `like`, at line 1, column 1",
        ),
        (
            "context.user.sub like \"idp|*\"",
            "expected `==`: an identity is compared whole, got `like`, at line 1, column 1",
        ),
        (
            "context.request.path == \"/\"",
            "expected method, params or headers of `context.request` (paths and gRPC methods are asked for in `to`), got `path`, at line 1, column 17",
        ),
        (
            "context.request.headers.authorization.contains(\"x\")",
            "expected a header's name in lower case that carries no credential, no identity and nothing that the mesh sets, got `authorization`, at line 1, column 25",
        ),
        (
            "[]",
            "expected principal, action, resource, context, a text, a number, a set, `datetime(…)` or `duration(…)`, got `]`, at line 1, column 2",
        ),
        (
            "[1, \"a\"].contains(1)",
            "expected texts, or whole numbers, as they are in a set, got a text, at line 1, column 5",
        ),
        (
            "context.user.scopes.size() > 1",
            "expected one of the methods contains, containsAll, containsAny, isEmpty, toTime, got `size`, at line 1, column 21",
        ),
        (
            "ip(\"10.0.0.1\").isIpv4()",
            "expected principal, action, resource, context, a text, a number, a set, `datetime(…)` or `duration(…)`, got `ip`, at line 1, column 1",
        ),
        (
            "context.now < datetime(\"tomorrow\")",
            "expected a date or a moment in UTC, as in `2026-12-24` or `2026-12-24T18:00:00Z`, got `tomorrow`, at line 1, column 24",
        ),
        (
            "context.now < datetime(\"2026-02-30\")",
            "expected a date or a moment in UTC, as in `2026-12-24` or `2026-12-24T18:00:00Z`, got `2026-02-30`, at line 1, column 24",
        ),
        (
            "context.now.toTime() < duration(\"30m8h\")",
            "expected a span of time in days, hours, minutes, seconds and milliseconds, as in `1d` or `8h30m`, got `30m8h`, at line 1, column 33",
        ),
        (
            "action == Action::\"delete\"",
            "expected \"connect\" or \"request\", got the text `\"delete\"`, at line 1, column 19",
        ),
        ("principal.namespace = \"x\"", "expected `==`, got `=`, at line 1, column 21"),
        (
            "principal.namespace == \"x",
            "expected `\"` at the end of the text, got the end, at line 1, column 24",
        ),
        (
            "principal.namespace == \"\\u{41}\"",
            "expected one of the escapes `\\\"`, `\\\\`, `\\'`, `\\n`, `\\r`, `\\t`, got `\\u`, at line 1, column 24",
        ),
        (
            "true; permit(principal, action, resource)",
            "expected an operator or the end, got `;`, at line 1, column 5",
        ),
        ("true # more", "expected a Cedar expression, got `#`, at line 1, column 6"),
        (
            "99999999999999999999 == 1",
            "expected a whole number of at most 64 bits, got `99999999999999999999`, at line 1, column 1",
        ),
        ("!!true", "expected one `!`, got `!!`, at line 1, column 2"),
        (
            "context.user.claims.if == \"x\"",
            "expected `[\"…\"]` for a name that is a word of Cedar, got `if`, at line 1, column 21",
        ),
    ] {
        assert_eq!(refusal(text), message, "{text}");
    }
}

#[test]
fn a_header_that_carries_a_credential_or_an_identity_is_none_in_any_spelling() {
    for name in [
        "authorization",
        "proxy-authorization",
        "cookie",
        "x-api-key",
        "x_api_key",
        "txn-token",
        "txn_token",
        "signet-user",
        "signet_user",
        "x-forwarded-client-cert",
        "x_forwarded_for",
        "X-Tenant",
        "host",
        "x-envoy-original-path",
        "a b",
        "",
    ] {
        assert!(
            refusal(&format!("context.request.headers has \"{name}\"")).contains("a header's name"),
            "{name}"
        );
    }
}

#[test]
fn conditions_are_bounded_in_length_depth_and_parts() {
    let deep = format!("{}true{}", "(".repeat(25), ")".repeat(25));
    assert_eq!(refusal(&deep), "expected brackets at most 24 deep, got deeper ones, at line 1, column 25");
    let wide = vec!["true"; 300].join(" && ");
    assert!(
        refusal(&wide).starts_with("expected at most 256 parts, got more, at line 1, column "),
        "{}",
        refusal(&wide)
    );
    let long = format!("principal.id == \"{}\"", "x".repeat(5000));
    assert_eq!(refusal(&long), "expected at most 4096 bytes, got 5018, at line 1, column 1");
    let not = format!("{}true", "!(".repeat(3000));
    assert!(refusal(&not).starts_with("expected"), "and no stack is lost");
}

#[test]
fn a_condition_says_what_it_reads() {
    let when: When =
        "principal.namespace == \"a\" && context.now < datetime(\"2027-01-01\")".parse().unwrap();
    assert_eq!(when.reads().attributes, [Attribute::Namespace, Attribute::Now]);
    assert!(when.reads().time && !when.reads().request && !when.reads().user);
    let when: When = "context has user && context.request.method == \"GET\"".parse().unwrap();
    assert!(!when.reads().time && when.reads().request && when.reads().user);
}

#[test]
fn patterns_match_whole_texts() {
    let pattern = |text: &str| -> Pattern {
        let when: When = format!("context.request.method like \"{text}\"").parse().unwrap();
        match when.expr() {
            signet_model::when::Expr::Like(_, pattern) => pattern.clone(),
            other => panic!("{other:?}"),
        }
    };
    for (text, taken, left) in [
        ("a*c", vec!["ac", "abc", "abcc"], vec!["a", "abcd", "xac"]),
        ("*", vec!["", "x"], vec![]),
        ("a*a", vec!["aa", "aba"], vec!["a"]),
        ("*b*b*", vec!["bb", "abcb"], vec!["b", ""]),
        ("a\\\\*", vec!["a\\", "a\\x"], vec!["a*"]),
        ("a\\*", vec!["a*"], vec!["ab", "a"]),
        ("", vec![""], vec!["a"]),
    ] {
        let pattern = pattern(text);
        taken.iter().for_each(|it| assert!(pattern.matches(it), "{text} takes {it}"));
        left.iter().for_each(|it| assert!(!pattern.matches(it), "{text} leaves {it}"));
    }
}

fn policy(spec: &str) -> Result<MeshPolicy, String> {
    let text = format!(
        r#"{{"apiVersion":"signet.mesh/v1alpha1","kind":"MeshPolicy","metadata":{{"namespace":"shop","name":"p"}},"spec":{spec}}}"#
    );
    MeshPolicy::from_json(&text).map_err(|error| error.to_string())
}

#[test]
fn a_policy_names_only_parameters_of_its_own_paths() {
    let with = |path: &str| {
        policy(&format!(
            r#"{{"effect":"permit","to":{{"paths":["{path}"]}},"when":"context.request.params.id == context.user.sub"}}"#
        ))
    };
    let kept = with("/orders/{id}/parts").unwrap();
    assert!(kept.canonical_json().contains(r#""when":"context.request.params.id == context.user.sub""#));
    let wrong =
        "spec.when: expected a name that `to.paths` gives to one segment, as in `/orders/{id}`, got `id`";
    assert_eq!(with("/orders/{order}").unwrap_err(), wrong);
    assert_eq!(with("/orders/{id=**}").unwrap_err(), wrong, "what may be several segments is no parameter");
    assert_eq!(
        policy(r#"{"effect":"permit","when":"context.who"}"#).unwrap_err(),
        "spec.when: expected now, request or user of `context`, got `who`, at line 1, column 9"
    );
}
