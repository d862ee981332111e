//! `signet login`, `logout`, `whoami`: a person becomes an operator for an hour.
//!
//! A key is made here and stays here. The provider is asked for an ID token whose nonce is that key's digest, and the
//! control plane, which is known by the digest of its root and by nothing else, exchanges it for a certificate. Nothing
//! is trusted on first use, and no token is kept.

mod flow;
mod loopback;
mod web;

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use clap::Args;
use rcgen::PublicKeyData as _;
use serde_json::json;
use signet_identity::{KeyId, SpiffeId, TrustDomain, bootstrap_client_config};
use signet_proto::v1::attest_request::Evidence;
use signet_proto::v1::bootstrap_client::BootstrapClient;
use signet_proto::v1::{AttestRequest, IssuedSvid, LoginSettingsRequest, OidcEvidence, WhoAmIRequest};
use zeroize::Zeroizing;

use crate::operator::{Context, refused, when};
use crate::place::{Config, Session};
use crate::tls::{self, Target};

use flow::Provider;
use web::Web;

#[derive(Args)]
pub(crate) struct Login {
    /// The control plane's bootstrap listener, https://host:port or host:port.
    #[arg(long)]
    server: Option<String>,
    /// Its mesh listener, host:port.
    #[arg(long)]
    mesh: Option<String>,
    #[arg(long)]
    trust_domain: Option<String>,
    /// SHA-256 of its root certificate, hex: as `signet login-settings` on the control plane's machine says.
    #[arg(long)]
    root_sha256: Option<String>,
    /// The OpenID provider at which you log in.
    #[arg(long)]
    issuer: Option<String>,
    /// Signet's name at that provider.
    #[arg(long)]
    client_id: Option<String>,
    /// Log in on another machine, with a code, because this one has no browser.
    #[arg(long)]
    device: bool,
    /// Print the address and start no browser.
    #[arg(long)]
    no_browser: bool,
}

/// What a login needs, whoever said it.
struct Settings {
    bootstrap: String,
    mesh: String,
    domain: TrustDomain,
    root: KeyId,
    control_plane: SpiffeId,
    issuer: String,
    client_id: String,
}

impl Settings {
    fn of(login: &Login, config: &Config) -> anyhow::Result<Self> {
        let need = |flag: &Option<String>, written: &Option<String>, name: &str, field: &str| {
            flag.clone().or_else(|| written.clone()).with_context(|| {
                format!("{name} is not known: give {name}, or {field} in the configuration (`signet login-settings` on the control plane's machine writes it)")
            })
        };
        let bootstrap = need(&login.server, &config.server.bootstrap, "--server", "server.bootstrap")?;
        let mesh = need(&login.mesh, &config.server.mesh, "--mesh", "server.mesh")?;
        let domain = need(&login.trust_domain, &config.trust_domain, "--trust-domain", "trustDomain")?;
        let domain = TrustDomain::parse(&domain).context("the trust domain")?;
        let root = need(&login.root_sha256, &config.root_sha256, "--root-sha256", "rootSha256")?;
        let root: KeyId = root
            .replace(':', "")
            .to_ascii_lowercase()
            .parse()
            .map_err(|_| anyhow!("the root's digest: expected 64 hexadecimal digits, found {root:?}"))?;
        let control_plane = match &config.control_plane {
            Some(id) => SpiffeId::parse(id).context("controlPlane")?,
            None => SpiffeId::workload(&domain, "signet-system", "signet-control-plane")?,
        };
        if !control_plane.is_in(&domain) {
            bail!("controlPlane: expected an identity of {domain}, found {control_plane}");
        }
        Ok(Self {
            bootstrap: address(&bootstrap)?,
            mesh: address(&mesh)?,
            domain,
            root,
            control_plane,
            issuer: need(&login.issuer, &config.login.issuer, "--issuer", "login.issuer")?,
            client_id: need(&login.client_id, &config.login.client_id, "--client-id", "login.clientId")?,
        })
    }
}

/// `host:port`, with or without `https://` and a slash.
fn address(text: &str) -> anyhow::Result<String> {
    let bare = text.strip_prefix("https://").unwrap_or(text);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    let good = bare.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if good { Ok(bare.to_owned()) } else { bail!("expected https://host:port or host:port, found {text:?}") }
}

impl Login {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let config = Config::load(context.config.as_deref())?;
        let settings = Settings::of(&self, &config)?;
        let key = rcgen::KeyPair::generate().context("making a key")?;
        let csr = rcgen::CertificateParams::default().serialize_request(&key).context("a request")?;
        let nonce = URL_SAFE_NO_PAD.encode(KeyId::of(&key.subject_public_key_info()).as_bytes());

