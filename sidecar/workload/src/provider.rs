//! Who is this caller, and what is it?
//!
//! The one edge between the two protocols and whoever knows. A provider answers per caller, so that one socket can
//! serve one app (a sidecar's) or many (a host's); what it answers may change at any moment, and is then told to
//! whoever has a stream open.

use std::collections::BTreeMap;
use std::sync::Arc;

use signet_identity::{Bundles as X509Bundles, OwnSvid, RevocationList, SpiffeId, TrustDomain};
use signet_token::Jwks;
use tokio::sync::watch;

use crate::process::Process;

/// Who called, by the kernel's word at the moment of connecting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    /// Absent where the kernel does not say, or where it says 0 for a process outside of our PID namespace.
    pub pid: Option<i32>,
    /// Of this connection and no other of this process.
    pub connection: u64,
}

/// What a caller may have at one moment.
#[derive(Debug, Clone)]
pub enum State {
    /// Not known yet, or nothing that is valid is at hand: asking again later will tell.
    Waiting,
    /// Nothing, and why; for the log and in general words for the caller.
    Refused(&'static str),
    Served(Arc<Served>),
}

/// Identities and what they are verified with.
#[derive(Debug, Clone)]
pub struct Served {
    /// At least one; the first is the default.
    pub identities: Vec<Identity>,
    pub bundles: Bundles,
}

/// An SVID with its key. The key is wiped when the last one who holds it lets go.
#[derive(Debug, Clone)]
pub struct Identity {
    pub svid: OwnSvid,
    /// Unique among a caller's identities, or empty.
    pub hint: String,
}

impl Identity {
    pub fn id(&self) -> &SpiffeId {
        &self.svid.svid().id
    }
}

/// What others are verified with, by trust domain.
#[derive(Debug, Clone, Default)]
pub struct Bundles {
    pub x509: Arc<X509Bundles>,
    pub jwt: Arc<BTreeMap<TrustDomain, JwtBundle>>,
    /// Revocation lists of the authority that issues the identities.
    pub crls: Arc<[RevocationList]>,
}

/// The JWT keys of one trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtBundle(Jwks);

impl JwtBundle {
    /// Of a JWK set. A key without a name can verify no JWT-SVID and is left out.
    pub fn new(keys: &Jwks) -> Self {
        Self(Jwks::of(keys.keys().iter().filter(|key| key.kid().is_some()).cloned()))
    }

    pub fn keys(&self) -> &Jwks {
        &self.0
    }

    /// A plain JWK set: no members of SPIFFE's bundle documents, and none that a reader could take for another use.
    pub fn document(&self) -> String {
        let keys: Vec<serde_json::Value> = self
            .0
            .keys()
            .iter()
            .map(|key| {
                let mut members = key.to_json();
                members.remove("use");
                serde_json::Value::Object(members)
            })
            .collect();
        serde_json::json!({ "keys": keys }).to_string()
    }
}

/// A token, to be sent and never logged.
#[derive(Clone)]
pub struct JwtSvid {
    pub spiffe_id: SpiffeId,
    pub token: String,
    pub hint: String,
}

impl std::fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtSvid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The caller may not have it.
    #[error("{0}")]
    Denied(String),
    /// The request itself cannot be answered.
    #[error("{0}")]
    Invalid(String),
    /// Too many at once.
    #[error("{0}")]
    Exhausted(String),
    /// Not now.
    #[error("{0}")]
    Unavailable(String),
}

/// See the module's story.
#[tonic::async_trait]
pub trait Provider: Send + Sync + 'static {
    /// Whether each caller's process is to be held and handed to [`Provider::greet`]; a caller of which the kernel names
    /// none is then hung up on.
    fn tells_processes_apart(&self) -> bool {
        false
    }

    /// Somebody connected, before anything is served there.
    fn greet(&self, _: &Caller, _: Option<Process>) {}

    /// That connection is gone.
    fn part(&self, _: &Caller) {}

    /// What this caller may have, now and from now on. Called once per call; the receiver lives as long as the call.
    fn serve(&self, caller: &Caller) -> watch::Receiver<State>;

    /// Tokens for these audiences: of the identity that is named, or of each that the caller has.
    async fn jwt_svids(
        &self,
        caller: &Caller,
        audiences: Vec<String>,
        wanted: Option<SpiffeId>,
    ) -> Result<Vec<JwtSvid>, Refused>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jwt_bundle_is_a_plain_jwk_set_of_named_keys() {
        let named = signet_token::SigningKey::generate().unwrap();
        let other = signet_token::SigningKey::generate().unwrap();
        let mut nameless = other.public_jwk().to_json();
        nameless.remove("kid");
        let text = format!(r#"{{"keys":[{},{}]}}"#, named.public_jwk(), serde_json::Value::Object(nameless));
        let bundle = JwtBundle::new(&Jwks::parse(&text).unwrap());
        let document: serde_json::Value = serde_json::from_str(&bundle.document()).unwrap();
        let keys = document["keys"].as_array().unwrap();
        assert_eq!(keys.len(), 1);
        let members: Vec<&str> = keys[0].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, ["alg", "crv", "kid", "kty", "x", "y"]);
        assert_eq!(document.as_object().unwrap().len(), 1);
    }
}
