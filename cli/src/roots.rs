//! `signet ca csr` and `signet ca import`: a root that is kept elsewhere signs, and what it signed comes back.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;
use signet_proto::v1::{ImportRootRequest, RequestRootRequest};

use crate::operator::{Context, print, refused, when};

/// A chain of two certificates has far less.
const MAX_CHAIN: u64 = 60 * 1024;

#[derive(Args)]
pub(crate) struct Csr {
    /// Where to write the request (PKCS #10, PEM); standard output if it is left out. Nothing in it is secret.
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Import {
    /// PEM text with two certificates: the one that was signed for the request, and that of the root.
    chain: PathBuf,
}

impl Csr {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let asked = context.roots().await?.request_root(RequestRootRequest {}).await;
        let answer = asked.map_err(|it| refused(&it))?.into_inner();
        if context.json {
            return context.show(json!({"id": answer.id, "request": answer.request_pem}), String::new);
        }
        let Some(out) = self.out else { return print(&answer.request_pem) };
        let mut file = std::fs::File::create(&out).with_context(|| format!("creating {}", out.display()))?;
        file.write_all(answer.request_pem.as_bytes())
            .with_context(|| format!("writing {}", out.display()))?;
        print(&format!(
            "the request of key {} is in {}\nhave the root sign it, then: signet ca import CHAIN.pem",
            answer.id,
            out.display()
        ))
    }
}

impl Import {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let reading = || format!("reading {}", self.chain.display());
        let file = std::fs::File::open(&self.chain).with_context(reading)?;
        let mut chain_pem = String::new();
        file.take(MAX_CHAIN + 1).read_to_string(&mut chain_pem).with_context(reading)?;
        if chain_pem.len() as u64 > MAX_CHAIN {
            bail!("{} is longer than {MAX_CHAIN} bytes: expected two certificates", self.chain.display());
        }
        // It would leave this machine.
        if chain_pem.contains("PRIVATE KEY-----") {
            bail!("{} has a private key in it: expected two certificates alone", self.chain.display());
        }
        let asked = context.roots().await?.import_root(ImportRootRequest { chain_pem }).await;
        let done = asked.map_err(|it| refused(&it))?.into_inner();
        let json = json!({
            "id": done.id, "root_sha256": done.root_sha256, "not_after": done.not_after, "phase": done.phase,
            "warnings": done.warnings,
        });
        context.show(json, || {
            let mut text = format!(
                "imported {}, which ends {}\nit is {} now; `signet ca status` shows how it goes on\nroot {}",
                done.id,
                when(done.not_after),
                done.phase,
                done.root_sha256
            );
            for warning in &done.warnings {
                text.push_str(&format!("\nwarning: {warning}"));
            }
            text
        })
    }
}
