//! Where the private keys of roots, issuers and token keys lie.
//!
//! Each in a sealed file of its own, named after its authority: what all replicas share (the root's key, the key of
//! the marks on stored rows) in the shared folder, a replica's own keys in its data directory. A root's key is
//! opened to sign an issuer and forgotten at once; keys are wiped from memory when dropped.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::files::{self, FileError};
use crate::hierarchy::HierarchyError;
use crate::keys::{self, CaKey, KeyError};
use crate::rotation::Kind;
use crate::seal::{Role, SealConfig, Sealer};

/// A key that nobody refers to, and that is younger, may belong to a step that is just being made.
const ORPHAN_AFTER: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

pub(crate) struct Vault {
    shared: Sealer,
    own: Sealer,
    shared_folder: PathBuf,
    own_folder: PathBuf,
}

impl Vault {
    /// Opens the sealing secret; `shared` may be the data directory itself.
    pub(crate) fn open(
        own: &Path,
        shared: &Path,
        trust_domain: &str,
        seal: &SealConfig,
    ) -> Result<Vault, HierarchyError> {
        files::private_directory(shared)?;
        Ok(Vault {
            shared: Sealer::open(shared, trust_domain, seal)?,
            own: Sealer::open(own, trust_domain, seal)?,
            shared_folder: shared.to_path_buf(),
            own_folder: own.to_path_buf(),
        })
    }

    fn sealer(&mut self, kind: Kind) -> &mut Sealer {
        if kind == Kind::Root { &mut self.shared } else { &mut self.own }
    }

    /// A new P-256 key that nobody has yet, PKCS #8.
    pub(crate) fn generate(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        keys::generate()
    }

    /// Makes the key durable. From here it survives a crash.
    pub(crate) fn keep(&mut self, kind: Kind, id: &str, pkcs8: &[u8]) -> Result<(), HierarchyError> {
        let role = Role::Authority { kind, id: id.to_owned() };
        Ok(self.sealer(kind).write(&role, pkcs8)?)
    }

    /// The key's PKCS #8 text; an error where it is missing.
    pub(crate) fn pkcs8(&mut self, kind: Kind, id: &str) -> Result<Zeroizing<Vec<u8>>, HierarchyError> {
        let role = Role::Authority { kind, id: id.to_owned() };
        let missing = HierarchyError::KeyMissing { file: role.file_name(), kind: kind.as_str() };
        self.sealer(kind).read(&role)?.ok_or(missing)
    }

    /// The key, ready to sign certificates.
    pub(crate) fn key(&mut self, kind: Kind, id: &str) -> Result<CaKey, HierarchyError> {
        Ok(CaKey::from_pkcs8(&self.pkcs8(kind, id)?)?)
    }

    /// Removes the key for good; none there is no error.
    pub(crate) fn destroy(&mut self, kind: Kind, id: &str) -> Result<(), HierarchyError> {
        let role = Role::Authority { kind, id: id.to_owned() };
        Ok(self.sealer(kind).remove(&role)?)
    }

    /// Another secret of the mesh that lies beside the roots' keys; none before the first start.
    pub(crate) fn secret(&mut self, role: &Role) -> Result<Option<Zeroizing<Vec<u8>>>, HierarchyError> {
        Ok(self.shared.read(role)?)
    }

    pub(crate) fn keep_secret(&mut self, role: &Role, secret: &[u8]) -> Result<(), HierarchyError> {
        Ok(self.shared.write(role, secret)?)
    }

    pub(crate) fn forget_secret(&mut self, role: &Role) -> Result<(), HierarchyError> {
        Ok(self.shared.remove(role)?)
    }

    /// Every authority whose key lies here.
    pub(crate) fn held(&self) -> Result<BTreeSet<(Kind, String)>, FileError> {
        self.scan(|_| true)
    }

    /// Destroys the keys that no authority in the journal refers to: what a crash left between a key and its entry, or
    /// between the end of an entry and that of its key.
    pub(crate) fn destroy_orphans(
        &mut self,
        referred: &BTreeSet<(Kind, String)>,
    ) -> Result<Vec<(Kind, String)>, HierarchyError> {
        let old = self.scan(|metadata| {
            metadata.modified().ok().and_then(|at| at.elapsed().ok()).is_some_and(|age| age > ORPHAN_AFTER)
        })?;
        let orphans: Vec<_> = old.into_iter().filter(|key| !referred.contains(key)).collect();
        for (kind, id) in &orphans {
            self.destroy(*kind, id)?;
        }
        Ok(orphans)
    }

    fn scan(
        &self,
        wanted: impl Fn(&std::fs::Metadata) -> bool,
    ) -> Result<BTreeSet<(Kind, String)>, FileError> {
        let mut found = BTreeSet::new();
        for folder in BTreeSet::from([&self.shared_folder, &self.own_folder]) {
            let io = |source| FileError::Io { action: "read", path: folder.clone(), source };
            for entry in std::fs::read_dir(folder).map_err(io)? {
                let entry = entry.map_err(io)?;
                let name = entry.file_name();
                if let Some(key) = name.to_str().and_then(Role::of_file_name)
                    && entry.metadata().is_ok_and(|metadata| wanted(&metadata))
                {
                    found.insert(key);
                }
            }
        }
        Ok(found)
    }
}
