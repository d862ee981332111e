//! The folder of copies.
//!
//! Copies have the name of their moment, `20261125T223000Z`. What is being made, or removed, is called
//! `.20261125T223000Z.partial`: a crash leaves that, and the next copy clears it away. Removed is only what says of
//! itself that this control plane made it. A lock keeps two control planes out of one folder.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::manifest::{self, Manifest};
use super::{BackupError, io};
use crate::files::{self, FileError};

const PARTIAL: &str = ".partial";
/// Names for copies of one second.
const PER_SECOND: u32 = 20;

/// Whose copies are looked at.
pub(super) struct Owner {
    pub(super) mesh: String,
    pub(super) replica: String,
}

impl Owner {
    fn made(&self, copy: &Manifest) -> bool {
        copy.mesh == self.mesh && copy.replica == self.replica
    }
}

pub(super) struct Folder {
    path: PathBuf,
    owner: Owner,
    keep: usize,
    _lock: File,
}

/// Where one copy is made. Dropped before it is published, nothing is left of it.
pub(super) struct Place {
    folder: PathBuf,
    name: String,
    partial: PathBuf,
    published: bool,
}

impl Folder {
    pub(super) fn open(path: &Path, owner: Owner, keep: usize) -> Result<Folder, BackupError> {
        files::private_directory(path)?;
        let lock = path.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock)
            .map_err(io("lock", &lock))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(BackupError::FolderTaken { path: path.to_owned() });
            }
            Err(std::fs::TryLockError::Error(source)) => return Err(io("lock", &lock)(source).into()),
        }
        let folder = Folder { path: path.to_owned(), owner, keep, _lock: file };
        folder.clear()?;
        Ok(folder)
    }

    /// Takes away what a crash left.
    fn clear(&self) -> Result<(), FileError> {
        for name in names(&self.path)? {
            let copy = name.strip_prefix('.').and_then(|name| name.strip_suffix(PARTIAL));
            if copy.is_some_and(is_name) {
                let path = self.path.join(&name);
                std::fs::remove_dir_all(&path).map_err(io("remove", &path))?;
                tracing::warn!(target: "signet::ca", path = %path.display(), "removed a copy that was never finished");
            }
        }
        Ok(())
    }

    /// Begins a copy of this moment.
    pub(super) fn begin(&self, now: i64) -> Result<Place, BackupError> {
        let moment = moment(now);
        let free = |name: &String| std::fs::symlink_metadata(self.path.join(name)).is_err();
        let mut names =
            std::iter::once(moment.clone()).chain((2..=PER_SECOND).map(|n| format!("{moment}-{n:02}")));
        let name = names.find(free).ok_or_else(|| BackupError::NoName { path: self.path.clone() })?;
        let partial = self.path.join(format!(".{name}{PARTIAL}"));
        DirBuilder::new().mode(0o700).create(&partial).map_err(io("create the directory", &partial))?;
        Ok(Place { folder: self.path.clone(), name, partial, published: false })
    }

    /// Removes the oldest of our copies; which. The one that was just made stays, whatever the clock says.
    pub(super) fn prune(&self, made: &str) -> Result<Vec<String>, FileError> {
        let mut ours = ours(&self.path, &self.owner)?;
        ours.retain(|(_, name)| name != made);
        ours.sort();
        let many = ours.len().saturating_sub(self.keep.saturating_sub(1));
        let mut removed = Vec::new();
        for (_, name) in ours.into_iter().take(many) {
            let (path, away) = (self.path.join(&name), self.path.join(format!(".{name}{PARTIAL}")));
            // Out of sight first: half a copy is none.
            std::fs::rename(&path, &away).map_err(io("remove", &path))?;
            std::fs::remove_dir_all(&away).map_err(io("remove", &away))?;
            removed.push(name);
        }
        Ok(removed)
    }
}

impl Place {
    pub(super) fn path(&self) -> &Path {
        &self.partial
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// It is whole: from here on it is there, or, after a crash, it is not.
    pub(super) fn publish(mut self) -> Result<PathBuf, BackupError> {
        let path = self.folder.join(&self.name);
        if std::fs::symlink_metadata(&path).is_ok() {
            return Err(BackupError::NoName { path: self.folder.clone() });
        }
        std::fs::rename(&self.partial, &path).map_err(io("rename", &self.partial))?;
        self.published = true;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(io("sync", &self.folder))?;
        Ok(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = std::fs::remove_dir_all(&self.partial)
        {
            // Nobody takes it for a copy, and the next one clears it away.
            tracing::warn!(target: "signet::ca", %error, path = %self.partial.display(), "what was copied before a failure could not be removed");
        }
    }
}

/// When the newest copy of this control plane was made.
pub(super) fn newest(path: &Path, owner: &Owner) -> Result<Option<i64>, FileError> {
    files::private_directory(path)?;
    Ok(ours(path, owner)?.into_iter().map(|(at, _)| at).max())
}

fn ours(path: &Path, owner: &Owner) -> Result<Vec<(i64, String)>, FileError> {
    let copies = names(path)?.into_iter().filter(|name| is_name(name));
    let read = |name: String| {
        let copy = manifest::peek(&path.join(&name))?;
        owner.made(&copy).then_some((copy.at, name))
    };
    Ok(copies.filter_map(read).collect())
}

fn names(path: &Path) -> Result<Vec<String>, FileError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io("read", path))? {
        let entry = entry.map_err(io("read", path))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Some(name) = entry.file_name().to_str()
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// `20261125T223000Z`, or with `-02` and so on for more of the same second.
fn is_name(name: &str) -> bool {
    let (moment, number) =
        name.split_once('-').map_or((name, None), |(moment, number)| (moment, Some(number)));
    let digits = |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((day, time)) = moment.strip_suffix('Z').and_then(|moment| moment.split_once('T')) else {
        return false;
    };
    digits(day, 8) && digits(time, 6) && number.is_none_or(|number| digits(number, 2))
}

/// As a name.
pub(super) fn moment(now: i64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp(now).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second) = at.to_hms();
    format!("{year:04}{:02}{day:02}T{hour:02}{minute:02}{second:02}Z", u8::from(month))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_called_like_a_moment_is_taken_for_a_copy() {
        assert_eq!(moment(1_795_645_800), "20261125T223000Z");
        assert!(is_name("20261125T223000Z") && is_name("20261125T223000Z-02"));
        for other in
            ["", "lock", ".20261125T223000Z.partial", "20261125T223000", "20261125T223000Z-2", "a-b", "Z"]
        {
            assert!(!is_name(other), "{other}");
        }
    }
}
