//! `registry.kubernetes` of `control-plane.yaml`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
pub use signet_apiserver::Place;
pub(crate) use signet_apiserver::{ACCOUNT, server};
use signet_kubernetes::translate::Settings;
use signet_model::{Label, Options, Subdomain};

/// The section as it was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub place: Place,
    /// Only these; empty is all.
    pub namespaces: BTreeSet<String>,
    pub excluded: BTreeSet<String>,
    /// Whether statuses are written.
    pub statuses: bool,
    pub lease: LeaseTimes,
    /// The ConfigMap of each namespace with the mesh's roots.
    pub roots: String,
    /// Which of several control planes this is, as the webhook has it.
    pub revision: String,
}

impl Cluster {
    /// How its objects are made into resources.
    #[must_use]
    pub fn translated_by(&self, options: Options) -> Settings {
        Settings {
            options,
            namespaces: self.namespaces.clone(),
            excluded: self.excluded.clone(),
            revision: self.revision.clone(),
        }
    }
}

/// Who writes statuses is said by a Lease; these are client-go's own names and defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTimes {
    /// How long others wait for a holder that is not heard of.
    pub duration: Duration,
    /// How long a holder that cannot renew goes on.
    pub renew_deadline: Duration,
    pub retry_period: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct RawCluster {
    api_server: String,
    token_file: PathBuf,
    ca_file: PathBuf,
    namespaces: Vec<String>,
    exclude_namespaces: Vec<String>,
    roots_config_map: String,
    write_status: bool,
    lease_seconds: u64,
}

impl Default for RawCluster {
    fn default() -> Self {
        Self {
            api_server: "https://kubernetes.default.svc".into(),
            token_file: format!("{ACCOUNT}/token").into(),
            ca_file: format!("{ACCOUNT}/ca.crt").into(),
            namespaces: Vec::new(),
            exclude_namespaces: Vec::new(),
            roots_config_map: "signet-roots".into(),
            write_status: true,
            lease_seconds: 15,
        }
    }
}

impl RawCluster {
    pub(crate) fn check(self) -> Result<Cluster, (&'static str, String)> {
        let absolute = |field, path: &PathBuf| match path.is_absolute() {
            true => Ok(()),
            false => Err((field, format!("expected an absolute path, found `{}`", path.display()))),
        };
        absolute("registry.kubernetes.tokenFile", &self.token_file)?;
        absolute("registry.kubernetes.caFile", &self.ca_file)?;
        let server = server(&self.api_server).ok_or_else(|| {
            let expected = "expected https://host or https://host:port";
            ("registry.kubernetes.apiServer", format!("{expected}, found `{}`", self.api_server))
        })?;
        let names = |field, names: Vec<String>| match names.iter().find(|name| name.parse::<Label>().is_err())
        {
            None => Ok(names.into_iter().collect::<BTreeSet<_>>()),
            Some(name) => {
                Err((field, format!("expected names of namespaces, found `{}`", name.escape_debug())))
            }
        };
        let namespaces = names("registry.kubernetes.namespaces", self.namespaces)?;
        let excluded = names("registry.kubernetes.excludeNamespaces", self.exclude_namespaces)?;
        if let Some(both) = namespaces.intersection(&excluded).next() {
            return Err((
                "registry.kubernetes.excludeNamespaces",
                format!("expected none of registry.kubernetes.namespaces, found `{both}`"),
            ));
        }
        if self.roots_config_map.parse::<Subdomain>().is_err() {
            let found = self.roots_config_map.escape_debug();
            return Err((
                "registry.kubernetes.rootsConfigMap",
                format!("expected the name of a ConfigMap, found `{found}`"),
            ));
        }
        if !(3..=300).contains(&self.lease_seconds) {
            return Err((
                "registry.kubernetes.leaseSeconds",
                format!("expected 3 to 300, found {}", self.lease_seconds),
            ));
        }
        // In the proportions of client-go: 15, 10 and 2 seconds.
        let duration = Duration::from_secs(self.lease_seconds);
        Ok(Cluster {
            place: Place { server, token_file: self.token_file, ca_file: self.ca_file },
            namespaces,
            excluded,
            roots: self.roots_config_map,
            statuses: self.write_status,
            lease: LeaseTimes {
                duration,
                renew_deadline: duration.mul_f64(2.0 / 3.0),
                retry_period: duration.mul_f64(2.0 / 15.0),
            },
            revision: String::new(),
        })
    }
}
