//! The mesh's token service: what a sidecar's app asks for, judged and handed to the authority to sign.
//!
//! Who asks is the mTLS peer, whose SVID is of class sidecar; what it may have beside its own token with fewer scopes, the
//! registry's TokenExchange objects say. The sidecar has seen to it that its app may present the tokens that it hands in;
//! that they are genuine, good and of nobody who is revoked is found out here again. Everything that is refused is counted,
//! and what a compromised app would try is in the issuance log.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value};
use signet_ca::{Authority, AuthorityError, Deferral, Exchange, Refusal, Revocations, SharedRegistrar};
use signet_identity::{PeerClass, SpiffeId, TrustDomain};
use signet_model::{Registry, SubjectToken, TokenExchange, WorkloadId};
use signet_proto::v1::{self, exchange_request::Subject, exchanged::Outcome};
use signet_token::txn::{self, Actor, Begin, ExchangeError, Source, Trust};
use signet_token::{AccessToken, MintError, Minted, TokenError, TokenRoots, TxnClaims, TxnError};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::{caller, convert};
use crate::chains::{Chains, Got};
use crate::clock::unix_now;
use crate::intake::believed;
use crate::issuers::Issuers as Fetched;
use crate::listen::mesh::Caller;
use crate::metrics::Metrics;
use crate::registry::State;

/// An access token, a transaction token and what is said beside them.
pub const MAX_MESSAGE: usize = 32 * 1024;
/// What a workload may say of a transaction that it begins.
const MAX_DETAILS: usize = 1024;

/// The service.
#[derive(Clone)]
pub struct TokenService {
    pub authority: Authority,
    pub registrar: SharedRegistrar,
    pub trust_domain: TrustDomain,
    pub registry: watch::Receiver<State>,
    pub issuers: Arc<Fetched>,
    /// Where chains of calls are stitched.
    pub chains: Arc<Chains>,
    pub metrics: Metrics,
}

/// Why an app gets nothing.
#[derive(Debug)]
struct Refused {
    /// By RFC 6749, section 5.2, or RFC 8693, section 2.2.2.
    error: &'static str,
    description: String,
    /// What the issuance log says of it; none where it is only a mistake.
    recorded: Option<Refusal>,
}

impl Refused {
    fn invalid(description: impl Into<String>) -> Refused {
        Refused { error: "invalid_request", description: description.into(), recorded: None }
    }

    /// A token that is not believed. Why is the app's to know: it is its own.
    fn token(what: &str, why: impl std::fmt::Display) -> Refused {
        Refused {
            error: "invalid_request",
            description: format!("the {what} is not accepted: {why}"),
            recorded: Some(Refusal::SubjectToken),
        }
    }

    fn not_granted(description: impl Into<String>) -> Refused {
        Refused {
            error: "unauthorized_client",
            description: description.into(),
            recorded: Some(Refusal::NoTokenExchange),
        }
    }
}

impl From<ExchangeError> for Refused {
    fn from(error: ExchangeError) -> Refused {
        let (code, recorded) = match &error {
            ExchangeError::ScopeMalformed => ("invalid_scope", None),
            ExchangeError::ScopeWidened { .. } => ("invalid_scope", Some(Refusal::NoTokenExchange)),
            ExchangeError::Expired | ExchangeError::TransactionEnded => {
                ("invalid_request", Some(Refusal::SubjectToken))
            }
            ExchangeError::ChainTooLong | ExchangeError::SubjectMalformed => ("invalid_request", None),
            ExchangeError::Key(_) => (UNAVAILABLE, None),
        };
        Refused { error: code, description: error.to_string(), recorded }
    }
}

impl From<MintError> for Refused {
    fn from(error: MintError) -> Refused {
        let code = if error.is_unavailable() { UNAVAILABLE } else { "invalid_request" };
        Refused { error: code, description: error.to_string(), recorded: None }
    }
}

/// No fault of the app's; answered as UNAVAILABLE.
const UNAVAILABLE: &str = "temporarily_unavailable";

/// Why there is no answer of the token service's own.
enum Stop {
    Refused(Refused),
    Status(Status),
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Stop {
        Stop::Refused(refused)
    }
}

impl From<ExchangeError> for Stop {
    fn from(error: ExchangeError) -> Stop {
        Stop::Refused(error.into())
    }
}

impl From<MintError> for Stop {
    fn from(error: MintError) -> Stop {
        Stop::Refused(error.into())
    }
}

