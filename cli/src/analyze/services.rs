//! Services, and places outside: who is behind them, what their ports say, and who may go there.

use signet_kubernetes::kinds::KindId;
use signet_kubernetes::translate::views::{Content, CorePort, CoreService, Metadata};
use signet_model::WorkloadId;
use time::OffsetDateTime;

use super::{Findings, World, codes, shown};

pub(super) fn look(world: &World<'_>, findings: &mut Findings) {
    for object in world.snapshot.of(KindId::CoreService) {
        let Content::Service(service) = &object.content else { continue };
        endpoints(world, &object.metadata, service, findings);
        for (index, port) in service.ports.iter().enumerate() {
            words(&object.metadata, index, port, findings);
        }
    }
    permissive(world, findings);
    outside(world, findings);
    warnings(world, findings);
}

fn of(metadata: &Metadata) -> String {
    shown("Service", &metadata.namespace, &metadata.name)
}

/// Some of its pods have a sidecar and some have none.
fn endpoints(world: &World<'_>, metadata: &Metadata, service: &CoreService, findings: &mut Findings) {
    if service.selector.is_empty() {
        return;
    }
    let (mut meshed, mut plain) = (0_usize, Vec::new());
    for object in world.snapshot.of(KindId::Pod) {
        let Content::Pod(pod) = &object.content else { continue };
        let is_meant = object.metadata.namespace == metadata.namespace
            && !pod.ended
            && service.selector.iter().all(|(name, value)| pod.labels.get(name) == Some(value));
        match (is_meant, pod.meshed && !pod.host_network) {
            (true, true) => meshed = meshed.saturating_add(1),
            (true, false) => plain.push(object.metadata.name.as_str()),
            _ => {}
        }
    }
    if meshed > 0 && !plain.is_empty() {
        plain.truncate(5);
        let message = format!("{meshed} of its pods have a sidecar; without one: {}", plain.join(", "));
        findings.add(codes::NO_SIDECAR, of(metadata), "spec.selector", message);
    }
}

/// What is said about TLS in three places.
fn words(metadata: &Metadata, index: usize, port: &CorePort, findings: &mut Findings) {
    let first = |text: &str| text.split('-').next().unwrap_or_default().to_owned();
    let name = first(&port.name);
    let is_plain = |word: &str| {
        matches!(word, "http" | "http2" | "h2c" | "grpc" | "kubernetes.io/h2c" | "kubernetes.io/ws")
    };
    let is_tls = |word: &str| matches!(word, "https" | "tls");
    let app = port.app_protocol.as_str();
    let said = if is_tls(app) && is_plain(&name) {
        Some(format!(
            "the name `{}` says plaintext, appProtocol `{app}` says TLS: appProtocol counts",
            port.name
        ))
    } else if is_plain(app) && is_tls(&name) {
        Some(format!(
            "the name `{}` says TLS, appProtocol `{app}` says plaintext: appProtocol counts",
            port.name
        ))
    } else if matches!(port.port, 443 | 8443) && (is_plain(app) || (app.is_empty() && is_plain(&name))) {
        let word = if app.is_empty() { name.as_str() } else { app };
        Some(format!(
            "the number {} is for TLS, `{word}` says plaintext: an app's own TLS would be refused there",
            port.port
        ))
    } else if port.port == 80 && (is_tls(app) || (app.is_empty() && is_tls(&name))) {
        Some("the number 80 is for plaintext, and TLS is declared there".to_owned())
    } else {
        None
    };
    if let Some(said) = said {
        findings.add(codes::PORT_WORDS, of(metadata), &format!("spec.ports[{index}]"), said);
    }
}

fn permissive(world: &World<'_>, findings: &mut Findings) {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    for service in world.made.registry.services() {
        for (index, port) in service.spec.ports.iter().enumerate() {
            let Some(permissive) = port.permissive else { continue };
            let said = match permissive.until.unix() > now {
                true => format!("`{}` lets plaintext in until {}", port.name, permissive.until),
                false => format!("`{}` is strict again since {}", port.name, permissive.until),
            };
            let object = shown("Service", service.name.namespace.as_str(), service.name.name.as_str());
            findings.add(codes::PERMISSIVE, object, &format!("spec.ports[{index}].permissive"), said);
        }
    }
}

fn outside(world: &World<'_>, findings: &mut Findings) {
    let registry = &world.made.registry;
    for place in registry.external_services() {
        let object = shown("ExternalService", place.name.namespace.as_str(), place.name.name.as_str());
        let callers = registry.workloads().filter_map(|it| {
            format!("ns/{}/sa/{}", it.name.namespace, it.name.name).parse::<WorkloadId>().ok()
        });
        if !callers.into_iter().any(|caller| place.lets(&caller)) {
            findings.add(
                codes::EXTERNAL_NOBODY,
                &object,
                "spec.from",
                "no workload of the mesh is let there",
            );
        }
        for (index, port) in place.spec.ports.iter().enumerate() {
            let number = port.target_port.unwrap_or(port.port).get();
            let said = match (number, port.protocol.is_http(), port.tls.is_some()) {
                (443 | 8443, true, false) => "plaintext to a port that is for TLS",
                (80, _, true) => "TLS to a port that is for plaintext",
                _ => continue,
            };
            findings.add(codes::EXTERNAL_PLAIN, &object, &format!("spec.ports[{index}]"), said);
        }
    }
}

/// What translation says in words: ``Service `orders.shop`: …`` or ``Service `orders.shop` is none of the mesh: …``.
fn warnings(world: &World<'_>, findings: &mut Findings) {
    for warning in &world.made.warnings {
        let parts =
            warning.split_once('`').and_then(|(kind, rest)| Some((kind.trim(), rest.split_once('`')?)));
        let Some((kind, (name, said))) = parts else {
            findings.add(codes::OTHER, "", "", warning.clone());
            continue;
        };
        let (name, namespace) = name.split_once('.').unwrap_or((name, ""));
        let object = shown(kind, namespace, name);
        let said = said.trim_start_matches([':', ' ']);
        if said.contains("have no sidecar and are called by nobody") {
            findings.add(codes::NO_SIDECAR, object, "", said);
        } else if said.contains("is none of the mesh") {
            findings.add(codes::OUTSIDE, object, "", said);
        } else {
            findings.add(codes::OTHER, object, "", said);
        }
    }
}
