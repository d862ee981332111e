//! `signet uninstall`: everything that an install and the control plane itself have made, and nothing else.
//!
//! What cannot be made again is kept unless it is named: `--purge-resources` for everybody's policies, `--purge-keys` for
//! the mesh's authority. The webhook goes first, so that no pod waits for a control plane that is on its way out.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use serde_json::Value;
use tokio::time::Instant;

use super::plan::documents;
use super::{MANAGED_BY, OURSELVES, Release, seal};
use crate::cluster::Kubectl;
use crate::cluster::charts::CRDS;
use crate::cluster::helm::Helm;
use crate::cluster::kubectl::escaped;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WEBHOOKS: [&str; 2] = ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"];
/// By which the control plane marks the ConfigMaps with roots.
const MANAGER: &str = "signet-control-plane";
/// The DaemonSet of the CNI agent.
const AGENT: &str = "signet-cni";
/// The ConfigMap with roots of each namespace; with a revision `-REVISION` follows.
const ROOTS: &str = "signet-roots";
/// The chart's Secret where no release says another.
const SEAL: &str = "signet-seal";
/// As long as pods may take to end.
const GOING: Duration = Duration::from_secs(120);

/// Take the control plane out of a cluster.
#[derive(Args, Clone, Debug)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    release: Release,
    /// Also remove the definitions of resources, and with them every policy and other object of signet.mesh of everybody.
    #[arg(long)]
    purge_resources: bool,
    /// Also remove the seal key and the volumes of the control plane. No copy of them is left in the cluster, and none of
    /// the mesh's authority.
    #[arg(long)]
    purge_keys: bool,
    /// List what would be removed, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

/// One thing, and its path at the API server.
struct Thing {
    name: String,
    path: String,
}

/// What is there.
struct Found {
    /// The release, and its objects for the list.
    release: Option<String>,
    objects: Vec<String>,
    /// Control planes besides this one: what they share with it stays.
    others: Vec<String>,
    webhooks: Vec<Thing>,
    /// Made by the control plane while it ran.
    made: Vec<Thing>,
    keys: Vec<Thing>,
    definitions: Vec<(Thing, usize)>,
    /// Of the definitions' chart.
    definitions_release: bool,
    namespace: Option<Thing>,
    /// Pods that still have a sidecar, as `namespace/pod`.
    pods: Vec<String>,
    /// Namespaces whose pods are injected.
    namespaces: Vec<String>,
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

impl Uninstall {
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let helm = Helm::new(&self.release.helm, &self.release.access)?;
        let kubectl = self.release.access.kubectl();
        let found = self.look(&helm, &kubectl)?;
        crate::operator::print(&self.list(&found))?;
        if self.dry_run {
            eprintln!("signet: nothing was removed.");
            return Ok(());
        }
        self.confirm()?;
        self.remove(&helm, &kubectl, found).await
    }

    fn control_plane(&self) -> String {
        match self.release.revision.as_str() {
            "" => MANAGER.to_owned(),
            revision => format!("{MANAGER}-{revision}"),
        }
    }

