//! The common shape of every resource: `apiVersion`, `kind`, `metadata`, `spec`.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::decode::{canonical, json_value};
use crate::error::{Problem, Unreadable};
use crate::text::shorten;
use crate::typed::typed;
use crate::{
    AnyRoute, AuthorizationProvider, ExternalService, FederatedTrustDomain, GATEWAY_API, Gateway, GuardRail,
    Issuer, Label, Mesh, MeshPolicy, ObjectName, ReferenceGrant, ReferenceGrantSpec, Registration, Service,
    Subdomain, TcpRouteSpec, TlsRouteSpec, TokenExchange, TrafficPolicy, Workload,
};

pub const API_VERSION: &str = "signet.mesh/v1alpha1";

/// The spec of one kind.
pub trait Kind: Serialize + DeserializeOwned {
    const KIND: &'static str;
    /// Its `apiVersion`.
    const API: &'static str = API_VERSION;
    /// Older versions of it that say the same.
    const ALSO: &'static [&'static str] = &[];

    /// What shape alone cannot say: fields that contradict each other or the object's own name.
    fn check(&self, name: &Name<'_>, problems: &mut Vec<Problem>);
}

/// The name of the object that a spec belongs to.
pub enum Name<'a> {
    Global(&'a Label),
    Namespaced(&'a ObjectName),
}

/// An object of the whole mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Global<S> {
    pub name: Label,
    pub spec: S,
}

/// An object of one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaced<S> {
    pub name: ObjectName,
    pub spec: S,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<M, S> {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: M,
    spec: S,
}

/// Labels and annotations are taken, as tools add them, and never read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GlobalMetadata {
    name: Label,
    #[serde(default, rename = "labels")]
    _labels: BTreeMap<String, String>,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamespacedMetadata {
    name: Subdomain,
    namespace: Label,
    #[serde(default, rename = "labels")]
    _labels: BTreeMap<String, String>,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
}

/// The kind that the document says it is, when it is one of its `apiVersion` that we know.
fn kind_of(value: &Value) -> Result<String, Problem> {
    if !value.is_object() {
        return Err(Problem::new(
            "",
            "expected a resource (apiVersion, kind, metadata, spec), got another value",
        ));
    }
    let text = |field: &str| value.get(field).and_then(Value::as_str);
    let Some(kind) = text("kind") else {
        return Err(Problem::new("kind", format!("expected {KINDS}, got nothing")));
    };
    let (wanted, also) = versions(kind);
    match text("apiVersion") {
        Some(version) if version == wanted || also.contains(&version) => Ok(kind.to_owned()),
        Some(other) => {
            Err(Problem::new("apiVersion", format!("expected `{wanted}`, got `{}`", shorten(other))))
        }
        None => Err(Problem::new("apiVersion", format!("expected `{wanted}`, got nothing"))),
    }
}

/// The `apiVersion` of a kind, and older ones that say the same.
fn versions(kind: &str) -> (&'static str, &'static [&'static str]) {
    match kind {
        "HTTPRoute" | "GRPCRoute" => (GATEWAY_API, &[]),
        "TLSRoute" => (TlsRouteSpec::API, TlsRouteSpec::ALSO),
        "TCPRoute" => (TcpRouteSpec::API, TcpRouteSpec::ALSO),
        "ReferenceGrant" => (ReferenceGrantSpec::API, ReferenceGrantSpec::ALSO),
        _ => (API_VERSION, &[]),
    }
}

const KINDS: &str = "one of Mesh, Workload, Service, ExternalService, Issuer, FederatedTrustDomain, Gateway, MeshPolicy, GuardRail, Registration, TrafficPolicy, AuthorizationProvider, TokenExchange, \
     HTTPRoute, GRPCRoute, TLSRoute, TCPRoute, ReferenceGrant";

fn global<S: Kind>(value: Value) -> Result<Global<S>, Vec<Problem>> {
    let document: Document<GlobalMetadata, S> = typed(&value).map_err(|problem| vec![problem])?;
    let object = Global { name: document.metadata.name, spec: document.spec };
    let mut problems = Vec::new();
    object.spec.check(&Name::Global(&object.name), &mut problems);
    if problems.is_empty() { Ok(object) } else { Err(problems) }
}

fn namespaced<S: Kind>(value: Value) -> Result<Namespaced<S>, Vec<Problem>> {
    let document: Document<NamespacedMetadata, S> = typed(&value).map_err(|problem| vec![problem])?;
    let name = ObjectName { namespace: document.metadata.namespace, name: document.metadata.name };
    let object = Namespaced { name, spec: document.spec };
    let mut problems = Vec::new();
    object.spec.check(&Name::Namespaced(&object.name), &mut problems);
    if problems.is_empty() { Ok(object) } else { Err(problems) }
}

#[derive(Serialize)]
struct Written<'a, S> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    metadata: WrittenMetadata<'a>,
    spec: &'a S,
}

