//! The answer to an `AdmissionReview` about a pod.
//!
//! What the API server does with an answer was recorded from a real one: an answer without the request's uid, of another version or
//! with a patch that does not apply fails the request with a text that names nobody. So there are two kinds of answers here: a review of
//! exactly the request's uid, and for what is no review a status that says what was expected.

use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Namespace, Outcome, ProbeKey, Settings, Skip, forbids_debugging, inject};

/// The one version that there is.
const VERSION: &str = "admission.k8s.io/v1";
/// Servers cut what is longer, and drop what is much longer.
const WARNINGS: (usize, usize) = (8, 240);

/// What the API server sends.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Option<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    resource: Resource,
    #[serde(default)]
    sub_resource: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    operation: String,
    #[serde(default)]
    object: Value,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(default)]
    group: String,
    resource: String,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A review.
    Review {
        /// As it is sent.
        body: Value,
        /// What became of the pod: `injected`, `unchanged`, `skipped`, `refused`, `ignored`.
        outcome: &'static str,
        /// Why, where it was skipped or refused; empty otherwise.
        reason: &'static str,
    },
    /// What came was no review: HTTP 400 with this text.
    NoReview(String),
}

/// Answers one review.
///
/// Whether the namespace asks for injection was decided by the webhook's selectors, so it does here.
#[must_use]
pub fn answer(body: &[u8], settings: &Settings, key: &ProbeKey) -> Answer {
    let review: Review = match serde_json::from_slice(body) {
        Ok(review) => review,
        Err(error) => return Answer::NoReview(format!("expected an AdmissionReview in JSON: {error}")),
    };
    if (review.api_version.as_str(), review.kind.as_str()) != (VERSION, "AdmissionReview") {
        let short = |text: &str| text.chars().take(100).collect::<String>();
        let got = format!("{:?} {:?}", short(&review.api_version), short(&review.kind));
        return Answer::NoReview(format!("expected {VERSION:?} \"AdmissionReview\", got {got}"));
    }
    let Some(request) = review.request.filter(|request| !request.uid.is_empty()) else {
        return Answer::NoReview("expected a request with a uid, got none".to_owned());
    };
    let is_pod = request.resource.group.is_empty() && request.resource.resource == "pods";
    match (is_pod, request.operation.as_str(), request.sub_resource.as_deref().unwrap_or_default()) {
        (true, "CREATE", "") => created(&request, settings, key),
        (true, "UPDATE", "ephemeralcontainers") => match forbids_debugging(&request.object, settings) {
            Ok(()) => allowed(&request, "ignored", "", &[]),
            Err(refusal) => denied(&request, &refusal),
        },
        // Nothing of ours; the configuration of the webhook does not ask for it.
        _ => allowed(&request, "ignored", "", &[]),
    }
}

fn created(request: &Request, settings: &Settings, key: &ProbeKey) -> Answer {
    let within = request.object.pointer("/metadata/namespace").and_then(Value::as_str);
    let name = request.namespace.as_deref().or(within).unwrap_or_default().to_owned();
    match inject(&request.object, &Namespace { name, injects: true }, settings, key) {
        Outcome::Injected(done) if done.patch.is_empty() => allowed(request, "unchanged", "", &done.warnings),
        Outcome::Injected(done) => {
            let patch = serde_json::to_vec(&done.patch).unwrap_or_default();
            let mut answer = allowed(request, "injected", "", &done.warnings);
            if let Answer::Review { body, .. } = &mut answer
                && let Some(response) = body.get_mut("response").and_then(Value::as_object_mut)
            {
                response.insert("patchType".to_owned(), "JSONPatch".into());
                let text = base64::engine::general_purpose::STANDARD.encode(patch);
                response.insert("patch".to_owned(), text.into());
            }
            answer
        }
        Outcome::Skipped(skip) => {
            let silent = matches!(skip, Skip::Disabled | Skip::NotEnabled | Skip::OtherRevision(_));
            let said = (!silent).then(|| format!("signet: not in the mesh: {skip}"));
            allowed(request, "skipped", skip.label(), said.as_slice())
        }
        Outcome::Refused(refusal) => denied(request, &refusal),
    }
}

fn allowed(request: &Request, outcome: &'static str, reason: &'static str, warnings: &[String]) -> Answer {
    let mut response = json!({"uid": request.uid, "allowed": true});
    let short = |text: &String| text.chars().take(WARNINGS.1).collect::<String>();
    let warnings: Vec<String> = warnings.iter().take(WARNINGS.0).map(short).collect();
    if let (false, Some(response)) = (warnings.is_empty(), response.as_object_mut()) {
        response.insert("warnings".to_owned(), json!(warnings));
    }
    wrapped(response, outcome, reason)
}

fn denied(request: &Request, refusal: &super::Refusal) -> Answer {
    let status = json!({"code": 403, "reason": "Forbidden", "message": format!("signet: {refusal}")});
    wrapped(json!({"uid": request.uid, "allowed": false, "status": status}), "refused", refusal.label())
}

fn wrapped(response: Value, outcome: &'static str, reason: &'static str) -> Answer {
    let body = json!({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response});
    Answer::Review { body, outcome, reason }
}