    fn look(&self, helm: &Helm, kubectl: &Kubectl) -> anyhow::Result<Found> {
        let namespace = &self.release.access.namespace;
        let (own, release) = (self.control_plane(), self.release.name());
        let is_there = helm.status(&release)?.is_some();
        let objects = if is_there { documents(&helm.manifest(&release)?)? } else { Vec::new() };
        let query = format!("labelSelector={}", escaped("app.kubernetes.io/name=signet-control-plane"));
        let others = kubectl.list("/apis/apps/v1/statefulsets", &query)?;
        let is_another = |it: &&Value| name_of(it) != format!("{namespace}/{own}");
        let in_use = |it: &Value| Some(format!("{}/{}", text(it, "/metadata/namespace"), seal_of(it)?));
        let in_use: Vec<String> = others.iter().filter(is_another).filter_map(in_use).collect();
        let others: Vec<String> = others.iter().filter(is_another).map(name_of).collect();
        let mut webhooks = Vec::new();
        let mine = format!("labelSelector={}", escaped(&format!("app.kubernetes.io/instance={own}")));
        for kind in WEBHOOKS {
            let path = format!("/apis/admissionregistration.k8s.io/v1/{kind}");
            for hook in kubectl.list(&path, &mine)? {
                let is_of_us = hook.pointer("/webhooks/0/clientConfig/service/namespace").is_none()
                    || text(&hook, "/webhooks/0/clientConfig/service/namespace") == namespace;
                if is_of_us {
                    webhooks.push(Thing::new(kind, &path, &hook));
                }
            }
        }
        let made = self.made(kubectl, others.is_empty())?;
        let keys = self.keys(kubectl, &objects, &in_use)?;
        let definitions = if others.is_empty() { definitions(kubectl)? } else { Vec::new() };
        let (pods, namespaces) = meshed(kubectl)?;
        let space = kubectl.find(&format!("/api/v1/namespaces/{namespace}"))?;
        let is_ours = |it: &Value| {
            it.pointer("/metadata/labels").and_then(|it| it.get(MANAGED_BY)) == Some(&OURSELVES.into())
        };
        let space = space.filter(|it| is_ours(it) && others.is_empty());
        Ok(Found {
            release: is_there.then_some(release),
            objects: objects.iter().map(|it| format!("{} {}", text(it, "/kind"), name_of(it))).collect(),
            definitions_release: helm.status(CRDS)?.is_some(),
            namespace: space.map(|it| Thing::new("namespace", "/api/v1/namespaces", &it)),
            others,
            webhooks,
            made,
            keys,
            definitions,
            pods,
            namespaces,
        })
    }

    /// The seal key, unless another control plane has it, and the volumes with what it seals.
    fn keys(&self, kubectl: &Kubectl, objects: &[Value], in_use: &[String]) -> anyhow::Result<Vec<Thing>> {
        let namespace = &self.release.access.namespace;
        let seal = objects.iter().find_map(seal_of).unwrap_or_else(|| SEAL.to_owned());
        let mut keys = Vec::new();
        let mut key = |kind: &str, resource: &str, name: &str| {
            let path = format!("/api/v1/namespaces/{namespace}/{resource}/{name}");
            keys.push(Thing { name: format!("{kind} {namespace}/{name}"), path });
        };
        if !in_use.contains(&format!("{namespace}/{seal}")) && seal::exists(kubectl, namespace, &seal)? {
            key("Secret", "secrets", &seal);
        }
        for claim in seal::claims(kubectl, namespace, &self.control_plane())? {
            key("PersistentVolumeClaim", "persistentvolumeclaims", &claim);
        }
        Ok(keys)
    }

    /// What the control plane makes while it runs: the roots of each namespace, under a name of its own, and the Lease that
    /// control planes share. The last one's uninstall also takes what earlier ones left.
    fn made(&self, kubectl: &Kubectl, is_last: bool) -> anyhow::Result<Vec<Thing>> {
        let mut made = Vec::new();
        let roots = match self.release.revision.as_str() {
            "" => ROOTS.to_owned(),
            revision => format!("{ROOTS}-{revision}"),
        };
        let query = format!("labelSelector={}", escaped(&format!("{MANAGED_BY}={MANAGER}")));
        for map in kubectl.list("/api/v1/configmaps", &query)? {
            if map.pointer("/data/roots.pem").is_some() && (is_last || text(&map, "/metadata/name") == roots)
            {
                let path = format!("/api/v1/namespaces/{}/configmaps", text(&map, "/metadata/namespace"));
                made.push(Thing::new("ConfigMap", &path, &map));
            }
        }
        let namespace = &self.release.access.namespace;
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
        if is_last && let Some(lease) = kubectl.find(&format!("{path}/{MANAGER}"))? {
            made.push(Thing::new("Lease", &path, &lease));
        }
        Ok(made)
    }

