//! Whether a request may pass, and why: compile, decide, explain.
//!
//! A [`PolicySet`] holds every [`MeshPolicy`](signet_model::MeshPolicy) that targets one service.
//! [`PolicySet::decide`] is asked for each request (and each opaque connection) and allocates nothing;
//! [`PolicySet::explain`] is asked for the few decisions that somebody will want to understand. Both walk
//! the same conditions, in `condition.rs`, so that an explanation cannot tell another story than the
//! decision did.
//!
//! # What a policy means
//!
//! 1. Nothing is permitted unless a permit matches (or the mesh's default is `allow`), and no permit helps
//!    where a forbid matches. The order of policies never matters.
//! 2. A policy matches when each of its conditions holds: `from`, `user` (scopes, claims, credential,
//!    context) and `to` (ports, and an HTTP request or a gRPC call).
//! 3. A condition on something that is absent, or of a type that cannot be compared, fails in a permit and
//!    **holds in a forbid**, unless the forbid says `ifAbsent: skip`. An opaque connection has no method, no
//!    path and no user: a permit that asks for one of them never permits it, a forbid that does forbids it.
//! 4. Identities are compared whole, or by their namespace; never by pattern. A policy without `from` permits
//!    the peers of the mesh's own trust domain, and forbids all.
//! 5. A gRPC method is the request's path without its first slash. A permit believes it only of a call that
//!    was recognised as gRPC; a forbid matches the path however the request is dressed.
//! 6. A user condition in a permit takes only a user that the calling app forwarded itself (or that the
//!    receiver authenticated), unless `context` says otherwise.
//! 7. One document that cannot be understood, an unknown field included, and the whole target denies.
//! 8. Somebody without an identity is asked about by [`PolicySet::decide_unproven`] alone: where any policy on the port
//!    asks who calls, for whom or for what, such a caller is not let in.
//! 9. A guard rail is a forbid of the whole mesh. A forbid spares whom an exception of it names, until its end; an
//!    exception asks as a permit does.
//! 10. A policy of effect `external` matches as a forbid does. What it matches and is permitted, somebody else is asked
//!     about, whom [`Verdict::ask`] names; whoever asks lets nothing pass that was not answered with a yes.
//! 11. A shadow policy is evaluated beside the others and reported; it never changes the verdict.
//!
//! Paths arrive canonical (see the wire crate) and are compared as they are: nothing is decoded here. A
//! forbid compares them without path parameters as well.
//! Pure: no clock, no I/O, no state.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod condition;
mod explain;
mod facts;
mod narrate;
mod replay;
mod set;
mod verdict;
mod when;

pub use explain::{
    ALLOWED, Answer, Deciding, Excepted, Explanation, External, FactsSummary, NearMiss, NotUnderstood,
    ShadowLine, UserSummary,
};
pub use facts::{Context, Facts, Headers, User};
pub use replay::Replayed;
pub use set::PolicySet;
pub use verdict::{Basis, Failed, Few, ShadowOutcome, Unproven, Verdict};
