//! The webhook as the API server asks it: by the name of its Service, with the mesh's roots.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::peers::{run, said};

/// What the API server calls the Service.
pub const HOST: &str = "signet-control-plane.signet-system.svc";

/// The section `webhook` of `control-plane.yaml`, with sidecars that find the control plane at these addresses.
pub fn configuration(listen: &str, bootstrap: &str, mesh: &str, more: &str) -> String {
    format!(
        "webhook:
  listen: '{listen}'
  dnsNames: [{HOST}]
  configuration: signet-injector
  injection:
    image: registry.example.com/signet-sidecar:1
    redirectImage: registry.example.com/signet-redirect:1
    bootstrapAddress: '{bootstrap}'
    meshAddress: '{mesh}'
    controlPlane: spiffe://{}/ns/signet-system/sa/signet-control-plane
{more}",
        crate::mesh::TRUST_DOMAIN
    )
}

/// Sends a review to `/inject` or `/validate` of the webhook at `address`, from a network namespace if one is given; what
/// is answered.
pub async fn review(netns: Option<&str>, address: &str, door: &str, roots: &Path, review: &Value) -> Value {
    let port = address.rsplit_once(':').expect("host:port").1;
    let ip = address.rsplit_once(':').expect("host:port").0;
    let mut command = match netns {
        None => Command::new("curl"),
        Some(netns) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", netns, "curl"]);
            command
        }
    };
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), review.to_string()).expect("a review");
    command.args(["-sS", "-m", "20", "--cacert"]).arg(roots);
    command.args(["--resolve", &format!("{HOST}:{port}:{ip}"), "-H", "content-type: application/json"]);
    command.arg("--data-binary").arg(format!("@{}", file.path().display()));
    let output = run({
        command.arg(format!("https://{HOST}:{port}{door}"));
        command
    })
    .await;
    let answer: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    assert_eq!(answer["response"]["uid"], review["request"]["uid"]);
    answer["response"].clone()
}

/// A review of an object that is to be made, or of one that was there before.
pub fn written(resource: &str, object: &Value, before: Option<&Value>) -> Value {
    let (group, version) =
        object["apiVersion"].as_str().expect("a version").split_once('/').unwrap_or(("", "v1"));
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "3d2f1c8e-6f0b-4d58-9d5a-2f0f6f1f7a11",
            "resource": {"group": group, "version": version, "resource": resource},
            "operation": if before.is_some() { "UPDATE" } else { "CREATE" },
            "namespace": object["metadata"]["namespace"], "name": object["metadata"]["name"],
            "object": object, "oldObject": before,
        },
    })
}

/// The object as the API server makes it of an answer's patch: a parent must be there, and what is removed too.
pub fn patched(object: &Value, answer: &Value) -> Value {
    use base64::Engine as _;
    let mut object = object.clone();
    let Some(text) = answer["patch"].as_str() else { return object };
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
    let operations: Vec<Value> = serde_json::from_slice(&bytes).expect("a patch");
    for operation in operations {
        let path = operation["path"].as_str().expect("a path");
        let (parent, last) = path.rsplit_once('/').expect("a path within it");
        let last = last.replace("~1", "/").replace("~0", "~");
        let value = operation["value"].clone();
        let at = last.parse::<usize>().ok();
        match (operation["op"].as_str(), object.pointer_mut(parent), at) {
            (Some("add" | "replace"), Some(Value::Object(map)), _) => drop(map.insert(last, value)),
            (Some("remove"), Some(Value::Object(map)), _) => {
                drop(map.remove(&last).expect("a field that is there"))
            }
            (Some("add"), Some(Value::Array(list)), None) if last == "-" => list.push(value),
            (Some("add"), Some(Value::Array(list)), Some(at)) => list.insert(at, value),
            (Some("replace"), Some(Value::Array(list)), Some(at)) => list[at] = value,
            (Some("remove"), Some(Value::Array(list)), Some(at)) => drop(list.remove(at)),
            other => panic!("{path}: {other:?}"),
        }
    }
    object
}
