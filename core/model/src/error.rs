//! What is wrong with a registry, said so that it can be put right.

use std::fmt;
use std::path::PathBuf;

/// One mistake inside one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// As in `spec.ports[0].port`; empty for the resource as a whole.
    pub field: String,
    /// What was expected, what came, and what to do where that is not plain.
    pub reason: String,
}

impl Problem {
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Problem {
        Problem { field: field.into(), reason: reason.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "{}: {}", self.field, self.reason)
        }
    }
}

/// A document that this reader cannot take as a whole. Its holder must not act on any part of it: a
/// policy that cannot be read makes its target deny.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", list(problems, "; "))]
pub struct Unreadable {
    pub problems: Vec<Problem>,
}

impl Unreadable {
    pub fn reason(reason: impl Into<String>) -> Unreadable {
        Unreadable { problems: vec![Problem::new("", reason)] }
    }
}

/// Why a text is not the document that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Misread {
    /// Counted from 1; 0 where it is not known.
    pub line: u64,
    /// Counted from 1; 0 where it is not known.
    pub column: u64,
    /// As in `inbound[0].listen`; empty for the document as a whole.
    pub field: String,
    /// What was expected, and what came.
    pub reason: String,
}

impl fmt::Display for Misread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)?;
        if self.line > 0 {
            write!(f, " (line {}, column {})", self.line, self.column)?;
        }
        Ok(())
    }
}

/// One mistake and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct RegistryError {
    pub file: PathBuf,
    /// Counted from 1; none where the file as a whole is at fault.
    pub document: Option<usize>,
    /// Counted from 1, where known.
    pub line: Option<u64>,
    /// As in `spec.ports[0].port`; empty for the document as a whole.
    pub field: String,
    pub reason: String,
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(document) = self.document {
            write!(f, " (document {document})")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// Every mistake that was found; never empty. The registry they came from is refused whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", list(.0, "\n"))]
pub struct RegistryErrors(pub Vec<RegistryError>);

impl RegistryErrors {
    pub fn iter(&self) -> std::slice::Iter<'_, RegistryError> {
        self.0.iter()
    }
}

fn list<T: fmt::Display>(items: &[T], separator: &str) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(separator)
}
