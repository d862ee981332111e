//! Operators are people: how a person who logged in with a provider gets a certificate, and how what they
//! do is written down.
//!
//! Whoever verified the provider's ID token hands in who it is, and the token's nonce. The nonce must be the
//! base64url SHA-256 of the public key that the certificate request proves to hold ([`login_nonce`]): a token
//! that was stolen on its way is worth nothing without that key, and is good for one certificate, since a key
//! is certified once. The certificate has the class `operator`, lives an hour at most, and is not renewed.
//! What the provider said is kept beside it, so that roles can be looked up at every call.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use signet_identity::{Serial, SpiffeId};

use crate::authorise::{Rules, Stop};
use crate::authority::{Authority, Caller, Inner};
use crate::config::seconds;
use crate::csr::{bounded, sha256};
use crate::error::AuthorityError;
use crate::issue::{self, Issued};
use crate::record::{Entry, Event};
use crate::refusal::Refusal;
use crate::store::{Guarded, OperatorRow, StoreError};

/// The longest session of an operator.
pub const MAX_OPERATOR_LIFE: Duration = Duration::from_secs(3600);

/// A person, as the provider names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The provider's name in the configuration.
    pub provider: String,
    /// The provider's `iss`.
    pub issuer: String,
    /// The `sub`: never another person's later.
    pub subject: String,
    /// What configuration calls them.
    pub username: Option<String>,
    /// For people to read.
    pub name: Option<String>,
    pub groups: BTreeSet<String>,
}

impl Person {
    /// Who did it, in every record: `oidc:<provider>|<sub>`.
    pub fn actor(&self) -> String {
        format!("oidc:{}|{}", self.provider, self.subject)
    }
}

/// A login that was verified.
#[derive(Debug, Clone)]
pub struct OperatorLogin {
    pub person: Person,
    /// The ID token's.
    pub nonce: String,
    /// Of the certificate; cut at [`MAX_OPERATOR_LIFE`].
    pub life: Duration,
}

/// A login that is refused before the authority looks at it, and whose it is where that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginRefused {
    pub refusal: Refusal,
    /// [`Person::actor`].
    pub actor: Option<String>,
}

/// Who is behind a certificate of class `operator`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorSession {
    pub person: Person,
    pub spiffe_id: SpiffeId,
    pub not_after: i64,
}

/// One call of an operator, for the log.
#[derive(Debug, Clone)]
pub struct OperatorCall {
    /// [`Person::actor`], or `uid:<n>` on the socket.
    pub actor: String,
    /// Of a person who logged in.
    pub certificate: Option<(SpiffeId, Serial)>,
    /// Method, arguments, role, result and source in words, without secrets.
    pub words: String,
    /// Refusals are recorded at a bounded rate, the others always.
    pub refused: bool,
}

/// What the nonce of a login must be, by the SubjectPublicKeyInfo that the certificate is asked for.
pub fn login_nonce(spki: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(sha256(spki))
}

impl Rules {
    /// The identity of a person: a digest of provider and subject, so that nothing of a name needs escaping and no
    /// two people share one.
    pub(crate) fn operator_id(&self, person: &Person) -> Result<SpiffeId, Refusal> {
        let mut text = Vec::with_capacity(128);
        for part in [&person.issuer, &person.subject] {
            text.extend_from_slice(&(part.len() as u64).to_be_bytes());
            text.extend_from_slice(part.as_bytes());
        }
        let name: String = sha256(&text).iter().take(20).map(|byte| format!("{byte:02x}")).collect();
        SpiffeId::from_short(&self.trust_domain, &format!("ns/{}/operator/{name}", self.system_namespace))
            .map_err(|_| Refusal::IdentityShape)
    }

    /// Whether it is a person's.
    pub(crate) fn is_operator(&self, id: &SpiffeId) -> bool {
        let mut parts = id.path().split('/').skip(1);
        let shape = (parts.next(), parts.next(), parts.next(), parts.next(), parts.next());
        matches!(shape, (Some("ns"), Some(system), Some("operator"), Some(_), None)
            if system == self.system_namespace)
    }
}

