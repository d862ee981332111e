//! Which attested pods and processes are which identity.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::decode::non_empty_map;
use crate::error::Problem;
use crate::object::{Global, Kind, Name};
use crate::resources::process::ProcessSelector;
use crate::text::label::{PodLabelKey, PodLabelValue};
use crate::{Label, Subdomain, WorkloadId};

/// More constraints than this are a mistake, and each is compared for every pod that comes.
const MAX_LABELS: usize = 16;

/// An object of the whole mesh, since it may give a pod of one namespace an identity of another.
pub type Registration = Global<RegistrationSpec>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RegistrationSpec {
    /// The pods that are meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<PodSelector>,
    /// The processes that are meant, instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix: Option<ProcessSelector>,
    /// Who they are. Its Workload says with which class.
    pub identity: WorkloadId,
}

/// Pods of one service account, perhaps only those with certain labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PodSelector {
    pub namespace: Label,
    pub service_account: Subdomain,
    /// All of these, with these values; other labels do not matter.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "non_empty_map")]
    pub pod_labels: BTreeMap<PodLabelKey, PodLabelValue>,
}

impl PodSelector {
    /// Whether it speaks of pods of this account at all, labels aside.
    pub fn is_of(&self, account: &WorkloadId) -> bool {
        self.namespace == account.namespace && self.service_account == account.account
    }

    /// Whether a pod of its account with these labels is meant.
    pub fn takes(&self, labels: &BTreeMap<String, String>) -> bool {
        self.pod_labels
            .iter()
            .all(|(key, value)| labels.get(key.as_str()).is_some_and(|found| found == value.as_str()))
    }

    /// How much it asks of a pod: who asks more wins.
    pub fn specificity(&self) -> usize {
        self.pod_labels.len()
    }

    /// Whether some pod could be meant by both, and neither asks more.
    pub(crate) fn ties_with(&self, other: &PodSelector) -> bool {
        let same_account = self.namespace == other.namespace && self.service_account == other.service_account;
        let contradicts = self
            .pod_labels
            .iter()
            .any(|(key, value)| other.pod_labels.get(key).is_some_and(|theirs| theirs != value));
        same_account && self.specificity() == other.specificity() && !contradicts
    }
}

impl Kind for RegistrationSpec {
    const KIND: &'static str = "Registration";

    fn check(&self, _: &Name<'_>, problems: &mut Vec<Problem>) {
        if self.kubernetes.is_some() == self.unix.is_some() {
            let got = if self.unix.is_some() { "both" } else { "neither" };
            problems.push(Problem::new("spec", format!("expected one of kubernetes and unix, got {got}")));
        }
        if let Some(processes) = &self.unix {
            processes.check(problems);
        }
        let labels = self.kubernetes.as_ref().map_or(0, |pods| pods.pod_labels.len());
        if labels > MAX_LABELS {
            problems.push(Problem::new(
                "spec.kubernetes.podLabels",
                format!("expected at most {MAX_LABELS} labels, got {labels}"),
            ));
        }
    }
}
