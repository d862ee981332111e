//! The settings of the whole mesh.

use serde::{Deserialize, Serialize};

use crate::Period;
use crate::error::Problem;
use crate::object::{Global, Kind, Name};
use crate::resources::is_default;

/// There is at most one, named `default`; without it every setting has its default.
pub type Mesh = Global<MeshSpec>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MeshSpec {
    /// What happens to a request that no policy names.
    #[serde(default, skip_serializing_if = "is_default")]
    pub default_action: DefaultAction,
    /// What happens to a call to a place outside the mesh that no ExternalService lists; absent: the same as
    /// `defaultAction`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<DefaultAction>,
    /// A connection is renewed at this age at the latest.
    #[serde(default = "day")]
    pub max_connection_age: Period,
    /// How old a sidecar's view of revocations may grow before what has no short end of its own is cut.
    #[serde(default = "ten_minutes")]
    pub max_staleness: Period,
    /// How many permitted requests a second each sidecar records for each service, so that changed policies can be tried on
    /// them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub decision_samples: u32,
}

/// More would be a log of accesses, and cost what one costs.
const MAX_SAMPLES: u32 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum DefaultAction {
    #[default]
    Deny,
    Allow,
}

fn day() -> Period {
    Period::from_secs(86_400)
}

fn ten_minutes() -> Period {
    Period::from_secs(600)
}

impl Default for MeshSpec {
    fn default() -> MeshSpec {
        MeshSpec {
            default_action: DefaultAction::Deny,
            egress: None,
            max_connection_age: day(),
            max_staleness: ten_minutes(),
            decision_samples: 0,
        }
    }
}

impl MeshSpec {
    /// What happens to a call to a place outside the mesh that is not listed.
    pub fn egress(&self) -> DefaultAction {
        self.egress.unwrap_or(self.default_action)
    }
}

impl Kind for MeshSpec {
    const KIND: &'static str = "Mesh";

    fn check(&self, name: &Name<'_>, problems: &mut Vec<Problem>) {
        if self.decision_samples > MAX_SAMPLES {
            problems.push(Problem::new(
                "spec.decisionSamples",
                format!("expected at most {MAX_SAMPLES} a second, got {}", self.decision_samples),
            ));
        }
        if let Name::Global(name) = name
            && **name != "default"
        {
            problems.push(Problem::new(
                "metadata.name",
                format!("expected `default`, the only mesh, got `{name}`"),
            ));
        }
    }
}
