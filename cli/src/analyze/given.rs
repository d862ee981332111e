//! What is analyzed: objects of files, of a cluster, or of both.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde_json::{Value, json};
use signet_kubernetes::inject::template::places;
use signet_kubernetes::inject::{Namespace, Outcome, ProbeKey, SIDECAR, Settings, inject};
use signet_kubernetes::kinds::{KINDS, Kind, KindId};
use signet_kubernetes::translate::Snapshot;
use signet_kubernetes::translate::views::{INJECT, INJECTED, Object};

use super::codes;
use super::{Findings, shown};
use crate::cluster::{Kubectl, Trouble};

/// Where an object without a namespace goes.
const DEFAULT: &str = "default";

/// Stand for the webhook's: whether a pod is taken does not depend on them, but for the system's namespace.
const SETTINGS: &str = "
image: registry.example.com/signet-sidecar:0
redirectImage: registry.example.com/signet-redirect:0
bootstrapAddress: signet-control-plane.signet-system.svc:8443
meshAddress: signet-control-plane.signet-system.svc:8444
controlPlane: spiffe://example.com/ns/signet-system/sa/signet-control-plane
";

#[derive(Default)]
pub(super) struct Given {
    /// By kind, namespace and name, so that a file stands for what the cluster has of its name.
    objects: BTreeMap<(KindId, String, String), Value>,
    /// Pods and templates of files, which are to be looked at as the webhook would.
    templates: Vec<Template>,
}

struct Template {
    object: String,
    namespace: String,
    pod: Value,
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn kind_of(object: &Value) -> Option<&'static Kind> {
    let (version, kind) = (text(object, "/apiVersion"), text(object, "/kind"));
    let group = version.split_once('/').map_or("", |(group, _)| group);
    KINDS.iter().find(|it| it.group == group && it.kind == kind)
}

