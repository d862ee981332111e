//! The containers, volumes and annotations themselves. Every field that the API server would fill in by itself is written
//! here, so that a pod which it stored compares as equal.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::annotations::Wishes;
use super::probes::Rewritten;
use super::scrape::Taken;
use super::settings::{Redirect, Settings};
use super::{CHECK, CONFIG, INJECTED, ORIGINALS, ProbeKey, REDIRECT, SIDECAR, name, object};

/// Where what the app dials is led.
const OUTBOUND_PORT: u16 = 15001;
/// Where what dials the app is led.
const INBOUND_PORT: u16 = 15006;
/// Where probes are answered for the app.
pub const PROBE_PORT: u16 = 15020;
/// Where the sidecar's own readiness and metrics are.
pub const READY_PORT: u16 = 15021;
/// Where captured DNS is led.
const DNS_PORT: u16 = 15053;
/// Nobody else in the pod can have them.
pub(super) const OUR_PORTS: [u16; 5] = [OUTBOUND_PORT, INBOUND_PORT, PROBE_PORT, READY_PORT, DNS_PORT];

const CONFIG_VOLUME: &str = "signet-config";
const IDENTITY_VOLUME: &str = "signet-identity";
const STATE_VOLUME: &str = "signet-state";
const NO_TOKEN_VOLUME: &str = "signet-no-token";
/// Only ours mount them.
pub(super) const VOLUMES: [&str; 4] = [CONFIG_VOLUME, IDENTITY_VOLUME, STATE_VOLUME, NO_TOKEN_VOLUME];

const CONFIG_FOLDER: &str = "/run/signet/config";
const IDENTITY_FOLDER: &str = "/run/signet/identity";
const STATE_FOLDER: &str = "/run/signet/state";
/// Where the API server mounts its own token into containers that have nothing there. Ours have no use for it.
const API_TOKEN_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const CONFIG_FILE: &str = "/run/signet/config/sidecar.yaml";

/// Adds everything to a pod that has nothing of it.
pub(super) fn add(
    pod: &mut Value,
    settings: &Settings,
    wishes: &Wishes,
    by: Redirect,
    key: &ProbeKey,
    probes: &Rewritten,
    scraped: &Taken,
) {
    let config = config(settings, wishes, key, probes, scraped).to_string();
    let budget = pod.pointer("/spec/resources").and_then(Value::as_object).is_some_and(|all| !all.is_empty());
    let Some(pod) = pod.as_object_mut() else { return };
    let metadata = object(pod, "metadata");
    if let Some(annotations) = metadata.and_then(|metadata| object(metadata, "annotations")) {
        annotations.insert(INJECTED.to_owned(), "true".into());
        annotations.insert(CONFIG.to_owned(), config.into());
        if !probes.originals.is_empty() {
            let originals = Value::Object(probes.originals.clone()).to_string();
            annotations.insert(ORIGINALS.to_owned(), originals.into());
        }
    }
    let Some(spec) = object(pod, "spec") else { return };
    let first = match by {
        Redirect::Init => redirect(settings, wishes, budget),
        Redirect::Cni => check(settings, wishes, budget, !probes.declared.is_empty()),
    };
    let ours = [first, sidecar(settings, wishes, budget)];
    array(spec, "initContainers", |list| drop(list.splice(0..0, ours)));
    array(spec, "volumes", |list| list.extend(volumes(settings)));
}

/// Keeps the volumes in the order in which they came: the API server puts its own behind ours.
pub(super) fn keep_order(made: &mut Value, before: &Value) {
    let order: Vec<&str> = super::list(before, "volumes").iter().map(name).collect();
    let volumes = made.pointer_mut("/spec/volumes").and_then(Value::as_array_mut);
    if let Some(volumes) = volumes {
        let place = |volume: &Value| order.iter().position(|known| *known == name(volume));
        volumes.sort_by_key(|volume| place(volume).unwrap_or(usize::MAX));
    }
}

fn array(spec: &mut Map<String, Value>, field: &str, change: impl FnOnce(&mut Vec<Value>)) {
    let value = spec.entry(field).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Array(Vec::new());
    }
    if let Some(list) = value.as_array_mut() {
        change(list);
    }
}

