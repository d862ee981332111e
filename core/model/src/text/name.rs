//! Names of objects and of workloads.
//!
//! Names are those of Kubernetes, so that a mesh on one host can move into a cluster as it is. No name
//! is a pattern; the one wildcard is "every workload of a namespace" ([`WorkloadPattern::Namespace`]),
//! and it compares whole segments.

use std::fmt;
use std::str::FromStr;

use signet_identity::{SpiffeId, SpiffeIdError, TrustDomain};

use super::{Invalid, checked_text, serde_as_text};

const LABEL: &str = "a DNS label (lower-case letters, digits and `-`, at most 63 characters, beginning and \
                     ending with a letter or digit)";
const SUBDOMAIN: &str = "a DNS subdomain (labels of lower-case letters, digits and `-`, joined by `.`, at \
                         most 253 characters)";

pub(crate) fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

checked_text!(
    /// A DNS label (RFC 1123): namespaces, services, ports, issuer aliases.
    Label, LABEL, is_label
);
checked_text!(
    /// A DNS subdomain (RFC 1123): every other object's name, service accounts.
    Subdomain, SUBDOMAIN, is_subdomain
);

impl Label {
    /// The same as a name that may have dots and happens to have none.
    pub fn to_subdomain(&self) -> Subdomain {
        Subdomain(self.0.clone())
    }

    pub(crate) fn system() -> Label {
        Label("signet-system".into())
    }

    pub(crate) fn default_mesh() -> Label {
        Label("default".into())
    }
}

/// `name.namespace`: one object of a kind. A namespace has no dot, so the last dot divides the two.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    pub namespace: Label,
    pub name: Subdomain,
}

const OBJECT_NAME: &str = "`name.namespace`, as in `orders.shop`";

impl ObjectName {
    pub fn new(namespace: Label, name: Subdomain) -> ObjectName {
        ObjectName { namespace, name }
    }

    /// The workload that this object is, when it is a service account.
    pub fn workload(&self) -> WorkloadId {
        WorkloadId { namespace: self.namespace.clone(), account: self.name.clone() }
    }
}

impl FromStr for ObjectName {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<ObjectName, Invalid> {
        let (name, namespace) = text.rsplit_once('.').ok_or_else(|| Invalid::new(OBJECT_NAME, text))?;
        Ok(ObjectName { namespace: namespace.parse()?, name: name.parse()? })
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}
serde_as_text!(ObjectName, OBJECT_NAME);

/// `ns/<namespace>/sa/<service-account>`: an identity within the mesh's own trust domain, which is the
/// path of its SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadId {
    pub namespace: Label,
    pub account: Subdomain,
}

const WORKLOAD_ID: &str = "`ns/<namespace>/sa/<service-account>`, as in `ns/shop/sa/orders`";

impl WorkloadId {
    pub fn new(namespace: Label, account: Subdomain) -> WorkloadId {
        WorkloadId { namespace, account }
    }

    /// The name of the [`Workload`](crate::Workload) object that stands for this identity.
    pub fn object(&self) -> ObjectName {
        ObjectName { namespace: self.namespace.clone(), name: self.account.clone() }
    }

    /// The workload that `id` names in the mesh's own trust domain; none for an ID of another domain or
    /// another shape.
    pub fn of(id: &SpiffeId, own: &TrustDomain) -> Option<WorkloadId> {
        if !id.is_in(own) {
            return None;
        }
        Some(WorkloadId {
            namespace: id.namespace()?.parse().ok()?,
            account: id.service_account()?.parse().ok()?,
        })
    }

    /// The whole SPIFFE ID. The names' own limits keep it far below the longest ID that there may be.
    pub fn spiffe_id(&self, own: &TrustDomain) -> Result<SpiffeId, SpiffeIdError> {
        SpiffeId::workload(own, self.namespace.as_str(), self.account.as_str())
    }
}

