//! Chains of calls: who had a transaction from whom, and whether that can be.
//!
//! Sidecars tell which transactions came in and from whom ([`signet_proto::v1::Hops`]). [`stitch`] makes a chain of what
//! is told of one: a caller must have received what it brought, or be the one for whom its token was minted. Who has not
//! is flagged, once whatever could still prove it is here ([`reporters`]): nothing is flagged while a report is
//! missing, and then it is said which. [`judge`] does that when the time has come, [`store`] keeps what was told within
//! bounds.
//!
//! What it proves: of two sidecars one does not tell the truth, or one has not told. Either may be in wrong hands.

pub mod judge;
mod reporters;
pub mod shown;
mod stitch;
mod store;

pub use store::{Call, Chains, Got, Telling};

/// Clocks inside the mesh may differ by five seconds, and so may each of two sidecars' from ours.
pub(crate) const SKEW_MS: i64 = 5_000;
