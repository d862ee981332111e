//! What the command line keeps on an operator's machine: a configuration that people write, and the session that a
//! login leaves.
//!
//! Both lie in `$XDG_CONFIG_HOME/signet`, else `~/.config/signet`. The session holds a private key: its file is
//! made with mode 0600 in a folder of mode 0700, put in place whole, and refused when others could have read it.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// `config.yaml`, every part optional: the flags of `signet login` say the same.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct Config {
    pub(crate) server: Server,
    pub(crate) trust_domain: Option<String>,
    /// SHA-256 of the root certificate, hex: how the control plane is known before anything of it is believed.
    pub(crate) root_sha256: Option<String>,
    /// Who answers; by default `signet-control-plane` of the namespace `signet-system`.
    pub(crate) control_plane: Option<String>,
    pub(crate) login: Login,
    /// What commands use when no flag says so.
    #[serde(rename = "use")]
    pub(crate) default: Option<Use>,
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Server {
    /// host:port
    pub(crate) bootstrap: Option<String>,
    pub(crate) mesh: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct Login {
    pub(crate) issuer: Option<String>,
    pub(crate) client_id: Option<String>,
    /// Of a client that its provider does not take for public; mode 0600.
    pub(crate) client_secret_file: Option<PathBuf>,
    /// Beside `openid`.
    pub(crate) scopes: Option<Vec<String>>,
    /// Certificates (PEM) by which the provider is known, instead of those of the public web.
    pub(crate) ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Use {
    Socket,
    Login,
}

/// What a login leaves.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Session {
    /// host:port of the mesh listener.
    pub(crate) server: String,
    pub(crate) trust_domain: String,
    pub(crate) control_plane: String,
    pub(crate) spiffe_id: String,
    pub(crate) not_after: i64,
    /// DER in base64, leaf first.
    pub(crate) chain: Vec<String>,
    pub(crate) roots: Vec<String>,
    /// PKCS #8 in base64.
    #[serde(with = "secret_text")]
    pub(crate) key: Zeroizing<String>,
}

/// Text that is wiped from memory when it goes.
mod secret_text {
    use serde::{Deserialize, Deserializer, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(text: &Zeroizing<String>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Zeroizing<String>, D::Error> {
        String::deserialize(from).map(Zeroizing::new)
    }
}

/// Where everything lies.
pub(crate) fn folder() -> anyhow::Result<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")));
    match folder {
        Some(folder) => Ok(folder.join("signet")),
        None => bail!("neither XDG_CONFIG_HOME nor HOME names a folder: there is no place for a session"),
    }
}

impl Config {
    /// The named file; without a name the one in its place, which may be missing.
    pub(crate) fn load(named: Option<&Path>) -> anyhow::Result<Self> {
        let (path, required) = match named {
            Some(path) => (path.to_owned(), true),
            None => match folder() {
                Ok(folder) => (folder.join("config.yaml"), false),
                Err(_) => return Ok(Self::default()),
            },
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).with_context(|| path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        Ok(signet_model::from_yaml(text)?)
    }
}

impl Session {
    fn file(folder: &Path) -> PathBuf {
        folder.join("session.json")
    }

    /// Whether somebody has logged in here and not logged out.
    pub(crate) fn exists() -> bool {
        folder().is_ok_and(|folder| Self::file(&folder).exists())
    }

    /// The session of this machine's user.
    pub(crate) fn load() -> anyhow::Result<Self> {
        Self::load_from(&folder()?)
    }

    fn load_from(folder: &Path) -> anyhow::Result<Self> {
        let path = Self::file(folder);
        let mut file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("you are not logged in: run `signet login`")
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let facts = file.metadata().with_context(|| format!("reading {}", path.display()))?;
        // SAFETY: geteuid takes nothing, touches nothing and cannot fail.
        let own = unsafe { libc::geteuid() };
        if facts.mode() & 0o077 != 0 || facts.uid() != own {
            bail!(
                "{}: expected mode 0600 and your own file, found mode {:o} of uid {}: its key is no secret any more; run `signet logout` and `signet login`",
                path.display(),
                facts.mode() & 0o777,
                facts.uid()
            );
        }
        let mut text = Zeroizing::new(String::new());
        std::io::Read::read_to_string(&mut file, &mut text)
            .with_context(|| format!("reading {}", path.display()))?;
        // The parser's message could quote what it read.
        serde_json::from_str(&text).map_err(|_| {
            anyhow::anyhow!("{}: not a session of this version: run `signet login`", path.display())
        })
    }

    pub(crate) fn save(&self) -> anyhow::Result<PathBuf> {
        self.save_to(&folder()?)
    }

    fn save_to(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let text = Zeroizing::new(serde_json::to_string(self)?);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("making {}", folder.display()))?;
        let (path, new) = (Self::file(folder), folder.join("session.json.new"));
        let write = || -> std::io::Result<()> {
            // What a login that was cut short left.
            match std::fs::remove_file(&new) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            // Whatever the umask took away.
            file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &path)
        };
        write().with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Removes it; whether there was one.
    pub(crate) fn remove() -> anyhow::Result<bool> {
        let path = Self::file(&folder()?);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("removing {}", path.display())),
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("server", &self.server)
            .field("spiffe_id", &self.spiffe_id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session {
            server: "127.0.0.1:1".into(),
            trust_domain: "example.com".into(),
            control_plane: "spiffe://example.com/ns/signet-system/sa/signet-control-plane".into(),
            spiffe_id: "spiffe://example.com/ns/signet-system/operator/ab".into(),
            not_after: 5,
            chain: vec![],
            roots: vec![],
            key: Zeroizing::new("c2VjcmV0".into()),
        }
    }

    #[test]
    fn a_session_is_kept_for_its_owner_alone_and_refused_once_others_could_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("new/signet");
        assert!(Session::load_from(&folder).unwrap_err().to_string().contains("signet login"));
        let path = session().save_to(&folder).unwrap();
        session().save_to(&folder).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&path)), (0o700, 0o600));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        let read = Session::load_from(&folder).unwrap();
        assert_eq!(read.key.as_str(), "c2VjcmV0");
        assert!(!format!("{read:?}").contains("c2VjcmV0"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let refused = Session::load_from(&folder).unwrap_err().to_string();
        assert!(refused.contains("0600") && refused.contains("640"), "{refused}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, r#"{"key": "c2VjcmV0"}"#).unwrap();
        assert!(!Session::load_from(&folder).unwrap_err().to_string().contains("c2VjcmV0"));
    }

    #[test]
    fn a_configuration_is_taken_whole_or_not_at_all() {
        let config = Config::parse(
            "server: {bootstrap: 'signet.example.com:8443', mesh: 'signet.example.com:8444'}\nuse: login\n\
             login: {issuer: 'https://login.example.com', clientId: signet}\n",
        )
        .unwrap();
        assert_eq!(config.default, Some(Use::Login));
        assert_eq!(config.login.client_id.as_deref(), Some("signet"));
        let refused = Config::parse("servr: {}").unwrap_err().to_string();
        assert!(refused.contains("servr"), "{refused}");
        assert!(Config::parse("use: telnet").is_err());
    }
}
