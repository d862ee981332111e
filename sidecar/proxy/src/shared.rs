//! What all workers of a process share, and the limits that hold before anybody is authenticated.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use arc_swap::Guard;
use prometheus::Registry;
use signet_identity::Incidents;
use signet_token::{Delegation, TokenCache};
use signet_wire::protected::Protected;
use tokio::sync::Semaphore;

use crate::app_tokens::{Begun, MintingKeys};
use crate::decision::DecisionSink;
use crate::east_west::{Hellos, Passing};
use crate::establish::Places;
use crate::exchange::Exchanges;
use crate::handle::Handles;
use crate::hop_proof;
use crate::hops::Hops;
use crate::metrics::Metrics;
use crate::names::Resolver;
use crate::once::Once;
use crate::plaintext::Sources;
use crate::stage::Verified;
use crate::state::State;

/// Interim answers (1xx) that one request may get. They are not part of any window, so that without a bound a server that sends
/// nothing else would fill the memory of a client's proxy. A 102 every 20 s is half an hour.
pub(crate) const INTERIM: u32 = 100;

/// Bounds of a process. They exist before authentication, not after.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Accepted connections, all listeners together. Past it a new one is closed at once.
    pub connections: usize,
    /// TLS handshakes under way; others wait within their time.
    pub handshakes: usize,
    /// From accept to the end of the TLS handshake; at the gateway for other clusters, to the end of the hello.
    pub handshake_time: Duration,
    /// Connections at a gateway that have not sent the hello by which their way is chosen: from outside, and from other
    /// clusters, so many each. Past it the oldest goes.
    pub hellos: usize,
    /// From a request's first byte (or a new connection) to the end of its head.
    pub head_time: Duration,
    /// How long a connection to an endpoint or app may take, TLS included.
    pub connect_time: Duration,
    /// How long an idle HTTP connection of a client is kept. Longer than [`Limits::pool_idle`], so that of
    /// two sidecars the calling one closes first and no request meets a closing connection.
    pub client_idle: Duration,
    /// How long an idle connection to an endpoint or app is kept. Apps close theirs from 5 s on (Node.js),
    /// which the retry of a reused connection covers.
    pub pool_idle: Duration,
    /// The longest life of a pooled connection; each has up to a tenth less, by chance.
    pub pool_age: Duration,
    /// Idle connections kept per endpoint and worker.
    pub pool_per_endpoint: usize,
    /// How long an exchange may stand without a byte, and wait for its answer, where its port says nothing.
    pub stall: Duration,
    /// Endpoints tried for one request while none has taken the connection.
    pub connect_tries: usize,
    /// Of one HTTP/1 message.
    pub http1: signet_wire::h1::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 16 * 1024,
            handshakes: 256,
            handshake_time: Duration::from_secs(5),
            hellos: 1024,
            head_time: Duration::from_secs(15),
            connect_time: Duration::from_secs(3),
            client_idle: Duration::from_secs(300),
            pool_idle: Duration::from_secs(60),
            pool_age: Duration::from_secs(600),
            pool_per_endpoint: 256,
            stall: Duration::from_secs(300),
            connect_tries: 3,
            http1: signet_wire::h1::Limits::default(),
        }
    }
}

/// Shared by all workers and stages of a process.
pub struct Shared {
    /// The snapshots.
    pub state: Arc<State>,
    /// Bounds.
    pub limits: Limits,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where refusals are explained.
    pub decisions: Arc<DecisionSink>,
    /// Which transactions came in, and from whom.
    pub hops: Arc<Hops>,
    /// Tokens that our app may present now.
    pub exchanges: Exchanges,
    /// By which calls of our app find the users that it does not name.
    pub handles: Handles,
    /// Verified transaction tokens.
    pub(crate) tokens: TokenCache<Verified>,
    /// Verified delegations of gateways, which transaction tokens carry.
    pub(crate) delegations: TokenCache<Delegation>,
    /// Tokens of transactions that our app began.
    pub(crate) begun: Begun,
    /// Hop proofs that were believed.
    pub(crate) proofs: Once,
    /// Keys of delegations that were verified.
    pub(crate) minting: MintingKeys,
    /// Verified JWTs of outside issuers.
    pub(crate) originals: TokenCache<Verified>,
    /// Who came without the mesh.
    pub plaintext: Sources,
    /// Names outside the mesh.
    pub(crate) names: Resolver,
    /// The latest handshakes that failed.
    pub incidents: Incidents,
    pub(crate) handshakes: Semaphore,
    /// What is and was served at addresses of ours.
    pub(crate) places: Places,
    /// Who has yet to say what it wants of another cluster's service.
    pub(crate) hellos: Hellos,
    /// Who has yet to say by which listener of a gateway's port it comes in.
    pub(crate) outside_hellos: Hellos,
    /// Hellos that are being passed on.
    pub(crate) passing: Passing,
    pub(crate) open: AtomicUsize,
}

/// Verified tokens remembered per process.
const TOKENS: usize = 8 * 1024;

/// Verified delegations remembered per process: one for each gateway instance, and its predecessor.
const DELEGATIONS: usize = 256;

impl Shared {
    /// Header names that only the mesh may set: the fixed ones, and those by which our apps read of users.
    pub fn protected(&self) -> Guard<Arc<Protected>> {
        self.state.protected()
    }

    /// Everything that the data plane shares, with its metrics in `registry`.
    pub fn new(
        state: Arc<State>,
        limits: Limits,
        decisions: Arc<DecisionSink>,
        registry: &Registry,
    ) -> Result<Arc<Self>, prometheus::Error> {
        Ok(Arc::new(Shared {
            state,
            metrics: Metrics::new(registry)?,
            decisions,
            hops: Arc::default(),
            exchanges: Exchanges::new(),
            handles: Handles::default(),
            tokens: TokenCache::new(TOKENS),
            delegations: TokenCache::new(DELEGATIONS),
            begun: Begun::default(),
            proofs: Once::for_seconds(hop_proof::KEPT),
            minting: MintingKeys::default(),
            originals: TokenCache::new(TOKENS),
            plaintext: Sources::default(),
            names: Resolver::default(),
            incidents: Incidents::default(),
            handshakes: Semaphore::new(limits.handshakes),
            places: Places::default(),
            hellos: Hellos::new(limits.hellos),
            outside_hellos: Hellos::new(limits.hellos),
            passing: Passing::default(),
            open: AtomicUsize::new(0),
            limits,
        }))
    }
}