#[derive(Serialize)]
struct WrittenMetadata<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
}

impl<S: Kind> Serialize for Global<S> {
    fn serialize<Out: Serializer>(&self, serializer: Out) -> Result<Out::Ok, Out::Error> {
        let metadata = WrittenMetadata { name: self.name.as_str(), namespace: None };
        Written { api_version: S::API, kind: S::KIND, metadata, spec: &self.spec }.serialize(serializer)
    }
}

impl<S: Kind> Serialize for Namespaced<S> {
    fn serialize<Out: Serializer>(&self, serializer: Out) -> Result<Out::Ok, Out::Error> {
        let metadata =
            WrittenMetadata { name: self.name.name.as_str(), namespace: Some(self.name.namespace.as_str()) };
        Written { api_version: S::API, kind: S::KIND, metadata, spec: &self.spec }.serialize(serializer)
    }
}

fn canonical_json(object: &impl Serialize) -> String {
    let mut out = String::new();
    // Specs hold strings, numbers and maps with text keys: turning them into a JSON value cannot fail.
    // Were that to change, an empty document is one that every reader refuses.
    if let Ok(value) = serde_json::to_value(object) {
        canonical(&value, &mut out);
    }
    out
}

fn from_json<T>(
    text: &str,
    kind: &'static str,
    read: impl FnOnce(Value) -> Result<T, Vec<Problem>>,
) -> Result<T, Unreadable> {
    let value = json_value(text)?;
    let got = kind_of(&value).map_err(|problem| Unreadable { problems: vec![problem] })?;
    if got != kind {
        let problem = Problem::new("kind", format!("expected {kind}, got `{}`", shorten(&got)));
        return Err(Unreadable { problems: vec![problem] });
    }
    read(value).map_err(|problems| Unreadable { problems })
}

impl<S: Kind> Global<S> {
    /// The resource as JSON with sorted keys: equal resources give equal text, so that its hash is a version.
    pub fn canonical_json(&self) -> String {
        canonical_json(self)
    }

    /// Reads what [`Global::canonical_json`] wrote, and anything else of its shape; refuses it whole otherwise.
    pub fn from_json(text: &str) -> Result<Global<S>, Unreadable> {
        from_json(text, S::KIND, global)
    }
}

impl<S: Kind> Namespaced<S> {
    /// The resource as JSON with sorted keys: equal resources give equal text, so that its hash is a version.
    pub fn canonical_json(&self) -> String {
        canonical_json(self)
    }

    /// Reads what [`Namespaced::canonical_json`] wrote, and anything else of its shape; refuses it whole
    /// otherwise.
    pub fn from_json(text: &str) -> Result<Namespaced<S>, Unreadable> {
        from_json(text, S::KIND, namespaced)
    }
}

/// Any resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    Mesh(Mesh),
    Workload(Workload),
    Service(Service),
    ExternalService(ExternalService),
    Issuer(Issuer),
    FederatedTrustDomain(FederatedTrustDomain),
    Gateway(Gateway),
    MeshPolicy(MeshPolicy),
    GuardRail(GuardRail),
    Registration(Registration),
    TrafficPolicy(TrafficPolicy),
    AuthorizationProvider(AuthorizationProvider),
    TokenExchange(TokenExchange),
    Route(AnyRoute),
    ReferenceGrant(ReferenceGrant),
}

