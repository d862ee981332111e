//! `jwtSvid`: tokens for apps.

use serde::Deserialize;

/// As it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct RawJwtSvid {
    ttl_seconds: u64,
}

impl Default for RawJwtSvid {
    fn default() -> Self {
        Self { ttl_seconds: 300 }
    }
}

impl RawJwtSvid {
    /// The life of a JWT-SVID in seconds, or the field and what was expected of it.
    pub(super) fn check(&self, dev: bool) -> Result<u64, (&'static str, String)> {
        let least = if dev { signet_ca::MIN_DEV_SVID_TTL } else { signet_ca::MIN_JWT_SVID_TTL }.as_secs();
        let most = signet_ca::MAX_JWT_SVID_TTL.as_secs();
        let ttl = self.ttl_seconds;
        if (least..=most).contains(&ttl) {
            return Ok(ttl);
        }
        Err(("jwtSvid.ttlSeconds", format!("expected {least} to {most} seconds, found {ttl}")))
    }
}
