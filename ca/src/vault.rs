//! Where the private keys of roots, issuers and token keys lie.
//!
//! Each has a sealed file of its own, named after its authority: what all replicas share (the root's key, the key of
//! the marks on stored rows) in the shared folder, or a row of the store; a replica's own keys in its data directory. A root's key is
//! opened to sign an issuer and forgotten at once; keys are wiped from memory when dropped. What the file of a root
//! or an issuer holds is the key or the name of one in a PKCS #11 token, see [`crate::keystore`]; token keys and JWT
//! keys are used for every request, and are always P-256 in their files.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::files;
use crate::hierarchy::HierarchyError;
use crate::keys::{self, CaKey};
use crate::keystore::{KeyRole, KeyStore, KeyStoreError, StoredKey};
use crate::rotation::Kind;
use crate::seal::{Role, SealConfig, Sealer, Shelf};

/// A key that nobody refers to, and that is younger, may belong to a step that is just being made.
const ORPHAN_AFTER: Duration = Duration::from_secs(24 * 3600);

pub(crate) struct Vault {
    shared: Sealer,
    own: Sealer,
    keys: KeyStore,
    /// What is shared lies beside what is our own.
    one_place: bool,
}

impl Vault {
    /// Opens the sealing secret; `shared` may be the data directory itself.
    pub(crate) fn open(
        own: &Path,
        shared: Shelf,
        trust_domain: &str,
        seal: &SealConfig,
        keys: KeyStore,
    ) -> Result<Vault, HierarchyError> {
        let mut one_place = false;
        if let Shelf::Folder(folder) = &shared {
            files::private_directory(folder)?;
            one_place = folder == own;
        }
        Ok(Vault {
            shared: Sealer::open(shared, trust_domain, seal)?,
            own: Sealer::open(own, trust_domain, seal)?,
            keys,
            one_place,
        })
    }

    /// Takes what is shared, and lies in the data directory since there was one control plane, or since a copy was brought
    /// back there, to where it is shared now. Which of it.
    ///
    /// # Errors
    /// When something else lies where it is shared, or the key of the marks is missing beside others. Nothing is taken away
    /// then.
    pub(crate) fn bring_shared(&mut self) -> Result<Vec<String>, HierarchyError> {
        if self.one_place {
            return Ok(Vec::new());
        }
        let all = self.own.shelf().list()?;
        let roles: Vec<Role> = all.iter().filter_map(|(name, _)| Role::shared_in_file(name)).collect();
        let Some(first) = roles.first().map(Role::file_name) else { return Ok(Vec::new()) };
        let missing = HierarchyError::SecretMissing { file: Role::RowMac.file_name(), present: first };
        let ours = self.own.read(&Role::RowMac)?.ok_or(missing)?;
        let there = self.shared.read(&Role::RowMac)?;
        if there.as_ref().is_some_and(|there| *there != ours) {
            return Err(HierarchyError::OtherShared { file: Role::RowMac.file_name() });
        }
        // A mesh that is shared already is past its first start.
        let is_past = |role: &Role| there.is_some() && *role == Role::Founding;
        let (marks, mut kept): (Vec<Role>, Vec<Role>) = roles.into_iter().partition(is_past);
        // What says whose the others are goes last.
        kept.sort_by_key(|role| *role == Role::RowMac);
        let names: Vec<String> = kept.iter().map(Role::file_name).collect();
        self.own.shelf().copy_first(&names, self.shared.shelf())?;
        // Nothing goes from here that is not there, and does not open there to the same.
        for role in &kept {
            let (here, there) = (self.own.read(role)?, self.shared.read(role)?);
            if here.is_none() || here != there {
                return Err(HierarchyError::SharedDiffers { file: role.file_name() });
            }
        }
        for role in marks.iter().chain(&kept) {
            self.own.remove(role)?;
        }
        Ok(names)
    }

    fn sealer(&mut self, kind: Kind) -> &mut Sealer {
        if kind == Kind::Root { &mut self.shared } else { &mut self.own }
    }

    /// A new key that nobody has yet, as it is to be kept, and ready to sign.
    pub(crate) fn generate(&self, kind: Kind) -> Result<(StoredKey, CaKey), HierarchyError> {
        let stored = match role_of(kind) {
            Some(role) => self.keys.generate(role)?,
            None => StoredKey::local(keys::generate()?),
        };
        let opened = self.keys.open(stored.as_bytes());
        if opened.is_err() {
            self.discard(&stored);
        }
        Ok((stored, opened?))
    }

    /// Destroys a key that was made for nothing; in a token it would stay.
    pub(crate) fn discard(&self, stored: &StoredKey) {
        if let Err(error) = self.keys.destroy(stored.as_bytes()) {
            tracing::warn!(target: "signet::ca", %error, "a key that was made for nothing could not be destroyed");
        }
    }

    /// Makes the key durable. From here it survives a crash.
    pub(crate) fn keep(&mut self, kind: Kind, id: &str, stored: &StoredKey) -> Result<(), HierarchyError> {
        let role = Role::Authority { kind, id: id.to_owned() };
        Ok(self.sealer(kind).write(&role, stored.as_bytes())?)
    }