impl FromStr for WorkloadId {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<WorkloadId, Invalid> {
        let (namespace, account) = text
            .strip_prefix("ns/")
            .and_then(|rest| rest.split_once("/sa/"))
            .ok_or_else(|| Invalid::new(WORKLOAD_ID, text))?;
        Ok(WorkloadId { namespace: namespace.parse()?, account: account.parse()? })
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ns/{}/sa/{}", self.namespace, self.account)
    }
}
serde_as_text!(WorkloadId, WORKLOAD_ID);

/// Which workloads a policy speaks of: one, or all of a namespace, of this mesh or of a federated trust domain.
/// Not a pattern language.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadPattern {
    Exact(WorkloadId),
    /// `ns/<namespace>/sa/*`
    Namespace(Label),
    /// One workload of another trust domain, by its whole SPIFFE ID, of whatever shape.
    Federated(SpiffeId),
    /// `spiffe://<trust domain>/ns/<namespace>/sa/*`
    FederatedNamespace(TrustDomain, Box<str>),
}

const WORKLOAD_PATTERN: &str = "`ns/<namespace>/sa/<service-account>`, `ns/<namespace>/sa/*`, or the same with `spiffe://<trust domain>/` before \
     it for a federated trust domain (no other wildcard exists)";

impl WorkloadPattern {
    /// The federated trust domain that it speaks of; none where it speaks of the mesh's own.
    pub fn federated_domain(&self) -> Option<&TrustDomain> {
        match self {
            WorkloadPattern::Exact(_) | WorkloadPattern::Namespace(_) => None,
            WorkloadPattern::Federated(id) => Some(id.trust_domain()),
            WorkloadPattern::FederatedNamespace(domain, _) => Some(domain),
        }
    }
}

impl WorkloadPattern {
    /// The namespace of the mesh's own that it speaks of; none where it speaks of another trust domain.
    pub fn own_namespace(&self) -> Option<&Label> {
        match self {
            WorkloadPattern::Exact(id) => Some(&id.namespace),
            WorkloadPattern::Namespace(namespace) => Some(namespace),
            WorkloadPattern::Federated(_) | WorkloadPattern::FederatedNamespace(..) => None,
        }
    }
}

fn federated(text: &str) -> Option<WorkloadPattern> {
    if let Some(front) = text.strip_suffix("/sa/*") {
        // Any account stands for all of them; the rest is read as the ID that it is.
        let id = SpiffeId::parse(format!("{front}/sa/any")).ok()?;
        return Some(WorkloadPattern::FederatedNamespace(id.trust_domain().clone(), id.namespace()?.into()));
    }
    let id = SpiffeId::parse(text).ok().filter(|id| !id.is_root())?;
    Some(WorkloadPattern::Federated(id))
}

impl FromStr for WorkloadPattern {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<WorkloadPattern, Invalid> {
        if text.starts_with("spiffe://") {
            return federated(text).ok_or_else(|| Invalid::new(WORKLOAD_PATTERN, text));
        }
        if let Some(namespace) = text.strip_prefix("ns/").and_then(|rest| rest.strip_suffix("/sa/*")) {
            return Ok(WorkloadPattern::Namespace(namespace.parse()?));
        }
        if text.contains('*') {
            return Err(Invalid::new(WORKLOAD_PATTERN, text));
        }
        Ok(WorkloadPattern::Exact(text.parse()?))
    }
}

impl fmt::Display for WorkloadPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkloadPattern::Exact(id) => id.fmt(f),
            WorkloadPattern::Namespace(namespace) => write!(f, "ns/{namespace}/sa/*"),
            WorkloadPattern::Federated(id) => id.fmt(f),
            WorkloadPattern::FederatedNamespace(domain, namespace) => {
                write!(f, "spiffe://{domain}/ns/{namespace}/sa/*")
            }
        }
    }
}
serde_as_text!(WorkloadPattern, WORKLOAD_PATTERN);
