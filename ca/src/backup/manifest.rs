//! What is in a copy: `copy.json`, written last.
//!
//! It names the moment, the mesh and every file with its digest, under the mark of the authority's rows. A data
//! directory with such a list in it was put there from a copy and never started: the start compares the files with
//! it, says loudly what is due, and takes the list away. So a copy that lost a file, or was put together from
//! two, is refused rather than begun with. A copy made by hand of a stopped control plane has no list, and needs none.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{Context, SHA256};
use serde_json::{Value, json};

use super::files::{SHARED, create};
use super::folder::moment;
use super::{BackupError, hex, io};
use crate::files::{self, FileError};
use crate::store::{Column, RowMac};

/// The list's name.
pub(crate) const FILE: &str = "copy.json";
const TABLE: &str = "copy";
const FORMAT: u64 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) trust_domain: String,
    pub(crate) mesh: String,
    pub(crate) replica: String,
    pub(crate) at: i64,
    pub(crate) log_sequence: u64,
    pub(crate) log_hash: String,
    /// The store is in it.
    pub(crate) store: bool,
    /// Length and SHA-256, by name.
    pub(crate) files: BTreeMap<String, (u64, String)>,
}

/// A data directory that came from a copy is not what was copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyMismatch {
    #[error("{path} is not the list of a copy of this mesh: restore the whole copy again, or another one")]
    List { path: PathBuf },
    #[error("{} is missing, though the copy of {} had it: restore the whole copy again, or another one", path.display(), moment(*at))]
    Missing { path: PathBuf, at: i64 },
    #[error("{} is not the file that the copy of {} had: restore the whole copy again, or another one", path.display(), moment(*at))]
    Changed { path: PathBuf, at: i64 },
    #[error(transparent)]
    File(#[from] FileError),
}

impl Manifest {
    /// The same, with every file that lies in the folder.
    pub(super) fn listing(mut self, folder: &Path) -> Result<Manifest, FileError> {
        self.list(folder, "")?;
        Ok(self)
    }

    fn list(&mut self, folder: &Path, within: &str) -> Result<(), FileError> {
        for entry in std::fs::read_dir(folder).map_err(io("read", folder))? {
            let entry = entry.map_err(io("read", folder))?;
            let (path, name) = (entry.path(), format!("{within}{}", entry.file_name().to_string_lossy()));
            if path.is_dir() {
                self.list(&path, &format!("{name}/"))?;
            } else {
                self.files.insert(name, digest(&path)?);
            }
        }
        Ok(())
    }

    /// Files, and bytes in them.
    pub(super) fn size(&self) -> (u64, u64) {
        let bytes = self.files.values().fold(0_u64, |sum, (bytes, _)| sum.saturating_add(*bytes));
        (u64::try_from(self.files.len()).unwrap_or(u64::MAX), bytes)
    }

    pub(super) fn write(&self, folder: &Path, mac: &RowMac) -> Result<(), BackupError> {
        let files: BTreeMap<&String, Value> = self
            .files
            .iter()
            .map(|(name, (bytes, sha256))| (name, json!({"bytes": bytes, "sha256": sha256})))
            .collect();
        let text = json!({
            "format": FORMAT, "trustDomain": self.trust_domain, "mesh": self.mesh, "replica": self.replica,
            "at": self.at, "logSequence": self.log_sequence, "logHash": self.log_hash, "store": self.store,
            "files": files,
        })
        .to_string();
        let mark = STANDARD.encode(mac.tag(TABLE, &[Column::Text(&text)]));
        let whole = serde_json::to_vec(&json!({"copy": text, "mac": mark}))?;
        let path = folder.join(FILE);
        create(&path)?.write_all(&whole).map_err(io("write", &path))?;
        Ok(())
    }
}

fn digest(path: &Path) -> Result<(u64, String), FileError> {
    let mut file = File::open(path).map_err(io("open", path))?;
    let (mut context, mut length, mut buffer) = (Context::new(&SHA256), 0_u64, vec![0_u8; 256 * 1024]);
    loop {
        let count = file.read(&mut buffer).map_err(io("read", path))?;
        let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else { break };
        context.update(read);
        length = length.saturating_add(read.len() as u64);
    }
    Ok((length, hex(context.finish().as_ref())))
}

/// What a copy says of itself; the mark is not looked at. None for what is no copy.
pub(super) fn peek(folder: &Path) -> Option<Manifest> {
    let bytes = files::read_private(&folder.join(FILE)).ok()??;
    let whole: Value = serde_json::from_slice(&bytes).ok()?;
    read(whole.get("copy")?.as_str()?)
}

fn read(text: &str) -> Option<Manifest> {
    let value: Value = serde_json::from_str(text).ok()?;
    let words = |field: &str| Some(value.get(field)?.as_str()?.to_owned());
    if value.get("format")?.as_u64()? != FORMAT {
        return None;
    }
    let mut files = BTreeMap::new();
    for (name, file) in value.get("files")?.as_object()? {
        files.insert(name.clone(), (file.get("bytes")?.as_u64()?, file.get("sha256")?.as_str()?.to_owned()));
    }
    Some(Manifest {
        trust_domain: words("trustDomain")?,
        mesh: words("mesh")?,
        replica: words("replica")?,
        at: value.get("at")?.as_i64()?,
        log_sequence: value.get("logSequence")?.as_u64()?,
        log_hash: words("logHash")?,
        store: value.get("store")?.as_bool()?,
        files,
    })
}

/// Whether the data directory was just put there from a copy: then its files are those of the copy, and the list is
/// taken away.
pub(crate) fn arrived(data_dir: &Path, mac: &RowMac) -> Result<Option<Manifest>, CopyMismatch> {
    let path = data_dir.join(FILE);
    let Some(bytes) = files::read_private(&path)? else { return Ok(None) };
    let marked = || {
        let whole: Value = serde_json::from_slice(&bytes).ok()?;
        let (text, mark) = (whole.get("copy")?.as_str()?, whole.get("mac")?.as_str()?);
        mac.check(TABLE, &[Column::Text(text)], &STANDARD.decode(mark).ok()?).ok()?;
        read(text)
    };
    let Some(copy) = marked() else { return Err(CopyMismatch::List { path }) };
    let shared = format!("{SHARED}/");
    for (name, listed) in &copy.files {
        // Other control planes go on with what they share: it may be newer.
        if name.starts_with(&shared) {
            continue;
        }
        let path = data_dir.join(name);
        if !path.exists() {
            return Err(CopyMismatch::Missing { path, at: copy.at });
        }
        if digest(&path)? != *listed {
            return Err(CopyMismatch::Changed { path, at: copy.at });
        }
    }
    // Before anything is written: whatever is there from now on is newer than the list.
    files::remove(&path)?;
    Ok(Some(copy))
}
