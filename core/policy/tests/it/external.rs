//! Policies of effect `external`: when somebody else is to be asked, and what is told of it afterwards.

use crate::common::{http, own, peer, tcp};
use signet_policy::{Answer, Basis, PolicySet, Replayed};

fn set(specs: &[&str]) -> PolicySet {
    let docs = specs.iter().enumerate().map(|(at, spec)| {
        let json = format!(
            r#"{{"apiVersion":"signet.mesh/v1alpha1","kind":"MeshPolicy","metadata":{{"namespace":"shop","name":"p{at}"}},"spec":{spec}}}"#
        );
        (format!("p{at}.shop"), json)
    });
    PolicySet::compile(&own(), &"orders.shop".parse().unwrap(), docs, false)
}

const ANY: &str = r#"{"effect":"permit"}"#;
const ASK: &str = r#"{"effect":"external","provider":"opa","to":{"paths":["/admin"]}}"#;
const ASK_TOO: &str = r#"{"effect":"external","provider":"opa","to":{"methods":["GET"]}}"#;

#[test]
fn somebody_else_is_asked_once_about_what_is_permitted_and_nothing_else() {
    let web = peer("ns/shop/sa/web");
    let both = set(&[ANY, ASK, ASK_TOO]);
    let verdict = both.decide(&http(&web, None, "GET", "/admin"));
    assert_eq!((verdict.allowed, verdict.basis, &*verdict.ask), (true, Basis::Permit, &["opa.shop"][..]));
    assert!(both.decide(&http(&web, None, "POST", "/open")).ask.is_empty());
    let forbidden = set(&[ANY, ASK, r#"{"effect":"forbid"}"#]);
    assert!(forbidden.decide(&http(&web, None, "GET", "/admin")).ask.is_empty());
    let unpermitted = set(&[ASK]);
    let verdict = unpermitted.decide(&http(&web, None, "GET", "/admin"));
    assert!(!verdict.allowed && verdict.ask.is_empty(), "asking permits nothing");
}

#[test]
fn a_connection_that_somebody_would_be_asked_about_is_told_so() {
    let web = peer("ns/shop/sa/web");
    let all = set(&[ANY, r#"{"effect":"external","provider":"opa"}"#]);
    assert_eq!(&*all.decide(&tcp(&web)).ask, ["opa.shop"]);
    // A path is absent there, which spares nobody.
    assert_eq!(&*set(&[ANY, ASK]).decide(&tcp(&web)).ask, ["opa.shop"]);
    assert!(all.speaks_of_requests(tcp(&web).port));
    assert!(matches!(
        all.decide_unproven("http"),
        signet_policy::Unproven::Asked { field: "spec.effect", .. }
    ));
}

#[test]
fn more_than_there_is_room_for_denies_everything() {
    let specs: Vec<_> = (0..5).map(|at| format!(r#"{{"effect":"external","provider":"p{at}"}}"#)).collect();
    let mut all = vec![ANY];
    all.extend(specs.iter().map(String::as_str));
    assert_eq!(set(&all[..5]).decide(&http(&peer("ns/shop/sa/web"), None, "GET", "/")).ask.len(), 4);
    let verdict = set(&all);
    assert_eq!(verdict.decide(&http(&peer("ns/shop/sa/web"), None, "GET", "/")).basis, Basis::NotUnderstood);
}

#[test]
fn what_was_answered_is_told_and_replayed() {
    let web = peer("ns/shop/sa/web");
    let facts = http(&web, None, "GET", "/admin");
    let policies = set(&[ANY, ASK]);
    let denied = policies.explain_asked(&facts, &[("opa.shop", "timeout")]);
    assert_eq!((denied.verdict, denied.basis), (Answer::Deny, Basis::External));
    assert_eq!(denied.reason, "permitted by p0.shop, and not by provider opa.shop: timeout");
    assert!(denied.to_string().contains("provider opa.shop was asked: timeout"));
    let allowed = policies.explain_asked(&facts, &[("opa.shop", "allowed")]);
    assert_eq!((allowed.verdict, allowed.basis), (Answer::Allow, Basis::Permit));
    let unasked = set(&[ANY]).explain(&facts);

    let replay = |by: &PolicySet, then: &_| by.replay(then, 0);
    assert_eq!(replay(&policies, &denied), Replayed::Unchanged);
    assert_eq!(replay(&policies, &allowed), Replayed::Unchanged);
    assert!(matches!(replay(&set(&[ANY]), &denied), Replayed::Flipped { to: Answer::Allow, .. }));
    assert_eq!(replay(&set(&[ANY]), &allowed), Replayed::Unchanged);
    assert!(matches!(replay(&policies, &unasked), Replayed::Undecidable(why) if why.contains("opa.shop")));
    assert_eq!(replay(&set(&[]), &denied), Replayed::Unchanged, "denied either way");
    assert!(matches!(replay(&set(&[]), &allowed), Replayed::Flipped { to: Answer::Deny, .. }));
}
