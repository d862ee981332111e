//! What an app does so that its callees know the user: copy one header from the request that it
//! serves to the requests that it makes for it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The header to forward.
pub(crate) const TXN_TOKEN: &str = "txn-token";
/// The header in which the sidecar says what it verified: base64url JSON.
pub(crate) const USER: &str = "signet-user";

/// Who the sidecar says the user is, or `nobody`.
pub(crate) fn user(header: Option<&str>) -> String {
    claims(header)
        .and_then(|claims| claims.get("sub")?.as_str().map(str::to_owned))
        .unwrap_or_else(|| "nobody".into())
}

/// Everything that the sidecar says of the user.
pub(crate) fn claims(header: Option<&str>) -> Option<serde_json::Value> {
    let raw = URL_SAFE_NO_PAD.decode(header?).ok()?;
    serde_json::from_slice(&raw).ok()
}
