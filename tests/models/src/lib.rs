//! What threads of the data plane share, compiled once more on loom's locks and atomics. The tests run it in every order in
//! which threads can come, and with every value that memory lets them read.
//!
//! A worker shares little: the presenter rule's table, the budget of further tries and the standing of endpoints are here. Snapshots are one pointer that
//! is swapped, by a library that has models of its own.

/// In place of the proxy's own.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
    pub(crate) use loom::sync::{Arc, Mutex};
}

/// What is remembered beside a token and decides nothing here.
pub mod hop_proof {
    /// In place of the proxy's own, which comes with all that verifies it.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Proven {
        /// Of the proof.
        pub digest: [u8; 32],
        /// From 1.
        pub depth: u8,
    }
}

#[path = "../../../sidecar/proxy/src/exchange.rs"]
pub mod exchange;

#[path = "../../../sidecar/proxy/src/state/budget.rs"]
pub mod budget;

#[allow(dead_code, unreachable_pub)]
#[path = "../../../sidecar/proxy/src/state/outlier.rs"]
mod outlier;

/// Endpoints of one port, each with its record.
#[derive(Debug)]
pub struct Endpoints(Vec<outlier::Record>);

impl Endpoints {
    /// So many, with nothing held against them.
    pub fn new(count: usize) -> Self {
        Endpoints((0..count).map(|_| outlier::Record::default()).collect())
    }

    /// A try failed at this one; whether it is left out from now on.
    pub fn fails(&self, which: usize, policy: &signet_model::OutlierPolicy, now: u64) -> bool {
        self.0.get(which).is_some_and(|record| outlier::bad_among(record, || self.0.iter(), policy, now))
    }

    /// How many are left out.
    pub fn out(&self, now: u64) -> usize {
        self.0.iter().filter(|record| record.is_out(now)).count()
    }

    /// Whether this one is.
    pub fn is_out(&self, which: usize, now: u64) -> bool {
        self.0.get(which).is_some_and(|record| record.is_out(now))
    }
}
