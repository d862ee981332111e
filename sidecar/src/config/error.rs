//! What can be wrong with a file that we are given.

use std::path::PathBuf;

/// Why a file is refused. Every message names the file and says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is missing or closed to us.
    #[error("{}: cannot be read: {source}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not YAML or JSON, an unknown field, a missing one, or one of the wrong type.
    #[error("{}:{line}:{column}: {field}: {reason}", .file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: u64,
        /// Column, from 1.
        column: u64,
        /// Path of the field, such as `inbound[0].listen`; `(file)` for the document itself.
        field: String,
        /// What was expected and what came.
        reason: String,
    },
    /// Read, but it cannot be acted on.
    #[error("{}: {field}: expected {expected}, got {got}", .file.display())]
    Field {
        /// The file.
        file: PathBuf,
        /// Path of the field.
        field: String,
        /// What would be right.
        expected: String,
        /// What came.
        got: String,
    },
    /// A file with a secret is missing, or others can read or replace it.
    #[error(transparent)]
    Secret(#[from] signet_daemon::FileError),
}
