//! Who is connected now, for `signet status` and the sidecar list.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use signet_proto::v1::SidecarStatus;

/// A software version longer than this is not one.
const MAX_VERSION: usize = 64;

/// One row per open stream.
#[derive(Debug, Default)]
pub struct Table {
    rows: Mutex<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    next: u64,
    open: BTreeMap<u64, SidecarStatus>,
}

impl Table {
    /// A stream began; its row lives as long as the entry.
    #[must_use]
    pub fn enter(self: &Arc<Self>, mut status: SidecarStatus) -> Entry {
        // Shown to people, so printable and short.
        status.version = status.version.chars().filter(|c| c.is_ascii_graphic()).take(MAX_VERSION).collect();
        let mut rows = self.lock();
        let key = rows.next;
        rows.next = key.wrapping_add(1);
        rows.open.insert(key, status);
        drop(rows);
        Entry { table: Arc::clone(self), key }
    }

    /// Every row, by identity and then by age.
    #[must_use]
    pub fn list(&self) -> Vec<SidecarStatus> {
        let mut rows: Vec<SidecarStatus> = self.lock().open.values().cloned().collect();
        rows.sort_by(|a, b| (&a.spiffe_id, a.connected_at).cmp(&(&b.spiffe_id, b.connected_at)));
        rows
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().open.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream's row; dropping it removes the row.
#[derive(Debug)]
pub struct Entry {
    table: Arc<Table>,
    key: u64,
}

impl Entry {
    /// What was sent, answered and rejected so far.
    pub fn progress(&self, sent: u64, acked: u64, rejected: Vec<String>) {
        if let Some(row) = self.table.lock().open.get_mut(&self.key) {
            row.sent_nonce = sent;
            row.acked_nonce = acked;
            row.rejected = rejected;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.table.lock().open.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_lives_as_long_as_its_stream() {
        let table = Arc::new(Table::default());
        let row = |id: &str| SidecarStatus {
            spiffe_id: id.into(),
            version: "0.1.0\u{1b}[31m".into(),
            ..Default::default()
        };
        let first = table.enter(row("b"));
        let second = table.enter(row("a"));
        first.progress(3, 2, vec!["inbound/x.y: unknown field".into()]);
        let list = table.list();
        assert_eq!(list.iter().map(|r| r.spiffe_id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((list[1].sent_nonce, list[1].acked_nonce), (3, 2));
        assert_eq!(
            list[0].version, "0.1.0[31m",
            "what a peer says of itself cannot move a terminal's cursor"
        );
        drop(second);
        assert_eq!(table.len(), 1);
    }
}
