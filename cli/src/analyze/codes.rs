//! Every message of `signet analyze`, by a code that stays: docs/analyze.md is compared with this table.

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Severity {
    Info,
    Warning,
    Error,
}

impl Severity {
    pub(super) fn word(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Code {
    pub(super) id: &'static str,
    pub(super) severity: Severity,
    /// What it says, in one line.
    pub(super) means: &'static str,
    /// What helps.
    pub(super) hint: &'static str,
}

macro_rules! codes {
    ($($name:ident = $id:literal, $severity:ident, $means:literal, $hint:literal;)*) => {
        $(pub(super) const $name: &Code =
            &Code { id: $id, severity: Severity::$severity, means: $means, hint: $hint };)*
        /// All of them.
        #[cfg(test)]
        pub(super) const ALL: &[&Code] = &[$($name),*];
    };
}

codes! {
    UNREADABLE = "SGN0001", Error, "An object cannot be read: a field that nobody knows, or a value of another form.", "The field and what was expected are in the message; docs/registry.md has every field.";
    UNRESOLVED = "SGN0002", Error, "An object does not go together with the others: what it names is not there, or another has the same.", "Make what it names, or take the reference out.";
    NOT_ADMIN = "SGN0003", Error, "An object says something of others in a namespace that may not.", "Move it to the control plane's namespace, or have whoever runs the mesh label the namespace signet.mesh/mesh-admin: \"true\".";
    WHEN = "SGN0004", Error, "A `when` would always err: it names what a request does not have, or compares what cannot be compared.", "docs/policy.md lists the attributes and their types.";
    BACKEND = "SGN0101", Error, "A route leads to a Service or port that the mesh does not have. Its share of the requests is refused.", "Name a Service of the mesh and one of its ports.";
    GRANT = "SGN0102", Error, "A route leads into another namespace, which has no ReferenceGrant for it. Its share of the requests is refused.", "A ReferenceGrant in the namespace of the Service.";
    SAME_MATCH = "SGN0103", Warning, "Two rules claim the same requests of the same parent: the later one gets none.", "Take one out, or tell them apart by path, method or headers.";
    NO_PARENT = "SGN0104", Warning, "A route belongs to no Service and no Gateway of the mesh: nobody is led by it.", "`parentRefs` with `kind: Service` and `group: \"\"`, of a Service whose pods have sidecars.";
    PARENT_REFUSED = "SGN0105", Error, "A parent does not take the route.", "What the parent allows is in the message.";
    BYTES = "SGN0106", Warning, "A route of requests leads to a port that carries bytes: what it says of requests cannot be done there.", "Declare the port's protocol (`appProtocol: http`), or use a TCPRoute.";
    NO_TARGET = "SGN0201", Error, "A policy targets a Service that is not there.", "`target.service` is the name of a Service of the policy's own namespace.";
    NO_PORT = "SGN0202", Error, "A policy names a port that its target does not have.", "`to.ports` has names of ports, not numbers.";
    EMPTY_NAMESPACE = "SGN0203", Warning, "A policy is for all Services of a namespace that has none of the mesh.", "Label the namespace, or move the policy.";
    NO_CALLER = "SGN0204", Warning, "A policy names a workload that does not exist.", "Identities are ns/<namespace>/sa/<service account>, of accounts that exist.";
    NEVER_MATCHES = "SGN0205", Warning, "None of the workloads that a permit names exists: it lets nobody in.", "Name those that call.";
    SHADOWED = "SGN0206", Warning, "A permit has no effect: everything that it lets in is forbidden by another.", "A forbid without conditions wins over every permit: narrow it, or take the permit out.";
    REDUNDANT = "SGN0207", Info, "A permit has no effect: another one lets in all that it does.", "Keep the one that says what is meant.";
    EXPIRED = "SGN0208", Warning, "An exception has ended: it spares nobody any more.", "Take it out, or make a new one with a new reason.";
    PERMIT_OF_BYTES = "SGN0209", Warning, "A permit asks for requests, and its target's ports carry bytes: it never matches.", "Declare the port's protocol, or permit connections without `to.methods`, `to.paths` and `user`.";
    NOBODY = "SGN0210", Info, "No policy lets anybody call a Service.", "A permit for those who should; nothing, where that is meant.";
    RAIL_BROKEN = "SGN0301", Error, "A permit is wider than a GuardRail lets permits be. It is left out.", "The GuardRail and what it asks for are in the message.";
    RAIL_NOWHERE = "SGN0302", Warning, "A GuardRail is for a namespace that does not exist.", "Names of namespaces are written as they are; a GuardRail without `namespaces` is for all.";
    EXTERNAL_NOBODY = "SGN0401", Warning, "An ExternalService that no workload may use.", "`from` names those who may; without it, workloads of its own namespace.";
    EXTERNAL_PLAIN = "SGN0402", Warning, "An ExternalService speaks plaintext to a port that is for TLS, or TLS to one for plaintext.", "`tls` where the sidecar is to begin TLS, protocol `tls` where the app does.";
    OTHER = "SGN0500", Info, "Something of a Service is not followed, and says what.", "docs/kubernetes.md tells what is followed of a Service.";
    NO_SIDECAR = "SGN0501", Warning, "Endpoints of a Service have no sidecar: nobody of the mesh calls them.", "Restart their workloads once the namespace is labelled; `signet check` says why one has none.";
    OUTSIDE = "SGN0502", Info, "A Service in a namespace of the mesh is none of the mesh.", "The message says why.";
    PORT_WORDS = "SGN0503", Warning, "A port's name, appProtocol and number contradict each other about TLS.", "Say by `appProtocol` what is spoken there.";
    PERMISSIVE = "SGN0504", Warning, "A port lets plaintext in, or has an end of that which is past.", "`signet check --strict-ready` lists who would be refused.";
    LABEL = "SGN0601", Warning, "The label signet.mesh/inject has a value that does nothing.", "`enabled`, and nothing else, injects a namespace.";
    POD_REFUSED = "SGN0602", Error, "A pod would be refused by the webhook.", "docs/kubernetes.md lists what a pod may not be.";
    POD_WARNING = "SGN0603", Warning, "A pod would be injected, with a warning.", "The message is what `kubectl` would show.";
    OPEN = "SGN0701", Warning, "The mesh lets in whatever no policy names.", "`defaultAction: deny` in the Mesh, once permits are written.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_the_page_has_each_as_it_is() {
        let page = include_str!("../../../docs/analyze.md");
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| SGN")).collect();
        let mut known: Vec<&str> = ALL.iter().map(|code| code.id).collect();
        known.sort_unstable();
        known.dedup();
        assert_eq!((known.len(), rows.len()), (ALL.len(), ALL.len()));
        for code in ALL {
            let row = format!("| {} | {} | {} | {} |", code.id, code.severity.word(), code.means, code.hint);
            assert!(rows.contains(&&*row), "docs/analyze.md lacks:\n{row}");
        }
    }
}
