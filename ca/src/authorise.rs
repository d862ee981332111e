//! Who gets which certificate.
//!
//! An [`Authorized`] can be made here and nowhere else: its fields are private to this module. The one
//! function that signs ([`crate::issue::sign`]) takes nothing but such a value for names, class and
//! lineage. Each way to one checks the same things last: the identity is of our trust domain, is not
//! reserved, not revoked and still registered, and the public key is new.

use std::sync::Arc;

use signet_identity::{PeerClass, Serial, SpiffeId, TrustDomain};

use crate::attested::{Attested, Instance};
use crate::check;
use crate::csr::ProvenKey;
use crate::error::AuthorityError;
use crate::issue::MIN_LEAF_LIFE;
use crate::operator::Person;
use crate::refusal::Refusal;
use crate::store::{
    Consumed, LineageRow, RevocationKind, StoreError, SvidRow, Taken, Writer, instance_named,
};
use crate::vouched::{self, Vouched};

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

    /// Consumes a join token, in the issuing transaction. Who comes with a used one and the key that it brought a
    /// certificate has not heard the answer.
    pub(crate) async fn by_join_token(
        &self,
        writer: &mut Writer,
        hash: &[u8; 32],
        key: &ProvenKey,
        registrar: &dyn Registrar,
        now: i64,
    ) -> Result<Joining, Stop> {
        let refuse = |refusal| Stop::Refused(refusal, None);
        let row = match writer.consume_token(hash, now).await? {
            Consumed::Yes(row) => row,
            Consumed::Unknown => return Err(refuse(Refusal::TokenUnknown)),
            Consumed::Used => {
                let before = self.joined_before(writer, hash, key, registrar, now).await?;
                return before.map(Joining::Again).ok_or_else(|| refuse(Refusal::TokenUsed));
            }
            Consumed::Expired => return Err(refuse(Refusal::TokenExpired)),
        };
        let (id, class) = named(&row.spiffe_id, &row.class, "join_tokens")?;
        self.may_join(&id, class).map_err(|refusal| {
            let refusal =
                if refusal == Refusal::TrustDomain { Refusal::TokenForeign } else { Refusal::RowTampered };
            Stop::Refused(refusal, Some((id.clone(), class)))
        })?;
        let dns_names = self.last_checks(writer, &id, class, key, registrar, now).await?;
        let lineage = LineageRow {
            id: random_id()?,
            spiffe_id: row.spiffe_id,
            class: row.class,
            origin: *hash,
            started_at: now,
            ends_at: now.saturating_add(self.lineage_life),
            revoked_at: None,
        };
        Ok(Joining::Granted(Authorized { id, class, dns_names, grant: Grant::Joined(lineage) }))
    }

    /// The certificate that this token brought this very key, as long as it is good and nothing followed it: whoever
    /// has renewed it has had it.
    async fn joined_before(
        &self,
        writer: &mut Writer,
        hash: &[u8; 32],
        key: &ProvenKey,
        registrar: &dyn Registrar,
        now: i64,
    ) -> Result<Option<SvidRow>, Stop> {
        let Some(serial) = writer.joined_by(hash, &key.sha256()).await? else { return Ok(None) };
        let Some(row) = writer.svid(&serial).await? else { return Ok(None) };
        let holder = match self.holder(writer, &row.certificate, now).await {
            Ok(holder) => holder,
            Err(Stop::Refused(..)) => return Ok(None),
            Err(stop) => return Err(stop),
        };
        // The rows' marks were checked: the join above can point to others, but not make them fit.
        let is_first =
            row.parent.is_none() && row.key_hash == key.sha256() && row.class == holder.class.as_str();
        let is_its = matches!(&holder.tie, Tie::Lineage(lineage) if lineage.origin == *hash && lineage.class == row.class);
        let is_registered = registrar.dns_names(&holder.id, holder.class).is_some();
        let is_last = writer.child_of(&row.serial).await?.is_none();
        Ok((is_first && is_its && is_registered && is_last).then_some(row))
    }

    /// Looks at the certificate that the peer presented in its handshake. Everything about the peer comes
    /// from it, and it must be, byte for byte, the one that was issued under its serial.
    pub(crate) async fn by_renewal(
        &self,
        writer: &mut Writer,
        presented: &[u8],
        key: &ProvenKey,
        registrar: &dyn Registrar,
        now: i64,
    ) -> Result<Renewal, Stop> {
        let Holder { serial, id, class, tie, .. } = self.holder(writer, presented, now).await?;
        let refuse = |refusal| Stop::Refused(refusal, Some((id.clone(), class)));
        let Tie::Lineage(lineage) = tie else { return Err(refuse(Refusal::AttestAgain)) };
        if class == PeerClass::Workload {
            return Err(refuse(Refusal::NotAProxy));
        }
        if let Some(child) = writer.child_of(serial.as_bytes()).await? {
            if child.key_hash != key.sha256() {
                return Ok(Renewal::Reused(lineage));
            }
            if now > child.not_after {
                return Err(refuse(Refusal::SvidExpired));
            }
            if writer.is_revoked(RevocationKind::Serial, &child.serial, now).await? {
                return Err(refuse(Refusal::SerialRevoked));
            }
            if registrar.dns_names(&id, class).is_none() {
                return Err(refuse(Refusal::NotRegistered));
            }
            return Ok(Renewal::Again(child));
        }
        if lineage.ends_at.saturating_sub(now) < MIN_LEAF_LIFE {
            return Err(refuse(Refusal::LineageEnded));
        }
        let dns_names = self.last_checks(writer, &id, class, key, registrar, now).await?;
        Ok(Renewal::Granted(Authorized {
            id,
            class,
            dns_names,
            grant: Grant::Renewal { parent: serial, lineage },
        }))
    }

    /// Who presented this certificate, if it is one that was issued here and may still ask for something: known byte
    /// for byte, within its dates, and neither it nor its key, identity or lineage revoked.
    pub(crate) async fn holder(
        &self,
        writer: &mut Writer,
        presented: &[u8],
        now: i64,
    ) -> Result<Holder, Stop> {
        let serial = check::parse(presented)
            .ok()
            .and_then(|certificate| Serial::from_der_integer(certificate.raw_serial()).ok())
            .ok_or(Stop::Refused(Refusal::PeerMismatch, None))?;
        let row = writer.svid(serial.as_bytes()).await?.ok_or(Stop::Refused(Refusal::SerialUnknown, None))?;
        let (id, class) = named(&row.spiffe_id, &row.class, "svids")?;
        let refuse = |refusal| Stop::Refused(refusal, Some((id.clone(), class)));
        if row.certificate != presented {
            return Err(refuse(Refusal::PeerMismatch));
        }
        if now > row.not_after {
            return Err(refuse(Refusal::SvidExpired));
        }
        let attested = writer.attested(serial.as_bytes()).await?;
        if row.lineage.is_none() && attested.is_none() {
            // The control plane makes its own anew, and asks for nothing else.
            return Err(refuse(Refusal::Reserved));
        }
        let instance = attested.as_ref().map(instance_named);
        let mut by = vec![
            (RevocationKind::Serial, row.serial.as_slice()),
            (RevocationKind::Key, row.key_hash.as_slice()),
            (RevocationKind::Identity, row.spiffe_id.as_bytes()),
        ];
        by.extend(row.lineage.as_ref().map(|lineage| (RevocationKind::Lineage, lineage.as_slice())));
        by.extend(instance.as_ref().map(|name| (RevocationKind::Instance, name.as_bytes())));
        if let Some(kind) = writer.first_revoked(&by, now).await? {
            return Err(refuse(revoked(kind)));
        }
        let tie = match (row.lineage, attested) {
            (Some(lineage_id), None) => {
                let lineage = writer
                    .lineage(&lineage_id)
                    .await?
                    .ok_or(StoreError::Corrupt { table: "svids", what: "its lineage is missing" })?;
                if lineage.revoked_at.is_some() {
                    return Err(refuse(Refusal::LineageRevoked));
                }
                // A certificate for an app is of its sidecar's lineage, and of a class of its own.
                let of_lineage = lineage.class == row.class || class == PeerClass::Workload;
                // One for a process has a name of its own, and is of its agent's lineage.
                let of_agent = lineage.class == PeerClass::Agent.as_str() && class == PeerClass::Workload;
                if !of_agent && (lineage.spiffe_id != row.spiffe_id || !of_lineage) {
                    return Err(refuse(Refusal::RowTampered));
                }
                Tie::Lineage(lineage)
            }
            (None, Some(instance)) => Tie::Instance(instance),
            // It is of one or of the other.
            (Some(_), Some(_)) | (None, None) => return Err(refuse(Refusal::RowTampered)),
        };
        let instance = writer.instance_of(&row).await?;
        if writer.is_given_up(&instance).await? {
            return Err(refuse(Refusal::Stale));
        }
        let not_after = row.not_after;
        Ok(Holder { serial, id, class, tie, not_after })
    }

    /// The right to a certificate of class workload, for the app beside whoever presented this one: a sidecar or a
    /// gateway whose Workload opts in.
    pub(crate) async fn by_proxy(
        &self,
        writer: &mut Writer,
        presented: &[u8],
        key: &ProvenKey,
        registrar: &dyn Registrar,
        now: i64,
    ) -> Result<Authorized, Stop> {
        let holder = self.proxy(writer, presented, registrar, now).await?;
        let class = PeerClass::Workload;
        let parent_ends_at = holder.not_after;
        if parent_ends_at.saturating_sub(now) < MIN_LEAF_LIFE {
            return Err(Stop::Refused(Refusal::SvidExpired, Some((holder.id, class))));
        }
        let dns_names = match self.last_checks(writer, &holder.id, class, key, registrar, now).await {
            Err(Stop::Refused(Refusal::NotRegistered, about)) => {
                return Err(Stop::Refused(Refusal::WorkloadApiOff, about));
            }
            checked => checked?,
        };
        let grant = Grant::Workload { tie: holder.tie, parent_ends_at };
        Ok(Authorized { id: holder.id, class, dns_names, grant })
    }

    /// Whoever presented this certificate, if it may ask for its app: a sidecar or a gateway that is still registered
    /// as one.
    pub(crate) async fn proxy(
        &self,
        writer: &mut Writer,
        presented: &[u8],
        registrar: &dyn Registrar,
        now: i64,
    ) -> Result<Holder, Stop> {
        let holder = self.holder(writer, presented, now).await?;
        let about = || Some((holder.id.clone(), holder.class));
        if !matches!(holder.class, PeerClass::Sidecar | PeerClass::Gateway) {
            return Err(Stop::Refused(Refusal::NotAProxy, about()));
        }
        if registrar.dns_names(&holder.id, holder.class).is_none() {
            return Err(Stop::Refused(Refusal::NotRegistered, about()));
        }
        Ok(holder)
    }

    /// The right to a certificate of class workload for a process that this agent vouches for.
    pub(crate) async fn by_agent(
        &self,
        writer: &mut Writer,
        agent: &Holder,
        vouched: Vouched,
        key: &ProvenKey,
        registrar: &dyn Registrar,
        now: i64,
    ) -> Result<Authorized, Stop> {
        let (id, class) = (vouched.spiffe_id, PeerClass::Workload);
        let refuse = |refusal| Stop::Refused(refusal, Some((id.clone(), class)));
        if let Err(refusal) = self.may_be_vouched_for(writer, &id, now).await? {
            return Err(refuse(refusal));
        }
        let parent_ends_at = agent.not_after;
        if parent_ends_at.saturating_sub(now) < MIN_LEAF_LIFE {
            return Err(refuse(Refusal::SvidExpired));
        }
        let dns_names = match self.last_checks(writer, &id, class, key, registrar, now).await {
            Err(Stop::Refused(Refusal::NotRegistered, about)) => {
                return Err(Stop::Refused(Refusal::WorkloadApiOff, about));
            }
            checked => checked?,
        };
        let (agent, words) = (agent.tie.clone(), vouched::short(vouched.words));
        let grant = Grant::Vouched { agent, parent_ends_at, words };
        Ok(Authorized { id, class, dns_names, grant })
    }

    /// Whoever presented this certificate, if it is an agent that is still registered as one.
    pub(crate) async fn agent(
        &self,
        writer: &mut Writer,
        presented: &[u8],
        registrar: &dyn Registrar,
        now: i64,
    ) -> Result<Holder, Stop> {
        let holder = self.holder(writer, presented, now).await?;
        let about = || Some((holder.id.clone(), holder.class));
        if holder.class != PeerClass::Agent {
            return Err(Stop::Refused(Refusal::NotAnAgent, about()));
        }
        if registrar.dns_names(&holder.id, holder.class).is_none() {
            return Err(Stop::Refused(Refusal::NotRegistered, about()));
        }
        Ok(holder)
    }

    /// Whether a process may have this identity by anybody's word: the same as is asked of a join token, and of every
    /// token that stands for a certificate.
    pub(crate) async fn may_be_vouched_for(
        &self,
        writer: &mut Writer,
        id: &SpiffeId,
        now: i64,
    ) -> Result<Result<(), Refusal>, Stop> {
        if let Err(refusal) = self.may_join(id, PeerClass::Sidecar) {
            return Ok(Err(refusal));
        }
        let revoked = writer.is_revoked(RevocationKind::Identity, id.as_str().as_bytes(), now).await?;
        Ok(if revoked { Err(Refusal::IdentityRevoked) } else { Ok(()) })
    }

    /// Looks at what was attested. Evidence says who somebody is; whether that one may have a certificate
    /// is asked here as for everybody else.
    pub(crate) async fn by_attestation(
        &self,
        writer: &mut Writer,
        attested: &Attested,
        key: &ProvenKey,
        registrar: &dyn Registrar,
        now: i64,
    ) -> Result<Authorized, Stop> {
        let (id, class) = (attested.spiffe_id.clone(), attested.class);
        let refuse = |refusal| Stop::Refused(refusal, Some((id.clone(), class)));
        if !matches!(class, PeerClass::Sidecar | PeerClass::Gateway | PeerClass::Workload) {
            return Err(refuse(Refusal::ClassNotAllowed));
        }
        if !id.is_in(&self.trust_domain) {
            return Err(refuse(Refusal::TrustDomain));
        }
        if self.is_reserved(&id) {
            return Err(refuse(Refusal::EvidenceReserved));
        }
        if id.namespace().is_none() {
            return Err(refuse(Refusal::IdentityShape));
        }
        let instance = instance_named(&attested.instance);
        if writer.is_revoked(RevocationKind::Instance, instance.as_bytes(), now).await? {
            return Err(refuse(Refusal::InstanceRevoked));
        }
        // Who begins anew gets the newest bundle with the certificate.
        if attested.again && writer.is_given_up(&instance).await? {
            return Err(refuse(Refusal::Stale));
        }
        let dns_names = self.last_checks(writer, &id, class, key, registrar, now).await?;
        Ok(Authorized { id, class, dns_names, grant: Grant::Attested(attested.instance.clone()) })
    }

    /// A person whose login was verified, for the key that the login was made for.
    pub(crate) async fn by_login(
        &self,
        writer: &mut Writer,
        person: &Person,
        words: String,
        key: &ProvenKey,
        now: i64,
    ) -> Result<Authorized, Stop> {
        let id = self.operator_id(person).map_err(|refusal| Stop::Refused(refusal, None))?;
        let class = PeerClass::Operator;
        // People are in no registry: who has a role was asked before.
        let anybody = |_: &SpiffeId, _: PeerClass| Some(Vec::new());
        let dns_names = self.last_checks(writer, &id, class, key, &anybody, now).await?;
        Ok(Authorized { id, class, dns_names, grant: Grant::Login(words) })
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

fn random_id() -> Result<[u8; 16], AuthorityError> {
    use ring::rand::{SecureRandom as _, SystemRandom};
    let mut id = [0u8; 16];
    SystemRandom::new().fill(&mut id).map_err(|_| AuthorityError::File(crate::files::FileError::Random))?;
    Ok(id)
}

/// How a registrar travels into the task that issues.
pub type SharedRegistrar = Arc<dyn Registrar>;
