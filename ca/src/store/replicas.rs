//! Which control planes share the store.
//!
//! A replica has a name, by which its log goes, and an id that was made with its data directory. The first directory
//! to come with a name keeps it: a second one would continue a log that is not its own. Beats say who is alive.

use std::path::Path;

use ring::rand::{SecureRandom as _, SystemRandom};

use super::mac::{Column, RowMac};
use super::sql::{Dialect, Pool, Run, query};
use super::{Store, StoreError, fixed};
use crate::files::{self, FileError};

const FILE: &str = "replica";
const TABLE: &str = "replicas";

/// Who this process is, as its data directory remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replica {
    pub(crate) name: String,
    id: [u8; 16],
    /// Nothing was written under this name yet.
    pub(crate) fresh: bool,
}

/// A control plane on this store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStatus {
    pub name: String,
    /// Counts its starts.
    pub epoch: u64,
    pub version: String,
    /// Seconds since the epoch, by its own clock.
    pub last_seen: i64,
}

impl Replica {
    /// Reads who we are; `None` where that is not said yet. Writes nothing.
    pub(crate) fn read(directory: &Path, configured: Option<&str>) -> Result<Option<Replica>, StoreError> {
        let path = directory.join(FILE);
        let unreadable = || StoreError::ReplicaFile { path: path.clone() };
        let Some(bytes) = files::read_private(&path)? else { return Ok(None) };
        let text = std::str::from_utf8(&bytes).map_err(|_| unreadable())?;
        let mut lines = text.lines();
        let (name, id) = lines.next().zip(lines.next()).ok_or_else(unreadable)?;
        let id = read_hex(id).ok_or_else(unreadable)?;
        if let Some(configured) = configured.filter(|configured| *configured != name) {
            return Err(StoreError::ReplicaName { configured: configured.into(), found: name.into() });
        }
        Ok(Some(Replica { name: name.to_owned(), id, fresh: lines.next() == Some("new") }))
    }

    /// Makes it up: the configured name, or that of the machine with a few letters of the id.
    pub(crate) fn make(directory: &Path, configured: Option<&str>) -> Result<Replica, StoreError> {
        let mut id = [0u8; 16];
        SystemRandom::new().fill(&mut id).map_err(|_| FileError::Random)?;
        let name = configured.map_or_else(|| made_up(&id), str::to_owned);
        let replica = Replica { name, id, fresh: true };
        replica.write(directory)?;
        Ok(replica)
    }

    /// Something was written: from now on it must be there.
    pub(crate) fn settled(&mut self, directory: &Path) -> Result<(), StoreError> {
        if std::mem::take(&mut self.fresh) {
            self.write(directory)?;
        }
        Ok(())
    }

    fn write(&self, directory: &Path) -> Result<(), StoreError> {
        let id: String = self.id.iter().map(|byte| format!("{byte:02x}")).collect();
        let state = if self.fresh { "new\n" } else { "" };
        let text = format!("{}\n{id}\n{state}", self.name);
        Ok(files::write_private(&directory.join(FILE), text.as_bytes())?)
    }

    fn columns(&self, joined_at: i64) -> [Column<'_>; 3] {
        [Column::Text(&self.name), Column::Bytes(&self.id), Column::Number(joined_at)]
    }
}

fn made_up(id: &[u8; 16]) -> String {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let machine: String = machine.trim().chars().filter(|c| !c.is_control()).take(100).collect();
    let machine = if machine.is_empty() { "replica".to_owned() } else { machine };
    let letters: String = id.iter().take(3).map(|byte| format!("{byte:02x}")).collect();
    format!("{machine}-{letters}")
}

fn read_hex(text: &str) -> Option<[u8; 16]> {
    let mut out = [0u8; 16];
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in out.iter_mut().enumerate() {
        let from = at.checked_mul(2)?;
        *byte = u8::from_str_radix(text.get(from..from.checked_add(2)?)?, 16).ok()?;
    }
    Some(out)
}

/// Takes the name, or takes it up again.
pub(super) async fn join(pool: &Pool, mac: &RowMac, replica: &Replica, now: i64) -> Result<(), StoreError> {
    let mut tx = pool.write().await?;
    if tx.dialect() == Dialect::Postgres {
        query("SELECT pg_advisory_xact_lock(1, 1)").execute(&mut tx).await?;
    }
    let row = query("SELECT id, joined_at, mac FROM replicas WHERE name = $1")
        .bind(&replica.name)
        .fetch_optional(&mut tx)
        .await?;
    match row {
        None if !replica.fresh => return Err(StoreError::ReplicaForgotten { name: replica.name.clone() }),
        None => {
            query(
                "INSERT INTO replicas (name, id, joined_at, mac, epoch, version, last_seen) \
                 VALUES ($1, $2, $3, $4, 1, $5, $3)",
            )
            .bind(&replica.name)
            .bind(replica.id.as_slice())
            .bind(now)
            .bind(mac.tag(TABLE, &replica.columns(now)))
            .bind(env!("CARGO_PKG_VERSION"))
            .execute(&mut tx)
            .await?;
        }
        Some(row) => {
            let id: [u8; 16] = fixed(row.try_get(0)?, TABLE)?;
            if id != replica.id {
                return Err(StoreError::ReplicaTaken { name: replica.name.clone() });
            }
            let tag: Vec<u8> = row.try_get(2)?;
            mac.check(TABLE, &replica.columns(row.try_get(1)?), &tag)?;
            query("UPDATE replicas SET epoch = epoch + 1, version = $2, last_seen = $3 WHERE name = $1")
                .bind(&replica.name)
                .bind(env!("CARGO_PKG_VERSION"))
                .bind(now)
                .execute(&mut tx)
                .await?;
        }
    }
    Ok(tx.commit().await?)
}

/// Says that this one is alive.
pub(super) async fn beat(on: &mut impl Run, name: &str, now: i64) -> Result<(), StoreError> {
    query("UPDATE replicas SET last_seen = $2 WHERE name = $1").bind(name).bind(now).execute(on).await?;
    Ok(())
}

impl Store {
    /// Every control plane that ever used this store, by name.
    pub(crate) async fn replicas(&self) -> Result<Vec<ReplicaStatus>, StoreError> {
        let rows = query("SELECT name, epoch, version, last_seen FROM replicas ORDER BY name")
            .fetch_all(&mut self.desk.pool.read().await?)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(ReplicaStatus {
                    name: row.try_get(0)?,
                    epoch: u64::try_from(row.try_get::<i64>(1)?).unwrap_or(0),
                    version: row.try_get(2)?,
                    last_seen: row.try_get(3)?,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_remembers_who_it_is() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Replica::read(dir.path(), None).unwrap(), None);
        let mut made = Replica::make(dir.path(), None).unwrap();
        assert!(made.fresh && made.name.len() > 6);
        assert_eq!(Replica::read(dir.path(), None).unwrap().as_ref(), Some(&made));
        made.settled(dir.path()).unwrap();
        assert!(!Replica::read(dir.path(), Some(&made.name)).unwrap().unwrap().fresh);
        let error = Replica::read(dir.path(), Some("other")).unwrap_err();
        assert!(matches!(error, StoreError::ReplicaName { .. }), "{error}");
    }

    #[test]
    fn a_file_that_was_written_over_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "name", "name\nxyz\n", "name\n00\n"] {
            files::write_private(&dir.path().join(FILE), text.as_bytes()).unwrap();
            let error = Replica::read(dir.path(), None).unwrap_err();
            assert!(matches!(error, StoreError::ReplicaFile { .. }), "{text:?}: {error}");
        }
    }
}
