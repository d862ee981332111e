//! The ends of the issuance log on the disk, so that a restart does not forget them.
//!
//! They lie in `log-heads.json` of the data directory, mode 0600, written whole at most once a minute and at the
//! end of the process. What is read again at the start is believed as far as the audit key signed it. A file that is
//! damaged, or another mesh's, is said so, counted, and put aside as evidence; the process goes on without it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use signet_audit::{Heads, HeadsError, MAX_HEADS_BYTES};

use crate::status::Status;

/// Their file.
const FILE: &str = "log-heads.json";
/// One that was not taken.
const ASIDE: &str = "log-heads.json.refused";
const EVERY: Duration = Duration::from_secs(60);

/// Why what was kept is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Damaged {
    #[error(transparent)]
    File(#[from] signet_daemon::FileError),
    #[error(transparent)]
    Heads(#[from] HeadsError),
}

/// Where they are kept.
#[derive(Debug)]
pub struct Kept {
    folder: PathBuf,
    /// The file holds what is known, or something newer waits.
    changed: bool,
    last: Option<Instant>,
    /// Counts what is to be written, and what was.
    number: u64,
    written: Arc<Mutex<u64>>,
}

impl Kept {
    /// In this folder, which is private.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), changed: false, last: None, number: 0, written: Arc::default() }
    }

    /// What the last run knew; none where there was none.
    ///
    /// # Errors
    /// [`Damaged`] for what cannot be believed. It lies beside its place from now on.
    pub fn read(&self, trust_domain: &str) -> Result<Option<Heads>, Damaged> {
        let path = self.folder.join(FILE);
        if std::fs::symlink_metadata(&path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            return Ok(None);
        }
        match read(&path, trust_domain) {
            Ok(heads) => Ok(Some(heads)),
            Err(damaged) => {
                if let Err(error) = std::fs::rename(&path, self.folder.join(ASIDE)) {
                    tracing::error!(target: "signet::audit", %error, path = %path.display(), "what was kept of the issuance log cannot be put aside");
                }
                Err(damaged)
            }
        }
    }

    /// Something newer was heard.
    pub fn change(&mut self) {
        self.changed = true;
    }

    /// Writes what is known, if it is due. A failure is said and tried again.
    pub fn keep(&mut self, now: Instant, heads: impl FnOnce() -> Heads) {
        if !self.changed || self.last.is_some_and(|at| now.duration_since(at) < EVERY) {
            return;
        }
        self.changed = false;
        self.last = Some(now);
        self.number = self.number.saturating_add(1);
        let (path, number, written) = (self.folder.join(FILE), self.number, Arc::clone(&self.written));
        let heads = heads();
        // Never in the way of what the process is for, however slow the disk is.
        tokio::task::spawn_blocking(move || write_once(&path, number, &written, &heads));
    }

    /// For the end of the process.
    #[must_use]
    pub fn last_word(&self, status: Arc<Status>) -> LastWord {
        LastWord { path: Some(self.folder.join(FILE)), written: Arc::clone(&self.written), status }
    }
}

/// Writes what is held when it is dropped: whichever way the process ends, and nothing after it.
pub struct LastWord {
    /// None: somebody else has it.
    path: Option<PathBuf>,
    written: Arc<Mutex<u64>>,
    status: Arc<Status>,
}

impl LastWord {
    /// The last word is another process's.
    pub fn leave_to_successor(mut self) {
        self.path = None;
    }
}

impl Drop for LastWord {
    fn drop(&mut self) {
        let Some(path) = &self.path else { return };
        let heads = self.status.held_log_heads();
        if !heads.heads.is_empty() {
            write_once(path, u64::MAX, &self.written, &heads);
        }
    }
}

/// An older word never replaces a newer one, whichever thread comes first.
fn write_once(path: &Path, number: u64, written: &Mutex<u64>, heads: &Heads) {
    let mut last = written.lock().unwrap_or_else(PoisonError::into_inner);
    if *last < number {
        *last = number;
        write(path, heads);
    }
}

fn read(path: &Path, trust_domain: &str) -> Result<Heads, Damaged> {
    let bytes = signet_daemon::read_secret_file(path)?;
    let heads = Heads::parse(bytes.expose())?;
    if heads.trust_domain != trust_domain {
        let expected = trust_domain.to_owned();
        return Err(HeadsError::Foreign { found: heads.trust_domain, expected }.into());
    }
    heads.statements()?;
    Ok(heads)
}

