//! Where sealed secrets lie: in a folder, or in a table that all control planes of one store share.
//!
//! Both keep bytes that are sealed already. The table is for those who run several control planes and have no folder that
//! all of them can write to: whoever reads the database gets nothing without the sealing key, which is never in it.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use super::{Role, SealError};
use crate::files::{self, FileError};
use crate::store::SealedTable;

/// A place for sealed secrets, each under the name of its role.
#[derive(Debug, Clone)]
pub(crate) enum Shelf {
    Folder(PathBuf),
    Store(SealedTable),
}

impl From<&Path> for Shelf {
    fn from(folder: &Path) -> Shelf {
        Shelf::Folder(folder.to_path_buf())
    }
}

impl Shelf {
    /// Where the secret of this name lies, for messages.
    pub(super) fn place(&self, name: &str) -> PathBuf {
        match self {
            Shelf::Folder(folder) => folder.join(name),
            Shelf::Store(table) => table.place(name).into(),
        }
    }

    pub(super) fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, SealError> {
        match self {
            Shelf::Folder(folder) => Ok(files::read_private(&folder.join(name))?),
            Shelf::Store(table) => Ok(table.read(name).map_err(in_store)?.map(Zeroizing::new)),
        }
    }

    /// Keeps it durably in the place of what was there.
    pub(super) fn write(&self, name: &str, sealed: &[u8]) -> Result<(), SealError> {
        match self {
            Shelf::Folder(folder) => Ok(files::write_private(&folder.join(name), sealed)?),
            Shelf::Store(table) => table.write(name, sealed).map_err(in_store),
        }
    }

    /// The same unless something is there, which then stays.
    pub(super) fn write_first(&self, name: &str, sealed: &[u8]) -> Result<(), SealError> {
        match self {
            Shelf::Folder(folder) => Ok(files::write_private_first(&folder.join(name), sealed)?),
            Shelf::Store(table) => table.write_first(&[(name, sealed)]).map_err(in_store),
        }
    }

    /// Takes it away for good; none there is no error.
    pub(crate) fn remove(&self, name: &str) -> Result<(), SealError> {
        match self {
            Shelf::Folder(folder) => Ok(files::remove(&folder.join(name))?),
            Shelf::Store(table) => table.remove(name).map_err(in_store),
        }
    }

    /// In words the store of a mesh, where this is in one.
    pub(crate) fn bound(&self) -> Result<Option<String>, SealError> {
        match self {
            Shelf::Folder(_) => Ok(None),
            Shelf::Store(table) => table.bound().map_err(in_store),
        }
    }

    /// Copies what is here under these names to `to`, all of it at once where that is the store, except where something
    /// has the name already.
    pub(crate) fn copy_first(&self, names: &[String], to: &Shelf) -> Result<(), SealError> {
        let mut rows = Vec::new();
        for name in names {
            if let Some(sealed) = self.read(name)? {
                rows.push((name.as_str(), sealed));
            }
        }
        match to {
            Shelf::Folder(_) => {
                // What says whose the others are comes last: without it a start takes nothing for granted.
                rows.sort_by_key(|(name, _)| *name == Role::RowMac.file_name());
                rows.iter().try_for_each(|(name, sealed)| to.write_first(name, sealed))
            }
            Shelf::Store(table) => {
                let rows: Vec<_> = rows.iter().map(|(name, sealed)| (*name, sealed.as_slice())).collect();
                table.write_first(&rows).map_err(in_store)
            }
        }
    }

    /// The names of all that lies here (in a folder, of everything in it), and how long ago each was written where that
    /// can be said.
    pub(crate) fn list(&self) -> Result<Vec<(String, Option<Duration>)>, SealError> {
        let folder = match self {
            Shelf::Folder(folder) => folder,
            Shelf::Store(table) => return table.list().map_err(in_store),
        };
        let io = |source| FileError::Io { action: "read", path: folder.clone(), source };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            if let Ok(name) = entry.file_name().into_string() {
                let modified = entry.metadata().and_then(|it| it.modified()).ok();
                found.push((name, modified.and_then(|at| SystemTime::now().duration_since(at).ok())));
            }
        }
        Ok(found)
    }
}

fn in_store(error: crate::store::StoreError) -> SealError {
    SealError::Store(Box::new(error))
}