    fn list(&self, found: &Found) -> String {
        let mut lines: Vec<String> = Vec::new();
        let mut part = |title: &str, all: Vec<String>| {
            if !all.is_empty() {
                lines.push(title.to_owned());
                lines.extend(all.into_iter().map(|line| format!("  {line}")));
            }
        };
        let names = |all: &[Thing]| all.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
        let counted = |all: &[(Thing, usize)]| {
            all.iter().map(|(it, count)| format!("{} ({count} objects)", it.name)).collect::<Vec<_>>()
        };
        match &found.release {
            Some(release) => part(&format!("removed, the release {release}:"), found.objects.clone()),
            None => part("removed:", vec!["no release, only what is left of one".into()]),
        }
        part("removed first:", names(&found.webhooks));
        part("removed, made by the control plane:", names(&found.made));
        let keys = if self.purge_keys { "removed, for ever:" } else { "kept, without --purge-keys:" };
        part(keys, names(&found.keys));
        let all = if self.purge_resources {
            "removed, with the objects of everybody:"
        } else {
            "kept, without --purge-resources:"
        };
        part(all, counted(&found.definitions));
        if let Some(namespace) = found.namespace.as_ref().filter(|_| self.purge_keys) {
            part("removed, if nothing else is in it:", vec![namespace.name.clone()]);
        }
        part(
            "kept, since other control planes need what they share (definitions, the Lease):",
            found.others.clone(),
        );
        part(
            "WARNING: these pods still have a sidecar. It goes on until its certificate ends, an hour at most, and then refuses everything. Take the label signet.mesh/inject off their namespaces and restart them, before or right after:",
            found.pods.clone(),
        );
        part(
            "still labelled signet.mesh/inject: enabled, so that a later install injects them:",
            found.namespaces.clone(),
        );
        lines.join("\n")
    }

