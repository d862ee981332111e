//! `signet authz`: why a request was refused.

use clap::Subcommand;
use serde_json::{Value, json};
use signet_proto::v1::{ExplainDecisionRequest, ListDecisionsRequest};

use crate::operator::{Context, table, when};

#[derive(Subcommand)]
pub(crate) enum Authz {
    /// Why the decision with this id was what it was.
    Explain { id: String },
    /// The latest decisions that are kept.
    List {
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
}

impl Authz {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Explain { id } => explain(context, id).await,
            Self::List { limit } => list(context, limit).await,
        }
    }
}

async fn explain(context: &Context, id: String) -> anyhow::Result<()> {
    let request = ExplainDecisionRequest { id: id.clone() };
    let answer = context.client().await?.explain_decision(request).await?.into_inner();
    let explanation: Value = serde_json::from_str(&answer.json).unwrap_or(Value::Null);
    let json =
        json!({"id": id, "at_ms": answer.at_ms, "workload": answer.workload, "explanation": explanation});
    context.show(json, || {
        format!(
            "decision  {id}\nat        {}\nmade by   {}\n\n{}",
            when(answer.at_ms / 1000),
            answer.workload,
            as_text(&explanation, 0)
        )
    })
}

async fn list(context: &Context, limit: u32) -> anyhow::Result<()> {
    let decisions =
        context.client().await?.list_decisions(ListDecisionsRequest { limit }).await?.into_inner().decisions;
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    let json = decisions
        .iter()
        .map(|it| json!({"id": it.id, "at_ms": it.at_ms, "workload": it.workload, "explanation": parse(&it.json)}))
        .collect();
    context.show(json, || {
        let rows: Vec<_> = decisions
            .iter()
            .map(|it| {
                let explanation = parse(&it.json);
                let text = |name: &str| explanation[name].as_str().unwrap_or_default().to_owned();
                vec![
                    it.id.clone(),
                    when(it.at_ms / 1000),
                    it.workload.clone(),
                    text("verdict"),
                    text("reason"),
                ]
            })
            .collect();
        table(&["ID", "AT", "WORKLOAD", "VERDICT", "REASON"], &rows)
    })
}

/// A JSON value as indented text: names on the left, lists as dashes, nothing that is empty.
pub(crate) fn as_text(value: &Value, depth: usize) -> String {
    let pad = "  ".repeat(depth);
    match value {
        Value::Object(members) => members
            .iter()
            .filter(|(_, value)| !is_empty(value))
            .map(|(name, value)| {
                let name = name.replace('_', " ");
                match value {
                    Value::Object(_) | Value::Array(_) => {
                        format!("{pad}{name}:\n{}", as_text(value, depth + 1))
                    }
                    scalar => format!("{pad}{name}: {}\n", scalar_text(scalar)),
                }
            })
            .collect(),
        Value::Array(items) => items
            .iter()
            .map(|item| match item {
                Value::Object(_) | Value::Array(_) => {
                    let text = as_text(item, depth + 1);
                    format!("{pad}- {}", text.trim_start())
                }
                scalar => format!("{pad}- {}\n", scalar_text(scalar)),
            })
            .collect(),
        scalar => format!("{pad}{}\n", scalar_text(scalar)),
    }
}

fn scalar_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_reads_as_indented_text_without_what_is_empty() {
        let value = json!({"verdict": "deny", "deciding": [], "near_miss": [{"policy": "p", "had": null}]});
        assert_eq!(as_text(&value, 0), "near miss:\n  - policy: p\nverdict: deny\n");
    }
}
