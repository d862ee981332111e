//! Another trust domain whose authority is believed about its own workloads, and about nobody else's.
//!
//! The control plane fetches that domain's roots from its SPIFFE bundle endpoint (SPIFFE Federation, section 5).
//! Being federated gives a workload of that domain nothing: it reaches a service where a policy names it.

use serde::{Deserialize, Serialize};
use signet_bundle::Document;
use signet_identity::{SpiffeId, TrustDomain};

use crate::Period;
use crate::error::Problem;
use crate::object::{Global, Kind, Name};
use crate::text::checked_text;
use crate::text::host::HttpUrl;

/// Its name is for people; what counts is `spec.trustDomain`.
pub type FederatedTrustDomain = Global<FederatedSpec>;

/// The bounds of how often a partner is asked.
const REFRESH: (Period, Period) = (Period::from_secs(5), Period::from_secs(86_400));

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FederatedSpec {
    /// Whose bundle it is; a bundle document does not say so itself.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub trust_domain: TrustDomain,
    /// Where the bundle is.
    pub url: HttpUrl,
    /// Why the one who answers there is believed.
    pub profile: EndpointProfile,
    /// How often it is asked, instead of as often as the bundle hints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Period>,
}

/// How a bundle endpoint is authenticated (SPIFFE Federation, section 5.2), by the standard's own names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum EndpointProfile {
    /// By an SVID of its own trust domain.
    #[serde(rename = "https_spiffe")]
    Spiffe(SpiffeProfile),
    /// As any web site: by a certificate for the URL's host.
    #[serde(rename = "https_web")]
    Web(WebProfile),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SpiffeProfile {
    /// Who answers, exactly.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub endpoint_id: SpiffeId,
    /// By which the first connection is authenticated; those that follow are by what was fetched last.
    pub initial_bundle: InitialBundle,
}

/// A bundle document that somebody brought from the other side by a safe way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum InitialBundle {
    /// The document itself.
    Inline(String),
    /// A file with it, on the control plane's host.
    File(FilePath),
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WebProfile {
    /// Authorities (PEM, on the control plane's host) that may certify the host, instead of the public web's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<FilePath>,
}

checked_text!(
    /// An absolute path of a file on the control plane's host.
    FilePath, "an absolute path of a file", |text| text.starts_with('/') && !text.ends_with('/') && !text.contains('\0')
);

impl Kind for FederatedSpec {
    const KIND: &'static str = "FederatedTrustDomain";

    fn check(&self, _: &Name<'_>, problems: &mut Vec<Problem>) {
        if !self.url.is_https() {
            let reason = format!("expected an https:// URL, as both profiles are TLS, got `{}`", self.url);
            problems.push(Problem::new("spec.url", reason));
        }
        if let Some(refresh) = self.refresh
            && !(REFRESH.0..=REFRESH.1).contains(&refresh)
        {
            let reason = format!("expected {} to {}, got `{refresh}`", REFRESH.0, REFRESH.1);
            problems.push(Problem::new("spec.refresh", reason));
        }
        if let EndpointProfile::Spiffe(profile) = &self.profile {
            profile.check(&self.trust_domain, problems);
        }
    }
}

impl SpiffeProfile {
    fn check(&self, domain: &TrustDomain, problems: &mut Vec<Problem>) {
        const FIELD: &str = "spec.profile.https_spiffe";
        if !self.endpoint_id.is_in(domain) || self.endpoint_id.is_root() {
            let reason = format!(
                "expected the SPIFFE ID of a workload of `{domain}`, which serves its own bundle, got `{}`",
                self.endpoint_id
            );
            problems.push(Problem::new(format!("{FIELD}.endpointId"), reason));
        }
        let InitialBundle::Inline(text) = &self.initial_bundle else { return };
        let wrong = match Document::parse(domain, text.as_bytes()) {
            Err(error) => format!("expected the bundle document of `{domain}`: {error}"),
            Ok(document) if document.roots().is_none() => {
                "expected at least one x509-svid key: without a root the endpoint cannot be authenticated"
                    .to_owned()
            }
            Ok(_) => return,
        };
        problems.push(Problem::new(format!("{FIELD}.initialBundle.inline"), wrong));
    }
}
