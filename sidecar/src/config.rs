//! `sidecar.yaml`: everything that this process is told, in one file.
//!
//! Parsed, not validated: a [`Config`] exists only when every field of it can be acted on. An unknown
//! field, a relative path, a listener named twice or a field that the role has no use for is an error
//! that names the file, the field, what was expected and what came. The environment is never read.
//! Secrets are not in here, only the paths of the files that hold them, and such a file is refused
//! unless it is ours alone.

mod address;
mod app_api;
mod app_metrics;
mod dns;
mod error;
mod probes;
mod text;
mod user_context;
mod workload;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};
use signet_daemon::logs;
use signet_identity::SpiffeId;
use signet_model::{ObjectName, Port, Protocol};

pub use address::{AppAddress, ListenAddress};
pub use app_api::AppApi;
pub use app_metrics::AppMetrics;
pub use dns::Dns;
pub use error::ConfigError;
pub use probes::{Asked, Header, Probe, Probes};
pub use text::{from_json, from_yaml};
pub use user_context::AttachContext;
pub use workload::{SocketMode, WorkloadApi};

/// One process, as its configuration file describes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// Sidecar beside one workload, gateway at the edge, or agent of a host.
    pub role: Role,
    /// How this process becomes somebody.
    pub identity: IdentityConfig,
    /// Run-time state that other programs read (`addresses.json`); mode 0700. Never a key.
    pub data_dir: PathBuf,
    /// Services that the workload serves.
    #[serde(default)]
    pub inbound: Vec<Inbound>,
    /// Services that the workload dials by a listener of their own.
    #[serde(default)]
    pub outbound: Vec<Outbound>,
    /// The HTTP proxy for an app that uses one knowingly.
    #[serde(default)]
    pub forward_proxy: Option<ForwardProxy>,
    /// Redirected connections, told apart by their original destination.
    #[serde(default)]
    pub transparent: Option<Transparent>,
    /// The app's name server, where DNS is captured.
    #[serde(default)]
    pub dns: Option<Dns>,
    /// The edge, for the role `gateway`.
    #[serde(default)]
    pub gateway: Option<Gateway>,
    /// The Unix socket for whoever runs this process.
    #[serde(default)]
    pub admin: Option<Admin>,
    /// The Unix socket from which the app gets an identity of its own.
    #[serde(default)]
    pub workload_api: Option<WorkloadApi>,
    /// Where the app exchanges transaction tokens.
    #[serde(default)]
    pub app_api: Option<AppApi>,
    /// How calls of an app that forwards no user find theirs.
    #[serde(default)]
    pub user_context: AttachContext,
    /// The TCP listener for probes and Prometheus.
    #[serde(default)]
    pub metrics: Option<Metrics>,
    /// Where the kubelet's probes of the app are answered.
    #[serde(default)]
    pub probes: Option<Probes>,
    /// Data plane threads; absent: the CPU limit, for a sidecar at most two.
    #[serde(default)]
    pub workers: Option<usize>,
    /// How long connections may finish after the first SIGTERM.
    #[serde(default = "default_drain_seconds")]
    pub drain_seconds: u64,
    /// Settings of TLS between peers.
    #[serde(default)]
    pub tls: TlsSettings,
    /// What is logged, and how.
    #[serde(default)]
    pub log: Log,
}

/// What this process is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Beside one workload.
    Sidecar,
    /// At the edge.
    Gateway,
    /// For the processes of a host.
    Agent,
}

/// By what this process proves itself: one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct IdentityConfig {
    /// A file made by `signet join`, mode 0600.
    #[serde(default)]
    pub join_bundle: Option<PathBuf>,
    /// What the kubelet gives to a pod.
    #[serde(default)]
    pub kubernetes: Option<KubernetesIdentity>,
}

/// Where a pod finds its token and the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct KubernetesIdentity {
    /// A projected service account token with the authority's audience; read for each certificate.
    pub token_file: PathBuf,
    /// All roots of the mesh, PEM; read for each certificate.
    pub roots_file: PathBuf,
    /// `host:port` of the listener that attests.
    pub bootstrap_address: String,
    /// `host:port` of the listener for everything else.
    pub mesh_address: String,
    /// Who answers at both addresses; says which trust domain this is.
    pub control_plane: SpiffeId,
}

/// One port of one service that the workload serves.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Inbound {
    /// `name.namespace`
    pub service: ObjectName,
    /// The name of the port in the Service.
    pub port: String,
    /// Where mutual TLS is taken.
    pub listen: SocketAddr,
    /// Where the app listens.
    pub app: AppAddress,
}

