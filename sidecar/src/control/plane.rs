//! The control plane as we see it: one identity at one address, over one shared connection.
//!
//! [`ControlPlane::link`] gives the open connection, or dials one under the current credentials. After a
//! rotation the next caller gets a new connection; the old one ends with its last user.

use std::sync::Arc;

use signet_identity::{SpiffeId, server_name};
use tokio::sync::Mutex;

use super::link::{Link, LinkError, Target};
use crate::credentials::Credentials;

/// See the module's story.
pub struct ControlPlane {
    address: String,
    id: SpiffeId,
    credentials: Arc<Credentials>,
    open: Mutex<Option<(u64, Link)>>,
}

/// Why a call cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PlaneError {
    /// We have no certificate to show.
    #[error("there is no certificate yet to show to the control plane")]
    Nobody,
    /// No connection.
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl ControlPlane {
    /// The control plane `id` at `host:port`.
    pub fn new(address: String, id: SpiffeId, credentials: Arc<Credentials>) -> Arc<Self> {
        Arc::new(Self { address, id, credentials, open: Mutex::new(None) })
    }

    /// Where it is.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Who it is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// A connection under the current credentials, and the number of their generation.
    pub async fn link(&self) -> Result<(u64, Link), PlaneError> {
        let mut open = self.open.lock().await;
        let tls = self.credentials.current().ok_or(PlaneError::Nobody)?;
        let number = tls.generation.number();
        if let Some((of, link)) = &*open
            && *of == number
            && !link.is_closed()
        {
            return Ok((number, link.clone()));
        }
        *open = None;
        let (credentials, id) = (self.credentials.clone(), self.id.clone());
        let target = Target {
            address: self.address.clone(),
            server_name: server_name(&self.id),
            tls: tls.generation.control_plane_client_config(),
            check: Arc::new(move |certificates| credentials.check_control_plane(certificates, &id)),
            told: self.credentials.told(),
        };
        let dialled = Link::dial(&target).await;
        if dialled.is_err() {
            // A session that fails its check after resumption must not be tried again.
            tls.generation.forget_sessions(&self.id);
        }
        let link = dialled?;
        *open = Some((number, link.clone()));
        Ok((number, link))
    }
}
