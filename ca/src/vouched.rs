//! Certificates and tokens for processes that an agent vouches for.
//!
//! An agent runs once on a host and knows its processes by the kernel's word. It asks by its own certificate, names an
//! entry of the registry and says what it saw; whether that entry is this agent's to use, and means a process of which
//! that is true, is judged here, in the issuing transaction, and not by the agent. So a stolen agent gets what its
//! entries name and nothing else. What it gets is of class `workload`, of the agent's lineage, ends no later than the
//! certificate that asked, and is revoked with the agent: its identity, its key, its certificate or its lineage.

use std::sync::{Arc, PoisonError};

use rustls_pki_types::CertificateDer;
use signet_identity::{PeerClass, SpiffeId};
use signet_token::jwt_svid;

use crate::authorise::{SharedRegistrar, Stop, Tie};
use crate::authority::{Authority, Inner};
use crate::csr::bounded;
use crate::error::AuthorityError;
use crate::issue::{self, Issued};
use crate::jwt::{Bearer, JwtSvid};
use crate::limits::Holder;
use crate::peer::Peer;
use crate::refusal::Refusal;
use crate::store::Guarded;

/// Longer words than this say nothing more, and are kept for years.
const MAX_WORDS: usize = 512;

/// What the registry makes of what an agent said.
#[derive(Debug, Clone)]
pub struct Vouched {
    /// Who the process is.
    pub spiffe_id: SpiffeId,
    /// By which entry and what facts; for the log.
    pub words: String,
}

/// Judges what the agent of this identity says, by the registry of this moment.
pub type Judge = Arc<dyn Fn(&SpiffeId) -> Result<Vouched, Refusal> + Send + Sync>;

impl Authority {
    /// Issues a certificate of class `workload` to the key of this request, for a process of the host of the agent that
    /// presented `presented` (its leaf, DER). The caller's TLS has verified it and the agent's possession of its key.
    pub async fn issue_vouched(
        &self,
        presented: &CertificateDer<'_>,
        csr: &[u8],
        judge: Judge,
        registrar: SharedRegistrar,
    ) -> Result<Issued, AuthorityError> {
        let csr = bounded(csr);
        self.act_of_peer(presented, move |inner, peer| async move {
            let issued = inner.issue_vouched(&peer, csr, &judge, registrar).await?;
            inner.issued("agent", &issued);
            Ok(issued)
        })
        .await
    }

    /// Signs a JWT-SVID for such a process, and records it.
    pub async fn sign_vouched_jwt(
        &self,
        presented: &CertificateDer<'_>,
        audiences: Vec<String>,
        judge: Judge,
        registrar: SharedRegistrar,
    ) -> Result<JwtSvid, AuthorityError> {
        self.act_of_peer(presented, move |inner, peer| async move {
            let svid = inner.vouched_jwt(&peer, &audiences, &judge, registrar).await?;
            inner.jwt_issued(&svid, &audiences);
            Ok(svid)
        })
        .await
    }
}

impl Inner {
    async fn issue_vouched(
        &self,
        peer: &Peer,
        csr: Result<Vec<u8>, Refusal>,
        judge: &Judge,
        registrar: SharedRegistrar,
    ) -> Result<Issued, Stop> {
        let &Peer { leaf: ref presented, ref actor, now } = peer;
        let refuse = |refusal| Stop::Refused(refusal, None);
        let key = self.key_of(&csr.map_err(refuse)?).map_err(refuse)?;
        let issuer = self.issuer(now).await?;
        let key_hash = key.sha256();
        let mut writer = self.store.begin_once(&[Guarded::Key(&key_hash)]).await?;
        let authorized = self.rules.by_agent(&mut writer, presented, &key, judge, &*registrar, now).await?;
        if let Some(agent) = authorized.agent() {
            let counted = [Holder::of(agent), Holder::vouched(agent, authorized.id())];
            if !self.processes.lock().unwrap_or_else(PoisonError::into_inner).admit(&counted, now) {
                let about = (authorized.id().clone(), authorized.class());
                return Err(Stop::Refused(Refusal::TooManyAttempts, Some(about)));
            }
        }
        let issued =
            issue::issue(&mut writer, &authorized, &key, &issuer, (self.svid_ttl, now), actor).await?;
        writer.commit().await?;
        Ok(issued)
    }

    async fn vouched_jwt(
        &self,
        peer: &Peer,
        audiences: &[String],
        judge: &Judge,
        registrar: SharedRegistrar,
    ) -> Result<JwtSvid, Stop> {
        let &Peer { leaf: ref presented, ref actor, now } = peer;
        if !jwt_svid::are_audiences(audiences) {
            return Err(Stop::Refused(Refusal::Audience, None));
        }
        let class = PeerClass::Workload;
        let mut writer = self.store.begin().await?;
        let (agent, vouched) = self.rules.agent(&mut writer, presented, judge, &*registrar, now).await?;
        let id = vouched.spiffe_id;
        let refuse = |refusal| Stop::Refused(refusal, Some((id.clone(), class)));
        if let Err(refusal) = self.rules.may_be_vouched_for(&mut writer, &id, now).await? {
            return Err(refuse(refusal));
        }
        if registrar.dns_names(&id, class).is_none() {
            return Err(refuse(Refusal::WorkloadApiOff));
        }
        let counted = [Holder::of(&agent.tie)];
        if !self.jwt_svids.lock().unwrap_or_else(PoisonError::into_inner).admit(&counted, now) {
            return Err(refuse(Refusal::TooManyAttempts));
        }
        let lineage_end = match &agent.tie {
            Tie::Lineage(lineage) => lineage.ends_at,
            Tie::Instance(_) => i64::MAX,
        };
        let words = format!("for {}; {}", audiences.join(", "), short(vouched.words));
        let bearer = Bearer { id, ends_at: lineage_end.min(agent.not_after), words };
        self.bearer_token(writer, bearer, audiences, actor, now).await
    }
}

/// Words for the log, of bounded length.
pub(crate) fn short(mut words: String) -> String {
    if words.len() > MAX_WORDS {
        let end = (0..=MAX_WORDS).rev().find(|at| words.is_char_boundary(*at)).unwrap_or(0);
        words.truncate(end);
        words.push('…');
    }
    words
}
