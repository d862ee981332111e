//! Certificate revocation lists (RFC 5280, section 5), for those who verify our certificates with nothing of ours.
//!
//! Sidecars hear of revocations on their stream within a second and need no list; this one is for clients of the
//! Workload API, for partners, for `openssl verify -crl_check`. Each issuer of this control plane that signs, or whose
//! certificates still live, has one, signed by itself: of live certificates that are revoked by serial, by key or by
//! identity. It is made anew after each revocation, and every hour, long before its next update is due.

use std::collections::BTreeMap;
use std::sync::Arc;

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use signet_identity::Serial;
use time::OffsetDateTime;
use tokio::sync::{Mutex, watch};
use x509_parser::extensions::ParsedExtension;

use crate::authority::{Authority, Inner};
use crate::check::{self, CheckError};
use crate::error::AuthorityError;
use crate::hierarchy::{CaCertificate, HierarchyError, Issuer};
use crate::issue::SignError;
use crate::profile::{BACKDATE, ProfileError};
use crate::rotation::material::Entry;
use crate::rotation::view::View;
use crate::rotation::{Kind, Phase};

/// A reader that cannot reach us goes on for a day, the longest life of a certificate: after that there is nothing
/// left that a list could say.
const LIFE: i64 = 24 * 3_600;
/// A list is signed anew this often even when nothing changed, so that a reader of an old copy notices.
const RENEW: i64 = 3_600;

/// A signed list of one issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crl {
    /// Serial number of the issuer's certificate, which names the list.
    pub issuer: Serial,
    /// Grows with each list of this issuer.
    pub number: u64,
    /// Seconds since the epoch, like all that follow.
    pub this_update: i64,
    pub next_update: i64,
    /// What it lists, with the time of each revocation.
    pub revoked: BTreeMap<Serial, i64>,
    pub der: Vec<u8>,
}

/// The lists in force, that of the issuer that signs last.
pub type Crls = Arc<Vec<Arc<Crl>>>;

/// The lists, and who makes them.
pub(crate) struct Lists {
    /// Held while lists are made, so that an older one never follows a newer.
    making: Mutex<()>,
    current: watch::Sender<Crls>,
}

impl Lists {
    pub(crate) fn new() -> Lists {
        Lists { making: Mutex::new(()), current: watch::Sender::default() }
    }
}

impl Authority {
    /// The revocation lists in force, and each change of them.
    pub fn crls(&self) -> watch::Receiver<Crls> {
        self.inner.lists.current.subscribe()
    }
}

impl Inner {
    /// Brings the lists up to date. Never the reason why a revocation fails: what cannot be listed now is listed
    /// within a minute, and sidecars have been told anyway.
    pub(crate) async fn publish_crls(&self, now: i64) {
        if let Err(error) = self.make_crls(now).await {
            self.metrics.failures.inc();
            tracing::error!(target: "signet::ca", %error, "revocation lists are not up to date");
        }
    }

