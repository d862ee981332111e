//! Keys at rest.
//!
//! Every secret of the authority lies in a file of its own, or in a row of the store, sealed with AES-256-GCM. The
//! sealing key comes from a key file (32 random bytes) or from a passphrase through Argon2id, whose parameters stand
//! in each file's header. The header, the file's role and the trust domain are authenticated too, so a
//! file moved to another role or another mesh does not open. A key identifier in the header tells a
//! wrong key from a changed file.
//!
//! Layout: magic (8) · kdf (1) · memory KiB, passes, lanes (3 × u32) · salt (16) · key id (16) ·
//! nonce (12) · ciphertext and tag.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::files::{self, FileError};
use crate::rotation::Kind;
use crate::store::StoreError;

mod shelf;

pub(crate) use shelf::Shelf;

const MAGIC: &[u8; 8] = b"SIGNETS1";
const HEADER: usize = 8 + 1 + 12 + 16 + 16 + 12;
const KDF_KEY_FILE: u8 = 0;
const KDF_ARGON2ID: u8 = 1;
/// A header is read before it can be authenticated: these bound what a forged one can cost.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const MAX_PASSES: u32 = 32;
const MAX_LANES: u32 = 16;
/// Shorter passphrases are guessed offline however slow the derivation is.
const MIN_PASSPHRASE: usize = 12;

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the sealed keys in the store: {0}")]
    Store(#[source] Box<StoreError>),
    #[error("{path} is missing: create it (mode 0600), or set `dev: true` to have it made")]
    SourceMissing { path: PathBuf },
    #[error("the key file {path} holds {length} bytes but must hold exactly 32 random ones")]
    KeyFileLength { path: PathBuf, length: usize },
    #[error("the passphrase has {length} characters but needs at least {MIN_PASSPHRASE}")]
    PassphraseShort { length: usize },
    #[error(
        "{path} was sealed with another {kind} than the one configured: configure the one it was made with"
    )]
    WrongKey { path: PathBuf, kind: &'static str },
    #[error("{path} was sealed with a {sealed} but a {configured} is configured")]
    WrongKind { path: PathBuf, sealed: &'static str, configured: &'static str },
    #[error(
        "{path} was changed since it was sealed, or is the file of another role or trust domain: restore it from a backup"
    )]
    Tampered { path: PathBuf },
    #[error("{path} is not a sealed file of this version")]
    Format { path: PathBuf },
    #[error("the passphrase could not be stretched: {0}")]
    Derivation(String),
    #[error("the system's random number generator failed")]
    Random,
}

/// Where the sealing key comes from.
#[derive(Clone)]
pub enum SealSource {
    /// A file of 32 random bytes, mode 0600.
    KeyFile(PathBuf),
    /// A file whose first line is a passphrase, mode 0600.
    PassphraseFile(PathBuf),
    /// A passphrase that the caller asked for.
    Passphrase(Zeroizing<String>),
}

impl fmt::Debug for SealSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SealSource::KeyFile(path) => write!(f, "KeyFile({})", path.display()),
            SealSource::PassphraseFile(path) => write!(f, "PassphraseFile({})", path.display()),
            SealSource::Passphrase(_) => f.write_str("Passphrase([hidden])"),
        }
    }
}

/// The cost of turning a passphrase into a key, written into the header of every new file. The
/// default takes a fifth of a second and 64 MiB on a small machine, once per start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Argon2Cost {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

impl Default for Argon2Cost {
    fn default() -> Self {
        Argon2Cost { memory_kib: 64 * 1024, passes: 3, lanes: 1 }
    }
}

/// Where the sealing key comes from, and whether it may be made when there is none.
#[derive(Debug, Clone)]
pub struct SealConfig {
    pub source: SealSource,
    /// Make a missing key or passphrase file. For development: in production the key that opens
    /// everything should be placed by whoever keeps it.
    pub create_if_missing: bool,
    pub argon2: Argon2Cost,
}

