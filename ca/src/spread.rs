//! How far revocations have come, over all control planes of one store.
//!
//! A control plane knows the sidecars that are connected to it, and which revocations each of them has acknowledged. It
//! says so in the store, where whoever waits for a revocation reads it. One that ended in good order has no sidecars. One
//! that fell silent may still have some, which hear of nothing new: it counts for as long as a certificate lives, after
//! which no stream to it can be open any more, since every stream ends with its certificate and none is issued without
//! the store.

use crate::authority::Authority;
use crate::error::AuthorityError;
use crate::store::SpreadRow;

/// Beats come every ten seconds.
const SILENT: i64 = 60;

/// What a control plane says of its sidecars.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpreadNote {
    /// Number of the newest set of revocations that all of them go by.
    pub sequence: u64,
    /// How many are connected.
    pub sidecars: u64,
    /// How many of them do not go by the newest set, and the names of some.
    pub behind: u64,
    pub names: Vec<String>,
}

/// Another control plane's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Note(SpreadNote),
    /// It says nothing of it, being of an earlier version.
    Nothing,
    /// It has not been heard of since, seconds since the epoch.
    Silent(i64),
}

impl Authority {
    /// Says how far revocations have come with the sidecars of this control plane, where others can read it.
    pub async fn note_spread(&self, note: SpreadNote) -> Result<(), AuthorityError> {
        self.say(note, false).await
    }

    /// Says that this control plane ends, and that no sidecar is connected to it any more.
    pub async fn leave_spread(&self) -> Result<(), AuthorityError> {
        self.say(SpreadNote::default(), true).await
    }

    async fn say(&self, note: SpreadNote, ended: bool) -> Result<(), AuthorityError> {
        if !self.inner.store.is_shared() {
            return Ok(());
        }
        self.act(move |inner| async move {
            let mut writer = inner.store.begin().await?;
            writer.note_spread(&note, ended).await?;
            Ok(writer.commit().await?)
        })
        .await
    }

    /// What the other control planes of this store say that may have sidecars now, by their names.
    pub async fn other_spreads(&self) -> Result<Vec<(String, Told)>, AuthorityError> {
        if !self.inner.store.is_shared() {
            return Ok(Vec::new());
        }
        let now = self.inner.clock.unix_seconds();
        let rows = self.inner.store.other_spreads().await?;
        Ok(rows.into_iter().filter_map(|row| told(row, now, self.inner.svid_ttl)).collect())
    }
}

fn told(row: SpreadRow, now: i64, longest_stream: i64) -> Option<(String, Told)> {
    let silent = now.saturating_sub(row.last_seen);
    if row.ended || silent > longest_stream.max(SILENT) {
        return None;
    }
    let told = match row.note {
        _ if silent > SILENT => Told::Silent(row.last_seen),
        Some(note) => Told::Note(note),
        None => Told::Nothing,
    };
    Some((row.replica, told))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: i64 = 3600;

    fn row(note: Option<SpreadNote>) -> SpreadRow {
        SpreadRow { replica: "b".into(), last_seen: 1_000, note, ended: false }
    }

    fn at(row: &SpreadRow, now: i64) -> Option<Told> {
        told(row.clone(), now, TTL).map(|(_, told)| told)
    }

    #[test]
    fn a_control_plane_counts_while_a_stream_to_it_may_be_open() {
        let note = SpreadNote { sequence: 7, sidecars: 2, ..SpreadNote::default() };
        let says = row(Some(note.clone()));
        assert_eq!(at(&says, 1_000 + SILENT), Some(Told::Note(note)));
        assert_eq!(at(&says, 1_000 + SILENT + 1), Some(Told::Silent(1_000)), "its sidecars may hear nothing");
        assert_eq!(at(&says, 1_000 + TTL), Some(Told::Silent(1_000)));
        assert_eq!(at(&says, 1_000 + TTL + 1), None, "every certificate of then has ended");
        assert_eq!(at(&SpreadRow { ended: true, ..says }, 1_000), None);
        assert_eq!(at(&row(None), 1_000), Some(Told::Nothing));
    }
}
