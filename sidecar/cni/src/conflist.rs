//! Our entry in a network configuration of somebody else, as text: everything around it stays as it is, to the byte, so that
//! what is taken out again leaves the file as it was.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::TYPE;

/// Why a text is no configuration that an entry can be put into.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got {got}")]
pub struct Wrong {
    expected: &'static str,
    got: String,
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    plugins: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct One {
    r#type: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    cni_version: String,
}

/// Where something begins and ends in a text.
type Span = (usize, usize);

/// The entries of a list of plugins, and whether each is ours.
fn entries(text: &str) -> Result<Vec<(Span, bool)>, Wrong> {
    let wrong = |got: String| Wrong { expected: "a list of plugins (JSON with `plugins`)", got };
    let list: List<'_> = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    if list.plugins.is_empty() {
        return Err(wrong("an empty one".to_owned()));
    }
    let start = text.as_ptr().addr();
    let mut found = Vec::new();
    for plugin in list.plugins {
        let raw = plugin.get();
        let one: One = serde_json::from_str(raw).map_err(|error| wrong(error.to_string()))?;
        // It is a part of the text, not a copy.
        let at = raw.as_ptr().addr().saturating_sub(start);
        found.push(((at, at.saturating_add(raw.len())), one.r#type == TYPE));
    }
    Ok(found)
}

/// The programs of the other plugins: of a list, or of the configuration of one.
pub fn others(text: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct Any {
        #[serde(default)]
        plugins: Vec<One>,
        r#type: Option<String>,
    }
    let Ok(any) = serde_json::from_str::<Any>(text) else { return Vec::new() };
    let all = any.plugins.into_iter().map(|one| one.r#type).chain(any.r#type);
    all.filter(|one| one != TYPE).collect()
}

/// Whether the list has our entry.
///
/// # Errors
/// [`Wrong`]: it is no list.
pub fn has_entry(text: &str) -> Result<bool, Wrong> {
    Ok(entries(text)?.iter().any(|(_, ours)| *ours))
}

/// The list with our entry at its end, in place of whichever it had.
///
/// # Errors
/// [`Wrong`]: it is no list, or one of ours alone.
pub fn with_entry(text: &str, entry: &str) -> Result<String, Wrong> {
    let bare = without_entry(text)?;
    let text = bare.as_deref().unwrap_or(text);
    let end = entries(text)?.last().map_or(0, |(span, _)| span.1);
    let (before, after) = text.split_at_checked(end).unwrap_or((text, ""));
    Ok(format!("{before},\n    {entry}{after}"))
}

/// The list without any entry of ours; none where there was none.
///
/// # Errors
/// [`Wrong`]: it is no list, or one of ours alone.
pub fn without_entry(text: &str) -> Result<Option<String>, Wrong> {
    let mut text = text.to_owned();
    let mut changed = false;
    loop {
        let all = entries(&text)?;
        let Some(at) = all.iter().position(|(_, ours)| *ours) else { break };
        let span = |at: usize| all.get(at).map(|(span, _)| *span);
        // With the comma before it; the first goes with the comma behind it.
        let (from, to) = match (at.checked_sub(1).and_then(span), span(at), span(at.saturating_add(1))) {
            (Some(before), Some(own), _) => (before.1, own.1),
            (None, Some(own), Some(next)) => (own.0, next.0),
            _ => {
                let got = "no plugin but signet-cni".to_owned();
                return Err(Wrong { expected: "plugins that make the network", got });
            }
        };
        text.replace_range(from..to, "");
        changed = true;
    }
    Ok(changed.then_some(text))
}

/// A list of the one plugin that this configuration is of, and of our entry.
///
/// # Errors
/// [`Wrong`]: it is not of one plugin, or has no name.
pub fn wrapped(text: &str, entry: &str) -> Result<String, Wrong> {
    let wrong = |got: String| Wrong {
        expected: "the configuration of one plugin (JSON with `type` and `name`)",
        got,
    };
    let one: One = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    if one.name.is_empty() || one.r#type == TYPE {
        return Err(wrong(format!("the name {:?} and the type {:?}", one.name, one.r#type)));
    }
    // Without a version the runtime takes the oldest, here as there.
    let version = match one.cni_version.as_str() {
        "" => String::new(),
        version => format!("  \"cniVersion\": {},\n", serde_json::Value::from(version)),
    };
    let name = serde_json::Value::from(one.name);
    Ok(format!(
        "{{\n{version}  \"name\": {name},\n  \"plugins\": [\n    {},\n    {entry}\n  ]\n}}\n",
        text.trim()
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ENTRY: &str = r#"{"type":"signet-cni","socket":"/s"}"#;
    const LISTS: [&str; 4] = [
        "{\n  \"name\": \"k8s-pod-network\",\n  \"cniVersion\": \"0.3.1\",\n  \"plugins\": [\n    {\"type\": \"calico\", \"ipam\": {\"type\": \"calico-ipam\"}},\n    {\n      \"type\": \"portmap\"\n    }\n  ]\n}\n",
        r#"{"plugins":[{"type":"ptp"}],"name":"n"}"#,
        "{\"plugins\"  :  [ {\"type\":\"\\u0062ridge\", \"é]\": \"\\\"plugins\\\": []\"} ] , \"name\":\"ü\"}",
        "\n\n{\"cniVersions\": [\"0.4.0\", \"1.0.0\"], \"plugins\": [{\"type\": \"a\", \"x\": 1.50, \"y\": 1e400},\r\n{\"type\": \"b\"}]}",
    ];

    #[test]
    fn what_is_put_in_is_last_and_taken_out_leaves_every_byte_as_it_was() {
        for list in LISTS {
            assert_eq!((has_entry(list), without_entry(list)), (Ok(false), Ok(None)));
            let with = with_entry(list, ENTRY).unwrap();
            assert_eq!(has_entry(&with), Ok(true));
            assert!(with.contains(ENTRY));
            assert_eq!(entries(&with).unwrap().last().map(|(_, ours)| *ours), Some(true));
            assert_eq!(without_entry(&with).unwrap().as_deref(), Some(list));
            // Another version of us comes in its place.
            let newer = with_entry(&with, r#"{"type":"signet-cni","socket":"/t"}"#).unwrap();
            assert!(!newer.contains(ENTRY) && newer.contains("/t"));
            assert_eq!(without_entry(&newer).unwrap().as_deref(), Some(list));
        }
    }

    #[test]
    fn an_entry_is_taken_out_wherever_it_stands() {
        let list =
            r#"{"plugins": [{"type":"signet-cni"}, {"type":"a"}, {"type":"signet-cni"}, {"type":"b"}]}"#;
        assert_eq!(without_entry(list).unwrap().unwrap(), r#"{"plugins": [{"type":"a"}, {"type":"b"}]}"#);
        let alone = without_entry(r#"{"plugins": [{"type":"signet-cni"}]}"#).unwrap_err();
        assert!(alone.to_string().contains("plugins that make the network"));
    }

    #[test]
    fn a_configuration_of_one_plugin_becomes_a_list() {
        let one = "{\n  \"cniVersion\": \"0.3.1\", \"name\": \"a\\\"b\", \"type\": \"ptp\"\n}\n";
        let list: Value = serde_json::from_str(&wrapped(one, ENTRY).unwrap()).unwrap();
        assert_eq!((&list["cniVersion"], &list["name"]), (&json!("0.3.1"), &json!("a\"b")));
        assert_eq!(list["plugins"][0], serde_json::from_str::<Value>(one).unwrap());
        assert_eq!(list["plugins"][1]["type"], "signet-cni");
        let list: Value =
            serde_json::from_str(&wrapped(r#"{"name":"n","type":"ptp"}"#, ENTRY).unwrap()).unwrap();
        assert!(list.get("cniVersion").is_none());
    }

    #[test]
    fn what_is_no_configuration_is_left_alone() {
        for text in ["", "{", "[]", "{}", r#"{"plugins": []}"#, r#"{"plugins": [{}]}"#, r#"{"plugins": [1]}"#]
        {
            assert!(with_entry(text, ENTRY).is_err() && without_entry(text).is_err(), "{text}");
        }
        for text in ["", r#"{"type": "ptp"}"#, r#"{"name": "n"}"#, r#"{"name": "n", "type": "signet-cni"}"#] {
            assert!(wrapped(text, ENTRY).is_err(), "{text}");
        }
    }
}
