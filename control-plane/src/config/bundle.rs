//! `bundle` and `federation`: what is published of this trust domain, and how others are asked.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::{Refused, absolute};

/// Partners ask this often. Below, a mesh of partners is a load; above, a key that was taken back stays believed
/// for longer than anybody would wait.
pub const REFRESH_HINT_SECONDS: RangeInclusive<u64> = 5..=86_400;

/// The endpoint where other trust domains fetch our bundle.
#[derive(Debug, Clone)]
pub struct Bundle {
    pub listen: SocketAddr,
    /// Where the bundle is, beginning with a slash.
    pub path: String,
    pub refresh_hint: Duration,
    /// A certificate of the web (`https_web`); without one the endpoint presents our own SVID (`https_spiffe`).
    pub tls: Option<WebTls>,
}

/// PEM files, read again while the process runs.
#[derive(Debug, Clone)]
pub struct WebTls {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawBundle {
    listen: SocketAddr,
    #[serde(default = "path")]
    path: String,
    #[serde(default = "five_minutes")]
    refresh_hint_seconds: u64,
    tls: Option<RawTls>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawTls {
    cert_file: PathBuf,
    key_file: PathBuf,
}

impl RawTls {
    /// The names are those of its two members in the configuration.
    pub(super) fn check(self, cert: &'static str, key: &'static str) -> Result<WebTls, Refused> {
        Ok(WebTls { cert_file: absolute(cert, self.cert_file)?, key_file: absolute(key, self.key_file)? })
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct RawFederation {
    pub(super) allow_private_addresses: bool,
}

fn path() -> String {
    "/bundle".into()
}

fn five_minutes() -> u64 {
    300
}

impl RawBundle {
    pub(super) fn check(self) -> Result<Bundle, Refused> {
        let segments = || self.path.split('/').skip(1);
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let good = self.path.len() <= 256
            && self.path.starts_with('/')
            && segments().all(|s| !s.is_empty() && s != "." && s != ".." && s.bytes().all(plain));
        if !good || segments().next() == Some("crl") {
            let reason = format!(
                "expected a path such as /bundle (letters, digits and `.-_` between slashes, not under /crl), found `{}`",
                self.path
            );
            return Err(("bundle.path", reason));
        }
        if !REFRESH_HINT_SECONDS.contains(&self.refresh_hint_seconds) {
            let (least, most) = REFRESH_HINT_SECONDS.into_inner();
            return Err((
                "bundle.refreshHintSeconds",
                format!("expected {least} to {most} seconds, found {}", self.refresh_hint_seconds),
            ));
        }
        let tls = self.tls.map(|tls| tls.check("bundle.tls.certFile", "bundle.tls.keyFile")).transpose()?;
        Ok(Bundle {
            listen: self.listen,
            path: self.path,
            refresh_hint: Duration::from_secs(self.refresh_hint_seconds),
            tls,
        })
    }
}
