//! One question: may this caller, for this user, do that.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value};
use signet_identity::{PeerClass, SpiffeId, TrustDomain};
use signet_model::{Moment, ObjectName, PathTemplate};
use signet_policy::{Answer, Context as Way, Explanation, Facts, Headers, User};

use super::Exit;
use super::world::{Source, World};
use crate::operator::Context;

/// A caller, a user, and what is asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Question {
    pub(super) caller: String,
    pub(super) class: PeerClass,
    pub(super) user: Option<Who>,
    pub(super) service: ObjectName,
    /// May be left out where the service has one only.
    pub(super) port: Option<String>,
    pub(super) request: Request,
    pub(super) headers: BTreeMap<String, Vec<String>>,
    /// Milliseconds since the epoch.
    pub(super) at_ms: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    Connection,
    Http { method: String, path: String },
    Grpc(String),
}

/// A verified user.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Who {
    pub(super) sub: String,
    #[serde(default)]
    pub(super) scopes: Vec<String>,
    #[serde(default)]
    pub(super) claims: Map<String, Value>,
    #[serde(default = "jwt")]
    pub(super) cred: String,
    #[serde(default = "forwarded")]
    pub(super) context: Way,
    #[serde(default)]
    pub(super) actor: Option<String>,
}

fn jwt() -> String {
    "jwt".into()
}

fn forwarded() -> Way {
    Way::Forwarded
}

#[derive(Debug)]
struct Lines<'a>(&'a BTreeMap<String, Vec<String>>);

impl Headers for Lines<'_> {
    fn any_line(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.0.get(name).into_iter().flatten().any(|line| test(line.trim().as_bytes()))
    }
}

impl Request {
    /// `GET /v1/orders/7`, `grpc shop.v1.Orders/List`, or `connect`.
    pub(super) fn read(words: &[&str]) -> anyhow::Result<Request> {
        match words {
            ["connect"] => Ok(Request::Connection),
            ["grpc", method] => Ok(Request::Grpc((*method).to_owned())),
            [method, target] if target.starts_with('/') => {
                let path = target.split('?').next().unwrap_or(target);
                // What policy sees is canonical; in another spelling this would be a question that nobody asks.
                if path.contains(['{', '}']) || path.parse::<PathTemplate>().is_err() {
                    bail!(
                        "expected a path in canonical spelling (letters, digits and -._~ as they are, other bytes as %XX, no empty or dot segments), got `{path}`"
                    );
                }
                Ok(Request::Http { method: (*method).to_owned(), path: path.to_owned() })
            }
            other => bail!(
                "expected `GET /path`, `grpc package.Service/Method` or `connect`, got `{}`",
                other.join(" ")
            ),
        }
    }
}

impl Question {
    /// The whole story of the answer.
    pub(super) fn ask(&self, world: &World) -> anyhow::Result<Explanation> {
        let port = match (&self.port, world.only_port(&self.service)) {
            (Some(port), _) => port.as_str(),
            (None, Some(port)) => port,
            (None, None) => {
                world.port(&self.service, "")?;
                bail!("expected the name of a port, as {} has several", self.service);
            }
        };
        let protocol = world.port(&self.service, port)?;
        let policies = world
            .policies(&self.service)
            .ok_or_else(|| anyhow!("expected a service of the registry, got `{}`", self.service))?;
        let peer = caller(&self.caller, &world.own)?;
        let user = self.user.clone().map(|who| User {
            sub: who.sub,
            scopes: who.scopes,
            claims: who.claims,
            cred: who.cred,
            context: who.context,
            actor: who.actor,
        });
        let grpc_path;
        let (method, path, grpc) = match &self.request {
            Request::Connection => (None, None, None),
            Request::Http { method, path } => (Some(method.as_str()), Some(path.as_str()), None),
            Request::Grpc(method) => {
                grpc_path = format!("/{method}");
                (Some("POST"), Some(grpc_path.as_str()), Some(method.as_str()))
            }
        };
        if method.is_none() && user.is_some() {
            bail!("expected a request beside a user, got a connection: bytes have no user");
        }
        let lines = Lines(&self.headers);
        Ok(policies.explain(&Facts {
            peer: &peer,
            peer_class: self.class,
            user: user.as_ref(),
            port,
            protocol,
            method,
            path,
            grpc,
            headers: method.is_some().then_some(&lines),
            now_ms: self.at_ms,
        }))
    }
}