impl SealConfig {
    pub fn key_file(path: impl Into<PathBuf>) -> Self {
        SealConfig {
            source: SealSource::KeyFile(path.into()),
            create_if_missing: false,
            argon2: Argon2Cost::default(),
        }
    }
}

/// The secret as configured, before it is a key.
enum Material {
    Key(Zeroizing<[u8; 32]>),
    Passphrase(Zeroizing<Vec<u8>>),
}

/// What the file is for, part of what is authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    /// The private key of one authority; the id is hex.
    Authority {
        kind: Kind,
        id: String,
    },
    RowMac,
    /// Signs ends and checkpoints of the issuance log, and nothing else.
    Audit,
    /// There from before the mesh has a store until the store is bound to it: says that a missing store was never
    /// made.
    Founding,
}

impl Role {
    pub(crate) fn file_name(&self) -> String {
        match self {
            Role::Authority { kind, id } => format!("{}-{id}.sealed", kind.as_str()),
            Role::RowMac => "row-mac.sealed".into(),
            Role::Audit => "audit.sealed".into(),
            Role::Founding => "founding.sealed".into(),
        }
    }

    /// What all control planes of one store share, by the name of its file.
    pub(crate) fn shared_in_file(name: &str) -> Option<Role> {
        let root = |(kind, id)| (kind == Kind::Root).then_some(Role::Authority { kind, id });
        [Role::RowMac, Role::Audit, Role::Founding]
            .into_iter()
            .find(|role| role.file_name() == name)
            .or_else(|| Role::of_file_name(name).and_then(root))
    }

    /// The authority whose private key lies in the file of this name.
    pub(crate) fn of_file_name(name: &str) -> Option<(Kind, String)> {
        let (kind, id) = name.strip_suffix(".sealed")?.split_once('-')?;
        let hex = !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit());
        Some((Kind::parse(kind).filter(|_| hex)?, id.to_owned()))
    }
}

/// Opens and writes the sealed secrets of one place.
pub(crate) struct Sealer {
    shelf: Shelf,
    trust_domain: String,
    material: Material,
    cost: Argon2Cost,
    /// Salt for new files, one per process, so that a start stretches the passphrase once.
    salt: [u8; 16],
    derived: HashMap<(Argon2Cost, [u8; 16]), Keys>,
}

/// One key seals, another names it.
#[derive(Clone)]
struct Keys {
    seal: Zeroizing<[u8; 32]>,
    id: [u8; 16],
}

impl Keys {
    fn from_master(master: &[u8]) -> Keys {
        let key = hmac::Key::new(hmac::HMAC_SHA256, master);
        let mut seal = Zeroizing::new([0u8; 32]);
        seal.copy_from_slice(hmac::sign(&key, b"signet seal: aes-256-gcm").as_ref());
        let mut id = [0u8; 16];
        let tag = hmac::sign(&key, b"signet seal: key id");
        id.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        Keys { seal, id }
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("shelf", &self.shelf).finish_non_exhaustive()
    }
}

impl Sealer {
    /// Reads the sealing secret. Nothing is derived before the first file is touched.
    pub(crate) fn open(
        shelf: impl Into<Shelf>,
        trust_domain: &str,
        config: &SealConfig,
    ) -> Result<Sealer, SealError> {
        let mut salt = [0u8; 16];
        SystemRandom::new().fill(&mut salt).map_err(|_| SealError::Random)?;
        Ok(Sealer {
            shelf: shelf.into(),
            trust_domain: trust_domain.to_owned(),
            material: material(config)?,
            cost: config.argon2,
            salt,
            derived: HashMap::new(),
        })
    }

    /// Where they lie.
    pub(crate) fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// Seals the secret into the role's file, replacing what was there.
    pub(crate) fn write(&mut self, role: &Role, secret: &[u8]) -> Result<(), SealError> {
        let bytes = self.sealed(role, secret)?;
        self.shelf.write(&role.file_name(), &bytes)
    }

