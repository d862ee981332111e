//! What the control plane is told of transactions that came in.
//!
//! Each report says from when until when it speaks, and begins where the one before ended: one that got lost is missed.
//! Where nothing came in that is said too, because only who is known to be silent can be told from who hides something.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};
use signet_proto::v1;
use signet_proxy::hops::{Hop, Hops, Report, Seen};

/// A process in which nothing comes in says so as often.
const NOTHING_NEW: Duration = Duration::from_secs(2);

/// Makes reports.
pub(super) struct Teller {
    hops: Arc<Hops>,
    /// Our name among all processes of our identity.
    reporter: u64,
    told: Option<Instant>,
}

impl Teller {
    pub(super) fn new(hops: Arc<Hops>) -> Self {
        let mut reporter = [0; 8];
        // Who shares a name with another process is believed to have gaps: nothing of it is decided.
        let _ = SystemRandom::new().fill(&mut reporter);
        Self { hops, reporter: u64::from_be_bytes(reporter), told: None }
    }

    /// A stream begins: who we are is said in its first moments.
    pub(super) fn begins(&mut self) {
        self.told = None;
    }

    /// What came in since the last report, or now and then that nothing did.
    pub(super) fn report(&mut self) -> Option<v1::Hops> {
        let lately = self.told.is_some_and(|at| at.elapsed() < NOTHING_NEW);
        if lately && self.hops.is_empty() {
            return None;
        }
        self.told = Some(Instant::now());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Some(message(self.hops.take(u64::try_from(now).unwrap_or(u64::MAX)), self.reporter))
    }
}

fn message(report: Report, reporter: u64) -> v1::Hops {
    let Report { from_ms, through_ms, cut, hops } = report;
    v1::Hops {
        reporter,
        from_ms: number(from_ms),
        through_ms: number(through_ms),
        cut,
        hops: hops.into_iter().map(hop).collect(),
    }
}

fn hop((hop, seen): (Hop, Seen)) -> v1::Hop {
    v1::Hop {
        txn: hop.txn.to_string(),
        peer: hop.peer.to_string(),
        service: hop.service.to_string(),
        minted_by: hop.minted_by.to_string(),
        attached: hop.attached,
        refused: hop.refused,
        first_ms: number(seen.first_ms),
        count: seen.count,
        began: number(seen.began),
        depth: hop.depth,
    }
}

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