        let web = Web::new(config.login.ca_file.as_deref())?;
        let provider = Provider {
            metadata: web.discover(&settings.issuer).await?,
            client_id: settings.client_id.clone(),
            client_secret: config.login.client_secret_file.as_deref().map(secret).transpose()?,
            scopes: config.login.scopes.clone().unwrap_or_else(|| vec!["email".into(), "profile".into()]),
        };
        let id_token = if self.device {
            provider.by_device(&web, &nonce).await?
        } else {
            provider.by_browser(&web, &nonce, !self.no_browser).await?
        };
        let carried = nonce_of(&id_token);
        if carried.as_deref() != Some(nonce.as_str()) {
            bail!(
                "the provider's ID token does not carry the nonce of this login, without which it could be used by whoever steals it{}",
                if self.device { ": its device grant leaves it out; log in with a browser" } else { "" }
            );
        }
        let issued = exchange(&settings, csr.der().to_vec(), &id_token).await?;
        let session = keep(&settings, &issued, &key)?;
        let path = session.save()?;
        let json = json!({"spiffe_id": session.spiffe_id, "not_after": session.not_after, "file": path});
        context.show(json, || format!("logged in until {}", when(session.not_after)))
    }
}

/// A secret in a file that nobody else may read; its first line.
fn secret(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let facts = std::fs::metadata(path).with_context(|| format!("reading {}", path.display()))?;
    if facts.mode() & 0o077 != 0 {
        bail!("{}: expected mode 0600, found {:o}", path.display(), facts.mode() & 0o777);
    }
    let text =
        Zeroizing::new(std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?);
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().trim().to_owned()))
}

