//! JSON Patch (RFC 6902): what makes one document of another.
//!
//! Operations are in the order in which they hold: each is valid on what those before it made. A parent that is missing comes as a
//! whole, and a list that got new elements gets those alone.

use serde::Serialize;
use serde_json::Value;

/// One operation.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Operation {
    /// A member that was not there, or an element that is put before the one at this index.
    Add {
        /// JSON Pointer.
        path: String,
        /// What comes.
        value: Value,
    },
    /// What was there goes.
    Remove {
        /// JSON Pointer.
        path: String,
    },
    /// What was there is another.
    Replace {
        /// JSON Pointer.
        path: String,
        /// What comes.
        value: Value,
    },
}

/// What makes `after` of `before`.
#[must_use]
pub fn diff(before: &Value, after: &Value) -> Vec<Operation> {
    let mut operations = Vec::new();
    compare(before, after, String::new(), &mut operations);
    operations
}

fn compare(before: &Value, after: &Value, path: String, into: &mut Vec<Operation>) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(old), Value::Object(new)) => {
            for key in old.keys().filter(|key| !new.contains_key(*key)) {
                into.push(Operation::Remove { path: format!("{path}/{}", escaped(key)) });
            }
            for (key, value) in new {
                let path = format!("{path}/{}", escaped(key));
                match old.get(key) {
                    // Servers take the null of a member for its absence.
                    None | Some(Value::Null) if !value.is_null() => {
                        into.push(Operation::Add { path, value: value.clone() });
                    }
                    None => into.push(Operation::Add { path, value: value.clone() }),
                    Some(old) => compare(old, value, path, into),
                }
            }
        }
        (Value::Array(old), Value::Array(new)) => elements(old, new, &path, into),
        _ => into.push(Operation::Replace { path, value: after.clone() }),
    }
}

/// What two lists begin and end with in common stays; in between, elements become others, and then go or come.
fn elements(old: &[Value], new: &[Value], path: &str, into: &mut Vec<Operation>) {
    let start = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let (old, new) = (old.get(start..).unwrap_or_default(), new.get(start..).unwrap_or_default());
    let end = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| alike(old, new)).count();
    let (old, old_end) = old.split_at(old.len().saturating_sub(end));
    let (new, new_end) = new.split_at(new.len().saturating_sub(end));
    let kept = new.len();
    let at = |index: usize| format!("{path}/{}", start.saturating_add(index));
    for (index, (old, new)) in old.iter().zip(new).enumerate() {
        compare(old, new, at(index), into);
    }
    for index in (new.len()..old.len()).rev() {
        into.push(Operation::Remove { path: at(index) });
    }
    for (index, value) in new.iter().enumerate().skip(old.len()) {
        into.push(Operation::Add { path: at(index), value: value.clone() });
    }
    for (index, (old, new)) in old_end.iter().zip(new_end).enumerate() {
        compare(old, new, at(kept.saturating_add(index)), into);
    }
}

/// Whether they are the same thing, changed or not: equal, or of one name.
fn alike(old: &Value, new: &Value) -> bool {
    let name = |value: &Value| value.get("name").and_then(Value::as_str).map(str::to_owned);
    old == new || name(old).is_some_and(|old| Some(old) == name(new))
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;

    /// Applies as strictly as a server: a parent must be there, and what is removed or replaced too.
    fn apply(mut document: Value, operations: &[Operation]) -> Value {
        for operation in operations {
            let (path, value) = match operation {
                Operation::Add { path, value } | Operation::Replace { path, value } => {
                    (path, Some(value.clone()))
                }
                Operation::Remove { path } => (path, None),
            };
            let Some((parent, last)) = path.rsplit_once('/') else {
                document = value.expect("a document");
                continue;
            };
            let last = last.replace("~1", "/").replace("~0", "~");
            match document.pointer_mut(parent).unwrap_or_else(|| panic!("{parent} is missing")) {
                Value::Object(map) => match operation {
                    Operation::Add { .. } => drop(map.insert(last, value.unwrap())),
                    Operation::Replace { .. } => {
                        *map.get_mut(&last).expect("what is replaced") = value.unwrap()
                    }
                    Operation::Remove { .. } => drop(map.remove(&last).expect("what is removed")),
                },
                Value::Array(list) => {
                    let index: usize = last.parse().unwrap();
                    match operation {
                        Operation::Add { .. } => list.insert(index, value.unwrap()),
                        Operation::Replace { .. } => list[index] = value.unwrap(),
                        Operation::Remove { .. } => drop(list.remove(index)),
                    }
                }
                other => panic!("{parent} is {other}"),
            }
        }
        document
    }

    #[test]
    fn a_missing_parent_comes_whole_and_a_list_keeps_what_it_had() {
        let before =
            json!({"spec": {"containers": [{"name": "app", "probe": 1}]}, "metadata": {"annotations": null}});
        let after = json!({
            "spec": {"containers": [{"name": "new"}, {"name": "app", "probe": 2}], "volumes": [1]},
            "metadata": {"annotations": {"a/b~c": "x"}},
        });
        let operations = diff(&before, &after);
        assert_eq!(apply(before, &operations), after);
        let text = serde_json::to_value(&operations).unwrap();
        assert_eq!(
            text,
            json!([
                {"op": "add", "path": "/metadata/annotations", "value": {"a/b~c": "x"}},
                {"op": "add", "path": "/spec/containers/0", "value": {"name": "new"}},
                {"op": "replace", "path": "/spec/containers/1/probe", "value": 2},
                {"op": "add", "path": "/spec/volumes", "value": [1]},
            ])
        );
        let one = diff(&json!({"m": {}}), &json!({"m": {"a/b~c": 1}}));
        assert_eq!(serde_json::to_value(&one).unwrap()[0]["path"], "/m/a~1b~0c");
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(Value::Null), (0..3u8).prop_map(Value::from), "[ab]".prop_map(Value::from)];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
                prop::collection::btree_map("[ab/~]|name", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_a_patch_makes_is_what_was_wanted(before in documents(), after in documents()) {
            prop_assert_eq!(apply(before.clone(), &diff(&before, &after)), after);
        }
    }
}
