//! A recorded decision, decided again by other policies.
//!
//! A record keeps what the policies of its time looked at. Other policies may look at more: then nothing is guessed, and
//! the decision is undecidable.

use serde_json::Map;
use signet_identity::SpiffeId;
use signet_model::Protocol;

use crate::explain::{ALLOWED, Answer, Explanation, FactsSummary};
use crate::facts::{Facts, Headers, User};
use crate::set::PolicySet;
use crate::verdict::Basis;

/// What other policies say of a recorded decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// The same.
    Unchanged,
    /// This instead, for this reason.
    Flipped { to: Answer, reason: String },
    /// They look at what was not recorded.
    Undecidable(String),
}

#[derive(Debug)]
struct Recorded<'a>(&'a FactsSummary);

impl Headers for Recorded<'_> {
    fn any_line(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.0.headers.get(name).into_iter().flatten().any(|line| test(line.as_bytes()))
    }
}

/// Somebody who is asked now, and was not then.
fn unanswered(now: &Explanation, then: &Explanation) -> Option<String> {
    let answer = |name: &str| then.external.iter().find(|asked| asked.provider == name)?.outcome.as_deref();
    let refused = refuses(now, then);
    // One no is enough, whatever others would have said.
    let asked = now.external.iter().find(|asked| !refused && answer(&asked.provider).is_none())?;
    Some(format!("provider {} was not asked about it", asked.provider))
}

/// Whether somebody is asked now who did not let it pass then.
fn refuses(now: &Explanation, then: &Explanation) -> bool {
    let refused =
        then.external.iter().filter(|asked| asked.outcome.as_deref().is_some_and(|it| it != ALLOWED));
    refused.into_iter().any(|asked| now.external.iter().any(|again| again.provider == asked.provider))
}

impl PolicySet {
    /// Decides a recorded request again, as at its own time.
    pub fn replay(&self, then: &Explanation, at_ms: i64) -> Replayed {
        let recorded = &then.facts;
        if let Some(unknown) = self.unknown_in(recorded) {
            return Replayed::Undecidable(unknown);
        }
        let (Ok(peer), Ok(peer_class)) = (SpiffeId::parse(&recorded.peer), recorded.peer_class.parse())
        else {
            return Replayed::Undecidable("the caller is not recorded as a whole".into());
        };
        let user = recorded.user.as_ref().map(|user| User {
            sub: user.sub.clone(),
            scopes: user.scopes.clone(),
            claims: user
                .claims
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect::<Map<_, _>>(),
            cred: user.cred.clone(),
            context: user.context,
            actor: user.actor.clone(),
        });
        let lines = Recorded(recorded);
        let facts = Facts {
            peer: &peer,
            peer_class,
            user: user.as_ref(),
            port: &recorded.port,
            // No condition looks at it.
            protocol: Protocol::Auto,
            method: recorded.method.as_deref(),
            path: recorded.path.as_deref(),
            grpc: recorded.grpc.as_deref(),
            headers: recorded.method.is_some().then_some(&lines),
            now_ms: at_ms,
        };
        let now = self.explain(&facts);
        if let (Answer::Allow, Some(unknown)) = (now.verdict, unanswered(&now, then)) {
            return Replayed::Undecidable(unknown);
        }
        // Who refused it then is asked again, about the same.
        let refused_again =
            then.basis == Basis::External && now.verdict == Answer::Allow && refuses(&now, then);
        if refused_again || now.verdict == then.verdict {
            Replayed::Unchanged
        } else {
            Replayed::Flipped { to: now.verdict, reason: now.reason }
        }
    }

    /// What these policies look at and the record does not have.
    fn unknown_in(&self, recorded: &FactsSummary) -> Option<String> {
        let cut = |text: &Option<String>| text.as_ref().is_some_and(|text| text.ends_with('…'));
        if cut(&recorded.path) || cut(&recorded.grpc) || cut(&recorded.method) {
            return Some("the request is not recorded as a whole".into());
        }
        if let Some(user) = &recorded.user {
            let texts = user.scopes.iter().chain([&user.sub, &user.cred]).chain(&user.actor);
            if texts.into_iter().any(|text| text.ends_with('…')) {
                return Some("the user is not recorded as a whole".into());
            }
            if let Some(name) = self.reads.claims.iter().find(|name| !user.claims.contains_key(&***name)) {
                return Some(format!("the claim `{name}` was not recorded"));
            }
        }
        let is_request = recorded.method.is_some();
        let unknown = self.reads.headers.iter().find(|name| !recorded.headers.contains_key(&***name));
        unknown.filter(|_| is_request).map(|name| format!("the header `{name}` was not recorded"))
    }
}
