//! `docs/reference/annotations.md`: every label and annotation of ours.

use super::{MADE, cell, code};
use crate::inject::annotations::{ANNOTATIONS, Annotation};

/// A label or an annotation that is not a pod's own wish about its sidecar.
struct Mark {
    name: &'static str,
    /// On what, and whether it is a label or an annotation.
    on: &'static str,
    values: &'static str,
    meaning: &'static str,
}

const fn mark(name: &'static str, on: &'static str, values: &'static str, meaning: &'static str) -> Mark {
    Mark { name, on, values, meaning }
}

/// What people set.
#[rustfmt::skip] // One a line, as a table.
const SET: [Mark; 6] = [
    mark("signet.mesh/inject", "label of a namespace", "`enabled`", "Pods that are made from now on are injected."),
    mark("signet.mesh/inject", "label of a pod", "`enabled`, `disabled`", "This one is, in a namespace that does not ask for it, or is not. The API server chooses by labels whom it asks, so an annotation can only say no."),
    mark("signet.mesh/rev", "label of a namespace or a pod", "a revision", "Beside `signet.mesh/inject` at the same place: the control plane of this revision injects."),
    mark("signet.mesh/mesh-admin", "label of a namespace", "`true`", "Objects of this namespace may concern others. For whoever runs the mesh to set."),
    mark("signet.mesh/service-account", "annotation of a Gateway of the Gateway API", "the name of a service account", "The account that is the gateway. Without it the one of the Gateway's own name."),
    mark("prometheus.io/scrape", "annotation of a pod", "`true`", "With `prometheus.io/port` and `prometheus.io/path`: where the app's metrics are. Injection [takes them over](../kubernetes.md#metrics-of-the-app)."),
];

/// What the mesh writes.
#[rustfmt::skip] // One a line, as a table.
const WRITTEN: [Mark; 2] = [
    mark("signet.mesh/roots-number", "annotation of the ConfigMaps with the roots and of the webhook configurations", "the mesh and a number", "How often the roots had changed: older ones never take the place of newer ones."),
    mark("signet.mesh/config-sha256", "annotation of the control plane's pods, and of gateways'", "a hash", "Of their configuration, so that a change of it is a change of the pods."),
];

pub(super) fn page() -> String {
    let mut text = format!(
        "{MADE}# Labels and annotations\n\n\
         None of them sets an image, a user, a capability, or whom to trust. What they do is told in [kubernetes.md](../kubernetes.md).\n\n\
         ## Annotations of a pod\n\n\
         A value that cannot be acted on refuses the pod. Another annotation of `signet.mesh/` is answered with a warning.\n\n\
         | annotation | takes | default | meaning |\n| --- | --- | --- | --- |\n"
    );
    for known in ANNOTATIONS.iter().filter(|known| !known.written) {
        let Annotation { name, expected, default, meaning, .. } = known;
        text += &format!("| {} | {} | {} | {} |\n", code(name), cell(expected), cell(default), cell(meaning));
    }
    text += "\n## Written by injection\n\nNobody else can change them in a pod that has a sidecar.\n\n| annotation | meaning |\n| --- | --- |\n";
    for known in ANNOTATIONS.iter().filter(|known| known.written) {
        text += &format!("| {} | {} |\n", code(known.name), cell(known.meaning));
    }
    for (heading, marks) in [("On other objects", &SET[..]), ("Written by the mesh", &WRITTEN)] {
        text += &format!("\n## {heading}\n\n| name | on | value | meaning |\n| --- | --- | --- | --- |\n");
        for Mark { name, on, values, meaning } in marks {
            text += &format!("| {} | {} | {} | {} |\n", code(name), cell(on), cell(values), cell(meaning));
        }
    }
    text
}
