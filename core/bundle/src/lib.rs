//! The SPIFFE bundle document: what one trust domain tells another of its keys.
//!
//! A JWK set (SPIFFE Trust Domain and Bundle, section 4) with a sequence number, a refresh hint, and two uses
//! of keys: `x509-svid` entries carry a root certificate each, `jwt-svid` entries a public key with its `kid`.
//! [`Document::parse`] reads what a stranger serves: sizes are bounded before anything is parsed, no member
//! stands twice, what the standard says to ignore is ignored and counted, and anything else that is not as it
//! should be refuses the document whole. [`write`] makes our own.
//!
//! A document does not say whose it is. The reader does, and every root in it must belong to that trust domain
//! or name none; documents of different trust domains are never merged.
//!
//! Pure: no clock, no files, no sockets.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod document;
mod entry;
mod error;
mod members;

pub use document::{Document, MAX_BYTES, MAX_KEYS, write};
pub use error::{DocumentError, EntryError};
