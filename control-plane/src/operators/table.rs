//! Every call of an operator, the least role that may make it, and what is written down of its arguments.
//!
//! This is the only place: a call without a row is refused, and a test compares the rows with the protocol. What
//! is recorded is written out per call, so that a secret in a request of the future is not recorded by default.

use prost::{DecodeError, Message};
use signet_identity::SpiffeId;
use signet_proto::v1::{self, reinstate_request, revoke_request};

use super::roles::{Need, Role};

/// What a call does, which decides how it is recorded and whether it can wait for a second person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Tells something.
    Read,
    /// Changes something.
    Change,
    /// Tells the caller about themselves or what waits: never waits itself.
    Look,
    /// Decides on what waits for a second person: never waits itself.
    Decide,
}

/// One call.
pub struct Row {
    pub service: &'static str,
    pub method: &'static str,
    /// What records and `operators.secondPerson` call it: the words of the command line.
    pub name: &'static str,
    pub kind: Kind,
    /// The least role that may ever make it; its arguments may ask for more.
    pub least: Role,
    asks: fn(&Row, &[u8]) -> Result<Ask, DecodeError>,
}

/// What one call asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub need: Need,
    /// Its arguments, without secrets; may be empty.
    pub words: String,
}

impl Row {
    /// Reads the arguments.
    ///
    /// # Errors
    /// When the bytes are not this call's request.
    pub fn ask(&self, message: &[u8]) -> Result<Ask, DecodeError> {
        (self.asks)(self, message)
    }

    /// Whether `operators.secondPerson` may name it.
    #[must_use]
    pub fn can_wait(&self) -> bool {
        !matches!(self.kind, Kind::Look | Kind::Decide)
    }
}

/// The row of this call.
#[must_use]
pub fn find(service: &str, method: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.service == service && row.method == method)
}

const OPERATOR: &str = "signet.v1.Operator";
const AUDIT: &str = "signet.v1.Audit";
const ROTATION: &str = "signet.v1.Rotation";
const RECOVERY: &str = "signet.v1.Recovery";
const ROOTS: &str = "signet.v1.Roots";
const FEDERATION: &str = "signet.v1.Federation";
const PEOPLE: &str = "signet.v1.People";

use Kind::{Change, Decide, Look, Read};
use Role::{NamespaceOperator, SecurityAdmin, Viewer};

