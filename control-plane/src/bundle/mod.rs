//! What this trust domain publishes of itself: its bundle, and the revocation lists of its issuers.
//!
//! A SPIFFE bundle endpoint (SPIFFE Federation, section 5): strangers fetch a public document over TLS, which
//! proves to them where it came from. [`page`] makes the documents, [`certificate`] keeps the certificate that
//! is presented, [`door`] serves.

pub mod certificate;
pub mod door;
pub mod page;
