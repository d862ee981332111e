//! The agent of a host: certificates and tokens for its processes, each told apart by the kernel's word.
//!
//! ```text
//!  process ── Unix socket ── pidfd ── look ──► facts ── entries ──► the authority decides ── its certificate
//! ```
//!
//! * [`look`]: what `/proc` says of a process that is held, so that a number that is used again never counts.
//! * [`entries`]: the Registrations that name this agent. An entry that does not mean a process is not asked for; one
//!   that does is named to the authority together with the facts, and the authority judges again.
//! * `caller`: one connection of one process, from greeting to its end: its keys are made for it, held while it is
//!   connected, alive and still what it was, and dropped after that.
//! * `requests`: what is asked of the authority at the same time goes in one call.
//! * `host`: the host's names of users and groups.
//!
//! What it never does: take a process's own word, share a key between two connections, keep one for a process that is
//! gone, or issue by itself.

mod caller;
pub mod entries;
mod host;
mod look;
mod requests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use signet_identity::SpiffeId;
use signet_workload::{Bounds, Caller, JwtSvid, Process, Provider, Refused, State};
use tokio::sync::watch;

use crate::control::plane::ControlPlane;
use crate::credentials::Credentials;
use crate::metrics::Metrics;
use crate::workload::News;
use caller::Guest;
use host::Names;
use look::Eyes;
use requests::Requests;

/// A host has more processes than a pod.
pub const BOUNDS: Bounds = Bounds { connections: 2048, connections_of_uid: 256, ..Bounds::DEFAULT };

/// What all callers share.
struct Shared {
    plane: Arc<ControlPlane>,
    credentials: Arc<Credentials>,
    metrics: Arc<Metrics>,
    news: watch::Receiver<News>,
    eyes: Eyes,
    looks: IntCounterVec,
    requests: Requests,
}

/// See the module's story.
pub struct Agent {
    shared: Arc<Shared>,
    /// Those who are connected, by connection.
    guests: Mutex<HashMap<u64, Arc<Guest>>>,
    connected: IntGauge,
    /// What somebody hears who is not among them.
    nobody: watch::Sender<State>,
}

impl Agent {
    /// An agent that nobody is connected to.
    pub fn new(
        plane: Arc<ControlPlane>,
        credentials: Arc<Credentials>,
        metrics: Arc<Metrics>,
        news: watch::Receiver<News>,
        registry: &Registry,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let connected = IntGauge::new("signet_agent_processes", "Connections of processes to the agent now")?;
        let looks = IntCounterVec::new(
            Opts::new("signet_agent_looks_total", "Processes looked at, by what came of it"),
            &["outcome"],
        )?;
        registry.register(Box::new(connected.clone()))?;
        registry.register(Box::new(looks.clone()))?;
        let (eyes, requests) = (Eyes::new(Names::of_this_host()), Requests::to(plane.clone()));
        let shared = Arc::new(Shared { plane, credentials, metrics, news, eyes, looks, requests });
        let nobody = watch::Sender::new(State::Refused("the process is not connected"));
        Ok(Arc::new(Self { shared, guests: Mutex::default(), connected, nobody }))
    }

    fn guest(&self, caller: &Caller) -> Option<Arc<Guest>> {
        self.guests().get(&caller.connection).cloned()
    }

    fn guests(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Guest>>> {
        // Every change is a single one of the map.
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl Provider for Agent {
    fn tells_processes_apart(&self) -> bool {
        true
    }

    fn greet(&self, caller: &Caller, process: Option<Process>) {
        let Some(process) = process else { return };
        let guest = Guest::new(self.shared.clone(), *caller, process);
        tokio::spawn(guest.clone().attend());
        self.guests().insert(caller.connection, guest);
        self.connected.inc();
    }

    fn part(&self, caller: &Caller) {
        let guest = self.guests().remove(&caller.connection);
        if let Some(guest) = guest {
            guest.leave();
            self.connected.dec();
        }
    }

    fn serve(&self, caller: &Caller) -> watch::Receiver<State> {
        self.guest(caller).map_or_else(|| self.nobody.subscribe(), |guest| guest.watch())
    }

    async fn jwt_svids(
        &self,
        caller: &Caller,
        audiences: Vec<String>,
        wanted: Option<SpiffeId>,
    ) -> Result<Vec<JwtSvid>, Refused> {
        match self.guest(caller) {
            Some(guest) => guest.tokens(audiences, wanted).await,
            None => Err(Refused::Denied("the process is not connected".to_owned())),
        }
    }
}
