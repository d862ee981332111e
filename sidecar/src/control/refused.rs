//! Handshakes with the control plane that failed: counted, and kept for the admin socket.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use prometheus::{IntCounterVec, Opts, Registry};
use signet_identity::{Failed, HandshakeFailure, Incidents, Own};

use crate::clock;

/// Told of a failure, and where.
pub type Told = Arc<dyn Fn(&HandshakeFailure, Option<SocketAddr>) + Send + Sync>;

/// Failures of this process with its control plane.
#[derive(Default)]
pub struct Refusals {
    incidents: Incidents,
    /// There once metrics are.
    counter: OnceLock<IntCounterVec>,
}

impl Refusals {
    /// Counts from now on.
    pub fn count(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        let options = Opts::new(
            "signet_control_handshake_failures_total",
            "Handshakes with the control plane that failed, by why",
        );
        let counter = IntCounterVec::new(options, &["reason"])?;
        registry.register(Box::new(counter.clone()))?;
        // Only the first registration gets this far.
        let _ = self.counter.set(counter);
        Ok(())
    }

    /// Those that are kept.
    pub fn incidents(&self) -> &Incidents {
        &self.incidents
    }

    /// Keeps one. `own` is who we were.
    pub fn note(&self, failure: &HandshakeFailure, remote: Option<SocketAddr>, own: Option<Own>) {
        let now = clock::now();
        let (direction, service) = ("control", "");
        self.incidents.note(Failed { direction, service, remote, dialled: true, failure, own, now });
        if let Some(counter) = self.counter.get() {
            counter.with_label_values(&[failure.label()]).inc();
        }
    }
}
