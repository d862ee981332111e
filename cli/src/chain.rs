//! `signet authz chain`: who had a transaction from whom, and calls that cannot have been.

use serde_json::{Value, json};
use signet_proto::v1::{ExplainChainRequest, ImpossibleCall, ListChainsRequest};

use crate::operator::{Context, one_line, refused, table, when};

/// One transaction's calls, as a tree.
pub(crate) async fn explain(context: &Context, txn: String) -> anyhow::Result<()> {
    let request = ExplainChainRequest { txn };
    let answer =
        context.client().await?.explain_chain(request).await.map_err(|it| refused(&it))?.into_inner();
    let chain: Value = serde_json::from_str(&answer.json)?;
    let drawn = tree(&chain);
    context.show(chain, || drawn)
}

/// Impossible calls, the newest first.
pub(crate) async fn list(context: &Context, limit: u32) -> anyhow::Result<()> {
    let request = ListChainsRequest { limit };
    let calls =
        context.client().await?.list_chains(request).await.map_err(|it| refused(&it))?.into_inner().calls;
    let one = |call: &ImpossibleCall| json!({"txn": call.txn, "at_ms": call.at_ms, "caller": call.caller, "callee": call.callee, "service": call.service});
    let json = calls.iter().map(one).collect();
    context.show(json, || {
        let row = |call: &ImpossibleCall| {
            let texts =
                [&call.txn, &call.caller, &call.service, &call.callee].map(|it| one_line(it).into_owned());
            let [txn, caller, service, callee] = texts;
            vec![txn, when(call.at_ms / 1000), caller, service, callee]
        };
        let rows: Vec<_> = calls.iter().map(row).collect();
        table(&["TXN", "AT", "CALLER THAT NEVER RECEIVED IT", "CALLED", "SAYS"], &rows)
    })
}

/// The calls below those by whom their callers came to it; what hangs from nothing, below a caller of its own.
fn tree(chain: &Value) -> String {
    let hops: Vec<&Value> = chain["hops"].as_array().into_iter().flatten().collect();
    let mut drawn = vec![false; hops.len()];
    let mut lines = vec![format!("{}: {}", text(&chain["txn"]), text(&chain["verdict"]))];
    for at in 0..hops.len() {
        if drawn.get(at) == Some(&true) {
            continue;
        }
        // Depth comes first, so that this one hangs from none of those that are drawn.
        let Some(hop) = hops.get(at) else { continue };
        let caller = &hop["caller"];
        let how = if hop["verdict"] == "minted" {
            "it was minted for it"
        } else {
            "how it came to it is not known"
        };
        lines.extend([String::new(), format!("{} ({how})", text(caller))]);
        let is_beside = |other: &Value| other["caller"] == *caller && other["depth"] == hop["depth"];
        let beside: Vec<usize> =
            (at..hops.len()).filter(|at| hops.get(*at).is_some_and(|it| is_beside(it))).collect();
        for at in beside {
            draw(&hops, at, 1, &mut drawn, &mut lines);
        }
    }
    lines.join("\n")
}

fn draw(hops: &[&Value], at: usize, level: usize, drawn: &mut [bool], lines: &mut Vec<String>) {
    let (Some(hop), Some(is_drawn)) = (hops.get(at), drawn.get_mut(at)) else { return };
    if std::mem::replace(is_drawn, true) {
        return;
    }
    let mut words = vec![text(&hop["context"])];
    if hop["refused"] == true {
        words.push("refused".to_owned());
    }
    if hop["count"].as_u64().unwrap_or(1) > 1 {
        words.push(format!("{} times", text(&hop["count"])));
    }
    if !hop["provenDepth"].is_null() {
        words.push(format!("proven, depth {}", text(&hop["provenDepth"])));
    }
    let at_ms = hop["firstMs"].as_i64().unwrap_or_default();
    let verdict = match hop["verdict"].as_str() {
        Some("impossible") => "  IMPOSSIBLE: its caller never received this transaction".to_owned(),
        Some("follows-impossible") => "  follows an impossible call".to_owned(),
        Some("undecidable") => format!("  undecidable: {}", text(&hop["detail"])),
        _ => String::new(),
    };
    let (indent, callee, service) = ("  ".repeat(level), text(&hop["callee"]), text(&hop["service"]));
    let words = words.join(", ");
    lines.push(format!("{indent}{service} at {callee} ({words}) {}{verdict}", when(at_ms / 1000)));
    // One that was refused made no calls.
    if hop["refused"] == true {
        return;
    }
    let below = |other: &Value| {
        let depth = |of: &Value| of["depth"].as_u64().unwrap_or_default();
        let hangs = depth(other) == depth(hop).saturating_add(1) || depth(other) == 0 && depth(hop) == 0;
        other["caller"] == hop["callee"] && hangs && other["verdict"] != "minted"
    };
    for next in 0..hops.len() {
        if hops.get(next).is_some_and(|it| below(it)) {
            draw(hops, next, level.saturating_add(1), drawn, lines);
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => one_line(text).into_owned(),
        other => one_line(&other.to_string()).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(caller: &str, callee: &str, verdict: &str, depth: u32) -> Value {
        json!({"caller": caller, "callee": callee, "service": format!("{callee}.shop"), "context": "forwarded",
            "refused": false, "count": 1, "firstMs": 1_789_989_253_000_i64, "depth": depth, "verdict": verdict})
    }

    #[test]
    fn calls_stand_below_those_that_brought_their_callers_the_transaction() {
        let mut twice = hop("front", "back", "received", 2);
        twice["count"] = 2.into();
        twice["context"] = "attached".into();
        let mut quiet = hop("quiet", "back", "undecidable", 0);
        quiet["detail"] = "a report is lost".into();
        let chain = json!({"txn": "0c6b\u{1b}", "verdict": "impossible", "hops": [
            hop("gw", "front", "minted", 1), twice, hop("thief", "other", "impossible", 0), quiet,
            hop("other", "last", "follows-impossible", 0),
        ]});
        assert_eq!(
            tree(&chain),
            "\
0c6b\\u{1b}: impossible

gw (it was minted for it)
  front.shop at front (forwarded) 2026-09-21T11:14:13Z
    back.shop at back (attached, 2 times) 2026-09-21T11:14:13Z

thief (how it came to it is not known)
  other.shop at other (forwarded) 2026-09-21T11:14:13Z  IMPOSSIBLE: its caller never received this transaction
    last.shop at last (forwarded) 2026-09-21T11:14:13Z  follows an impossible call

quiet (how it came to it is not known)
  back.shop at back (forwarded) 2026-09-21T11:14:13Z  undecidable: a report is lost"
        );
    }

    #[test]
    fn a_circle_is_drawn_once() {
        let chain = json!({"txn": "1", "verdict": "impossible",
            "hops": [hop("a", "b", "impossible", 0), hop("b", "a", "impossible", 0)]});
        assert_eq!(tree(&chain).lines().count(), 5);
    }
}