fn config(
    settings: &Settings,
    wishes: &Wishes,
    key: &ProbeKey,
    probes: &Rewritten,
    scraped: &Taken,
) -> Value {
    let everywhere = |port: u16| json!([format!("0.0.0.0:{port}"), format!("[::]:{port}")]);
    let loopback = |port: u16| json!([format!("127.0.0.1:{port}"), format!("[::1]:{port}")]);
    let serves = if wishes.serves.is_empty() { json!(["*"]) } else { json!(wishes.serves) };
    let mut metrics = json!({"listen": format!("[::]:{READY_PORT}")});
    if let (Some((port, path)), Some(metrics)) = (&scraped.app, metrics.as_object_mut()) {
        metrics.insert("app".to_owned(), json!({"port": port, "path": path}));
    }
    let mut config = json!({
        "role": "sidecar",
        "identity": {"kubernetes": {
            "tokenFile": format!("{IDENTITY_FOLDER}/token"),
            "rootsFile": format!("{IDENTITY_FOLDER}/roots.pem"),
            "bootstrapAddress": settings.bootstrap_address,
            "meshAddress": settings.mesh_address,
            "controlPlane": settings.control_plane.to_string(),
        }},
        "dataDir": format!("{STATE_FOLDER}/data"),
        "transparent": {"outbound": loopback(OUTBOUND_PORT), "inbound": everywhere(INBOUND_PORT), "serves": serves},
        "admin": {"socket": format!("{STATE_FOLDER}/data/admin.sock")},
        "metrics": metrics,
        "drainSeconds": wishes.drain_seconds.unwrap_or(settings.drain_seconds),
        "log": {"format": "json", "level": wishes.log_level.as_ref().unwrap_or(&settings.log_level)},
    });
    let mut more = Vec::new();
    if dns(settings, wishes) {
        more.push(("dns", json!({"listen": loopback(DNS_PORT), "clusterDomain": settings.cluster_domain})));
    }
    if let Some(workers) = wishes.workers {
        more.push(("workers", workers.into()));
    }
    if wishes.attach {
        more.push(("userContext", json!({"attach": true})));
    }
    if !probes.declared.is_empty() {
        let listen = format!("[::]:{PROBE_PORT}");
        more.push(("probes", json!({"listen": listen, "key": key.0, "declared": probes.declared})));
    }
    if let Some(config) = config.as_object_mut() {
        config.extend(more.into_iter().map(|(field, value)| (field.to_owned(), value)));
    }
    config
}

fn mount(volume: &str, folder: &str, read_only: bool) -> Value {
    match read_only {
        true => json!({"name": volume, "mountPath": folder, "readOnly": true}),
        false => json!({"name": volume, "mountPath": folder}),
    }
}

/// The options for what goes past the sidecar: these ports of the pod, and what its owner named elsewhere.
fn excluded(inbound: &[(u16, u16)], wishes: &Wishes) -> Vec<String> {
    let port = |(first, last): &(u16, u16)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    let ports = |ports: &[(u16, u16)]| ports.iter().map(port).collect::<Vec<_>>();
    let mut options = Vec::new();
    for (option, values) in [
        ("--exclude-inbound-ports", ports(inbound)),
        ("--exclude-outbound-ports", ports(&wishes.exclude_outbound)),
        ("--exclude-outbound-ranges", wishes.exclude_ranges.clone()),
    ] {
        if !values.is_empty() {
            options.extend([option.to_owned(), values.join(",")]);
        }
    }
    options
}

