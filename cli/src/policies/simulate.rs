//! What other policies would have made of what was decided lately.

use anyhow::{anyhow, bail};
use clap::Args;
use serde_json::json;
use signet_model::Period;
use signet_policy::{Answer, Explanation, Replayed};
use signet_proto::v1::{DecisionSummary, ListDecisionsRequest};

use super::world::World;
use crate::operator::{Context, refused, table, when};

/// As many as a control plane keeps of both kinds.
const MOST: u32 = 10_000;
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// Decide recorded requests again by a changed folder of policies, each as at its own time.
#[derive(Args)]
pub(crate) struct Simulate {
    /// How far back.
    #[arg(long, default_value = "24h")]
    since: Period,
    /// The changed policies, with the services that they are for.
    #[arg(short, long, value_name = "FOLDER")]
    folder: std::path::PathBuf,
    /// Exit with code 3 when something flips.
    #[arg(long)]
    exit_code: bool,
}

/// A recorded decision and what becomes of it.
struct Line {
    id: String,
    at_ms: i64,
    request: String,
    from: String,
    was: Answer,
    becomes: Replayed,
}

impl Simulate {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let now = time::OffsetDateTime::now_utc().unix_timestamp().saturating_mul(1000);
        let back = i64::try_from(self.since.millis()).map_err(|_| anyhow!("--since is too long"))?;
        let mut client = context.client().await?.max_decoding_message_size(MAX_ANSWER);
        let status = client.status(signet_proto::v1::StatusRequest {}).await;
        let own = status.map_err(|status| refused(&status))?.into_inner().trust_domain;
        let world = World::of_folder(&self.folder, &own)?;
        let asked = ListDecisionsRequest { limit: MOST, since_ms: now.saturating_sub(back), beside: true };
        let records =
            client.list_decisions(asked).await.map_err(|status| refused(&status))?.into_inner().decisions;
        let (lines, others) = replay(&world, &records);
        let flips = lines.iter().filter(|line| matches!(line.becomes, Replayed::Flipped { .. })).count();
        if lines.is_empty() {
            bail!(
                "no decision by policy is recorded since then: refusals always are, permitted requests where the Mesh sets decisionSamples"
            );
        }
        show(context, &lines, others)?;
        if self.exit_code && flips > 0 { Err(super::Exit(3).into()) } else { Ok(()) }
    }
}

/// And how many records are of refusals that no policy decided.
fn replay(world: &World, records: &[DecisionSummary]) -> (Vec<Line>, usize) {
    let mut sets = std::collections::BTreeMap::new();
    let (mut lines, mut others) = (Vec::new(), 0_usize);
    for record in records {
        let Ok(then) = serde_json::from_str::<Explanation>(&record.json) else {
            others = others.saturating_add(1);
            continue;
        };
        let set = sets.entry(then.facts.service.clone()).or_insert_with(|| {
            let name = then.facts.service.parse().ok()?;
            world.policies(&name)
        });
        let becomes = match set {
            Some(set) => set.replay(&then, record.at_ms),
            None => Replayed::Undecidable(format!("the folder has no service {}", then.facts.service)),
        };
        let facts = &then.facts;
        let request = match (&facts.grpc, &facts.method, &facts.path) {
            (Some(grpc), _, _) => grpc.clone(),
            (None, Some(method), Some(path)) => format!("{method} {path}"),
            _ => "connection".to_owned(),
        };
        lines.push(Line {
            id: record.id.clone(),
            at_ms: record.at_ms,
            request: format!("{request} to {} {}", facts.service, facts.port),
            from: facts.peer.clone(),
            was: then.verdict,
            becomes,
        });
    }
    (lines, others)
}

fn word(answer: Answer) -> &'static str {
    match answer {
        Answer::Allow => "allow",
        Answer::Deny => "deny",
    }
}

