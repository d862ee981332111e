//! What a flood may cost.
//!
//! Three bounds, all in memory and in front of the store. *Attempts*: a source whose join attempts keep
//! failing is turned away for the rest of the minute before anything is parsed or read; successes do not
//! count, and the table of sources has a fixed size. *Signing*: a lineage, an attested instance and an identity get
//! so many certificates a minute, the lost answers that are given again included; whoever holds one key must
//! not fill the log and the disk with certificates. *Recording*: refusals are written to the issuance log
//! at a bounded rate; those in between are counted, and the next one that is written says for how many it
//! stands. Counters (metrics) see every one.

use std::collections::HashMap;

use signet_identity::SpiffeId;

use crate::attested::Instance;
use crate::authorise::Tie;
use crate::csr::sha256;

/// Sources remembered per generation; two generations are held. Beyond that, sources share one count.
const SOURCES: usize = 4096;
const MINUTE: i64 = 60;

/// Failed attempts per source and minute.
#[derive(Debug)]
pub(crate) struct Attempts {
    allowed: u32,
    began: i64,
    failed: HashMap<String, u32>,
    /// All sources that did not fit.
    others: u32,
}

impl Attempts {
    pub(crate) fn new(allowed: u32) -> Attempts {
        Attempts { allowed, began: i64::MIN, failed: HashMap::new(), others: 0 }
    }

    fn turn(&mut self, now: i64) {
        // A clock that was set back begins a new minute as well.
        if now.saturating_sub(self.began) >= MINUTE || now < self.began {
            self.began = now;
            self.failed.clear();
            self.others = 0;
        }
    }

    /// Whether this source may try now.
    pub(crate) fn allows(&mut self, source: &str, now: i64) -> bool {
        self.turn(now);
        match self.failed.get(source) {
            Some(count) => *count < self.allowed,
            None => self.failed.len() < SOURCES || self.others < self.allowed.saturating_mul(16),
        }
    }

    pub(crate) fn failed(&mut self, source: &str, now: i64) {
        self.turn(now);
        if let Some(count) = self.failed.get_mut(source) {
            *count = count.saturating_add(1);
        } else if self.failed.len() < SOURCES {
            self.failed.insert(source.to_owned(), 1);
        } else {
            self.others = self.others.saturating_add(1);
        }
    }
}

/// Who a certificate is counted for. Each is a digest or random: equal exactly when the holder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    Lineage([u8; 16]),
    Instance([u8; 32]),
    Identity([u8; 32]),
    /// One identity as vouched for by one agent.
    Vouched([u8; 32]),
}

impl Holder {
    pub(crate) fn instance(instance: &Instance) -> Holder {
        Holder::Instance(sha256(format!("{}\0{}", instance.cluster, instance.pod_uid).as_bytes()))
    }

    pub(crate) fn identity(id: &SpiffeId) -> Holder {
        Holder::Identity(sha256(id.as_str().as_bytes()))
    }

    pub(crate) fn vouched(agent: &Tie, id: &SpiffeId) -> Holder {
        let agent = match agent {
            Tie::Lineage(lineage) => lineage.id.to_vec(),
            Tie::Instance(instance) => instance.pod_uid.clone().into_bytes(),
        };
        Holder::Vouched(sha256(&[&agent, id.as_str().as_bytes()].join(&0)))
    }

    pub(crate) fn of(tie: &Tie) -> Holder {
        match tie {
            Tie::Lineage(lineage) => Holder::Lineage(lineage.id),
            Tie::Instance(instance) => Holder::instance(instance),
        }
    }
}

/// The shortest certificates, of a minute, renew three times in it; the rest is for answers that were lost.
pub(crate) const HOLDER_PER_MINUTE: u32 = 30;
/// All replicas of a workload share its identity: a thousand of them start within a minute.
pub(crate) const IDENTITY_PER_MINUTE: u32 = 1_200;
/// All processes of a host have their certificates from one agent, each with a key of its own.
pub(crate) const AGENT_PER_MINUTE: u32 = 600;
/// Of those, the processes of one identity: a service and its workers; what starts a process per request reuses nothing.
const VOUCHED_PER_MINUTE: u32 = 120;
/// A sidecar keeps a JWT-SVID for half of its life: so many audiences can be asked for anew each minute.
pub(crate) const JWT_SVIDS_PER_MINUTE: u32 = 600;
/// Each is a signature and a record: enough for jobs and for what is narrowed now and then, not for each request of many.
pub(crate) const EXCHANGES_PER_MINUTE: u32 = 1_200;
/// Holders told apart within a minute. Only who was authenticated is counted, so that the table is full of
/// real ones; those beyond share one count.
const HOLDERS: usize = 65_536;

/// Certificates, certificates for apps or JWT-SVIDs per holder and minute.
#[derive(Debug)]
pub(crate) struct Signing {
    /// For one lineage or instance.
    allowed: u32,
    began: i64,
    counts: HashMap<Holder, u32>,
    others: u32,
}

impl Signing {
    pub(crate) fn new() -> Signing {
        Signing::per_minute(HOLDER_PER_MINUTE)
    }

    pub(crate) fn per_minute(allowed: u32) -> Signing {
        Signing { allowed, began: i64::MIN, counts: HashMap::new(), others: 0 }
    }

