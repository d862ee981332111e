//! What the cluster has to know of the mesh's roots: the `caBundle` by which the API server verifies the webhook, and in each
//! namespace that is injected the ConfigMap from which its pods take the roots.
//!
//! Looked at every half minute and whenever the roots change; what is as it should be is not written. Roots are public: who
//! changes them here keeps pods out, and lets nobody in.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use http::Method;
use serde_json::{Value, json};
use signet_ca::Authority;

use crate::cluster::api::{Api, ApiError};
use crate::config::webhook::Webhook;

const EVERY: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Namespaces of a large cluster.
const LIMIT: usize = 8 * 1024 * 1024;
const JSON: &str = "application/json";
/// Who owns the fields.
const MANAGER: &str = "signet-control-plane";

/// Keeps both, for as long as it runs.
pub async fn keep(api: Arc<Api>, authority: Authority, webhook: Webhook) {
    let mut published = authority.published();
    loop {
        let roots = authority.root_pem();
        if let Some(name) = &webhook.configuration
            && let Err(error) = bundle(&api, name, &roots).await
        {
            tracing::warn!(target: "signet::webhook", %error, name, "the caBundle cannot be kept");
        }
        if let Err(error) = config_maps(&api, &webhook.injection.roots_config_map, &roots).await {
            tracing::warn!(target: "signet::webhook", %error, "the roots cannot be given to namespaces");
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            changed = published.changed() => if changed.is_err() { return },
        }
    }
}

async fn bundle(api: &Api, name: &str, roots: &str) -> Result<(), ApiError> {
    let path = format!("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{name}");
    let found = read(&api.get(&path, JSON, LIMIT, TIMEOUT).await?)?;
    let wanted = base64::engine::general_purpose::STANDARD.encode(roots);
    let patch = patch(&found, &wanted);
    if !patch.is_empty() {
        let body = Value::Array(patch).to_string();
        api.send_as(Method::PATCH, &path, "application/json-patch+json", body, LIMIT, TIMEOUT).await?;
        tracing::info!(target: "signet::webhook", name, "the caBundle is the mesh's roots again");
    }
    Ok(())
}

/// What is to be done about webhooks with another bundle. Each is named, so that a list that changed in between is left alone.
fn patch(configuration: &Value, wanted: &str) -> Vec<Value> {
    let hooks = configuration.get("webhooks").and_then(Value::as_array).into_iter().flatten().enumerate();
    let others = hooks
        .filter(|(_, hook)| hook.pointer("/clientConfig/caBundle").and_then(Value::as_str) != Some(wanted));
    let operations = others.flat_map(|(at, hook)| {
        let name = hook.get("name").cloned().unwrap_or_default();
        [
            json!({"op": "test", "path": format!("/webhooks/{at}/name"), "value": name}),
            json!({"op": "add", "path": format!("/webhooks/{at}/clientConfig/caBundle"), "value": wanted}),
        ]
    });
    operations.collect()
}

async fn config_maps(api: &Api, name: &str, roots: &str) -> Result<(), ApiError> {
    let path = "/api/v1/namespaces?labelSelector=signet.mesh%2Finject%3Denabled";
    let found = read(&api.get(path, JSON, LIMIT, TIMEOUT).await?)?;
    let items = found.get("items").and_then(Value::as_array).into_iter().flatten();
    let mut failed = None;
    for namespace in items.filter_map(|item| item.pointer("/metadata/name").and_then(Value::as_str)) {
        if let Err(error) = config_map(api, namespace, name, roots).await {
            // One that is going away does not keep the others waiting.
            tracing::debug!(target: "signet::webhook", %error, namespace, "no roots for this namespace");
            failed = Some(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn config_map(api: &Api, namespace: &str, name: &str, roots: &str) -> Result<(), ApiError> {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
    match api.get(&path, JSON, LIMIT, TIMEOUT).await {
        Ok(body) => {
            let held = read(&body)?;
            if held.pointer("/data/roots.pem").and_then(Value::as_str) == Some(roots) {
                return Ok(());
            }
        }
        Err(error) if error.code() == Some(404) => {}
        Err(error) => return Err(error),
    }
    let body = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/managed-by": MANAGER}},
        "data": {"roots.pem": roots},
    });
    let path = format!("{path}?fieldManager={MANAGER}&force=true");
    api.send_as(Method::PATCH, &path, "application/apply-patch+yaml", body.to_string(), LIMIT, TIMEOUT)
        .await
        .map(drop)
}

fn read(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|_| ApiError::Unreadable("expected JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_webhooks_with_another_bundle_are_changed_and_each_by_its_name() {
        let found = json!({"webhooks": [
            {"name": "a", "clientConfig": {"caBundle": "old"}},
            {"name": "b", "clientConfig": {"caBundle": "new"}},
            {"name": "c", "clientConfig": {"service": {}}},
        ]});
        let patch = patch(&found, "new");
        let paths: Vec<_> = patch.iter().map(|operation| operation["path"].as_str().unwrap()).collect();
        assert_eq!(
            paths,
            [
                "/webhooks/0/name",
                "/webhooks/0/clientConfig/caBundle",
                "/webhooks/2/name",
                "/webhooks/2/clientConfig/caBundle"
            ]
        );
        assert!(super::patch(&json!({"webhooks": null}), "new").is_empty());
    }
}
