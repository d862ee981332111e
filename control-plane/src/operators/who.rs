//! Who calls: a uid by the kernel's word, or the person behind a certificate of class `operator`.

use std::net::IpAddr;

use signet_ca::{Authority, Person};
use signet_identity::{PeerClass, Serial, SpiffeId};
use tonic::Status;

use super::roles::{Roles, Standing};
use crate::listen::mesh;
use crate::listen::unix;

/// The caller of one call.
#[derive(Debug, Clone)]
pub struct Who {
    /// `oidc:<provider>|<sub>` or `uid:<n>`: the name in every record.
    pub actor: String,
    pub standing: Standing,
    pub session: Option<Session>,
}

/// How a person who logged in comes.
#[derive(Debug, Clone)]
pub struct Session {
    pub person: Person,
    pub spiffe_id: SpiffeId,
    pub serial: Serial,
    /// Seconds since the epoch.
    pub not_after: i64,
    pub address: IpAddr,
}

impl Who {
    /// By what the door put beside the request.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` for another class, `UNAUTHENTICATED` for a session that the store does not know.
    pub(crate) async fn find(
        extensions: &http::Extensions,
        authority: &Authority,
        roles: &Roles,
    ) -> Result<Self, Status> {
        if let Some(operator) = extensions.get::<unix::Operator>() {
            return Ok(Self {
                actor: format!("uid:{}", operator.uid),
                standing: roles.of_uid(operator.uid),
                session: None,
            });
        }
        let Some(caller) = extensions.get::<mesh::Caller>() else {
            return Err(Status::internal("a call without a caller"));
        };
        let peer = &caller.peer;
        if peer.class() != PeerClass::Operator {
            return Err(Status::permission_denied("this service is for the class operator"));
        }
        let session = authority.operator_session(peer.serial()).await.map_err(|error| {
            tracing::error!(target: "signet::operator", %error, peer = %peer.id(), "a session cannot be read");
            Status::unavailable("the session cannot be looked up now")
        })?;
        let Some(session) = session.filter(|session| session.spiffe_id == *peer.id()) else {
            tracing::warn!(target: "signet::audit", peer = %peer.id(), serial = %peer.serial(), "a session is not known");
            return Err(Status::unauthenticated("the session is not known here: log in again"));
        };
        Ok(Self {
            actor: session.person.actor(),
            standing: roles.of_person(&session.person),
            session: Some(Session {
                person: session.person,
                spiffe_id: session.spiffe_id,
                serial: peer.serial(),
                not_after: peer.not_after(),
                address: caller.address.ip().to_canonical(),
            }),
        })
    }

    /// For people to read; empty on the socket.
    #[must_use]
    pub fn name(&self) -> &str {
        let person = self.session.as_ref().map(|session| &session.person);
        person.and_then(|person| person.name.as_deref().or(person.username.as_deref())).unwrap_or_default()
    }

    /// Where the call comes from.
    #[must_use]
    pub fn source(&self) -> String {
        self.session.as_ref().map_or_else(|| "the socket".into(), |session| session.address.to_string())
    }
}
