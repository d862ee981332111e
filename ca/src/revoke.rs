//! Revocation: what must not be believed any more although it has not ended.
//!
//! A revocation is kept until what it names has ended by itself; that of an identity or an instance until an operator
//! lifts it. A lineage (one join token and all renewals that follow from it) or an instance (one attested pod) is
//! revoked with every certificate that it has: those travel as serials, so that whoever understands serials understands
//! it. Whatever revokes a gateway revokes the keys that it mints with: it makes others when it is let in again. The whole set has a number that only grows (with the clock, so that it does so across the restore
//! of a backup), and every change is published on a watch channel
//! for delivery to the sidecars.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use signet_identity::{KeyId, RevocationSet, Serial, SpiffeId};
use signet_token::RevokedUsers;
use tokio::sync::watch;

use crate::authorise::Stop;
use crate::authority::{Authority, Caller, Inner};
use crate::config::{MAX_SVID_TTL, seconds};
use crate::error::AuthorityError;
use crate::record::{Entry, Event};
use crate::refusal::Refusal;
use crate::store::{RevocationKind, RevocationRow, Store, StoreError, Writer, member_serial};

/// A delegation lives an hour at most, and is believed a little longer by a clock that is behind.
const DELEGATION: i64 = 2 * 3600;

/// How long a user's credential may live, unless its Issuer says otherwise (`maxLifetime`).
const CREDENTIAL: i64 = 24 * 3600;
/// By how much clocks may differ at both of its ends.
const SKEW: i64 = 120;

/// What is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocation {
    Serial(Serial),
    Identity(SpiffeId),
    /// SHA-256 of the SubjectPublicKeyInfo.
    Key(KeyId),
    /// RFC 7638 thumbprint of a gateway's delegated key.
    Delegation(String),
    /// A chain of renewals, with those of its certificates that are still valid.
    Lineage(LineageId),
    /// What was attested, likewise.
    Instance(InstanceName),
    /// A user, whatever they sign in with.
    User(UserName),
    /// What was issued to a user until now.
    Logout(UserName),
    /// A session, by its issuer's `sid`.
    Session(UserName),
    /// An access token, by its issuer's `jti`.
    Token(UserName),
}

/// A chain of renewals, as the issuance log names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LineageId([u8; 16]);

impl LineageId {
    pub(crate) fn of(id: [u8; 16]) -> LineageId {
        LineageId(id)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for LineageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// `<alias>|<name>`: what the Issuer of that alias calls a user, a session or a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UserName {
    text: String,
    lifetime: i64,
}

impl UserName {
    /// As long as the subject of a transaction token may be.
    const MAX: usize = 1024;

    /// The Issuer's alias.
    pub fn alias(&self) -> &str {
        self.text.split_once('|').map_or("", |(alias, _)| alias)
    }

    /// Its Issuer's credentials live so many seconds at most: as long a revocation has to stand.
    #[must_use]
    pub fn of_issuer(self, lifetime: i64) -> Self {
        Self { lifetime, ..self }
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for UserName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_alias = |alias: &str| {
            !alias.is_empty()
                && alias.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/'))
        };
        let named = text.split_once('|').is_some_and(|(alias, name)| is_alias(alias) && !name.is_empty());
        match named && text.len() <= UserName::MAX && !text.chars().any(char::is_control) {
            true => Ok(UserName { text: text.to_owned(), lifetime: CREDENTIAL }),
            false => Err(NameError::User(text.chars().take(64).collect())),
        }
    }
}

/// Why a text names no lineage, instance or user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("expected a lineage as 32 hex digits, as `signet ca log` shows it, got {0:?}")]
    Lineage(String),
    #[error(
        "expected an instance as <cluster>/<pod uid>, as in the log's words on an attested pod, got {0:?}"
    )]
    Instance(String),
    #[error(
        "expected <alias of an Issuer>|<its sub, sid or jti>, 1024 bytes at most and no control characters, got {0:?}"
    )]
    User(String),
}

impl FromStr for LineageId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = || NameError::Lineage(text.chars().take(64).collect());
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        u128::from_str_radix(text, 16).map(|number| LineageId(number.to_be_bytes())).map_err(|_| bad())
    }
}