/// The table.
#[rustfmt::skip]
pub static TABLE: &[Row] = &[
    row(OPERATOR, "Status", "status", Read, Viewer, plain::<v1::StatusRequest>),
    row(OPERATOR, "ListSidecars", "sidecars", Read, Viewer, plain::<v1::ListSidecarsRequest>),
    row(OPERATOR, "ListHandshakes", "handshakes", Read, Viewer, plain::<v1::ListHandshakesRequest>),
    row(OPERATOR, "CreateJoinToken", "join", Change, NamespaceOperator, join),
    row(OPERATOR, "ListIssuances", "ca-log", Read, Viewer, plain::<v1::ListIssuancesRequest>),
    row(OPERATOR, "WatchIssuances", "ca-log-follow", Read, Viewer, plain::<v1::WatchIssuancesRequest>),
    row(OPERATOR, "Revoke", "ca-revoke", Change, NamespaceOperator, revoke),
    row(OPERATOR, "AwaitRevocations", "ca-revoke-wait", Read, Viewer, plain::<v1::AwaitRevocationsRequest>),
    row(OPERATOR, "Reinstate", "ca-reinstate", Change, NamespaceOperator, reinstate),
    row(OPERATOR, "VerifyLog", "ca-verify", Read, Viewer, plain::<v1::VerifyLogRequest>),
    row(OPERATOR, "ExplainDecision", "authz-explain", Read, Viewer, explain),
    row(OPERATOR, "ListDecisions", "authz-list", Read, Viewer, plain::<v1::ListDecisionsRequest>),
    row(OPERATOR, "ExplainChain", "authz-chain", Read, Viewer, explain_chain),
    row(OPERATOR, "ListChains", "authz-chains", Read, Viewer, plain::<v1::ListChainsRequest>),
    row(OPERATOR, "ListPolicies", "authz-policies", Read, Viewer, plain::<v1::ListPoliciesRequest>),
    row(AUDIT, "Search", "ca-audit-search", Read, Viewer, search),
    row(AUDIT, "Export", "ca-audit-export", Read, Viewer, plain::<v1::ExportLogRequest>),
    row(AUDIT, "Key", "ca-audit-key", Read, Viewer, plain::<v1::AuditKeyRequest>),
    row(ROTATION, "ListAuthorities", "ca-status", Read, Viewer, plain::<v1::ListAuthoritiesRequest>),
    row(ROTATION, "PrepareAuthority", "ca-prepare", Change, SecurityAdmin, prepare),
    row(ROTATION, "RotateAuthority", "ca-rotate", Change, SecurityAdmin, rotate),
    row(ROTATION, "ActivateAuthority", "ca-activate", Change, SecurityAdmin, activate),
    row(ROTATION, "TaintAuthority", "ca-taint", Change, SecurityAdmin, taint),
    row(ROOTS, "RequestRoot", "ca-csr", Change, SecurityAdmin, plain::<v1::RequestRootRequest>),
    row(ROOTS, "ImportRoot", "ca-import", Change, SecurityAdmin, import),
    row(RECOVERY, "Recover", "ca-recover", Change, SecurityAdmin, recover),
    row(RECOVERY, "Backup", "ca-backup", Change, SecurityAdmin, plain::<v1::BackupRequest>),
    row(FEDERATION, "ListFederated", "federation-list", Read, Viewer, plain::<v1::ListFederatedRequest>),
    row(FEDERATION, "RefreshFederated", "federation-refresh", Change, Role::Operator, refresh),
    row(FEDERATION, "ExportBundle", "federation-bundle", Read, Viewer, plain::<v1::ExportBundleRequest>),
    row(PEOPLE, "WhoAmI", "whoami", Look, Viewer, plain::<v1::WhoAmIRequest>),
    row(PEOPLE, "LoginSettings", "login-settings", Look, Viewer, plain::<v1::LoginSettingsRequest>),
    row(PEOPLE, "ListApprovals", "approvals-list", Look, Viewer, plain::<v1::ListApprovalsRequest>),
    // Who may approve or deny is asked of the request that waits.
    row(PEOPLE, "Approve", "approvals-approve", Decide, Viewer, approve),
    row(PEOPLE, "Deny", "approvals-deny", Decide, Viewer, deny),
];

const fn row(
    service: &'static str,
    method: &'static str,
    name: &'static str,
    kind: Kind,
    least: Role,
    asks: fn(&Row, &[u8]) -> Result<Ask, DecodeError>,
) -> Row {
    Row { service, method, name, kind, least, asks }
}

/// Nothing of the arguments matters.
fn plain<M: Message + Default>(row: &Row, message: &[u8]) -> Result<Ask, DecodeError> {
    M::decode(message)?;
    Ok(Ask { need: Need::of(row.least), words: String::new() })
}

fn join(_: &Row, message: &[u8]) -> Result<Ask, DecodeError> {
    let asked = v1::CreateJoinTokenRequest::decode(message)?;
    let words =
        format!("identity={:?} class={:?} ttl={}", asked.spiffe_id, asked.peer_class, asked.ttl_seconds);
    Ok(Ask { need: about(&asked.spiffe_id), words })
}

fn revoke(_: &Row, message: &[u8]) -> Result<Ask, DecodeError> {
    use revoke_request::What;
    let asked = v1::RevokeRequest::decode(message)?;
    let (need, what) = match &asked.what {
        Some(What::SpiffeId(id)) => (about(id), format!("identity={id:?}")),
        Some(What::Serial(serial)) => (Need::of(Role::Operator), format!("serial={serial:?}")),
        Some(What::KeySha256(key)) => (Need::of(Role::Operator), format!("key={key:?}")),
        Some(What::Delegation(thumbprint)) => {
            (Need::of(Role::Operator), format!("delegation={thumbprint:?}"))
        }
        Some(What::Lineage(id)) => (Need::of(Role::Operator), format!("lineage={id:?}")),
        Some(What::Instance(name)) => (Need::of(Role::Operator), format!("instance={name:?}")),
        Some(What::User(name)) => (Need::of(Role::Operator), format!("user={name:?}")),
        Some(What::Logout(name)) => (Need::of(Role::Operator), format!("logout={name:?}")),
        Some(What::Session(name)) => (Need::of(Role::Operator), format!("session={name:?}")),
        Some(What::Token(name)) => (Need::of(Role::Operator), format!("token={name:?}")),
        None => (Need::of(Role::Operator), "nothing".into()),
    };
    Ok(Ask { need, words: format!("{what} reason={:?}", asked.reason) })
}

