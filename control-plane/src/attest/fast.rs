//! The fast mode: a token judged here, by the cluster's keys and the pods that are known to run.
//!
//! It spares the API server a call for each certificate. What it cannot affirm it does not decide: a pod that is not
//! known yet, a key that is not there, news that are too old, and the server is asked as ever. What it gives
//! up is immediate notice of what no pod shows: a service account that was deleted or made again keeps its
//! pods, and they keep their identity until they end.

use std::sync::Arc;

use signet_ca::Refusal;
use signet_token::KeyLookup;

use super::keys::KeyRing;
use super::pods::Pod;
use super::review::{Account, is_object_text, service_account};
use super::token;
use super::watch::Pods;

/// Clocks of one cluster differ by less.
const SKEW: i64 = 5;

/// See the module's story.
pub struct Fast {
    pub keys: Arc<KeyRing>,
    pub pods: Arc<Pods>,
}

/// What became of a token.
pub enum Judged {
    Proven(Account, Arc<Pod>),
    Refused(Refusal),
    /// Ask the server.
    Unknown,
}

impl From<Refusal> for Judged {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Fast {
    #[must_use]
    pub fn judge(&self, token: &str, audience: &str, now: i64) -> Judged {
        match self.try_judge(token, audience, now) {
            Ok((account, pod)) => Judged::Proven(account, pod),
            Err(judged) => judged,
        }
    }

    fn try_judge(&self, token: &str, audience: &str, now: i64) -> Result<(Account, Arc<Pod>), Judged> {
        // A signature of a kind that we do not know is not a bad one.
        let (compact, claims) = token::parse(token).map_err(|_| Judged::Unknown)?;
        let keys = self.keys.current().filter(|keys| keys.issuer == claims.iss).ok_or(Judged::Unknown)?;
        let kid = compact.kid().ok_or(Judged::Unknown)?;
        let key = keys.keys.find(Some(kid), compact.algorithm()).map_err(|lookup| {
            if lookup == KeyLookup::Unknown {
                self.keys.want();
            }
            Judged::Unknown
        })?;
        compact.verify(key).map_err(|_| Refusal::EvidenceRefused)?;
        if !claims.aud.0.iter().any(|found| found == audience) {
            return Err(Refusal::EvidenceAudience.into());
        }
        if now >= claims.exp {
            return Err(Refusal::EvidenceExpired.into());
        }
        if claims.nbf.is_some_and(|nbf| nbf > now.saturating_add(SKEW)) {
            return Err(Refusal::EvidenceRefused.into());
        }
        let id = service_account(&claims.sub).ok_or(Refusal::EvidenceUser)?;
        let bound = claims.bound;
        if id.namespace != *bound.namespace || id.account != *bound.serviceaccount.name {
            return Err(Refusal::EvidenceMalformed.into());
        }
        let (Some(pod), Some(node)) = (bound.pod, bound.node) else {
            return Err(Refusal::EvidenceUnbound.into());
        };
        if ![&pod.name, &pod.uid, &node.name].into_iter().all(|text| is_object_text(text)) {
            return Err(Refusal::EvidenceUnbound.into());
        }
        let account = Account { account: id, pod: pod.name, pod_uid: pod.uid, node: node.name };
        let known = self.pods.current(&account.pod_uid).ok_or(Judged::Unknown)?;
        known.is_that_of(&account)?;
        if known.terminating {
            return Err(Refusal::EvidencePod.into());
        }
        Ok((account, known))
    }
}
