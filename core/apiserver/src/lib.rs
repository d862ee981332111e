//! The API server as a client sees it: few requests, each bounded in size and time.
//!
//! HTTP/1.1 over TLS with the cluster's own roots and our service account's token, both read again from their
//! files while we run (the kubelet replaces them). Connections are kept for a while and shared by nobody at
//! the same time. There is one retry, on a new connection, where a kept one had died before it carried
//! anything back; nothing else is tried twice here.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]
#![forbid(unsafe_code)]

mod access;
pub mod api;

use std::path::PathBuf;

/// Where a pod finds what its service account is given.
pub const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Where an API server is, and by what we come to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `host` and `port`.
    pub server: (String, u16),
    /// Our own token; read again while we run.
    pub token_file: PathBuf,
    /// Roots of its certificate, PEM; read again while we run.
    pub ca_file: PathBuf,
}

/// Host and port of `https://host` or `https://host:port`.
#[must_use]
pub fn server(url: &str) -> Option<(String, u16)> {
    let authority = url.strip_prefix("https://")?;
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let authority: http::uri::Authority = authority.parse().ok()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = match authority.as_str().strip_prefix(authority.host())? {
        "" => 443,
        port => port.strip_prefix(':')?.parse().ok()?,
    };
    (!host.is_empty() && port != 0).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_server_is_a_host_and_perhaps_a_port_over_https() {
        assert_eq!(server("https://kubernetes.default.svc"), Some(("kubernetes.default.svc".into(), 443)));
        assert_eq!(server("https://[::1]:6443/"), Some(("::1".into(), 6443)));
        assert_eq!(server("https://10.0.0.1:6443"), Some(("10.0.0.1".into(), 6443)));
        for bad in
            ["http://a", "a:443", "https://", "https://a/b", "https://u@a", "https://a:0", "https://a:x"]
        {
            assert_eq!(server(bad), None, "{bad}");
        }
    }
}
