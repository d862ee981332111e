//! By a certificate that was issued here: who holds it, and what it may have beside its own.

use signet_identity::{PeerClass, Serial, SpiffeId};

use super::{Authorized, Grant, Holder, Registrar, Rules, Stop, Tie, named, revoked};
use crate::check;
use crate::csr::ProvenKey;
use crate::issue::MIN_LEAF_LIFE;
use crate::refusal::Refusal;
use crate::store::{RevocationKind, StoreError, Writer, instance_named};
use crate::vouched::{self, Vouched};

impl Rules {
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
        let id = holder.id.clone();
        let dns_names = self.for_an_app(writer, &id, &holder, key, registrar, now).await?;
        let grant = Grant::Workload { tie: holder.tie, parent_ends_at: holder.not_after };
        Ok(Authorized { id, class: PeerClass::Workload, dns_names, grant })
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
        let dns_names = self.for_an_app(writer, &id, agent, key, registrar, now).await?;
        let words = vouched::short(vouched.words);
        let grant = Grant::Vouched { agent: agent.tie.clone(), parent_ends_at: agent.not_after, words };
        Ok(Authorized { id, class, dns_names, grant })
    }

    /// The last checks of a certificate of class workload, which ends no later than that of whoever asks for it.
    async fn for_an_app(
        &self,
        writer: &mut Writer,
        id: &SpiffeId,
        parent: &Holder,
        key: &ProvenKey,
        registrar: &dyn Registrar,
        now: i64,
    ) -> Result<Vec<String>, Stop> {
        let class = PeerClass::Workload;
        if parent.not_after.saturating_sub(now) < MIN_LEAF_LIFE {
            return Err(Stop::Refused(Refusal::SvidExpired, Some((id.clone(), class))));
        }
        self.last_checks(writer, id, class, key, registrar, now).await.map_err(|stop| match stop {
            Stop::Refused(Refusal::NotRegistered, about) => Stop::Refused(Refusal::WorkloadApiOff, about),
            other => other,
        })
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
}