fn reinstate(_: &Row, message: &[u8]) -> Result<Ask, DecodeError> {
    use reinstate_request::What;
    let asked = v1::ReinstateRequest::decode(message)?;
    let (need, what) = match &asked.what {
        Some(What::SpiffeId(id)) => (about(id), format!("identity={id:?}")),
        Some(What::Serial(serial)) => (Need::of(Role::Operator), format!("serial={serial:?}")),
        Some(What::KeySha256(key)) => (Need::of(Role::Operator), format!("key={key:?}")),
        Some(What::Delegation(thumbprint)) => {
            (Need::of(Role::Operator), format!("delegation={thumbprint:?}"))
        }
        Some(What::Lineage(id)) => (Need::of(Role::Operator), format!("lineage={id:?}")),
        Some(What::Instance(name)) => (Need::of(Role::Operator), format!("instance={name:?}")),
        Some(What::User(name)) => (Need::of(Role::Operator), format!("user={name:?}")),
        Some(What::Logout(name)) => (Need::of(Role::Operator), format!("logout={name:?}")),
        Some(What::Session(name)) => (Need::of(Role::Operator), format!("session={name:?}")),
        Some(What::Token(name)) => (Need::of(Role::Operator), format!("token={name:?}")),
        None => (Need::of(Role::Operator), "nothing".into()),
    };
    Ok(Ask { need, words: format!("{what} reason={:?}", asked.reason) })
}

fn explain(row: &Row, message: &[u8]) -> Result<Ask, DecodeError> {
    let asked = v1::ExplainDecisionRequest::decode(message)?;
    Ok(Ask { need: Need::of(row.least), words: format!("id={:?}", asked.id) })
}

fn explain_chain(row: &Row, message: &[u8]) -> Result<Ask, DecodeError> {
    let asked = v1::ExplainChainRequest::decode(message)?;
    Ok(Ask { need: Need::of(row.least), words: format!("txn={:?}", asked.txn) })
}

fn search(row: &Row, message: &[u8]) -> Result<Ask, DecodeError> {
    let asked = v1::SearchLogRequest::decode(message)?;
    let words = format!(
        "identity={:?} serial={:?} event={:?} since={} until={} limit={}",
        asked.spiffe_id, asked.serial, asked.event, asked.since, asked.until, asked.limit
    );
    Ok(Ask { need: Need::of(row.least), words })
}

fn prepare(row: &Row, message: &[u8]) -> Result<Ask, DecodeError> {
    let asked = v1::PrepareAuthorityRequest::decode(message)?;
    Ok(Ask { need: Need::of(row.least), words: format!("kind={:?}", asked.kind) })
}

fn rotate(row: &Row, message: &[u8]) -> Result<Ask, DecodeError> {
    let asked = v1::RotateAuthorityRequest::decode(message)?;
    Ok(Ask { need: Need::of(row.least), words: format!("kind={:?}", asked.kind) })
}

fn activate(row: &Row, message: &[u8]) -> Result<Ask, DecodeError> {
    let asked = v1::ActivateAuthorityRequest::decode(message)?;
    Ok(Ask { need: Need::of(row.least), words: format!("id={:?} force={}", asked.id, asked.force) })
}

fn taint(row: &Row, message: &[u8]) -> Result<Ask, DecodeError> {
    let asked = v1::TaintAuthorityRequest::decode(message)?;
    Ok(Ask { need: Need::of(row.least), words: format!("id={:?}", asked.id) })
}

fn recover(row: &Row, message: &[u8]) -> Result<Ask, DecodeError> {
    let asked = v1::RecoverRequest::decode(message)?;
    let words = format!("root={} issuers={} reason={:?}", asked.root, asked.issuers, asked.reason);
    Ok(Ask { need: Need::of(row.least), words })
}

fn import(row: &Row, message: &[u8]) -> Result<Ask, DecodeError> {
    let asked = v1::ImportRootRequest::decode(message)?;
    // Certificates are public and long: what they were is in the record of the import.
    let words = format!("chain_sha256={}", signet_identity::KeyId::of(asked.chain_pem.as_bytes()));
    Ok(Ask { need: Need::of(row.least), words })
}

