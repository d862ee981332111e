//! The webhooks: that they are there, fail closed, and are who their `caBundle` says, by a handshake.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use signet_kubernetes::inject::{REDIRECT, SIDECAR};

use super::{Cluster, Level, Report, items, name_of, planes, text};
use crate::cluster::kubectl::escaped;

const KINDS: [&str; 2] = ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"];
const LIMIT: Duration = Duration::from_secs(10);

/// Looks, and gives the roots that the API server goes by (PEM).
pub(super) async fn look(cluster: &Cluster<'_>, report: &mut Report) -> Option<String> {
    let query = format!("labelSelector={}", escaped("app.kubernetes.io/part-of=signet"));
    let mut roots = None;
    let (mut any, mut injects) = (false, false);
    for kind in KINDS {
        let path = format!("/apis/admissionregistration.k8s.io/v1/{kind}");
        let all = match cluster.kubectl.list(&path, &query) {
            Ok(all) => all,
            Err(error) => {
                report.unknown("webhook", kind, &error);
                continue;
            }
        };
        for hooks in all.iter().filter(|it| is_ours(it, cluster)) {
            any = true;
            injects |= kind == KINDS[0] && name_of(hooks) == injector(cluster);
            let found = configuration(cluster, hooks, report).await;
            roots = roots.or(found);
        }
    }
    if !any {
        report.add(
            "webhook",
            Level::Warning,
            cluster.namespace,
            "there is none: pods become members of the mesh by `signet inject` only",
            "the chart's value webhook.enabled",
        );
    }
    if injects {
        admission(cluster, report);
    }
    roots
}

/// What the chart calls the configuration of this control plane.
fn injector(cluster: &Cluster<'_>) -> String {
    let dotted = |revision: &str| if revision.is_empty() { String::new() } else { format!(".{revision}") };
    format!("signet-injector.{}{}", cluster.namespace, dotted(cluster.revision))
}

/// Where a pod would be made.
const TRIED: &str = "default";

/// A pod that asks to be injected, as far as the API server goes with it and no further: a handshake through kubectl says
/// nothing of the API server's own way to the webhook.
fn admission(cluster: &Cluster<'_>, report: &mut Report) {
    let mut labels = json!({"signet.mesh/inject": "enabled"});
    if !cluster.revision.is_empty() {
        labels["signet.mesh/rev"] = cluster.revision.into();
    }
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "signet-check-", "namespace": TRIED, "labels": labels},
        // What the strictest policy asks of pods.
        "spec": {
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "app", "image": "signet-check.invalid/none",
                "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "10m", "memory": "8Mi"}},
                "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                                    "capabilities": {"drop": ["ALL"]}},
            }],
        },
    });
    let path = format!("/api/v1/namespaces/{TRIED}/pods?dryRun=All");
    let subject = format!("a pod in {TRIED}, tried");
    match cluster.kubectl.create(&path, pod.to_string().as_bytes()) {
        Ok(made) => {
            let has = |field| items(&made, field).any(|it| text(it, "/name") == SIDECAR);
            if has("/spec/initContainers") || has("/spec/containers") {
                return report.ok("admission", subject, "the API server reaches the webhook, which injects");
            }
            report.add(
                "admission",
                Level::Failure,
                subject,
                format!("expected the container {SIDECAR} in it, found none: pods come in without a sidecar"),
                "the selectors of the MutatingWebhookConfiguration: `signet upgrade` puts them right",
            );
        }
        Err(error) => {
            let said = error.to_string();
            // It was asked, and somebody after it minds what it added.
            if said.contains(REDIRECT) {
                return report.add(
                    "admission",
                    Level::Warning,
                    subject,
                    format!("the API server reaches the webhook, which injects; Pod Security forbids what it adds: {said}"),
                    "for namespaces where that is so: injection.redirect: cni with cni.enabled",
                );
            }
            if !said.contains("signet.mesh") {
                // Others' rules about pods, or about who makes some.
                return report.unknown("admission", subject, &said);
            }
            let hint = match said.contains("failed calling webhook") {
                true => {
                    "the way from the API server to port 9443 of the control plane's pods: network policies (networkPolicy.apiServerCidrs), security groups and firewalls between control plane and nodes; where the API server cannot reach addresses of pods (an overlay of one's own on a managed cluster), the chart's value hostNetwork"
                }
                false => "the control plane's log (signet::webhook) says why it refuses",
            };
            report.add("admission", Level::Failure, subject, said, hint);
        }
    }
}

fn is_ours(hooks: &Value, cluster: &Cluster<'_>) -> bool {
    let is_here = |it: &Value| text(it, "/clientConfig/service/namespace") == cluster.namespace;
    items(hooks, "/webhooks").any(is_here)
}