    /// What is kept of the key, of a token key or a JWT key its PKCS #8 text; an error where it is missing.
    pub(crate) fn stored(&mut self, kind: Kind, id: &str) -> Result<Zeroizing<Vec<u8>>, HierarchyError> {
        let role = Role::Authority { kind, id: id.to_owned() };
        let missing = HierarchyError::KeyMissing { file: role.file_name(), kind: kind.as_str() };
        self.sealer(kind).read(&role)?.ok_or(missing)
    }

    /// The key of a certificate with this SubjectPublicKeyInfo, ready to sign.
    pub(crate) fn key(&mut self, kind: Kind, id: &str, spki: &[u8]) -> Result<CaKey, HierarchyError> {
        let stored = self.stored(kind, id)?;
        self.keys.open_for(&stored, spki).map_err(|error| match error {
            KeyStoreError::OtherKey => {
                let file = Role::Authority { kind, id: id.to_owned() }.file_name();
                HierarchyError::KeyMismatch { file }
            }
            other => other.into(),
        })
    }

    /// Destroys the key for good; none there is no error. In a token first: the file is what names it there.
    pub(crate) fn destroy(&mut self, kind: Kind, id: &str) -> Result<(), HierarchyError> {
        let role = Role::Authority { kind, id: id.to_owned() };
        if role_of(kind).is_some()
            && let Some(stored) = self.sealer(kind).read(&role)?
        {
            self.keys.destroy(&stored)?;
        }
        Ok(self.sealer(kind).remove(&role)?)
    }

    /// Another secret of the mesh that lies beside the roots' keys; none before the first start.
    pub(crate) fn secret(&mut self, role: &Role) -> Result<Option<Zeroizing<Vec<u8>>>, HierarchyError> {
        Ok(self.shared.read(role)?)
    }

    pub(crate) fn keep_secret(&mut self, role: &Role, secret: &[u8]) -> Result<(), HierarchyError> {
        Ok(self.shared.write(role, secret)?)
    }

    /// The store that a mesh is bound to, where shared keys belong into a store.
    pub(crate) fn bound_store(&self) -> Result<Option<String>, HierarchyError> {
        Ok(self.shared.shelf().bound()?)
    }

    /// Makes it durable unless there is one: of several control planes that make a mesh at once all take what the first
    /// one made, which comes back.
    pub(crate) fn found_secret(
        &mut self,
        role: &Role,
        secret: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, HierarchyError> {
        self.shared.write_first(role, secret)?;
        let file = role.file_name();
        self.secret(role)?.ok_or(HierarchyError::SecretMissing { present: file.clone(), file })
    }

    pub(crate) fn forget_secret(&mut self, role: &Role) -> Result<(), HierarchyError> {
        Ok(self.shared.remove(role)?)
    }

    /// The keys of this trust domain in the token that are none of these authorities': what a crash left between a key
    /// and its file.
    pub(crate) fn unnamed(&self, authorities: &BTreeSet<String>) -> Result<Vec<String>, HierarchyError> {
        Ok(self.keys.orphans(authorities)?)
    }

    /// Every authority whose key lies here.
    pub(crate) fn held(&self) -> Result<BTreeSet<(Kind, String)>, HierarchyError> {
        self.scan(|_| true)
    }

    /// Destroys the keys that no authority in the journal refers to: what a crash left between a key and its entry, or
    /// between the end of an entry and that of its key. One that cannot be destroyed now stays for the next time.
    pub(crate) fn destroy_orphans(
        &mut self,
        referred: &BTreeSet<(Kind, String)>,
    ) -> Result<Vec<(Kind, String)>, HierarchyError> {
        let old = self.scan(|age| age.is_some_and(|age| age > ORPHAN_AFTER))?;
        let mut orphans: Vec<_> = old.into_iter().filter(|key| !referred.contains(key)).collect();
        orphans.retain(|(kind, id)| match self.destroy(*kind, id) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(target: "signet::ca", %error, kind = kind.as_str(), id, "a key that no authority refers to could not be destroyed");
                false
            }
        });
        Ok(orphans)
    }

    fn scan(
        &self,
        wanted: impl Fn(Option<Duration>) -> bool,
    ) -> Result<BTreeSet<(Kind, String)>, HierarchyError> {
        let mut listed = self.own.shelf().list()?;
        if !self.one_place {
            listed.extend(self.shared.shelf().list()?);
        }
        let keys = listed.into_iter().filter(|(_, age)| wanted(*age));
        Ok(keys.filter_map(|(name, _)| Role::of_file_name(&name)).collect())
    }
}

/// What the key store calls it; none of keys that are not its.
fn role_of(kind: Kind) -> Option<KeyRole> {
    match kind {
        Kind::Root => Some(KeyRole::Root),
        Kind::Issuer => Some(KeyRole::Issuer),
        Kind::Token | Kind::Jwt => None,
    }
}