/// What was attested, `<cluster>/<pod uid>`: the same from one of its certificates to the next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InstanceName(String);

impl InstanceName {
    /// Longer than the name of a cluster and a UID together.
    const MAX: usize = 512;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InstanceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let named =
            text.rsplit_once('/').is_some_and(|(cluster, uid)| !cluster.is_empty() && !uid.is_empty());
        match named && text.len() <= InstanceName::MAX && text.bytes().all(|b| b.is_ascii_graphic()) {
            true => Ok(InstanceName(text.to_owned())),
            false => Err(NameError::Instance(text.chars().take(64).collect())),
        }
    }
}

impl Revocation {
    fn row(&self) -> (RevocationKind, Vec<u8>) {
        match self {
            Revocation::Serial(serial) => (RevocationKind::Serial, serial.as_bytes().to_vec()),
            Revocation::Identity(id) => (RevocationKind::Identity, id.as_str().as_bytes().to_vec()),
            Revocation::Key(key) => (RevocationKind::Key, key.as_bytes().to_vec()),
            Revocation::Delegation(thumbprint) => {
                (RevocationKind::Delegation, thumbprint.as_bytes().to_vec())
            }
            Revocation::Lineage(LineageId(id)) => (RevocationKind::Lineage, id.to_vec()),
            Revocation::Instance(InstanceName(name)) => (RevocationKind::Instance, name.as_bytes().to_vec()),
            Revocation::User(name) => (RevocationKind::User, name.text.as_bytes().to_vec()),
            Revocation::Logout(name) => (RevocationKind::Logout, name.text.as_bytes().to_vec()),
            Revocation::Session(name) => (RevocationKind::Session, name.text.as_bytes().to_vec()),
            Revocation::Token(name) => (RevocationKind::Token, name.text.as_bytes().to_vec()),
        }
    }

    /// For the log of the process: who a user is stands in the issuance log and nowhere else.
    fn shown(&self) -> String {
        match self {
            Revocation::User(_) => "a user".into(),
            Revocation::Logout(_) => "a logout".into(),
            Revocation::Session(_) => "a session".into(),
            Revocation::Token(_) => "a token".into(),
            other => format!("{other:?}"),
        }
    }
}

/// Everything that is revoked now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Serials (those of revoked lineages and instances among them), identities and keys, with the set's number.
    pub set: Arc<RevocationSet>,
    /// Thumbprints of delegated keys.
    pub delegations: HashSet<String>,
    /// Users, their sessions and tokens.
    pub users: RevokedUsers,
}

impl Revocations {
    pub(crate) async fn load(store: &Store, now: i64) -> Result<Revocations, StoreError> {
        let (sequence, rows) = store.revocations(now).await?;
        let (mut set, mut delegations) = (RevocationSet::new(sequence), HashSet::new());
        let mut users = RevokedUsers::default();
        let corrupt = |what| StoreError::Corrupt { table: "revocations", what };
        for (row, revoked_at) in rows {
            let text = || String::from_utf8(row.value.clone()).map_err(|_| corrupt("text is not UTF-8"));
            match row.kind {
                RevocationKind::Serial => {
                    let serial = Serial::from_bytes(&row.value).map_err(|_| corrupt("a serial is bad"))?;
                    set.serials.insert(serial);
                }
                RevocationKind::Identity => {
                    let id = SpiffeId::parse(&row.value).map_err(|_| corrupt("an identity is bad"))?;
                    set.identities.insert(id);
                }
                RevocationKind::Key => {
                    let hash = row.value.as_slice().try_into().map_err(|_| corrupt("a key's hash is bad"))?;
                    set.keys.insert(KeyId::from_bytes(hash));
                }
                RevocationKind::Delegation => {
                    delegations.insert(text()?);
                }
                RevocationKind::Member => {
                    let serial = member_serial(&row.value).and_then(|it| Serial::from_bytes(it).ok());
                    set.serials.insert(serial.ok_or(corrupt("a member's serial is bad"))?);
                }
                RevocationKind::User => _ = users.users.insert(text()?.into()),
                RevocationKind::Session => _ = users.sessions.insert(text()?.into()),
                RevocationKind::Token => _ = users.tokens.insert(text()?.into()),
                RevocationKind::Logout => {
                    let since = u64::try_from(revoked_at).map_err(|_| corrupt("a moment is negative"))?;
                    users.logouts.insert(text()?.into(), since);
                }
                // Asked for at issuance; whoever else reads the set goes by their members.
                RevocationKind::Lineage | RevocationKind::Instance => {}
            }
        }
        Ok(Revocations { set: Arc::new(set), delegations, users })
    }
}

