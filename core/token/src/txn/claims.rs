//! What a transaction token says, and its JSON.

use serde_json::{Map, Value};

use crate::claims::{ClaimError, Claims};
use crate::revoked::Subject;

/// A transaction token's claims.
#[derive(Debug, Clone, PartialEq)]
pub struct TxnClaims {
    pub issuer: String,
    /// The trust domain; accepted nowhere else.
    pub audience: String,
    /// Seconds since the epoch, as are all dates here.
    pub issued_at: u64,
    pub expires_at: u64,
    /// The transaction's id, a UUID; the same for every call made on its behalf.
    pub txn: String,
    /// `<alias>|<sub>`.
    pub subject: String,
    /// Space-separated, at most what the caller's credential had.
    pub scope: String,
    /// The SPIFFE ID of the workload that asked for it.
    pub req_wl: String,
    /// Who acts for the subject, where that is somebody else (`act`, RFC 8693 section 4.1).
    pub actor: Option<Actor>,
    pub tctx: Tctx,
    pub rctx: Rctx,
}

/// A user who acts for another one, and what a revocation may name of the actor's own credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// `<alias>|<sub>`.
    pub subject: String,
    pub session_id: Option<String>,
    pub src_jti: Option<String>,
    pub src_iat: Option<u64>,
}

/// What the transaction is about.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tctx {
    pub route: String,
    pub method: String,
    /// The caller's claims that the route's allow-list names.
    pub claims: Map<String, Value>,
    /// What a workload that began the transaction by itself says of it (`request_details`). The mesh believes none of it.
    pub details: Map<String, Value>,
}

/// How its caller was known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rctx {
    /// The kind of credential: `jwt`, …
    pub cred: String,
    /// A digest that names the credential in logs, never the credential.
    pub cred_id: Option<String>,
    /// The outside issuer's identifier.
    pub issuer: Option<String>,
    pub client_id: Option<String>,
    /// When the caller's own credential ends. The token never outlives it.
    pub src_exp: Option<u64>,
    /// When it was issued; a credential that does not say so is older than any logout.
    pub src_iat: Option<u64>,
    /// What its issuer calls it (`jti`).
    pub src_jti: Option<String>,
    pub acr: Option<String>,
    pub amr: Vec<String>,
    pub auth_time: Option<u64>,
    pub session_id: Option<String>,
    pub req_ip: Option<String>,
    /// When the transaction began, in a token that replaced another one.
    pub began: Option<u64>,
    /// The `req_wl` of the tokens before this one, the first first.
    pub via: Vec<String>,
}

impl Actor {
    /// Who acts, by the token that the actor itself is known by.
    pub fn of(token: &TxnClaims) -> Actor {
        Actor {
            subject: token.subject.clone(),
            session_id: token.rctx.session_id.clone(),
            src_jti: token.rctx.src_jti.clone(),
            src_iat: token.rctx.src_iat,
        }
    }

    /// The part of its name before the bar.
    pub fn alias(&self) -> &str {
        self.subject.split_once('|').map_or("", |(alias, _)| alias)
    }

    /// Whom a revocation may name.
    pub fn revocable(&self) -> Subject {
        Subject {
            user: self.subject.clone(),
            session: self.session_id.clone(),
            token: self.src_jti.clone(),
            issued_at: self.src_iat.unwrap_or_default(),
        }
    }

    fn to_json(&self) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("sub".into(), self.subject.as_str().into());
        for (name, value) in [("sid", &self.session_id), ("src_jti", &self.src_jti)] {
            if let Some(value) = value {
                map.insert(name.into(), value.as_str().into());
            }
        }
        if let Some(at) = self.src_iat {
            map.insert("src_iat".into(), at.into());
        }
        map
    }

    /// Earlier actors inside this one decide nothing (RFC 8693, section 4.1), and we write none.
    fn read(claims: Claims<'_>) -> Result<Actor, ClaimError> {
        let text = |name| claims.text(name).map(|value| value.map(str::to_owned));
        Ok(Actor {
            subject: claims.required_text("sub")?.to_owned(),
            session_id: text("sid")?,
            src_jti: text("src_jti")?,
            src_iat: claims.date("src_iat")?,
        })
    }
}

