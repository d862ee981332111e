//! `signet federation`: the trust domains whose workloads are believed, and what is known of them.

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Value, json};
use signet_proto::v1::federation_client::FederationClient;
use signet_proto::v1::{ExportBundleRequest, FederatedStatus, ListFederatedRequest, RefreshFederatedRequest};
use tonic::transport::Channel;

use crate::operator::{Context, one_line, print, refused, table, when};

#[derive(Subcommand)]
pub(crate) enum Federation {
    /// The federated trust domains, and how fresh what is held of them is.
    List,
    /// Everything that is known of one of them.
    Show {
        /// Its trust domain.
        trust_domain: String,
    },
    /// Fetch the bundle of one of them now. Exit code 1 if that fails; what was held before goes on.
    Refresh {
        /// Its trust domain.
        trust_domain: String,
    },
    /// Print our own bundle document, for a partner's `initialBundle`.
    Bundle,
}

impl Federation {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::List => {
                let domains = list(context).await?;
                context.show(domains.iter().map(as_json).collect(), || overview(&domains))
            }
            Self::Show { trust_domain } => {
                let domains = list(context).await?;
                let found = domains.iter().find(|it| it.trust_domain == trust_domain);
                let found = found.with_context(|| format!("{} is not federated", one_line(&trust_domain)))?;
                context.show(as_json(found), || details(found))
            }
            Self::Refresh { trust_domain } => {
                let request = RefreshFederatedRequest { trust_domain };
                let answer = client(context).await?.refresh_federated(request).await;
                let state = answer.map_err(|it| refused(&it))?.into_inner();
                context.show(as_json(&state), || details(&state))?;
                anyhow::ensure!(state.error.is_empty(), "{}", one_line(&state.error));
                Ok(())
            }
            Self::Bundle => {
                let answer = client(context).await?.export_bundle(ExportBundleRequest {}).await;
                print(&answer.map_err(|it| refused(&it))?.into_inner().document)
            }
        }
    }
}

async fn client(context: &Context) -> anyhow::Result<FederationClient<Channel>> {
    Ok(FederationClient::new(context.channel().await?))
}

pub(crate) async fn list(context: &Context) -> anyhow::Result<Vec<FederatedStatus>> {
    let answer = client(context).await?.list_federated(ListFederatedRequest {}).await;
    Ok(answer.map_err(|it| refused(&it))?.into_inner().domains)
}

pub(crate) fn as_json(it: &FederatedStatus) -> Value {
    json!({"name": it.name, "trust_domain": it.trust_domain, "url": it.url, "profile": it.profile,
           "endpoint_id": it.endpoint_id, "held": it.held, "roots_sha256": it.roots_sha256, "jwt_kids": it.jwt_kids,
           "ignored": it.ignored, "sequence": it.sequence, "refresh_hint": it.refresh_hint, "initial": it.initial,
           "confirmed_at": it.confirmed_at, "error": it.error})
}

pub(crate) fn overview(domains: &[FederatedStatus]) -> String {
    let row = |it: &FederatedStatus| {
        let sequence = it.sequence.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let confirmed = if it.initial { "initial bundle".to_owned() } else { when(it.confirmed_at) };
        vec![
            it.trust_domain.clone(),
            it.roots_sha256.len().to_string(),
            sequence,
            confirmed,
            it.error.clone(),
        ]
    };
    let rows: Vec<_> = domains.iter().map(row).collect();
    table(&["TRUST DOMAIN", "ROOTS", "SEQUENCE", "CONFIRMED", "ERROR"], &rows)
}

fn details(it: &FederatedStatus) -> String {
    let mut lines = vec![
        format!("trust domain   {} ({})", one_line(&it.trust_domain), one_line(&it.name)),
        format!("endpoint       {} {}", one_line(&it.profile), one_line(&it.url)),
    ];
    if !it.endpoint_id.is_empty() {
        lines.push(format!("answered by    {}", one_line(&it.endpoint_id)));
    }
    let held = match (it.held, it.initial) {
        (false, _) => "nothing: nobody of this trust domain is believed".to_owned(),
        (true, true) => "the initial bundle; the endpoint was not reached yet".to_owned(),
        (true, false) => format!("confirmed {}", when(it.confirmed_at)),
    };
    lines.push(format!("held           {held}"));
    let sequence = it.sequence.map_or_else(|| "none".to_owned(), |number| number.to_string());
    let hint = it.refresh_hint.map_or_else(|| "none".to_owned(), |seconds| format!("{seconds} s"));
    lines.push(format!("sequence       {sequence}, refresh hint {hint}, {} entries ignored", it.ignored));
    lines.extend(it.roots_sha256.iter().map(|root| format!("root           {}", one_line(root))));
    lines.extend(it.jwt_kids.iter().map(|kid| format!("jwt key        {}", one_line(kid))));
    if !it.error.is_empty() {
        lines.push(format!("error          {}", one_line(&it.error)));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_that_was_never_reached_does_not_look_confirmed() {
        let state = FederatedStatus {
            trust_domain: "partner.example".into(),
            held: true,
            initial: true,
            ..Default::default()
        };
        assert!(overview(std::slice::from_ref(&state)).contains("initial bundle"));
        assert!(details(&state).contains("was not reached yet"));
        let nothing = FederatedStatus { held: false, ..state };
        assert!(details(&nothing).contains("nobody of this trust domain is believed"));
    }
}
