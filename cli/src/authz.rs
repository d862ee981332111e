//! `signet authz`: why a request was refused, and what would be.

use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};
use signet_proto::v1::operator_client::OperatorClient;
use signet_proto::v1::{ExplainDecisionRequest, ExplainDecisionResponse, ListDecisionsRequest};
use tokio::time::{Instant, sleep};
use tonic::Code;
use tonic::transport::Channel;

use crate::chain;
use crate::operator::{Context, one_line, refused, table, when};
use crate::policies;

/// How long a decision may take from its sidecar to the control plane.
const ON_ITS_WAY: Duration = Duration::from_secs(3);
const ASK_AGAIN: Duration = Duration::from_millis(100);

#[derive(Subcommand)]
pub(crate) enum Authz {
    /// Why the decision with this id was what it was.
    Explain {
        id: String,
    },
    /// The latest decisions that are kept.
    List {
        #[arg(long, default_value_t = 20)]
        limit: u32,
        /// Also those by which nobody was refused: samples, and what a shadow policy would have refused.
        #[arg(long)]
        all: bool,
    },
    /// Who had a transaction from whom, by its id (`txn`); without one, calls that cannot have been.
    Chain {
        txn: Option<String>,
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    Can(Box<policies::Can>),
    Simulate(policies::Simulate),
    Exceptions(policies::Exceptions),
}

impl Authz {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Explain { id } => explain(context, id).await,
            Self::List { limit, all } => list(context, limit, all).await,
            Self::Chain { txn: Some(txn), .. } => chain::explain(context, txn).await,
            Self::Chain { txn: None, limit } => chain::list(context, limit).await,
            Self::Can(can) => can.run(context).await,
            Self::Simulate(simulate) => simulate.run(context).await,
            Self::Exceptions(exceptions) => exceptions.run(context).await,
        }
    }
}

async fn explain(context: &Context, id: String) -> anyhow::Result<()> {
    let answer = ask(&mut context.client().await?, &id).await?;
    let explanation: Value = serde_json::from_str(&answer.json).unwrap_or(Value::Null);
    let json =
        json!({"id": id, "at_ms": answer.at_ms, "workload": answer.workload, "explanation": explanation});
    context.show(json, || {
        let made = format!("{} at {}", answer.workload, when(answer.at_ms / 1000));
        story(&explanation, &id, &made)
    })
}

/// Asks until the decision is known: sidecars send them in batches, and whoever was refused a moment ago may
/// be quicker than the batch.
async fn ask(client: &mut OperatorClient<Channel>, id: &str) -> anyhow::Result<ExplainDecisionResponse> {
    let give_up = Instant::now() + ON_ITS_WAY;
    loop {
        match client.explain_decision(ExplainDecisionRequest { id: id.to_owned() }).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if status.code() == Code::NotFound && Instant::now() < give_up => {
                sleep(ASK_AGAIN).await;
            }
            Err(status) => return Err(refused(&status)),
        }
    }
}

async fn list(context: &Context, limit: u32, all: bool) -> anyhow::Result<()> {
    let decisions = context
        .client()
        .await?
        .list_decisions(ListDecisionsRequest { limit, since_ms: 0, beside: all })
        .await
        .map_err(|it| refused(&it))?
        .into_inner()
        .decisions;
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    let json = decisions
        .iter()
        .map(|it| json!({"id": it.id, "at_ms": it.at_ms, "workload": it.workload, "explanation": parse(&it.json)}))
        .collect();
    context.show(json, || {
        let rows: Vec<_> = decisions
            .iter()
            .map(|it| {
                let (verdict, reason) = sentence(&parse(&it.json));
                vec![
                    one_line(&it.id).into_owned(),
                    when(it.at_ms / 1000),
                    one_line(&it.workload).into_owned(),
                    verdict.to_owned(),
                    reason,
                ]
            })
            .collect();
        table(&["ID", "AT", "WORKLOAD", "VERDICT", "REASON"], &rows)
    })
}

