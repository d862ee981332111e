//! The page on policy is true: its example is compiled, and every row of its table is asked.

use crate::common::{http, own, peer, tcp};
use serde_json::json;
use signet_model::{Options, parse_text};
use signet_policy::{Answer, Context, PolicySet, User};

const PAGE: &str = include_str!("../../../../docs/policy.md");

fn policies() -> PolicySet {
    let yaml = PAGE.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let registry = parse_text(std::path::Path::new("docs/policy.md"), yaml, &Options::default()).unwrap();
    let orders = "orders.shop".parse().unwrap();
    let docs =
        registry.policies_for(&orders).map(|policy| (policy.name.to_string(), policy.canonical_json()));
    let set = PolicySet::compile(&own(), &orders, docs.collect::<Vec<_>>(), false);
    assert!(set.not_understood().is_empty(), "{:?}", set.not_understood());
    set
}

/// Scopes, with `suspended` for the claim; `none` for nobody.
fn user(cell: &str) -> Option<User> {
    let (marks, scopes): (Vec<&str>, Vec<&str>) = cell.split(' ').partition(|word| *word == "suspended");
    let claims = if marks.is_empty() { json!({}) } else { json!({"status": "suspended"}) };
    (cell != "none").then(|| User {
        sub: "idp|1".into(),
        scopes: scopes.into_iter().map(str::to_owned).collect(),
        claims: claims.as_object().unwrap().clone(),
        cred: "jwt".into(),
        context: Context::Forwarded,
        actor: None,
    })
}

#[test]
fn every_row_of_the_policy_pages_table_is_what_the_matcher_says() {
    let policies = policies();
    let rows: Vec<Vec<String>> = PAGE
        .lines()
        .filter(|line| line.starts_with("| `ns/"))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect())
        .collect();
    assert!(rows.len() >= 9, "the table was found: {rows:?}");
    for row in rows {
        let [caller, who, request, verdict, why] = row.try_into().unwrap();
        let (caller, who) = (peer(&caller), user(&who));
        let facts = match request.strip_prefix("connection to ") {
            Some(port) => {
                assert_eq!(port, tcp(&caller).port);
                tcp(&caller)
            }
            None => {
                let (method, path) = request.split_once(' ').unwrap();
                http(&caller, who.as_ref(), method, path)
            }
        };
        let told = policies.explain(&facts);
        let said = if told.verdict == Answer::Allow { "allow" } else { "deny" };
        assert_eq!(said, verdict, "{request}");
        // What else failed is left out of the table.
        let reason = told.reason.split("; also").next().unwrap();
        assert_eq!(reason, why, "{request}");
    }
}
