//! YAML and JSON to types, with errors that say where.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::ConfigError;

/// Reads one YAML document. Duplicate keys, a second document and unknown fields are errors.
pub fn from_yaml<T: DeserializeOwned>(file: &Path, text: &str) -> Result<T, ConfigError> {
    signet_model::from_yaml(text).map_err(|error| ConfigError::Syntax {
        file: file.to_owned(),
        line: error.line,
        column: error.column,
        field: named(&error.field),
        reason: error.reason,
    })
}

/// Reads one JSON document, strictly: nothing may follow it.
///
/// For files with secrets: a message never quotes what the document says.
pub fn from_json<T: DeserializeOwned>(file: &Path, bytes: &[u8]) -> Result<T, ConfigError> {
    let mut document = serde_json::Deserializer::from_slice(bytes);
    let read = serde_path_to_error::deserialize(&mut document).map_err(|error| {
        let field = error.path().to_string();
        (field, error.into_inner())
    });
    read.and_then(|value| document.end().map(|()| value).map_err(|error| (String::new(), error))).map_err(
        |(field, error)| ConfigError::Syntax {
            file: file.to_owned(),
            line: error.line() as u64,
            column: error.column() as u64,
            field: named(&field),
            reason: reason(&error.to_string()),
        },
    )
}

/// The path of a field, or that of the document.
fn named(field: &str) -> String {
    if field.is_empty() || field == "." { "(file)".to_owned() } else { field.to_owned() }
}

/// A message without the place, which stands before it already, and on one line.
fn reason(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let end = [" at line ", " (line "].iter().filter_map(|mark| line.rfind(mark)).min();
    let line = end.and_then(|end| line.get(..end)).unwrap_or(line);
    line.trim_end_matches([':', ' ']).to_owned()
}
