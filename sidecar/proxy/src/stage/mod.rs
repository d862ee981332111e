//! A stage decides what becomes of one request; the engines carry it out.
//!
//! An engine (HTTP/1, HTTP/2) reads a head, shows it to its listener's stage as a [`RequestView`] and
//! gets back a [`Forward`] or a [`Refusal`]. It then applies the edits, finds a connection to the target,
//! and keeps the [`Forward`] until the exchange has ended, since the guards in it say what is open.
//! There are five stages: [`Inbound`], [`Outbound`], [`Egress`], [`Explicit`], and the edge's, which the gateway crate brings.

mod context;
mod egress;
mod explicit;
mod inbound;
mod outbound;
mod passed;
mod routing;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use signet_identity::Peer;
use signet_token::{RevokedUsers, Subject, UserRevokedBy};
use signet_wire::{Edits, RequestView};

use crate::answer::{Audience, Reason, Refusal};
use crate::authz::Check;
pub use crate::east_west::Passage;
use crate::exchange::Exchange;
use crate::handle;
use crate::hop_proof::Prove;
use crate::metrics::RouteMetrics;
use crate::state::{App, Origin, Protocol, Retry, ServicePort, Snapshot, Timeouts};

pub use context::{UserHeader, claims_header};
pub(crate) use context::{Verified, transaction};
pub use egress::{Egress, Outward};
pub use explicit::Explicit;
pub(crate) use explicit::Opening;
pub use inbound::Inbound;
pub(crate) use inbound::{Lines, now_ms, xfcc};
pub use outbound::Outbound;
pub(crate) use outbound::check_endpoints;
pub use passed::{Entered, Passed};
pub(crate) use routing::selects;
pub use routing::{Asked, Way};

/// Which way a connection goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// From a peer of the mesh to our app.
    Inbound,
    /// From our app to a peer of the mesh.
    Outbound,
    /// From outside to a peer of the mesh.
    Edge,
    /// From a peer of another cluster to one of this, through us.
    EastWest,
}

impl Direction {
    /// The word in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
            Direction::Edge => "edge",
            Direction::EastWest => "east-west",
        }
    }
}

/// What the listener, or the original destination, decided about a connection. Constant for its life.
#[derive(Clone, Debug)]
pub enum Role {
    /// A peer calls one of our ports.
    Inbound {
        /// `name.namespace`
        service: Arc<str>,
        /// The port's name.
        port: Arc<str>,
        /// Where our app listens.
        app: Arc<App>,
    },
    /// Our app calls a service port.
    Outbound {
        /// `name.namespace`
        service: Arc<str>,
        /// The port's name.
        port: Arc<str>,
        /// Where the app dialled one endpoint by its own address: it, and no other, is called.
        endpoint: Option<SocketAddr>,
    },
    /// Our app, or at an egress gateway a peer, calls a place outside the mesh.
    Egress(Outward),
    /// Our app asks us as its HTTP proxy: each request says where it goes.
    Explicit,
    /// Somebody outside calls the gateway, by this listener of its.
    Edge(Entered),
    /// A route sends it on as it is.
    Passed(Passed),
    /// A peer of another cluster means a service of ours, to which it proves itself: bytes, as they are.
    EastWest(Arc<Passage>),
}

