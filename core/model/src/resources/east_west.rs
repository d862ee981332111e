//! Between clusters: an endpoint that is reached through another cluster's gateway, and what a gateway lets other
//! clusters reach.
//!
//! The caller's TLS goes through from end to end. Its server name says which port of which service is meant
//! ([`signet_identity::routed_server_name`]), so that every part of it is a DNS label and all of it fits one name.

use serde::{Deserialize, Serialize};

use signet_identity::routed_name_fits;

use crate::decode::non_empty;
use crate::error::Problem;
use crate::object::Namespaced;
use crate::resources::service::{Endpoint, ServiceSpec};
use crate::resources::twice;
use crate::text::name::is_label;
use crate::{ObjectName, Port};

/// Says that an endpoint's address is that of another cluster's gateway.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ThroughGateway {
    /// The service's name there; absent means its name here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ObjectName>,
}

/// What other clusters reach through this gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EastWest {
    /// `name.namespace` of each; every port of theirs, by whom their policies let in.
    #[serde(deserialize_with = "non_empty")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub services: Vec<ObjectName>,
}

impl EastWest {
    pub(crate) fn check(&self, problems: &mut Vec<Problem>) {
        for (index, service) in twice(&self.services) {
            problems.push(Problem::new(
                format!("spec.eastWest.services[{index}]"),
                format!("expected each service once, got `{service}` twice"),
            ));
        }
    }
}

impl Namespaced<ServiceSpec> {
    /// The service by its name behind the gateway of this endpoint; none where its own sidecar is at the address.
    pub fn behind<'a>(&'a self, endpoint: &'a Endpoint) -> Option<&'a ObjectName> {
        endpoint.through_gateway.as_ref().map(|through| through.service.as_ref().unwrap_or(&self.name))
    }

    /// Whether another cluster's gateway leads to every endpoint, and none is of this cluster.
    pub fn is_elsewhere(&self) -> bool {
        let endpoints = &self.spec.endpoints;
        !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.through_gateway.is_some())
    }
}

impl ServiceSpec {
    /// The names that a caller's hello would carry. `own`: this service's.
    pub(crate) fn check_gateways(&self, own: &ObjectName, problems: &mut Vec<Problem>) {
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let Some(through) = &endpoint.through_gateway else { continue };
            let field = format!("spec.endpoints[{index}].throughGateway");
            let there = through.service.as_ref().unwrap_or(own);
            if !is_label(there.name.as_str()) {
                problems.push(Problem::new(
                    format!("{field}.service"),
                    format!(
                        "expected a service whose name is a DNS label without dots, as it becomes part of a host name, got \
                         `{there}`"
                    ),
                ));
                continue;
            }
            let unfit = endpoint
                .ports
                .keys()
                .find(|port| !routed_name_fits(port.as_str(), there.name.as_str(), there.namespace.as_str()));
            if let Some(port) = unfit {
                problems.push(Problem::new(
                    field,
                    format!(
                        "expected names of a port, a service and a namespace that have 179 characters together at most, since \
                         a caller's hello carries them in one host name, got `{port}` of `{there}`"
                    ),
                ));
            }
        }
    }
}

/// What tells two listeners apart at one address: behind a gateway there are many.
#[derive(PartialEq)]
pub(crate) struct Place<'a> {
    endpoint: &'a Endpoint,
    port: (&'a crate::Label, Port),
}

impl<'a> Place<'a> {
    pub(crate) fn new(endpoint: &'a Endpoint, port: (&'a crate::Label, Port)) -> Place<'a> {
        Place { endpoint, port }
    }

    /// Whether both cannot be there.
    pub(crate) fn collides(&self, other: &Place<'_>) -> bool {
        let (one, two) = (self.endpoint, other.endpoint);
        if one.address != two.address || self.port.1 != other.port.1 {
            return false;
        }
        match (&one.through_gateway, &two.through_gateway) {
            (Some(here), Some(there)) => {
                self.port.0 == other.port.0 && here == there && one.identity == two.identity
            }
            _ => true,
        }
    }
}