impl Authority {
    /// Revokes, and returns the number of the new set. The control plane's own identity cannot be revoked:
    /// its certificates and keys can.
    pub async fn revoke(&self, what: Revocation, reason: &str, actor: &str) -> Result<u64, AuthorityError> {
        let (reason, actor) = (reason.to_owned(), actor.to_owned());
        self.act(move |inner| async move {
            let now = inner.clock.unix_seconds();
            let refused = match &what {
                Revocation::Identity(id) if !id.is_in(&inner.rules.trust_domain) => {
                    Some(Refusal::TrustDomain)
                }
                // A person is reserved for the authority to issue to, and may be shut out all the same.
                Revocation::Identity(id) if inner.rules.is_reserved(id) && !inner.rules.is_operator(id) => {
                    Some(Refusal::Reserved)
                }
                Revocation::Delegation(text) if !is_thumbprint(text) => Some(Refusal::Thumbprint),
                _ => None,
            };
            if let Some(refusal) = refused {
                return Err(inner.refuse(Stop::Refused(refusal, None), Caller::Peer, &actor, now).await);
            }
            let (kind, value) = what.row();
            let mut writer = inner.store.begin_alone().await?;
            let lineage = match &what {
                Revocation::Lineage(LineageId(id)) => writer.lineage(id).await?,
                _ => None,
            };
            if lineage.is_none() && kind == RevocationKind::Lineage {
                drop(writer);
                let stop = Stop::Refused(Refusal::LineageUnknown, None);
                return Err(inner.refuse(stop, Caller::Peer, &actor, now).await);
            }
            // Unknown to this store: it may be another replica's, and ends within the longest life.
            let longest = now.saturating_add(seconds(MAX_SVID_TTL));
            let expires_at = match &what {
                Revocation::Identity(_) | Revocation::Instance(_) | Revocation::User(_) => None,
                // Whatever they speak of has ended by then.
                Revocation::Logout(name) | Revocation::Session(name) | Revocation::Token(name) => {
                    Some(now.saturating_add(name.lifetime).saturating_add(SKEW))
                }
                Revocation::Lineage(_) => lineage.as_ref().map(|lineage| lineage.ends_at),
                Revocation::Delegation(_) => Some(now.saturating_add(DELEGATION)),
                Revocation::Serial(serial) => {
                    Some(writer.svid(serial.as_bytes()).await?.map_or(longest, |row| row.not_after))
                }
                Revocation::Key(key) => {
                    Some(writer.key_certified_until(key.as_bytes()).await?.unwrap_or(longest))
                }
            }
            // The last second of its validity still counts.
            .map(|end| end.max(now).saturating_add(1));
            // What an agent vouched for goes with it, whatever its own name.
            let vouched = writer.vouched_for(&what, now).await?;
            for (serial, not_after) in &vouched {
                let row = RevocationRow {
                    kind: RevocationKind::Serial,
                    value: serial.clone(),
                    expires_at: Some(not_after.saturating_add(1)),
                };
                writer.insert_revocation(&row, &reason, now).await?;
            }
            let delegations = end_delegations(&mut writer, &what, &reason, now).await?;
            let row = RevocationRow { kind, value, expires_at };
            writer.insert_revocation(&row, &reason, now).await?;
            let certificates = writer.insert_members(kind, &row.value, &reason, now).await?;
            let sequence = writer.mark_revocations(now).await?;
            let entry = Entry::new(now, Event::Revoked, &actor).because(&reason);
            writer.record(describe(entry, &what)).await?;
            writer.commit().await?;
            inner.metrics.revoked.with_label_values(&[kind.as_str()]).inc();
            tracing::warn!(target: "signet::ca", what = what.shown(), reason, actor, sequence, certificates, vouched_for = vouched.len(), delegations, "revoked");
            inner.publish_revocations(now).await?;
            Ok(sequence)
        })
        .await
    }

