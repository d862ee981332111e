//! The answer of an authorisation provider: whatever came, what may be changed is what the lists name, nothing of the
//! mesh's, and a refusal is one.

use signet_model::{AuthorizationProvider, HeaderField};
use signet_proxy::authz::{Change, Provider, Ruling, rule};
use signet_wire::protected::Protected;

pub(crate) fn body(bytes: &[u8]) {
    let document = r#"{"apiVersion":"signet.mesh/v1alpha1","kind":"AuthorizationProvider","metadata":{"namespace":"shop","name":"asked"},
        "spec":{"local":"127.0.0.1:9191","allowedUpstreamHeaders":["x-role","x-mine","content-type"],"allowedDownstreamHeaders":["x-why"]}}"#;
    let provider = Provider::new(&AuthorizationProvider::from_json(document).expect("a provider"));
    let protected = Protected::with_names(["x-mine"]);
    match rule(bytes, &provider, &protected) {
        Err(_) => {}
        Ok(Ruling::Allow(changes)) => {
            // A yes is never by accident: an empty message, or one that is cut, is none.
            assert!(!bytes.is_empty());
            changes.request.iter().for_each(|change| check(change, &["x-role", "content-type"], &protected));
            changes.answer.iter().for_each(|change| check(change, &["x-why"], &protected));
        }
        Ok(Ruling::Deny(denial)) => {
            assert!(denial.status.is_none_or(|status| (400..=599).contains(&status)));
            assert!(denial.body.len() <= 16 * 1024);
            for (name, text) in &denial.headers {
                assert_eq!(name, "x-why");
                assert!(text.bytes().all(|byte| matches!(byte, b' ' | b'\t' | 0x21..=0x7e)));
            }
        }
    }
}

fn check(change: &Change, listed: &[&str], protected: &Protected) {
    let (name, value) = match change {
        Change::Set(name, value)
        | Change::Append(name, value)
        | Change::AddIfAbsent(name, value)
        | Change::SetIfPresent(name, value) => (name, Some(value)),
        Change::Remove(name) => (name, None),
    };
    let field: HeaderField = name.as_str().parse().expect("a name");
    assert!(listed.contains(&field.as_str()), "{field}");
    assert!(!field.is_of_the_connection() && !protected.contains(field.as_str().as_bytes()));
    assert!(value.is_none_or(|value| value.to_str().is_ok()));
}
