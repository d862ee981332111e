//! The app's own identity: the same name as ours, another class, another key.
//!
//! Where the registry's Workload opts in (the delivery says so), [`App::keep`] has a certificate of class `workload`
//! for the app at all times: a new one, with a new key, at a third of the last one's life, and at once when the roots
//! no longer fit it. It ends no later than our own. The private key is made here and goes to whoever the socket
//! serves; ours never does. What is valid is kept when the control plane fails; what is revoked or no longer granted
//! is dropped, and whoever listens is told.
//!
//! One app, one identity: every caller of a sidecar's socket gets the same ([`Provider`]).

pub(crate) mod leaf;
pub(crate) mod tokens;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use signet_identity::{OwnSvid, RevocationList, SpiffeId, TrustDomain};
use signet_proxy::state::Tls;
use signet_workload::{Bundles, Caller, Identity, JwtBundle, JwtSvid, Provider, Refused, Served, State};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::agent::entries::Entry;
use crate::backoff::{Backoff, chance, renew_in};
use crate::clock::{self, rfc3339};
use crate::control::plane::ControlPlane;
use crate::credentials::Credentials;
use crate::identity::{NAP, longest_of_life};
use crate::metrics::Metrics;
use leaf::{Leaf, LeafError};
use tokens::Tokens;

const NOT_GRANTED: &str = "the registry's Workload does not opt in";
const REVOKED: &str = "revoked";
const SHUT_OUT: &str = "revoked, or not registered any more";

/// What was delivered that concerns the app.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct News {
    /// Whether the Workload opts in; `None` before the first delivery.
    pub granted: Option<bool>,
    /// Whose JWT-SVIDs can be verified, and with what.
    pub jwt: Arc<BTreeMap<TrustDomain, JwtBundle>>,
    /// Revocation lists of the authority, for those who verify by themselves.
    pub lists: Arc<[RevocationList]>,
    /// What an agent may vouch for; `None` before the first delivery, and for whoever is no agent.
    pub processes: Option<Arc<Vec<Entry>>>,
    /// The control plane sent us away, as somebody who is revoked or not registered any more. It says so at the end of a
    /// stream: news of our own revocation does not reach us any more.
    pub shut_out: bool,
}

/// See the module's story.
pub struct App {
    plane: Arc<ControlPlane>,
    credentials: Arc<Credentials>,
    metrics: Arc<Metrics>,
    news: watch::Receiver<News>,
    state: watch::Sender<State>,
    tokens: Tokens,
}

/// What the state was made of, so that nobody is woken for nothing.
#[derive(PartialEq)]
struct Made {
    leaf: Option<(signet_identity::Serial, u64)>,
    refused: Option<&'static str>,
    news: News,
}

impl App {
    /// An app that has nothing yet.
    pub fn new(
        plane: Arc<ControlPlane>,
        credentials: Arc<Credentials>,
        metrics: Arc<Metrics>,
        news: watch::Receiver<News>,
    ) -> Arc<Self> {
        let (state, tokens) = (watch::Sender::new(State::Waiting), Tokens::default());
        Arc::new(Self { plane, credentials, metrics, news, state, tokens })
    }

