//! The policies of a mesh, from a folder of files or from a control plane.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use serde_json::json;
use signet_identity::TrustDomain;
use signet_model::{DefaultAction, ObjectName, Options, PolicyDocument, Protocol, parse_folder};
use signet_policy::PolicySet;
use signet_proto::v1::ListPoliciesRequest;

use crate::operator::{Context, one_line, refused, table};

/// A registry of ten thousand policies is some megabytes.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// Where the policies come from.
#[derive(Args, Clone)]
pub(crate) struct Source {
    /// A folder of files, instead of the control plane's registry.
    #[arg(short, long, value_name = "FOLDER")]
    pub(crate) folder: Option<PathBuf>,
    /// With a folder: the mesh's own trust domain, of which policies speak as `ns/…`.
    #[arg(long, default_value = "cluster.local")]
    pub(crate) trust_domain: String,
}

pub(crate) struct World {
    pub(crate) own: TrustDomain,
    default_allow: bool,
    services: BTreeMap<ObjectName, Governed>,
}

struct Governed {
    ports: BTreeMap<String, Protocol>,
    documents: Vec<String>,
}

impl World {
    pub(crate) async fn load(source: &Source, context: &Context) -> anyhow::Result<World> {
        match &source.folder {
            Some(folder) => World::of_folder(folder, &source.trust_domain),
            None => World::of_plane(context).await,
        }
    }

    pub(crate) fn of_folder(folder: &Path, trust_domain: &str) -> anyhow::Result<World> {
        let own = TrustDomain::parse(trust_domain).map_err(|error| anyhow!("--trust-domain: {error}"))?;
        let options = Options { trust_domain: Some(own.clone()), ..Options::default() };
        let registry = parse_folder(folder, &options).map_err(|errors| anyhow!("{errors}"))?;
        let services = registry.services().map(|service| {
            let ports = service.spec.ports.iter();
            let governed = Governed {
                ports: ports.map(|port| (port.name.to_string(), port.protocol)).collect(),
                documents: registry
                    .governing(&service.name)
                    .iter()
                    .map(PolicyDocument::canonical_json)
                    .collect(),
            };
            (service.name.clone(), governed)
        });
        let default_allow = registry.mesh().spec.default_action == DefaultAction::Allow;
        Ok(World { own, default_allow, services: services.collect() })
    }

    async fn of_plane(context: &Context) -> anyhow::Result<World> {
        let mut client = context.client().await?.max_decoding_message_size(MAX_ANSWER);
        let answer = client.list_policies(ListPoliciesRequest::default()).await;
        let answer = answer.map_err(|status| refused(&status))?.into_inner();
        let own =
            TrustDomain::parse(answer.trust_domain.as_str()).context("the control plane's trust domain")?;
        let mut services = BTreeMap::new();
        for service in answer.services {
            let name =
                service.service.parse().map_err(|error| anyhow!("the control plane's answer: {error}"))?;
            // What is no word of ours is decided as what is not declared.
            let protocol = |word: &str| {
                let all = [Protocol::Http1, Protocol::Http2, Protocol::Grpc, Protocol::Tcp];
                all.into_iter().find(|it| it.as_str() == word).unwrap_or(Protocol::Auto)
            };
            let ports = service.ports.iter().map(|(name, word)| (name.clone(), protocol(word))).collect();
            services.insert(name, Governed { ports, documents: service.documents });
        }
        Ok(World { own, default_allow: answer.default_allow, services })
    }

    /// The policies of this service; none where there is no such service.
    pub(crate) fn policies(&self, service: &ObjectName) -> Option<PolicySet> {
        let governed = self.services.get(service)?;
        let documents = governed.documents.iter().map(|json| {
            let name = PolicyDocument::from_json(json).map(|document| document.reported_name());
            (name.unwrap_or_else(|_| "a policy".into()), json)
        });
        Some(PolicySet::compile(&self.own, service, documents, self.default_allow))
    }

    /// The protocol of a port.
    pub(crate) fn port(&self, service: &ObjectName, port: &str) -> anyhow::Result<Protocol> {
        let Some(governed) = self.services.get(service) else {
            let known: Vec<String> = self.services.keys().map(ToString::to_string).collect();
            bail!("expected a service of the registry ({}), got `{service}`", known.join(", "));
        };
        governed.ports.get(port).copied().ok_or_else(|| {
            let known: Vec<&str> = governed.ports.keys().map(String::as_str).collect();
            anyhow!("expected a port of {service} ({}), got `{}`", known.join(", "), one_line(port))
        })
    }

    /// The only port of this service, if it has one only.
    pub(crate) fn only_port(&self, service: &ObjectName) -> Option<&str> {
        let ports = &self.services.get(service)?.ports;
        ports.keys().next().filter(|_| ports.len() == 1).map(String::as_str)
    }

    /// Every document once, by the name under which it is reported.
    fn documents(&self) -> BTreeMap<String, PolicyDocument> {
        let all = self.services.values().flat_map(|governed| &governed.documents);
        let read = all.filter_map(|json| PolicyDocument::from_json(json).ok());
        read.map(|document| (document.reported_name(), document)).collect()
    }
}

/// Whom forbids and guard rails spare, and until when.
#[derive(Args)]
pub(crate) struct Exceptions {
    #[command(flatten)]
    source: Source,
}

impl Exceptions {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let world = World::load(&self.source, context).await?;
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        let mut rows = Vec::new();
        for (name, document) in world.documents() {
            for exception in document.into_spec().into_iter().flat_map(|spec| spec.exceptions) {
                let from: Vec<String> = exception.from.workloads.iter().map(ToString::to_string).collect();
                rows.push((exception.until, name.clone(), from.join(", "), exception));
            }
        }
        rows.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let state = |until: signet_model::Moment| if until.unix() <= now { "over" } else { "in force" };
        let shown = rows.iter().map(|(until, name, from, exception)| {
            json!({"policy": name, "owner": exception.owner.as_str(), "reason": exception.reason.as_str(),
                "until": until.to_string(), "state": state(*until), "from": from})
        });
        context.show(shown.collect(), || {
            let cells = rows.iter().map(|(until, name, from, exception)| {
                let words = [
                    name.as_str(),
                    state(*until),
                    &until.to_string(),
                    from,
                    exception.owner.as_str(),
                    exception.reason.as_str(),
                ];
                words.map(str::to_owned).to_vec()
            });
            table(&["POLICY", "STATE", "UNTIL", "FROM", "OWNER", "REASON"], &cells.collect::<Vec<_>>())
        })
    }
}