/// The token's nonce, for a better message than the control plane could give; it is the one that verifies.
fn nonce_of(id_token: &str) -> Option<String> {
    let payload = URL_SAFE_NO_PAD.decode(id_token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    claims.get("nonce")?.as_str().map(str::to_owned)
}

/// The ID token for a certificate, over TLS to the control plane whose root is pinned.
async fn exchange(settings: &Settings, csr_der: Vec<u8>, id_token: &str) -> anyhow::Result<IssuedSvid> {
    let config =
        bootstrap_client_config(settings.domain.clone(), settings.root, settings.control_plane.clone())
            .context("TLS")?;
    let channel = tls::dial(Target {
        address: settings.bootstrap.clone(),
        control_plane: settings.control_plane.clone(),
        config,
        // The verifier of the handshake compared root, identity and class: there are no sessions to resume.
        check: None,
    })
    .await?;
    let evidence = Some(Evidence::Oidc(OidcEvidence { id_token: id_token.to_owned() }));
    let answer = BootstrapClient::new(channel).attest(AttestRequest { csr_der, evidence }).await;
    answer.map(tonic::Response::into_inner).map_err(|status| match status.code() {
        tonic::Code::Unauthenticated => anyhow!(
            "the control plane does not accept the login ({}): its log says why, under `signet::audit`",
            status.message()
        ),
        _ => refused(&status),
    })
}

fn keep(settings: &Settings, issued: &IssuedSvid, key: &rcgen::KeyPair) -> anyhow::Result<Session> {
    let bundle = issued.bundle.as_ref().context("the control plane sent no trust bundle")?;
    let pinned = bundle.roots_der.iter().any(|der| KeyId::of(der) == settings.root);
    if !pinned {
        bail!("the control plane sent a trust bundle without the root that it is known by");
    }
    let texts = |ders: &[Vec<u8>]| ders.iter().map(|der| STANDARD.encode(der)).collect();
    let session = Session {
        server: settings.mesh.clone(),
        trust_domain: settings.domain.to_string(),
        control_plane: settings.control_plane.to_string(),
        spiffe_id: issued.spiffe_id.clone(),
        not_after: issued.not_after,
        chain: texts(&issued.chain_der),
        roots: texts(&bundle.roots_der),
        key: Zeroizing::new(STANDARD.encode(Zeroizing::new(key.serialize_der()).as_slice())),
    };
    // What cannot be used is not kept.
    tls::credentials(&session)?;
    Ok(session)
}

pub(crate) fn logout(context: &Context) -> anyhow::Result<()> {
    let removed = Session::remove()?;
    context.show(json!({ "removed": removed }), || {
        if removed {
            "logged out: key and certificate are removed".into()
        } else {
            "nobody was logged in".into()
        }
    })
}

pub(crate) async fn whoami(context: &Context) -> anyhow::Result<()> {
    let me =
        context.people().await?.who_am_i(WhoAmIRequest {}).await.map_err(|it| refused(&it))?.into_inner();
    let json = json!({
        "actor": me.actor, "name": me.name, "username": me.username, "role": me.role, "namespaces": me.namespaces,
        "not_after": me.not_after, "spiffe_id": me.spiffe_id,
    });
    context.show(json, || {
        let mut roles = Vec::new();
        if !me.role.is_empty() {
            roles.push(me.role.clone());
        }
        if !me.namespaces.is_empty() {
            roles.push(format!("namespace-operator of {}", me.namespaces.join(", ")));
        }
        let mut rows = vec![("person", me.actor.clone())];
        rows.extend((!me.name.is_empty()).then(|| ("name", me.name.clone())));
        rows.extend((!me.username.is_empty()).then(|| ("username", me.username.clone())));
        rows.push(("roles", if roles.is_empty() { "none".into() } else { roles.join("; ") }));
        rows.extend((me.not_after != 0).then(|| ("until", when(me.not_after))));
        rows.extend((!me.spiffe_id.is_empty()).then(|| ("identity", me.spiffe_id.clone())));
        let line = |(name, value): (&str, String)| format!("{name:<9} {}", crate::operator::one_line(&value));
        rows.into_iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

#[derive(Args)]
pub(crate) struct LoginSettings {
    /// The provider, where there is more than one.
    #[arg(long)]
    provider: Option<String>,
    /// Where to write it (never overwritten) instead of printing it.
    #[arg(long)]
    out: Option<PathBuf>,
}

impl LoginSettings {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let told = context
            .people()
            .await?
            .login_settings(LoginSettingsRequest {})
            .await
            .map_err(|it| refused(&it))?
            .into_inner();
        let names: Vec<&str> = told.providers.iter().map(|it| it.name.as_str()).collect();
        let provider = match (&self.provider, told.providers.as_slice()) {
            (Some(name), all) => all.iter().find(|it| it.name == *name),
            (None, [one]) => Some(one),
            (None, _) => None,
        };
        let Some(provider) = provider else {
            match names.as_slice() {
                [] => {
                    bail!("nobody can log in: operators.oidc of the control plane's configuration is empty")
                }
                names => bail!("name one of the providers with --provider: {}", names.join(", ")),
            }
        };
        // JSON is YAML, and its strings need no thought.
        let text = |value: &str| json!(value).to_string();
        let yaml = format!(
            "# For ~/.config/signet/config.yaml of an operator's machine; nothing of it is secret.\n\
             server: {{bootstrap: {}, mesh: {}}}\ntrustDomain: {}\nrootSha256: {}\ncontrolPlane: {}\n\
             login: {{issuer: {}, clientId: {}, scopes: {}}}\nuse: login\n",
            text(&told.bootstrap_address),
            text(&told.mesh_address),
            text(&told.trust_domain),
            text(&told.root_sha256),
            text(&told.control_plane),
            text(&provider.issuer),
            text(&provider.client_id),
            json!(provider.scopes),
        );
        let json = json!({
            "bootstrap": told.bootstrap_address, "mesh": told.mesh_address, "trust_domain": told.trust_domain,
            "root_sha256": told.root_sha256, "control_plane": told.control_plane, "issuer": provider.issuer,
            "client_id": provider.client_id, "scopes": provider.scopes,
        });
        let Some(out) = &self.out else { return context.show(json, || yaml) };
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(out)
            .with_context(|| format!("creating {}", out.display()))?;
        file.write_all(yaml.as_bytes()).with_context(|| format!("writing {}", out.display()))?;
        context.show(json, || format!("written to {}", out.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["https://signet.example.com:8443", "signet.example.com:8443", "https://[::1]:8443/"] {
            address(good).unwrap();
        }
        for bad in ["http://signet.example.com:8443", "signet.example.com", ":1", "a:0", "https://a:1/path"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_is_trusted_on_first_use() {
        let login = Login {
            server: Some("https://signet.example.com:8443".into()),
            mesh: Some("signet.example.com:8444".into()),
            trust_domain: Some("example.com".into()),
            root_sha256: None,
            issuer: Some("https://login.example.com".into()),
            client_id: Some("signet".into()),
            device: false,
            no_browser: true,
        };
        let Err(error) = Settings::of(&login, &Config::default()) else { panic!("no root is pinned") };
        assert!(error.to_string().contains("--root-sha256"), "{error}");
        let pinned = Login { root_sha256: Some("AB:".repeat(31) + "AB"), ..login };
        let settings = Settings::of(&pinned, &Config::default()).unwrap();
        assert_eq!(settings.control_plane.path(), "/ns/signet-system/sa/signet-control-plane");
    }
}
