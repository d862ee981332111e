//! Judges chains when it is time, counts and says what is found.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use signet_ca::Authority;
use signet_identity::Serial;

use super::Chains;
use super::store::{Call, Outcome};
use crate::metrics::Metrics;

const TICK: Duration = Duration::from_millis(500);
const SWEEP: Duration = Duration::from_secs(60);
/// Identities that the store is asked about at a time. Others wait for their turn.
const MAX_ASKED: usize = 200;
/// Calls that are written into the process's log at a time; all are counted.
const MAX_LOGGED: usize = 20;

/// By which certificates the sidecars of some identities are known that may be at work.
pub(super) type Live = HashMap<Arc<str>, Vec<Serial>>;

/// For as long as it runs.
pub async fn run(chains: Arc<Chains>, authority: Authority, metrics: Metrics) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut swept = Instant::now();
    loop {
        tick.tick().await;
        let now = Instant::now();
        if now.saturating_duration_since(swept) > SWEEP {
            swept = now;
            chains.sweep(now);
        }
        let mut live = Live::new();
        let mut logged = 0;
        for due in chains.due(now) {
            learn(&authority, chains.callers(&due.txn), &mut live).await;
            match chains.judge(due, now, &live) {
                Outcome::Fine | Outcome::Later => {}
                Outcome::Impossible(calls, is_first) => {
                    metrics.impossible_chains.inc_by(u64::from(is_first));
                    for call in &calls {
                        logged += 1;
                        if logged <= MAX_LOGGED {
                            say(call);
                        }
                    }
                }
                Outcome::Undecidable(doubt) => {
                    metrics.undecidable_chains.with_label_values(&[doubt.label()]).inc();
                }
            }
        }
    }
}

/// Asks which sidecars of these identities may be at work.
pub(super) async fn learn(
    authority: &Authority,
    callers: impl IntoIterator<Item = Arc<str>>,
    live: &mut Live,
) {
    for caller in callers {
        if live.len() >= MAX_ASKED || live.contains_key(&caller) {
            continue;
        }
        match authority.sidecars_of(&caller).await {
            Ok(serials) => {
                let serials = serials.iter().filter_map(|serial| Serial::from_bytes(serial).ok()).collect();
                live.insert(caller, serials);
            }
            Err(error) => {
                tracing::warn!(target: "signet::chains", %error, "the store does not say which sidecars are at work");
            }
        }
    }
}

fn say(call: &Call) {
    tracing::error!(target: "signet::chains", txn = &*call.txn, caller = &*call.caller, callee = &*call.callee,
        service = &*call.service,
        "an impossible call: its caller never received the transaction that it brought (signet authz chain)");
}
