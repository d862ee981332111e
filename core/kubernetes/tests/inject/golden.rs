//! What becomes of every recorded pod, as files that a change of injection has to change, too.

use serde_json::{Value, json};

use crate::support::{answered, patch_of, reviews};

/// The answer as people read it.
fn shown(review: &Value) -> Value {
    let answer = answered(review);
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
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let write = std::env::var_os("SIGNET_GOLDEN").is_some();
    let mut wrong = Vec::new();
    let all = reviews();
    assert!(all.len() > 35, "{}", all.len());
    for (name, review) in &all {
        let got = format!("{}\n", serde_json::to_string_pretty(&shown(review)).expect("JSON"));
        let file = folder.join(format!("{name}.json"));
        if write {
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
