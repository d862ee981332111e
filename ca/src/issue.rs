//! The one place that signs SVIDs, and what is written down with each.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use signet_identity::{PeerClass, Serial, SpiffeId};

use crate::authorise::{Authorized, Grant, Tie};
use crate::check::{self, CheckError};
use crate::csr::ProvenKey;
use crate::error::AuthorityError;
use crate::hierarchy::{HierarchyError, Issuer};
use crate::profile::{BACKDATE, LeafProfile, ProfileError, Validity};
use crate::record::{Entry, Event};
use crate::revoke::LineageId;
use crate::store::{LineageRow, SvidRow, Writer};

/// What would end sooner is not worth issuing: the holder could not even renew it.
pub(crate) const MIN_LEAF_LIFE: i64 = 10;
/// Names in one certificate; each travels in every handshake.
const MAX_DNS_NAMES: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error("no serial could be made: {0}")]
    Serial(#[from] signet_identity::SerialError),
    #[error("a certificate under this issuer would live {left} s: the issuer or the lineage ends too soon")]
    TooShort { left: i64 },
    #[error(
        "{0:?} is no DNS name that a certificate may carry: use lower-case letters, digits and '-', without wildcard"
    )]
    DnsName(String),
    #[error("{0} DNS names are too many for one certificate (at most {MAX_DNS_NAMES})")]
    DnsNames(usize),
    #[error("signing was interrupted: {0}")]
    Interrupted(String),
}

/// A new SVID with everything that its holder needs beside its key.
#[derive(Debug, Clone)]
pub struct Issued {
    pub spiffe_id: SpiffeId,
    pub class: PeerClass,
    pub serial: Serial,
    /// Leaf, then issuer; no root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Seconds since the epoch, like all that follow.
    pub not_before: i64,
    pub not_after: i64,
    /// When the authority would like to see the renewal: a third of what is left has passed.
    pub renew_at: i64,
    /// After this the workload must join again; none for who is attested each time, and for the control plane.
    pub lineage_ends_at: Option<i64>,
}

/// When to renew something that ends then.
pub(crate) fn renew_at(now: i64, not_after: i64) -> i64 {
    now.saturating_add(not_after.saturating_sub(now).max(0) / 3)
}

/// A certificate that passed the second pair of eyes.
pub(crate) struct Signed {
    pub(crate) profile: LeafProfile,
    pub(crate) der: CertificateDer<'static>,
}

/// Signs. Names, class and bounds come from the authorisation, the key from a proof of possession, dates
/// and serial from here. Nothing of a request reaches the certificate but the key.
pub(crate) async fn sign(
    authorized: &Authorized,
    key: &ProvenKey,
    issuer: &Arc<Issuer>,
    ttl: i64,
    now: i64,
) -> Result<Signed, SignError> {
    let profile = meant(authorized, issuer, ttl, now)?;
    if !issuer.signer.key().waits() {
        return make(profile, key, issuer);
    }
    // A token takes its time: not on a thread that serves others.
    let (key, issuer) = (key.clone(), Arc::clone(issuer));
    tokio::task::spawn_blocking(move || make(profile, &key, &issuer))
        .await
        .map_err(|error| SignError::Interrupted(error.to_string()))?
}

/// What the certificate is to say.
fn meant(authorized: &Authorized, issuer: &Issuer, ttl: i64, now: i64) -> Result<LeafProfile, SignError> {
    let dns_names = authorized.dns_names();
    if dns_names.len() > MAX_DNS_NAMES {
        return Err(SignError::DnsNames(dns_names.len()));
    }
    if let Some(bad) = dns_names.iter().find(|name| !is_dns_name(name)) {
        return Err(SignError::DnsName(bad.clone()));
    }
    let parent = issuer.certificate.validity;
    let validity = Validity {
        not_before: now.saturating_sub(BACKDATE).max(parent.not_before),
        not_after: now
            .saturating_add(ttl)
            .min(parent.not_after)
            .min(authorized.ends_at().unwrap_or(i64::MAX)),
    };
    let left = validity.not_after.saturating_sub(now.max(validity.not_before));
    if left < MIN_LEAF_LIFE {
        return Err(SignError::TooShort { left });
    }
    Ok(LeafProfile {
        id: authorized.id().clone(),
        dns_names: dns_names.to_vec(),
        class: authorized.class(),
        serial: Serial::fresh()?,
        validity,
    })
}

fn make(profile: LeafProfile, key: &ProvenKey, issuer: &Issuer) -> Result<Signed, SignError> {
    let der = profile.params()?.signed_by(key, &issuer.signer).map_err(ProfileError::from)?.der().clone();
    let spki = rcgen::PublicKeyData::subject_public_key_info(key);
    check::leaf(&der, &profile, &spki, &issuer.certificate.parent)?;
    Ok(Signed { profile, der })
}

