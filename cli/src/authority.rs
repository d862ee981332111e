//! `signet join` and `signet ca`: who may become somebody, who did, and who no longer is.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use signet_proto::v1::reinstate_request::What as Lifted;
use signet_proto::v1::revoke_request::What;
use signet_proto::v1::{
    CreateJoinTokenRequest, IssuanceRecord, JoinBundle, ListIssuancesRequest, ReinstateRequest,
    RevokeRequest, WatchIssuancesRequest,
};

use crate::audit::{self, Audit};
use crate::operator::{Context, print, refused, table, when};
use crate::spread::{self, Wait};
use crate::{backup, recover, roots, rotation};

#[derive(Args)]
pub(crate) struct Join {
    /// The identity that the token is for, spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>.
    spiffe_id: String,
    /// sidecar, gateway or agent
    #[arg(long, default_value = "sidecar")]
    class: String,
    /// Seconds until the token ends.
    #[arg(long, default_value_t = 600)]
    ttl: i64,
    /// Where to write the join bundle (created with mode 0600, never overwritten). It holds a secret: it is
    /// not printed.
    #[arg(long)]
    out: PathBuf,
}

impl Join {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let request = CreateJoinTokenRequest {
            spiffe_id: self.spiffe_id,
            peer_class: self.class,
            ttl_seconds: self.ttl,
        };
        let bundle =
            context.client().await?.create_join_token(request).await.map_err(|it| refused(&it))?.into_inner();
        write_bundle(&bundle, &self.out)?;
        let json = json!({"out": self.out, "spiffe_id": bundle.spiffe_id, "expires_at": bundle.expires_at});
        context.show(json, || {
            format!(
                "{} may join once until {}\njoin bundle written to {}",
                bundle.spiffe_id,
                when(bundle.expires_at),
                self.out.display()
            )
        })
    }
}

/// The file that a sidecar's `identity.joinBundle` names.
pub(crate) fn write_bundle(bundle: &JoinBundle, path: &std::path::Path) -> anyhow::Result<()> {
    let text = serde_json::to_vec_pretty(&json!({
        "bootstrapAddress": bundle.bootstrap_address,
        "meshAddress": bundle.mesh_address,
        "trustDomain": bundle.trust_domain,
        "rootSha256": bundle.root_sha256,
        "token": bundle.token,
        "spiffeId": bundle.spiffe_id,
        "controlPlane": bundle.control_plane,
    }))?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("creating {}", path.display()))?;
    file.write_all(&text).with_context(|| format!("writing {}", path.display()))
}

#[derive(Subcommand)]
pub(crate) enum Ca {
    /// The latest records of the issuance log.
    Log {
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Go on with new records as they come.
        #[arg(long)]
        follow: bool,
    },
    /// Take a certificate, an identity, a key, a gateway's delegation, a chain of renewals or a pod out of use,
    /// everywhere.
    Revoke(Revoke),
    /// Lift a revocation: allow it again, everywhere.
    Reinstate(Reinstate),
    /// Check the whole issuance log and the revocations: that nothing was changed, removed or cut off. Exit code 1
    /// if something was.
    Verify,
    /// The log for those who look into it: verified, searched, exported.
    #[command(subcommand)]
    Audit(Audit),
    /// Roots, issuers and keys: where each stands in its rotation, and when the next step is due.
    Status {
        /// The removed ones of the last month too.
        #[arg(long)]
        all: bool,
    },
    /// Make and publish a successor; it takes over by schedule, or with `activate`.
    Prepare(rotation::Which),
    /// Make and publish a successor, and let it take over as soon as the sidecars have acknowledged it.
    Rotate(rotation::Which),
    /// Let a successor take over.
    Activate(rotation::Activate),
    /// The request for a certificate under a root that is kept elsewhere; makes a key and a request where none waits.
    Csr(roots::Csr),
    /// A copy of keys and store, made while the control plane works, in the folder that its configuration names.
    Backup,
    /// After a disaster (see docs/recovery.md): end every unused join token and every chain of renewals.
    Recover(recover::Recover),
    /// Hand in what that root signed.
    Import(roots::Import),
    /// Say that a private key may be in other hands: it is replaced and removed as fast as the mesh can follow.
    Taint(rotation::Named),
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// A certificate's serial number, hex.
    #[arg(long)]
    serial: Option<String>,
    /// A SPIFFE ID. Revoked, it gets no certificate and no connection until `signet ca reinstate`.
    #[arg(long)]
    identity: Option<String>,
    /// SHA-256 of a SubjectPublicKeyInfo, hex.
    #[arg(long)]
    key: Option<String>,
    /// RFC 7638 thumbprint of a gateway's delegated key.
    #[arg(long)]
    delegation: Option<String>,
    /// A chain of renewals, 32 hex digits, as `signet ca log` shows it: its certificates end, and it cannot renew.
    #[arg(long)]
    lineage: Option<String>,
    /// An attested pod, <cluster>/<pod uid>: its certificates end, and it is not attested again.
    #[arg(long)]
    instance: Option<String>,
    /// A user, <alias of the Issuer>|<sub>: shut out whatever they sign in with, until `signet ca reinstate`.
    #[arg(long)]
    user: Option<String>,
    /// What was issued to a user until now, <alias>|<sub>; they may sign in again.
    #[arg(long)]
    logout: Option<String>,
    /// A session, <alias>|<sid>.
    #[arg(long)]
    session: Option<String>,
    /// An access token, <alias>|<jti>.
    #[arg(long)]
    token: Option<String>,
}

