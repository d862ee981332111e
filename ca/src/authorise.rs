//! Who gets which certificate.
//!
//! An [`Authorized`] can be made here and nowhere else: its fields are private to this module. The one
//! function that signs ([`crate::issue::sign`]) takes nothing but such a value for names, class and
//! lineage. Each way to one checks the same things last: the identity is of our trust domain, is not
//! reserved, not revoked and still registered, and the public key is new.
//!
//! * `lineages`: by a join token, and by the certificate that is renewed.
//! * `peers`: by a certificate that was issued here, for what its holder may have beside it.
//! * `evidence`: by what was attested, and by a login.

mod evidence;
mod lineages;
mod peers;

use std::sync::Arc;

use signet_identity::{PeerClass, Serial, SpiffeId, TrustDomain};

use crate::attested::Instance;
use crate::csr::ProvenKey;
use crate::error::AuthorityError;
use crate::refusal::Refusal;
use crate::store::{LineageRow, RevocationKind, StoreError, SvidRow, Taken, Writer};

/// What the registry says about an identity, asked at every issuance and renewal.
pub trait Registrar: Send + Sync {
    /// The DNS names of a workload of this identity and class, possibly none; `None` when no such workload
    /// is registered, so that it gets no certificate.
    fn dns_names(&self, id: &SpiffeId, class: PeerClass) -> Option<Vec<String>>;
}

impl<F> Registrar for F
where
    F: Fn(&SpiffeId, PeerClass) -> Option<Vec<String>> + Send + Sync,
{
    fn dns_names(&self, id: &SpiffeId, class: PeerClass) -> Option<Vec<String>> {
        self(id, class)
    }
}

/// The right to one certificate. Only this module makes one.
#[derive(Debug)]
pub(crate) struct Authorized {
    id: SpiffeId,
    class: PeerClass,
    dns_names: Vec<String>,
    grant: Grant,
}

/// By what right.
#[derive(Debug)]
pub(crate) enum Grant {
    /// The first certificate of this lineage.
    Joined(LineageRow),
    Renewal {
        parent: Serial,
        lineage: LineageRow,
    },
    /// This instance was attested a moment ago. Begins no lineage.
    Attested(Instance),
    /// A person who logged in; the words are for the log.
    Login(String),
    /// For the app beside the holder of a certificate; never longer than that certificate.
    Workload {
        tie: Tie,
        parent_ends_at: i64,
    },
    /// For a process of the host of an agent, which asks by its own certificate; never longer than that certificate.
    Vouched {
        agent: Tie,
        parent_ends_at: i64,
        /// For the log.
        words: String,
    },
    /// The control plane's own.
    OwnSvid,
    /// A throwaway certificate, by which the authority proves itself before it serves.
    Proof,
}

impl Authorized {
    pub(crate) fn id(&self) -> &SpiffeId {
        &self.id
    }

    pub(crate) fn class(&self) -> PeerClass {
        self.class
    }

    pub(crate) fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    pub(crate) fn grant(&self) -> &Grant {
        &self.grant
    }

    /// No certificate under this right lives longer.
    pub(crate) fn ends_at(&self) -> Option<i64> {
        match &self.grant {
            Grant::Joined(lineage) | Grant::Renewal { lineage, .. } => Some(lineage.ends_at),
            Grant::Workload { tie: Tie::Lineage(lineage), parent_ends_at }
            | Grant::Vouched { agent: Tie::Lineage(lineage), parent_ends_at, .. } => {
                Some(lineage.ends_at.min(*parent_ends_at))
            }
            Grant::Workload { tie: Tie::Instance(_), parent_ends_at }
            | Grant::Vouched { agent: Tie::Instance(_), parent_ends_at, .. } => Some(*parent_ends_at),
            Grant::Attested(_) | Grant::Login(_) | Grant::OwnSvid | Grant::Proof => None,
        }
    }
}

/// Why there is no right: a refusal, with whom it is about where that is known, or a failure of ours.
#[derive(Debug)]
pub(crate) enum Stop {
    Refused(Refusal, Option<(SpiffeId, PeerClass)>),
    Failed(AuthorityError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Stop {
        match error {
            // Fail closed, and say so where an operator looks: in the log of refusals.
            StoreError::Tampered { table } => {
                tracing::error!(target: "signet::ca", table, "a stored row does not carry the authority's mark");
                Stop::Refused(Refusal::RowTampered, None)
            }
            // Somebody was faster, in another control plane.
            StoreError::Taken(Taken::Key) => Stop::Refused(Refusal::KeyUsed, None),
            StoreError::Taken(Taken::Origin) => Stop::Refused(Refusal::TokenUsed, None),
            StoreError::Taken(Taken::Parent) => Stop::Refused(Refusal::Contended, None),
            error => Stop::Failed(error.into()),
        }
    }
}

impl From<AuthorityError> for Stop {
    fn from(error: AuthorityError) -> Stop {
        match error {
            AuthorityError::Store(error) => error.into(),
            error => Stop::Failed(error),
        }
    }
}

/// What the use of a join token comes to.
#[derive(Debug)]
pub(crate) enum Joining {
    Granted(Authorized),
    /// The answer was lost: here it is again.
    Again(SvidRow),
}

/// What a renewal comes to.
#[derive(Debug)]
pub(crate) enum Renewal {
    Granted(Authorized),
    /// The answer was lost: here it is again.
    Again(SvidRow),
    /// A second key for one parent: the lineage is to be revoked.
    Reused(LineageRow),
}

/// Who asks, by a certificate that was issued here.
#[derive(Debug)]
pub(crate) struct Holder {
    pub(crate) serial: Serial,
    pub(crate) id: SpiffeId,
    pub(crate) class: PeerClass,
    pub(crate) tie: Tie,
    pub(crate) not_after: i64,
}

/// What a certificate goes back to, and the next one of its holder as well.
#[derive(Debug, Clone)]
pub(crate) enum Tie {
    /// It began with a join token.
    Lineage(LineageRow),
    /// It was attested, as each one is.
    Instance(Instance),
}

/// What does not change from one request to the next.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) system_namespace: String,
    pub(crate) control_plane: SpiffeId,
    pub(crate) lineage_life: i64,
}

