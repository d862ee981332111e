//! How an ID token becomes the right to a certificate of class `operator`.
//!
//! The token must be of a configured provider, for the client that is configured for Signet, and of a person whom a
//! role names. Whether it was made for the key that the certificate is asked for is the authority's to check, which
//! sees the request. The provider's keys are those that the control plane fetched; a token of a key that is
//! not among them has them fetched again, once, and waits a moment for it.

use std::sync::Arc;
use std::time::Duration;

use signet_ca::{Authority, Issued, LoginRefused, OperatorLogin, Person, Refusal};
use signet_token::{IdToken, IdTokenError, Jwks, unverified_issuer};
use tonic::Status;

use super::config::{Operators, Provider};
use crate::clock::unix_now;
use crate::issuers::Issuers;
use crate::services::convert;

/// How long a login waits for keys that are being fetched; less than a connection at the bootstrap door lives.
const WAIT: Duration = Duration::from_secs(6);

/// Where people log in.
#[derive(Clone)]
pub struct Logins {
    pub config: Operators,
    pub authority: Authority,
    pub issuers: Arc<Issuers>,
}

/// Why an ID token brings nobody in.
enum Refused {
    /// By the token or the person; recorded.
    By(LoginRefused),
    /// It cannot be judged now.
    Unavailable(String),
}

impl Logins {
    /// Exchanges an ID token and a certificate request for a certificate.
    ///
    /// # Errors
    /// What the caller may hear.
    pub async fn attest(&self, id_token: &str, csr: &[u8], source: &str) -> Result<Issued, Status> {
        let login = match self.login(id_token).await {
            Ok(login) => Ok(login),
            Err(Refused::By(refused)) => Err(refused),
            Err(Refused::Unavailable(why)) => {
                tracing::warn!(target: "signet::audit", source, why, "a login cannot be judged now");
                return Err(Status::unavailable(why));
            }
        };
        let person = login.as_ref().ok().map(|login| login.person.clone());
        let issued = self.authority.attest_operator(login, csr, source).await;
        let actor = person.as_ref().map(Person::actor).unwrap_or_default();
        match issued {
            Ok(issued) => {
                let name = person.and_then(|person| person.name.or(person.username)).unwrap_or_default();
                tracing::info!(
                    target: "signet::audit", actor, name, source, serial = %issued.serial, not_after = issued.not_after,
                    "login"
                );
                Ok(issued)
            }
            Err(error) => {
                let reason = error.refusal().map_or("failed", Refusal::label);
                tracing::warn!(target: "signet::audit", actor, source, reason, "login refused");
                Err(convert::status(&error))
            }
        }
    }

    async fn login(&self, id_token: &str) -> Result<OperatorLogin, Refused> {
        let refused = |refusal, actor| Refused::By(LoginRefused { refusal, actor });
        if self.config.providers.is_empty() {
            return Err(refused(Refusal::LoginOff, None));
        }
        let not_believed = |error: &IdTokenError| {
            tracing::warn!(target: "signet::audit", reason = error.label(), %error, "an ID token is not believed");
            refused(Refusal::LoginToken, None)
        };
        let iss = unverified_issuer(id_token).map_err(|error| not_believed(&error))?;
        let Some(provider) = self.config.providers.iter().find(|it| it.party.issuer == iss) else {
            return Err(not_believed(&IdTokenError::WrongIssuer));
        };
        let token = match self.verify(provider, id_token) {
            Err(IdTokenError::UnknownKey { .. } | IdTokenError::KeysUnavailable) => {
                self.fetch(provider).await;
                self.verify(provider, id_token)
            }
            judged => judged,
        };
        let token = token.map_err(|error| {
            if error.is_unavailable() {
                return Refused::Unavailable(format!(
                    "the keys of the provider {} are not at hand: {error}",
                    provider.name
                ));
            }
            not_believed(&error)
        })?;
        let IdToken { subject, username, groups, name, nonce, .. } = token;
        let issuer = provider.party.issuer.clone();
        let person = Person { provider: provider.name.clone(), issuer, subject, username, name, groups };
        if self.config.roles.of_person(&person).is_nobody() {
            return Err(refused(Refusal::NoRole, Some(person.actor())));
        }
        Ok(OperatorLogin { person, nonce, life: self.config.session })
    }

    fn verify(&self, provider: &Provider, id_token: &str) -> Result<IdToken, IdTokenError> {
        let states = self.issuers.states();
        let state = states.get(&provider.alias());
        // The fetcher parsed the set before it kept it.
        let keys = state.and_then(|state| Some((Arc::new(Jwks::parse(state.jwks.as_deref()?).ok()?), state)));
        let number = |seconds: i64| u64::try_from(seconds).unwrap_or(0);
        let keys = keys.as_ref().map(|(jwks, state)| (jwks, number(state.fetched_at)));
        provider.party.verify(id_token, keys, number(unix_now()))
    }

    /// Has the keys fetched, and waits until something about them changed, or long enough.
    async fn fetch(&self, provider: &Provider) {
        let mut states = self.issuers.subscribe();
        let alias = provider.alias();
        let before = states.borrow_and_update().get(&alias).cloned();
        self.issuers.want(&alias);
        let changed = async {
            while states.changed().await.is_ok() {
                if states.borrow_and_update().get(&alias) != before.as_ref() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(WAIT, changed).await;
    }
}
