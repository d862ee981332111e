//! What a definition says beyond its fields: rules in CEL, which an API server checks by itself, and the columns of
//! `kubectl get`.
//!
//! Rules say what can be said of fields together in few words. They refuse nothing that the model takes, which a test
//! says; what they let through, the model still judges.

use serde_json::{Value, json};

/// The rule, and what is wrong where it does not hold.
pub(super) type Rule = (&'static str, &'static str);

pub(super) fn rules(kind: &str) -> impl Iterator<Item = &'static Rule> {
    let rules: &[Rule] = match kind {
        "MeshPolicy" => &[
            (
                "self.effect == 'external' || !has(self.provider)",
                "provider: only a policy of effect external asks somebody else",
            ),
            (
                "self.effect != 'external' || has(self.provider)",
                "provider: expected the name of an AuthorizationProvider of this namespace",
            ),
            (
                "self.effect == 'forbid' || !has(self.exceptions)",
                "exceptions: only a forbid can have exceptions",
            ),
            (
                "self.effect != 'permit' || !has(self.ifAbsent) || self.ifAbsent == 'match'",
                "ifAbsent: a permit never matches what is absent",
            ),
            (
                "self.effect != 'external' || !has(self.mode) || self.mode == 'enforce'",
                "mode: what somebody else would say is known only by asking",
            ),
            (
                "self.effect == 'permit' || !has(self.user) || !has(self.user.required)",
                "user.required: only a permit can require a user",
            ),
        ],
        "GuardRail" => &[
            ("has(self.forbid) || has(self.permits)", "expected forbid or permits, got neither"),
            ("has(self.forbid) || !has(self.exceptions)", "exceptions: expected forbid beside exceptions"),
            (
                "has(self.forbid) || !has(self.mode) || self.mode == 'enforce'",
                "mode: shadow is for forbid, of which there is none",
            ),
        ],
        "ExternalService" => &[
            (
                "has(self.hosts) || has(self.addresses) || has(self.networks)",
                "expected hosts, addresses or networks",
            ),
            ("!has(self.networks) || !has(self.addresses)", "networks: expected none beside addresses"),
        ],
        "Registration" => {
            &[("has(self.kubernetes) != has(self.unix)", "expected one of kubernetes and unix")]
        }
        "TokenExchange" => {
            &[("has(self.subjectTokens) || has(self.defer)", "expected subjectTokens or defer, got neither")]
        }
        "AuthorizationProvider" => &[
            ("has(self.service) != has(self.local)", "expected either service and port, or local"),
            (
                "!has(self.service) || has(self.port)",
                "port: expected the name of the service's port that speaks gRPC",
            ),
        ],
        "Service" => &[(
            "!has(self.federatedIdentity) || !has(self.identities)",
            "federatedIdentity: expected none beside identities",
        )],
        _ => &[],
    };
    rules.iter()
}

/// One column of `kubectl get`.
pub(super) struct Column(&'static str, &'static str, &'static str, u8);

impl Column {
    pub(super) fn written(&self) -> Value {
        json!({"name": self.0, "type": self.1, "jsonPath": self.2, "priority": self.3})
    }
}

const ACCEPTED: Column = Column("Accepted", "string", ".status.conditions[?(@.type=='Accepted')].status", 0);
const REASON: Column = Column("Reason", "string", ".status.conditions[?(@.type=='Accepted')].reason", 1);
const AGE: Column = Column("Age", "date", ".metadata.creationTimestamp", 0);

/// Those of the kind, then what all have.
pub(super) fn columns(kind: &str) -> impl Iterator<Item = &'static Column> {
    let own: &[Column] = match kind {
        "Mesh" => &[Column("Default", "string", ".spec.defaultAction", 0)],
        "Workload" => &[Column("Class", "string", ".spec.class", 0)],
        "MeshPolicy" => &[
            Column("Effect", "string", ".spec.effect", 0),
            Column("Mode", "string", ".spec.mode", 0),
            Column("Service", "string", ".spec.target.service", 0),
        ],
        "GuardRail" => &[Column("Mode", "string", ".spec.mode", 0)],
        "Issuer" => &[Column("Issuer", "string", ".spec.issuer", 0)],
        "FederatedTrustDomain" => &[
            Column("Trust domain", "string", ".spec.trustDomain", 0),
            Column("URL", "string", ".spec.url", 1),
        ],
        "Gateway" => &[Column("Identity", "string", ".spec.identity", 0)],
        "TrafficPolicy" => &[Column("Service", "string", ".spec.target.service", 0)],
        "AuthorizationProvider" => &[Column("Service", "string", ".spec.service", 0)],
        "Registration" => &[Column("Identity", "string", ".spec.identity", 0)],
        _ => &[],
    };
    const COMMON: &[Column] = &[ACCEPTED, REASON, AGE];
    own.iter().chain(COMMON)
}