    /// Keeps a certificate at hand for ever.
    pub async fn keep(self: Arc<Self>) {
        let (mut credentials, mut news) = (self.credentials.watch(), self.news.clone());
        let mut leaf: Option<Leaf> = None;
        let mut made: Option<Made> = None;
        let mut denied = false;
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let mut not_before = Instant::now();
        let mut jitter = chance();
        loop {
            let current = credentials.borrow_and_update().clone();
            let heard = news.borrow_and_update().clone();
            let refused = refusal(current.as_ref(), &heard);
            if refused.is_some() || leaf.as_ref().is_some_and(|leaf| !leaf.fits(current.as_ref())) {
                if leaf.take().is_some() {
                    self.metrics.no_workload();
                }
                not_before = Instant::now();
            }
            denied &= refused.is_none();
            let refused = refused.or((denied && leaf.is_none()).then_some(NOT_GRANTED));
            self.publish(current.as_ref(), leaf.as_ref(), refused, heard, &mut made);

            // Nothing is asked for before it is granted.
            let wanted = self.news.borrow().granted == Some(true) && current.is_some() && !is_final(refused);
            let wait = match &leaf {
                _ if !wanted => NAP,
                // Its issuer's key may be in other hands, and there is another issuer now: ours is under it.
                Some(leaf) if self.credentials.taints(leaf.svid.svid()) && !self.credentials.is_tainted() => {
                    Duration::ZERO
                }
                Some(leaf) => {
                    let (from, until) = (leaf.issued_at, leaf.not_after());
                    renew_in(from, until, leaf.renew_at, clock::now(), jitter)
                }
                None => Duration::ZERO,
            };
            let wait = wait.max(not_before.saturating_duration_since(Instant::now())).min(NAP);
            if wanted && wait.is_zero() {
                // What was heard meanwhile goes first: the app may have lost its right.
                let issued = tokio::select! {
                    issued = self.issue(current.as_ref()) => issued,
                    _ = credentials.changed() => continue,
                    _ = news.changed() => continue,
                };
                match issued {
                    Ok(issued) => {
                        denied = false;
                        let life = issued.not_after().saturating_sub(issued.issued_at);
                        backoff = Backoff::new(Duration::from_secs(1), longest_of_life(life));
                        (jitter, leaf) = (chance(), Some(issued));
                    }
                    Err(error) => {
                        denied = error.is_denied();
                        let retry = backoff.next(chance());
                        not_before = Instant::now() + retry;
                        self.metrics.workload_issued("svid", false);
                        tracing::warn!(target: "signet::workload", %error, attempt = backoff.failures(),
                            retry_in_ms = retry.as_millis() as u64, has_valid = leaf.is_some(),
                            "no new certificate for the app");
                    }
                }
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = credentials.changed() => if changed.is_err() { return },
                changed = news.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn issue(&self, tls: Option<&Tls>) -> Result<Leaf, LeafError> {
        let leaf = leaf::issue(&self.plane, tls).await?;
        let svid = leaf.svid.svid();
        self.metrics.workload(svid);
        self.metrics.workload_issued("svid", true);
        tracing::info!(target: "signet::workload", id = %svid.id, serial = %svid.serial,
            not_after = %rfc3339(svid.not_after), "a certificate for the app");
        Ok(leaf)
    }

    /// Tells of what changed, and of nothing else.
    fn publish(
        &self,
        tls: Option<&Tls>,
        leaf: Option<&Leaf>,
        refused: Option<&'static str>,
        news: News,
        made: &mut Option<Made>,
    ) {
        // Nobody is served what has ended.
        let leaf = leaf.zip(tls).filter(|(leaf, _)| clock::now() <= leaf.not_after());
        let now = Made {
            leaf: leaf.map(|(leaf, tls)| (leaf.svid.svid().serial, tls.generation.number())),
            refused,
            news,
        };
        if made.as_ref() == Some(&now) {
            return;
        }
        if refused.is_some() || made.as_ref().is_some_and(|made| made.news.jwt != now.news.jwt) {
            self.tokens.forget();
        }
        let state = match (refused, leaf) {
            (Some(why), _) => State::Refused(why),
            (None, None) => State::Waiting,
            (None, Some((leaf, tls))) => State::Served(Arc::new(Served {
                identities: vec![identity(leaf.svid.clone())],
                bundles: Bundles {
                    x509: tls.generation.bundles().clone(),
                    jwt: now.news.jwt.clone(),
                    crls: now.news.lists.clone(),
                },
            })),
        };
        self.state.send_replace(state);
        *made = Some(now);
    }
}

fn identity(svid: OwnSvid) -> Identity {
    Identity { svid, hint: String::new() }
}

/// Why the app may have nothing, as far as is known here.
fn refusal(tls: Option<&Tls>, news: &News) -> Option<&'static str> {
    if news.granted == Some(false) {
        return Some(NOT_GRANTED);
    }
    if tls.is_some_and(|tls| tls.revoked.revokes(tls.generation.own().svid()).is_some()) {
        return Some(REVOKED);
    }
    news.shut_out.then_some(SHUT_OUT)
}

/// Whether there is no use in asking for more.
fn is_final(refused: Option<&str>) -> bool {
    refused.is_some_and(|why| why == REVOKED || why == SHUT_OUT)
}

#[tonic::async_trait]
impl Provider for App {
    fn serve(&self, _: &Caller) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    async fn jwt_svids(
        &self,
        _: &Caller,
        audiences: Vec<String>,
        wanted: Option<SpiffeId>,
    ) -> Result<Vec<JwtSvid>, Refused> {
        let own = match &*self.state.borrow() {
            State::Served(served) => served.identities.first().map(|identity| identity.id().clone()),
            State::Refused(why) => return Err(Refused::Denied((*why).to_owned())),
            State::Waiting => None,
        };
        let own =
            own.ok_or_else(|| Refused::Unavailable("no identity is at hand yet; try again".to_owned()))?;
        if wanted.is_some_and(|wanted| wanted != own) {
            return Err(Refused::Denied("the SPIFFE ID is another's".to_owned()));
        }
        let token = self
            .tokens
            .get(&own, audiences, async |audiences| tokens::of_our_own(&self.plane, &own, audiences).await)
            .await;
        self.metrics.workload_issued("jwt-svid", token.is_ok());
        Ok(vec![token?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_whose_sidecar_was_sent_away_has_nothing_until_it_is_let_in_again() {
        let let_in = News { granted: Some(true), ..News::default() };
        assert_eq!(refusal(None, &let_in), None);
        let sent_away = News { shut_out: true, ..let_in };
        assert_eq!(refusal(None, &sent_away), Some(SHUT_OUT));
        assert!(is_final(Some(SHUT_OUT)) && is_final(Some(REVOKED)) && !is_final(Some(NOT_GRANTED)));
    }
}