#[derive(Args)]
pub(crate) struct Revoke {
    #[command(flatten)]
    target: Target,
    /// Why; kept in the log.
    #[arg(long)]
    reason: String,
    /// Return only when every connected sidecar goes by it, at every control plane of the store; --wait=2m waits for two
    /// minutes at most, --wait for 30 seconds. When the time is over: exit code 1, and who is behind; the revocation stands.
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "30s")]
    wait: Option<Wait>,
}

#[derive(Args)]
pub(crate) struct Reinstate {
    #[command(flatten)]
    target: Target,
    /// Why; kept in the log.
    #[arg(long)]
    reason: String,
}

impl Target {
    fn what(self) -> anyhow::Result<What> {
        let Target { serial, identity, key, delegation, lineage, instance, .. } = self;
        let named = [
            serial.map(What::Serial),
            identity.map(What::SpiffeId),
            key.map(What::KeySha256),
            delegation.map(What::Delegation),
            lineage.map(What::Lineage),
            instance.map(What::Instance),
            self.user.map(What::User),
            self.logout.map(What::Logout),
            self.session.map(What::Session),
            self.token.map(What::Token),
        ];
        let Some(what) = named.into_iter().flatten().next() else {
            bail!(
                "name one of --serial, --identity, --key, --delegation, --lineage, --instance, --user, --logout, \
                 --session and --token"
            )
        };
        Ok(what)
    }
}

impl Ca {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Self::Log { limit, follow } => log(context, limit, follow).await,
            Self::Revoke(revoke) => revoke.run(context).await,
            Self::Reinstate(reinstate) => reinstate.run(context).await,
            Self::Verify => audit::online(context).await,
            Self::Audit(command) => command.run(context).await,
            Self::Status { all } => rotation::status(context, all).await,
            Self::Prepare(which) => rotation::prepare(context, which).await,
            Self::Rotate(which) => rotation::rotate(context, which).await,
            Self::Activate(activate) => rotation::activate(context, activate).await,
            Self::Csr(csr) => csr.run(context).await,
            Self::Backup => backup::run(context).await,
            Self::Recover(recover) => recover.run(context).await,
            Self::Import(import) => import.run(context).await,
            Self::Taint(named) => rotation::taint(context, named).await,
        }
    }
}

impl Revoke {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let request = RevokeRequest { what: Some(self.target.what()?), reason: self.reason };
        let sequence =
            context.client().await?.revoke(request).await.map_err(|it| refused(&it))?.into_inner().sequence;
        if let Some(wait) = self.wait {
            return spread::wait(context, sequence, wait).await;
        }
        context.show(json!({"sequence": sequence}), || format!("revoked; the list is now at {sequence}"))
    }
}

impl Reinstate {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let what = match self.target.what()? {
            What::Serial(serial) => Lifted::Serial(serial),
            What::SpiffeId(id) => Lifted::SpiffeId(id),
            What::KeySha256(key) => Lifted::KeySha256(key),
            What::Delegation(thumbprint) => Lifted::Delegation(thumbprint),
            What::Lineage(id) => Lifted::Lineage(id),
            What::Instance(name) => Lifted::Instance(name),
            What::User(name) => Lifted::User(name),
            What::Logout(name) => Lifted::Logout(name),
            What::Session(name) => Lifted::Session(name),
            What::Token(name) => Lifted::Token(name),
        };
        let request = ReinstateRequest { what: Some(what), reason: self.reason };
        let sequence = context
            .client()
            .await?
            .reinstate(request)
            .await
            .map_err(|it| refused(&it))?
            .into_inner()
            .sequence;
        context.show(json!({"sequence": sequence}), || format!("reinstated; the list is now at {sequence}"))
    }
}

async fn log(context: &Context, limit: u32, follow: bool) -> anyhow::Result<()> {
    let mut client = context.client().await?;
    let live = if follow {
        Some(client.watch_issuances(WatchIssuancesRequest {}).await.map_err(|it| refused(&it))?.into_inner())
    } else {
        None
    };
    let records = client
        .list_issuances(ListIssuancesRequest { limit })
        .await
        .map_err(|it| refused(&it))?
        .into_inner()
        .records;
    let json = records.iter().map(as_json).collect();
    context.show(json, || {
        let rows: Vec<_> = records.iter().map(as_row).collect();
        table(&["N", "AT", "EVENT", "CLASS", "IDENTITY", "SERIAL AND REASON", "ACTOR"], &rows)
    })?;
    let Some(mut live) = live else { return Ok(()) };
    while let Some(record) = live.message().await? {
        if context.json {
            print(&as_json(&record).to_string())?;
        } else {
            print(&as_row(&record).join("  "))?;
        }
    }
    Ok(())
}

pub(crate) fn as_json(it: &IssuanceRecord) -> serde_json::Value {
    json!({"sequence": it.sequence, "at": it.at, "event": it.event, "spiffe_id": it.spiffe_id,
           "class": it.peer_class, "serial": it.serial, "not_after": it.not_after, "reason": it.reason,
           "actor": it.actor, "hash": it.hash})
}

pub(crate) fn as_row(it: &IssuanceRecord) -> Vec<String> {
    let detail = [it.serial.as_str(), it.reason.as_str()];
    let detail = detail.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ");
    vec![
        it.sequence.to_string(),
        when(it.at),
        it.event.clone(),
        it.peer_class.clone(),
        it.spiffe_id.clone(),
        detail,
        it.actor.clone(),
    ]
}