#[tonic::async_trait]
impl v1::transaction_tokens_server::TransactionTokens for TokenService {
    async fn exchange(
        &self,
        request: Request<v1::ExchangeRequest>,
    ) -> Result<Response<v1::Exchanged>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let kind = Kind::of(&asked);
        let count = |outcome: &str| self.metrics.exchanges.with_label_values(&[kind.as_str(), outcome]).inc();
        let outcome = match self.judge(&caller, asked).await {
            Ok(granted) => {
                count("granted");
                Outcome::Granted(granted)
            }
            Err(Stop::Refused(refused)) if refused.error == UNAVAILABLE => {
                count(UNAVAILABLE);
                return Err(Status::unavailable(refused.description));
            }
            Err(Stop::Refused(refused)) => {
                count(refused.error);
                // A scope is whatever the app wrote.
                let why = if refused.error == "invalid_scope" { "" } else { &refused.description };
                tracing::warn!(target: "signet::tokens", peer = %caller.peer.id(), kind = kind.as_str(),
                    error = refused.error, why, "an exchange refused");
                if let (Some(refusal), Some(leaf)) = (refused.recorded, caller.chain.first()) {
                    self.authority.refuse_exchange(leaf, refusal).await;
                }
                Outcome::Refused(v1::ExchangeRefused {
                    error: refused.error.to_owned(),
                    description: refused.description,
                })
            }
            Err(Stop::Status(status)) => {
                count("failed");
                return Err(status);
            }
        };
        Ok(Response::new(v1::Exchanged { outcome: Some(outcome) }))
    }
}

/// What is asked for, for counters.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Replace,
    Begin,
    Act,
    Defer,
    Open,
    None,
}

impl Kind {
    fn of(asked: &v1::ExchangeRequest) -> Kind {
        match &asked.subject {
            None => Kind::None,
            Some(_) if !asked.defer_for.is_empty() => Kind::Defer,
            Some(Subject::Deferred(_)) => Kind::Open,
            Some(_) if !asked.actor_token.is_empty() => Kind::Act,
            Some(Subject::TxnToken(_)) => Kind::Replace,
            Some(Subject::AccessToken(_) | Subject::Named(_)) => Kind::Begin,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Kind::Replace => "replace",
            Kind::Begin => "begin",
            Kind::Act => "act",
            Kind::Defer => "defer",
            Kind::Open => "open",
            Kind::None => "none",
        }
    }
}

/// What a request is judged by, the same from its beginning to its end.
struct Bench<'a> {
    registry: Arc<Registry>,
    revocations: Arc<Revocations>,
    workload: WorkloadId,
    requester: &'a SpiffeId,
    now: u64,
}

impl TokenService {
    async fn judge(&self, caller: &Caller, asked: v1::ExchangeRequest) -> Result<v1::GrantedToken, Stop> {
        let denied = |why: &'static str| Stop::Status(Status::permission_denied(why));
        if caller.peer.class() != PeerClass::Sidecar {
            return Err(denied("tokens are exchanged by sidecars, for their apps"));
        }
        let bench = Bench {
            registry: Arc::clone(&self.registry.borrow().registry),
            revocations: self.authority.revocations().borrow().clone(),
            workload: WorkloadId::of(caller.peer.id(), &self.trust_domain)
                .ok_or_else(|| denied("the peer is no workload of this trust domain"))?,
            requester: caller.peer.id(),
            now: u64::try_from(unix_now()).unwrap_or_default(),
        };
        let kind = Kind::of(&asked);
        let v1::ExchangeRequest { subject, actor_token, scope, details, defer_for, ttl_seconds } = asked;
        let scope = scope.as_deref();
        let ttl = if ttl_seconds == 0 { txn::DEFAULT_TTL } else { u64::from(ttl_seconds) };
        let details = read_details(&details)?;
        if !details.is_empty() && !matches!(kind, Kind::Begin | Kind::Act) {
            return Err(Refused::invalid("request_details are for a transaction that begins").into());
        }
        match subject {
            None => Err(Refused::invalid("expected a subject_token").into()),
            Some(Subject::TxnToken(token)) => {
                if !actor_token.is_empty() {
                    return Err(Refused::invalid(
                        "an actor_token needs a subject_token that is no transaction token",
                    )
                    .into());
                }
                let held = self.believe(&bench, "subject_token", &token)?;
                if defer_for.is_empty() {
                    let claims = txn::replace(&held, scope, bench.requester.as_str(), ttl, bench.now)?;
                    let txn = claims.txn.clone();
                    let signed = self.sign(caller, claims, "replaced".to_owned()).await?;
                    self.chains.got(&txn, bench.requester.as_str(), Got::Replaced);
                    return Ok(signed);
                }
                self.defer(caller, &bench, held, scope, &defer_for, ttl_seconds).await
            }
            Some(_) if !defer_for.is_empty() => {
                Err(Refused::invalid("only a transaction token that the app received is put off").into())
            }
            Some(Subject::Deferred(sealed)) => {
                if !actor_token.is_empty() {
                    return Err(Refused::invalid("nobody acts in a context that was put off").into());
                }
                self.open(caller, &bench, Zeroizing::new(sealed), scope.map(str::to_owned), ttl).await
            }
            Some(Subject::AccessToken(token)) => {
                let access = self.access(&bench, &token)?;
                let source = (Source::Access(&access, &token), access.principal());
                self.begin(caller, &bench, source, &actor_token, (scope, details, ttl_seconds)).await
            }
            Some(Subject::Named(name)) => {
                let source = (Source::Named(&name), name.clone());
                self.begin(caller, &bench, source, &actor_token, (scope, details, ttl_seconds)).await
            }
        }
    }

