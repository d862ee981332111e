//! By evidence from outside: what was attested, and people who logged in.

use signet_identity::{PeerClass, SpiffeId};

use super::{Authorized, Grant, Registrar, Rules, Stop};
use crate::attested::Attested;
use crate::csr::ProvenKey;
use crate::operator::Person;
use crate::refusal::Refusal;
use crate::store::{RevocationKind, Writer, instance_named};

impl Rules {
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
}
