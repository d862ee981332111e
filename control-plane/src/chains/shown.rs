//! A chain as people and programs read it.

use serde_json::{Value, json};
use signet_ca::Authority;

use super::Chains;
use super::judge::{Live, learn};
use super::stitch::{Hop, Placed, Verdict};

/// One transaction: `txn`, `verdict` and `hops`, by depth and time. None where nothing is known of it.
pub async fn chain(chains: &Chains, authority: &Authority, txn: &str) -> Option<Value> {
    let mut live = Live::new();
    learn(authority, chains.callers(txn), &mut live).await;
    let mut placed = chains.placed(txn, &live);
    if placed.is_empty() {
        return None;
    }
    // What hangs from nothing comes last.
    placed.sort_by_key(|(hop, placed)| (placed.depth.wrapping_sub(1), hop.first_ms));
    let is = |label: &str| placed.iter().any(|(_, placed)| placed.verdict.label() == label);
    let verdict = match (is("impossible"), is("undecidable")) {
        (true, _) => "impossible",
        (false, true) => "undecidable",
        (false, false) => "possible",
    };
    let hops: Vec<Value> = placed.iter().map(shown).collect();
    Some(json!({"txn": txn, "verdict": verdict, "hops": hops}))
}

fn shown((hop, placed): &(Hop, Placed)) -> Value {
    let mut shown = json!({
        "caller": &*hop.caller,
        "callee": &*hop.callee,
        "service": &*hop.service,
        "mintedBy": &*hop.minted_by,
        "context": if hop.attached { "attached" } else { "forwarded" },
        "refused": hop.refused,
        "count": hop.count,
        "firstMs": hop.first_ms,
        "depth": placed.depth,
        "verdict": placed.verdict.label(),
    });
    if let Some(fields) = shown.as_object_mut() {
        if hop.depth > 0 {
            fields.insert("provenDepth".to_owned(), hop.depth.into());
        }
        if let Verdict::Undecidable(doubt) = &placed.verdict {
            fields.insert("why".to_owned(), doubt.label().into());
            fields.insert("detail".to_owned(), doubt.to_string().into());
        }
    }
    shown
}
