//! The vendor's library. It runs inside this process with all its rights, so nobody else may be able to
//! change it; once loaded it stays for the life of the process, since unloading it is what vendors test
//! least, and initialising it twice is an error.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki::error::{Error, RvError};

use super::TokenError;

static LOADED: Mutex<BTreeMap<PathBuf, Pkcs11>> = Mutex::new(BTreeMap::new());

/// Loads and initialises the library of this path; the one that is loaded already if it is the same file.
pub(super) fn load(path: &Path) -> Result<Pkcs11, TokenError> {
    let unusable = |reason: String| TokenError::Module { path: path.to_path_buf(), reason };
    // Distributions put a link where people look.
    let file = path.canonicalize().map_err(|error| unusable(error.to_string()))?;
    let meta = file.metadata().map_err(|error| unusable(error.to_string()))?;
    let own = std::fs::metadata("/proc/self").map_or(0, |own| own.uid());
    if !meta.is_file() {
        return Err(unusable("it is no regular file".into()));
    }
    if meta.mode() & 0o022 != 0 || (meta.uid() != 0 && meta.uid() != own) {
        return Err(unusable(format!(
            "others than root and this process's user may write to it (mode {:04o}, owner {}), and it would \
             run inside this process",
            meta.mode() & 0o7777,
            meta.uid()
        )));
    }
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = loaded.get(&file) {
        return Ok(module.clone());
    }
    let module = Pkcs11::new(&file).map_err(|error| unusable(error.to_string()))?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, Function::Initialize)) => {}
        Err(error) => {
            // Unloading what failed half-way is no safer than keeping it.
            std::mem::forget(module);
            return Err(unusable(error.to_string()));
        }
    }
    loaded.insert(file, module.clone());
    Ok(module)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_module_that_others_may_change_is_not_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("module.so");
        std::fs::write(&path, "not a library").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains("mode 0666") && error.contains("module.so"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains("module.so") && !error.contains("mode"), "{error}");
        let error = load(&dir.path().join("none.so")).unwrap_err().to_string();
        assert!(error.contains("none.so"), "{error}");
    }
}
