//! `webhook`: where the API server has pods injected.

use std::net::SocketAddr;

use serde::Deserialize;
use signet_kubernetes::inject::Settings;

use super::Refused;

/// Names in one certificate.
const MAX_NAMES: usize = 8;

/// The listener, and what is injected.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub listen: SocketAddr,
    /// What the API server calls it: `<service>.<namespace>.svc`.
    pub dns_names: Vec<String>,
    /// The MutatingWebhookConfiguration whose `caBundle` is kept; none: somebody else does.
    pub configuration: Option<String>,
    pub injection: Settings,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawWebhook {
    listen: SocketAddr,
    dns_names: Vec<String>,
    #[serde(default)]
    configuration: Option<String>,
    injection: Settings,
}

impl RawWebhook {
    pub(super) fn check(self) -> Result<Webhook, Refused> {
        if !(1..=MAX_NAMES).contains(&self.dns_names.len()) {
            let found = self.dns_names.len();
            return Err(("webhook.dnsNames", format!("expected 1 to {MAX_NAMES} names, found {found}")));
        }
        for name in &self.dns_names {
            if name.parse::<signet_model::Subdomain>().is_err() {
                let reason = format!("expected DNS names in lower case, found `{name}`");
                return Err(("webhook.dnsNames", reason));
            }
        }
        if let Some(name) = &self.configuration
            && name.parse::<signet_model::Subdomain>().is_err()
        {
            return Err(("webhook.configuration", format!("expected a name of an object, found `{name}`")));
        }
        self.injection.check().map_err(|error| ("webhook.injection", error.to_string()))?;
        Ok(Webhook {
            listen: self.listen,
            dns_names: self.dns_names,
            configuration: self.configuration,
            injection: self.injection,
        })
    }
}
