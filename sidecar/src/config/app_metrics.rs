//! `metrics.app`: where the app says its metrics.

use http::Uri;
use serde::{Deserialize, Serialize};
use signet_model::Port;

use super::{Config, ListenAddress, Role};

/// No client's path is longer.
const MAX_PATH: usize = 1024;

/// One port and one path; nothing else is ever asked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AppMetrics {
    /// The app's port, at the address that the scraper dialled.
    pub port: Port,
    /// With its query.
    #[serde(default = "usual")]
    pub path: String,
}

fn usual() -> String {
    "/metrics".to_owned()
}

impl AppMetrics {
    /// Finds what cannot be asked: the field, what was expected, what came.
    pub(super) fn check(&self, config: &Config) -> Result<(), (&'static str, &'static str, String)> {
        if config.role != Role::Sidecar {
            return Err(("metrics.app", "role: sidecar beside it", "a role without an app".to_owned()));
        }
        let is_path = self.path.starts_with('/')
            && self.path.len() <= MAX_PATH
            && self.path.parse::<Uri>().is_ok_and(|uri| uri.authority().is_none())
            // A fragment is cut off without a word.
            && !self.path.contains('#');
        if !is_path {
            let expected = "a path of at most 1024 bytes that begins with `/`";
            return Err(("metrics.app.path", expected, format!("{:?}", self.path)));
        }
        // The data plane would take us for a caller, and this very listener would ask itself.
        let own = config.listeners().into_iter().find(|(_, address)| {
            matches!(address, ListenAddress::Tcp(address) if address.port() == self.port.get())
        });
        match own {
            Some((field, _)) => {
                let got = format!("{}, which is {field}", self.port.get());
                Err(("metrics.app.port", "a port of the app", got))
            }
            None => Ok(()),
        }
    }
}
