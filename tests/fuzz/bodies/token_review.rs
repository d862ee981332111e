//! The API server's answer to a TokenReview: whatever the bytes, no panic, and nobody is named unless our token and our
//! audience stand in it.

use signet_control_plane::attest::review::judge;
use signet_control_plane::attest::{pods::Pod, token};

const TOKEN: &str = "t0ken";
const AUDIENCE: &str = "signet-ca";

pub(crate) fn body(data: &[u8]) {
    if let Ok(account) = judge(data, TOKEN, AUDIENCE) {
        let text = String::from_utf8_lossy(data);
        // JSON may escape letters, so that only what is not escaped can be looked for.
        assert!(text.contains('\\') || (text.contains(TOKEN) && text.contains(AUDIENCE)));
        assert!(!account.pod.is_empty() && !account.pod_uid.is_empty() && !account.node.is_empty());
        assert!(!account.pod.contains('/') && !account.node.contains('/'));
    }
    let _ = token::claims(data);
    let _ = Pod::parse(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = token::parse(text);
    }
}
