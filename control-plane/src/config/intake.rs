//! `intake`: where tokens are revoked and users logged out by who is no operator.

use std::net::SocketAddr;

use serde::Deserialize;

use super::Refused;
use super::bundle::{RawTls, WebTls};

/// The listener.
#[derive(Debug, Clone)]
pub struct Intake {
    pub listen: SocketAddr,
    /// A certificate of the web; without one it presents our own SVID.
    pub tls: Option<WebTls>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawIntake {
    listen: SocketAddr,
    tls: Option<RawTls>,
}

impl RawIntake {
    pub(super) fn check(self) -> Result<Intake, Refused> {
        let tls = self.tls.map(|tls| tls.check("intake.tls.certFile", "intake.tls.keyFile")).transpose()?;
        Ok(Intake { listen: self.listen, tls })
    }
}