    async fn make_crls(&self, now: i64) -> Result<(), AuthorityError> {
        let _one_at_a_time = self.lists.making.lock().await;
        // Before the journal was read for the first time nothing was signed.
        let Ok(view) = self.view() else { return Ok(()) };
        let before = self.lists.current.borrow().clone();
        let mut lists = Vec::new();
        for entry in signers(&view, &self.replica, now) {
            let certificate = entry.signing_certificate()?;
            let serial = certificate.serial;
            let mut revoked = BTreeMap::new();
            for (serial, since) in self.store.revoked_under(serial.as_bytes(), now).await? {
                let serial = Serial::from_bytes(&serial).map_err(|_| CheckError("a stored serial is bad"));
                revoked.insert(serial.map_err(HierarchyError::from)?, since);
            }
            let last = before.iter().find(|list| list.issuer == serial);
            if let Some(last) = last.filter(|last| last.revoked == revoked && is_fresh(last, now)) {
                lists.push(Arc::clone(last));
                continue;
            }
            let issuer = match self.signer(&view, entry, certificate).await {
                Ok(issuer) => issuer,
                // Another took its place; the others' lists are none the worse.
                Err(AuthorityError::Hierarchy(error @ HierarchyError::KeyMissing { .. })) => {
                    tracing::warn!(target: "signet::ca", id = entry.slot.id, %error, "an issuer has no revocation list");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let number = last.map_or(0, |last| last.number.saturating_add(1));
            // Numbers follow the clock: a restart forgets the last one.
            let number = number.max(u64::try_from(now).unwrap_or(0));
            // A long list, or a token that takes its time: not on a thread that serves others.
            let signed = tokio::task::spawn_blocking(move || sign(&issuer, revoked, number, now));
            let signed = signed.await.map_err(|error| SignError::Interrupted(error.to_string()))?;
            lists.push(Arc::new(signed.map_err(HierarchyError::from)?));
        }
        let earliest = lists.iter().map(|list| list.next_update).min().unwrap_or(0);
        self.metrics.crl_next_update.set(earliest);
        let lists: Crls = Arc::new(lists);
        self.lists.current.send_if_modified(|current| {
            let changed = *current != lists;
            if changed {
                *current = lists;
            }
            changed
        });
        Ok(())
    }

    /// An issuer with its key; that of one which was replaced is opened each time, and forgotten.
    async fn signer(
        &self,
        view: &View,
        entry: &Entry,
        certificate: CaCertificate,
    ) -> Result<Arc<Issuer>, AuthorityError> {
        if view.issuer.id == entry.slot.id {
            return Ok(Arc::clone(&view.issuer));
        }
        let id = entry.slot.id.clone();
        let opened = self.with_vault(move |vault| {
            let key = vault.key(Kind::Issuer, &id, &certificate.spki)?;
            certificate.with_key(key, &format!("issuer-{id}.sealed"))
        });
        opened.await.map(Arc::new)
    }
}

/// The issuers of this control plane under which something may still be valid, the one that signs last.
fn signers<'a>(view: &'a View, replica: &str, now: i64) -> Vec<&'a Entry> {
    let phase = |entry: &Entry| matches!(entry.slot.phase, Phase::Active | Phase::Draining);
    let own = |entry: &&Entry| {
        entry.is(Kind::Issuer) && entry.slot.owner == replica && phase(entry) && entry.slot.not_after >= now
    };
    let mut signers: Vec<&Entry> = view.entries.iter().filter(own).collect();
    signers.sort_by_key(|entry| (entry.slot.phase == Phase::Active, entry.slot.not_before));
    signers
}

/// Young enough to be served on: neither due, nor from the future of a clock that went back.
fn is_fresh(list: &Crl, now: i64) -> bool {
    (list.this_update..list.this_update.saturating_add(BACKDATE).saturating_add(RENEW)).contains(&now)
}

fn sign(issuer: &Issuer, revoked: BTreeMap<Serial, i64>, number: u64, now: i64) -> Result<Crl, ProfileError> {
    let date =
        |seconds: i64| OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| ProfileError::Date(seconds));
    let validity = issuer.certificate.validity;
    let this_update = now.saturating_sub(BACKDATE).max(validity.not_before);
    // Past its own end no signature of the issuer counts.
    let next_update = now.saturating_add(LIFE).min(validity.not_after);
    let entry = |(serial, since): (&Serial, &i64)| {
        Ok(RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial.as_bytes()),
            revocation_time: date(*since)?,
            reason_code: None,
            invalidity_date: None,
        })
    };
    let params = CertificateRevocationListParams {
        this_update: date(this_update)?,
        next_update: date(next_update)?,
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().map(entry).collect::<Result<_, ProfileError>>()?,
        key_identifier_method: key_identifier(issuer),
    };
    let der = params.signed_by(&issuer.signer)?.der().to_vec();
    Ok(Crl { issuer: issuer.certificate.serial, number, this_update, next_update, revoked, der })
}

/// The list names its signer's key as the signer's certificate does.
fn key_identifier(issuer: &Issuer) -> KeyIdMethod {
    let parsed = check::parse(&issuer.certificate.der).ok();
    let stated = parsed.and_then(|certificate| {
        certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
            _ => None,
        })
    });
    stated.map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified)
}
