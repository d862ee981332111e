//! `signet ca status|prepare|rotate|activate|taint`: roots, issuers and keys, and how one follows another.

use clap::{Args, ValueEnum};
use serde_json::json;
use signet_proto::v1::{
    ActivateAuthorityRequest, AuthorityStatus, ListAuthoritiesRequest, ListAuthoritiesResponse,
    PrepareAuthorityRequest, RotateAuthorityRequest, TaintAuthorityRequest,
};

use crate::operator::{Context, refused, table, when};

/// What rotates.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Kind {
    /// The mesh's root.
    Root,
    /// This control plane's issuer of certificates.
    Issuer,
    /// Its key under which gateways' delegations are believed.
    Token,
    /// Its key for JWT-SVIDs.
    Jwt,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Root => "root",
            Kind::Issuer => "issuer",
            Kind::Token => "token",
            Kind::Jwt => "jwt",
        }
    }
}

#[derive(Args)]
pub(crate) struct Which {
    #[arg(value_enum, default_value_t = Kind::Root)]
    kind: Kind,
}

#[derive(Args)]
pub(crate) struct Named {
    /// Its id, or the first characters of it (six or more), as `signet ca status` shows it.
    id: String,
}

#[derive(Args)]
pub(crate) struct Activate {
    #[command(flatten)]
    named: Named,
    /// Do not wait for sidecars that have not acknowledged it: their connections will fail until they have.
    #[arg(long)]
    force: bool,
}

pub(crate) async fn status(context: &Context, all: bool) -> anyhow::Result<()> {
    let answer = context.rotation().await?.list_authorities(ListAuthoritiesRequest {}).await;
    let mut answer = answer.map_err(|it| refused(&it))?.into_inner();
    if !all {
        answer.authorities.retain(|one| one.phase != "removed");
    }
    let json = json!({
        "bundle": answer.bundle,
        "authorities": answer.authorities.iter().map(as_json).collect::<Vec<_>>(),
    });
    context.show(json, || shown(&answer))
}

fn as_json(one: &AuthorityStatus) -> serde_json::Value {
    json!({
        "id": one.id, "kind": one.kind, "owner": one.owner, "phase": one.phase, "since": one.since,
        "not_before": one.not_before, "not_after": one.not_after, "prepare_at": one.prepare_at,
        "activate_at": one.activate_at, "sequence": one.sequence, "tainted_at": one.tainted_at,
        "sha256": one.sha256,
    })
}

fn shown(answer: &ListAuthoritiesResponse) -> String {
    let row = |one: &AuthorityStatus| {
        vec![
            one.kind.clone(),
            one.id.chars().take(12).collect(),
            if one.tainted_at > 0 { format!("{}, tainted", one.phase) } else { one.phase.clone() },
            when(one.since),
            when(one.not_after),
            if one.phase == "active" { when(one.prepare_at) } else { "-".into() },
            if one.owner.is_empty() { "-".into() } else { one.owner.clone() },
        ]
    };
    let head = ["KIND", "ID", "PHASE", "SINCE", "ENDS", "SUCCESSOR IS MADE", "CONTROL PLANE"];
    format!(
        "{}\nverifiers are told bundle {}",
        table(&head, &answer.authorities.iter().map(row).collect::<Vec<_>>()),
        answer.bundle
    )
}

pub(crate) async fn prepare(context: &Context, which: Which) -> anyhow::Result<()> {
    let request = PrepareAuthorityRequest { kind: which.kind.as_str().into() };
    let id = context.rotation().await?.prepare_authority(request).await.map_err(|it| refused(&it))?;
    let id = id.into_inner().id;
    context.show(json!({"id": id}), || {
        format!("{id} is published; it takes over by schedule, or with `signet ca activate {}`", short(&id))
    })
}

pub(crate) async fn rotate(context: &Context, which: Which) -> anyhow::Result<()> {
    let request = RotateAuthorityRequest { kind: which.kind.as_str().into() };
    let id = context.rotation().await?.rotate_authority(request).await.map_err(|it| refused(&it))?;
    let id = id.into_inner().id;
    context.show(json!({"id": id}), || {
        format!("{id} takes over as soon as the sidecars have acknowledged it: see `signet ca status`")
    })
}

pub(crate) async fn activate(context: &Context, activate: Activate) -> anyhow::Result<()> {
    let request = ActivateAuthorityRequest { id: activate.named.id, force: activate.force };
    let id = context.rotation().await?.activate_authority(request).await.map_err(|it| refused(&it))?;
    let id = id.into_inner().id;
    let how = if activate.force { "now" } else { "as soon as the sidecars have acknowledged it" };
    context.show(json!({"id": id}), || format!("{id} takes over {how}"))
}

pub(crate) async fn taint(context: &Context, named: Named) -> anyhow::Result<()> {
    let request = TaintAuthorityRequest { id: named.id };
    let id = context.rotation().await?.taint_authority(request).await.map_err(|it| refused(&it))?;
    let id = id.into_inner().id;
    context.show(json!({"id": id}), || {
        format!(
            "{id} is tainted: a successor takes over, whoever holds a certificate of it renews now, then it is removed"
        )
    })
}

fn short(id: &str) -> String {
    id.chars().take(12).collect()
}