fn show(context: &Context, lines: &[Line], others: usize) -> anyhow::Result<()> {
    let count = |kind: fn(&Replayed) -> bool| lines.iter().filter(|line| kind(&line.becomes)).count();
    let flipped = count(|becomes| matches!(becomes, Replayed::Flipped { .. }));
    let unchanged = count(|becomes| matches!(becomes, Replayed::Unchanged));
    let undecidable = count(|becomes| matches!(becomes, Replayed::Undecidable(_)));
    let told = |line: &Line| match &line.becomes {
        Replayed::Unchanged => ("unchanged", String::new()),
        Replayed::Flipped { to, reason } => {
            (if *to == Answer::Allow { "deny → allow" } else { "allow → deny" }, reason.clone())
        }
        Replayed::Undecidable(why) => ("undecidable", why.clone()),
    };
    let each = lines.iter().map(|line| {
        let (becomes, reason) = match &line.becomes {
            Replayed::Flipped { to, reason } => (word(*to), reason.as_str()),
            Replayed::Unchanged => (word(line.was), ""),
            Replayed::Undecidable(why) => ("undecidable", why.as_str()),
        };
        json!({"id": line.id, "at_ms": line.at_ms, "request": line.request, "from": line.from, "was": word(line.was),
            "becomes": becomes, "reason": reason})
    });
    let json = json!({"flipped": flipped, "unchanged": unchanged, "undecidable": undecidable,
        "not_by_policy": others, "decisions": each.collect::<Vec<_>>()});
    context.show(json, || {
        let rows = lines.iter().filter(|line| line.becomes != Replayed::Unchanged).map(|line| {
            let (verdict, reason) = told(line);
            let at = when(line.at_ms.div_euclid(1000));
            [verdict, &at, &line.from, &line.request, &reason, &line.id].map(str::to_owned).to_vec()
        });
        let rows: Vec<_> = rows.collect();
        let sum = format!(
            "{flipped} flipped, {unchanged} unchanged, {undecidable} undecidable; {others} refusals were not decided by policy"
        );
        if rows.is_empty() {
            return sum;
        }
        format!("{}\n\n{sum}", table(&["VERDICT", "AT", "FROM", "REQUEST", "REASON", "DECISION"], &rows))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDER: &str = "\
apiVersion: signet.mesh/v1alpha1
kind: Service
metadata: {namespace: shop, name: orders}
spec: {ports: [{name: http, port: 80, protocol: http1}]}
---
apiVersion: signet.mesh/v1alpha1
kind: MeshPolicy
metadata: {namespace: shop, name: web}
spec: {effect: permit, from: {workloads: [ns/shop/sa/web]}, when: 'context.request.method == \"GET\" || context.user.claims.level == 3'}
";

    fn record(id: &str, verdict: &str, facts: serde_json::Value) -> DecisionSummary {
        let json = json!({"verdict": verdict, "reason": "", "basis": "default", "defaultAllow": false, "deciding": [],
            "nearMisses": [], "shadow": [], "notUnderstood": [], "facts": facts});
        DecisionSummary { id: id.into(), at_ms: 0, workload: String::new(), json: json.to_string() }
    }

    #[test]
    fn each_decision_flips_stays_or_cannot_be_told() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.yaml"), FOLDER).unwrap();
        let world = World::of_folder(folder.path(), "demo.signet").unwrap();
        let facts = |peer: &str, method: &str, service: &str, user: serde_json::Value| {
            json!({"peer": format!("spiffe://demo.signet/{peer}"), "peerClass": "sidecar", "user": user, "service": service,
                "port": "http", "protocol": "http1", "method": method, "path": "/", "grpc": null})
        };
        let alice = json!({"sub": "idp|a", "cred": "jwt", "context": "forwarded", "scopes": [], "claims": {"level": 3}});
        let bob = json!({"sub": "idp|b", "cred": "jwt", "context": "forwarded", "scopes": []});
        let records = [
            record("a", "deny", facts("ns/shop/sa/web", "GET", "orders.shop", json!(null))),
            record("b", "allow", facts("ns/shop/sa/web", "GET", "orders.shop", json!(null))),
            record("c", "allow", facts("ns/shop/sa/old", "GET", "orders.shop", json!(null))),
            record("d", "deny", facts("ns/shop/sa/web", "PUT", "orders.shop", bob)),
            record("e", "allow", facts("ns/shop/sa/web", "PUT", "orders.shop", alice)),
            record("f", "deny", facts("ns/shop/sa/web", "GET", "gone.shop", json!(null))),
            DecisionSummary { json: r#"{"reason":"context-invalid"}"#.into(), ..DecisionSummary::default() },
        ];
        let (lines, others) = replay(&world, &records);
        assert_eq!(others, 1);
        let told: Vec<_> = lines.iter().map(|line| (line.id.as_str(), line.becomes.clone())).collect();
        assert!(matches!(&told[0], ("a", Replayed::Flipped { to: Answer::Allow, .. })), "{told:?}");
        assert_eq!(told[1], ("b", Replayed::Unchanged));
        assert!(matches!(&told[2], ("c", Replayed::Flipped { to: Answer::Deny, .. })));
        assert_eq!(told[3], ("d", Replayed::Undecidable("the claim `level` was not recorded".into())));
        assert_eq!(told[4], ("e", Replayed::Unchanged));
        assert_eq!(told[5], ("f", Replayed::Undecidable("the folder has no service gone.shop".into())));
    }
}
