//! What is believed of a federated trust domain, and what may take its place. Pure.

use std::sync::Arc;

use signet_bundle::{Document, DocumentError};
use signet_identity::{KeyId, TrustDomain};

/// Why a document that came from the right endpoint is not believed all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("what the endpoint serves is not the bundle of this trust domain: {0}")]
    Document(#[from] DocumentError),
    #[error(
        "the endpoint serves sequence {got}, older than {held} which was seen before: one of its replicas is behind, or the domain was made anew; in that case bring a new initial bundle, or remove the FederatedTrustDomain and add it again"
    )]
    Rollback { held: u64, got: u64 },
}

impl Refused {
    /// A short name for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Document(_) => "document",
            Self::Rollback { .. } => "rollback",
        }
    }
}

/// A bundle that is believed.
#[derive(Debug, Clone)]
pub struct Held {
    pub document: Document,
    pub text: Arc<str>,
    /// Our own number, which grows with each change of the keys whatever the publisher counts: sidecars never take
    /// an older bundle for a newer one.
    pub revision: u64,
    /// The largest sequence that was ever seen.
    pub highest: Option<u64>,
    /// Digest of the initial bundle that it goes back to, where there is one.
    pub initial: Option<KeyId>,
    /// Whether it is that initial bundle itself, and the endpoint was not reached since.
    pub is_initial: bool,
}

/// A bundle that an operator brought.
#[derive(Debug, Clone)]
pub struct Brought {
    pub document: Document,
    pub text: Arc<str>,
    /// SHA-256 of the text.
    pub digest: KeyId,
}

impl Held {
    /// Begins anew from what an operator brought, whatever was held before.
    #[must_use]
    pub fn initial(before: Option<&Held>, brought: Brought, now: i64) -> Held {
        Held {
            revision: revision(before, &brought.document, now),
            highest: brought.document.sequence(),
            initial: Some(brought.digest),
            is_initial: true,
            document: brought.document,
            text: brought.text,
        }
    }
}

/// What is held after the endpoint served `text`.
///
/// # Errors
/// [`Refused`]: what was held before is still held.
pub fn accept(before: Option<&Held>, domain: &TrustDomain, text: &str, now: i64) -> Result<Held, Refused> {
    let document = Document::parse(domain, text.as_bytes())?;
    let highest = before.and_then(|held| held.highest);
    if let (Some(held), Some(got)) = (highest, document.sequence())
        && got < held
    {
        return Err(Refused::Rollback { held, got });
    }
    Ok(Held {
        revision: revision(before, &document, now),
        // A publisher may leave the number out; that does not make it forget its own past.
        highest: highest.max(document.sequence()),
        initial: before.and_then(|held| held.initial),
        is_initial: false,
        document,
        text: text.into(),
    })
}

/// Follows the clock, so that what was kept and lost begins above what sidecars have heard.
fn revision(before: Option<&Held>, next: &Document, now: i64) -> u64 {
    let now = u64::try_from(now).unwrap_or(0);
    match before {
        Some(held) if held.document.has_the_keys_of(next) => held.revision,
        Some(held) => held.revision.saturating_add(1).max(now),
        None => now.max(1),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use signet_identity::testing::TestCa;
    use signet_token::Jwks;

    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::parse("partner.example").unwrap()
    }

    fn text(ca: &TestCa, sequence: u64) -> String {
        signet_bundle::write(&ca.bundle(), &Jwks::default(), sequence, Duration::from_secs(60))
    }

    fn brought(ca: &TestCa, sequence: u64) -> Brought {
        let text = text(ca, sequence);
        let document = Document::parse(&domain(), text.as_bytes()).unwrap();
        Brought { document, text: text.into(), digest: KeyId::from_bytes([7; 32]) }
    }

    #[test]
    fn a_sequence_that_goes_back_is_refused_and_what_was_held_stays() {
        let (old, new) = (TestCa::new("partner.example"), TestCa::new("partner.example"));
        let held = accept(None, &domain(), &text(&new, 9), 1_000).unwrap();
        let refused = accept(Some(&held), &domain(), &text(&old, 8), 1_001).unwrap_err();
        assert_eq!(refused, Refused::Rollback { held: 9, got: 8 });
        assert!(accept(Some(&held), &domain(), &text(&new, 9), 1_001).is_ok());
        // A document without a number does not open the way back.
        let unnumbered = text(&new, 9).replace(r#""spiffe_sequence":9"#, r#""x":9"#);
        let held = accept(Some(&held), &domain(), &unnumbered, 1_002).unwrap();
        assert_eq!(accept(Some(&held), &domain(), &text(&old, 8), 1_003).unwrap_err().label(), "rollback");
    }

    #[test]
    fn the_revision_grows_with_the_keys_and_not_with_the_number() {
        let (old, new) = (TestCa::new("partner.example"), TestCa::new("partner.example"));
        let first = accept(None, &domain(), &text(&old, 1), 1_000).unwrap();
        let same = accept(Some(&first), &domain(), &text(&old, 2), 2_000).unwrap();
        let changed = accept(Some(&same), &domain(), &text(&new, 3), 2_000).unwrap();
        let at_once = accept(Some(&changed), &domain(), &text(&old, 4), 2_000).unwrap();
        let revisions = [first, same, changed, at_once].map(|held| held.revision);
        assert_eq!(revisions, [1_000, 1_000, 2_000, 2_001]);
    }

    #[test]
    fn an_operator_may_bring_an_older_number() {
        let ca = TestCa::new("partner.example");
        let held = accept(None, &domain(), &text(&ca, 9), 1_000).unwrap();
        let anew = Held::initial(Some(&held), brought(&TestCa::new("partner.example"), 1), 1_001);
        assert!((anew.revision, anew.highest, anew.is_initial) == (1_001, Some(1), true));
        let next = accept(Some(&anew), &domain(), &text(&ca, 2), 1_002).unwrap();
        assert_eq!((next.initial, next.is_initial), (Some(KeyId::from_bytes([7; 32])), false));
    }

    #[test]
    fn the_bundle_of_another_trust_domain_is_refused() {
        let refused = accept(None, &domain(), &text(&TestCa::new("other.example"), 1), 1_000).unwrap_err();
        assert_eq!(refused.label(), "document");
    }
}
