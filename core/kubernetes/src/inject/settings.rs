//! What the mesh says of every pod that is injected.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use signet_identity::SpiffeId;
use signet_model::Label;

/// Why settings are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: expected {expected}, got {got}")]
pub struct SettingsError {
    /// The field.
    pub field: &'static str,
    /// What would be right.
    pub expected: &'static str,
    /// What came.
    pub got: String,
}

/// Settings of injection, as configuration files have them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Settings {
    /// The sidecar's image.
    pub image: String,
    /// The image that sets the redirection up: the sidecar's program and `nft` or `iptables`.
    pub redirect_image: String,
    /// Who sets the redirection up, unless a pod or `cniNamespaces` says otherwise.
    #[serde(default)]
    pub redirect: Redirect,
    /// Namespaces whose pods are redirected by the CNI agent, unless a pod says otherwise.
    #[serde(default)]
    pub cni_namespaces: BTreeSet<Label>,
    /// For both.
    #[serde(default = "image_pull_policy")]
    pub image_pull_policy: String,
    /// `host:port` of the control plane's listener that attests.
    pub bootstrap_address: String,
    /// `host:port` of its listener for everything else.
    pub mesh_address: String,
    /// Who answers at both.
    pub control_plane: SpiffeId,
    /// The control plane's own namespace, whose pods are never injected.
    #[serde(default = "system_namespace")]
    pub system_namespace: Label,
    /// Which of several control planes this is; empty for the one and only.
    #[serde(default)]
    pub revision: String,
    /// The user that the sidecar runs as, and nobody else.
    #[serde(default = "uid")]
    pub uid: u32,
    /// The audience of the projected token.
    #[serde(default = "audience")]
    pub audience: String,
    /// How long such a token is good.
    #[serde(default = "token_seconds")]
    pub token_seconds: u32,
    /// The ConfigMap of each namespace with the mesh's roots, in its key `roots.pem`.
    #[serde(default = "roots_config_map")]
    pub roots_config_map: String,
    /// Services are `<service>.<namespace>.svc.<this>`.
    #[serde(default = "cluster_domain")]
    pub cluster_domain: String,
    /// Whether the sidecar answers DNS, unless a pod says otherwise.
    #[serde(default)]
    pub dns_capture: bool,
    /// Whether a pod may share one process namespace between its containers, so that the app sees the sidecar's.
    #[serde(default)]
    pub allow_shared_process_namespace: bool,
    /// What the sidecar's container asks for, unless a pod says otherwise.
    #[serde(default)]
    pub resources: Resources,
    /// What is logged, unless a pod says otherwise.
    #[serde(default = "log_level")]
    pub log_level: String,
    /// How long connections may finish, unless a pod says otherwise.
    #[serde(default = "drain_seconds")]
    pub drain_seconds: u32,
}

/// Who sets a pod's redirection up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Redirect {
    /// An init container of the pod, with `NET_ADMIN`.
    #[default]
    Init,
    /// The CNI agent of its node; an init container without capabilities proves that it did.
    Cni,
}

impl Redirect {
    /// As annotations have it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Cni => "cni",
        }
    }
}

/// Requests and limits: `cpu` and `memory`, quantities of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// What it needs.
    pub requests: BTreeMap<String, String>,
    /// What it may take.
    pub limits: BTreeMap<String, String>,
}

impl Default for Resources {
    fn default() -> Self {
        let of = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        Self { requests: of(&[("cpu", "10m"), ("memory", "64Mi")]), limits: of(&[("memory", "256Mi")]) }
    }
}

fn image_pull_policy() -> String {
    "IfNotPresent".to_owned()
}

#[allow(clippy::unwrap_used, reason = "a constant that a test parses")]
fn system_namespace() -> Label {
    "signet-system".parse().unwrap()
}

fn uid() -> u32 {
    2102
}

fn audience() -> String {
    "signet-ca".to_owned()
}

fn token_seconds() -> u32 {
    3600
}

fn roots_config_map() -> String {
    "signet-roots".to_owned()
}

fn cluster_domain() -> String {
    "cluster.local".to_owned()
}

fn log_level() -> String {
    "info".to_owned()
}

fn drain_seconds() -> u32 {
    10
}

impl Settings {
    /// Who sets up the redirection of a namespace's pods.
    #[must_use]
    pub fn redirect_in(&self, namespace: &str) -> Redirect {
        match self.cni_namespaces.iter().any(|name| name.as_str() == namespace) {
            true => Redirect::Cni,
            false => self.redirect,
        }
    }

    /// Finds what no pod could be injected with.
    ///
    /// # Errors
    /// [`SettingsError`] for the first field that is wrong.
    pub fn check(&self) -> Result<(), SettingsError> {
        let wrong = |field, expected, got: &dyn std::fmt::Display| {
            Err(SettingsError { field, expected, got: got.to_string() })
        };
        for (field, value) in [("image", &self.image), ("redirectImage", &self.redirect_image)] {
            if value.is_empty() || value.contains(char::is_whitespace) {
                return wrong(field, "the name of an image", &format!("{value:?}"));
            }
        }
        if !["Always", "IfNotPresent", "Never"].contains(&self.image_pull_policy.as_str()) {
            return wrong("imagePullPolicy", "Always, IfNotPresent or Never", &self.image_pull_policy);
        }
        for (field, value) in
            [("bootstrapAddress", &self.bootstrap_address), ("meshAddress", &self.mesh_address)]
        {
            let port = value.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            if !port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port != 0)) {
                return wrong(field, "`host:port`", &format!("{value:?}"));
            }
        }
        if self.uid == 0 {
            return wrong("uid", "a user that only the sidecar is, not 0", &self.uid);
        }
        if !(600..=86_400).contains(&self.token_seconds) {
            return wrong("tokenSeconds", "600 to 86400 seconds", &self.token_seconds);
        }
        if self.audience.is_empty() {
            return wrong("audience", "the audience that the control plane takes", &"nothing");
        }
        if self.roots_config_map.is_empty() {
            return wrong("rootsConfigMap", "the name of a ConfigMap", &"nothing");
        }
        if !super::annotations::LEVELS.contains(&self.log_level.as_str()) {
            return wrong("logLevel", "off, error, warn, info, debug or trace", &self.log_level);
        }
        if self.drain_seconds > 3600 {
            return wrong("drainSeconds", "at most 3600 seconds", &self.drain_seconds);
        }
        for (field, resources) in
            [("resources.requests", &self.resources.requests), ("resources.limits", &self.resources.limits)]
        {
            for (name, value) in resources {
                if !["cpu", "memory"].contains(&name.as_str()) {
                    return wrong(field, "cpu or memory", name);
                }
                if !super::annotations::is_quantity(value) {
                    return wrong(field, "a quantity such as 100m or 64Mi", value);
                }
            }
        }
        Ok(())
    }
}