/// One port of one service that the workload dials.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Outbound {
    /// Where the app dials.
    pub listen: ListenAddress,
    /// `name.namespace`
    pub service: ObjectName,
    /// The name of the port in the Service.
    pub port: String,
}

/// The listener for an app that uses its sidecar as an HTTP proxy (`http_proxy`, `https_proxy`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ForwardProxy {
    /// Where the app dials.
    pub listen: ListenAddress,
}

/// Listeners for connections that the kernel redirected to us.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Transparent {
    /// What the app dials; one address, or one per address family.
    #[serde(default, deserialize_with = "address::one_or_more")]
    pub outbound: Vec<SocketAddr>,
    /// What dials the app; one address, or one per address family.
    #[serde(default, deserialize_with = "address::one_or_more")]
    pub inbound: Vec<SocketAddr>,
    /// The services that redirected inbound connections are for, beside those of the `inbound` list.
    #[serde(default)]
    pub serves: Vec<Serves>,
}

/// What a workload serves behind its redirected connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serves {
    /// Every service that lists its identity, `*`.
    Every,
    /// This one, `name.namespace`.
    One(ObjectName),
}

impl Serves {
    /// How the control plane is asked for every one.
    pub const EVERY: &'static str = "*";
}

impl<'de> Deserialize<'de> for Serves {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            Self::EVERY => Ok(Serves::Every),
            name => name.parse().map(Serves::One).map_err(serde::de::Error::custom),
        }
    }
}

impl Serialize for Serves {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Serves::Every => serializer.serialize_str(Self::EVERY),
            Serves::One(name) => serializer.collect_str(name),
        }
    }
}

/// The edge.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Gateway {
    /// The Gateway resource that says what is served, `name.namespace`.
    pub resource: ObjectName,
    /// Where callers from outside come in.
    #[serde(default)]
    pub listeners: Vec<GatewayListener>,
    /// Where peers come that have this gateway call places outside the mesh.
    #[serde(default)]
    pub egress: Option<EgressListener>,
    /// Where peers of other clusters come in, to the services that the resource lists for them.
    #[serde(default)]
    pub east_west: Option<EastWestListener>,
}

impl Gateway {
    fn addresses(&mut self) -> impl Iterator<Item = &mut SocketAddr> {
        let listeners = self.listeners.iter_mut().map(|it| &mut it.listen);
        let egress = self.egress.iter_mut().map(|it| &mut it.listen);
        listeners.chain(egress).chain(self.east_west.iter_mut().map(|it| &mut it.listen))
    }

    /// Whether nobody can come in.
    fn is_closed(&self) -> bool {
        self.listeners.is_empty() && self.east_west.is_none() && self.egress.is_none()
    }
}

/// The listener for calls out of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EgressListener {
    /// Where mutual TLS is taken.
    pub listen: SocketAddr,
}

/// The listener for peers of other clusters. It has no certificate: their TLS goes through.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EastWestListener {
    /// Its address.
    pub listen: SocketAddr,
}

/// One listener of the edge.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GatewayListener {
    /// Its address.
    pub listen: SocketAddr,
    /// The port of the Gateway resource that it is, where that is not the address's own: what the resource's listeners say
    /// of that port holds here.
    #[serde(default)]
    pub port: Option<Port>,
    /// Its certificate; without one the listener speaks plain HTTP, or what the resource says goes on unopened.
    #[serde(default)]
    pub tls: Option<GatewayTls>,
    /// What callers speak here, and so to which service ports its routes can lead.
    #[serde(default)]
    pub protocol: EdgeProtocol,
}

/// What callers from outside speak at a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EdgeProtocol {
    /// HTTP/1.1, to `http1` ports.
    #[default]
    Http1,
    /// HTTP/2, to `http2` and `grpc` ports.
    Http2,
}

impl EdgeProtocol {
    /// The same, as the data plane names it.
    pub fn spoken(self) -> Protocol {
        match self {
            EdgeProtocol::Http1 => Protocol::Http1,
            EdgeProtocol::Http2 => Protocol::Http2,
        }
    }

    /// The one application protocol that TLS offers.
    pub fn alpn(self) -> &'static [u8] {
        match self {
            EdgeProtocol::Http1 => b"http/1.1",
            EdgeProtocol::Http2 => b"h2",
        }
    }
}

/// A certificate from outside the mesh, for callers from outside.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GatewayTls {
    /// PEM, leaf first.
    pub cert: PathBuf,
    /// PEM, mode 0600.
    pub key: PathBuf,
}

/// The admin socket.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Admin {
    /// Its path; the socket is made with mode 0600.
    pub socket: PathBuf,
}

