//! What the data plane knows, as five snapshots.
//!
//! * [`Tls`]: the generation (roots and own SVID) and who is revoked. Owned by the identity task.
//! * [`Endpoints`]: the services of the mesh, by name and by the addresses that apps dial. Owned by discovery.
//! * [`Routes`]: what this process serves: its own ports and, at the edge, the gateway's routes.
//! * [`Policy`]: a compiled policy set per served service, and the mesh's settings.
//! * [`Keys`]: what user context is verified with and, at the edge, minted with.
//!
//! Each is immutable and numbered. They hang together in one [`Snapshot`], so that a request takes one
//! consistent view with one load; an owner replaces its own part and never touches the others.

mod budget;
mod calls;
mod endpoints;
mod freshness;
mod keys;
mod outlier;
mod permissive;
mod places;
mod policy;
mod routes;
mod service;
mod streams;
mod tls;
mod traffic;
mod user_headers;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use signet_token::RevokedUsers;
use signet_wire::protected::Protected;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub use budget::Budget;
pub use calls::{Backend, Calls, Copied, Entry, Found, HeaderOps, RouteRule, modified};
pub use endpoints::{Dialled, Endpoints};
pub use freshness::Freshness;
pub use keys::{Keys, Minter};
pub use outlier::monotonic;
pub use permissive::Strict;
pub use places::{Origin, PlacePort, PlaceSpec, Places};
pub use policy::{MeshSettings, Policy, Served};
pub use routes::{App, AppAddress, InboundPort, Routes};
pub use service::{
    Endpoint, EndpointSpec, Identities, InFlight, Manner, PortSpec, Service, ServicePort, ServiceSpec,
    Sharing, Timeouts, alpn_of,
};
pub use signet_model::{Protocol, UserContext};
pub use streams::{Door, Doors, PortIs, Routing, Share, Shares, Takes};
pub use tls::Tls;
pub use traffic::{Retry, Traffic};
pub use user_headers::UserHeaders;

/// One consistent view of everything.
#[derive(Clone)]
pub struct Snapshot {
    /// Who we are and whom we believe.
    pub tls: Arc<Tls>,
    /// Whom we can call.
    pub endpoints: Arc<Endpoints>,
    /// What we serve.
    pub routes: Arc<Routes>,
    /// Who may call us.
    pub policy: Arc<Policy>,
    /// Whose word on users we take.
    pub keys: Arc<Keys>,
}

/// The current snapshot, and who is told when a part changes.
pub struct State {
    current: ArcSwap<Snapshot>,
    /// Names that only the mesh may set. Beside the snapshot, since it holds for what an older view has let in as well.
    protected: ArcSwap<Protected>,
    /// How old all this is.
    pub freshness: Freshness,
    /// One counter per kind of news; its value is how often that changed.
    tls_changed: watch::Sender<u64>,
    endpoints_changed: watch::Sender<u64>,
    users_changed: watch::Sender<u64>,
    policy_changed: watch::Sender<u64>,
    wanted: mpsc::Sender<Wanted>,
    missed: Mutex<Missed>,
}

/// What was waited for in vain, and when. For as long again nobody else waits for it.
type Missed = HashMap<Wanted, Instant>;

/// Something that a request asks for and the state does not have: the control client should subscribe.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// A service by `name.namespace`.
    Service(Arc<str>),
    /// The same, since an app asked where it is. Most such names are none.
    Name(Arc<str>),
    /// Whichever services have this address, as a virtual one or as an endpoint's.
    Address(std::net::IpAddr),
    /// The keys of the issuer with this alias: a token names a key that we do not have.
    IssuerKeys(Arc<str>),
}

/// Wishes that may wait for the control client; past it first uses are refused at once.
const WISHES: usize = 256;

/// How long the first use of a destination waits for the control plane.
pub const FIRST_USE: Duration = Duration::from_secs(1);

impl State {
    /// A state that knows who we are and nothing else, and the wishes that its requests will have.
    pub fn new(tls: Tls) -> (Arc<Self>, mpsc::Receiver<Wanted>) {
        let (wanted, wishes) = mpsc::channel(WISHES);
        tls.generation.learn(&tls.revoked);
        let snapshot = Snapshot {
            tls: Arc::new(tls),
            endpoints: Arc::default(),
            routes: Arc::default(),
            policy: Arc::default(),
            keys: Arc::default(),
        };
        let state = State {
            current: ArcSwap::from_pointee(snapshot),
            protected: ArcSwap::default(),
            freshness: Freshness::default(),
            tls_changed: watch::Sender::new(0),
            endpoints_changed: watch::Sender::new(0),
            policy_changed: watch::Sender::new(0),
            users_changed: watch::Sender::new(0),
            wanted,
            missed: Mutex::default(),
        };
        (Arc::new(state), wishes)
    }

