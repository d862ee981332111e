//! The user PIN.
//!
//! It is read from its file for each login and wiped after it. A token counts wrong PINs and locks itself
//! after a few, and a supervisor that restarts a failing program is a loop: so a refused PIN leaves a mark
//! in the data directory that names the PIN's file as it was, and until that file changes no login is tried
//! again, by this process or the next. The mark says nothing about the PIN itself.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use cryptoki::types::RawAuthPin;
use zeroize::Zeroizing;

use crate::files::{self, FileError};

const MARK: &str = "pkcs11-pin-refused";

/// Why there is no login. The PIN is in none of these.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path} is missing: put the user PIN on its first line, mode 0600")]
    Missing { path: PathBuf },
    #[error("the first line of {path} is empty but should be the user PIN")]
    Empty { path: PathBuf },
    #[error(
        "the token does not accept the PIN of {path} ({reason}): correct the file; no second attempt is made with this one, so that the token does not lock itself"
    )]
    Refused { path: PathBuf, reason: String },
    #[error(
        "the token refused the PIN of {path} before, and the file has not changed since: correct it; nothing was tried, so that the token does not lock itself"
    )]
    RefusedBefore { path: PathBuf },
    #[error(
        "the token would lock itself at one more wrong PIN: nothing was tried; log in once with the vendor's tool"
    )]
    FinalTry,
    #[error("the token has locked its user PIN: unlock it with the security officer's PIN")]
    Locked,
    #[error("the token has no user PIN yet: initialise it")]
    NotSet,
    #[error("the token wants its user PIN changed before it is used")]
    ToBeChanged,
}

pub(super) struct PinFile {
    path: PathBuf,
    mark: PathBuf,
}

impl PinFile {
    pub(super) fn new(path: &Path, data_dir: &Path) -> PinFile {
        PinFile { path: path.to_path_buf(), mark: data_dir.join(MARK) }
    }

    /// The PIN, unless the token refused this very file before.
    pub(super) fn read(&self) -> Result<RawAuthPin, PinError> {
        let bytes = files::read_private(&self.path)?;
        let bytes = bytes.ok_or_else(|| PinError::Missing { path: self.path.clone() })?;
        if let Some(mark) = files::read_private(&self.mark)?
            && *mark == self.state()?.as_bytes()
        {
            return Err(PinError::RefusedBefore { path: self.path.clone() });
        }
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Err(PinError::Empty { path: self.path.clone() });
        }
        // Room for all of it at once; the box wipes it when it goes.
        let mut pin = Zeroizing::new(Vec::with_capacity(line.len()));
        pin.extend_from_slice(line);
        Ok(RawAuthPin::new(Box::new(std::mem::take(&mut *pin))))
    }

    /// The token refused what [`PinFile::read`] gave.
    pub(super) fn refused(&self, reason: String) -> PinError {
        let marked = self.state().and_then(|state| files::write_private(&self.mark, state.as_bytes()));
        if let Err(error) = marked {
            tracing::error!(target: "signet::ca", %error, "a refused PIN could not be remembered: do not restart with it");
        }
        PinError::Refused { path: self.path.clone(), reason }
    }

    pub(super) fn accepted(&self) {
        if self.mark.exists()
            && let Err(error) = files::remove(&self.mark)
        {
            tracing::warn!(target: "signet::ca", %error, "the mark of a refused PIN stays, of a file that has changed since");
        }
    }

    /// Which file it is and when it last changed.
    fn state(&self) -> Result<String, FileError> {
        let io = |source| FileError::Io { action: "inspect", path: self.path.clone(), source };
        let meta = std::fs::metadata(&self.path).map_err(io)?;
        Ok(format!("{} {} {} {}.{:09}", meta.dev(), meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_pin_is_not_handed_out_again_until_its_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        let open = || PinFile::new(&path, dir.path());
        assert!(matches!(open().read().map(|_| ()), Err(PinError::Missing { .. })));
        files::write_private(&path, b"271828\nnotes\n").unwrap();
        open().read().unwrap();
        let error = open().refused("a reason".into());
        assert!(!format!("{error:?} {error}").contains("271828"));
        // The same process, and the next.
        assert!(matches!(open().read().map(|_| ()), Err(PinError::RefusedBefore { .. })));
        let mark = std::fs::read_to_string(dir.path().join(MARK)).unwrap();
        assert!(!mark.contains("271828"), "{mark}");
        files::write_private(&path, b"314159\n").unwrap();
        open().read().unwrap();
        open().accepted();
        assert!(!dir.path().join(MARK).exists());
    }

    #[test]
    fn a_pin_that_others_may_read_or_that_is_empty_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        files::write_private(&path, b"\r\n1234\n").unwrap();
        let pin = PinFile::new(&path, dir.path());
        assert!(matches!(pin.read().map(|_| ()), Err(PinError::Empty { .. })));
        files::write_private(&path, b"1234").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = pin.read().map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("chmod 0600"), "{error}");
    }
}