    async fn sign(&self, caller: &Caller, claims: TxnClaims, what: String) -> Result<v1::GrantedToken, Stop> {
        let leaf =
            caller.chain.first().ok_or_else(|| Stop::Status(Status::unauthenticated("no certificate")))?;
        let exchange = Exchange { claims, what };
        let signed = self.authority.sign_exchange(leaf, exchange, self.registrar.clone()).await;
        let minted = signed.map_err(|error| Stop::Status(convert::status(&error)))??;
        Ok(granted(minted))
    }

    /// A transaction token, as sidecars believe one.
    fn believe(&self, bench: &Bench<'_>, what: &'static str, token: &str) -> Result<TxnClaims, Stop> {
        let roots = TokenRoots::parse(&self.authority.token_roots_json());
        let roots = roots.map_err(|_| Stop::Status(Status::unavailable("the token roots cannot be read")))?;
        let (trust_domain, issuer) = (self.trust_domain.to_string(), token_issuer(&self.trust_domain));
        let trust = Trust {
            trust_domain: &trust_domain,
            issuer: &issuer,
            roots: &roots,
            revoked: &|thumbprint| bench.revocations.delegations.contains(thumbprint),
            remembered: None,
        };
        let claims = match txn::verify(token, &trust, bench.now) {
            Ok(claims) => claims,
            Err(error) if error.is_unavailable() => {
                return Err(Stop::Status(Status::unavailable("the token roots are not here yet")));
            }
            Err(error @ TxnError::Expired { .. }) => return Err(Refused::token(what, error).into()),
            Err(error) => return Err(Refused::token(what, error.label()).into()),
        };
        // A receiver has some seconds of leeway; what is exchanged has none.
        if bench.now >= claims.expires_at {
            return Err(Refused::token(what, ExchangeError::Expired).into());
        }
        unless_revoked(bench, what, &claims)?;
        Ok(claims)
    }

    /// An access token of an issuer that the mesh knows.
    fn access(&self, bench: &Bench<'_>, token: &str) -> Result<AccessToken, Stop> {
        let issuers = believed(&bench.registry, &self.issuers.states());
        let granted: BTreeSet<&str> = bench
            .registry
            .exchanges_of(&bench.workload)
            .filter(|grant| grant.spec.subject_tokens.contains(&SubjectToken::AccessToken))
            .flat_map(|grant| &grant.spec.issuers)
            .map(|alias| alias.as_str())
            .collect();
        if granted.is_empty() {
            return Err(Refused::not_granted(
                "no TokenExchange lets this workload hand in access tokens (subjectTokens: [accessToken])",
            )
            .into());
        }
        match issuers.verify_from(token, bench.now, |alias| granted.contains(alias)) {
            Ok(access) => {
                if let Some(by) = bench.revocations.users.revokes(&access.revocable) {
                    return Err(Refused::token("subject_token", by.label()).into());
                }
                Ok(access)
            }
            Err(error) => {
                if let TokenError::UnknownKey { alias, .. } = &error {
                    self.issuers.want(alias);
                }
                if error.is_unavailable() {
                    return Err(Stop::Status(Status::unavailable("the keys of the issuer are not here yet")));
                }
                Err(Refused::token("subject_token", error.label()).into())
            }
        }
    }

