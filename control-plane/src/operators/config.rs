//! `operators:` of `control-plane.yaml`: with whom people log in, and what each may do.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use signet_model::Label;
use signet_token::RelyingParty;

use super::roles::{Binding, Role, Roles};
use super::table::TABLE;

/// An hour: who left a company in the morning is out by the next.
pub const MAX_SESSION_SECONDS: u64 = 3_600;
pub const MIN_SESSION_SECONDS: u64 = 300;
/// For development: long enough to type a command.
pub const MIN_DEV_SESSION_SECONDS: u64 = 10;

/// The section, checked.
#[derive(Debug, Clone)]
pub struct Operators {
    pub providers: Vec<Provider>,
    pub roles: Roles,
    /// Life of a certificate of class `operator`.
    pub session: Duration,
    /// Names of calls that need a second person.
    pub second_person: BTreeSet<&'static str>,
}

impl Default for Operators {
    fn default() -> Self {
        Self {
            providers: Vec::new(),
            roles: Roles::default(),
            session: Duration::from_secs(MAX_SESSION_SECONDS),
            second_person: BTreeSet::new(),
        }
    }
}

/// Somebody who says who people are.
#[derive(Debug, Clone)]
pub struct Provider {
    pub name: String,
    pub party: RelyingParty,
    /// Absent: discovery.
    pub jwks_uri: Option<String>,
    /// Asked for beside `openid`; for the machines of operators.
    pub scopes: Vec<String>,
}

impl Provider {
    /// Its name among the issuers whose keys are fetched; those of the registry have no `/`.
    #[must_use]
    pub fn alias(&self) -> String {
        format!("operators/{}", self.name)
    }
}

/// The section as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct RawOperators {
    oidc: Vec<RawProvider>,
    roles: Vec<RawBinding>,
    session_seconds: u64,
    second_person: Vec<String>,
}

