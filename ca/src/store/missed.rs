//! Records that the log did not take, where the configuration lets acts go on without it.
//!
//! By default an act that cannot be written down is not done. A mesh that would rather go on issuing for a while
//! (`issuanceLog.onFailure: issue`) gets this instead: the record is appended to a private file of the data directory,
//! one line of JSON with a mark, and flushed to the disk before the act is committed; if that fails as well, the act is
//! not done. As soon as the log takes records again the lines go into it, each as what it is and with the word `late`, and
//! the file is removed. Only what the log's table refuses is meant: a log that is not what was written, or a store
//! that fails as a whole, still stops everything.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prometheus::{IntCounter, IntGauge};
use serde_json::{Value, json};

use super::mac::{Column, RowMac};
use super::{Store, StoreError};
use crate::files::{self, FileError};
use crate::record::{Entry, Event};

const TABLE: &str = "log-missed";
/// A file that has grown so long takes no more: some hundred thousand records. Then nothing is done without the log.
const MAX_FILE: u64 = 128 * 1024 * 1024;

/// Where they are kept.
#[derive(Clone)]
pub(crate) struct Missed {
    /// Lines are added here.
    file: PathBuf,
    /// What is being brought into the log.
    taken: PathBuf,
    pub(crate) count: IntCounter,
    pub(crate) waiting: IntGauge,
}

impl Missed {
    pub(crate) fn of(data_dir: &Path, count: IntCounter, waiting: IntGauge) -> Missed {
        Missed {
            file: data_dir.join("log-missed.jsonl"),
            taken: data_dir.join("log-missed.taken.jsonl"),
            count,
            waiting,
        }
    }

    /// Keeps it, on the disk, or fails.
    pub(super) async fn keep(&self, mac: &RowMac, entry: &Entry) -> Result<(), StoreError> {
        let text = as_json(entry).to_string();
        let mark = STANDARD.encode(mac.tag(TABLE, &[Column::Text(&text)]));
        let line = format!("{}\n", json!({"record": text, "mac": mark}));
        let file = self.file.clone();
        let written = tokio::task::spawn_blocking(move || append(&file, line.as_bytes())).await;
        written.map_err(|error| sqlx::Error::Io(std::io::Error::other(error)))??;
        self.count.inc();
        self.waiting.set(1);
        Ok(())
    }

    /// Everything that waits, out of reach of whoever adds lines: an earlier attempt's first.
    fn take(&self) -> Result<Option<String>, FileError> {
        if !files::private_exists(&self.taken)? {
            if !files::private_exists(&self.file)? {
                self.waiting.set(0);
                return Ok(None);
            }
            let failed = |source| FileError::Io { action: "rename", path: self.file.clone(), source };
            std::fs::rename(&self.file, &self.taken).map_err(failed)?;
        }
        self.waiting.set(1);
        let failed = |source| FileError::Io { action: "read", path: self.taken.clone(), source };
        std::fs::read_to_string(&self.taken).map(Some).map_err(failed)
    }
}

fn append(path: &Path, line: &[u8]) -> Result<(), FileError> {
    let write = || {
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        if file.metadata()?.len() >= MAX_FILE {
            return Err(std::io::Error::from(std::io::ErrorKind::FileTooLarge));
        }
        file.write_all(line)?;
        file.sync_all()
    };
    write().map_err(|source| FileError::Io { action: "write", path: path.to_owned(), source })
}

fn as_json(entry: &Entry) -> Value {
    json!({
        "at": entry.at, "event": entry.event.as_str(), "spiffeId": entry.spiffe_id, "class": entry.class,
        "serial": entry.serial, "notAfter": entry.not_after, "reason": entry.reason, "actor": entry.actor,
        "suppressed": entry.suppressed,
    })
}

/// None for what we did not write.
fn read(mac: &RowMac, line: &str) -> Option<Entry> {
    let line: Value = serde_json::from_str(line).ok()?;
    let (text, mark) = (line.get("record")?.as_str()?, line.get("mac")?.as_str()?);
    mac.check(TABLE, &[Column::Text(text)], &STANDARD.decode(mark).ok()?).ok()?;
    let record: Value = serde_json::from_str(text).ok()?;
    let words = |field: &str| Some(record.get(field)?.as_str()?.to_owned());
    Some(Entry {
        at: record.get("at")?.as_i64()?,
        event: Event::parse(&words("event")?)?,
        spiffe_id: words("spiffeId")?,
        class: words("class")?,
        serial: words("serial")?,
        not_after: record.get("notAfter")?.as_i64(),
        reason: format!("late: {}", words("reason")?),
        actor: words("actor")?,
        suppressed: record.get("suppressed")?.as_u64()?,
    })
}

impl Store {
    /// Brings what the log did not take into it; how many records. While it still takes none, they wait on.
    pub(crate) async fn bring_missed(&self, now: i64) -> Result<usize, StoreError> {
        let Some(missed) = self.desk.missed.clone() else { return Ok(0) };
        let reading = Arc::clone(&missed);
        let taken = tokio::task::spawn_blocking(move || reading.take()).await;
        let taken = taken.map_err(|error| sqlx::Error::Io(std::io::Error::other(error)))??;
        let Some(text) = taken else { return Ok(0) };
        let mut writer = self.begin_alone().await?;
        let mut brought = 0usize;
        for line in text.lines() {
            let entry = read(&self.desk.mac, line).unwrap_or_else(|| {
                tracing::error!(target: "signet::ca", "a line of log-missed.jsonl does not carry the authority's mark");
                Entry::new(now, Event::Alert, "authority").because("a kept record was not the authority's")
            });
            writer.record_in_log(entry).await?;
            brought = brought.saturating_add(1);
        }
        writer.commit().await?;
        files::remove(&missed.taken)?;
        Ok(brought)
    }
}
