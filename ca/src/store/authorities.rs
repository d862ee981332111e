//! The journal of authorities: one row for each root, issuer and key, in the phase that it is in.
//!
//! Rows carry a MAC, and one marked head says how many there are, what they are together and which number their last
//! change had: a row that somebody changed, removed or put back is noticed whenever the journal is read.

use super::changes::Change;
use super::mac::{Column, RowMac, optional_bytes, optional_number};
use super::sql::{Run, query};
use super::{Store, StoreError, Writer, log, tokens};
use crate::hierarchy::Issuer;
use crate::rotation::machine::{Hurry, Kind, Phase, Slot};
use crate::rotation::material::Entry;
use ring::digest::{Context, SHA256};

const TABLE: &str = "authorities";
const HEAD: &str = "authorities_head";
const COLUMNS: &str = "SELECT id, kind, owner, phase, not_before, not_after, sequence, since, parent, tainted_at, \
                       hurry, public, intermediate, cross_certificate, mac FROM authorities ORDER BY id";

/// The journal's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct JournalHead {
    /// Number of the last change; grows with each.
    pub(crate) journal: u64,
    /// Number of what verifiers are told.
    pub(crate) bundle: u64,
    count: u64,
    digest: [u8; 32],
}

/// The journal, read whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct Journal {
    pub(crate) head: JournalHead,
    pub(crate) entries: Vec<Entry>,
}

fn columns(entry: &Entry) -> [Column<'_>; 14] {
    let slot = &entry.slot;
    [
        Column::Text(&slot.id),
        Column::Text(slot.kind.as_str()),
        Column::Text(&slot.owner),
        Column::Text(slot.phase.as_str()),
        Column::Number(slot.not_before),
        Column::Number(slot.not_after),
        Column::Number(log::number_of(slot.sequence)),
        Column::Number(slot.since),
        optional_bytes(slot.parent.as_ref().map(String::as_bytes)),
        optional_number(slot.tainted_at),
        Column::Text(slot.hurry.as_str()),
        Column::Bytes(&entry.public),
        optional_bytes(entry.intermediate.as_deref()),
        optional_bytes(entry.cross.as_deref()),
    ]
}

fn head_columns(head: &JournalHead) -> [Column<'_>; 4] {
    [
        Column::Number(log::number_of(head.journal)),
        Column::Number(log::number_of(head.bundle)),
        Column::Number(log::number_of(head.count)),
        Column::Bytes(&head.digest),
    ]
}

fn corrupt(what: &'static str) -> StoreError {
    StoreError::Corrupt { table: TABLE, what }
}

async fn rows(on: &mut impl Run, mac: &RowMac) -> Result<(Vec<Entry>, u64, [u8; 32]), StoreError> {
    let mut context = Context::new(&SHA256);
    let mut entries = Vec::new();
    for row in query(COLUMNS).fetch_all(on).await? {
        let (kind, phase, hurry): (String, String, String) =
            (row.try_get(1)?, row.try_get(3)?, row.try_get(10)?);
        let entry = Entry {
            slot: Slot {
                id: row.try_get(0)?,
                kind: Kind::parse(&kind).ok_or(corrupt("an unknown kind"))?,
                owner: row.try_get(2)?,
                phase: Phase::parse(&phase).ok_or(corrupt("an unknown phase"))?,
                not_before: row.try_get(4)?,
                not_after: row.try_get(5)?,
                sequence: u64::try_from(row.try_get::<i64>(6)?).unwrap_or(0),
                since: row.try_get(7)?,
                parent: row.try_get(8)?,
                tainted_at: row.try_get(9)?,
                hurry: Hurry::parse(&hurry).ok_or(corrupt("an unknown hurry"))?,
            },
            public: row.try_get(11)?,
            intermediate: row.try_get(12)?,
            cross: row.try_get(13)?,
        };
        let tag: Vec<u8> = row.try_get(14)?;
        mac.check(TABLE, &columns(&entry), &tag)?;
        context.update(&tag);
        entries.push(entry);
    }
    let mut digest = [0u8; 32];
    digest.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    let count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
    Ok((entries, count, digest))
}

async fn head(on: &mut impl Run, mac: &RowMac) -> Result<Option<JournalHead>, StoreError> {
    let sql = "SELECT journal, bundle, count, digest, mac FROM authorities_head WHERE id = 1";
    let Some(row) = query(sql).fetch_optional(on).await? else { return Ok(None) };
    let number = |index: usize| -> Result<u64, StoreError> {
        u64::try_from(row.try_get::<i64>(index)?)
            .map_err(|_| StoreError::Corrupt { table: HEAD, what: "a number is negative" })
    };
    let head = JournalHead {
        journal: number(0)?,
        bundle: number(1)?,
        count: number(2)?,
        digest: tokens::hash(row.try_get(3)?, HEAD)?,
    };
    let tag: Vec<u8> = row.try_get(4)?;
    mac.check(HEAD, &head_columns(&head), &tag)?;
    Ok(Some(head))
}

