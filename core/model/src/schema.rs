//! The shapes of the resources as JSON schemas, made of the types that read them.
//!
//! Every schema is whole, without references. What a text must be like beyond its being one is in words, under
//! [`EXPECTED`]: the types say it in code.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::Value;

use crate::object::Kind;
use crate::resources::*;

/// The keyword of a text's schema under which the words stand that its errors have.
pub const EXPECTED: &str = "x-signet-expected";

/// The keyword of a word's schema under which other spellings stand that are taken as well.
pub const ALSO: &str = "x-signet-also";

/// The schema of one kind's `spec`.
#[derive(Debug, Clone)]
pub struct SpecSchema {
    pub kind: &'static str,
    pub namespaced: bool,
    pub schema: Value,
}

/// Those of our own group, in the order of `docs/registry.md`.
#[must_use]
pub fn specs() -> Vec<SpecSchema> {
    vec![
        of::<mesh::MeshSpec>(false),
        of::<workload::WorkloadSpec>(true),
        of::<registration::RegistrationSpec>(false),
        of::<service::ServiceSpec>(true),
        of::<external::ExternalServiceSpec>(true),
        of::<issuer::IssuerSpec>(false),
        of::<federated::FederatedSpec>(false),
        of::<gateway::GatewaySpec>(true),
        of::<traffic::TrafficPolicySpec>(true),
        of::<policy::PolicySpec>(true),
        of::<provider::ProviderSpec>(true),
        of::<exchange::TokenExchangeSpec>(false),
        of::<guard_rail::GuardRailSpec>(false),
    ]
}

fn of<S: Kind + JsonSchema>(namespaced: bool) -> SpecSchema {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema: Schema = settings.into_generator().into_root_schema_for::<S>();
    SpecSchema { kind: S::KIND, namespaced, schema: schema.to_value() }
}