impl Default for RawOperators {
    fn default() -> Self {
        Self {
            oidc: Vec::new(),
            roles: Vec::new(),
            session_seconds: MAX_SESSION_SECONDS,
            second_person: Vec::new(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawProvider {
    name: String,
    issuer: String,
    client_id: String,
    jwks_uri: Option<String>,
    #[serde(default)]
    algorithms: Vec<String>,
    #[serde(default = "email")]
    username_claim: String,
    groups_claim: Option<String>,
    #[serde(default = "email_and_profile")]
    scopes: Vec<String>,
}

fn email() -> String {
    "email".into()
}

fn email_and_profile() -> Vec<String> {
    vec!["email".into(), "profile".into()]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBinding {
    role: Role,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    uids: Vec<u32>,
}

type Refused = (&'static str, String);

/// What else of the file decides.
pub(crate) struct Surroundings<'a> {
    pub(crate) dev: bool,
    pub(crate) allow_http: bool,
    /// Who may come to the socket; empty means the own uid, which is not known here.
    pub(crate) uids: &'a [u32],
}

impl RawOperators {
    pub(crate) fn check(self, around: &Surroundings<'_>) -> Result<Operators, Refused> {
        let providers =
            self.oidc.into_iter().map(|raw| raw.check(around.allow_http)).collect::<Result<Vec<_>, _>>()?;
        for (at, provider) in providers.iter().enumerate() {
            let before = providers.iter().take(at);
            if before.clone().any(|it| it.name == provider.name) {
                return Err(("operators.oidc", format!("the name `{}` stands twice", provider.name)));
            }
            if before.clone().any(|it| it.party.issuer == provider.party.issuer) {
                let issuer = &provider.party.issuer;
                return Err(("operators.oidc", format!("the issuer `{issuer}` stands twice")));
            }
        }
        let names: BTreeSet<&str> = providers.iter().map(|it| it.name.as_str()).collect();
        let roles = self
            .roles
            .into_iter()
            .map(|raw| raw.check(&names, around.uids))
            .collect::<Result<Vec<_>, _>>()?;
        let least = if around.dev { MIN_DEV_SESSION_SECONDS } else { MIN_SESSION_SECONDS };
        let session = self.session_seconds;
        if !(least..=MAX_SESSION_SECONDS).contains(&session) {
            return Err((
                "operators.sessionSeconds",
                format!("expected {least} to {MAX_SESSION_SECONDS} seconds, found {session}"),
            ));
        }
        let second_person = self.second_person.iter().map(|name| waiting(name)).collect::<Result<_, _>>()?;
        Ok(Operators { providers, roles: Roles(roles), session: Duration::from_secs(session), second_person })
    }
}

fn waiting(name: &str) -> Result<&'static str, Refused> {
    let known = TABLE.iter().filter(|row| row.can_wait()).map(|row| row.name);
    known.clone().find(|known| *known == name).ok_or_else(|| {
        let known: Vec<&str> = known.collect();
        ("operators.secondPerson", format!("expected some of {}, found `{name}`", known.join(", ")))
    })
}

impl RawProvider {
    fn check(self, allow_http: bool) -> Result<Provider, Refused> {
        let _: Label =
            self.name.parse().map_err(|e: signet_model::Invalid| ("operators.oidc.name", e.to_string()))?;
        let web = |url: &str| {
            let rest = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
                (Some(rest), _) => rest,
                (_, Some(rest)) if allow_http => rest,
                _ => return false,
            };
            !rest.is_empty() && !rest.starts_with('/') && url.bytes().all(|b| b.is_ascii_graphic())
        };
        for (field, url) in [
            ("operators.oidc.issuer", Some(&self.issuer)),
            ("operators.oidc.jwksUri", self.jwks_uri.as_ref()),
        ] {
            if let Some(url) = url.filter(|url| !web(url)) {
                let hint = "(http only with `dev: true` and issuers.allowHttp)";
                return Err((field, format!("expected an https URL {hint}, found `{url}`")));
            }
        }
        let plain = |text: &str| !text.is_empty() && text.len() <= 256 && !text.chars().any(char::is_control);
        for (field, text) in [
            ("operators.oidc.clientId", Some(&self.client_id)),
            ("operators.oidc.usernameClaim", Some(&self.username_claim)),
            ("operators.oidc.groupsClaim", self.groups_claim.as_ref()),
        ] {
            if let Some(text) = text.filter(|text| !plain(text)) {
                return Err((field, format!("expected 1 to 256 characters, found {text:?}")));
            }
        }
        // RFC 6749, section 3.3.
        let scope = |text: &String| {
            !text.is_empty() && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
        };
        if let Some(bad) = self.scopes.iter().find(|text| !scope(text)) {
            return Err(("operators.oidc.scopes", format!("expected scopes of OAuth 2.0, found {bad:?}")));
        }
        let party = RelyingParty::new(
            self.issuer,
            self.client_id,
            &self.algorithms,
            self.username_claim,
            self.groups_claim,
        )
        .map_err(|e| ("operators.oidc.algorithms", e.to_string()))?;
        Ok(Provider { name: self.name, party, jwks_uri: self.jwks_uri, scopes: self.scopes })
    }
}

impl RawBinding {
    fn check(self, providers: &BTreeSet<&str>, uids: &[u32]) -> Result<Binding, Refused> {
        let bound = self.role == Role::NamespaceOperator;
        if bound == self.namespaces.is_empty() {
            let expected = if bound { "at least one" } else { "none: only namespace-operator has them" };
            return Err(("operators.roles.namespaces", format!("expected {expected}, for {}", self.role)));
        }
        for namespace in &self.namespaces {
            let _: Label = namespace
                .parse()
                .map_err(|e: signet_model::Invalid| ("operators.roles.namespaces", e.to_string()))?;
        }
        if self.users.is_empty() && self.groups.is_empty() && self.uids.is_empty() {
            return Err((
                "operators.roles",
                format!("the role {} names nobody: expected users, groups or uids", self.role),
            ));
        }
        for (field, names) in
            [("operators.roles.users", &self.users), ("operators.roles.groups", &self.groups)]
        {
            for name in names {
                let provider = name.split_once('|').filter(|(_, name)| !name.is_empty());
                if !provider.is_some_and(|(provider, _)| providers.contains(provider)) {
                    return Err((
                        field,
                        format!(
                            "expected <provider>|<name> with a provider of operators.oidc, found {name:?}"
                        ),
                    ));
                }
            }
        }
        if let Some(uid) = self.uids.iter().find(|uid| !uids.is_empty() && !uids.contains(uid)) {
            return Err((
                "operators.roles.uids",
                format!("{uid} is not in operator.uids, so that it could not connect"),
            ));
        }
        let set = |names: Vec<String>| names.into_iter().collect();
        Ok(Binding {
            role: self.role,
            namespaces: set(self.namespaces),
            users: set(self.users),
            groups: set(self.groups),
            uids: self.uids.into_iter().collect(),
        })
    }
}
