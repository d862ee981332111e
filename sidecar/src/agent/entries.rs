//! What this agent may vouch for, as it was delivered.

use signet_identity::{SpiffeId, TrustDomain};
use signet_model::{ProcessFacts, ProcessSelector, Registration};
use signet_proto::v1;

/// One Registration that names us.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Who its processes are.
    pub id: SpiffeId,
    selector: ProcessSelector,
}

impl Entry {
    /// How much it asks: the identity of who asks most comes first.
    fn asks(&self) -> usize {
        self.selector.specificity()
    }
}

/// Reads them. One that cannot be read means nobody, and is named in the log.
pub fn read(delivered: &v1::ProcessEntries, trust_domain: &TrustDomain) -> Vec<Entry> {
    let read = |entry: &v1::ProcessEntry| -> Result<Entry, String> {
        let registration = Registration::from_json(&entry.json).map_err(|error| error.to_string())?;
        let selector = registration.spec.unix.ok_or_else(|| "it means no processes".to_owned())?;
        let id = registration.spec.identity.spiffe_id(trust_domain).map_err(|error| error.to_string())?;
        Ok(Entry { name: registration.name.to_string(), id, selector })
    };
    let mut entries = Vec::new();
    for entry in &delivered.entries {
        match read(entry) {
            Ok(read) => entries.push(read),
            Err(error) => {
                tracing::error!(target: "signet::agent", registration = entry.name, error,
                    "a Registration cannot be read and means nobody here; update the agent");
            }
        }
    }
    entries
}

/// Whether any of them asks for the digest of a program.
pub(super) fn ask_for_digests(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| entry.selector.sha256.is_some())
}

/// Those that mean this process, the closest first, one for each identity.
pub(super) fn meant(entries: &[Entry], facts: &ProcessFacts, most: usize) -> Vec<Entry> {
    let mut meant: Vec<&Entry> = entries.iter().filter(|entry| entry.selector.takes(facts)).collect();
    meant.sort_by(|one, other| other.asks().cmp(&one.asks()).then_with(|| one.name.cmp(&other.name)));
    let mut out: Vec<Entry> = Vec::new();
    for entry in meant {
        if out.len() < most && out.iter().all(|earlier| earlier.id != entry.id) {
            out.push(entry.clone());
        }
    }
    out
}
