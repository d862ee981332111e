//! An issuer of the tokens that people and clients bring from outside.

use serde::{Deserialize, Serialize};

use crate::Period;
use crate::decode::non_empty;
use crate::error::Problem;
use crate::object::{Global, Kind, Name};
use crate::resources::twice;
use crate::text::host::HttpUrl;
use crate::text::jose::{ClaimName, ClaimValue};

/// Its name is the alias by which gateways and user names refer to it.
pub type Issuer = Global<IssuerSpec>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct IssuerSpec {
    /// The exact `iss` of its tokens, compared byte by byte.
    pub issuer: ClaimValue,
    /// Where the control plane fetches its keys; proxies never do. Absent: where
    /// `<issuer>/.well-known/openid-configuration` says (OpenID Connect Discovery 1.0, section 4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<HttpUrl>,
    /// A token needs one of these in `aud`.
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub audiences: Vec<ClaimValue>,
    /// The signature algorithms that are believed; there is no default.
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub algorithms: Vec<Algorithm>,
    /// Accepted values of the header's `typ`.
    #[serde(default = "access_token", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub token_types: Vec<ClaimValue>,
    /// The claim that holds the scopes, as one text with blanks or as a list.
    #[serde(default = "scope")]
    pub scope_claim: ClaimName,
    /// A token that lives longer, from `iat` to `exp`, is refused.
    #[serde(default = "day")]
    pub max_lifetime: Period,
    /// The client ids by which the issuer knows the mesh: its logout tokens (OpenID Connect Back-Channel Logout 1.0) are for
    /// one of these. None: it logs nobody out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logout_clients: Vec<ClaimValue>,
    /// Claims that may travel on inside the mesh.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<ClaimName>,
}

/// JWS algorithms (RFC 7518, RFC 8037): those that `signet-token` verifies. Neither `none` nor a shared secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Algorithm {
    ES256,
    ES384,
    RS256,
    PS256,
    EdDSA,
}

impl Algorithm {
    /// As in a token's header.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::RS256 => "RS256",
            Algorithm::PS256 => "PS256",
            Algorithm::ES256 => "ES256",
            Algorithm::ES384 => "ES384",
            Algorithm::EdDSA => "EdDSA",
        }
    }
}

fn access_token() -> Vec<ClaimValue> {
    "at+jwt".parse().into_iter().collect()
}

fn scope() -> ClaimName {
    ClaimName::scope()
}

fn day() -> Period {
    Period::from_secs(86_400)
}

impl Kind for IssuerSpec {
    const KIND: &'static str = "Issuer";

    fn check(&self, _: &Name<'_>, problems: &mut Vec<Problem>) {
        if self.jwks_uri.is_none() && self.issuer.as_str().parse::<HttpUrl>().is_err() {
            problems.push(Problem::new(
                "spec.issuer",
                format!("expected a URL, as the keys are found by discovery, got `{}`: write it so, or add jwksUri", self.issuer),
            ));
        }
        for (index, algorithm) in twice(&self.algorithms) {
            problems.push(Problem::new(
                format!("spec.algorithms[{index}]"),
                format!("{algorithm:?} stands twice"),
            ));
        }
        for (index, claim) in twice(&self.claims) {
            problems.push(Problem::new(format!("spec.claims[{index}]"), format!("`{claim}` stands twice")));
        }
    }
}
