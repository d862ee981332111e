//! The edge as its callers and the mesh behind it see it, over a state made by hand.

mod answers;
mod rewriting;
mod routing;
mod support;
mod users;
