//! Who writes, and when it counts.
//!
//! A [`Writer`] is one act. Acts take turns, and share transactions: one that is ready while others wait for their
//! turn leaves the transaction open to them and waits in line again; whoever comes to the end of the line commits
//! for all. One flush to the disk thus serves every act that came while the last one was flushed. An act that is
//! dropped takes back only its own statements and records: it has a savepoint of its own, unless it is the first.
//!
//! On PostgreSQL other control planes write too. Every transaction begins by taking locks, and waits for none later:
//! shared with all who issue, alone with whoever changes the revocations; then those of the keys, parents and
//! tokens that its first act names, in order. A later act only tries its locks; where another process holds one, the
//! transaction is committed and the act begins a new one. So nobody waits holding what another waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prometheus::IntCounter;
use ring::digest::{Context, SHA256};
use tokio::sync::{Mutex, OwnedMutexGuard, broadcast, watch};

use super::changes::Change;
use super::log::{self, Head};
use super::mac::RowMac;
use super::missed::Missed;
use super::sql::{Dialect, Pool, Tx, query};
use super::{ChainError, StoreError};
use crate::record::{Entry, Record};

/// How long an act waits for its turn to write.
pub(super) const TURN: Duration = Duration::from_secs(10);
/// Acts in one transaction: more would gain little, and all of them wait for the last. On PostgreSQL below what it
/// keeps of savepoints in shared memory.
const fn max_acts(dialect: Dialect) -> usize {
    match dialect {
        Dialect::Sqlite => 256,
        Dialect::Postgres => 48,
    }
}

/// What an act must be the only one to do, whichever control plane does it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Guarded<'a> {
    /// SHA-256 of a public key.
    Key(&'a [u8]),
    /// Serial of a certificate that is renewed.
    Parent(&'a [u8]),
    /// What begins a lineage: the hash of a join token.
    Origin(&'a [u8]),
}

impl Guarded<'_> {
    /// The number under which PostgreSQL locks it.
    fn lock(self) -> i64 {
        let (kind, bytes) = match self {
            Guarded::Key(bytes) => (b'k', bytes),
            Guarded::Parent(bytes) => (b'p', bytes),
            Guarded::Origin(bytes) => (b'o', bytes),
        };
        let mut context = Context::new(&SHA256);
        context.update(&[kind]);
        context.update(bytes);
        let digest = context.finish();
        digest.as_ref().first_chunk().map_or(0, |first| i64::from_be_bytes(*first))
    }
}

/// The log's end as this process left it. After a commit of which nothing was heard it may be at either of two.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) last: Option<Head>,
    perhaps: Option<Head>,
}

impl Known {
    pub(super) fn at(head: Head) -> Known {
        Known { last: Some(head), perhaps: None }
    }

    fn check(&self, stored: Option<Head>) -> Result<(), ChainError> {
        let Some(last) = self.last else { return Ok(()) };
        if stored == Some(last) || (stored.is_some() && stored == self.perhaps) {
            return Ok(());
        }
        let found = stored.map_or(0, |head| head.sequence);
        Err(ChainError::SetBack { written: last.sequence, found })
    }
}

/// What goes from one writer to the next.
#[derive(Default)]
pub(super) struct Turn {
    pub(super) known: Known,
    /// A transaction with acts that wait to be committed.
    open: Option<Batch>,
}

/// What became of a transaction, for all of its acts. None: nothing yet.
type Outcome = Option<Result<(), Arc<StoreError>>>;

/// One transaction and the acts in it.
struct Batch {
    tx: Tx,
    /// The log's end, once it was asked for.
    head: Option<Option<Head>>,
    records: Vec<Arc<Record>>,
    changes: Vec<Change>,
    /// Acts that are done and wait for the commit.
    acts: usize,
    /// There is a savepoint before the last act.
    placed: bool,
    /// The last act was given up: what it did must be taken back before anything else.
    torn: bool,
    /// Nobody else changes or relies on the revocations.
    alone: bool,
    set: SetChecked,
    /// The issuer that was found to sign.
    issuer: Option<Box<str>>,
    outcome: watch::Sender<Outcome>,
}

/// How far the revocations were compared with what the head says, in this transaction.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SetChecked {
    /// How many there are.
    pub(super) counted: Option<u64>,
    pub(super) whole: bool,
}

impl Batch {
    fn of(tx: Tx, alone: bool) -> Batch {
        Batch {
            tx,
            head: None,
            records: Vec::new(),
            changes: Vec::new(),
            acts: 0,
            placed: false,
            torn: false,
            alone,
            set: SetChecked::default(),
            issuer: None,
            outcome: watch::Sender::new(None),
        }
    }

    async fn open(pool: &Pool, alone: bool, locks: &[i64]) -> Result<Batch, StoreError> {
        let mut tx = pool.write().await?;
        if tx.dialect() == Dialect::Postgres {
            let set = if alone {
                "SELECT pg_advisory_xact_lock(1, 1)"
            } else {
                "SELECT pg_advisory_xact_lock_shared(1, 1)"
            };
            query(set).execute(&mut tx).await?;
            for lock in locks {
                query("SELECT pg_advisory_xact_lock($1)").bind(*lock).execute(&mut tx).await?;
            }
        }
        Ok(Batch::of(tx, alone))
    }