/// The verdict and why, in one sentence. What failed without a policy's word is `refused`: its sidecar
/// says a reason and a detail, and no verdict.
fn sentence(explanation: &Value) -> (&'static str, String) {
    let verdict = match explanation["verdict"].as_str() {
        Some("allow") => "allowed",
        Some(_) => "denied",
        None => "refused",
    };
    let mut reason = text(&explanation["reason"]);
    for line in
        explanation["shadow"].as_array().into_iter().flatten().filter(|line| line["wouldChange"] == true)
    {
        let would = if line["wouldAllow"] == true { "allow" } else { "deny" };
        reason = format!("{reason}; {} would {would}", text(&line["policy"]));
    }
    for (open, name, close) in [(" (", "fine", ")"), (": ", "detail", "")] {
        let more = text(&explanation[name]);
        if !more.is_empty() {
            reason = format!("{reason}{open}{more}{close}");
        }
    }
    (verdict, reason)
}

/// A decision as a person wants to read it: what and why first, then who asked for what, then the policies.
fn story(explanation: &Value, id: &str, made: &str) -> String {
    let (verdict, reason) = sentence(explanation);
    let facts = match &explanation["facts"] {
        Value::Null => explanation,
        facts => facts,
    };
    let user = &facts["user"];
    let request = first(&[text(&facts["grpc"]), joined(" ", &facts["method"], &facts["path"])]);
    let to = joined(" port ", &facts["service"], &facts["port"]);
    let rows = [
        ("request", request),
        ("to", with(&to, &[&facts["protocol"], &facts["direction"]])),
        ("from", with(&text(&facts["peer"]), &[&facts["peerClass"]])),
        ("user", with(&text(&user["sub"]), &[&user["cred"], &user["context"]])),
        ("made by", one_line(made).into_owned()),
        ("decision", one_line(id).into_owned()),
    ];
    let mut lines = vec![format!("{verdict}: {reason}"), String::new()];
    lines.extend(
        rows.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name:<9} {value}")),
    );
    section(&mut lines, "decided by", &explanation["deciding"], |it| {
        let absent = names(&it["byAbsence"]);
        let absent = if absent.is_empty() { absent } else { format!(", for want of {absent}") };
        format!("{} ({}{absent})", text(&it["policy"]), text(&it["effect"]))
    });
    section(&mut lines, "asked besides", &explanation["external"], |it| {
        let outcome = text(&it["outcome"]);
        let outcome = if outcome.is_empty() { "not asked".to_owned() } else { outcome };
        format!("{}: {outcome}", text(&it["provider"]))
    });
    section(&mut lines, "near misses", &explanation["nearMisses"], |it| {
        let [policy, failed, expected, had] =
            ["policy", "failed", "expected", "had"].map(|name| text(&it[name]));
        let also = names(&it["alsoFailed"]);
        let also = if also.is_empty() { also } else { format!("; also {also}") };
        format!("{policy}: {failed} expected {expected}, had {had}{also}")
    });
    section(&mut lines, "shadow policies", &explanation["shadow"], |it| {
        let would = if it["wouldAllow"] == true { "allow" } else { "deny" };
        format!("{} would {would}", text(&it["policy"]))
    });
    section(&mut lines, "spared by exceptions", &explanation["excepted"], |it| {
        format!("{} until {}, says {}", text(&it["policy"]), text(&it["until"]), text(&it["owner"]))
    });
    section(&mut lines, "policies that cannot be read", &explanation["notUnderstood"], |it| {
        format!("{}: {}", text(&it["policy"]), text(&it["reason"]))
    });
    lines.join("\n")
}

fn section(lines: &mut Vec<String>, heading: &str, items: &Value, line: impl Fn(&Value) -> String) {
    let items = items.as_array().map(Vec::as_slice).unwrap_or_default();
    if !items.is_empty() {
        lines.extend([String::new(), heading.to_owned()]);
        lines.extend(items.iter().map(|item| format!("  {}", line(item))));
    }
}