    async fn begin(
        &self,
        caller: &Caller,
        bench: &Bench<'_>,
        (source, subject): (Source<'_>, String),
        actor_token: &str,
        (scope, details, ttl_seconds): (Option<&str>, Map<String, Value>, u32),
    ) -> Result<v1::GrantedToken, Stop> {
        let actor = match actor_token {
            "" => None,
            token => Some(self.believe(bench, "actor_token", token)?),
        };
        if actor.as_ref().is_some_and(|actor| actor.actor.is_some()) {
            return Err(Refused::token("actor_token", "its user acts for another one already").into());
        }
        let wanted = match source {
            Source::Access(..) => SubjectToken::AccessToken,
            Source::Named(_) => SubjectToken::UnsignedJson,
        };
        let grants: Vec<&TokenExchange> = bench
            .registry
            .exchanges_of(&bench.workload)
            .filter(|grant| grant.spec.subject_tokens.contains(&wanted) && grant.spec.is_for(&subject))
            .filter(|grant| acts_under(grant, actor.as_ref()))
            .collect();
        // Of several the first that has the scopes; where none has, the first says so.
        let has = |grant: &&&TokenExchange| {
            scope.is_none_or(|scope| {
                scope.split(' ').all(|one| grant.spec.scopes.iter().any(|scope| scope.as_str() == one))
            })
        };
        let Some(grant) = grants.iter().find(has).or(grants.first()) else {
            return Err(not_for(wanted, actor.is_some()).into());
        };
        let until = actor.as_ref().map(|actor| (Actor::of(actor), actor.rctx.src_exp));
        let spec = &grant.spec;
        let longest = spec.ttl.seconds();
        let name = format!("exchange/{}", grant.name);
        let begin = Begin {
            source,
            actor: until,
            allowed: spec.scopes.iter().map(|scope| scope.as_str()).collect(),
            scope,
            claims: &|name| spec.claims.iter().any(|claim| claim.as_str() == name),
            details,
            grant: &name,
            issuer: &token_issuer(&self.trust_domain),
            audience: self.trust_domain.as_str(),
            requester: bench.requester.as_str(),
            ttl: if ttl_seconds == 0 { longest } else { longest.min(u64::from(ttl_seconds)) },
        };
        let claims = txn::begin(begin, bench.now)?;
        // Also of a user whom nobody but the workload names.
        unless_revoked(bench, "subject_token", &claims)?;
        let txn = claims.txn.clone();
        let signed = self.sign(caller, claims, format!("begun under {}", grant.name)).await?;
        self.chains.got(&txn, bench.requester.as_str(), Got::Else);
        Ok(signed)
    }

    async fn defer(
        &self,
        caller: &Caller,
        bench: &Bench<'_>,
        mut held: TxnClaims,
        scope: Option<&str>,
        consumer: &str,
        ttl_seconds: u32,
    ) -> Result<v1::GrantedToken, Stop> {
        let target = |why: String| Refused { error: "invalid_target", description: why, recorded: None };
        let consumer = SpiffeId::parse(consumer)
            .map_err(|_| target("expected the consumer's SPIFFE ID as audience".to_owned()))?;
        let to = WorkloadId::of(&consumer, &self.trust_domain)
            .ok_or_else(|| target("the consumer is no workload of this trust domain".to_owned()))?;
        let found = bench.registry.exchanges_of(&bench.workload).find_map(|grant| {
            let defer = grant.spec.defer.as_ref().filter(|defer| defer.to.contains(&to))?;
            grant.spec.is_for(&held.subject).then_some((grant, defer))
        });
        let Some((grant, defer)) = found else {
            return Err(Refused {
                error: "invalid_target",
                description: format!(
                    "no TokenExchange lets this workload put off contexts of such users for {to} (defer.to)"
                ),
                recorded: Some(Refusal::NoTokenExchange),
            }
            .into());
        };
        let allowed: Vec<&str> = grant.spec.scopes.iter().map(|scope| scope.as_str()).collect();
        let scope = txn::narrowed(scope, held.scopes().filter(|scope| allowed.contains(scope)))?;
        held.scope = scope.clone();
        let longest = defer.within.seconds();
        let within = if ttl_seconds == 0 { longest } else { longest.min(u64::from(ttl_seconds)) };
        let deferral = Deferral {
            claims: held,
            consumer,
            within: i64::try_from(within).unwrap_or(i64::MAX),
            openings: i64::from(defer.openings),
            grant: format!("put off under {}", grant.name),
        };
        let leaf =
            caller.chain.first().ok_or_else(|| Stop::Status(Status::unauthenticated("no certificate")))?;
        let sealed = self.authority.defer(leaf, deferral, self.registrar.clone()).await;
        let (text, expires_at) = sealed.map_err(|error| Stop::Status(convert::status(&error)))?;
        Ok(v1::GrantedToken { token: text.to_string(), expires_at, scope })
    }

    async fn open(
        &self,
        caller: &Caller,
        bench: &Bench<'_>,
        sealed: Zeroizing<String>,
        scope: Option<String>,
        ttl: u64,
    ) -> Result<v1::GrantedToken, Stop> {
        let leaf =
            caller.chain.first().ok_or_else(|| Stop::Status(Status::unauthenticated("no certificate")))?;
        let (revocations, registry) = (Arc::clone(&bench.revocations), Arc::clone(&bench.registry));
        let (requester, now) = (bench.requester.to_string(), bench.now);
        let (consumer, own) = (bench.workload.clone(), self.trust_domain.clone());
        let next = move |held: TxnClaims, producer: &str, ends_at: i64| -> Result<TxnClaims, Refused> {
            // The grant may have been taken back since.
            let producer = SpiffeId::parse(producer).ok().and_then(|id| WorkloadId::of(&id, &own));
            let still = producer.is_some_and(|producer| {
                registry.exchanges_of(&producer).any(|grant| {
                    let to = grant.spec.defer.as_ref().is_some_and(|defer| defer.to.contains(&consumer));
                    to && grant.spec.is_for(&held.subject)
                })
            });
            if !still {
                return Err(Refused::not_granted(
                    "no TokenExchange puts such contexts off for this workload any more",
                ));
            }
            let until = u64::try_from(ends_at).unwrap_or_default();
            let next = txn::continued(&held, scope.as_deref(), &requester, (ttl, until), now)?;
            match revoked(&revocations, &next) {
                Some(by) => Err(Refused::token("subject_token", by)),
                None => Ok(next),
            }
        };
        match self.authority.open_deferred(leaf, sealed, next, self.registrar.clone()).await {
            Ok(minted) => {
                let minted = minted?;
                self.chains.got(&minted.claims.txn, bench.requester.as_str(), Got::Else);
                Ok(granted(minted))
            }
            // Recorded by the authority already.
            Err(AuthorityError::Refused(Refusal::NotItsContext)) => {
                let description = "the subject_token is no sealed context that this workload may open now";
                Err(Refused::invalid(description).into())
            }
            Err(error) => Err(Stop::Status(convert::status(&error))),
        }
    }
}

/// The `iss` of the mesh's transaction tokens, as sidecars are told.
pub(crate) fn token_issuer(trust_domain: &TrustDomain) -> String {
    trust_domain.to_string()
}

fn granted(minted: Minted) -> v1::GrantedToken {
    let expires_at = i64::try_from(minted.claims.expires_at).unwrap_or(i64::MAX);
    v1::GrantedToken { token: minted.token, expires_at, scope: minted.claims.scope }
}

fn read_details(text: &str) -> Result<Map<String, Value>, Refused> {
    if text.is_empty() {
        return Ok(Map::new());
    }
    if text.len() > MAX_DETAILS {
        return Err(Refused::invalid(format!("request_details: expected at most {MAX_DETAILS} bytes")));
    }
    signet_token::json::object(text.as_bytes())
        .map_err(|_| Refused::invalid("request_details: expected a JSON object"))
}

/// What revokes the user or who acts for it.
fn revoked(revocations: &Revocations, claims: &TxnClaims) -> Option<&'static str> {
    let actor = claims.actor.as_ref().map(Actor::revocable);
    let all = [Some(claims.revocable()), actor];
    all.iter().flatten().find_map(|subject| revocations.users.revokes(subject)).map(|by| by.label())
}

fn unless_revoked(bench: &Bench<'_>, what: &'static str, claims: &TxnClaims) -> Result<(), Refused> {
    revoked(&bench.revocations, claims).map_or(Ok(()), |by| Err(Refused::token(what, by)))
}

/// A grant for actors is for nobody else, and one without them for no actor.
fn acts_under(grant: &TokenExchange, actor: Option<&TxnClaims>) -> bool {
    match (&grant.spec.actors, actor) {
        (None, None) => true,
        (Some(actors), Some(actor)) => {
            let scopes: Vec<&str> = actor.scopes().collect();
            actors.has(&actor.subject, &scopes)
        }
        _ => false,
    }
}

fn not_for(wanted: SubjectToken, acts: bool) -> Refused {
    let by = match wanted {
        SubjectToken::AccessToken => "accessToken",
        SubjectToken::UnsignedJson => "unsignedJson",
    };
    let actor = if acts { " with this actor" } else { " without an actor" };
    Refused::not_granted(format!(
        "no TokenExchange lets this workload have a token for this user{actor} (subjectTokens: [{by}])"
    ))
}
