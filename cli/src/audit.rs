//! `signet ca audit`: the issuance log for those who look into it, also without a control plane.

use std::io::{BufReader, Read as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use signet_audit::{Heads, HeldHead, MAX_HEADS_BYTES, PublicKey, Report, Verifier};
use signet_proto::v1::{AuditKeyRequest, ExportLogRequest, SearchLogRequest, VerifyLogRequest};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::authority::{as_json, as_row};
use crate::operator::{Context, print, refused, table, when};

#[derive(Subcommand)]
pub(crate) enum Audit {
    /// Check that nothing was changed, removed or cut off: the log of the running control planes, or with --file and
    /// --key an export, without any control plane. Exit code 1 if something was.
    Verify(Verify),
    /// Records of all control planes, newest first.
    Search(Search),
    /// The whole log as lines of JSON, to be kept and verified elsewhere.
    Export {
        /// Where to write it (never overwritten).
        #[arg(long)]
        out: PathBuf,
    },
    /// The public key that verifies exports, as PEM: keep it where the log cannot be written.
    Key,
}

#[derive(Args)]
pub(crate) struct Verify {
    /// An export.
    #[arg(long, requires = "key")]
    file: Option<PathBuf>,
    /// The audit key as PEM, from `signet ca audit key`.
    #[arg(long, requires = "file")]
    key: Option<PathBuf>,
    /// Ends of the log that a sidecar held: its `log-heads.json`, or `GET /heads` of its admin socket. May be given for
    /// each of many.
    #[arg(long)]
    heads: Vec<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Search {
    /// A SPIFFE ID.
    #[arg(long, default_value = "")]
    identity: String,
    /// A certificate's serial number, hex.
    #[arg(long, default_value = "")]
    serial: String,
    /// issued, renewed, refused, revoked, …
    #[arg(long, default_value = "")]
    event: String,
    /// From this time on: 2026-11-25T10:00:00Z, or seconds since the epoch.
    #[arg(long, value_parser = time_of)]
    since: Option<i64>,
    /// Before this time.
    #[arg(long, value_parser = time_of)]
    until: Option<i64>,
    /// Records in one answer, 1000 at most.
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Go on where an answer ended: the page that it named.
    #[arg(long, default_value = "")]
    page: String,
}

fn time_of(text: &str) -> Result<i64, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    OffsetDateTime::parse(text, &Rfc3339)
        .map(OffsetDateTime::unix_timestamp)
        .map_err(|_| "expected 2026-11-25T10:00:00Z, or seconds since the epoch".into())
}

impl Audit {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Verify(Verify { file: Some(file), key: Some(key), heads }) => {
                offline(context, &file, &key, &heads)
            }
            Self::Verify(Verify { heads, .. }) if heads.is_empty() => online(context).await,
            Self::Verify(Verify { heads, .. }) => compared(context, &heads).await,
            Self::Search(search) => search.run(context).await,
            Self::Export { out } => export(context, &out).await,
            Self::Key => key(context).await,
        }
    }
}

/// A broken log is the control plane's answer DATA_LOSS, and so this command's exit code 1.
pub(crate) async fn online(context: &Context) -> anyhow::Result<()> {
    let answer = context.client().await?.verify_log(VerifyLogRequest {}).await;
    let found = answer.map_err(|it| refused(&it))?.into_inner();
    let json = json!({"records": found.records, "head": found.head, "revocations": found.revocations});
    context.show(json, || {
        format!(
            "{} records and {} revocations are as they were written\nthe log ends with {}",
            found.records, found.revocations, found.head
        )
    })
}

/// The log of the running control planes beside what was held of it.
async fn compared(context: &Context, heads: &[PathBuf]) -> anyhow::Result<()> {
    let verified = context.client().await?.verify_log(VerifyLogRequest {}).await;
    verified.map_err(|it| refused(&it))?;
    let mut audit = context.audit().await?;
    let pem = audit.key(AuditKeyRequest {}).await.map_err(|it| refused(&it))?.into_inner().pem;
    let key = PublicKey::from_pem(&pem).context("the control plane's audit key")?;
    let mut verifier = Verifier::new(&key, held(heads, &key)?);
    let mut lines = audit.export(ExportLogRequest {}).await.map_err(|it| refused(&it))?.into_inner();
    while let Some(line) = lines.message().await.map_err(|it| refused(&it))? {
        verifier.line(line.json.as_bytes())?;
    }
    show(context, &verifier.finish()?)
}

/// Heads that the audit key signed. A file with anything else in it is refused as a whole: what a sidecar made up
/// proves nothing, and the rest of its word is worth as little.
fn held(files: &[PathBuf], key: &PublicKey) -> anyhow::Result<Vec<HeldHead>> {
    let mut held = Vec::new();
    for file in files {
        let from = file.display().to_string();
        let named = || format!("{from} is no evidence, leave it out");
        let most = u64::try_from(MAX_HEADS_BYTES)?.saturating_add(1);
        let mut bytes = Vec::new();
        let opened = std::fs::File::open(file).with_context(|| format!("opening {from}"))?;
        opened.take(most).read_to_end(&mut bytes).with_context(|| format!("reading {from}"))?;
        let heads = Heads::parse(&bytes).with_context(named)?;
        let signed = heads.signed_by(key).with_context(named)?;
        held.extend(signed.into_iter().map(|statement| HeldHead { from: from.clone(), statement }));
    }
    Ok(held)
}