impl Resource {
    /// As [`Resource::from_value`], of a document whose fields nobody has looked at: a null is refused, since read as
    /// absent it would turn "needs a user" into "anybody".
    pub fn from_document(value: Value) -> Result<Resource, Vec<Problem>> {
        let problems = crate::decode::nulls(&value);
        if problems.is_empty() { Resource::from_value(value) } else { Err(problems) }
    }

    /// The word for its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Resource::Mesh(_) => "Mesh",
            Resource::Workload(_) => "Workload",
            Resource::Service(_) => "Service",
            Resource::ExternalService(_) => "ExternalService",
            Resource::Issuer(_) => "Issuer",
            Resource::FederatedTrustDomain(_) => "FederatedTrustDomain",
            Resource::Gateway(_) => "Gateway",
            Resource::MeshPolicy(_) => "MeshPolicy",
            Resource::GuardRail(_) => "GuardRail",
            Resource::Registration(_) => "Registration",
            Resource::TrafficPolicy(_) => "TrafficPolicy",
            Resource::AuthorizationProvider(_) => "AuthorizationProvider",
            Resource::TokenExchange(_) => "TokenExchange",
            Resource::Route(route) => route.kind(),
            Resource::ReferenceGrant(_) => "ReferenceGrant",
        }
    }

    /// As a document with sorted keys: equal resources give equal text.
    pub fn canonical_json(&self) -> String {
        match self {
            Resource::Mesh(it) => it.canonical_json(),
            Resource::Workload(it) => it.canonical_json(),
            Resource::Service(it) => it.canonical_json(),
            Resource::ExternalService(it) => it.canonical_json(),
            Resource::Issuer(it) => it.canonical_json(),
            Resource::FederatedTrustDomain(it) => it.canonical_json(),
            Resource::Gateway(it) => it.canonical_json(),
            Resource::MeshPolicy(it) => it.canonical_json(),
            Resource::GuardRail(it) => it.canonical_json(),
            Resource::Registration(it) => it.canonical_json(),
            Resource::TrafficPolicy(it) => it.canonical_json(),
            Resource::AuthorizationProvider(it) => it.canonical_json(),
            Resource::TokenExchange(it) => it.canonical_json(),
            Resource::Route(it) => it.canonical_json(),
            Resource::ReferenceGrant(it) => it.canonical_json(),
        }
    }

    /// Reads one document. What it returns is valid by itself; whether it fits the others is the
    /// [`Registry`](crate::Registry)'s to say.
    pub fn from_value(value: Value) -> Result<Resource, Vec<Problem>> {
        let kind = kind_of(&value).map_err(|problem| vec![problem])?;
        match kind.as_str() {
            "Mesh" => global(value).map(Resource::Mesh),
            "Workload" => namespaced(value).map(Resource::Workload),
            "Service" => namespaced(value).map(Resource::Service),
            "ExternalService" => namespaced(value).map(Resource::ExternalService),
            "Issuer" => global(value).map(Resource::Issuer),
            "FederatedTrustDomain" => global(value).map(Resource::FederatedTrustDomain),
            "Gateway" => namespaced(value).map(Resource::Gateway),
            "MeshPolicy" => namespaced(value).map(Resource::MeshPolicy),
            "GuardRail" => global(value).map(Resource::GuardRail),
            "Registration" => global(value).map(Resource::Registration),
            "TrafficPolicy" => namespaced(value).map(Resource::TrafficPolicy),
            "AuthorizationProvider" => namespaced(value).map(Resource::AuthorizationProvider),
            "TokenExchange" => global(value).map(Resource::TokenExchange),
            "HTTPRoute" => namespaced(value).map(AnyRoute::Http).map(Resource::Route),
            "GRPCRoute" => namespaced(value).map(AnyRoute::Grpc).map(Resource::Route),
            "TLSRoute" => namespaced(value).map(AnyRoute::Tls).map(Resource::Route),
            "TCPRoute" => namespaced(value).map(AnyRoute::Tcp).map(Resource::Route),
            "ReferenceGrant" => namespaced(value).map(Resource::ReferenceGrant),
            other => Err(vec![Problem::new("kind", format!("expected {KINDS}, got `{}`", shorten(other)))]),
        }
    }
}