fn write(path: &Path, heads: &Heads) {
    let written = serde_json::to_vec(heads).map_err(std::io::Error::other).and_then(|bytes| {
        // It would not be read again.
        if bytes.len() > MAX_HEADS_BYTES {
            return Err(std::io::Error::from(std::io::ErrorKind::FileTooLarge));
        }
        signet_daemon::write_private(path, &bytes).map_err(std::io::Error::other)
    });
    if let Err(error) = written {
        tracing::error!(target: "signet::audit", %error, path = %path.display(), "the ends of the issuance log could not be kept: a restart would forget them");
    }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
    use signet_audit::{AuditKey, Kind, SignedLine, Statement};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn heads(sequence: u64) -> Heads {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        let key = AuditKey::from_pkcs8(pkcs8.unwrap().as_ref()).unwrap();
        let (trust_domain, replica) = ("example.com".to_owned(), "a".into());
        let statement = Statement {
            kind: Kind::Head,
            trust_domain: trust_domain.clone(),
            replica,
            sequence,
            hash: [1; 32],
            at: 5,
        };
        let heads = vec![SignedLine::of(&key.sign(statement).unwrap())];
        Heads { trust_domain, audit_key: key.public().to_pem(), heads }
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn what_was_written_is_read_again_and_is_the_owners_alone() {
        let folder = folder();
        let kept = Kept::of(folder.path());
        assert!(kept.read("example.com").unwrap().is_none());
        let known = heads(7);
        write(&folder.path().join(FILE), &known);
        assert_eq!(kept.read("example.com").unwrap(), Some(known));
        let mode = std::fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn a_damaged_forged_foreign_open_or_endless_file_is_put_aside_and_not_believed() {
        let mut forged = heads(7);
        forged.heads[0].sequence = 900;
        let forged = serde_json::to_vec(&forged).unwrap();
        let good = serde_json::to_vec(&heads(7)).unwrap();
        let half = good[..good.len() / 2].to_vec();
        let long = vec![b' '; 2 * MAX_HEADS_BYTES];
        for (name, content, trust_domain, mode) in [
            ("forged", &forged, "example.com", 0o600),
            ("foreign", &good, "example.org", 0o600),
            ("half", &half, "example.com", 0o600),
            ("endless", &long, "example.com", 0o600),
            ("open", &good, "example.com", 0o666),
        ] {
            let folder = folder();
            let path = folder.path().join(FILE);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let kept = Kept::of(folder.path());
            assert!(kept.read(trust_domain).is_err(), "{name}");
            assert!(!path.exists(), "{name}");
            assert_eq!(&std::fs::read(folder.path().join(ASIDE)).unwrap(), content, "{name}: the evidence");
            assert!(kept.read(trust_domain).unwrap().is_none(), "{name}: once");
        }
    }

    #[tokio::test]
    async fn it_is_written_once_a_minute() {
        let folder = folder();
        let mut kept = Kept::of(folder.path());
        let count = std::cell::Cell::new(0);
        let known = heads(7);
        let told = || {
            count.set(count.get() + 1);
            known.clone()
        };
        let mut now = Instant::now();
        kept.keep(now, told);
        assert_eq!(count.get(), 0, "there is nothing to write");
        for (seconds, expected) in [(0, 1), (1, 1), (58, 1), (2, 2), (30, 2), (31, 3)] {
            now += Duration::from_secs(seconds);
            kept.change();
            kept.keep(now, told);
            assert_eq!(count.get(), expected, "after {seconds} more seconds");
        }
    }

    #[test]
    fn whichever_way_the_process_ends_the_newest_is_written_and_nothing_older_after_it() {
        let folder = folder();
        let kept = Kept::of(folder.path());
        let domain = signet_identity::TrustDomain::parse("example.com").unwrap();
        let credentials = crate::credentials::Credentials::new(domain, Default::default());
        let status = Status::new("id".into(), credentials, &std::collections::BTreeSet::new(), None);
        drop(kept.last_word(Arc::clone(&status)));
        assert!(kept.read("example.com").unwrap().is_none(), "nothing was heard");
        status.log_heads(heads(9));
        drop(kept.last_word(status));
        write_once(&folder.path().join(FILE), 1, &kept.written, &heads(7));
        assert_eq!(kept.read("example.com").unwrap().unwrap().heads[0].sequence, 9);
    }
}
