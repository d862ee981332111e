//! By a join token, and by the certificate that is renewed: lineages, from beginning to end.

use signet_identity::PeerClass;

use super::{Authorized, Grant, Holder, Joining, Registrar, Renewal, Rules, Stop, Tie, named, random_id};
use crate::csr::ProvenKey;
use crate::issue::MIN_LEAF_LIFE;
use crate::refusal::Refusal;
use crate::store::{Consumed, LineageRow, RevocationKind, SvidRow, Writer};

impl Rules {
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
}
