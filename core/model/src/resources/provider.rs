//! Somebody else who is asked about requests that our own policies permit.
//!
//! A service that speaks Envoy's external authorisation (`envoy.service.auth.v3.Authorization`), in the mesh or in the
//! same pod. It can only say no: a policy of effect `external` names it, and it is asked after a permit was found.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::decode::{non_empty, non_empty_map};
use crate::error::Problem;
use crate::object::{Kind, Name, Namespaced};
use crate::resources::twice;
use crate::text::{Invalid, serde_as_text};
use crate::{HeaderField, HeaderText, Label, ObjectName, Period};

pub type AuthorizationProvider = Namespaced<ProviderSpec>;

/// Who waits longer for an answer keeps callers waiting for a no.
const LONGEST: Period = Period::from_secs(5);

/// Questions that may be open at a time, at most.
const MOST_CHECKS: u32 = 4_096;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ProviderSpec {
    /// The service of the mesh that answers, called over mutual TLS as any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ObjectName>,
    /// Its port, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Label>,
    /// Instead of a service: where it listens in the pod of each sidecar that asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalAddress>,
    /// From the question to the whole answer.
    #[serde(default = "timeout")]
    pub timeout: Period,
    /// How many questions of one sidecar may be open at a time.
    #[serde(default = "max_checks")]
    pub max_checks: u32,
    /// Headers of the request that are shown to it; no others are.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub include_headers: Vec<HeaderField>,
    /// Headers that it may set on, or take from, the request on its way to the app.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub allowed_upstream_headers: Vec<HeaderField>,
    /// Headers that it may set on the answer to the caller, its own or the app's.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub allowed_downstream_headers: Vec<HeaderField>,
    /// What it is told with each question.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "non_empty_map")]
    pub context: BTreeMap<Label, HeaderText>,
}

fn timeout() -> Period {
    Period::from_millis(200)
}

fn max_checks() -> u32 {
    256
}

/// Where somebody listens in the same pod: `127.0.0.1:9191`, `[::1]:9191` or `unix:/run/authz/socket`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalAddress {
    Loopback(SocketAddr),
    /// An absolute path.
    Unix(Box<str>),
}

const LOCAL: &str = "a loopback address with a port or a Unix socket's absolute path, as in `127.0.0.1:9191` and `unix:/run/authz/socket`";

impl FromStr for LocalAddress {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<LocalAddress, Invalid> {
        let invalid = || Invalid::new(LOCAL, text);
        if let Some(path) = text.strip_prefix("unix:") {
            let segments = path.strip_prefix('/').ok_or_else(invalid)?;
            // As long as a socket's path may be (108 bytes with the NUL).
            let is_fit = path.len() <= 107
                && !path.chars().any(char::is_control)
                && segments.split('/').all(|segment| !matches!(segment, "" | "." | ".."));
            return if is_fit { Ok(LocalAddress::Unix(path.into())) } else { Err(invalid()) };
        }
        let address: SocketAddr = text.parse().map_err(|_| invalid())?;
        if !address.ip().is_loopback() || address.port() == 0 {
            return Err(invalid());
        }
        Ok(LocalAddress::Loopback(address))
    }
}

impl fmt::Display for LocalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LocalAddress::Loopback(address) => address.fmt(f),
            LocalAddress::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}
serde_as_text!(LocalAddress, LOCAL);

impl Kind for ProviderSpec {
    const KIND: &'static str = "AuthorizationProvider";

    fn check(&self, _: &Name<'_>, problems: &mut Vec<Problem>) {
        match (&self.service, &self.port, &self.local) {
            (Some(_), Some(_), None) | (None, None, Some(_)) => {}
            (Some(_), None, None) => problems.push(Problem::new(
                "spec.port",
                "expected the name of the service's port that speaks gRPC, got nothing",
            )),
            _ => problems.push(Problem::new(
                "spec",
                "expected either `service` and `port`, or `local`: who answers in the mesh, or in the same pod",
            )),
        }
        if self.timeout > LONGEST {
            problems.push(Problem::new(
                "spec.timeout",
                format!("expected at most {LONGEST}, got {}", self.timeout),
            ));
        }
        if !(1..=MOST_CHECKS).contains(&self.max_checks) {
            problems.push(Problem::new(
                "spec.maxChecks",
                format!("expected 1 to {MOST_CHECKS}, got {}", self.max_checks),
            ));
        }
        type Unfit = fn(&HeaderField) -> Option<&'static str>;
        let lists: [(&str, &[HeaderField], Unfit); 3] = [
            ("includeHeaders", &self.include_headers, unshown),
            ("allowedUpstreamHeaders", &self.allowed_upstream_headers, unsettable),
            ("allowedDownstreamHeaders", &self.allowed_downstream_headers, unsettable),
        ];
        for (field, names, unfit) in lists {
            for (index, name) in names.iter().enumerate() {
                if let Some(why) = unfit(name) {
                    problems.push(Problem::new(
                        format!("spec.{field}[{index}]"),
                        format!("expected another header than `{name}`: {why}"),
                    ));
                }
            }
            for (index, name) in twice(names) {
                problems
                    .push(Problem::new(format!("spec.{field}[{index}]"), format!("`{name}` stands twice")));
            }
        }
    }
}

/// Why a header is never shown to anybody outside of the exchange.
fn unshown(name: &HeaderField) -> Option<&'static str> {
    name.is_of_the_mesh().then_some("it is the mesh's own; who calls and for whom is told without it")
}

/// Why nobody but the mesh and the codec may set a header.
pub(crate) fn unsettable(name: &HeaderField) -> Option<&'static str> {
    if name.is_of_the_mesh() {
        return Some("only the mesh sets it");
    }
    name.is_of_the_connection().then_some("it belongs to the message or its connection")
}