fn offline(
    context: &Context,
    file: &std::path::Path,
    key: &std::path::Path,
    heads: &[PathBuf],
) -> anyhow::Result<()> {
    let pem = std::fs::read_to_string(key).with_context(|| format!("reading {}", key.display()))?;
    let key = PublicKey::from_pem(&pem).with_context(|| key.display().to_string())?;
    let held = held(heads, &key)?;
    let input = std::fs::File::open(file).with_context(|| format!("opening {}", file.display()))?;
    let report = signet_audit::verify(BufReader::new(input), &key, held)
        .with_context(|| file.display().to_string())?;
    show(context, &report)
}

fn show(context: &Context, report: &Report) -> anyhow::Result<()> {
    let logs: Vec<_> = report
        .replicas
        .iter()
        .map(|(replica, log)| {
            json!({"replica": replica, "records": log.records, "removed": log.removed, "last": log.last,
                   "signed": log.signed, "signed_at": log.signed_at})
        })
        .collect();
    let json = json!({
        "trust_domain": report.trust_domain, "logs": logs, "held": report.held, "held_removed": report.held_removed,
    });
    context.show(json, || {
        let rows: Vec<Vec<String>> = report
            .replicas
            .iter()
            .map(|(replica, log)| {
                let unsigned = log.last.saturating_sub(log.signed);
                let end = match unsigned {
                    0 => "all".to_owned(),
                    _ => format!("to {}; {unsigned} after it are chained only", log.signed),
                };
                let records = log.records.to_string();
                vec![replica.clone(), records, log.removed.to_string(), end, when(log.signed_at)]
            })
            .collect();
        let heading = ["REPLICA", "RECORDS", "REMOVED BEFORE", "SIGNED", "AT"];
        let mut text = format!("{}: as it was written\n{}", report.trust_domain, table(&heading, &rows));
        if report.held > 0 {
            text.push_str(&format!("\n{} heads that were held elsewhere are in it", report.held));
        }
        if report.held_removed > 0 {
            text.push_str(&format!(
                "\n{} heads are of records that were removed since: they say nothing",
                report.held_removed
            ));
        }
        text
    })
}

impl Search {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let request = SearchLogRequest {
            spiffe_id: self.identity,
            serial: self.serial,
            event: self.event,
            since: self.since.unwrap_or(0),
            until: self.until.unwrap_or(0),
            limit: self.limit,
            page: self.page,
        };
        let found = context.audit().await?.search(request).await.map_err(|it| refused(&it))?.into_inner();
        let of = |it: &signet_proto::v1::LogRecord| {
            let record = it.record.clone().unwrap_or_default();
            let mut json = as_json(&record);
            if let Some(fields) = json.as_object_mut() {
                fields.insert("replica".into(), it.replica.clone().into());
            }
            let mut row = as_row(&record);
            row.insert(0, it.replica.clone());
            (json, row)
        };
        let (json, rows): (Vec<_>, Vec<_>) = found.records.iter().map(of).unzip();
        context.show(json!({"records": json, "next_page": found.next_page}), || {
            let heading = ["REPLICA", "N", "AT", "EVENT", "CLASS", "IDENTITY", "SERIAL AND REASON", "ACTOR"];
            let mut shown = table(&heading, &rows);
            if !found.next_page.is_empty() {
                shown.push_str(&format!("\nmore with --page '{}'", found.next_page));
            }
            shown
        })
    }
}

async fn export(context: &Context, out: &std::path::Path) -> anyhow::Result<()> {
    let answer = context.audit().await?.export(ExportLogRequest {}).await;
    let mut lines = answer.map_err(|it| refused(&it))?.into_inner();
    let file = std::fs::File::options().write(true).create_new(true).open(out);
    let mut file = std::io::BufWriter::new(file.with_context(|| format!("creating {}", out.display()))?);
    let mut count = 0u64;
    while let Some(line) = lines.message().await.map_err(|it| refused(&it))? {
        writeln!(file, "{}", line.json).with_context(|| format!("writing {}", out.display()))?;
        count = count.saturating_add(1);
    }
    if count == 0 {
        bail!("the control plane sent nothing");
    }
    file.flush().with_context(|| format!("writing {}", out.display()))?;
    context
        .show(json!({"out": out, "lines": count}), || format!("{count} lines written to {}", out.display()))
}

async fn key(context: &Context) -> anyhow::Result<()> {
    let answer = context.audit().await?.key(AuditKeyRequest {}).await;
    let pem = answer.map_err(|it| refused(&it))?.into_inner().pem;
    if context.json { context.show(json!({"pem": pem}), String::new) } else { print(&pem) }
}