/// A text or number; nothing of what is absent.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => one_line(text).into_owned(),
        other => one_line(&other.to_string()).into_owned(),
    }
}

fn names(value: &Value) -> String {
    value.as_array().map(|items| items.iter().map(text).collect::<Vec<_>>().join(", ")).unwrap_or_default()
}

fn joined(between: &str, a: &Value, b: &Value) -> String {
    [text(a), text(b)].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(between)
}

/// `what (a, b)`, as far as there is something in it.
fn with(what: &str, details: &[&Value]) -> String {
    let details: Vec<_> = details.iter().map(|it| text(it)).filter(|text| !text.is_empty()).collect();
    match (what.is_empty(), details.is_empty()) {
        (true, _) => String::new(),
        (false, true) => what.to_owned(),
        (false, false) => format!("{what} ({})", details.join(", ")),
    }
}

fn first(texts: &[String]) -> String {
    texts.iter().find(|text| !text.is_empty()).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_reads_as_a_sentence_then_facts_then_policies() {
        let explanation = json!({
            "verdict": "deny", "basis": "default", "defaultAllow": false,
            "reason": "no policy permits this; nearest is who-may-see-orders.shop: user.scopes expected orders:read, had profile",
            "deciding": [], "shadow": [{"policy": "next.shop", "wouldAllow": true}], "notUnderstood": [],
            "nearMisses": [
                {"policy": "who-may-see-orders.shop", "failed": "user.scopes", "expected": "orders:read", "had": "profile", "alsoFailed": []},
                {"policy": "who-may-order.shop", "failed": "to.paths", "expected": "/orders/{sku}", "had": "/orders", "alsoFailed": ["to.methods"]},
            ],
            "facts": {"peer": "spiffe://demo.signet/ns/edge/sa/gateway", "peerClass": "gateway", "service": "web.shop",
                "port": "http", "protocol": "http1", "method": "GET", "path": "/orders", "grpc": null,
                "user": {"sub": "demo-idp|bob\u{1b}[2J", "cred": "jwt", "context": "forwarded"}},
        });
        assert_eq!(
            story(&explanation, "0af7", "ns/shop/sa/web at 2026-09-21T14:13:20Z"),
            "\
denied: no policy permits this; nearest is who-may-see-orders.shop: user.scopes expected orders:read, had profile

request   GET /orders
to        web.shop port http (http1)
from      spiffe://demo.signet/ns/edge/sa/gateway (gateway)
user      demo-idp|bob\\u{1b}[2J (jwt, forwarded)
made by   ns/shop/sa/web at 2026-09-21T14:13:20Z
decision  0af7

near misses
  who-may-see-orders.shop: user.scopes expected orders:read, had profile
  who-may-order.shop: to.paths expected /orders/{sku}, had /orders; also to.methods

shadow policies
  next.shop would allow"
        );
    }

    #[test]
    fn a_forbid_says_what_it_missed() {
        let explanation = json!({
            "verdict": "deny", "reason": "forbidden by a.shop (absent: user)",
            "deciding": [{"policy": "a.shop", "effect": "forbid", "byAbsence": ["user"]}],
        });
        let told = story(&explanation, "1", "x");
        assert!(told.starts_with("denied: forbidden by a.shop (absent: user)\n"), "{told}");
        assert!(told.ends_with("decided by\n  a.shop (forbid, for want of user)"), "{told}");
    }

    #[test]
    fn a_failure_that_no_policy_decided_tells_its_reason_and_detail() {
        let failure = json!({"reason": "context-invalid", "fine": "txn_expired", "detail": "expired 9 s ago",
            "service": "orders.shop", "direction": "inbound", "peer": null});
        assert_eq!(
            sentence(&failure),
            ("refused", "context-invalid (txn_expired): expired 9 s ago".to_owned())
        );
        let told = story(&failure, "1", "x");
        assert!(told.contains("\nto        orders.shop (inbound)\n"), "{told}");
        assert!(sentence(&Value::Null).1.is_empty(), "and what cannot be read is no panic");
    }
}
