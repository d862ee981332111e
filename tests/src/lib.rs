//! A mesh for tests: the real programs, started in a folder of their own and ended with the test.
//!
//! `Mesh::builder` takes registry documents and sidecars, and starts a control plane and one process
//! per sidecar; apps are small servers inside the test (`apps`), tokens come from an issuer inside the
//! test (`issuer`). Nothing is shared between tests, not even ports, and a test that fails prints the last
//! lines of every log.

pub mod apiserver;
pub mod apps;
pub mod balancer;
pub mod caller;
pub mod client;
pub mod cost;
pub mod issuer;
pub mod mesh;
pub mod peers;
pub mod postgres;
pub mod process;
pub mod provider;
pub mod svid;
pub mod webhook;

pub use mesh::{Mesh, MeshBuilder, Sidecar};

/// Whether a test may leave itself out where root, a tool or a peer is missing. In CI it may not.
pub fn must_run_everything() -> bool {
    std::env::var_os("SIGNET_REQUIRE_ALL").is_some()
}

/// Says why a test leaves itself out; where everything must run, fails instead.
pub fn leave_out(why: &str) {
    assert!(!must_run_everything(), "this test must run here, but: {why}");
    eprintln!("left out: {why}");
}
