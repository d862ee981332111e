//! An identity that may join the mesh. Which services it serves is said by the services.

use serde::{Deserialize, Serialize};
use signet_identity::PeerClass;

use crate::error::Problem;
use crate::object::{Kind, Name, Namespaced};

/// Named as its service account: `shop/web` is the identity `ns/shop/sa/web`.
pub type Workload = Namespaced<WorkloadSpec>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WorkloadSpec {
    pub class: WorkloadClass,
    /// Whether its app may have certificates and tokens of its own (class `workload`), from its sidecar's socket.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub workload_api: bool,
}

/// The peer class that its certificates carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum WorkloadClass {
    Sidecar,
    /// May authenticate callers from outside and mint transaction tokens.
    Gateway,
    /// Vouches for processes of its host, and is nobody's peer.
    Agent,
}

impl WorkloadClass {
    pub fn peer_class(self) -> PeerClass {
        match self {
            WorkloadClass::Sidecar => PeerClass::Sidecar,
            WorkloadClass::Gateway => PeerClass::Gateway,
            WorkloadClass::Agent => PeerClass::Agent,
        }
    }
}

impl Kind for WorkloadSpec {
    const KIND: &'static str = "Workload";

    fn check(&self, _: &Name<'_>, problems: &mut Vec<Problem>) {
        if self.class == WorkloadClass::Agent && self.workload_api {
            problems.push(Problem::new(
                "spec.workloadApi",
                "expected false with class agent: nobody but the agent itself is that identity",
            ));
        }
    }
}
