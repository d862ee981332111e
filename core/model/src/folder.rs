//! Reads a registry from a folder of YAML.
//!
//! Every `*.yaml` and `*.yml` directly inside, dot files left out, in the order of their names. A folder
//! that Kubernetes mounts from a ConfigMap is read through its `..data` link once, so that one load sees
//! one version. What anybody but its owner could write is not read at all: whoever writes the registry
//! says who may do what.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::decode::yaml_documents;
use crate::error::{RegistryError, RegistryErrors};
use crate::object::Resource;
use crate::registry::{Options, Origin, Registry};

/// A file that is longer is refused.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// A folder with more files is refused.
pub const MAX_FILES: usize = 4096;

/// Reads the folder, whole or not at all.
pub fn parse_folder(path: &Path, options: &Options) -> Result<Registry, RegistryErrors> {
    let mut errors = Vec::new();
    let files = match list(path) {
        Ok(files) => files,
        Err(error) => return Err(RegistryErrors(vec![error])),
    };
    let mut resources = Vec::new();
    for file in files {
        match read(&file) {
            Ok(text) => documents(&file, &text, &mut resources, &mut errors),
            Err(error) => errors.push(error),
        }
    }
    finish(resources, errors, options)
}

/// Reads one text as if it were the only file, called `file` in errors.
pub fn parse_text(file: &Path, text: &str, options: &Options) -> Result<Registry, RegistryErrors> {
    let mut errors = Vec::new();
    let mut resources = Vec::new();
    documents(file, text, &mut resources, &mut errors);
    finish(resources, errors, options)
}

/// References are checked only where every document could be read: otherwise each unreadable service
/// would bring a crowd of errors that say nothing new.
fn finish(
    resources: Vec<(Origin, Resource)>,
    errors: Vec<RegistryError>,
    options: &Options,
) -> Result<Registry, RegistryErrors> {
    if errors.is_empty() { Registry::build(resources, options) } else { Err(RegistryErrors(errors)) }
}

fn documents(
    file: &Path,
    text: &str,
    resources: &mut Vec<(Origin, Resource)>,
    errors: &mut Vec<RegistryError>,
) {
    let documents = match yaml_documents(text) {
        Ok(documents) => documents,
        Err(error) => {
            errors.push(RegistryError {
                file: file.to_path_buf(),
                document: None,
                line: error.location().map(|location| location.line()).filter(|line| *line > 0),
                field: String::new(),
                reason: format!("expected YAML: {error}"),
            });
            return;
        }
    };
    let shared: Arc<Path> = file.into();
    for (index, document) in documents.into_iter().enumerate() {
        if document.value == Value::Null {
            continue; // as Kubernetes' tools do: `---` at the end, or comments only
        }
        let origin = Origin::in_file(&shared, index.saturating_add(1), document.lines);
        if !document.problems.is_empty() {
            errors.extend(
                document.problems.into_iter().map(|problem| origin.error(problem.field, problem.reason)),
            );
            continue;
        }
        match Resource::from_value(document.value) {
            Ok(resource) => resources.push((origin, resource)),
            Err(problems) => {
                errors
                    .extend(problems.into_iter().map(|problem| origin.error(problem.field, problem.reason)));
            }
        }
    }
}

fn list(path: &Path) -> Result<Vec<PathBuf>, RegistryError> {
    refuse_foreign_writers(path, &metadata(path)?)?;
    let data = path.join("..data");
    let folder = if data.exists() {
        let real = fs::canonicalize(&data).map_err(|error| unreadable(&data, &error))?;
        refuse_foreign_writers(&real, &metadata(&real)?)?;
        real
    } else {
        path.to_path_buf()
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).map_err(|error| unreadable(&folder, &error))? {
        let entry = entry.map_err(|error| unreadable(&folder, &error))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') && (name.ends_with(".yaml") || name.ends_with(".yml")) {
            files.push(entry.path());
        }
        if files.len() > MAX_FILES {
            return Err(refusal(&folder, format!("expected at most {MAX_FILES} files, got more")));
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<String, RegistryError> {
    // Asked before opening: opening a pipe would wait for whoever writes it.
    if !metadata(path)?.is_file() {
        return Err(refusal(path, "expected a file, got something else"));
    }
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let metadata = file.metadata().map_err(|error| unreadable(path, &error))?;
    refuse_foreign_writers(path, &metadata)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(path, &error))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
        return Err(refusal(
            path,
            format!("expected at most {MAX_FILE_BYTES} bytes, got more: divide the file"),
        ));
    }
    String::from_utf8(bytes).map_err(|error| refusal(path, format!("expected UTF-8: {}", error.utf8_error())))
}

fn metadata(path: &Path) -> Result<fs::Metadata, RegistryError> {
    fs::metadata(path).map_err(|error| unreadable(path, &error))
}

fn refuse_foreign_writers(path: &Path, metadata: &fs::Metadata) -> Result<(), RegistryError> {
    const GROUP_AND_OTHERS_WRITE: u32 = 0o022;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & GROUP_AND_OTHERS_WRITE == 0 {
        return Ok(());
    }
    let reason = format!(
        "expected that only the owner may write, got mode {mode:04o}: whoever writes the registry decides who may do what \
         (chmod go-w)"
    );
    Err(refusal(path, reason))
}

fn unreadable(path: &Path, error: &std::io::Error) -> RegistryError {
    refusal(path, format!("cannot be read: {error}"))
}

fn refusal(path: &Path, reason: impl Into<String>) -> RegistryError {
    RegistryError {
        file: path.to_path_buf(),
        document: None,
        line: None,
        field: String::new(),
        reason: reason.into(),
    }
}