impl Given {
    pub(super) fn take_cluster(&mut self, kubectl: &Kubectl) -> anyhow::Result<()> {
        for kind in KINDS {
            let mut missing: Option<Trouble> = None;
            let mut found = None;
            for version in kind.versions {
                match kubectl.list(&kind.path(version), "") {
                    Ok(objects) => {
                        found = Some(objects);
                        break;
                    }
                    Err(error) if error.is_not_found() => missing = Some(error),
                    Err(error) => return Err(error).with_context(|| kind.long_name()),
                }
            }
            match (found, missing) {
                (Some(objects), _) => objects.into_iter().for_each(|object| self.put(kind, object)),
                (None, Some(error)) if kind.namespaced && kind.group.is_empty() => {
                    return Err(error).with_context(|| kind.long_name());
                }
                // A kind that the cluster does not have has no objects.
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn take_text(
        &mut self,
        name: &str,
        content: &str,
        findings: &mut Findings,
    ) -> anyhow::Result<()> {
        for value in crate::inject::values(content).with_context(|| name.to_owned())? {
            for place in places(&value) {
                if let Some(pod) = value.pointer(&place.pointer) {
                    let namespace = place.namespace.unwrap_or_else(|| DEFAULT.into());
                    self.templates.push(Template { object: place.object, namespace, pod: pod.clone() });
                }
            }
            self.take(value, findings);
        }
        Ok(())
    }

    /// An object, or each of a list.
    fn take(&mut self, mut object: Value, findings: &mut Findings) {
        if text(&object, "/kind").ends_with("List")
            && let Some(Value::Array(items)) = object.get_mut("items").map(Value::take)
        {
            return items.into_iter().for_each(|item| self.take(item, findings));
        }
        if let Some(kind) = kind_of(&object) {
            return self.put(kind, object);
        }
        let ours = [signet_kubernetes::kinds::SIGNET, signet_kubernetes::kinds::GATEWAY];
        if ours.iter().any(|group| text(&object, "/apiVersion").starts_with(&format!("{group}/"))) {
            let name = shown(
                text(&object, "/kind"),
                text(&object, "/metadata/namespace"),
                text(&object, "/metadata/name"),
            );
            findings.add(
                codes::UNREADABLE,
                name,
                "kind",
                "expected a kind that Signet knows; this one is not read",
            );
        }
    }

    fn put(&mut self, kind: &Kind, mut object: Value) {
        let name = text(&object, "/metadata/name").to_owned();
        let namespace = match (kind.namespaced, text(&object, "/metadata/namespace")) {
            (false, _) => "",
            (true, "") => DEFAULT,
            (true, given) => given,
        }
        .to_owned();
        // As the API server would fill it in.
        if let (true, Some(metadata)) =
            (kind.namespaced, object.get_mut("metadata").and_then(Value::as_object_mut))
        {
            metadata.insert("namespace".into(), namespace.as_str().into());
        }
        self.objects.insert((kind.id, namespace, name), object);
    }

    /// What files that stand by themselves leave unsaid: their namespaces are injected, their accounts exist, and each
    /// template has a pod.
    pub(super) fn suppose(&mut self) {
        let namespaced = self.objects.keys().filter(|(_, namespace, _)| !namespace.is_empty());
        let mut spaces: Vec<String> = namespaced.map(|(_, namespace, _)| namespace.clone()).collect();
        spaces.extend(self.templates.iter().map(|it| it.namespace.clone()));
        for space in spaces {
            let object = json!({"apiVersion": "v1", "kind": "Namespace",
                                "metadata": {"name": space, "labels": {INJECT: "enabled"}}});
            self.objects.entry((KindId::Namespace, String::new(), space)).or_insert(object);
        }
        let settings = settings();
        let mut made = Vec::new();
        for template in &self.templates {
            let account = match text(&template.pod, "/spec/serviceAccountName") {
                "" => "default",
                account => account,
            };
            let object = json!({"apiVersion": "v1", "kind": "ServiceAccount",
                                "metadata": {"name": account, "namespace": template.namespace}});
            made.push((KindId::ServiceAccount, template.namespace.clone(), account.to_owned(), object));
            let mut pod = template.pod.clone();
            let meshed = settings.as_ref().is_some_and(|settings| {
                let injects = self.injects(&template.namespace);
                let namespace = Namespace { name: template.namespace.clone(), injects };
                matches!(inject(&template.pod, &namespace, settings, &ProbeKey::new(0)), Outcome::Injected(_))
            });
            let name = template.object.replace(' ', "-").to_lowercase();
            let mut metadata = pod.get("metadata").cloned().unwrap_or_else(|| json!({}));
            if let Some(fields) = metadata.as_object_mut() {
                fields.insert("name".into(), name.as_str().into());
                fields.insert("namespace".into(), template.namespace.as_str().into());
            }
            if meshed {
                mark(&mut metadata, &mut pod);
            }
            let object =
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.get("spec")});
            made.push((KindId::Pod, template.namespace.clone(), name, object));
        }
        for (kind, namespace, name, object) in made {
            self.objects.entry((kind, namespace, name)).or_insert(object);
        }
    }

    fn injects(&self, namespace: &str) -> bool {
        let key = (KindId::Namespace, String::new(), namespace.to_owned());
        let labels = self.objects.get(&key).and_then(|it| it.pointer("/metadata/labels"));
        labels.and_then(|it| it.get(INJECT)).and_then(Value::as_str) == Some("enabled")
    }

    /// What translation reads; what it could not is a finding.
    pub(super) fn snapshot(&self, system: &str, findings: &mut Findings) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for ((kind, namespace, name), object) in &self.objects {
            match Object::read(*kind, object.clone()) {
                Ok(object) => drop(snapshot.put(*kind, object)),
                Err(error) => {
                    findings.add(codes::UNREADABLE, shown(kind.kind().kind, namespace, name), "", error);
                }
            }
            if *kind == KindId::Namespace {
                let label =
                    object.pointer("/metadata/labels").and_then(|it| it.get(INJECT)).and_then(Value::as_str);
                if let Some(label) = label.filter(|label| !matches!(*label, "enabled" | "disabled")) {
                    let field = "metadata.labels";
                    findings.add(
                        codes::LABEL,
                        shown("Namespace", "", name),
                        field,
                        format!("{INJECT}: {label}"),
                    );
                }
            }
        }
        self.pods(system, findings);
        snapshot
    }

    /// What the webhook would say of templates.
    fn pods(&self, system: &str, findings: &mut Findings) {
        let Some(mut settings) = settings() else { return };
        if let Ok(system) = system.parse() {
            settings.system_namespace = system;
        }
        for template in &self.templates {
            let namespace =
                Namespace { name: template.namespace.clone(), injects: self.injects(&template.namespace) };
            let (kind, name) = template.object.split_once(' ').unwrap_or(("Pod", &template.object));
            let object = shown(kind, &template.namespace, name);
            match inject(&template.pod, &namespace, &settings, &ProbeKey::new(0)) {
                Outcome::Refused(refusal) => {
                    findings.add(codes::POD_REFUSED, object, "", refusal.to_string())
                }
                Outcome::Injected(done) => {
                    for warning in done.warnings {
                        findings.add(codes::POD_WARNING, &object, "", warning);
                    }
                }
                Outcome::Skipped(_) => {}
            }
        }
    }
}

fn settings() -> Option<Settings> {
    signet_model::from_yaml(SETTINGS).ok()
}

/// As an injected pod looks to the registry.
fn mark(metadata: &mut Value, pod: &mut Value) {
    let annotations = metadata.as_object_mut().map(|it| it.entry("annotations").or_insert_with(|| json!({})));
    if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
        annotations.insert(INJECTED.into(), "true".into());
    }
    let spec = pod.get_mut("spec").and_then(Value::as_object_mut);
    let containers = spec.map(|it| it.entry("initContainers").or_insert_with(|| json!([])));
    if let Some(containers) = containers.and_then(Value::as_array_mut) {
        containers.push(json!({"name": SIDECAR, "restartPolicy": "Always"}));
    }
}
