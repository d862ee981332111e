//! Messages that hold a private key or a bearer token: they do not print it, and what is left of them when they are
//! dropped is wiped. What the transport copied of them is not ours to wipe.

use std::fmt;

use zeroize::Zeroize as _;

use crate::envoy::config::core::v3::{DataSource, data_source::Specifier};
use crate::envoy::service::discovery::v3::{DiscoveryResponse, Resource};
use crate::spiffe::{Jwtsvid, X509svid};
use crate::v1::{ExchangeRequest, GrantedToken, IssuedJwtSvid};

impl Drop for X509svid {
    fn drop(&mut self) {
        self.x509_svid_key.zeroize();
    }
}

impl fmt::Debug for X509svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509svid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

impl Drop for Jwtsvid {
    fn drop(&mut self) {
        self.svid.zeroize();
    }
}

impl fmt::Debug for Jwtsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwtsvid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for IssuedJwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedJwtSvid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for ExchangeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangeRequest").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl fmt::Debug for GrantedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantedToken").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

impl Drop for DataSource {
    fn drop(&mut self) {
        match &mut self.specifier {
            Some(Specifier::InlineBytes(bytes)) => bytes.zeroize(),
            Some(Specifier::InlineString(text)) => text.zeroize(),
            Some(Specifier::Filename(_)) | None => {}
        }
    }
}

impl fmt::Debug for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataSource").finish_non_exhaustive()
    }
}

impl Drop for DiscoveryResponse {
    fn drop(&mut self) {
        self.resources.iter_mut().for_each(|resource| resource.value.zeroize());
    }
}

impl fmt::Debug for DiscoveryResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryResponse")
            .field("version_info", &self.version_info)
            .field("nonce", &self.nonce)
            .field("resources", &self.resources.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Resource {
    fn drop(&mut self) {
        if let Some(resource) = &mut self.resource {
            resource.value.zeroize();
        }
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resource")
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_tokens_do_not_print() {
        let mut svid = X509svid::default();
        svid.x509_svid_key = b"key bytes".to_vec();
        let mut token = Jwtsvid::default();
        token.svid = "token text".into();
        let issued = IssuedJwtSvid { token: "token text".into(), ..IssuedJwtSvid::default() };
        let asked = ExchangeRequest {
            subject: Some(crate::v1::exchange_request::Subject::TxnToken("token text".into())),
            actor_token: "token text".into(),
            ..ExchangeRequest::default()
        };
        let granted = GrantedToken { token: "token text".into(), ..GrantedToken::default() };
        let source = DataSource { specifier: Some(Specifier::InlineBytes(b"key bytes".to_vec())) };
        let any = prost_types::Any { type_url: String::new(), value: b"key bytes".to_vec() };
        let mut resource = Resource::default();
        resource.resource = Some(any.clone());
        let mut response = DiscoveryResponse::default();
        response.resources = vec![any];
        let printed = format!(
            "{svid:?} {token:?} {issued:?} {source:?} {resource:?} {response:?} {asked:?} {granted:?}"
        );
        for secret in ["key bytes", "token text", "107, 101, 121"] {
            assert!(!printed.contains(secret), "{printed}");
        }
    }
}