impl Authority {
    /// Issues the certificate of a person who logged in; `login` is who that is, or why the login is refused
    /// (which is then recorded). `source` is the caller's address without the port.
    pub async fn attest_operator(
        &self,
        login: Result<OperatorLogin, LoginRefused>,
        csr: &[u8],
        source: &str,
    ) -> Result<Issued, AuthorityError> {
        let csr = bounded(csr);
        let source = source.to_owned();
        let actor = match &login {
            Ok(login) => Some(login.person.actor()),
            Err(refused) => refused.actor.clone(),
        };
        let actor = actor.map_or_else(|| source.clone(), |actor| format!("{actor} at {source}"));
        self.act(move |inner| async move {
            let now = inner.clock.unix_seconds();
            match inner.login(login.map_err(|it| it.refusal), csr, &source, now).await {
                Ok(issued) => {
                    inner.issued("login", &issued);
                    Ok(issued)
                }
                Err(stop) => {
                    if let Stop::Refused(refusal, _) = &stop
                        && *refusal != Refusal::TooManyAttempts
                    {
                        inner.attempts.lock().unwrap_or_else(PoisonError::into_inner).failed(&source, now);
                    }
                    Err(inner.refuse(stop, Caller::Stranger, &actor, now).await)
                }
            }
        })
        .await
    }

    /// Who holds the certificate with this serial; nobody if it is not an operator's.
    pub async fn operator_session(&self, serial: Serial) -> Result<Option<OperatorSession>, AuthorityError> {
        let Some(row) = self.inner.store.operator(serial.as_bytes()).await? else { return Ok(None) };
        let corrupt = |_| StoreError::Corrupt { table: "operators", what: "its identity cannot be read" };
        let spiffe_id = SpiffeId::parse(&row.spiffe_id).map_err(corrupt)?;
        let OperatorRow { provider, issuer, subject, username, name, groups, not_after, .. } = row;
        let person = Person { provider, issuer, subject, username, name, groups };
        Ok(Some(OperatorSession { person, spiffe_id, not_after }))
    }

    /// The identity that a person has or would have here.
    pub fn operator_id(&self, person: &Person) -> Result<SpiffeId, AuthorityError> {
        self.inner.rules.operator_id(person).map_err(AuthorityError::Refused)
    }

    /// Whether an identity is that of a person.
    pub fn is_operator_id(&self, id: &SpiffeId) -> bool {
        id.is_in(&self.inner.rules.trust_domain) && self.inner.rules.is_operator(id)
    }

    /// Writes down a call of an operator.
    pub async fn record_operator_call(&self, call: OperatorCall) -> Result<(), AuthorityError> {
        self.act(move |inner| async move {
            let now = inner.clock.unix_seconds();
            let mut suppressed = 0;
            if call.refused {
                let taken = inner.operator_budget.lock().unwrap_or_else(PoisonError::into_inner).take(now);
                let Some(unwritten) = taken else {
                    inner.metrics.unrecorded.inc();
                    return Ok(());
                };
                suppressed = unwritten;
            }
            let mut entry = Entry::new(now, Event::OperatorCall, &call.actor).because(&call.words);
            entry.suppressed = suppressed;
            if let Some((id, serial)) = &call.certificate {
                entry = entry.about(id.as_str(), signet_identity::PeerClass::Operator.as_str());
                entry.serial = serial.to_string();
            }
            let mut writer = inner.store.begin().await?;
            writer.record(entry).await?;
            Ok(writer.commit().await?)
        })
        .await
    }
}

impl Inner {
    async fn login(
        &self,
        login: Result<OperatorLogin, Refusal>,
        csr: Result<Vec<u8>, Refusal>,
        source: &str,
        now: i64,
    ) -> Result<Issued, Stop> {
        let refuse = |refusal| Stop::Refused(refusal, None);
        if !self.attempts.lock().unwrap_or_else(PoisonError::into_inner).allows(source, now) {
            return Err(refuse(Refusal::TooManyAttempts));
        }
        let OperatorLogin { person, nonce, life } = login.map_err(refuse)?;
        let csr = csr.map_err(refuse)?;
        let key = self.key_of(&csr).map_err(refuse)?;
        if nonce != login_nonce(&rcgen::PublicKeyData::subject_public_key_info(&key)) {
            return Err(refuse(Refusal::LoginKey));
        }
        let issuer = self.issuer(now).await?;
        let life = seconds(life.min(MAX_OPERATOR_LIFE));
        let actor = person.actor();
        let words = format!("{} from {source}", person.name.as_deref().unwrap_or(&person.subject));
        let key_hash = key.sha256();
        let mut writer = self.store.begin_once(&[Guarded::Key(&key_hash)]).await?;
        let authorized = self.rules.by_login(&mut writer, &person, words, &key, now).await?;
        let issued = issue::issue(&mut writer, &authorized, &key, &issuer, (life, now), &actor).await?;
        let Person { provider, issuer, subject, username, name, groups } = person;
        writer
            .insert_operator(&OperatorRow {
                serial: issued.serial.as_bytes().to_vec(),
                spiffe_id: issued.spiffe_id.to_string(),
                provider,
                issuer,
                subject,
                username,
                name,
                groups,
                not_after: issued.not_after,
            })
            .await?;
        writer.commit().await?;
        Ok(issued)
    }
}
