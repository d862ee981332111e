//! `attestation` of `control-plane.yaml`: by what workloads may prove themselves beside join tokens.

use std::path::PathBuf;

use serde::Deserialize;

use crate::cluster::config::{ACCOUNT, Place, server};

/// The audience that projected tokens for this authority carry.
pub const AUDIENCE: &str = "signet-ca";
/// Longest audience and cluster name.
const MAX_NAME: usize = 253;

/// The section as it was checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attestation {
    pub kubernetes: Option<Kubernetes>,
}

/// One cluster whose service accounts are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    /// Stands in the issuance log and beside each certificate.
    pub cluster: String,
    /// `host` and `port` of the API server.
    pub server: (String, u16),
    /// Our own token for the API server; read again while we run.
    pub token_file: PathBuf,
    /// Roots of the API server's certificate, PEM; read again while we run.
    pub ca_file: PathBuf,
    pub audience: String,
    pub mode: Mode,
    /// Whether the caller must come from an address of the pod.
    pub check_address: bool,
    /// Whether a pod without a Workload in the registry may join as its service account.
    pub allow_unregistered: bool,
}

impl Kubernetes {
    /// Where the API server is, and by what we come to it.
    #[must_use]
    pub fn place(&self) -> Place {
        Place {
            server: self.server.clone(),
            token_file: self.token_file.clone(),
            ca_file: self.ca_file.clone(),
        }
    }
}

/// Who judges a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The API server, each time (TokenReview).
    #[default]
    Review,
    /// This process, by the cluster's keys and a watch of its pods.
    Fast,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct RawAttestation {
    kubernetes: Option<RawKubernetes>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct RawKubernetes {
    cluster: String,
    api_server: String,
    token_file: PathBuf,
    ca_file: PathBuf,
    audience: String,
    mode: Mode,
    check_address: bool,
    allow_unregistered: bool,
}

impl Default for RawKubernetes {
    fn default() -> Self {
        Self {
            cluster: "main".into(),
            api_server: "https://kubernetes.default.svc".into(),
            token_file: format!("{ACCOUNT}/token").into(),
            ca_file: format!("{ACCOUNT}/ca.crt").into(),
            audience: AUDIENCE.into(),
            mode: Mode::default(),
            check_address: false,
            allow_unregistered: false,
        }
    }
}

impl RawAttestation {
    pub(crate) fn check(self) -> Result<Attestation, (&'static str, String)> {
        Ok(Attestation { kubernetes: self.kubernetes.map(RawKubernetes::check).transpose()? })
    }
}

impl RawKubernetes {
    fn check(self) -> Result<Kubernetes, (&'static str, String)> {
        let absolute = |field, path: &PathBuf| match path.is_absolute() {
            true => Ok(()),
            false => Err((field, format!("expected an absolute path, found `{}`", path.display()))),
        };
        absolute("attestation.kubernetes.tokenFile", &self.token_file)?;
        absolute("attestation.kubernetes.caFile", &self.ca_file)?;
        name("attestation.kubernetes.cluster", &self.cluster)?;
        name("attestation.kubernetes.audience", &self.audience)?;
        let server = server(&self.api_server).ok_or_else(|| {
            let expected = "expected https://host or https://host:port";
            ("attestation.kubernetes.apiServer", format!("{expected}, found `{}`", self.api_server))
        })?;
        Ok(Kubernetes {
            cluster: self.cluster,
            server,
            token_file: self.token_file,
            ca_file: self.ca_file,
            audience: self.audience,
            mode: self.mode,
            check_address: self.check_address,
            allow_unregistered: self.allow_unregistered,
        })
    }
}

/// A text that goes into requests and logs as it is.
pub(crate) fn name(field: &'static str, text: &str) -> Result<(), (&'static str, String)> {
    let good = !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(|b| b.is_ascii_graphic());
    if good {
        return Ok(());
    }
    let expected = format!("expected 1 to {MAX_NAME} visible ASCII characters");
    Err((field, format!("{expected}, found `{}`", text.escape_debug())))
}
