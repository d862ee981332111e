//! `signet approvals`: calls that need a second person.

use std::io::{BufRead as _, IsTerminal as _};

use anyhow::bail;
use clap::Subcommand;
use serde_json::json;
use signet_proto::v1::{Approval, ApproveRequest, DenyRequest, ListApprovalsRequest};

use crate::operator::{Context, one_line, print, refused, table, when};

#[derive(Subcommand)]
pub(crate) enum Approvals {
    /// What waits for a second person, or was approved and not yet made.
    List,
    /// Let the person who asked make exactly this call, once.
    Approve {
        id: String,
        /// Approve without a question: the digest that `signet approvals list --json` showed, so that what is approved
        /// is what was read.
        #[arg(long)]
        digest: Option<String>,
    },
    /// Take a request away, your own or one that you could approve.
    Deny { id: String },
}

impl Approvals {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::List => list(context).await,
            Self::Approve { id, digest } => approve(context, id, digest).await,
            Self::Deny { id } => deny(context, id).await,
        }
    }
}

async fn all(context: &Context) -> anyhow::Result<Vec<Approval>> {
    let listed =
        context.people().await?.list_approvals(ListApprovalsRequest {}).await.map_err(|it| refused(&it))?;
    Ok(listed.into_inner().approvals)
}

fn state(it: &Approval) -> String {
    if it.approved_by.is_empty() { "waits".into() } else { format!("approved by {}", it.approved_by) }
}

async fn list(context: &Context) -> anyhow::Result<()> {
    let approvals = all(context).await?;
    let json = approvals
        .iter()
        .map(|it| {
            json!({"id": it.id, "actor": it.actor, "name": it.name, "call": it.method, "arguments": it.arguments,
                   "digest": it.digest, "asked_at": it.asked_at, "expires_at": it.expires_at,
                   "approved_by": it.approved_by})
        })
        .collect();
    context.show(json, || {
        let row = |it: &Approval| {
            vec![
                it.id.clone(),
                it.actor.clone(),
                it.method.clone(),
                it.arguments.clone(),
                when(it.expires_at),
                state(it),
            ]
        };
        let rows: Vec<_> = approvals.iter().map(row).collect();
        table(&["ID", "WHO", "CALL", "ARGUMENTS", "UNTIL", "STATE"], &rows)
    })
}

async fn approve(context: &Context, id: String, digest: Option<String>) -> anyhow::Result<()> {
    let digest = match digest {
        Some(digest) => digest,
        None => ask(context, &id).await?,
    };
    let answer = context.people().await?.approve(ApproveRequest { id, digest }).await;
    let approved = answer.map_err(|it| refused(&it))?.into_inner().approval.unwrap_or_default();
    context.show(json!({"id": approved.id, "until": approved.expires_at}), || {
        format!("approved: {} may make the call once until {}", approved.actor, when(approved.expires_at))
    })
}

/// Shows what is to be approved, and asks. What is approved is the digest of what was shown.
async fn ask(context: &Context, id: &str) -> anyhow::Result<String> {
    let approvals = all(context).await?;
    let Some(it) = approvals.into_iter().find(|it| it.id == id) else {
        bail!("no request {} waits: see `signet approvals list`", one_line(id));
    };
    if !std::io::stdin().is_terminal() {
        bail!("nobody is there to be asked: name what you read with --digest {}", it.digest);
    }
    print(&format!(
        "who        {} {}\ncall       {}\narguments  {}\nuntil      {}\n\nApprove? Type yes:",
        one_line(&it.actor),
        one_line(&it.name),
        one_line(&it.method),
        one_line(&it.arguments),
        when(it.expires_at)
    ))?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if line.trim() != "yes" {
        bail!("not approved");
    }
    Ok(it.digest)
}

async fn deny(context: &Context, id: String) -> anyhow::Result<()> {
    context.people().await?.deny(DenyRequest { id: id.clone() }).await.map_err(|it| refused(&it))?;
    context.show(json!({ "id": id }), || format!("{} is taken away", one_line(&id)))
}
