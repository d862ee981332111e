//! What becomes of every recorded pod, as files that a change of injection has to change, too.

use serde_json::{Value, json};

use signet_kubernetes::inject::Settings;

use crate::support::{answered_by, by_agent, patch_of, reviews, settings};

/// The answer as people read it.
fn shown(review: &Value, settings: &Settings) -> Value {
    let answer = answered_by(review, settings);
    let mut response = answer["response"].clone();
    if let Some(patch) = patch_of(&answer) {
        response["patch"] = readable(patch);
    }
    let map = response.as_object_mut().expect("a response");
    map.remove("uid");
    response
}

/// Texts that hold JSON, opened.
fn readable(patch: Vec<Value>) -> Value {
    fn open(value: &mut Value) {
        match value {
            Value::Object(map) => map.values_mut().for_each(open),
            Value::Array(list) => list.iter_mut().for_each(open),
            Value::String(text) if text.starts_with('{') => {
                if let Ok(inner) = serde_json::from_str(text) {
                    *value = inner;
                }
            }
            _ => {}
        }
    }
    let mut all = json!(patch);
    open(&mut all);
    all
}

#[test]
fn every_recorded_review_has_its_golden_answer() {
    let all = reviews();
    assert!(all.len() > 35, "{}", all.len());
    golden("tests/golden", &all, &settings());
}

/// Where the agent of the node redirects: one of each kind, since nothing else differs.
#[test]
fn some_have_another_where_their_node_redirects() {
    let few = [
        "pod-bare",
        "pod-probe-http-named-port",
        "pod-init-containers",
        "pod-pod-level-resources",
        "pod-host-network",
    ];
    let all: Vec<_> = reviews().into_iter().filter(|(name, _)| few.contains(&name.as_str())).collect();
    assert_eq!(all.len(), few.len());
    golden("tests/golden-cni", &all, &by_agent());
}

fn golden(folder: &str, all: &[(String, Value)], settings: &Settings) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let write = std::env::var_os("SIGNET_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for (name, review) in all {
        let got = format!("{}\n", serde_json::to_string_pretty(&shown(review, settings)).expect("JSON"));
        let file = folder.join(format!("{name}.json"));
        if write {
            std::fs::create_dir_all(&folder).expect("a folder");
            std::fs::write(&file, &got).expect("written");
        } else if std::fs::read_to_string(&file).unwrap_or_default() != got {
            wrong.push(format!("{name}: {got}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "SIGNET_GOLDEN=1 writes them anew; look at the difference:\n{}",
        wrong.join("\n")
    );
    let files = std::fs::read_dir(folder).expect("golden files").count();
    assert_eq!(files, all.len(), "a golden file of a review that is no longer there");
}