    /// The same where there is no such file yet; one that is there stays.
    pub(crate) fn write_first(&mut self, role: &Role, secret: &[u8]) -> Result<(), SealError> {
        let bytes = self.sealed(role, secret)?;
        self.shelf.write_first(&role.file_name(), &bytes)
    }

    fn sealed(&mut self, role: &Role, secret: &[u8]) -> Result<Vec<u8>, SealError> {
        let (kdf, cost, salt) = match self.material {
            Material::Key(_) => (KDF_KEY_FILE, Argon2Cost { memory_kib: 0, passes: 0, lanes: 0 }, [0; 16]),
            Material::Passphrase(_) => (KDF_ARGON2ID, self.cost, self.salt),
        };
        let keys = self.keys(cost, salt)?;
        let mut nonce = [0u8; 12];
        SystemRandom::new().fill(&mut nonce).map_err(|_| SealError::Random)?;
        let mut bytes = Vec::with_capacity(HEADER + secret.len() + 16);
        bytes.extend_from_slice(MAGIC);
        bytes.push(kdf);
        for cost in [cost.memory_kib, cost.passes, cost.lanes] {
            bytes.extend_from_slice(&cost.to_be_bytes());
        }
        bytes.extend_from_slice(&salt);
        bytes.extend_from_slice(&keys.id);
        bytes.extend_from_slice(&nonce);
        let aad = self.associated(role, &bytes);
        let mut sealed = Zeroizing::new(secret.to_vec());
        let tag = aead(&keys)
            .and_then(|key| {
                key.seal_in_place_separate_tag(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(aad),
                    sealed.as_mut_slice(),
                )
            })
            .map_err(|_| SealError::Random)?;
        bytes.extend_from_slice(&sealed);
        bytes.extend_from_slice(tag.as_ref());
        Ok(bytes)
    }

    /// Removes the role's file for good; none there is no error.
    pub(crate) fn remove(&self, role: &Role) -> Result<(), SealError> {
        self.shelf.remove(&role.file_name())
    }

