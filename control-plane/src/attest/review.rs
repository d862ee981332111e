//! TokenReview: what is asked, and what the answer means. Pure.
//!
//! The API server is asked with our audience, and the answer counts only when it says `authenticated`, has no error,
//! and lists that audience; there is no second question without one. Who the caller is comes from the answer
//! alone, and must be a service account by a token that is bound to a pod on a node.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;
use signet_ca::Refusal;
use signet_model::{Label, Subdomain, WorkloadId};

use super::token::Claims;

/// Where reviews are asked for.
pub const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// A pod's service account, as the cluster vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub account: WorkloadId,
    pub pod: String,
    pub pod_uid: String,
    pub node: String,
}

/// Why an answer names nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unusable {
    /// The server does not accept the token, or not as we need it.
    Refused(Refusal),
    /// It is no answer to our question: nothing is known about the token.
    Unreadable(&'static str),
}

impl From<Refusal> for Unusable {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The question.
#[must_use]
pub fn question(token: &str, audience: &str) -> String {
    json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [audience]},
    })
    .to_string()
}

#[derive(Deserialize)]
struct Review {
    kind: String,
    spec: Spec,
    status: Status,
}

#[derive(Deserialize)]
struct Spec {
    token: String,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    authenticated: bool,
    #[serde(default)]
    user: User,
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize, Default)]
struct User {
    #[serde(default)]
    username: String,
    #[serde(default)]
    extra: BTreeMap<String, Vec<String>>,
}

/// The answer to [`question`], from an exchange that succeeded.
///
/// # Errors
/// [`Unusable`].
pub fn judge(body: &[u8], token: &str, audience: &str) -> Result<Account, Unusable> {
    let map =
        signet_token::json::object(body).map_err(|_| Unusable::Unreadable("it is not a JSON object"))?;
    let review: Review =
        serde_json::from_value(map.into()).map_err(|_| Unusable::Unreadable("it is not a TokenReview"))?;
    if review.kind != "TokenReview" {
        return Err(Unusable::Unreadable("it is not a TokenReview"));
    }
    // Something between us and the server that mixes up answers would mix up identities.
    if review.spec.token != token {
        return Err(Unusable::Unreadable("it is about another token"));
    }
    let status = review.status;
    if !status.authenticated || !status.error.is_empty() {
        return Err(named(&status.error).into());
    }
    if !status.audiences.iter().any(|found| found == audience) {
        return Err(Refusal::EvidenceAudience.into());
    }
    let account = service_account(&status.user.username).ok_or(Refusal::EvidenceUser)?;
    let extra = |key: &str| match status.user.extra.get(key).map(Vec::as_slice) {
        Some([one]) if is_object_text(one) => Ok(one.clone()),
        _ => Err(Refusal::EvidenceUnbound),
    };
    Ok(Account { account, pod: extra(POD_NAME)?, pod_uid: extra(POD_UID)?, node: extra(NODE_NAME)? })
}

/// What the token itself says must be what was said of it: then its end is an end that somebody verified.
///
/// # Errors
/// `EvidenceMalformed`, `EvidenceExpired`.
pub fn agrees(account: &Account, claims: &Claims, now: i64) -> Result<(), Refusal> {
    let (pod, node) = (claims.bound.pod.as_ref(), claims.bound.node.as_ref());
    let same = service_account(&claims.sub).as_ref() == Some(&account.account)
        && pod.is_some_and(|pod| pod.uid == account.pod_uid && pod.name == account.pod)
        && node.is_some_and(|node| node.name == account.node);
    if !same {
        return Err(Refusal::EvidenceMalformed);
    }
    // The server is a few seconds generous, and remembers a good answer for some more.
    if now >= claims.exp { Err(Refusal::EvidenceExpired) } else { Ok(()) }
}

/// `system:serviceaccount:<namespace>:<name>`: exactly four parts, and both names such as the API server makes.
#[must_use]
pub fn service_account(user: &str) -> Option<WorkloadId> {
    let mut parts = user.split(':');
    let found = (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next());
    let ("system", "serviceaccount", namespace, account, None) = found else { return None };
    let (namespace, account): (Label, Subdomain) = (namespace.parse().ok()?, account.parse().ok()?);
    Some(WorkloadId::new(namespace, account))
}

/// A name or uid of an object, which goes into paths and logs.
pub(crate) fn is_object_text(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        && !text.starts_with('.')
}

