//! The documents, as they are served. Nothing is made twice: what did not change is handed out again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ring::digest::{SHA256, digest};
use signet_ca::Authority;
use signet_identity::{BundleError, KeyId, TrustBundle};
use signet_token::{Jwks, JwksError};

/// A document and what it is recognised by.
#[derive(Debug, Clone)]
pub struct Page {
    pub content_type: &'static str,
    pub body: Bytes,
    /// A strong entity tag (RFC 9110, section 8.8.3), quotes included.
    pub etag: String,
}

impl Page {
    fn new(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let sum = digest(&SHA256, &body);
        let etag: String = sum.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self { content_type, body, etag: format!("\"{etag}\"") }
    }
}

/// Why there is no bundle to serve.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    #[error(transparent)]
    Roots(#[from] BundleError),
    #[error("the keys of JWT-SVIDs: {0}")]
    Keys(#[from] JwksError),
}

/// What the authority says of itself to other trust domains.
struct Published {
    roots: TrustBundle,
    /// Keys that sign JWT-SVIDs. Those for transaction tokens never leave the mesh, and are not among them.
    jwt: Jwks,
    sequence: u64,
}

impl Published {
    /// The one place that asks the authority.
    fn of(authority: &Authority) -> Result<Self, PageError> {
        let said = authority.published().borrow().clone();
        let domain = authority.control_plane_id().trust_domain().clone();
        Ok(Self {
            roots: TrustBundle::new(domain, said.roots.clone())?,
            jwt: Jwks::parse(&said.jwt_keys)?,
            sequence: said.sequence,
        })
    }

    fn is_what(&self, seen: &Seen) -> bool {
        self.sequence == seen.sequence
            && self.roots.digests().eq(seen.roots.iter().copied())
            && self.jwt == seen.jwt
    }
}

/// What the page at hand was made of.
struct Seen {
    roots: Vec<KeyId>,
    jwt: Jwks,
    sequence: u64,
    page: Arc<Page>,
}

/// The pages of one authority.
pub struct Pages {
    authority: Authority,
    refresh_hint: Duration,
    seen: Mutex<Option<Seen>>,
}

impl Pages {
    #[must_use]
    pub fn new(authority: Authority, refresh_hint: Duration) -> Arc<Self> {
        Arc::new(Self { authority, refresh_hint, seen: Mutex::new(None) })
    }

    /// The bundle document as of now.
    ///
    /// # Errors
    /// When the authority's own roots are none, or its keys unreadable.
    pub fn bundle(&self) -> Result<Arc<Page>, PageError> {
        let published = Published::of(&self.authority)?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = seen.as_ref().filter(|seen| published.is_what(seen)) {
            return Ok(Arc::clone(&seen.page));
        }
        let text =
            signet_bundle::write(&published.roots, &published.jwt, published.sequence, self.refresh_hint);
        let page = Arc::new(Page::new("application/json", text));
        *seen = Some(Seen {
            roots: published.roots.digests().collect(),
            jwt: published.jwt,
            sequence: published.sequence,
            page: Arc::clone(&page),
        });
        Ok(page)
    }

    /// The revocation list of an issuer, by its serial number in hex.
    #[must_use]
    pub fn crl(&self, issuer: &str) -> Option<Page> {
        let lists = self.authority.crls().borrow().clone();
        let list = lists.iter().find(|list| list.issuer.to_string() == issuer)?;
        Some(Page::new("application/pkix-crl", list.der.clone()))
    }
}