fn refresh(row: &Row, message: &[u8]) -> Result<Ask, DecodeError> {
    let asked = v1::RefreshFederatedRequest::decode(message)?;
    Ok(Ask { need: Need::of(row.least), words: format!("trust_domain={:?}", asked.trust_domain) })
}

fn approve(row: &Row, message: &[u8]) -> Result<Ask, DecodeError> {
    let asked = v1::ApproveRequest::decode(message)?;
    Ok(Ask { need: Need::of(row.least), words: format!("id={:?} digest={:?}", asked.id, asked.digest) })
}

fn deny(row: &Row, message: &[u8]) -> Result<Ask, DecodeError> {
    let asked = v1::DenyRequest::decode(message)?;
    Ok(Ask { need: Need::of(row.least), words: format!("id={:?}", asked.id) })
}

/// Who may act on this identity: whoever has its namespace; for a person, who has no namespace, a security-admin.
/// A text that is no identity is the service's to refuse.
fn about(id: &str) -> Need {
    let Ok(id) = SpiffeId::parse(id) else { return Need::of(Role::Operator) };
    let mut parts = id.path().split('/').skip(1);
    if let (Some("ns"), Some(_), Some("operator")) = (parts.next(), parts.next(), parts.next()) {
        return Need::of(Role::SecurityAdmin);
    }
    Need { role: NamespaceOperator, namespace: id.namespace().map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_call_of_an_operators_service_has_its_row_and_every_row_its_call() {
        let protocol = FileDescriptorSet::decode(signet_proto::FILE_DESCRIPTOR_SET).unwrap();
        let files = protocol.file.iter().filter(|file| file.package() == "signet.v1");
        let mut calls = BTreeSet::new();
        let mut services = BTreeSet::new();
        for service in files.flat_map(|file| &file.service) {
            let name = format!("signet.v1.{}", service.name());
            services.insert(name.clone());
            calls.extend(service.method.iter().map(|method| (name.clone(), method.name().to_owned())));
        }
        // What stands behind the other doors.
        let others = ["Bootstrap", "Identity", "Tokens", "TransactionTokens", "Processes", "Delivery"];
        for other in others {
            assert!(services.remove(&format!("signet.v1.{other}")), "{other} is gone");
        }
        calls.retain(|(service, _)| services.contains(service));
        let rows: BTreeSet<_> =
            TABLE.iter().map(|row| (row.service.to_owned(), row.method.to_owned())).collect();
        assert_eq!(rows, calls, "each call of an operator needs a row in operators/table.rs");
        let names: BTreeSet<_> = TABLE.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), TABLE.len(), "names are unique");
    }

    #[test]
    fn what_a_call_needs_depends_on_whose_namespace_it_touches() {
        let need = |what: revoke_request::What| {
            let request = v1::RevokeRequest { what: Some(what), reason: "left".into() };
            find(OPERATOR, "Revoke").unwrap().ask(&request.encode_to_vec()).unwrap().need
        };
        use revoke_request::What;
        let shop = need(What::SpiffeId("spiffe://example.com/ns/shop/sa/orders".into()));
        assert_eq!((shop.role, shop.namespace.as_deref()), (NamespaceOperator, Some("shop")));
        let person = need(What::SpiffeId("spiffe://example.com/ns/signet-system/operator/ab".into()));
        assert_eq!(person, Need::of(Role::SecurityAdmin));
        assert_eq!(need(What::Serial("01".into())), Need::of(Role::Operator));
        let odd = need(What::SpiffeId("spiffe://example.com/anything".into()));
        assert_eq!((odd.role, odd.namespace), (NamespaceOperator, None));
    }

    #[test]
    fn arguments_are_recorded_in_one_line_whatever_is_in_them() {
        let request = v1::RevokeRequest {
            what: Some(revoke_request::What::Serial("01".into())),
            reason: "gone\n: Ok, as security-admin".into(),
        };
        let ask = find(OPERATOR, "Revoke").unwrap().ask(&request.encode_to_vec()).unwrap();
        assert_eq!(ask.words, r#"serial="01" reason="gone\n: Ok, as security-admin""#);
        assert!(find(OPERATOR, "Revoke").unwrap().ask(b"\xff").is_err());
    }
}