/// The server's words, sorted for whoever reads the log. What is decided does not depend on them.
fn named(error: &str) -> Refusal {
    if error.contains("target audiences") {
        Refusal::EvidenceAudience
    } else if error.contains("token has expired") {
        Refusal::EvidenceExpired
    } else if error.contains("account token has been invalidated") || error.contains("pod ref claim") {
        Refusal::EvidencePod
    } else {
        Refusal::EvidenceRefused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_name_is_a_service_account_only_in_its_four_parts() {
        for (user, expected) in [
            ("system:serviceaccount:shop:web", Some("ns/shop/sa/web")),
            ("system:serviceaccount:shop:web.v2.internal", Some("ns/shop/sa/web.v2.internal")),
            ("system:serviceaccount:shop", None),
            ("system:serviceaccount:shop:web:admin", None),
            ("system:serviceaccount::web", None),
            ("system:serviceaccount:shop:", None),
            ("system:serviceaccount:sh.op:web", None),
            ("system:serviceaccount:shop:Web", None),
            ("system:serviceaccount:shop:../x", None),
            ("system:node:shop:web", None),
            ("system:node:node1", None),
            ("oidc:serviceaccount:shop:web", None),
            ("System:serviceaccount:shop:web", None),
            ("", None),
        ] {
            assert_eq!(service_account(user).map(|id| id.to_string()).as_deref(), expected, "{user}");
        }
    }

    fn answer(status: &str) -> String {
        format!(
            r#"{{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","metadata":{{}},"spec":{{"token":"t"}},"status":{status}}}"#
        )
    }

    const GOOD: &str = r#"{"authenticated":true,"user":{"username":"system:serviceaccount:shop:web","extra":{
        "authentication.kubernetes.io/pod-name":["web-1"],"authentication.kubernetes.io/pod-uid":["u"],
        "authentication.kubernetes.io/node-name":["n"]}},"audiences":["signet-ca"]}"#;

    fn judged(status: &str) -> Result<Account, Unusable> {
        judge(answer(status).as_bytes(), "t", "signet-ca")
    }

    #[test]
    fn every_part_of_a_good_answer_is_needed() {
        let account = judged(GOOD).unwrap();
        assert_eq!((account.account.to_string().as_str(), account.pod_uid.as_str()), ("ns/shop/sa/web", "u"));
        for (from, to, expected) in [
            (r#""authenticated":true"#, r#""authenticated":false"#, Refusal::EvidenceRefused),
            (r#""authenticated":true,"#, "", Refusal::EvidenceRefused),
            (r#""authenticated":true"#, r#""authenticated":true,"error":"but""#, Refusal::EvidenceRefused),
            (r#""audiences":["signet-ca"]"#, r#""audiences":[]"#, Refusal::EvidenceAudience),
            (r#","audiences":["signet-ca"]"#, "", Refusal::EvidenceAudience),
            ("signet-ca", "signet-ca2", Refusal::EvidenceAudience),
            ("system:serviceaccount:shop:web", "system:node:node1", Refusal::EvidenceUser),
            ("pod-uid\":[\"u\"]", "pod-uid\":[]", Refusal::EvidenceUnbound),
            ("pod-uid\":[\"u\"]", "pod-uid\":[\"u\",\"v\"]", Refusal::EvidenceUnbound),
            ("pod-uid\":[\"u\"]", "pod-uid\":[\"../u\"]", Refusal::EvidenceUnbound),
            ("pod-name", "pod-nome", Refusal::EvidenceUnbound),
            ("node-name", "node-nome", Refusal::EvidenceUnbound),
        ] {
            let status = GOOD.replace(from, to);
            assert_ne!(status, GOOD, "{from}");
            assert_eq!(judged(&status), Err(expected.into()), "{to}");
        }
    }

    #[test]
    fn what_is_no_answer_to_the_question_says_nothing_about_the_token() {
        for body in [
            "",
            "[]",
            "{}",
            r#"{"kind":"Status","status":"Failure"}"#,
            &answer(GOOD).replace("TokenReview", "PodReview"),
            &answer(GOOD).replace(r#""token":"t""#, r#""token":"another""#),
            &answer(GOOD).replace(r#""authenticated":true"#, r#""authenticated":true,"authenticated":true"#),
            &answer(GOOD).replace(r#""authenticated":true"#, r#""authenticated":"true""#),
            &answer(GOOD).replace(r#"["web-1"]"#, r#""web-1""#),
        ] {
            let judged = judge(body.as_bytes(), "t", "signet-ca");
            assert!(matches!(judged, Err(Unusable::Unreadable(_))), "{body}: {judged:?}");
        }
    }
}