/// What is known of a connection before its first request.
#[derive(Clone, Debug)]
pub struct ConnContext {
    /// Which way it goes.
    pub direction: Direction,
    /// What its listener decided.
    pub role: Role,
    /// What it speaks.
    pub protocol: Protocol,
    /// Who calls, proven by mutual TLS and checked. `None` for our own app and for callers outside.
    pub peer: Option<Peer>,
    /// What `x-forwarded-client-cert` says of the peer.
    pub xfcc: Option<http::HeaderValue>,
    /// The socket's other end. `None` for Unix sockets.
    pub remote: Option<SocketAddr>,
    /// Where it was accepted.
    pub local: Option<SocketAddr>,
    /// Whether the caller spoke TLS to us.
    pub tls: bool,
    /// Metrics of this connection's service, or of the gateway until a route is known.
    pub metrics: Arc<RouteMetrics>,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub enum Target {
    /// To a service of the mesh, over mutual TLS, to the exact identity of one of its endpoints.
    Service(Arc<ServicePort>),
    /// To our own app, in plaintext on this host.
    App(Arc<App>),
    /// To a place outside the mesh.
    Outside(Arc<Origin>),
}

/// An admitted request. Kept until the exchange has ended.
#[derive(Debug)]
pub struct Forward {
    /// Where it goes.
    pub target: Target,
    /// What changes in its head. Its trailers lose the protected names.
    pub edits: Edits,
    /// What changes in the answer's head.
    pub answer_edits: Edits,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// Keeps its transaction token presentable while it is open.
    pub exchange: Option<Exchange>,
    /// Keeps its handle good while it is open.
    pub handle: Option<handle::Open>,
    /// For whom it is made: it ends when they are revoked.
    pub subjects: Subjects,
    /// What its receiver wants proven of it.
    pub prove: Option<Box<Prove>>,
    /// Who has to be asked before it goes anywhere.
    pub check: Option<Box<Check>>,
    /// Metrics of its service, where the connection did not know it.
    pub metrics: Option<Arc<RouteMetrics>>,
    /// What routes and traffic policies ask for; few requests have any of it.
    pub calling: Option<Box<Calling>>,
}

/// The users of one request: nearly always none or one. With the original mode there are two words on it, either of which
/// may be revoked.
#[derive(Debug, Clone, Default)]
pub struct Subjects([Option<Arc<Subject>>; 3]);

impl Subjects {
    /// One more.
    pub fn add(&mut self, subject: Arc<Subject>) {
        if let Some(free) = self.0.iter_mut().find(|held| held.is_none()) {
            *free = Some(subject);
        }
    }

    /// Whether it is made for nobody.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// What revokes one of them, if anything does.
    pub fn revoked_by(&self, revoked: &RevokedUsers) -> Option<UserRevokedBy> {
        self.0.iter().flatten().find_map(|subject| revoked.revokes(subject))
    }
}

/// How a request is called, where that is not simply once.
#[derive(Debug, Default)]
pub struct Calling {
    /// When it is tried again.
    pub retry: Option<Arc<Retry>>,
    /// How long one try may take to the answer's head.
    pub per_try: Option<Duration>,
    /// How long all of it may take, to the answer's last byte.
    pub stream: Option<Duration>,
    /// A pause before anything is sent: a fault on purpose.
    pub delay: Option<Duration>,
    /// After that pause it is answered with this and goes nowhere.
    pub abort: Option<Reason>,
    /// Who gets a copy, whose answer nobody sees.
    pub copies: Vec<Arc<ServicePort>>,
}

impl Forward {
    /// Who gets a copy.
    pub(crate) fn copies(&self) -> &[Arc<ServicePort>] {
        self.calling.as_ref().map_or(&[], |calling| &calling.copies)
    }

    /// How long one try may take to the answer's head.
    pub(crate) fn per_try(&self) -> Option<Duration> {
        self.calling.as_ref().and_then(|calling| calling.per_try)
    }

    /// How long all of it may take.
    pub(crate) fn stream(&self) -> Option<Duration> {
        self.calling.as_ref().and_then(|calling| calling.stream)
    }

    /// A pause before anything is sent.
    pub(crate) fn delay(&self) -> Option<Duration> {
        self.calling.as_ref().and_then(|calling| calling.delay)
    }

    /// What it is answered with, and goes nowhere.
    pub(crate) fn abort(&self) -> Option<Reason> {
        self.calling.as_ref().and_then(|calling| calling.abort)
    }

    /// To this target with no change but the defaults: protected names are dropped both ways.
    pub fn to(target: Target, timeouts: Timeouts) -> Self {
        Forward {
            target,
            edits: Edits::new(),
            answer_edits: Edits::new(),
            timeouts,
            exchange: None,
            handle: None,
            subjects: Subjects::default(),
            prove: None,
            check: None,
            metrics: None,
            calling: None,
        }
    }
}

/// One of the stages.
pub trait Stage: Send + Sync + 'static {
    /// Who reads this stage's refusals.
    fn audience(&self) -> Audience;

    /// Decides about one request head. `view` is the request's one view of the state; a stage that waited
    /// for news (the first use of a destination) leaves the newer one in it.
    fn admit(
        &self,
        conn: &ConnContext,
        view: &mut Arc<Snapshot>,
        head: RequestView<'_>,
    ) -> impl Future<Output = Result<Forward, Refusal>>;
}

/// The stage of a process that is no gateway. Has no value.
#[derive(Debug)]
pub enum NoEdge {}

impl Stage for NoEdge {
    fn audience(&self) -> Audience {
        match *self {}
    }

    async fn admit(
        &self,
        _: &ConnContext,
        _: &mut Arc<Snapshot>,
        _: RequestView<'_>,
    ) -> Result<Forward, Refusal> {
        match *self {}
    }
}
