//! The control plane: its replicas, its certificates, what it complains about, and how it injects.

use serde_json::Value;
use signet_kubernetes::inject::Settings;
use signet_proto::v1::StatusRequest;
use time::OffsetDateTime;

use super::{Cluster, Level, Report, items, text};
use crate::cluster::charts::VERSION;
use crate::install::pod_says;

const NAME: &str = "signet-control-plane";
/// Rotation is ours to do long before: what is this near its end was not rotated.
const NEAR: i64 = 24 * 3600;

/// Looks, and gives the settings of injection where there are some.
pub(super) async fn look(cluster: &Cluster<'_>, report: &mut Report) -> Option<Settings> {
    let namespace = cluster.namespace;
    let own = match cluster.revision {
        "" => NAME.to_owned(),
        revision => format!("{NAME}-{revision}"),
    };
    let path = format!("/apis/apps/v1/namespaces/{namespace}/statefulsets/{own}");
    let set = match cluster.kubectl.find(&path) {
        Ok(Some(set)) => set,
        Ok(None) => {
            report.add(
                "control-plane",
                Level::Failure,
                format!("{namespace}/{own}"),
                "there is none",
                "`signet install`, or name another --namespace or --revision",
            );
            return None;
        }
        Err(error) => {
            report.unknown("control-plane", format!("{namespace}/{own}"), &error);
            return None;
        }
    };
    replicas(&set, &own, cluster, report);
    let config = configuration(cluster, &own, report);
    let ready = cluster.pods.iter().find(|pod| is_of(pod, &own) && is_ready(pod));
    match (ready, config.as_ref()) {
        (Some(pod), Some(config)) => status(cluster, pod, config, report).await,
        _ => report.unknown("certificates", &own, &"no replica is ready to be asked"),
    }
    mesh(cluster, report);
    let settings = config?.pointer("/webhook/injection")?.clone();
    match serde_json::from_value(settings) {
        Ok(settings) => Some(settings),
        Err(error) => {
            report.unknown("sidecars", "webhook.injection", &format!("{error}: another version wrote it"));
            None
        }
    }
}

fn is_of(pod: &Value, own: &str) -> bool {
    super::label(pod, "app.kubernetes.io/instance") == Some(own)
}

pub(super) fn is_ready(pod: &Value) -> bool {
    items(pod, "/status/conditions").any(|it| text(it, "/type") == "Ready" && text(it, "/status") == "True")
}

fn replicas(set: &Value, own: &str, cluster: &Cluster<'_>, report: &mut Report) {
    let number = |pointer: &str| set.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let (wanted, ready) = (number("/spec/replicas"), number("/status/readyReplicas"));
    let version = super::label(set, "app.kubernetes.io/version").unwrap_or("unknown");
    if ready >= wanted {
        report.ok("control-plane", own, format!("{ready} of {wanted} ready, version {version}"));
    } else {
        let pods = cluster.pods.iter().filter(|pod| is_of(pod, own));
        let words: Vec<String> = pods.flat_map(pod_says).collect();
        let level = if ready == 0 { Level::Failure } else { Level::Warning };
        let said = format!("{ready} of {wanted} ready {}", words.join("; "));
        report.add("control-plane", level, own, said.trim(), "kubectl describe pod, kubectl logs");
    }
    if version != VERSION {
        report.add(
            "version",
            Level::Warning,
            own,
            format!("the control plane is {version}, this program {VERSION}"),
            "use the program of the control plane's version, or `signet upgrade`",
        );
    }
}

fn configuration(cluster: &Cluster<'_>, own: &str, report: &mut Report) -> Option<Value> {
    let path = format!("/api/v1/namespaces/{}/configmaps/{own}", cluster.namespace);
    let map = match cluster.kubectl.get(&path) {
        Ok(map) => map,
        Err(error) => {
            report.unknown("control-plane", format!("ConfigMap {own}"), &error);
            return None;
        }
    };
    let read = map.pointer("/data/control-plane.yaml").and_then(Value::as_str);
    match read.map(serde_saphyr::from_str::<Value>) {
        Some(Ok(config)) => Some(config),
        _ => {
            report.unknown("control-plane", format!("ConfigMap {own}"), &"it has no control-plane.yaml");
            None
        }
    }
}

