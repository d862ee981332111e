//! The answer to an `AdmissionReview` about a pod.
//!
//! What the API server does with an answer was recorded from a real one: an answer without the request's uid, of another version or
//! with a patch that does not apply fails the request with a text that names nobody. So there are two kinds of answers here: a review of
//! exactly the request's uid, and for what is no review a status that says what was expected.

use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Namespace, Outcome, ProbeKey, Settings, Skip, forbids_debugging, inject, member};

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
    request: Option<Question>,
}

/// What it asks: whether this may be done.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    uid: String,
    resource: Resource,
    #[serde(default)]
    sub_resource: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    operation: String,
    /// As it would be.
    #[serde(default)]
    pub object: Value,
    /// As it was, in an update.
    #[serde(default)]
    pub old_object: Value,
}

#[derive(Debug, Clone, Deserialize)]
struct Resource {
    #[serde(default)]
    group: String,
    resource: String,
}

impl Question {
    /// Reads one.
    ///
    /// # Errors
    /// What was expected, where it is none.
    pub fn read(body: &[u8]) -> Result<Question, String> {
        let review: Review = serde_json::from_slice(body)
            .map_err(|error| format!("expected an AdmissionReview in JSON: {error}"))?;
        if (review.api_version.as_str(), review.kind.as_str()) != (VERSION, "AdmissionReview") {
            let short = |text: &str| text.chars().take(100).collect::<String>();
            let got = format!("{:?} {:?}", short(&review.api_version), short(&review.kind));
            return Err(format!("expected {VERSION:?} \"AdmissionReview\", got {got}"));
        }
        let question = review.request.filter(|request| !request.uid.is_empty());
        question.ok_or_else(|| "expected a request with a uid, got none".to_owned())
    }

    /// Group and plural of what it is about.
    #[must_use]
    pub fn resource(&self) -> (&str, &str) {
        (&self.resource.group, &self.resource.resource)
    }

    /// `CREATE` or another operation, and the part of the object that it is about; empty for all of it.
    #[must_use]
    pub fn operation(&self) -> (&str, &str) {
        (&self.operation, self.sub_resource.as_deref().unwrap_or_default())
    }

    fn is_about_pods(&self) -> bool {
        self.resource() == ("", "pods")
    }

    /// The namespace; empty for what has none.
    #[must_use]
    pub fn namespace(&self) -> &str {
        let within = self.object.pointer("/metadata/namespace").and_then(Value::as_str);
        self.namespace.as_deref().or(within).unwrap_or_default()
    }

    /// That it may be done.
    #[must_use]
    pub fn allowed(&self, outcome: &'static str, reason: &'static str, warnings: &[String]) -> Answer {
        let mut response = json!({"uid": self.uid, "allowed": true});
        let short = |text: &String| text.chars().take(WARNINGS.1).collect::<String>();
        let warnings: Vec<String> = warnings.iter().take(WARNINGS.0).map(short).collect();
        if let (false, Some(response)) = (warnings.is_empty(), response.as_object_mut()) {
            response.insert("warnings".to_owned(), json!(warnings));
        }
        wrapped(response, outcome, reason)
    }

    /// That it may not; `status` is what its author is told.
    #[must_use]
    pub fn denied(&self, status: Value, reason: &'static str) -> Answer {
        wrapped(json!({"uid": self.uid, "allowed": false, "status": status}), "refused", reason)
    }

    fn refused(&self, refusal: &super::Refusal) -> Answer {
        let status = json!({"code": 403, "reason": "Forbidden", "message": format!("signet: {refusal}")});
        self.denied(status, refusal.label())
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A review.
    Review {
        /// As it is sent.
        body: Value,
        /// What became of it: `injected`, `unchanged`, `skipped`, `judged`, `refused`, `ignored`.
        outcome: &'static str,
        /// Why, where it was skipped or refused; empty otherwise.
        reason: &'static str,
    },
    /// What came was no review: HTTP 400 with this text.
    NoReview(String),
}

/// Answers one review of who injects.
///
/// Whether the namespace asks for injection was decided by the webhook's selectors, so it does here.
#[must_use]
pub fn answer(body: &[u8], settings: &Settings, key: &ProbeKey) -> Answer {
    let question = match Question::read(body) {
        Ok(question) => question,
        Err(expected) => return Answer::NoReview(expected),
    };
    match (question.is_about_pods(), question.operation()) {
        (true, ("CREATE", "")) => created(&question, settings, key),
        (true, ("UPDATE", "ephemeralcontainers")) => debugged(&question, settings),
        // Nothing of ours; the configuration of the webhook does not ask for it.
        _ => question.allowed("ignored", "", &[]),
    }
}

/// Answers a question about a pod as it would be stored, when everybody has changed it who may. None: it is not about one.
///
/// The webhook's selectors ask about pods that are to be in the mesh alone.
#[must_use]
pub fn judged(question: &Question, settings: &Settings) -> Option<Answer> {
    match (question.is_about_pods(), question.operation()) {
        (true, ("CREATE", "")) => Some(match member(&question.object, question.namespace(), settings) {
            Ok(()) => question.allowed("judged", "", &[]),
            Err(refusal) => question.refused(&refusal),
        }),
        (true, ("UPDATE", "ephemeralcontainers")) => Some(debugged(question, settings)),
        _ => None,
    }
}

fn debugged(question: &Question, settings: &Settings) -> Answer {
    match forbids_debugging(&question.object, settings) {
        Ok(()) => question.allowed("ignored", "", &[]),
        Err(refusal) => question.refused(&refusal),
    }
}

fn created(question: &Question, settings: &Settings, key: &ProbeKey) -> Answer {
    let namespace = Namespace { name: question.namespace().to_owned(), injects: true };
    match inject(&question.object, &namespace, settings, key) {
        Outcome::Injected(done) if done.patch.is_empty() => question.allowed("unchanged", "", &done.warnings),
        Outcome::Injected(done) => {
            let patch = serde_json::to_vec(&done.patch).unwrap_or_default();
            let mut answer = question.allowed("injected", "", &done.warnings);
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
            question.allowed("skipped", skip.label(), said.as_slice())
        }
        Outcome::Refused(refusal) => question.refused(&refusal),
    }
}

fn wrapped(response: Value, outcome: &'static str, reason: &'static str) -> Answer {
    let body = json!({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response});
    Answer::Review { body, outcome, reason }
}
