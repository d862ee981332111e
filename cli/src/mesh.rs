//! `signet status` and `signet sidecars`.

use serde_json::json;
use signet_proto::v1::{ListSidecarsRequest, StatusRequest};
use time::OffsetDateTime;

use crate::operator::{Context, refused, table, when};

pub(crate) async fn status(context: &Context) -> anyhow::Result<()> {
    let status =
        context.client().await?.status(StatusRequest {}).await.map_err(|it| refused(&it))?.into_inner();
    let federated = crate::federation::list(context).await?;
    let certificates: Vec<_> = status
        .certificates
        .iter()
        .map(|it| json!({"role": it.role, "serial": it.serial, "subject": it.subject, "not_after": it.not_after}))
        .collect();
    let issuers: Vec<_> = status
        .issuers
        .iter()
        .map(|it| json!({"alias": it.alias, "keys": it.keys, "fetched_at": it.fetched_at, "error": it.error}))
        .collect();
    let permissive: Vec<_> = status
        .permissive
        .iter()
        .map(|it| json!({"service": it.service, "port": it.port, "until": it.until}))
        .collect();
    let json = json!({
        "permissive": permissive,
        "version": status.version, "trust_domain": status.trust_domain, "sidecars": status.sidecars,
        "registry": {"loaded_at": status.registry_loaded_at, "errors": status.registry_errors, "warnings": status.registry_warnings},
        "certificates": certificates, "issuers": issuers, "dev": status.dev,
        "federated": federated.iter().map(crate::federation::as_json).collect::<Vec<_>>(),
    });
    context.show(json, || {
        let mut text = format!(
            "trust domain   {}{}\nversion        {}\nsidecars       {}\nregistry       loaded {}\n",
            status.trust_domain,
            if status.dev { "  (dev: certificates may be short-lived)" } else { "" },
            status.version,
            status.sidecars,
            when(status.registry_loaded_at),
        );
        for error in &status.registry_errors {
            text += &format!("               refused: {error}\n");
        }
        for warning in &status.registry_warnings {
            text += &format!("               warning: {warning}\n");
        }
        let rows: Vec<_> = status
            .certificates
            .iter()
            .map(|it| vec![it.role.clone(), when(it.not_after), it.serial.clone(), it.subject.clone()])
            .collect();
        text += &format!("\n{}\n", table(&["CERTIFICATE", "UNTIL", "SERIAL", "SUBJECT"], &rows));
        if !status.issuers.is_empty() {
            let rows: Vec<_> = status
                .issuers
                .iter()
                .map(|it| vec![it.alias.clone(), it.keys.to_string(), when(it.fetched_at), it.error.clone()])
                .collect();
            text += &format!("\n{}\n", table(&["ISSUER", "KEYS", "FETCHED", "ERROR"], &rows));
        }
        if !status.permissive.is_empty() {
            let now = OffsetDateTime::now_utc().unix_timestamp();
            let state =
                |until: i64| if until > now { "lets plaintext in" } else { "strict again" }.to_owned();
            let rows: Vec<_> = status
                .permissive
                .iter()
                .map(|it| vec![it.service.clone(), it.port.clone(), when(it.until), state(it.until)])
                .collect();
            text += &format!("\n{}\n", table(&["PERMISSIVE", "PORT", "UNTIL", "NOW"], &rows));
        }
        if !federated.is_empty() {
            text += &format!("\n{}\n", crate::federation::overview(&federated));
        }
        text
    })
}

pub(crate) async fn sidecars(context: &Context) -> anyhow::Result<()> {
    let sidecars = context
        .client()
        .await?
        .list_sidecars(ListSidecarsRequest {})
        .await
        .map_err(|it| refused(&it))?
        .into_inner()
        .sidecars;
    let json = sidecars
        .iter()
        .map(|it| {
            json!({"spiffe_id": it.spiffe_id, "class": it.peer_class, "connected_at": it.connected_at,
                   "sent": it.sent_nonce, "acked": it.acked_nonce, "rejected": it.rejected, "version": it.version})
        })
        .collect();
    context.show(json, || {
        let rows: Vec<_> = sidecars
            .iter()
            .map(|it| {
                let state = match (it.rejected.is_empty(), it.sent_nonce == it.acked_nonce) {
                    (false, _) => format!("rejected: {}", it.rejected.join("; ")),
                    (true, true) => "in sync".to_owned(),
                    (true, false) => format!("{} of {} acknowledged", it.acked_nonce, it.sent_nonce),
                };
                vec![it.spiffe_id.clone(), it.peer_class.clone(), when(it.connected_at), state]
            })
            .collect();
        table(&["IDENTITY", "CLASS", "SINCE", "STATE"], &rows)
    })
}
