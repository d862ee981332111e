//! The edge as its callers and the mesh behind it see it, over a state made by hand.

mod answers;
mod bound;
mod calls;
mod passing;
mod rewriting;
mod routing;
mod scene;
mod support;
mod users;