/// Proves that the CNI agent did what [`redirect`] would do. Its command says all of that by itself, since the agent goes by
/// it: a container's command stays as it is for good, and an annotation does not.
fn check(settings: &Settings, wishes: &Wishes, budget: bool, probes: bool) -> Value {
    let uid = settings.uid.to_string();
    let mut command = ["signet-sidecar", "redirect", "verify", "--uid", &uid].map(str::to_owned).to_vec();
    if dns(settings, wishes) {
        command.extend(["--dns", "capture"].map(str::to_owned));
    }
    let mut inbound = wishes.exclude_inbound.clone();
    let direct = [Some(READY_PORT), probes.then_some(PROBE_PORT)];
    for port in direct.into_iter().flatten().filter(|port| !wishes.exclude_inbound.contains(&(*port, *port)))
    {
        inbound.push((port, port));
    }
    command.extend(excluded(&inbound, wishes));
    json!({
        "name": CHECK,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": command,
        "resources": small(budget),
        // The rule by which it is proved is about the sidecar's user.
        "securityContext": unprivileged(settings),
        "volumeMounts": [mount(NO_TOKEN_VOLUME, API_TOKEN_FOLDER, true)],
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}

/// Of what runs once, before anything of the app's.
fn small(budget: bool) -> Value {
    match budget {
        true => json!({}),
        false => json!({"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}}),
    }
}

/// The sidecar's user, and nothing that the level `restricted` of Pod Security refuses.
fn unprivileged(settings: &Settings) -> Value {
    json!({
        "runAsUser": settings.uid,
        "runAsGroup": settings.uid,
        "runAsNonRoot": true,
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

fn dns(settings: &Settings, wishes: &Wishes) -> bool {
    wishes.dns.unwrap_or(settings.dns_capture)
}

fn redirect(settings: &Settings, wishes: &Wishes, budget: bool) -> Value {
    let uid = settings.uid.to_string();
    let mut command = ["signet-sidecar", "redirect", "apply", "--uid", &uid, "--config", CONFIG_FILE]
        .map(str::to_owned)
        .to_vec();
    command.extend(excluded(&wishes.exclude_inbound, wishes));
    json!({
        "name": REDIRECT,
        "image": settings.redirect_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": command,
        "resources": small(budget),
        // Capabilities are root's alone, even where they are added; it runs once, before anything of the app's.
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [mount(CONFIG_VOLUME, CONFIG_FOLDER, true), mount(NO_TOKEN_VOLUME, API_TOKEN_FOLDER, true)],
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}

fn sidecar(settings: &Settings, wishes: &Wishes, budget: bool) -> Value {
    json!({
        "name": SIDECAR,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "restartPolicy": "Always",
        "command": ["signet-sidecar", "--config", CONFIG_FILE],
        "ports": [{"name": "signet-metrics", "containerPort": READY_PORT, "protocol": "TCP"}],
        "resources": resources(settings, wishes, budget),
        // It has its certificate and its policy, or nothing of the app starts.
        "startupProbe": {
            "httpGet": {"path": "/ready", "port": READY_PORT, "scheme": "HTTP"},
            "periodSeconds": 1,
            "timeoutSeconds": 1,
            "successThreshold": 1,
            "failureThreshold": 600,
        },
        "securityContext": unprivileged(settings),
        "volumeMounts": [
            mount(CONFIG_VOLUME, CONFIG_FOLDER, true),
            mount(IDENTITY_VOLUME, IDENTITY_FOLDER, true),
            mount(STATE_VOLUME, STATE_FOLDER, false),
            mount(NO_TOKEN_VOLUME, API_TOKEN_FOLDER, true),
        ],
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}

/// A pod that has a budget for all of its containers together is not asked for more than it has.
fn resources(settings: &Settings, wishes: &Wishes, budget: bool) -> Value {
    let of = |defaults: &BTreeMap<String, String>, cpu: &Option<String>, memory: &Option<String>| {
        let mut all = if budget { BTreeMap::new() } else { defaults.clone() };
        all.extend(
            [("cpu", cpu), ("memory", memory)]
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))),
        );
        all
    };
    let requests = of(&settings.resources.requests, &wishes.cpu_request, &wishes.memory_request);
    let limits = of(&settings.resources.limits, &wishes.cpu_limit, &wishes.memory_limit);
    let mut both = Map::new();
    for (field, all) in [("requests", requests), ("limits", limits)] {
        if !all.is_empty() {
            both.insert(field.to_owned(), json!(all));
        }
    }
    Value::Object(both)
}

fn volumes(settings: &Settings) -> [Value; 4] {
    let field = format!("metadata.annotations['{CONFIG}']");
    [
        json!({"name": CONFIG_VOLUME, "downwardAPI": {"defaultMode": 420, "items": [
            {"path": "sidecar.yaml", "fieldRef": {"apiVersion": "v1", "fieldPath": field}},
        ]}}),
        json!({"name": IDENTITY_VOLUME, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {
                "audience": settings.audience,
                "expirationSeconds": settings.token_seconds,
                "path": "token",
            }},
            {"configMap": {
                "name": settings.roots_config_map,
                "items": [{"key": "roots.pem", "path": "roots.pem"}],
            }},
        ]}}),
        json!({"name": STATE_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}),
        json!({"name": NO_TOKEN_VOLUME, "emptyDir": {"sizeLimit": "1Mi"}}),
    ]
}
