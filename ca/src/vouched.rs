//! Certificates and tokens for processes that an agent vouches for.
//!
//! An agent runs once on a host and knows its processes by the kernel's word. It asks by its own certificate, names an
//! entry of the registry and says what it saw; whether that entry is this agent's to use, and means a process of which
//! that is true, is judged here, in the issuing transaction, and not by the agent. So a stolen agent gets what its
//! entries name and nothing else. What it gets is of class `workload`, of the agent's lineage, ends no later than the
//! certificate that asked, and is revoked with the agent: its identity, its key, its certificate or its lineage.
//!
//! An agent asks for several processes at once. That is one act, so that who asks is looked at once and what comes of it
//! is written at once; each process is judged, granted or refused by itself.

use std::sync::{Arc, PoisonError};

use rustls_pki_types::CertificateDer;
use signet_identity::{PeerClass, SpiffeId};
use signet_token::jwt_svid;

use crate::authorise::{Holder as Agent, SharedRegistrar, Stop, Tie};
use crate::authority::{Authority, Caller, Inner};
use crate::csr::{ProvenKey, bounded};
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

/// What is asked for one process.
pub struct Asked<'a> {
    /// PKCS #10, DER.
    pub csr: &'a [u8],
    pub judge: Judge,
}

struct Bounded {
    csr: Result<Vec<u8>, Refusal>,
    judge: Judge,
}

impl Authority {
    /// Issues certificates of class `workload` to the keys of these requests, for processes of the host of the agent that
    /// presented `presented` (its leaf, DER), and says what came of each, in their order. The caller's TLS has verified
    /// the agent's certificate and its possession of the key.
    ///
    /// # Errors
    /// What concerns them all: who asks, or that nothing could be written; then nothing is issued.
    pub async fn issue_vouched(
        &self,
        presented: &CertificateDer<'_>,
        asked: Vec<Asked<'_>>,
        registrar: SharedRegistrar,
    ) -> Result<Vec<Result<Issued, AuthorityError>>, AuthorityError> {
        let asked: Vec<Bounded> =
            asked.into_iter().map(|Asked { csr, judge }| Bounded { csr: bounded(csr), judge }).collect();
        self.act_of_peer(presented, move |inner, peer| async move {
            let outcomes = inner.issue_vouched(&peer, asked, registrar).await?;
            let mut told = Vec::with_capacity(outcomes.len());
            for outcome in outcomes {
                told.push(match outcome {
                    Ok(issued) => {
                        inner.issued("agent", &issued);
                        Ok(issued)
                    }
                    Err(stop) => Err(inner.refuse(stop, Caller::Peer, &peer.actor, peer.now).await),
                });
            }
            Ok(told)
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
        asked: Vec<Bounded>,
        registrar: SharedRegistrar,
    ) -> Result<Vec<Result<Issued, Stop>>, Stop> {
        let &Peer { leaf: ref presented, ref actor, now } = peer;
        let mut read = Vec::with_capacity(asked.len());
        for Bounded { csr, judge } in asked {
            read.push((csr.and_then(|csr| self.key_of(&csr)), judge));
            // Each verifies a signature: others have their turn in between.
            tokio::task::yield_now().await;
        }
        let issuer = self.issuer(now).await?;
        let hashes: Vec<_> =
            read.iter().filter_map(|(key, _)| key.as_ref().ok()).map(ProvenKey::sha256).collect();
        let guarded: Vec<_> = hashes.iter().map(|hash| Guarded::Key(hash)).collect();
        let mut writer = self.store.begin_once(&guarded).await?;
        let agent = self.rules.agent(&mut writer, presented, &*registrar, now).await?;
        let mut outcomes = Vec::with_capacity(read.len());
        for (key, judge) in read {
            let granted = async {
                let key = key.map_err(|refusal| Stop::Refused(refusal, None))?;
                let vouched = judged(&agent, &judge)?;
                let authorized =
                    self.rules.by_agent(&mut writer, &agent, vouched, &key, &*registrar, now).await?;
                let counted = [Holder::of(&agent.tie), Holder::vouched(&agent.tie, authorized.id())];
                if !self.processes.lock().unwrap_or_else(PoisonError::into_inner).admit(&counted, now) {
                    let about = (authorized.id().clone(), authorized.class());
                    return Err(Stop::Refused(Refusal::TooManyAttempts, Some(about)));
                }
                let life = (self.svid_ttl, now);
                Ok(issue::issue(&mut writer, &authorized, &key, &issuer, life, actor).await?)
            };
            outcomes.push(match granted.await {
                // What is not signed is not written either, and says nothing of the others.
                Err(Stop::Failed(error)) if !matches!(error, AuthorityError::Sign(_)) => {
                    return Err(Stop::Failed(error));
                }
                outcome => outcome,
            });
        }
        writer.commit().await?;
        Ok(outcomes)
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
        let agent = self.rules.agent(&mut writer, presented, &*registrar, now).await?;
        let vouched = judged(&agent, judge)?;
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

/// What the registry makes of what the agent says.
fn judged(agent: &Agent, judge: &Judge) -> Result<Vouched, Stop> {
    judge(&agent.id).map_err(|refusal| Stop::Refused(refusal, Some((agent.id.clone(), agent.class))))
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
