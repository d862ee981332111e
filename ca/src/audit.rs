//! The issuance log for those who look into it: searched, exported, its signed ends.

use signet_audit::{Line, Origin, PublicKey, RecordLine, Signed, SignedLine, hex};
use tokio::sync::mpsc;

use crate::authority::Authority;
use crate::error::AuthorityError;
use crate::record::Record;
use crate::store::Search;

/// Most records that one search returns.
const MAX_SEARCH: u32 = 10_000;
/// Records that are read at a time while the log is exported.
const PAGE: u32 = 512;

impl Authority {
    /// The key under which ends and checkpoints of the log are signed, its public half.
    pub fn audit_key(&self) -> PublicKey {
        self.inner.audit_key.public()
    }

    /// The newest signed end of each control plane's log, for whoever keeps them elsewhere.
    pub async fn signed_heads(&self) -> Result<Vec<Signed>, AuthorityError> {
        Ok(self.inner.store.signed_heads(self.inner.rules.trust_domain.as_str()).await?)
    }

    /// Records of all control planes, newest first; ten thousand at most.
    pub async fn search(&self, mut wanted: Search) -> Result<Vec<Record>, AuthorityError> {
        wanted.limit = wanted.limit.min(MAX_SEARCH);
        Ok(self.inner.store.search(&wanted).await?)
    }

    /// The whole log of all control planes, line by line, as [`signet_audit::verify`] reads it. Ends early when nobody
    /// takes it any more.
    pub async fn export(&self, to: mpsc::Sender<Line>) -> Result<(), AuthorityError> {
        let store = &self.inner.store;
        let trust_domain = self.inner.rules.trust_domain.as_str();
        let origin = Origin { trust_domain: trust_domain.to_owned(), version: 1 };
        if to.send(Line::Log(origin)).await.is_err() {
            return Ok(());
        }
        // Heads first: a record that is written meanwhile comes after what they cover.
        let heads = store.signed_heads(trust_domain).await?;
        for head in heads {
            let replica = head.statement.replica.as_str();
            let checkpoints = store.checkpoints(trust_domain).await?;
            let mut last = 0;
            if let Some(checkpoint) = checkpoints.iter().find(|it| it.statement.replica == replica) {
                last = checkpoint.statement.sequence;
                if to.send(Line::Checkpoint(SignedLine::of(checkpoint))).await.is_err() {
                    return Ok(());
                }
            }
            let mut told = false;
            loop {
                let page = store.records_after(replica, last, PAGE).await?;
                let Some(end) = page.last().map(|record| record.sequence) else { break };
                for record in &page {
                    if to.send(Line::Record(line(record))).await.is_err() {
                        return Ok(());
                    }
                    if record.sequence == head.statement.sequence {
                        told = true;
                        if to.send(Line::Head(SignedLine::of(&head))).await.is_err() {
                            return Ok(());
                        }
                    }
                }
                last = end;
            }
            // Signed, and not there: whoever verifies is to see it.
            if !told && to.send(Line::Head(SignedLine::of(&head))).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn line(record: &Record) -> RecordLine {
    RecordLine {
        replica: record.replica.clone(),
        sequence: record.sequence,
        at: record.at,
        event: record.event.as_str().to_owned(),
        spiffe_id: record.spiffe_id.clone(),
        class: record.class.clone(),
        serial: record.serial.clone(),
        not_after: record.not_after,
        reason: record.reason.clone(),
        actor: record.actor.clone(),
        suppressed: record.suppressed,
        previous: hex(&record.previous),
        hash: hex(&record.hash),
    }
}