    /// The view that one request keeps from its beginning to its end.
    pub fn view(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Replaces who we are and who is revoked. Live connections of revoked peers end at once; pooled
    /// ones of an older generation when they are idle.
    pub fn update_tls(&self, update: impl Fn(&Tls) -> Tls) {
        self.current.rcu(|now| {
            let tls = update(&now.tls);
            // Before a view has them: what is older than these news is not resumed under it.
            tls.generation.learn(&tls.revoked);
            Snapshot { tls: Arc::new(tls), ..Snapshot::clone(now) }
        });
        self.tls_changed.send_modify(|count| *count += 1);
    }

    /// Replaces what is known of services. Build the new value from the old one
    /// ([`Endpoints::apply`]), so that endpoints keep their counters.
    pub fn update_endpoints(&self, update: impl Fn(&Endpoints) -> Endpoints) {
        self.current
            .rcu(|now| Snapshot { endpoints: Arc::new(update(&now.endpoints)), ..Snapshot::clone(now) });
        self.endpoints_changed.send_modify(|count| *count += 1);
    }

    /// Replaces what we serve.
    pub fn update_routes(&self, update: impl Fn(&Routes) -> Routes) {
        self.current.rcu(|now| {
            let routes = update(&now.routes);
            // Before anybody sets such a header, nobody else's passes.
            self.protected.store(Arc::new(routes.protected()));
            Snapshot { routes: Arc::new(routes), ..Snapshot::clone(now) }
        });
    }

    /// Header names that only the mesh may set.
    pub fn protected(&self) -> Guard<Arc<Protected>> {
        self.protected.load()
    }

    /// Replaces policy and the mesh's settings. Open TCP streams are decided again.
    pub fn update_policy(&self, update: impl Fn(&Policy) -> Policy) {
        self.current.rcu(|now| Snapshot { policy: Arc::new(update(&now.policy)), ..Snapshot::clone(now) });
        self.policy_changed.send_modify(|count| *count += 1);
    }

    /// Decides again about open TCP streams, since something other than policy changed under them.
    pub fn decide_again(&self) {
        self.policy_changed.send_modify(|count| *count += 1);
    }

    /// Replaces the keys of user context.
    pub fn update_keys(&self, update: impl Fn(&Keys) -> Keys) {
        self.current.rcu(|now| Snapshot { keys: Arc::new(update(&now.keys)), ..Snapshot::clone(now) });
    }

    /// Replaces who of the users is revoked. Exchanges that are under way for one of them end at once; what was verified
    /// stays so, since each request asks anew.
    pub fn update_revoked_users(&self, revoked: &Arc<RevokedUsers>) {
        self.current.rcu(|now| {
            let keys = Keys { revoked_users: revoked.clone(), ..Keys::clone(&now.keys) };
            Snapshot { keys: Arc::new(keys), ..Snapshot::clone(now) }
        });
        self.users_changed.send_modify(|count| *count += 1);
    }

    /// Told whenever [`State::update_revoked_users`] ran.
    pub fn watch_users(&self) -> watch::Receiver<u64> {
        self.users_changed.subscribe()
    }

    /// Told whenever [`State::update_tls`] ran.
    pub fn watch_tls(&self) -> watch::Receiver<u64> {
        self.tls_changed.subscribe()
    }

    /// Told whenever [`State::update_policy`] ran.
    pub fn watch_policy(&self) -> watch::Receiver<u64> {
        self.policy_changed.subscribe()
    }

    /// Wishes for something without waiting for it. Dropped when too many wishes wait already.
    pub fn want(&self, wanted: Wanted) {
        let _ = self.wanted.try_send(wanted);
    }

    /// Waits, at most [`FIRST_USE`], until `find` finds what it wants in a view. For a destination that
    /// is already known this does not wait and does not allocate.
    pub async fn first_use<T>(
        &self,
        view: &mut Arc<Snapshot>,
        wanted: impl FnOnce() -> Wanted,
        find: impl Fn(&Endpoints) -> Option<T>,
    ) -> Option<T> {
        if let Some(found) = find(&view.endpoints) {
            return Some(found);
        }
        let mut changes = self.endpoints_changed.subscribe();
        changes.mark_unchanged();
        // What arrived between the request's view and now.
        *view = self.view();
        if let Some(found) = find(&view.endpoints) {
            return Some(found);
        }
        let wanted = wanted();
        if self.was_missed(&wanted) {
            return None;
        }
        self.wanted.try_send(wanted.clone()).ok()?;
        let arrival = async {
            while changes.changed().await.is_ok() {
                *view = self.view();
                if let Some(found) = find(&view.endpoints) {
                    return Some(found);
                }
            }
            None
        };
        let arrived = tokio::time::timeout(FIRST_USE, arrival).await.ok().flatten();
        if arrived.is_none() {
            self.note_missed(wanted);
        }
        arrived
    }

    fn was_missed(&self, wanted: &Wanted) -> bool {
        let missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        missed.get(wanted).is_some_and(|at| at.elapsed() < FIRST_USE)
    }

    fn note_missed(&self, wanted: Wanted) {
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        if missed.len() >= WISHES {
            missed.retain(|_, at| at.elapsed() < FIRST_USE);
        }
        if missed.len() < WISHES {
            missed.insert(wanted, Instant::now());
        }
    }
}