    fn confirm(&self) -> anyhow::Result<()> {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            bail!("expected --yes, since nobody is there to be asked; --dry-run lists what would go");
        }
        eprint!("Remove all this? Type `yes`: ");
        std::io::stderr().flush()?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        match answer.trim() {
            "yes" => Ok(()),
            _ => bail!("nothing was removed"),
        }
    }

    async fn remove(&self, helm: &Helm, kubectl: &Kubectl, found: Found) -> anyhow::Result<()> {
        let namespace = &self.release.access.namespace;
        remove_all(kubectl, &found.webhooks)?;
        if let Some(release) = &found.release {
            helm.uninstall(release)?;
            eprintln!("signet: the release {release} was removed");
        }
        // While one runs it makes again what is removed here.
        self.gone(kubectl).await?;
        remove_all(kubectl, &self.made(kubectl, found.others.is_empty())?)?;
        if self.purge_keys {
            remove_all(kubectl, &found.keys)?;
        }
        if self.purge_resources && found.others.is_empty() {
            if found.definitions_release {
                helm.uninstall(CRDS)?;
            }
            for (definition, _) in &found.definitions {
                remove_all(kubectl, std::slice::from_ref(definition))?;
            }
        }
        if let (true, Some(space)) = (self.purge_keys, &found.namespace) {
            let left = left_in(kubectl, namespace)?;
            match left.is_empty() {
                true => remove_all(kubectl, std::slice::from_ref(space))?,
                false => {
                    eprintln!("signet: the namespace {namespace} stays, since it has {}", left.join(", "))
                }
            }
        }
        Ok(())
    }

    /// Until no pod of the control plane runs, and no CNI agent: each takes its plugin away from its node when it ends.
    async fn gone(&self, kubectl: &Kubectl) -> anyhow::Result<()> {
        let own = self.control_plane();
        let namespace = &self.release.access.namespace;
        let selected = |label: &str| format!("labelSelector={}", escaped(label));
        let mut queries = vec![selected(&format!("app.kubernetes.io/instance={own}"))];
        // Another release may have the agent.
        if kubectl.find(&format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/{AGENT}"))?.is_none() {
            queries.push(selected(&format!("app.kubernetes.io/name={AGENT}")));
        }
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let end = Instant::now() + GOING;
        loop {
            let mut pods = Vec::new();
            for query in &queries {
                pods.extend(kubectl.list(&path, query)?);
            }
            if pods.is_empty() {
                return Ok(());
            }
            if Instant::now() >= end {
                let names: Vec<_> = pods.iter().map(name_of).collect();
                bail!(
                    "expected the pods of {own} to end within {} s, found {}: run `signet uninstall` again when they have",
                    GOING.as_secs(),
                    names.join(", ")
                );
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

impl Thing {
    fn new(kind: &str, path: &str, object: &Value) -> Self {
        let name = text(object, "/metadata/name");
        Self { name: format!("{kind} {}", name_of(object)), path: format!("{path}/{name}") }
    }
}

/// The Secret with the seal key that a StatefulSet of ours mounts.
fn seal_of(object: &Value) -> Option<String> {
    let volumes = object.pointer("/spec/template/spec/volumes")?.as_array()?;
    let seal = volumes.iter().find(|it| text(it, "/name") == "seal")?;
    Some(text(seal, "/secret/secretName").to_owned()).filter(|name| !name.is_empty())
}

/// `namespace/name`, or the name of what has no namespace.
fn name_of(object: &Value) -> String {
    match (text(object, "/metadata/namespace"), text(object, "/metadata/name")) {
        ("", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}

fn remove_all(kubectl: &Kubectl, things: &[Thing]) -> anyhow::Result<()> {
    for thing in things {
        if kubectl.delete(&thing.path)? {
            eprintln!("signet: {} was removed", thing.name);
        }
    }
    Ok(())
}

/// Ours, with how many objects there are of each.
fn definitions(kubectl: &Kubectl) -> anyhow::Result<Vec<(Thing, usize)>> {
    let mut all = Vec::new();
    for definition in kubectl.list(DEFINITIONS, "")? {
        if text(&definition, "/spec/group") != signet_kubernetes::kinds::SIGNET {
            continue;
        }
        let versions = definition.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten();
        let mut served =
            versions.filter(|it| it.get("served") == Some(&true.into())).map(|it| text(it, "/name"));
        let count = match served.next_back() {
            None => 0,
            Some(version) => {
                let path = format!("/apis/signet.mesh/{version}/{}", text(&definition, "/spec/names/plural"));
                match kubectl.list(&path, "") {
                    Ok(objects) => objects.len(),
                    Err(error) if error.is_not_found() => 0,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        all.push((Thing::new("CustomResourceDefinition", DEFINITIONS, &definition), count));
    }
    Ok(all)
}

/// Pods that run with a sidecar, and namespaces that ask for one.
fn meshed(kubectl: &Kubectl) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    use signet_kubernetes::kinds::KindId;
    use signet_kubernetes::translate::views::{Content, Object};
    let mut pods = Vec::new();
    for pod in kubectl.list("/api/v1/pods", "")? {
        let Ok(object) = Object::read(KindId::Pod, pod) else { continue };
        if let Content::Pod(pod) = &object.content
            && pod.meshed
            && !pod.ended
        {
            pods.push(format!("{}/{}", object.metadata.namespace, object.metadata.name));
        }
    }
    let query = format!("labelSelector={}", escaped("signet.mesh/inject=enabled"));
    let namespaces = kubectl.list("/api/v1/namespaces", &query)?;
    Ok((pods, namespaces.iter().map(name_of).collect()))
}

/// What a namespace has beside what every one has.
fn left_in(kubectl: &Kubectl, namespace: &str) -> anyhow::Result<Vec<String>> {
    let mut left = Vec::new();
    for (kind, group) in [
        ("pods", "/api/v1"),
        ("services", "/api/v1"),
        ("secrets", "/api/v1"),
        ("configmaps", "/api/v1"),
        ("persistentvolumeclaims", "/api/v1"),
        ("deployments", "/apis/apps/v1"),
        ("statefulsets", "/apis/apps/v1"),
    ] {
        for object in kubectl.list(&format!("{group}/namespaces/{namespace}/{kind}"), "")? {
            // What is on its way out, such as a claim whose pod has just ended, is not somebody's.
            let is_going = object.pointer("/metadata/deletionTimestamp").is_some();
            if text(&object, "/metadata/name") != "kube-root-ca.crt" && !is_going {
                left.push(format!("{kind}/{}", text(&object, "/metadata/name")));
            }
        }
    }
    Ok(left)
}