impl TxnClaims {
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.scope.split(' ').filter(|s| !s.is_empty())
    }

    /// Until when (seconds, exclusive) it is good, with the mesh's leeway.
    pub fn good_until(&self) -> u64 {
        self.expires_at.saturating_add(super::LEEWAY)
    }

    /// Whom a revocation may name.
    pub fn revocable(&self) -> Subject {
        Subject {
            user: self.subject.clone(),
            session: self.rctx.session_id.clone(),
            token: self.rctx.src_jti.clone(),
            issued_at: self.rctx.src_iat.unwrap_or_default(),
        }
    }

    /// The part of `sub` before the bar: which issuer knows this subject.
    pub fn alias(&self) -> &str {
        self.subject.split_once('|').map_or("", |(alias, _)| alias)
    }

    /// As it stands in a token.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut tctx = Map::new();
        tctx.insert("route".into(), self.tctx.route.as_str().into());
        if !self.tctx.method.is_empty() {
            tctx.insert("method".into(), self.tctx.method.as_str().into());
        }
        if !self.tctx.claims.is_empty() {
            tctx.insert("claims".into(), Value::Object(self.tctx.claims.clone()));
        }
        if !self.tctx.details.is_empty() {
            tctx.insert("details".into(), Value::Object(self.tctx.details.clone()));
        }
        let mut map = Map::new();
        if let Some(actor) = &self.actor {
            map.insert("act".into(), Value::Object(actor.to_json()));
        }
        map.insert("iss".into(), self.issuer.as_str().into());
        map.insert("aud".into(), self.audience.as_str().into());
        map.insert("iat".into(), self.issued_at.into());
        map.insert("exp".into(), self.expires_at.into());
        map.insert("txn".into(), self.txn.as_str().into());
        map.insert("sub".into(), self.subject.as_str().into());
        map.insert("scope".into(), self.scope.as_str().into());
        map.insert("req_wl".into(), self.req_wl.as_str().into());
        map.insert("tctx".into(), Value::Object(tctx));
        map.insert("rctx".into(), Value::Object(self.rctx.to_json()));
        map
    }

    /// Reads what [`TxnClaims::to_json`] wrote. Nothing is verified here.
    pub fn from_json(map: &Map<String, Value>) -> Result<TxnClaims, ClaimError> {
        TxnClaims::read(Claims(map))
    }

    pub(crate) fn read(claims: Claims<'_>) -> Result<TxnClaims, ClaimError> {
        let owned = |text: &str| text.to_owned();
        Ok(TxnClaims {
            issuer: claims.required_text("iss").map(owned)?,
            // A string only: a token for several audiences would be accepted elsewhere.
            audience: claims.required_text("aud").map(owned)?,
            issued_at: claims.required_date("iat")?,
            expires_at: claims.required_date("exp")?,
            txn: claims.required_text("txn").map(owned)?,
            subject: claims.required_text("sub").map(owned)?,
            scope: scope(claims)?,
            req_wl: claims.required_text("req_wl").map(owned)?,
            actor: match claims.has("act") {
                true => Some(Actor::read(claims.object("act")?)?),
                false => None,
            },
            tctx: Tctx::read(claims.object("tctx")?)?,
            rctx: Rctx::read(claims.object("rctx")?)?,
        })
    }
}

/// Required, and may be empty: a user without scopes is a user.
fn scope(claims: Claims<'_>) -> Result<String, ClaimError> {
    match claims.0.get("scope") {
        Some(Value::String(text)) => Ok(text.clone()),
        None => Err(ClaimError::Missing { claim: "scope" }),
        Some(other) => Err(ClaimError::Type {
            claim: "scope",
            expected: "a string of scopes separated by spaces",
            found: crate::claims::kind(other),
        }),
    }
}

impl Tctx {
    fn read(claims: Claims<'_>) -> Result<Tctx, ClaimError> {
        let object = |name| match claims.has(name) {
            true => claims.object(name).map(|object| object.0.clone()),
            false => Ok(Map::new()),
        };
        Ok(Tctx {
            route: claims.required_text("route")?.to_owned(),
            method: claims.text("method")?.unwrap_or_default().to_owned(),
            claims: object("claims")?,
            details: object("details")?,
        })
    }
}

impl Rctx {
    fn to_json(&self) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("cred".into(), self.cred.as_str().into());
        let texts = [
            ("cred_id", &self.cred_id),
            ("iss", &self.issuer),
            ("client_id", &self.client_id),
            ("acr", &self.acr),
            ("sid", &self.session_id),
            ("src_jti", &self.src_jti),
            ("req_ip", &self.req_ip),
        ];
        for (name, value) in texts {
            if let Some(value) = value {
                map.insert(name.into(), value.as_str().into());
            }
        }
        let dates = [
            ("src_exp", self.src_exp),
            ("src_iat", self.src_iat),
            ("auth_time", self.auth_time),
            ("began", self.began),
        ];
        for (name, value) in dates {
            if let Some(value) = value {
                map.insert(name.into(), value.into());
            }
        }
        if !self.amr.is_empty() {
            map.insert("amr".into(), self.amr.clone().into());
        }
        if !self.via.is_empty() {
            map.insert("via".into(), self.via.clone().into());
        }
        map
    }

    fn read(claims: Claims<'_>) -> Result<Rctx, ClaimError> {
        let text = |name| claims.text(name).map(|value| value.map(str::to_owned));
        Ok(Rctx {
            cred: claims.required_text("cred")?.to_owned(),
            cred_id: text("cred_id")?,
            issuer: text("iss")?,
            client_id: text("client_id")?,
            src_exp: claims.date("src_exp")?,
            src_iat: claims.date("src_iat")?,
            src_jti: text("src_jti")?,
            acr: text("acr")?,
            amr: claims.list("amr")?.into_iter().map(str::to_owned).collect(),
            auth_time: claims.date("auth_time")?,
            session_id: text("sid")?,
            req_ip: text("req_ip")?,
            began: claims.date("began")?,
            via: claims.list("via")?.into_iter().map(str::to_owned).collect(),
        })
    }
}
