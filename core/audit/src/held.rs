//! Heads that somebody held, compared with a log while it is read.

use std::collections::BTreeMap;

use crate::{ExportError, Report, Statement};

/// A head, and who held it, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldHead {
    pub from: String,
    pub statement: Statement,
}

/// Those that were not met yet, by replica and record.
#[derive(Debug, Default)]
pub(crate) struct Held {
    waiting: BTreeMap<String, BTreeMap<u64, Vec<HeldHead>>>,
    compared: u64,
}

impl Held {
    pub(crate) fn new(heads: Vec<HeldHead>) -> Held {
        let mut held = Held::default();
        for head in heads {
            let of = held.waiting.entry(head.statement.replica.clone()).or_default();
            of.entry(head.statement.sequence).or_default().push(head);
        }
        held
    }

    /// Whose log it is.
    pub(crate) fn origin(&self, trust_domain: &str) -> Result<(), ExportError> {
        let mut all = self.waiting.values().flat_map(BTreeMap::values).flatten();
        match all.find(|head| head.statement.trust_domain != trust_domain) {
            Some(HeldHead { from, statement }) => Err(ExportError::HeldForeign {
                from: from.clone(),
                found: statement.trust_domain.clone(),
                expected: trust_domain.to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// There is a record, or a checkpoint in its place.
    pub(crate) fn meet(&mut self, replica: &str, sequence: u64, hash: &[u8; 32]) -> Result<(), ExportError> {
        let Some(here) = self.waiting.get_mut(replica).and_then(|of| of.remove(&sequence)) else {
            return Ok(());
        };
        for HeldHead { from, statement } in here {
            if statement.hash != *hash {
                let replica = replica.to_owned();
                return Err(ExportError::HeldFork { from, replica, sequence, at: statement.at });
            }
            self.compared = self.compared.saturating_add(1);
        }
        Ok(())
    }

    /// The log has been read: what was not met is behind its end, or was removed by a checkpoint.
    pub(crate) fn finish(self, report: &mut Report) -> Result<(), ExportError> {
        report.held = self.compared;
        for HeldHead { from, statement } in
            self.waiting.into_values().flat_map(BTreeMap::into_values).flatten()
        {
            let Statement { replica, sequence, at, .. } = statement;
            match report.replicas.get(&replica) {
                None => return Err(ExportError::HeldGone { from, replica, sequence, at }),
                Some(log) if sequence > log.last => {
                    return Err(ExportError::HeldCut { from, replica, last: log.last, sequence, at });
                }
                Some(_) => report.held_removed = report.held_removed.saturating_add(1),
            }
        }
        Ok(())
    }
}