/// The whole journal, if it is what its head says.
async fn read(on: &mut impl Run, mac: &RowMac) -> Result<Journal, StoreError> {
    let head = head(on, mac).await?;
    let (entries, count, digest) = rows(on, mac).await?;
    match head {
        Some(head) if (head.count, head.digest) == (count, digest) => Ok(Journal { head, entries }),
        None if entries.is_empty() => Ok(Journal::default()),
        _ => Err(StoreError::Tampered { table: TABLE }),
    }
}

impl Writer {
    pub(crate) async fn journal(&mut self) -> Result<Journal, StoreError> {
        let mac = self.mac.clone();
        read(self.tx(), &mac).await
    }

    /// Whether this issuer still signs, as of this transaction; its certificate is written down with it. Whoever edits
    /// the row can stop an issuer and start none: what signs is what this process took into force.
    pub(crate) async fn signs(&mut self, issuer: &Issuer) -> Result<bool, StoreError> {
        if self.issuer_checked().as_deref() == Some(&*issuer.id) {
            return Ok(true);
        }
        let sql = "SELECT 1 FROM authorities WHERE id = $1 AND phase = 'active'";
        if query(sql).bind(&issuer.id).fetch_optional(self.tx()).await?.is_none() {
            return Ok(false);
        }
        let certificate = &issuer.certificate;
        self.insert_issuer(certificate.serial.as_bytes(), &certificate.der, certificate.validity.not_after)
            .await?;
        *self.issuer_checked() = Some(issuer.id.as_str().into());
        Ok(true)
    }

    /// Writes these entries (new or changed) and the journal's next head. `tells` says that what verifiers are told
    /// has changed with it; the number of that is handed back. Numbers follow the clock, so that a journal that was
    /// restored from a copy goes on above what was heard already.
    pub(crate) async fn write_authorities(
        &mut self,
        entries: &[Entry],
        before: &JournalHead,
        tells: bool,
        now: i64,
    ) -> Result<JournalHead, StoreError> {
        for entry in entries {
            let slot = &entry.slot;
            let mac = self.mac.tag(TABLE, &columns(entry));
            query(
                "INSERT INTO authorities (id, kind, owner, phase, not_before, not_after, sequence, since, parent, \
                 tainted_at, hurry, public, intermediate, cross_certificate, mac) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) \
                 ON CONFLICT (id) DO UPDATE SET phase = $4, not_before = $5, not_after = $6, sequence = $7, \
                 since = $8, parent = $9, tainted_at = $10, hurry = $11, public = $12, intermediate = $13, \
                 cross_certificate = $14, mac = $15",
            )
            .bind(&slot.id)
            .bind(slot.kind.as_str())
            .bind(&slot.owner)
            .bind(slot.phase.as_str())
            .bind(slot.not_before)
            .bind(slot.not_after)
            .bind(log::number_of(slot.sequence))
            .bind(slot.since)
            .bind(slot.parent.as_deref())
            .bind(slot.tainted_at)
            .bind(slot.hurry.as_str())
            .bind(&entry.public)
            .bind(&entry.intermediate)
            .bind(&entry.cross)
            .bind(mac)
            .execute(self.tx())
            .await?;
        }
        let mac = self.mac.clone();
        let (_, count, digest) = rows(self.tx(), &mac).await?;
        let bundle = if tells { next_number(before.bundle, now) } else { before.bundle };
        let head = JournalHead { journal: next_number(before.journal, now), bundle, count, digest };
        query(
            "INSERT INTO authorities_head (id, journal, bundle, count, digest, mac) VALUES (1, $1, $2, $3, $4, $5) \
             ON CONFLICT (id) DO UPDATE SET journal = $1, bundle = $2, count = $3, digest = $4, mac = $5",
        )
        .bind(log::number_of(head.journal))
        .bind(log::number_of(head.bundle))
        .bind(log::number_of(head.count))
        .bind(head.digest.as_slice())
        .bind(self.mac.tag(HEAD, &head_columns(&head)))
        .execute(self.tx())
        .await?;
        self.announce(Change::Rotation);
        Ok(head)
    }

    /// Forgets authorities that were removed long ago.
    pub(crate) async fn sweep_authorities(&mut self, removed_before: i64) -> Result<bool, StoreError> {
        let sql = "DELETE FROM authorities WHERE phase = 'removed' AND since < $1";
        let done = query(sql).bind(removed_before).execute(self.tx()).await?;
        Ok(done.rows_affected() > 0)
    }
}

impl Journal {
    /// The number that the next change of what verifiers are told will have.
    pub(crate) fn next_bundle(&self, now: i64) -> u64 {
        next_number(self.head.bundle, now)
    }
}

/// The number after this one.
fn next_number(before: u64, now: i64) -> u64 {
    before.saturating_add(1).max(u64::try_from(now).unwrap_or(0))
}

impl Store {
    pub(crate) async fn journal(&self) -> Result<Journal, StoreError> {
        read(&mut self.desk.pool.view().await?, &self.desk.mac).await
    }
}
