//! From this process to what its successor is handed, and back.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use signet_identity::{OwnSvid, SpiffeId, TrustBundle};
use signet_proxy::Running;
use signet_token::Jwks;

use crate::control::plane::ControlPlane;
use crate::credentials::{Credentials, Delivered};
use crate::handover::estate::Header;
use crate::handover::{Estate, EstateError, HandoverError, Origin, Successor, pass_on};
use crate::identity::{Hold, Identity, IdentityError, Term};
use crate::join::{Entry, Place};
use crate::names::Answering;

/// What a process has to leave.
pub struct Will<'a, 'i> {
    /// How it was started.
    pub origin: Option<&'a Origin>,
    /// Who it is.
    pub identity: &'i Identity,
    /// By what.
    pub credentials: &'a Credentials,
    /// Where the control plane is.
    pub plane: &'a Arc<ControlPlane>,
    /// Its mesh listener.
    pub mesh_address: &'a str,
    /// Names of the listeners.
    pub names: &'a [String],
    /// The data plane with their sockets.
    pub running: &'a Running,
    /// The app's name server.
    pub resolving: Option<&'a Answering>,
}

impl<'i> Will<'_, 'i> {
    /// Starts a successor and waits until it accepts. Until the hold is dropped nothing is renewed here.
    pub async fn pass_on(self) -> Result<(Successor, Hold<'i>), HandoverError> {
        let origin = self.origin.ok_or(HandoverError::Ended)?;
        let hold = self.identity.hold().await.ok_or(HandoverError::Renewing)?;
        let estate = self.estate()?;
        Ok((pass_on(origin, estate).await?, hold))
    }

    fn estate(&self) -> Result<Estate, HandoverError> {
        let (Some(tls), Some(term)) = (self.credentials.current(), self.identity.term()) else {
            return Err(HandoverError::NoCertificate);
        };
        let own = tls.generation.own();
        let mut listeners: Vec<_> = self.names.iter().cloned().zip(self.running.sockets()?).collect();
        if let Some(resolving) = self.resolving {
            listeners.extend(resolving.sockets()?);
        }
        let mut header =
            Header::new(own.svid().id.to_string(), self.mesh_address.to_owned(), self.plane.id().to_string());
        header.bundle_sequence = self.credentials.bundle_sequence();
        (header.issued_at, header.renew_at) = (term.issued_at, term.renew_at);
        header.listeners = listeners.iter().map(|(name, sockets)| (name.clone(), sockets.len())).collect();
        let bundle = tls.generation.bundles().get(self.credentials.domain());
        let roots = bundle.ok_or(HandoverError::NoCertificate)?.roots().map(|root| root.to_vec()).collect();
        Ok(Estate {
            header,
            key: own.private_key_pkcs8().clone(),
            chain: own.chain().iter().map(|der| der.to_vec()).collect(),
            roots,
            sockets: listeners.into_iter().flat_map(|(_, sockets)| sockets).collect(),
        })
    }
}

/// Where a successor goes on that joined with a bundle.
pub fn place(header: &Header) -> Result<Entry, EstateError> {
    let id = |text: &str| {
        SpiffeId::parse(text).map_err(|error| EstateError::Malformed(format!("{text:?}: {error}")))
    };
    Ok(Entry::Successor(Place {
        spiffe_id: id(&header.spiffe_id)?,
        control_plane: id(&header.control_plane)?,
        mesh_address: header.mesh_address.clone(),
    }))
}

/// Goes on with what was handed over.
pub fn take_over(identity: &Identity, estate: Option<Estate>) -> Result<Term, IdentityError> {
    let Some(Estate { header, key, chain, roots, .. }) = estate else {
        return Err(IdentityError::Answer("nothing was handed over".to_owned()));
    };
    let own = OwnSvid::new(chain.into_iter().map(CertificateDer::from).collect(), key)?;
    let domain = own.svid().id.trust_domain().clone();
    let bundle = TrustBundle::new(domain, roots.iter().map(|der| CertificateDer::from(der.as_slice())))
        .map_err(|error| IdentityError::Answer(error.to_string()))?;
    // What is tainted, and the keys of tokens, come with the first delivery.
    let delivered = Delivered {
        bundle,
        sequence: header.bundle_sequence,
        tainted: Vec::new(),
        jwt_keys: Jwks::default(),
    };
    let term = Term { issued_at: header.issued_at, not_after: 0, renew_at: header.renew_at };
    identity.inherit(own, delivered, term)
}
