//! The resources of the mesh: what an operator writes, and what everything else reads.
//!
//! Kinds in the shape of Kubernetes (`apiVersion: signet.mesh/v1alpha1`): [`Mesh`], [`Workload`],
//! [`Service`], [`ExternalService`], [`Issuer`], [`FederatedTrustDomain`], [`Gateway`], [`MeshPolicy`], [`GuardRail`], [`Registration`], [`TrafficPolicy`], [`TokenExchange`], [`AuthorizationProvider`]; and
//! of the Gateway API [`HttpRoute`], [`GrpcRoute`], [`TlsRoute`] and [`TcpRoute`]. A value of one of these types is valid by itself; a [`Registry`] is valid as a whole, cross references included. There is no way to a
//! half-read resource: an unknown field, a duplicate key, an empty field or a wrong name refuses the
//! lot, with file, document, line, field and reason for each mistake found.
//!
//! [`parse_folder`] reads a folder of YAML, [`parse_text`] one text, [`Registry::build`] takes resources
//! that come from elsewhere. Policies and gateways travel as canonical JSON
//! ([`MeshPolicy::canonical_json`], [`MeshPolicy::from_json`]), so that a reader that does not know a
//! field notices it and denies. `docs/registry.md` describes every field with examples.
//!
//! Pure, except for the folder loader, which reads files and nothing else.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod check;
mod decode;
mod error;
mod folder;
mod lenient;
mod object;
pub mod reach;
mod registry;
mod resources;
#[cfg(feature = "schema")]
pub mod schema;
mod text;
mod typed;
pub mod when;

pub use decode::from_yaml;
pub use error::{Misread, Problem, RegistryError, RegistryErrors, Unreadable};
pub use folder::{MAX_FILE_BYTES, MAX_FILES, parse_folder, parse_text};
pub use lenient::{
    Earlier, InForce, Kept, Lenient, ObjectId, Offer, Stage, Stand, Verdict, read_entries, stands_for,
};
pub use object::{API_VERSION, Global, Kind, Namespaced, Resource};
pub use registry::{Options, Origin, Registry};
pub use resources::east_west::{EastWest, ThroughGateway};
pub use resources::exchange::{Actors, Defer, SubjectToken, TokenExchange, TokenExchangeSpec};
pub use resources::external::{
    Callers, ExternalPort, ExternalProtocol, ExternalService, ExternalServiceSpec, Through, TlsOrigination,
};
pub use resources::federated::{
    EndpointProfile, FederatedSpec, FederatedTrustDomain, FilePath, InitialBundle, SpiffeProfile, WebProfile,
};
pub use resources::gateway::{
    BoundTokens, ForwardCredential, Gateway, GatewayEgress, GatewaySpec, JwtAuth, Route, RouteAuth,
    TransactionSettings,
};
pub use resources::guard_rail::{Forbidden, GuardRail, GuardRailSpec, PermitLimits, PolicyDocument};
pub use resources::issuer::{Algorithm, Issuer, IssuerSpec};
pub use resources::listener::{
    AllowedRoutes, FromNamespaces, Listener, ListenerProtocol, ListenerTls, RouteNamespaces, TlsMode,
};
pub use resources::mesh::{DefaultAction, Mesh, MeshSpec};
pub use resources::policy::{
    ClaimMatch, ContextKind, CredentialKind, Effect, Exception, FromMatch, IfAbsent, MeshPolicy, Mode,
    PolicySpec, PolicyTarget, ToMatch, UserMatch,
};
pub use resources::process::{ProcessFacts, ProcessSelector};
pub use resources::provider::{AuthorizationProvider, LocalAddress, ProviderSpec};
pub use resources::registration::{PodSelector, Registration, RegistrationSpec};
pub use resources::route::{
    AnyRoute, BackendKind, BackendRef, Family, Filter, FilterType, Fraction, GATEWAY_API, GivenRoute,
    GivenRoutes, GrantFrom, GrantTo, GrpcCall, GrpcMethodMatch, GrpcRoute, GrpcRouteMatch, GrpcRouteRule,
    GrpcRouteSpec, HeaderMatch, HeaderModifier, HeaderValue, HttpRoute, HttpRouteMatch, HttpRouteRule,
    HttpRouteSpec, Match, Mirror, ParentKind, ParentRef, PathMatch, PathMatchType, PathModifier,
    PathModifierType, PathRule, QueryMatch, Redirect, ReferenceGrant, ReferenceGrantSpec, Rewrite,
    RouteRetry, RouteTimeouts, Rule, Scheme, StreamBackend, StreamRule, TcpRoute, TcpRouteSpec, TlsRoute,
    TlsRouteSpec,
};
pub use resources::service::{
    Endpoint, OnExpiry, Permissive, Protocol, Service, ServicePort, ServiceSpec, UserContext, UserHeaders,
};
pub use resources::traffic::{
    Fault, FaultAbort, FaultDelay, GrpcCode, LimitKey, MAX_REPLAY, MAX_RETRIES, OutlierPolicy, RateLimit,
    RetryBudget, RetryPolicy, TrafficPolicy, TrafficPolicySpec, TrafficTarget, TrafficTimeouts,
};
pub use resources::workload::{Workload, WorkloadClass, WorkloadSpec};
pub use text::duration::RouteDuration;
pub use text::header::{HeaderField, HeaderText, QueryText};
pub use text::host::{HostPattern, HttpUrl};
pub use text::http::{GrpcName, GrpcPattern, HttpMethod, PathPrefix, PathTemplate};
pub use text::jose::{AcrValue, ClaimName, ClaimValue, Scope};
pub use text::label::{PodLabelKey, PodLabelValue};
pub use text::moment::Moment;
pub use text::name::{Label, ObjectName, Subdomain, WorkloadId, WorkloadPattern};
pub use text::network::Network;
pub use text::period::Period;
pub use text::port::Port;
pub use text::unix::{AccountName, BinaryPath, Sha256};
pub use text::words::Words;
pub use text::{Invalid, address::HostAddress};
pub use when::When;