    /// Makes room for one more act; whether it may begin.
    async fn join(&mut self, locks: &[i64]) -> Result<bool, StoreError> {
        if self.torn {
            query("ROLLBACK TO SAVEPOINT act").execute(&mut self.tx).await?;
        } else {
            // One at a time: each that stays is another one that every change of a page is compared with.
            if self.placed {
                query("RELEASE SAVEPOINT act").execute(&mut self.tx).await?;
            }
            query("SAVEPOINT act").execute(&mut self.tx).await?;
            self.placed = true;
        }
        self.torn = false;
        if self.tx.dialect() == Dialect::Postgres {
            for lock in locks {
                let row =
                    query("SELECT pg_try_advisory_xact_lock($1)").bind(*lock).fetch_one(&mut self.tx).await?;
                if !row.try_get::<bool>(0)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// What every writer needs of the store.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) pool: Pool,
    pub(super) mac: RowMac,
    pub(super) replica: Arc<str>,
    /// Held for as long as an act writes.
    pub(super) turn: Arc<Mutex<Turn>>,
    /// Acts that wait for their turn.
    waiting: Arc<AtomicUsize>,
    pub(super) live: broadcast::Sender<Arc<Record>>,
    pub(super) changes: broadcast::Sender<Change>,
    commits: IntCounter,
    pub(super) missed: Option<Arc<Missed>>,
}

impl Desk {
    pub(super) fn new(
        pool: Pool,
        mac: RowMac,
        replica: &str,
        (live, commits): (usize, IntCounter),
        missed: Option<Missed>,
    ) -> Desk {
        Desk {
            pool,
            mac,
            replica: replica.into(),
            turn: Arc::default(),
            waiting: Arc::default(),
            live: broadcast::channel(live).0,
            changes: broadcast::channel(64).0,
            commits,
            missed: missed.map(Arc::new),
        }
    }

    async fn turn(&self) -> OwnedMutexGuard<Turn> {
        /// Counts down also when the wait is given up.
        struct Waits<'a>(&'a AtomicUsize);
        impl Drop for Waits<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waits = Waits(&self.waiting);
        Arc::clone(&self.turn).lock_owned().await
    }

    /// Waits for its turn and begins to write. Dropping the writer undoes everything that it did.
    pub(super) async fn begin(&self, alone: bool, guarded: &[Guarded<'_>]) -> Result<Writer, StoreError> {
        let mut locks: Vec<i64> = guarded.iter().map(|what| what.lock()).collect();
        locks.sort_unstable();
        locks.dedup();
        let mut turn = tokio::time::timeout(TURN, self.turn()).await.map_err(|_| StoreError::Busy)?;
        let mut joined = None;
        if let Some(mut open) = turn.open.take() {
            if alone && !open.alone {
                self.settle(&mut turn, open).await;
            } else {
                match open.join(&locks).await {
                    Ok(true) => joined = Some(open),
                    // Somebody else holds a lock. Taking back what was never done is harmless.
                    Ok(false) => self.settle(&mut turn, open).await,
                    Err(error) => {
                        open.outcome.send_replace(Some(Err(Arc::new(error))));
                    }
                }
            }
        }
        let batch = match joined {
            Some(batch) => batch,
            None => Batch::open(&self.pool, alone, &locks).await?,
        };
        Ok(Writer {
            mark: Mark { head: batch.head, records: batch.records.len(), changes: batch.changes.len() },
            batch,
            mac: self.mac.clone(),
            desk: self.clone(),
            turn: Some(turn),
        })
    }

    /// Commits for all acts of the transaction, and tells them.
    async fn settle(&self, turn: &mut Turn, mut batch: Batch) {
        let head = batch.head.flatten();
        let outcome = batch.outcome.clone();
        let committed = async {
            if batch.torn {
                query("ROLLBACK TO SAVEPOINT act").execute(&mut batch.tx).await?;
            }
            if let Some(head) = &head
                && !batch.records.is_empty()
            {
                log::write_head(&mut batch.tx, &self.mac, &self.replica, head).await?;
            }
            if batch.tx.dialect() == Dialect::Postgres {
                for change in &batch.changes {
                    query("SELECT pg_notify('signet', $1)")
                        .bind(change.as_str())
                        .execute(&mut batch.tx)
                        .await?;
                }
            }
            Ok::<_, StoreError>(batch.tx.commit().await?)
        };
        if let Err(error) = committed.await {
            // It may have been done all the same: only the answer is missing.
            turn.known.perhaps = head;
            outcome.send_replace(Some(Err(Arc::new(error))));
            return;
        }
        self.commits.inc();
        if let Some(head) = head {
            turn.known = Known::at(head);
        }
        for record in batch.records {
            // Nobody listening is no error.
            let _ = self.live.send(record);
        }
        for change in batch.changes {
            let _ = self.changes.send(change);
        }
        outcome.send_replace(Some(Ok(())));
    }
}

/// Where an act began, to go back there.
struct Mark {
    head: Option<Option<Head>>,
    records: usize,
    changes: usize,
}

/// One act. What it writes and records happens as a whole, at [`Writer::commit`].
pub(crate) struct Writer {
    batch: Batch,
    mark: Mark,
    pub(super) mac: RowMac,
    desk: Desk,
    /// Given back when the act is done or dropped.
    turn: Option<OwnedMutexGuard<Turn>>,
}

impl Writer {
    /// Where this act's statements go.
    pub(super) fn tx(&mut self) -> &mut Tx {
        &mut self.batch.tx
    }

    /// Who writes.
    pub(super) fn replica(&self) -> &str {
        &self.desk.replica
    }

    /// The issuer that was found to sign, in this transaction: nobody ends one while others write.
    pub(super) fn issuer_checked(&mut self) -> &mut Option<Box<str>> {
        &mut self.batch.issuer
    }

    pub(super) fn set_checked(&mut self) -> &mut SetChecked {
        &mut self.batch.set
    }

    /// Where the log ends, this act's records counted; it must be where this process left it.
    pub(super) async fn log_head(&mut self) -> Result<Option<Head>, StoreError> {
        if let Some(head) = self.batch.head {
            return Ok(head);
        }
        let stored = log::head(&mut self.batch.tx, &self.mac, &self.desk.replica).await?;
        if let Some(turn) = &self.turn {
            turn.known.check(stored)?;
        }
        self.batch.head = Some(stored);
        self.mark.head = Some(stored);
        Ok(stored)
    }

    /// Adds a record to the log, as part of this act. Where acts may go on without the log, one that it does not take is
    /// kept for later.
    pub(crate) async fn record(&mut self, entry: Entry) -> Result<(), StoreError> {
        let Some(missed) = self.desk.missed.clone() else { return self.record_in_log(entry).await };
        // A log that is not what was written is another matter.
        self.log_head().await?;
        query("SAVEPOINT record").execute(self.tx()).await?;
        if let Err(error) = self.record_in_log(entry.clone()).await {
            query("ROLLBACK TO SAVEPOINT record").execute(self.tx()).await?;
            missed.keep(&self.mac, &entry).await?;
            tracing::error!(target: "signet::ca", %error, event = %entry.event, "the issuance log took no record: it is kept, and the act goes on");
        }
        query("RELEASE SAVEPOINT record").execute(self.tx()).await?;
        Ok(())
    }

    /// The same, or nothing is done.
    pub(super) async fn record_in_log(&mut self, entry: Entry) -> Result<(), StoreError> {
        let stored = self.log_head().await?;
        let (record, head) = log::append(&mut self.batch.tx, &self.desk.replica, stored, entry).await?;
        self.batch.head = Some(Some(head));
        self.batch.records.push(Arc::new(record));
        Ok(())
    }

    /// Lets everybody who listens know, here and in other control planes, once it is done.
    pub(super) fn announce(&mut self, change: Change) {
        if !self.batch.changes.contains(&change) {
            self.batch.changes.push(change);
        }
    }

    /// Makes it so, together with the acts that share the transaction, then tells the subscribers, in the order
    /// of the log.
    pub(crate) async fn commit(mut self) -> Result<(), StoreError> {
        let desk = self.desk.clone();
        let Some(mut turn) = self.turn.take() else { return Err(StoreError::Busy) };
        let mut batch = std::mem::replace(&mut self.batch, Batch::of(Tx::Over, false));
        drop(self);
        batch.acts = batch.acts.saturating_add(1);
        let mut outcome = batch.outcome.subscribe();
        if batch.alone
            || batch.acts >= max_acts(batch.tx.dialect())
            || desk.waiting.load(Ordering::Relaxed) == 0
        {
            desk.settle(&mut turn, batch).await;
        } else {
            let ours = batch.outcome.clone();
            turn.open = Some(batch);
            drop(turn);
            tokio::select! {
                biased;
                _ = outcome.changed() => {}
                mut turn = desk.turn() => {
                    if let Some(open) = turn.open.take() {
                        if open.outcome.same_channel(&ours) {
                            desk.settle(&mut turn, open).await;
                        } else {
                            turn.open = Some(open);
                        }
                    }
                }
            }
        }
        match &*outcome.borrow_and_update() {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(StoreError::Shared(Arc::clone(error))),
            None => Err(StoreError::Busy),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Some(mut turn) = self.turn.take() else { return };
        let mut batch = std::mem::replace(&mut self.batch, Batch::of(Tx::Over, false));
        if batch.acts > 0 {
            batch.head = self.mark.head;
            batch.records.truncate(self.mark.records);
            batch.changes.truncate(self.mark.changes);
            // Whatever it found first may be taken back with it.
            batch.issuer = None;
            batch.set = SetChecked::default();
            batch.torn = true;
            turn.open = Some(batch);
        }
    }
}
