//! The key that opens the authority's keys: a Secret with 32 random bytes, which no template makes.
//!
//! It is drawn here, and goes to the API server through kubectl's standard input. Nobody but the Secret has it after that:
//! whoever loses it loses the mesh's authority, which is said as loudly as a terminal lets us.

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use ring::rand::SecureRandom as _;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::plan::Plan;
use super::{MANAGED_BY, OURSELVES, PART_OF};
use crate::cluster::kubectl::escaped;
use crate::cluster::{Access, Kubectl, Trouble};

/// Which Secret the chart asks for where nobody says.
pub(super) const VALUES: &str = "seal: {existingSecret: signet-seal}\n";
/// Its one entry.
const ENTRY: &str = "seal.key";

/// Makes it where it is missing; whether it did.
pub(super) fn ensure(kubectl: &Kubectl, namespace: &str, plan: &Plan) -> anyhow::Result<bool> {
    if exists(kubectl, namespace, &plan.seal)? {
        return Ok(false);
    }
    // Keys that were sealed by a key that is gone: a new one would not open them, and look as if it could.
    let claims = claims(kubectl, namespace, &plan.name)?;
    if !claims.is_empty() {
        bail!(
            "expected the Secret {} in the namespace {namespace} beside the volume claims {}, found none: the keys in there are sealed by another key. Bring the Secret back from your copy, or remove the claims with all that was issued",
            plan.seal,
            claims.join(", ")
        );
    }
    let body = secret(namespace, &plan.seal)?;
    match kubectl.create(&format!("/api/v1/namespaces/{namespace}/secrets"), body.as_bytes()) {
        // The answer repeats what was sent.
        Ok(answer) => {
            wipe(answer);
            Ok(true)
        }
        Err(Trouble::Exists(_)) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("making the Secret {}", plan.seal)),
    }
}

/// Whether there is one, without reading it.
pub(super) fn exists(kubectl: &Kubectl, namespace: &str, name: &str) -> anyhow::Result<bool> {
    Ok(kubectl.has("secret", namespace, name)?)
}

/// The volume claims of a control plane, by name.
pub(super) fn claims(kubectl: &Kubectl, namespace: &str, instance: &str) -> Result<Vec<String>, Trouble> {
    let query = format!("labelSelector={}", escaped(&format!("app.kubernetes.io/instance={instance}")));
    let all = kubectl.list(&format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims"), &query)?;
    let name = |it: &Value| it.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned);
    Ok(all.iter().filter_map(name).collect())
}

fn secret(namespace: &str, name: &str) -> anyhow::Result<Zeroizing<String>> {
    let mut key = Zeroizing::new([0_u8; 32]);
    ring::rand::SystemRandom::new()
        .fill(key.as_mut())
        .map_err(|_| anyhow!("the system has no random numbers"))?;
    let key = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(key.as_ref()));
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": name, "namespace": namespace, "labels": {MANAGED_BY: OURSELVES, PART_OF: "signet"}},
        // Nobody changes it by mistake; another key would open nothing.
        "immutable": true,
        "data": {ENTRY: key.as_str()},
    });
    let text = Zeroizing::new(object.to_string());
    wipe(object);
    Ok(text)
}

/// Texts of a value that held the key.
fn wipe(mut object: Value) {
    use zeroize::Zeroize as _;
    if let Some(Value::String(text)) = object.pointer_mut("/data/seal.key") {
        text.zeroize();
    }
}

/// What nobody may overlook.
pub(super) fn say(access: &Access, secret: &str) {
    let context = access.kube_context.as_ref().map(|it| format!(" --context {it}")).unwrap_or_default();
    let file = access.kubeconfig.as_ref().map(|it| format!(" --kubeconfig {}", it.display()));
    let line = "=".repeat(78);
    eprintln!(
        "{line}\n\
         A SEAL KEY WAS MADE: the Secret {secret} of the namespace {namespace}.\n\
         KEEP A COPY OF IT OUTSIDE OF THIS CLUSTER, NOW. No backup has it, nobody can\n\
         make it again, and without it the authority's keys stay closed for ever:\n\n\
         umask 077; kubectl{context}{file} -n {namespace} get secret {secret} \\\n    \
             -o jsonpath='{{.data.seal\\.key}}' | base64 -d > seal.key\n{line}",
        namespace = access.namespace,
        file = file.unwrap_or_default(),
    );
}