async fn configuration(cluster: &Cluster<'_>, hooks: &Value, report: &mut Report) -> Option<String> {
    let name = name_of(hooks);
    let mut bundle = None;
    for hook in items(hooks, "/webhooks") {
        let hook_name = text(hook, "/name");
        // Of objects of ours the registry says itself what is wrong; what makes members must not come in unseen.
        let is_about_pods = items(hook, "/rules").any(|rule| {
            items(rule, "/resources")
                .any(|it| it.as_str().is_some_and(|it| it.split('/').next() == Some("pods")))
        });
        if is_about_pods && text(hook, "/failurePolicy") != "Fail" {
            report.add(
                "webhook",
                Level::Failure,
                format!("{name}: {hook_name}"),
                "failurePolicy: expected Fail; what it does not look at comes in",
                "`signet upgrade` puts it right",
            );
        }
        let encoded = text(hook, "/clientConfig/caBundle");
        let decoded = base64::engine::general_purpose::STANDARD.decode(encoded);
        match decoded.ok().and_then(|it| String::from_utf8(it).ok()).filter(|it| !it.is_empty()) {
            Some(pem) => bundle = Some((hook.clone(), pem)),
            None => report.add(
                "webhook",
                Level::Failure,
                format!("{name}: {hook_name}"),
                "caBundle: expected the mesh's roots, got none: no pod that asks for injection can be made",
                "the control plane writes it within half a minute; its log (signet::webhook) says why it does not",
            ),
        }
    }
    let (hook, pem) = bundle?;
    match served(cluster, &hook, &pem).await {
        Ok(said) => report.ok("webhook", name, said),
        Err(Seen::Wrong(why)) => report.add(
            "webhook",
            Level::Failure,
            name,
            format!("what it serves is not what its caBundle says: {why}"),
            "kubectl rollout restart of the control plane; its log (signet::webhook) says what it publishes",
        ),
        Err(Seen::Unseen(error)) => report.unknown("webhook", name, &format!("{error:#}")),
    }
    Some(pem)
}

enum Seen {
    Wrong(String),
    Unseen(anyhow::Error),
}

impl From<anyhow::Error> for Seen {
    fn from(error: anyhow::Error) -> Self {
        Seen::Unseen(error)
    }
}

/// A handshake as the API server makes it, through a forwarded port.
async fn served(cluster: &Cluster<'_>, hook: &Value, pem: &str) -> Result<String, Seen> {
    let (namespace, service) =
        (text(hook, "/clientConfig/service/namespace"), text(hook, "/clientConfig/service/name"));
    let number = hook.pointer("/clientConfig/service/port").and_then(Value::as_u64).unwrap_or(443);
    let found = cluster.kubectl.get(&format!("/api/v1/namespaces/{namespace}/services/{service}"));
    let found = found.map_err(anyhow::Error::from)?;
    let selector = found.pointer("/spec/selector").and_then(Value::as_object).cloned().unwrap_or_default();
    let is_meant = |pod: &&Value| {
        text(pod, "/metadata/namespace") == namespace
            && !selector.is_empty()
            && selector.iter().all(|(name, value)| super::label(pod, name) == value.as_str())
    };
    let pod = cluster.pods.iter().filter(is_meant).find(|pod| planes::is_ready(pod));
    let pod = pod.ok_or_else(|| anyhow!("no pod behind the Service {namespace}/{service} is ready"))?;
    let port = items(&found, "/spec/ports").find(|it| it.get("port").and_then(Value::as_u64) == Some(number));
    let port = port.and_then(|port| target(port, pod, number));
    let port =
        port.ok_or_else(|| anyhow!("the Service {namespace}/{service} has no port {number} of its pod"))?;
    let forward = cluster.kubectl.forward(namespace, text(pod, "/metadata/name"), port).await?;
    let host = format!("{service}.{namespace}.svc");
    let tcp = tokio::net::TcpStream::connect(forward.address).await.context("the forwarded port")?;
    let config = trusting(pem).map_err(Seen::Wrong)?;
    let name = ServerName::try_from(host.clone()).map_err(|error| anyhow!("{host}: {error}"))?;
    let connector = tokio_rustls::TlsConnector::from(config);
    match tokio::time::timeout(LIMIT, connector.connect(name, tcp)).await {
        Err(_) => Err(Seen::Unseen(anyhow!("no handshake within {} s", LIMIT.as_secs()))),
        Ok(Ok(_)) => Ok(format!("serves {host} by its caBundle")),
        // The certificate is what is asked here; whatever else goes wrong on the way says nothing about it.
        Ok(Err(error)) => match error.get_ref().and_then(|it| it.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(why)) => Err(Seen::Wrong(format!("{why:?}"))),
            _ => Err(Seen::Unseen(anyhow!("{error}"))),
        },
    }
}

/// The pod's port behind a port of a Service.
fn target(port: &Value, pod: &Value, number: u64) -> Option<u16> {
    let number = match port.get("targetPort") {
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(name)) => items(pod, "/spec/containers")
            .flat_map(|it| items(it, "/ports"))
            .find(|it| text(it, "/name") == name)
            .and_then(|it| it.get("containerPort"))
            .and_then(Value::as_u64),
        _ => Some(number),
    };
    number.and_then(|it| it.try_into().ok())
}

fn trusting(pem: &str) -> Result<Arc<rustls::ClientConfig>, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("caBundle: {error}"))?;
        roots.add(certificate).map_err(|error| format!("caBundle: {error}"))?;
    }
    let config = rustls::ClientConfig::builder_with_provider(signet_identity::crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
