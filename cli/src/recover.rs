//! `signet ca recover`: after a disaster, everything that may have been lost or stolen ends at once.

use clap::{Args, ValueEnum};
use serde_json::json;
use signet_proto::v1::RecoverRequest;

use crate::operator::{Context, refused};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Case {
    /// The store was restored from a copy, which does not know what came after it.
    Restored,
    /// The root's private key may be in other hands.
    StolenRoot,
}

#[derive(Args)]
pub(crate) struct Recover {
    #[arg(value_enum)]
    case: Case,
    /// Replace every control plane's issuer and keys, too: what they signed is believed no more after
    /// rotation.ackDeadlineSeconds, whoever has joined again by then or not.
    #[arg(long)]
    cut: bool,
    /// Why; kept in the log.
    #[arg(long)]
    reason: String,
}

impl Recover {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let root = self.case == Case::StolenRoot;
        let request = RecoverRequest { root, issuers: self.cut, reason: self.reason };
        let asked = context.recovery().await?.recover(request).await;
        let done = asked.map_err(|it| refused(&it))?.into_inner();
        let json = json!({"join_tokens": done.join_tokens, "chains": done.chains, "tainted": done.tainted});
        context.show(json, || {
            let mut text = format!(
                "ended: {} unused join tokens, {} chains of renewals\nworkloads join again (signet join), or are attested again by themselves",
                done.join_tokens, done.chains
            );
            for id in &done.tainted {
                text.push_str(&format!("\ntainted: {id}"));
            }
            if self.case == Case::Restored {
                text.push_str("\nrevocations made after the copy are gone: repeat them now (signet ca revoke)");
            }
            text
        })
    }
}
