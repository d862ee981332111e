//! What the charts come to with somebody's values, before anything is done.

use anyhow::{Context as _, anyhow};
use serde_json::Value;

/// The control plane as it is rendered.
pub(super) struct Plan {
    pub(super) manifests: String,
    /// Of the StatefulSet, the Service and the account.
    pub(super) name: String,
    pub(super) revision: String,
    pub(super) trust_domain: String,
    /// The Secret with the seal key.
    pub(super) seal: String,
    /// The StatefulSet itself.
    pub(super) set: Value,
}

/// The beginning of every name of ours.
const NAME: &str = "signet-control-plane";

impl Plan {
    pub(super) fn read(manifests: String) -> anyhow::Result<Self> {
        let all = documents(&manifests)?;
        let set = all.iter().find(|object| object.get("kind") == Some(&"StatefulSet".into()));
        let set = set.ok_or_else(|| anyhow!("the chart: expected a StatefulSet, got none"))?;
        let name = set.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let revision = name.strip_prefix(NAME).unwrap_or_default().trim_start_matches('-').to_owned();
        let volumes = set.pointer("/spec/template/spec/volumes").and_then(Value::as_array);
        let seal = volumes.into_iter().flatten().find(|it| it.get("name") == Some(&"seal".into()));
        let seal = seal.and_then(|it| it.pointer("/secret/secretName")).and_then(Value::as_str);
        let seal =
            seal.ok_or_else(|| anyhow!("the chart: expected a volume `seal` of a Secret, got none"))?;
        let trust_domain =
            trust_domain(&all).ok_or_else(|| anyhow!("the chart: expected a trustDomain, got none"))?;
        let (seal, set) = (seal.to_owned(), set.clone());
        Ok(Self { manifests, name, revision, trust_domain, seal, set })
    }
}

/// The objects of manifests.
pub(super) fn documents(manifests: &str) -> anyhow::Result<Vec<Value>> {
    let all: Vec<Value> = serde_saphyr::from_multiple(manifests).context("reading what helm rendered")?;
    Ok(all.into_iter().filter(|object| !object.is_null()).collect())
}

/// As the control plane's own configuration has it.
pub(super) fn trust_domain(objects: &[Value]) -> Option<String> {
    let text = objects.iter().find_map(|object| object.pointer("/data/control-plane.yaml")?.as_str())?;
    let config: Value = serde_saphyr::from_str(text).ok()?;
    Some(config.get("trustDomain")?.as_str()?.to_owned())
}