    /// Lifts a revocation, and returns the number of the new set; nothing if there was none. A chain of renewals
    /// that ended itself because a key was in two hands stays ended, whatever of it is lifted.
    pub async fn reinstate(
        &self,
        what: Revocation,
        reason: &str,
        actor: &str,
    ) -> Result<Option<u64>, AuthorityError> {
        let (reason, actor) = (reason.to_owned(), actor.to_owned());
        self.act(move |inner| async move {
            let now = inner.clock.unix_seconds();
            let (kind, value) = what.row();
            let mut writer = inner.store.begin_alone().await?;
            if !writer.delete_revocation(kind, &value).await? {
                return Ok(None);
            }
            writer.delete_members(kind, &value).await?;
            let sequence = writer.mark_revocations(now).await?;
            let entry = Entry::new(now, Event::Reinstated, &actor).because(&reason);
            writer.record(describe(entry, &what)).await?;
            writer.commit().await?;
            tracing::warn!(target: "signet::ca", what = what.shown(), reason, actor, sequence, "lifted a revocation");
            inner.publish_revocations(now).await?;
            Ok(Some(sequence))
        })
        .await
    }

    /// The set in force, and each one that follows.
    pub fn revocations(&self) -> watch::Receiver<Arc<Revocations>> {
        self.inner.revocations.subscribe()
    }
}

impl Inner {
    /// Reads the set anew and hands it out, unless a later one already was; then the lists that follow from it.
    pub(crate) async fn publish_revocations(&self, now: i64) -> Result<(), AuthorityError> {
        let fresh = Arc::new(Revocations::load(&self.store, now).await?);
        // Looked at first: what changes nothing waits for nobody who is reading.
        if fresh.set.sequence > self.revocations.borrow().set.sequence {
            self.revocations.send_if_modified(|current| {
                let newer = fresh.set.sequence > current.set.sequence;
                if newer {
                    *current = fresh;
                }
                newer
            });
        }
        self.publish_crls(now).await;
        Ok(())
    }
}

/// Revokes the delegated keys of whoever is revoked by this; how many there were.
pub(crate) async fn end_delegations(
    writer: &mut Writer,
    what: &Revocation,
    reason: &str,
    now: i64,
) -> Result<usize, StoreError> {
    let delegations = writer.delegations_of(what).await?;
    for thumbprint in &delegations {
        let row = RevocationRow {
            kind: RevocationKind::Delegation,
            value: thumbprint.as_bytes().to_vec(),
            expires_at: Some(now.saturating_add(DELEGATION)),
        };
        writer.insert_revocation(&row, reason, now).await?;
    }
    Ok(delegations.len())
}

fn describe(mut entry: Entry, what: &Revocation) -> Entry {
    match what {
        Revocation::Serial(serial) => entry.serial = serial.to_string(),
        Revocation::Identity(id) => entry = entry.about(id.as_str(), ""),
        Revocation::Key(key) => entry.reason = format!("key {key}: {}", entry.reason),
        Revocation::Delegation(thumbprint) => {
            entry.reason = format!("delegation {thumbprint}: {}", entry.reason);
        }
        Revocation::Lineage(lineage) => entry.reason = format!("lineage {lineage}: {}", entry.reason),
        Revocation::Instance(InstanceName(name)) => {
            entry.reason = format!("instance {name}: {}", entry.reason);
        }
        Revocation::User(name) => entry.reason = format!("user {name}: {}", entry.reason),
        Revocation::Logout(name) => entry.reason = format!("logout {name}: {}", entry.reason),
        Revocation::Session(name) => entry.reason = format!("session {name}: {}", entry.reason),
        Revocation::Token(name) => entry.reason = format!("token {name}: {}", entry.reason),
    }
    entry
}

/// SHA-256 in base64url.
fn is_thumbprint(text: &str) -> bool {
    text.len() == 43 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}