/// What it says of itself: by the way that was named, or by its own program in its pod.
async fn status(cluster: &Cluster<'_>, pod: &Value, config: &Value, report: &mut Report) {
    let context = cluster.context;
    let found = if context.socket.is_some() || context.login {
        asked(context).await
    } else {
        let socket = text(config, "/operator/socket");
        let container = text(pod, "/spec/containers/0/name");
        let command = ["/usr/bin/signet", "--socket", socket, "--json", "status"];
        let name = text(pod, "/metadata/name");
        let body = cluster.kubectl.exec(cluster.namespace, name, container, &command);
        body.map_err(anyhow::Error::from).and_then(|body| Ok(serde_json::from_slice(&body)?))
    };
    let found: Value = match found {
        Ok(found) => found,
        Err(error) => return report.unknown("certificates", "control plane", &format!("{error:#}")),
    };
    let now = OffsetDateTime::now_utc().unix_timestamp();
    for certificate in items(&found, "/certificates") {
        let role = text(certificate, "/role");
        let left = certificate.get("not_after").and_then(Value::as_i64).unwrap_or(0).saturating_sub(now);
        // What a replica has for itself lives an hour; roots and issuers are what rotation is for.
        let is_short = role.starts_with("control-plane");
        let level = match left {
            ..=0 => Level::Failure,
            ..NEAR if !is_short => Level::Warning,
            _ => Level::Ok,
        };
        let said = match left {
            ..=0 => format!("ended {} ago", length(left.saturating_neg())),
            _ => format!("{} left", length(left)),
        };
        let hint = "`signet ca status` says what the rotation waits for; docs/recovery.md, where every certificate has ended";
        report.add("certificates", level, role, said, hint);
    }
    for (field, level) in [("errors", Level::Failure), ("warnings", Level::Warning)] {
        let all: Vec<&str> = items(&found, &format!("/registry/{field}")).filter_map(Value::as_str).collect();
        if let Some(first) = all.first() {
            let said = format!("{} {field}, the first: {first}", all.len());
            report.add(
                "registry",
                level,
                "control plane",
                said,
                "`signet analyze` lists all of them with what helps",
            );
        }
    }
}

async fn asked(context: &crate::operator::Context) -> anyhow::Result<Value> {
    let status = context.client().await?.status(StatusRequest {}).await;
    let status = status.map_err(|it| crate::operator::refused(&it))?.into_inner();
    let certificates: Vec<Value> = status
        .certificates
        .iter()
        .map(|it| serde_json::json!({"role": it.role, "not_after": it.not_after}))
        .collect();
    Ok(serde_json::json!({
        "certificates": certificates,
        "registry": {"errors": status.registry_errors, "warnings": status.registry_warnings},
    }))
}

fn length(seconds: i64) -> String {
    match seconds {
        172_800.. => format!("{} days", seconds / 86_400),
        7_200.. => format!("{} hours", seconds / 3_600),
        _ => format!("{} minutes", seconds / 60),
    }
}

/// A mesh that lets in whatever no policy names says so here.
fn mesh(cluster: &Cluster<'_>, report: &mut Report) {
    let meshes = match cluster.kubectl.list("/apis/signet.mesh/v1alpha1/meshes", "") {
        Ok(meshes) => meshes,
        Err(error) if error.is_not_found() => return,
        Err(error) => return report.unknown("default-action", "Mesh", &error),
    };
    let open = meshes.iter().find(|it| text(it, "/spec/defaultAction") == "allow");
    match open {
        None => report.ok("default-action", "Mesh", "deny"),
        Some(mesh) => report.add(
            "default-action",
            Level::Warning,
            format!("Mesh {}", super::name_of(mesh)),
            "allow: whatever no policy names is let in",
            "write permits, see with `signet authz simulate` what would be refused, then set defaultAction: deny",
        ),
    }
    let space = own_namespace(cluster, report);
    if let Some(space) = space {
        report.ok("namespace", cluster.namespace, space);
    }
}

/// Whether the control plane's own namespace is one that nobody injects.
fn own_namespace(cluster: &Cluster<'_>, report: &mut Report) -> Option<&'static str> {
    let own = cluster.namespaces.iter().find(|it| text(it, "/metadata/name") == cluster.namespace)?;
    if super::label(own, "signet.mesh/inject").is_some() {
        report.add(
            "namespace",
            Level::Warning,
            cluster.namespace,
            "it has the label signet.mesh/inject, which does nothing here",
            "the control plane's own namespace is never injected: take the label off",
        );
        return None;
    }
    Some("is not injected")
}
