//! The request for a certificate under a root that is kept elsewhere.

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose, SanType};
use signet_identity::TrustDomain;

use super::RootSource;
use crate::authority::{Authority, Inner};
use crate::error::AuthorityError;
use crate::hierarchy::{HierarchyError, armored};
use crate::keys::{CaKey, key_name};
use crate::profile::ProfileError;
use crate::refusal::Refusal;
use crate::rotation::{Kind, Phase};

/// A request that waits for its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootRequest {
    /// Of the key, as in the journal.
    pub id: String,
    /// PKCS #10 as PEM text.
    pub pem: String,
}

/// A PKCS #10 request that asks for what the certificate is to be; whoever signs decides.
pub(crate) fn request(domain: &TrustDomain, key: &CaKey) -> Result<Vec<u8>, HierarchyError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let name: String = key_name(key).chars().take(16).collect();
    params.distinguished_name.push(DnType::CommonName, format!("Signet mesh {name}"));
    let uri = crate::check::domain_uri(domain);
    params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().map_err(ProfileError::from)?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let request = params.serialize_request(key).map_err(ProfileError::from)?;
    Ok(request.der().to_vec())
}

impl Authority {
    /// The request for a certificate under the external root; makes a key and a request where none waits.
    pub async fn root_request(&self, actor: &str) -> Result<RootRequest, AuthorityError> {
        let refused = match self.inner.root_source {
            RootSource::External => None,
            RootSource::Own => Some(Refusal::RootNotExternal),
            RootSource::Folder(_) => Some(Refusal::RootInFolder),
        };
        let now = self.inner.clock.unix_seconds();
        if let Some(refusal) = refused {
            return Err(self.inner.refuse_operator(refusal, actor, now).await);
        }
        if let Some(request) = self.inner.waiting_request().await? {
            return Ok(request);
        }
        self.prepare(Kind::Root, actor).await?;
        // What waits now is a request, or a certificate that came in between: a second one is not wanted.
        match self.inner.waiting_request().await? {
            Some(request) => Ok(request),
            None => Err(self.inner.refuse_operator(Refusal::RootOnItsWay, actor, now).await),
        }
    }
}

impl Inner {
    async fn waiting_request(&self) -> Result<Option<RootRequest>, AuthorityError> {
        let journal = self.store.journal().await?;
        let waiting = |entry: &&crate::rotation::material::Entry| {
            entry.is(Kind::Root) && entry.slot.phase == Phase::Requested && entry.slot.tainted_at.is_none()
        };
        Ok(journal.entries.iter().find(waiting).map(|entry| RootRequest {
            id: entry.slot.id.clone(),
            pem: armored("CERTIFICATE REQUEST", &entry.public),
        }))
    }
}
