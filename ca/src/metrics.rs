//! The authority's counters. Labels come from fixed lists only.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::refusal::Refusal;
use crate::rotation::Phase;
use crate::rotation::material::Entry;

#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) issued: IntCounterVec,
    pub(crate) refused: IntCounterVec,
    pub(crate) revoked: IntCounterVec,
    pub(crate) alerts: IntCounter,
    pub(crate) lineages_ending: IntCounter,
    pub(crate) unrecorded: IntCounter,
    pub(crate) failures: IntCounter,
    pub(crate) commits: IntCounter,
    pub(crate) log_missed: IntCounter,
    pub(crate) log_missed_waiting: IntGauge,
    pub(crate) not_after: IntGaugeVec,
    pub(crate) phases: IntGaugeVec,
    pub(crate) given_up: IntCounter,
    pub(crate) crl_next_update: IntGauge,
    pub(crate) root_due: IntGauge,
    pub(crate) root_folder_good: IntGauge,
    pub(crate) root_folder_read: IntGauge,
    pub(crate) backup_at: IntGauge,
    pub(crate) backup_failures: IntCounter,
}

impl Metrics {
    pub(crate) fn new() -> Result<Metrics, prometheus::Error> {
        Ok(Metrics {
            issued: IntCounterVec::new(
                Opts::new(
                    "signet_ca_issued_total",
                    "Certificates issued, by how they were authorised and class",
                ),
                &["by", "class"],
            )?,
            refused: IntCounterVec::new(
                Opts::new("signet_ca_refused_total", "Requests refused, by typed reason"),
                &["reason"],
            )?,
            revoked: IntCounterVec::new(
                Opts::new("signet_ca_revoked_total", "Revocations, by what was revoked"),
                &["kind"],
            )?,
            alerts: IntCounter::new(
                "signet_ca_lineage_alerts_total",
                "Certificates that were renewed twice with different keys; each is a key in two hands",
            )?,
            lineages_ending: IntCounter::new(
                "signet_ca_lineage_ending_total",
                "Renewals with less than a day left until the workload must join again",
            )?,
            unrecorded: IntCounter::new(
                "signet_ca_unrecorded_refusals_total",
                "Refusals that were counted into a later record because there were too many",
            )?,
            failures: IntCounter::new(
                "signet_ca_failures_total",
                "Acts that failed through no fault of the caller (store, keys, checks)",
            )?,
            log_missed: IntCounter::new(
                "signet_ca_log_missed_total",
                "Records that the issuance log did not take and that were kept for later",
            )?,
            log_missed_waiting: IntGauge::new(
                "signet_ca_log_missed_waiting",
                "1 while kept records wait to go into the issuance log",
            )?,
            commits: IntCounter::new(
                "signet_ca_store_commits_total",
                "Transactions of the store; acts that wait share one",
            )?,
            not_after: IntGaugeVec::new(
                Opts::new(
                    "signet_ca_certificate_not_after_seconds",
                    "When a certificate of the authority ends",
                ),
                &["role", "phase"],
            )?,
            phases: IntGaugeVec::new(
                Opts::new("signet_ca_authorities", "Roots, issuers and keys, by kind and phase of rotation"),
                &["kind", "phase"],
            )?,
            given_up: IntCounter::new(
                "signet_ca_sidecars_given_up_total",
                "Sidecars that did not acknowledge a new root or key before the deadline",
            )?,
            crl_next_update: IntGauge::new(
                "signet_ca_crl_next_update_timestamp_seconds",
                "When the first of the revocation lists ends unless it is made anew",
            )?,
            root_due: IntGauge::new(
                "signet_ca_external_root_due_timestamp_seconds",
                "By when a root that is signed or given from outside is needed; 0 where none is",
            )?,
            root_folder_good: IntGauge::new(
                "signet_ca_root_folder_good",
                "1 while what lies in the folder with the root is whole and taken",
            )?,
            root_folder_read: IntGauge::new(
                "signet_ca_root_folder_good_timestamp_seconds",
                "When what lies in the folder with the root was last found whole",
            )?,
            backup_at: IntGauge::new(
                "signet_ca_backup_timestamp_seconds",
                "When the newest copy of the authority was made; 0 where there is none",
            )?,
            backup_failures: IntCounter::new(
                "signet_ca_backup_failures_total",
                "Copies of the authority that were begun, or asked for, and not made",
            )?,
        })
    }

    pub(crate) fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.issued.clone()))?;
        registry.register(Box::new(self.refused.clone()))?;
        registry.register(Box::new(self.revoked.clone()))?;
        registry.register(Box::new(self.alerts.clone()))?;
        registry.register(Box::new(self.lineages_ending.clone()))?;
        registry.register(Box::new(self.unrecorded.clone()))?;
        registry.register(Box::new(self.failures.clone()))?;
        registry.register(Box::new(self.commits.clone()))?;
        registry.register(Box::new(self.log_missed.clone()))?;
        registry.register(Box::new(self.log_missed_waiting.clone()))?;
        registry.register(Box::new(self.phases.clone()))?;
        registry.register(Box::new(self.given_up.clone()))?;
        registry.register(Box::new(self.not_after.clone()))?;
        registry.register(Box::new(self.root_due.clone()))?;
        registry.register(Box::new(self.backup_at.clone()))?;
        registry.register(Box::new(self.backup_failures.clone()))?;
        registry.register(Box::new(self.root_folder_good.clone()))?;
        registry.register(Box::new(self.root_folder_read.clone()))?;
        registry.register(Box::new(self.crl_next_update.clone()))
    }

    /// What the journal holds, and the first end of each kind and phase.
    pub(crate) fn show_authorities(&self, entries: &[Entry]) {
        self.phases.reset();
        self.not_after.reset();
        for slot in entries.iter().map(|entry| &entry.slot).filter(|slot| slot.phase != Phase::Removed) {
            let labels = [slot.kind.as_str(), slot.phase.as_str()];
            self.phases.with_label_values(&labels).inc();
            let first = self.not_after.with_label_values(&labels);
            first.set(if first.get() == 0 { slot.not_after } else { first.get().min(slot.not_after) });
        }
    }

    pub(crate) fn refuse(&self, refusal: Refusal) {
        self.refused.with_label_values(&[refusal.label()]).inc();
    }
}
