//! What is known of one request or connection when it is decided.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use signet_identity::{PeerClass, SpiffeId};
use signet_model::Protocol;

/// Borrowed from wherever the facts live; making one costs nothing.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The mTLS peer: who calls now.
    pub peer: &'a SpiffeId,
    pub peer_class: PeerClass,
    /// The verified user, if there is one. Never from a header that was not verified.
    pub user: Option<&'a User>,
    /// The service's port by name.
    pub port: &'a str,
    pub protocol: Protocol,
    /// The HTTP method; none for opaque connections.
    pub method: Option<&'a str>,
    /// The canonical path without query; none for opaque connections.
    pub path: Option<&'a str>,
    /// `pkg.Service/Method`, only of a request that is a gRPC call.
    pub grpc: Option<&'a str>,
    /// The request's header fields; none for opaque connections.
    pub headers: Option<&'a dyn Headers>,
    /// The decider's own clock, milliseconds since the epoch.
    pub now_ms: i64,
}

/// The header fields of a request, as far as a policy may look at them.
pub trait Headers: fmt::Debug {
    /// Whether `test` holds for the value of a line of this name (in lower case), blanks at its ends left out. Lines are
    /// shown in their order until it does.
    fn any_line(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool;
}

/// A user whose token was verified.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    pub sub: String,
    pub scopes: Vec<String>,
    /// Top-level claims, as the token has them.
    pub claims: Map<String, Value>,
    /// The kind of credential that the user came with at the edge, as in `rctx.cred`.
    pub cred: String,
    pub context: Context,
    /// Who acts for the user, where that is somebody else: `<alias>|<sub>`.
    pub actor: Option<String>,
}

/// How the user is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Context {
    /// The calling app chose this token.
    Forwarded,
    /// The calling sidecar was handling a request of this user.
    Attached,
    /// The receiver verified the user's own credential.
    Direct,
}

impl Context {
    pub fn as_str(self) -> &'static str {
        match self {
            Context::Forwarded => "forwarded",
            Context::Attached => "attached",
            Context::Direct => "direct",
        }
    }
}