/// The TCP listener for probes and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Metrics {
    /// Its address.
    pub listen: SocketAddr,
    /// Whose metrics are given beside our own.
    #[serde(default)]
    pub app: Option<AppMetrics>,
}

/// Settings of TLS between peers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TlsSettings {
    /// Whether a known peer may resume its session; off costs a full handshake each time.
    #[serde(default = "yes")]
    pub resumption: bool,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self { resumption: true }
    }
}

fn yes() -> bool {
    true
}

/// What is logged, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Log {
    /// One JSON object per event, or one line of text.
    #[serde(default)]
    pub format: logs::Format,
    /// How much is said: off, error, warn, info, debug, trace.
    #[serde(default, serialize_with = "as_text")]
    pub level: logs::Level,
}

fn as_text<S: Serializer>(level: &logs::Level, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(level)
}

fn default_drain_seconds() -> u64 {
    10
}

/// A drain that takes longer is a hang: no supervisor waits an hour.
const MAX_DRAIN_SECONDS: u64 = 3600;
/// More threads than any machine that this was measured on has cores.
const MAX_WORKERS: usize = 256;

impl Config {
    /// Reads a file, and the rules that span fields.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| ConfigError::Read { file: file.to_owned(), source })?;
        Self::parse(file, &text)
    }

    /// Like [`Config::load`] for text that was read already; `file` is only for messages.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = from_yaml(file, text)?;
        config.check(file)?;
        Ok(config)
    }

    fn check(&self, file: &Path) -> Result<(), ConfigError> {
        let wrong = |field: String, expected: &str, got: String| {
            Err(ConfigError::Field { file: file.to_owned(), field, expected: expected.to_owned(), got })
        };
        let mut paths: Vec<(String, &Path)> = vec![("dataDir".to_owned(), &self.data_dir)];
        match &self.identity {
            IdentityConfig { join_bundle: Some(file), kubernetes: None } => {
                paths.push(("identity.joinBundle".to_owned(), file));
            }
            IdentityConfig { join_bundle: None, kubernetes: Some(pod) } => {
                paths.push(("identity.kubernetes.tokenFile".to_owned(), &pod.token_file));
                paths.push(("identity.kubernetes.rootsFile".to_owned(), &pod.roots_file));
                for (field, address) in
                    [("bootstrapAddress", &pod.bootstrap_address), ("meshAddress", &pod.mesh_address)]
                {
                    if !crate::join::is_host_port(address) {
                        let field = format!("identity.kubernetes.{field}");
                        return wrong(field, "`host:port`", format!("{address:?}"));
                    }
                }
            }
            IdentityConfig { join_bundle, .. } => {
                let got = if join_bundle.is_some() { "both" } else { "neither" };
                return wrong("identity".to_owned(), "joinBundle or kubernetes", got.to_owned());
            }
        }
        if let Some(admin) = &self.admin {
            paths.push(("admin.socket".to_owned(), &admin.socket));
        }
        if let Some(workload) = &self.workload_api {
            paths.push(("workloadApi.socket".to_owned(), &workload.socket));
            if workload.allowed_uids.as_ref().is_some_and(Vec::is_empty) {
                return wrong(
                    "workloadApi.allowedUids".to_owned(),
                    "at least one uid, or no list",
                    "an empty list, which serves nobody".to_owned(),
                );
            }
        }
        for (at, inbound) in self.inbound.iter().enumerate() {
            if let AppAddress::Unix(path) = &inbound.app {
                paths.push((format!("inbound[{at}].app"), path));
            }
        }
        for (at, outbound) in self.outbound.iter().enumerate() {
            if let ListenAddress::Unix(path) = &outbound.listen {
                paths.push((format!("outbound[{at}].listen"), path));
            }
        }
        if let Some(ForwardProxy { listen: ListenAddress::Unix(path) }) = &self.forward_proxy {
            paths.push(("forwardProxy.listen".to_owned(), path));
        }
        for (at, listener) in self.gateway.iter().flat_map(|gateway| &gateway.listeners).enumerate() {
            if let Some(tls) = &listener.tls {
                paths.push((format!("gateway.listeners[{at}].tls.cert"), &tls.cert));
                paths.push((format!("gateway.listeners[{at}].tls.key"), &tls.key));
            }
        }
        if let Some(api) = &self.app_api {
            if let ListenAddress::Unix(path) = &api.listen {
                paths.push(("appApi.listen".to_owned(), path));
            }
            if let Err((field, expected, got)) = api.check() {
                return wrong(field.to_owned(), expected, got);
            }
        }
        if let Some(dns) = &self.dns {
            paths.push(("dns.resolvConf".to_owned(), &dns.resolv_conf));
            if let Err((field, expected, got)) = dns.check() {
                return wrong(field.to_owned(), expected, got);
            }
        }
        if let Some(Err((field, expected, got))) = self.app_metrics().map(|app| app.check(self)) {
            return wrong(field.to_owned(), expected, got);
        }
        if let Some(Err((field, expected, got))) = self.probes.as_ref().map(Probes::check) {
            return wrong(field, expected, got);
        }
        for (field, path) in paths {
            if !path.is_absolute() {
                return wrong(field, "an absolute path", format!("{:?}", path.display().to_string()));
            }
        }

        match (self.role, &self.gateway) {
            (Role::Gateway, None) => {
                return wrong(
                    "gateway".to_owned(),
                    "a gateway section with role: gateway",
                    "none".to_owned(),
                );
            }
            (Role::Sidecar | Role::Agent, Some(_)) => {
                return wrong(
                    "gateway".to_owned(),
                    "a gateway section with role: gateway only",
                    "one (set role: gateway, or remove it)".to_owned(),
                );
            }
            (Role::Gateway, Some(gateway)) if gateway.is_closed() => {
                return wrong(
                    "gateway.listeners".to_owned(),
                    "at least one listener, eastWest or egress",
                    "none of them".to_owned(),
                );
            }
            _ => {}
        }
        if self.role == Role::Agent {
            if self.workload_api.is_none() {
                return wrong("workloadApi".to_owned(), "a socket with role: agent", "none".to_owned());
            }
            if self.identity.join_bundle.is_none() {
                return wrong("identity".to_owned(), "joinBundle with role: agent", "kubernetes".to_owned());
            }
        }
        if self.role != Role::Sidecar {
            // It has no app of its own: whatever is listed here would never be used, or would be a second door.
            for (field, used) in [
                ("inbound", !self.inbound.is_empty()),
                ("outbound", !self.outbound.is_empty()),
                ("forwardProxy", self.forward_proxy.is_some()),
                ("transparent", self.transparent.is_some()),
                ("dns", self.dns.is_some()),
                ("appApi", self.app_api.is_some()),
                ("probes", self.probes.is_some()),
                ("userContext", self.user_context != AttachContext::default()),
            ] {
                if used {
                    let expected = if self.role == Role::Gateway {
                        "none with role: gateway"
                    } else {
                        "none with role: agent"
                    };
                    return wrong(field.to_owned(), expected, "some".to_owned());
                }
            }
        }

        if let Err((field, expected, got)) =
            self.user_context.check(self.serves_every() || !self.served().is_empty())
        {
            return wrong(field.to_owned(), expected, got);
        }
        if let Some(transparent) = &self.transparent
            && !transparent.inbound.is_empty()
            && self.served().is_empty()
            && !self.serves_every()
        {
            return wrong(
                "transparent.serves".to_owned(),
                "the services that redirected inbound connections are for (`[name.namespace]`, or `['*']`)",
                "none".to_owned(),
            );
        }

        let mut seen = BTreeSet::new();
        for (field, address) in self.listeners() {
            if !address.is_ephemeral() && !seen.insert(address.to_string()) {
                return wrong(field, "an address that no other listener has", address.to_string());
            }
        }
        if self.drain_seconds > MAX_DRAIN_SECONDS {
            return wrong("drainSeconds".to_owned(), "at most 3600 seconds", self.drain_seconds.to_string());
        }
        if let Some(workers) = self.workers
            && !(1..=MAX_WORKERS).contains(&workers)
        {
            return wrong("workers".to_owned(), "1 to 256 threads", workers.to_string());
        }
        Ok(())
    }

    /// Every listener with the field that asks for it.
    fn listeners(&self) -> Vec<(String, ListenAddress)> {
        let tcp = ListenAddress::Tcp;
        let mut all = Vec::new();
        for (at, inbound) in self.inbound.iter().enumerate() {
            all.push((format!("inbound[{at}].listen"), tcp(inbound.listen)));
        }
        for (at, outbound) in self.outbound.iter().enumerate() {
            all.push((format!("outbound[{at}].listen"), outbound.listen.clone()));
        }
        if let Some(proxy) = &self.forward_proxy {
            all.push(("forwardProxy.listen".to_owned(), proxy.listen.clone()));
        }
        if let Some(transparent) = &self.transparent {
            all.extend(transparent.outbound.iter().map(|a| ("transparent.outbound".to_owned(), tcp(*a))));
            all.extend(transparent.inbound.iter().map(|a| ("transparent.inbound".to_owned(), tcp(*a))));
        }
        // Of both kinds; here as the one that others could take.
        all.extend(self.dns.iter().flat_map(|dns| &dns.listen).map(|a| ("dns.listen".to_owned(), tcp(*a))));
        for (at, listener) in self.gateway.iter().flat_map(|gateway| &gateway.listeners).enumerate() {
            all.push((format!("gateway.listeners[{at}].listen"), tcp(listener.listen)));
        }
        if let Some(egress) = self.gateway.as_ref().and_then(|gateway| gateway.egress.as_ref()) {
            all.push(("gateway.egress.listen".to_owned(), tcp(egress.listen)));
        }
        if let Some(east_west) = self.gateway.iter().find_map(|gateway| gateway.east_west.as_ref()) {
            all.push(("gateway.eastWest.listen".to_owned(), tcp(east_west.listen)));
        }
        if let Some(admin) = &self.admin {
            all.push(("admin.socket".to_owned(), ListenAddress::Unix(admin.socket.clone())));
        }
        if let Some(workload) = &self.workload_api {
            let socket = ListenAddress::Unix(workload.socket.clone());
            all.push(("workloadApi.socket".to_owned(), socket));
        }
        if let Some(api) = &self.app_api {
            all.push(("appApi.listen".to_owned(), api.listen.clone()));
        }
        if let Some(metrics) = &self.metrics {
            all.push(("metrics.listen".to_owned(), tcp(metrics.listen)));
        }
        if let Some(probes) = &self.probes {
            all.push(("probes.listen".to_owned(), tcp(probes.listen)));
        }
        all
    }

    /// The app whose metrics are given beside our own.
    pub fn app_metrics(&self) -> Option<&AppMetrics> {
        self.metrics.as_ref().and_then(|metrics| metrics.app.as_ref())
    }

    /// Whether callers from outside come in, for whose users transaction tokens are minted.
    pub fn has_edge(&self) -> bool {
        self.gateway.as_ref().is_some_and(|gateway| !gateway.listeners.is_empty())
    }

    /// Services that this workload dials and that the configuration names, once each.
    pub fn dialled(&self) -> BTreeSet<ObjectName> {
        self.outbound.iter().map(|outbound| outbound.service.clone()).collect()
    }

    /// Whether this workload serves whatever lists its identity.
    pub fn serves_every(&self) -> bool {
        self.transparent.iter().any(|transparent| transparent.serves.contains(&Serves::Every))
    }

    /// The same on a host without IPv6, where no such address can be listened on: what is also there for IPv4 is left
    /// out, and `[::]`, which means both, means IPv4.
    #[must_use]
    pub fn without_ipv6(mut self) -> Self {
        let keep = |list: &mut Vec<SocketAddr>| {
            if list.iter().any(SocketAddr::is_ipv4) {
                list.retain(SocketAddr::is_ipv4);
            }
        };
        if let Some(transparent) = &mut self.transparent {
            keep(&mut transparent.outbound);
            keep(&mut transparent.inbound);
        }
        if let Some(dns) = &mut self.dns {
            keep(&mut dns.listen);
        }
        if let Some(gateway) = &mut self.gateway {
            let ports: Vec<_> =
                gateway.listeners.iter().map(|it| it.listen).filter(|it| it.is_ipv4()).collect();
            let has_twin =
                |listen: &SocketAddr| ports.iter().any(|it| it.port() == listen.port() && it.port() != 0);
            gateway.listeners.retain(|it| it.listen.is_ipv4() || !has_twin(&it.listen));
        }
        let both = self.metrics.iter_mut().map(|metrics| &mut metrics.listen);
        let both = both.chain(self.probes.iter_mut().map(|probes| &mut probes.listen));
        let both = both.chain(self.inbound.iter_mut().map(|inbound| &mut inbound.listen));
        let both = both.chain(self.gateway.iter_mut().flat_map(Gateway::addresses));
        for listen in both {
            if listen.is_ipv6() && listen.ip().is_unspecified() {
                *listen = SocketAddr::from(([0, 0, 0, 0], listen.port()));
            }
        }
        self
    }

    /// Services that this workload serves and that the configuration names, once each.
    pub fn served(&self) -> BTreeSet<ObjectName> {
        let transparent = self.transparent.iter().flat_map(|transparent| &transparent.serves);
        let transparent = transparent.filter_map(|serves| match serves {
            Serves::Every => None,
            Serves::One(name) => Some(name),
        });
        self.inbound.iter().map(|inbound| &inbound.service).chain(transparent).cloned().collect()
    }
}

#[cfg(test)]
mod tests;