/// `ns/<namespace>/sa/<account>` of the own trust domain, or a whole SPIFFE ID.
fn caller(text: &str, own: &TrustDomain) -> anyhow::Result<SpiffeId> {
    let whole =
        if text.starts_with("spiffe://") { text.to_owned() } else { format!("spiffe://{own}/{text}") };
    SpiffeId::parse(whole).map_err(|error| {
        anyhow!("expected `ns/<namespace>/sa/<service-account>` or a SPIFFE ID, got `{text}`: {error}")
    })
}

/// The moment in milliseconds; now where none is said.
pub(super) fn at_ms(moment: Option<Moment>) -> i64 {
    let seconds = moment.map_or_else(|| time::OffsetDateTime::now_utc().unix_timestamp(), Moment::unix);
    seconds.saturating_mul(1000)
}

/// May this caller do that? Exit code 0 when it may, 3 when it may not.
#[derive(Args)]
pub(crate) struct Can {
    /// Who calls: `ns/shop/sa/web`, or a whole SPIFFE ID.
    #[arg(long = "as", value_name = "IDENTITY")]
    caller: String,
    /// The caller's class.
    #[arg(long, default_value = "sidecar")]
    class: PeerClass,
    /// The service, `name.namespace`.
    #[arg(long)]
    service: ObjectName,
    /// Its port by name, where it has several.
    #[arg(long)]
    port: Option<String>,
    /// A verified user: a file of JSON with `sub`, and possibly `scopes`, `claims`, `cred`, `context`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sub", "scopes"])]
    user: Option<PathBuf>,
    /// A verified user, `<issuer>|<sub>`.
    #[arg(long)]
    sub: Option<String>,
    /// A scope of the user; may be said several times.
    #[arg(long = "scope", requires = "sub")]
    scopes: Vec<String>,
    /// A header, `name: value`; may be said several times.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// At that moment, instead of now.
    #[arg(long, value_name = "RFC 3339")]
    at: Option<Moment>,
    #[command(flatten)]
    source: Source,
    /// `GET /v1/orders/7`, `grpc shop.v1.Orders/List`, or `connect`.
    #[arg(required = true, num_args = 1..=2)]
    request: Vec<String>,
}

impl Can {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let user = match (&self.user, self.sub) {
            (Some(path), _) => {
                let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
                Some(serde_json::from_str(&text).with_context(|| path.display().to_string())?)
            }
            (None, Some(sub)) => Some(Who {
                sub,
                scopes: self.scopes,
                claims: Map::new(),
                cred: jwt(),
                context: Way::Forwarded,
                actor: None,
            }),
            (None, None) => None,
        };
        let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for header in &self.headers {
            let (name, value) =
                header.split_once(':').ok_or_else(|| anyhow!("expected `name: value`, got `{header}`"))?;
            headers.entry(name.to_ascii_lowercase()).or_default().push(value.trim().to_owned());
        }
        let words: Vec<&str> = self.request.iter().flat_map(|word| word.split_whitespace()).collect();
        let question = Question {
            caller: self.caller,
            class: self.class,
            user,
            service: self.service,
            port: self.port,
            request: Request::read(&words)?,
            headers,
            at_ms: at_ms(self.at),
        };
        let told = question.ask(&World::load(&self.source, context).await?)?;
        context.show(serde_json::to_value(&told)?, || told.to_string())?;
        if told.verdict == Answer::Allow { Ok(()) } else { Err(Exit(3).into()) }
    }
}