    /// Opens the role's file; `None` when there is none.
    pub(crate) fn read(&mut self, role: &Role) -> Result<Option<Zeroizing<Vec<u8>>>, SealError> {
        let (name, bytes) = (role.file_name(), self.shelf.read(&role.file_name())?);
        let Some(bytes) = bytes else { return Ok(None) };
        let path = self.shelf.place(&name);
        let format = || SealError::Format { path: path.clone() };
        let (header, body) = bytes.split_at_checked(HEADER).ok_or_else(format)?;
        let mut fields = header;
        let magic = take::<8>(&mut fields).ok_or_else(format)?;
        let [kdf] = take::<1>(&mut fields).ok_or_else(format)?;
        let memory_kib = u32::from_be_bytes(take(&mut fields).ok_or_else(format)?);
        let passes = u32::from_be_bytes(take(&mut fields).ok_or_else(format)?);
        let lanes = u32::from_be_bytes(take(&mut fields).ok_or_else(format)?);
        let salt = take::<16>(&mut fields).ok_or_else(format)?;
        let id = take::<16>(&mut fields).ok_or_else(format)?;
        let nonce = take::<12>(&mut fields).ok_or_else(format)?;
        if &magic != MAGIC || memory_kib > MAX_MEMORY_KIB || passes > MAX_PASSES || lanes > MAX_LANES {
            return Err(format());
        }
        let (configured, sealed) = (
            match self.material {
                Material::Key(_) => "key file",
                Material::Passphrase(_) => "passphrase",
            },
            match kdf {
                KDF_KEY_FILE => "key file",
                KDF_ARGON2ID => "passphrase",
                _ => return Err(format()),
            },
        );
        if configured != sealed {
            return Err(SealError::WrongKind { path, sealed, configured });
        }
        let keys = self.keys(Argon2Cost { memory_kib, passes, lanes }, salt)?;
        if !bool::from(keys.id.as_slice().ct_eq(id.as_slice())) {
            return Err(SealError::WrongKey { path, kind: configured });
        }
        let aad = self.associated(role, header);
        let mut body = Zeroizing::new(body.to_vec());
        let length = aead(&keys)
            .and_then(|key| {
                key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), body.as_mut_slice())
                    .map(|plain| plain.len())
            })
            .map_err(|_| SealError::Tampered { path })?;
        body.truncate(length);
        Ok(Some(body))
    }

    fn associated(&self, role: &Role, header: &[u8]) -> Vec<u8> {
        let mut aad = header.to_vec();
        aad.extend_from_slice(role.file_name().as_bytes());
        aad.push(0);
        aad.extend_from_slice(self.trust_domain.as_bytes());
        aad
    }

    fn keys(&mut self, cost: Argon2Cost, salt: [u8; 16]) -> Result<Keys, SealError> {
        let passphrase = match &self.material {
            Material::Key(key) => return Ok(Keys::from_master(key.as_slice())),
            Material::Passphrase(passphrase) => passphrase,
        };
        if let Some(keys) = self.derived.get(&(cost, salt)) {
            return Ok(keys.clone());
        }
        let failed = |e: argon2::Error| SealError::Derivation(e.to_string());
        let params =
            argon2::Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(failed)?;
        let mut master = Zeroizing::new([0u8; 32]);
        argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
            .hash_password_into(passphrase, &salt, master.as_mut_slice())
            .map_err(failed)?;
        let keys = Keys::from_master(master.as_slice());
        // New files take the salt of the first old one: a second start then stretches once as well.
        self.salt = salt;
        self.cost = cost;
        self.derived.insert((cost, salt), keys.clone());
        Ok(keys)
    }
}

fn aead(keys: &Keys) -> Result<LessSafeKey, ring::error::Unspecified> {
    UnboundKey::new(&AES_256_GCM, keys.seal.as_slice()).map(LessSafeKey::new)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

fn material(config: &SealConfig) -> Result<Material, SealError> {
    match &config.source {
        SealSource::KeyFile(path) => {
            let bytes = source_file(path, config.create_if_missing, |random| random.to_vec())?;
            let length = bytes.len();
            let mut key = Zeroizing::new([0u8; 32]);
            if length != key.len() {
                return Err(SealError::KeyFileLength { path: path.clone(), length });
            }
            key.copy_from_slice(&bytes);
            Ok(Material::Key(key))
        }
        SealSource::PassphraseFile(path) => {
            let bytes = source_file(path, config.create_if_missing, |random| {
                use base64::Engine as _;
                base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random).into_bytes()
            })?;
            let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
            passphrase(line.strip_suffix(b"\r").unwrap_or(line))
        }
        SealSource::Passphrase(text) => passphrase(text.as_bytes()),
    }
}

fn passphrase(bytes: &[u8]) -> Result<Material, SealError> {
    let length = String::from_utf8_lossy(bytes).chars().count();
    if length < MIN_PASSPHRASE {
        return Err(SealError::PassphraseShort { length });
    }
    Ok(Material::Passphrase(Zeroizing::new(bytes.to_vec())))
}

fn source_file(
    path: &Path,
    create: bool,
    content: impl FnOnce(&[u8; 32]) -> Vec<u8>,
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    if let Some(bytes) = files::read_private(path)? {
        return Ok(bytes);
    }
    if !create {
        return Err(SealError::SourceMissing { path: path.to_path_buf() });
    }
    let mut random = Zeroizing::new([0u8; 32]);
    SystemRandom::new().fill(random.as_mut_slice()).map_err(|_| SealError::Random)?;
    let bytes = Zeroizing::new(content(&random));
    files::write_private(path, &bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