/// Signs, and writes down certificate, lineage and record in the caller's transaction.
pub(crate) async fn issue(
    writer: &mut Writer,
    authorized: &Authorized,
    key: &ProvenKey,
    issuer: &Arc<Issuer>,
    (ttl, now): (i64, i64),
    actor: &str,
) -> Result<Issued, AuthorityError> {
    // Another replica may have ended this issuer since it was taken into force here.
    if !writer.signs(issuer).await? {
        return Err(HierarchyError::NotActive { kind: "issuer" }.into());
    }
    let signed = sign(authorized, key, issuer, ttl, now).await?;
    let (event, lineage, parent) = match authorized.grant() {
        Grant::Joined(lineage) => {
            writer.insert_lineage(lineage).await?;
            (Event::Issued, Some(lineage), None)
        }
        Grant::Renewal { parent, lineage } => (Event::Renewed, Some(lineage), Some(parent)),
        Grant::Attested(_) => (Event::Issued, None, None),
        Grant::Login(_) => (Event::LoggedIn, None, None),
        // No parent: that one renews once, and this is no renewal of it.
        Grant::Workload { tie: Tie::Lineage(lineage), .. } => (Event::Issued, Some(lineage), None),
        Grant::Workload { tie: Tie::Instance(_), .. } => (Event::Issued, None, None),
        Grant::Vouched { agent: Tie::Lineage(lineage), .. } => (Event::Issued, Some(lineage), None),
        Grant::Vouched { agent: Tie::Instance(_), .. } => (Event::Issued, None, None),
        Grant::OwnSvid | Grant::Proof => (Event::SelfIssued, None, None),
    };
    let LeafProfile { id, class, serial, validity, .. } = signed.profile;
    let row = SvidRow {
        serial: serial.as_bytes().to_vec(),
        lineage: lineage.map(|lineage| lineage.id),
        spiffe_id: id.as_str().to_owned(),
        class: class.as_str().to_owned(),
        parent: parent.map(|serial| serial.as_bytes().to_vec()),
        key_hash: key.sha256(),
        issuer: issuer.certificate.serial.as_bytes().to_vec(),
        certificate: signed.der.to_vec(),
        not_after: validity.not_after,
    };
    writer.insert_svid(&row).await?;
    let because = match authorized.grant() {
        Grant::Attested(instance) | Grant::Workload { tie: Tie::Instance(instance), .. } => {
            writer.insert_attested(serial.as_bytes(), instance).await?;
            instance.to_string()
        }
        Grant::Login(words) => words.clone(),
        Grant::Vouched { agent, words, .. } => {
            if let Tie::Instance(instance) = agent {
                writer.insert_attested(serial.as_bytes(), instance).await?;
            }
            words.clone()
        }
        Grant::Workload { tie: Tie::Lineage(lineage), .. } => {
            format!("lineage {}", LineageId::of(lineage.id))
        }
        Grant::Joined(lineage) | Grant::Renewal { lineage, .. } => lineage_words(lineage),
        Grant::OwnSvid | Grant::Proof => String::new(),
    };
    // An app's certificate is of the sidecar's lineage or pod, and is not what the sidecar goes by.
    match authorized.grant() {
        _ if class == PeerClass::Workload => {}
        Grant::Joined(_) | Grant::Attested(_) => writer.sidecar_joined(&row, now).await?,
        _ => writer.sidecar_renewed(&row).await?,
    }
    writer
        .record(
            Entry::new(now, event, actor)
                .about(id.as_str(), class.as_str())
                .certificate(&serial.to_string(), validity.not_after)
                .because(&because),
        )
        .await?;
    Ok(Issued {
        spiffe_id: id,
        class,
        serial,
        chain: std::iter::once(signed.der).chain(issuer.chain()).collect(),
        not_before: validity.not_before,
        not_after: validity.not_after,
        renew_at: renew_at(now, validity.not_after),
        lineage_ends_at: authorized.ends_at(),
    })
}

/// Which chain of renewals it is and when that ends, in the words of the log.
pub(crate) fn lineage_words(lineage: &LineageRow) -> String {
    use time::format_description::well_known::Rfc3339;
    let (id, at) = (LineageId::of(lineage.id), lineage.ends_at);
    let text = time::OffsetDateTime::from_unix_timestamp(at).ok().and_then(|at| at.format(&Rfc3339).ok());
    format!("lineage {id}, renewable until {}", text.unwrap_or_else(|| at.to_string()))
}

/// Lower-case letters, digits and hyphens in labels of 1 to 63, 253 in all, no wildcard. Names under which
/// clients look for an identity (`<52 characters>.id.signet.internal`) belong to no service.
fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let identity = name.strip_suffix(".id.signet.internal").is_some_and(|first| first.len() == 52);
    name.len() <= 253 && name.split('.').all(label) && !identity
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_lower_case_names_are_certified() {
        for good in ["orders.shop.signet.internal", "localhost", "a-1.b"] {
            assert!(is_dns_name(good), "{good}");
        }
        let identity = format!("{}.id.signet.internal", "a".repeat(52));
        for bad in
            ["", "*.shop.signet.internal", "Orders.shop", "a..b", "-a", "a-", "a b", "ä.b", "a.b.", &identity]
        {
            assert!(!is_dns_name(bad), "{bad}");
        }
    }
}
