//! After a disaster: what an older store forgot, or a stolen key may have made, is taken out of use as a whole.
//!
//! A store that was restored from a copy does not know what came after the copy: a join token that was used since would
//! be good again, and a certificate that was renewed since could be renewed once more, by whoever kept it. Nobody can
//! say what was lost, so all of it ends: every unused token, and every chain of renewals. Workloads join or are attested
//! again. What they hold meanwhile goes on until its end, unless issuers and keys are replaced, too.

use crate::authority::Authority;
use crate::error::AuthorityError;
use crate::record::{Entry, Event};
use crate::rotation::{Kind, Phase};

/// What is to be replaced beside what ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovery {
    /// The root's key may be in other hands.
    pub root: bool,
    /// What issuers and keys of every control plane signed is not to be believed.
    pub issuers: bool,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Join tokens that had not been used.
    pub tokens: u64,
    /// Chains of renewals that had not ended.
    pub lineages: u64,
    /// Names of roots, issuers and keys that are tainted now.
    pub tainted: Vec<String>,
}

impl Authority {
    /// Ends every unused join token and every chain of renewals, and taints what the plan says. Asking twice does no
    /// harm.
    pub async fn recover(
        &self,
        plan: Recovery,
        reason: &str,
        actor: &str,
    ) -> Result<Recovered, AuthorityError> {
        let (by, why) = (actor.to_owned(), reason.to_owned());
        let (tokens, lineages) = self
            .act(move |inner| async move {
                let now = inner.clock.unix_seconds();
                let mut writer = inner.store.begin_alone().await?;
                let tokens = writer.end_tokens(now).await?;
                writer.end_deferred().await?;
                let lineages = writer.end_lineages(now).await?;
                let words = format!("{tokens} join tokens and {lineages} chains of renewals ended: {why}");
                writer.record(Entry::new(now, Event::Recovered, &by).because(&words)).await?;
                writer.commit().await?;
                tracing::warn!(target: "signet::ca", tokens, lineages, actor = by, reason = why,
                    "recovery: unused join tokens and chains of renewals were ended");
                Ok((tokens, lineages))
            })
            .await?;
        let mut tainted = Vec::new();
        for authority in self.authorities().await? {
            let wanted = match authority.kind {
                Kind::Root => plan.root,
                Kind::Issuer | Kind::Token | Kind::Jwt => plan.issuers,
            };
            let signs = matches!(authority.phase, Phase::Active | Phase::Draining);
            if wanted && signs && authority.tainted_at.is_none() {
                self.taint(&authority.id, actor).await?;
                tainted.push(authority.id);
            }
        }
        Ok(Recovered { tokens, lineages, tainted })
    }
}
