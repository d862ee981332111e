//! The app's name server: where captured queries come, and who knows what the mesh does not.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::address;

/// The name server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Dns {
    /// Where queries come, over UDP and TCP; one address, or one per address family.
    #[serde(deserialize_with = "address::one_or_more")]
    pub listen: Vec<SocketAddr>,
    /// The domain in which services are named `<service>.<namespace>.svc`.
    #[serde(default = "cluster_domain")]
    pub cluster_domain: String,
    /// The file that names the resolvers for everything else.
    #[serde(default = "resolv_conf")]
    pub resolv_conf: PathBuf,
}

fn cluster_domain() -> String {
    "cluster.local".to_owned()
}

fn resolv_conf() -> PathBuf {
    "/etc/resolv.conf".into()
}

/// A field, what was expected of it, and what it is.
pub(super) type Wrong = (&'static str, &'static str, String);

impl Dns {
    /// What the shape of it does not say.
    pub(super) fn check(&self) -> Result<(), Wrong> {
        if self.listen.is_empty() {
            return Err(("dns.listen", "at least one address", "an empty list".to_owned()));
        }
        // Anywhere else it would be a resolver for whoever can reach this host.
        if let Some(open) = self.listen.iter().find(|listen| !listen.ip().is_loopback()) {
            return Err((
                "dns.listen",
                "a loopback address: queries of this host only are led there",
                open.to_string(),
            ));
        }
        let fits = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if self.cluster_domain.len() > 253 || !self.cluster_domain.split('.').all(fits) {
            let expected = "a domain, such as cluster.local";
            return Err(("dns.clusterDomain", expected, format!("{:?}", self.cluster_domain)));
        }
        Ok(())
    }
}
