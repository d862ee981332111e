//! A pod as the API server describes it: the few fields that an attestation is compared with. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use signet_ca::Refusal;

use super::review::Account;

/// See the module's story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub account: String,
    pub node: String,
    pub labels: BTreeMap<String, String>,
    pub addresses: Vec<IpAddr>,
    /// It was asked to end and has its grace.
    pub terminating: bool,
    /// Its containers have ended and will not run again.
    pub ended: bool,
    pub resource_version: String,
}

#[derive(Deserialize)]
pub(crate) struct Raw {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: String,
    uid: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    deletion_timestamp: Option<String>,
    #[serde(default)]
    resource_version: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    service_account_name: String,
    node_name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    phase: String,
    #[serde(rename = "podIPs")]
    addresses: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    ip: String,
}

/// One page of a list.
#[derive(Deserialize)]
pub(crate) struct List {
    pub(crate) metadata: ListMetadata,
    #[serde(default)]
    pub(crate) items: Vec<Raw>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListMetadata {
    #[serde(default)]
    pub(crate) resource_version: String,
    /// Where the next page begins; absent or empty on the last one.
    #[serde(default, rename = "continue")]
    pub(crate) next: String,
}

impl From<Raw> for Pod {
    fn from(raw: Raw) -> Pod {
        Pod {
            namespace: raw.metadata.namespace,
            name: raw.metadata.name,
            uid: raw.metadata.uid,
            account: raw.spec.service_account_name,
            node: raw.spec.node_name,
            labels: raw.metadata.labels,
            addresses: raw.status.addresses.iter().filter_map(|address| address.ip.parse().ok()).collect(),
            terminating: raw.metadata.deletion_timestamp.is_some(),
            ended: matches!(raw.status.phase.as_str(), "Succeeded" | "Failed"),
            resource_version: raw.metadata.resource_version,
        }
    }
}

impl Pod {
    /// Reads one pod.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Pod> {
        serde_json::from_slice::<Raw>(body).ok().map(Pod::from)
    }

    /// Whether it is the pod that was attested, and still runs.
    ///
    /// # Errors
    /// `EvidencePod`.
    pub fn is_that_of(&self, account: &Account) -> Result<(), Refusal> {
        let same = self.uid == account.pod_uid
            && self.name == account.pod
            && self.namespace == account.account.namespace.as_str()
            && self.account == account.account.account.as_str()
            && self.node == account.node;
        if same && !self.ended { Ok(()) } else { Err(Refusal::EvidencePod) }
    }

    /// Whether somebody at this address may be the pod.
    ///
    /// # Errors
    /// `EvidenceAddress`.
    pub fn is_at(&self, caller: IpAddr) -> Result<(), Refusal> {
        let caller = caller.to_canonical();
        let here = self.addresses.iter().any(|address| address.to_canonical() == caller);
        if here { Ok(()) } else { Err(Refusal::EvidenceAddress) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn account() -> Account {
        Account {
            account: "ns/shop/sa/web".parse().unwrap(),
            pod: "web-1".into(),
            pod_uid: "u1".into(),
            node: "node1".into(),
        }
    }

    pub(crate) const POD: &str = r#"{"kind":"Pod","metadata":{"name":"web-1","namespace":"shop","uid":"u1",
        "resourceVersion":"7","labels":{"app":"web"}},"spec":{"serviceAccountName":"web","nodeName":"node1"},
        "status":{"phase":"Running","podIP":"10.0.0.7","podIPs":[{"ip":"10.0.0.7"},{"ip":"fd00::7"}]}}"#;

    #[test]
    fn a_pod_is_that_of_the_token_only_if_every_name_is_the_same() {
        let pod = Pod::parse(POD.as_bytes()).unwrap();
        assert_eq!(pod.is_that_of(&account()), Ok(()));
        for (from, to) in [
            ("\"u1\"", "\"u2\""),
            ("web-1", "web-2"),
            ("\"namespace\":\"shop\"", "\"namespace\":\"other\""),
            ("\"serviceAccountName\":\"web\"", "\"serviceAccountName\":\"orders\""),
            ("node1", "node2"),
            ("Running", "Succeeded"),
            ("Running", "Failed"),
        ] {
            let other = Pod::parse(POD.replace(from, to).as_bytes()).unwrap();
            assert_eq!(other.is_that_of(&account()), Err(Refusal::EvidencePod), "{to}");
        }
        assert!(Pod::parse(b"{}").is_none() && Pod::parse(b"[]").is_none());
    }

    #[test]
    fn the_caller_is_at_one_of_the_pods_addresses() {
        let pod = Pod::parse(POD.as_bytes()).unwrap();
        for good in ["10.0.0.7", "::ffff:10.0.0.7", "fd00::7"] {
            assert_eq!(pod.is_at(good.parse().unwrap()), Ok(()), "{good}");
        }
        for bad in ["10.0.0.8", "127.0.0.1", "fd00::8"] {
            assert_eq!(pod.is_at(bad.parse().unwrap()), Err(Refusal::EvidenceAddress), "{bad}");
        }
    }
}
