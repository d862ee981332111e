//! `istio` of `control-plane.yaml`: certificates for clients that speak to Istio's authority.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use signet_model::{ObjectName, WorkloadId};

use crate::attest::config::name;
use crate::config::MAX_SVID_TTL_SECONDS;

/// The shortest life that may be the longest.
const MIN_MAX_TTL: u64 = 300;
/// Names in one certificate.
const MAX_NAMES: usize = 8;

/// The section as it was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Istio {
    pub listen: SocketAddr,
    /// The audience of tokens that are taken here, and nowhere else.
    pub audience: String,
    /// What the server's certificate is called beside its identity.
    pub dns_names: Vec<String>,
    /// A client that asks for more is refused, as Istio does.
    pub max_ttl: Duration,
    /// Accounts of node proxies, which may ask for certificates of the workloads on their node.
    pub trusted_node_accounts: Vec<WorkloadId>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct RawIstio {
    listen: SocketAddr,
    #[serde(default = "audience")]
    audience: String,
    #[serde(default = "dns_names")]
    dns_names: Vec<String>,
    #[serde(default = "max_ttl")]
    max_ttl_seconds: u64,
    #[serde(default)]
    trusted_node_accounts: Vec<String>,
}

fn audience() -> String {
    "istio-ca".into()
}

fn dns_names() -> Vec<String> {
    vec!["istiod.istio-system.svc".into()]
}

fn max_ttl() -> u64 {
    MAX_SVID_TTL_SECONDS
}

impl RawIstio {
    pub(crate) fn check(self) -> Result<Istio, (&'static str, String)> {
        name("istio.audience", &self.audience)?;
        if !(1..=MAX_NAMES).contains(&self.dns_names.len()) {
            let found = self.dns_names.len();
            return Err(("istio.dnsNames", format!("expected 1 to {MAX_NAMES} names, found {found}")));
        }
        for dns_name in &self.dns_names {
            if dns_name.parse::<signet_model::Subdomain>().is_err() {
                return Err((
                    "istio.dnsNames",
                    format!("expected DNS names in lower case, found `{dns_name}`"),
                ));
            }
        }
        if !(MIN_MAX_TTL..=MAX_SVID_TTL_SECONDS).contains(&self.max_ttl_seconds) {
            let found = self.max_ttl_seconds;
            return Err((
                "istio.maxTtlSeconds",
                format!("expected {MIN_MAX_TTL} to {MAX_SVID_TTL_SECONDS} seconds, found {found}"),
            ));
        }
        let account = |text: &String| {
            let name: Result<ObjectName, _> = text.parse();
            name.map(|name| name.workload()).map_err(|error| ("istio.trustedNodeAccounts", error.to_string()))
        };
        Ok(Istio {
            listen: self.listen,
            audience: self.audience,
            dns_names: self.dns_names,
            max_ttl: Duration::from_secs(self.max_ttl_seconds),
            trusted_node_accounts: self
                .trusted_node_accounts
                .iter()
                .map(account)
                .collect::<Result<_, _>>()?,
        })
    }
}