impl Rules {
    /// Whether an operator may make a join token for this.
    pub(crate) fn may_join(&self, id: &SpiffeId, class: PeerClass) -> Result<(), Refusal> {
        if !matches!(class, PeerClass::Sidecar | PeerClass::Gateway | PeerClass::Agent) {
            return Err(Refusal::ClassNotAllowed);
        }
        if !id.is_in(&self.trust_domain) {
            return Err(Refusal::TrustDomain);
        }
        if self.is_reserved(id) {
            return Err(Refusal::Reserved);
        }
        // Reserved names are told by their namespace, so an identity must have one.
        if id.namespace().is_none() { Err(Refusal::IdentityShape) } else { Ok(()) }
    }

    /// Everything under the control plane's own namespace.
    pub(crate) fn is_reserved(&self, id: &SpiffeId) -> bool {
        let mut parts = id.path().split('/').skip(1);
        parts.next() == Some("ns") && parts.next() == Some(self.system_namespace.as_str())
    }

    /// The control plane's right to its own certificate. There is no request: the caller is this process.
    pub(crate) fn own_svid(&self, dns_names: Vec<String>) -> Authorized {
        Authorized {
            id: self.control_plane.clone(),
            class: PeerClass::ControlPlane,
            dns_names,
            grant: Grant::OwnSvid,
        }
    }

    /// The right to a certificate that nobody ever sees, for a key that nobody keeps.
    pub(crate) fn proof(&self) -> Authorized {
        Authorized {
            id: self.control_plane.clone(),
            class: PeerClass::Sidecar,
            dns_names: vec!["proof.signet.internal".into()],
            grant: Grant::Proof,
        }
    }

    async fn last_checks(
        &self,
        writer: &mut Writer,
        id: &SpiffeId,
        class: PeerClass,
        key: &ProvenKey,
        registrar: &dyn Registrar,
        now: i64,
    ) -> Result<Vec<String>, Stop> {
        let refuse = |refusal| Stop::Refused(refusal, Some((id.clone(), class)));
        let key_hash = key.sha256();
        let by =
            [(RevocationKind::Identity, id.as_str().as_bytes()), (RevocationKind::Key, key_hash.as_slice())];
        if let Some(kind) = writer.first_revoked(&by, now).await? {
            return Err(refuse(revoked(kind)));
        }
        if writer.key_certified_until(&key_hash).await?.is_some() {
            return Err(refuse(Refusal::KeyUsed));
        }
        registrar.dns_names(id, class).ok_or_else(|| refuse(Refusal::NotRegistered))
    }
}

/// What is said to whom that was revoked by.
fn revoked(kind: RevocationKind) -> Refusal {
    match kind {
        RevocationKind::Identity => Refusal::IdentityRevoked,
        RevocationKind::Key => Refusal::KeyRevoked,
        RevocationKind::Lineage => Refusal::LineageRevoked,
        RevocationKind::Instance => Refusal::InstanceRevoked,
        RevocationKind::Serial | RevocationKind::Member | RevocationKind::Delegation => {
            Refusal::SerialRevoked
        }
        // Never asked for: a user gets no certificate.
        RevocationKind::User | RevocationKind::Logout | RevocationKind::Session | RevocationKind::Token => {
            Refusal::IdentityRevoked
        }
    }
}

fn named(id: &str, class: &str, table: &'static str) -> Result<(SpiffeId, PeerClass), StoreError> {
    let what = "its identity or class cannot be read";
    let corrupt = StoreError::Corrupt { table, what };
    match (SpiffeId::parse(id), class.parse()) {
        (Ok(id), Ok(class)) => Ok((id, class)),
        _ => Err(corrupt),
    }
}

pub(crate) fn random_id() -> Result<[u8; 16], AuthorityError> {
    use ring::rand::{SecureRandom as _, SystemRandom};
    let mut id = [0u8; 16];
    SystemRandom::new().fill(&mut id).map_err(|_| AuthorityError::File(crate::files::FileError::Random))?;
    Ok(id)
}

/// How a registrar travels into the task that issues.
pub type SharedRegistrar = Arc<dyn Registrar>;
