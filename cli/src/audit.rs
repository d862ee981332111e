//! `signet ca audit`: the issuance log for those who look into it, also without a control plane.

use std::io::{BufReader, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use signet_audit::PublicKey;
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
            Self::Verify(Verify { file: Some(file), key: Some(key) }) => offline(context, &file, &key),
            Self::Verify(_) => online(context).await,
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

fn offline(context: &Context, file: &std::path::Path, key: &std::path::Path) -> anyhow::Result<()> {
    let pem = std::fs::read_to_string(key).with_context(|| format!("reading {}", key.display()))?;
    let key = PublicKey::from_pem(&pem).with_context(|| key.display().to_string())?;
    let input = std::fs::File::open(file).with_context(|| format!("opening {}", file.display()))?;
    let report =
        signet_audit::verify(BufReader::new(input), &key).with_context(|| file.display().to_string())?;
    let logs: Vec<_> = report
        .replicas
        .iter()
        .map(|(replica, log)| {
            json!({"replica": replica, "records": log.records, "removed": log.removed, "last": log.last,
                   "signed": log.signed, "signed_at": log.signed_at})
        })
        .collect();
    context.show(json!({"trust_domain": report.trust_domain, "logs": logs}), || {
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
        format!("{}: as it was written\n{}", report.trust_domain, table(&heading, &rows))
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
