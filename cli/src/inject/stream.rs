//! A stream of documents, each with its own bytes.

use anyhow::Context as _;
use serde_json::Value;

/// One document.
#[derive(Debug)]
pub(super) struct Document {
    /// As it came, without the line that begins it.
    pub(super) text: String,
    /// What it says; none where it says nothing.
    pub(super) value: Option<Value>,
    /// Whether it is JSON.
    pub(super) json: bool,
}

/// Reads all of them.
pub(super) fn documents(text: &str) -> anyhow::Result<Vec<Document>> {
    if text.trim_start().starts_with('{')
        && let Ok(all) =
            serde_json::Deserializer::from_str(text).into_iter::<Value>().collect::<Result<Vec<_>, _>>()
    {
        if let [one] = all.as_slice() {
            return Ok(vec![Document { text: text.to_owned(), value: Some(one.clone()), json: true }]);
        }
        let shown = |value: &Value| serde_json::to_string_pretty(value).map(|text| format!("{text}\n"));
        let document = |value: Value| Ok(Document { text: shown(&value)?, value: Some(value), json: true });
        return all.into_iter().map(document).collect();
    }
    let mut parts = vec![String::new()];
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end_matches(['\n', '\r']);
        match bare.strip_prefix("---").filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t'])) {
            Some(rest) => {
                let rest = rest.trim_start();
                parts.push(if rest.is_empty() || rest.starts_with('#') {
                    String::new()
                } else {
                    format!("{rest}\n")
                });
            }
            None => parts.last_mut().into_iter().for_each(|part| part.push_str(line)),
        }
    }
    let said = |text: &String| text.lines().any(|line| !line.trim().is_empty());
    parts
        .into_iter()
        .filter(said)
        .enumerate()
        .map(|(at, text)| yaml(text).with_context(|| format!("document {at}")))
        .collect()
}

fn yaml(text: String) -> anyhow::Result<Document> {
    // As kubectl reads it: 0644 is a file mode, and `yes` is true.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let only_comments = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    let value: Value =
        if only_comments { Value::Null } else { serde_saphyr::from_str_with_options(&text, options)? };
    Ok(Document { text, value: (!value.is_null()).then_some(value), json: false })
}

/// Puts a document behind the others.
pub(super) fn push(out: &mut String, text: &str) {
    if !out.is_empty() {
        if !out.ends_with('\n') {
            out.push('\n');
        }
        out.push_str("---\n");
    }
    out.push_str(text);
}
