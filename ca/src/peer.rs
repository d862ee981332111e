//! Acts of peers: of whoever asks by a certificate that was issued here.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use crate::authorise::Stop;
use crate::authority::{Authority, Caller, Inner};
use crate::error::AuthorityError;

/// Who asks. The caller's TLS has verified its certificate and that it holds the key.
pub(crate) struct Peer {
    /// The leaf that it presented.
    pub(crate) leaf: CertificateDer<'static>,
    /// Its identity as the leaf says; for the record only.
    pub(crate) actor: String,
    /// When it asked, in seconds since the epoch.
    pub(crate) now: i64,
}

impl Authority {
    /// Runs an act of the peer that presented this leaf to its end, whatever becomes of the caller, and records it under
    /// its name if it is refused.
    pub(crate) async fn act_of_peer<T, F>(
        &self,
        presented: &CertificateDer<'_>,
        act: impl FnOnce(Arc<Inner>, Arc<Peer>) -> F + Send + 'static,
    ) -> Result<T, AuthorityError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Stop>> + Send + 'static,
    {
        let leaf = presented.clone().into_owned();
        self.act(move |inner| async move {
            let actor = signet_identity::Svid::parse(std::slice::from_ref(&leaf))
                .map_or_else(|_| "a peer without a readable SVID".to_owned(), |svid| svid.id.to_string());
            let peer = Arc::new(Peer { leaf, actor, now: inner.clock.unix_seconds() });
            match act(Arc::clone(&inner), Arc::clone(&peer)).await {
                Ok(done) => Ok(done),
                Err(stop) => Err(inner.refuse(stop, Caller::Peer, &peer.actor, peer.now).await),
            }
        })
        .await
    }
}
