//! An explanation in words: one sentence for lists, a few lines for terminals.
//!
//! Control characters that came from callers are escaped, so that a terminal shows them and obeys none.

use std::fmt;

use crate::explain::{ALLOWED, Answer, Deciding, Explanation, External, NearMiss};
use crate::verdict::Basis;

impl Explanation {
    pub(crate) fn sentence(&self) -> String {
        let service = &self.facts.service;
        match self.basis {
            Basis::Permit => format!("permitted by {}", names(&self.deciding)),
            Basis::Forbid => format!("forbidden by {}", names(&self.deciding)),
            Basis::External => match self.external.iter().find_map(refused) {
                Some((provider, outcome)) => {
                    let by = if self.deciding.is_empty() {
                        "the mesh's default".into()
                    } else {
                        names(&self.deciding)
                    };
                    format!("permitted by {by}, and not by provider {provider}: {outcome}")
                }
                None => "not permitted by a provider".to_owned(),
            },
            Basis::Default if self.default_allow => {
                "no policy matches, and the mesh's default is to allow".to_owned()
            }
            Basis::Default => match self.near_misses.first() {
                None => format!("no policy permits this; {service} has no permit at all"),
                Some(miss) => format!("no policy permits this; nearest is {}", failure(miss)),
            },
            Basis::NotUnderstood => match self.not_understood.first() {
                None => format!("{service} denies everything: a policy of it cannot be read"),
                Some(line) => {
                    format!(
                        "{service} denies everything: policy {} cannot be read: {}",
                        line.policy, line.reason
                    )
                }
            },
        }
    }
}

fn refused(asked: &External) -> Option<(&str, &str)> {
    let outcome = asked.outcome.as_deref().filter(|outcome| *outcome != ALLOWED)?;
    Some((&asked.provider, outcome))
}

fn names(deciding: &[Deciding]) -> String {
    let name = |line: &Deciding| match line.by_absence.as_slice() {
        [] => line.policy.clone(),
        absent => format!("{} (absent: {})", line.policy, absent.join(", ")),
    };
    deciding.iter().map(name).collect::<Vec<_>>().join(" and ")
}

fn failure(miss: &NearMiss) -> String {
    let NearMiss { policy, failed, expected, had, also_failed } = miss;
    let also = match also_failed.as_slice() {
        [] => String::new(),
        others => format!("; also {}", others.join(", ")),
    };
    format!("{policy}: {failed} expected {expected}, had {had}{also}")
}

impl fmt::Display for Explanation {
    /// A few lines of text: the verdict with its reason, the request, then what the reason left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &self.facts;
        let request = match (&facts.grpc, &facts.method, &facts.path) {
            (Some(grpc), _, _) => grpc.clone(),
            (None, Some(method), Some(path)) => format!("{method} {path}"),
            _ => "a connection".to_owned(),
        };
        let user = facts.user.as_ref().map_or("no user".to_owned(), |user| {
            let actor = user.actor.as_ref().map(|actor| format!(", {actor} acts"));
            let actor = actor.unwrap_or_default();
            format!("user {} ({}, {}{actor})", user.sub, user.cred, user.context.as_str())
        });
        let verdict = if self.verdict == Answer::Allow { "allowed" } else { "denied" };
        writeln!(f, "{verdict}: {}", visible(&self.reason))?;
        let line = format!("{request} to {} port {} from {}, {user}", facts.service, facts.port, facts.peer);
        writeln!(f, "{}", visible(&line))?;
        for line in self.not_understood.iter().skip(1) {
            writeln!(f, "  policy {} cannot be read either: {}", line.policy, visible(&line.reason))?;
        }
        for miss in self.near_misses.iter().skip(1) {
            writeln!(f, "  not permitted by {}", visible(&failure(miss)))?;
        }
        for External { provider, outcome } in &self.external {
            match outcome {
                Some(outcome) => writeln!(f, "  provider {provider} was asked: {}", visible(outcome))?,
                None => writeln!(f, "  provider {provider} is asked")?,
            }
        }
        for line in &self.shadow {
            let would = if line.would_allow { "allow" } else { "deny" };
            writeln!(f, "  shadow policy {} would {would}", line.policy)?;
        }
        for line in &self.excepted {
            let line = format!("{} spares this until {}, says {}", line.policy, line.until, line.owner);
            writeln!(f, "  {}", visible(&line))?;
        }
        Ok(())
    }
}

pub(crate) fn visible(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}