    /// Counts one certificate for each of these; whether it may be.
    pub(crate) fn admit(&mut self, holders: &[Holder], now: i64) -> bool {
        if now.saturating_sub(self.began) >= MINUTE || now < self.began {
            self.began = now;
            self.counts = HashMap::new();
            self.others = 0;
        }
        let mut admitted = true;
        for holder in holders {
            let full = self.counts.len() >= HOLDERS;
            let count = match self.counts.get_mut(holder) {
                Some(count) => count,
                None if full => &mut self.others,
                None => self.counts.entry(*holder).or_default(),
            };
            *count = count.saturating_add(1);
            admitted &= *count
                <= match holder {
                    Holder::Lineage(_) | Holder::Instance(_) => self.allowed,
                    Holder::Identity(_) => IDENTITY_PER_MINUTE,
                    Holder::Vouched(_) => VOUCHED_PER_MINUTE,
                };
        }
        admitted
    }
}

/// How often refusals are written down: a burst, then a steady rate.
#[derive(Debug)]
pub(crate) struct RecordBudget {
    burst: i64,
    per_second: i64,
    left: i64,
    at: i64,
    suppressed: u64,
}

impl RecordBudget {
    pub(crate) fn new(burst: i64, per_second: i64) -> RecordBudget {
        RecordBudget { burst, per_second, left: burst, at: i64::MIN, suppressed: 0 }
    }

    /// Whether to write this one; if so, for how many unwritten ones it stands.
    pub(crate) fn take(&mut self, now: i64) -> Option<u64> {
        let passed = now.saturating_sub(self.at).max(0);
        self.at = now;
        self.left = self.left.saturating_add(passed.saturating_mul(self.per_second)).min(self.burst);
        if self.left <= 0 {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.left = self.left.saturating_sub(1);
        Some(std::mem::take(&mut self.suppressed))
    }

    /// What was counted and not yet written, once the flood is over and nothing else would tell.
    pub(crate) fn flush(&mut self) -> u64 {
        std::mem::take(&mut self.suppressed)
    }

    /// Puts back what a failed write would have said.
    pub(crate) fn put_back(&mut self, suppressed: u64) {
        self.suppressed = self.suppressed.saturating_add(suppressed).saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_keeps_failing_waits_out_the_minute_and_others_do_not() {
        let mut attempts = Attempts::new(3);
        for _ in 0..3 {
            assert!(attempts.allows("a", 100));
            attempts.failed("a", 100);
        }
        assert!(!attempts.allows("a", 159));
        assert!(attempts.allows("b", 159));
        assert!(attempts.allows("a", 160));
    }

    #[test]
    fn one_pod_is_held_back_before_its_identity_and_the_identity_before_the_mesh() {
        let id = SpiffeId::parse("spiffe://demo.signet/ns/shop/sa/web").unwrap();
        let pod = |uid: u32| {
            let text = |text: &str| text.to_owned();
            Holder::instance(&Instance {
                cluster: text("c"),
                namespace: text("shop"),
                pod: text("web"),
                pod_uid: uid.to_string(),
                node: text("n"),
            })
        };
        let mut signing = Signing::new();
        let admitted = |signing: &mut Signing, uid, times, now| {
            (0..times).filter(|_| signing.admit(&[pod(uid), Holder::identity(&id)], now)).count()
        };
        assert_eq!(admitted(&mut signing, 1, 40, 100), 30);
        assert_eq!(admitted(&mut signing, 2, 30, 100), 30, "its sibling does not suffer");
        let rest: usize = (3..60).map(|uid| admitted(&mut signing, uid, 30, 100)).sum();
        assert_eq!(rest, 1_200 - 70, "all of one identity together");
        assert_eq!(admitted(&mut signing, 1, 1, 160), 1, "the next minute is another");
    }

    #[test]
    fn the_table_of_holders_does_not_grow_without_bound() {
        let mut signing = Signing::new();
        let holder = |n: usize| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&n.to_be_bytes());
            Holder::Lineage(id)
        };
        let admitted = (0..2 * HOLDERS).filter(|n| signing.admit(&[holder(*n)], 5)).count();
        assert_eq!(signing.counts.len(), HOLDERS);
        assert_eq!(admitted, HOLDERS + HOLDER_PER_MINUTE as usize);
        assert!(signing.admit(&[holder(0)], 5), "who is in the table keeps its own count");
    }

    #[test]
    fn the_table_of_sources_does_not_grow_without_bound() {
        let mut attempts = Attempts::new(2);
        for source in 0..3 * SOURCES {
            attempts.failed(&source.to_string(), 5);
        }
        assert_eq!(attempts.failed.len(), SOURCES);
        assert!(!attempts.allows("a new one", 5));
        assert!(attempts.allows("0", 5));
    }

    #[test]
    fn a_written_refusal_says_for_how_many_it_stands() {
        let mut budget = RecordBudget::new(2, 1);
        assert_eq!(
            [budget.take(10), budget.take(10), budget.take(10), budget.take(10)],
            [Some(0), Some(0), None, None]
        );
        assert_eq!(budget.take(11), Some(2));
        assert_eq!(budget.take(11), None);
        budget.put_back(4);
        assert_eq!(budget.take(12), Some(6));
    }
}
