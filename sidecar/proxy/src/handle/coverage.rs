//! What an operator asks first: does the app carry handles at all?
//!
//! Counted where it is true and nowhere else: calls that the app made to the mesh while a request with a handle was open.
//! Nothing is sent to the app to find out, since only what the app does for a real request says what it carries.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;

use super::table::Table;
use crate::metrics::{Carried, Via};

/// Calls before a silence is worth a warning: an app also calls on its own account.
const ENOUGH: u64 = 20;

#[derive(Debug, Default)]
pub(super) struct Seen {
    offered: AtomicU64,
    unoffered: AtomicU64,
    calls: AtomicU64,
    header: AtomicU64,
    baggage: AtomicU64,
    tracestate: AtomicU64,
    both: AtomicU64,
    ended: AtomicU64,
    unknown: AtomicU64,
    ambiguous: AtomicU64,
    warned: AtomicBool,
}

/// What became of handles since this process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Coverage {
    /// In a word.
    pub verdict: Verdict,
    /// Requests with a user that are open now.
    pub open: u64,
    /// Requests with a user that were given a handle.
    pub offered: u64,
    /// Requests with a user whose headers had no room for one.
    pub unoffered: u64,
    /// Calls that the app made to the mesh while one of them was open, or with a handle.
    pub calls: u64,
    /// Of those: with a token that the app forwarded itself.
    pub by_header: u64,
    /// With the handle in `baggage` alone.
    pub by_baggage: u64,
    /// With the handle in `tracestate` alone.
    pub by_tracestate: u64,
    /// With the same handle in both.
    pub by_both: u64,
    /// With the handle of a request that was over.
    pub ended: u64,
    /// With something that was no handle of this process.
    pub unknown: u64,
    /// With several that differ.
    pub ambiguous: u64,
}

/// Whether the app carries handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It made no call yet while a request with a user was open.
    NoCallsYet,
    /// It does.
    Carried,
    /// It forwards the token itself, and needs no handle.
    Forwarded,
    /// Most of its calls come with handles of requests that were over: a queue or a limiter mixes requests up.
    MixedUp,
    /// It made calls, and not one of them with a handle.
    NotCarried,
}

impl Seen {
    pub(super) fn request(&self, offered: bool) {
        add(if offered { &self.offered } else { &self.unoffered });
    }

    pub(super) fn call(&self, via: Via, table: &Table) {
        if via == Via::None && table.open() == 0 {
            // On its own account.
            return;
        }
        let calls = add(&self.calls);
        match via {
            Via::Forwarded => add(&self.header),
            Via::Attached(Carried::Baggage) => add(&self.baggage),
            Via::Attached(Carried::Tracestate) => add(&self.tracestate),
            Via::Attached(_) => add(&self.both),
            Via::Ended => add(&self.ended),
            Via::Unknown => add(&self.unknown),
            Via::Ambiguous => add(&self.ambiguous),
            _ => 0,
        };
        if calls == ENOUGH {
            self.judge(table);
        }
    }

    /// Says once in the log what the first calls show.
    fn judge(&self, table: &Table) {
        let report = self.report(table);
        if self.warned.swap(true, Ordering::Relaxed) {
            return;
        }
        match report.verdict {
            Verdict::Carried | Verdict::Forwarded | Verdict::NoCallsYet => tracing::info!(
                target: "signet::context", calls = report.calls, verdict = ?report.verdict,
                "the app carries user context"
            ),
            Verdict::NotCarried | Verdict::MixedUp => tracing::warn!(
                target: "signet::context", calls = report.calls, ended = report.ended, verdict = ?report.verdict,
                "userContext.attach is on, and the app does not carry handles to its calls: they go without a user"
            ),
        }
    }

    pub(super) fn report(&self, table: &Table) -> Coverage {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (by_header, ended, calls) = (get(&self.header), get(&self.ended), get(&self.calls));
        let (by_baggage, by_tracestate, by_both) =
            (get(&self.baggage), get(&self.tracestate), get(&self.both));
        let attached = by_baggage + by_tracestate + by_both;
        let verdict = match (calls, attached, by_header) {
            (0, ..) => Verdict::NoCallsYet,
            _ if ended > attached + by_header => Verdict::MixedUp,
            (_, 1.., _) => Verdict::Carried,
            (_, 0, 1..) => Verdict::Forwarded,
            _ => Verdict::NotCarried,
        };
        Coverage {
            verdict,
            open: u64::try_from(table.open()).unwrap_or(u64::MAX),
            offered: get(&self.offered),
            unoffered: get(&self.unoffered),
            calls,
            by_header,
            by_baggage,
            by_tracestate,
            by_both,
            ended,
            unknown: get(&self.unknown),
            ambiguous: get(&self.ambiguous),
        }
    }
}

fn add(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed) + 1
}
