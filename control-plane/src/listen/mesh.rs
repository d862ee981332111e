//! The door for peers: mutual TLS, and a life that ends with the peer's certificate.
//!
//! The own SVID is taken fresh for each connection, so a renewal needs no restart. After every handshake,
//! resumed ones included, the peer is checked against time and revocations before its first byte is read. A
//! [`Caller`] goes with every request; its [`Lifeline`] ends when the certificate does, when it is revoked,
//! when its workload leaves the registry, or when the process drains, and then the connection is closed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls_pki_types::{CertificateDer, UnixTime};
use signet_ca::{Published, Revocations};
use signet_daemon::{Drain, Shutdown};
use signet_identity::{
    Expected, Generation, HandshakeFailure, KeyId, Peer, PeerClass, RevocationSet, Serial, SpiffeId,
    TrustDomain,
};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tonic::service::Routes;

use super::limit::Places;
use super::serve::{Bounds, serve};
use super::{accept, handshake};
use crate::clock::unix_now;
use crate::metrics::Metrics;
use crate::registrar;
use crate::registry::State;

/// Sidecars of one control plane; each is one connection.
const MAX_CONNECTIONS: usize = 20_000;
/// Handshakes at once, and of one address: whoever begins them and goes no further must not keep
/// everybody else out for the time that a handshake may take.
const MAX_HANDSHAKES: usize = 1_024;
const MAX_HANDSHAKES_OF_ADDRESS: usize = 64;
/// Connections of one certificate. A sidecar has one, and a second while it renews; some more may wait to be found
/// dead after its network broke.
pub const MAX_CONNECTIONS_OF_CERTIFICATE: usize = 16;
/// Connections of one identity, which all replicas of a workload share: whoever holds a key of one workload must not
/// keep the others out.
const MAX_CONNECTIONS_OF_IDENTITY: usize = MAX_CONNECTIONS / 4;
/// The wall clock may jump; a monotonic timer over a whole certificate's life would not see it.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(30);

const BOUNDS: Bounds = Bounds {
    max_streams: 32,
    max_header_list: 16 * 1024,
    ping_every: Duration::from_secs(20),
    ping_timeout: Duration::from_secs(10),
    grace: Duration::from_secs(2),
};

/// Why we ended a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    Expired,
    Revoked(String),
    /// The root behind its certificate is believed no more.
    RootRemoved,
    /// The registry no longer lists the workload with this class.
    Unregistered,
    Draining,
    /// The peer itself closed it.
    Gone,
}

impl Ended {
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Revoked(_) => "revoked",
            Self::RootRemoved => "root_removed",
            Self::Unregistered => "unregistered",
            Self::Draining => "draining",
            Self::Gone => "gone",
        }
    }

    /// What a call that is cut by it is told.
    #[must_use]
    pub fn status(&self) -> tonic::Status {
        match self {
            Self::Expired => tonic::Status::unauthenticated("the certificate of this connection has ended"),
            Self::Revoked(_) => tonic::Status::permission_denied("revoked"),
            Self::RootRemoved => tonic::Status::unauthenticated(
                "the root behind the certificate of this connection was removed",
            ),
            Self::Unregistered => {
                tonic::Status::permission_denied("unregistered: the registry has no such Workload")
            }
            Self::Draining => tonic::Status::unavailable("the control plane is draining; connect again"),
            Self::Gone => tonic::Status::cancelled("the peer closed the connection"),
        }
    }
}

/// Says when and why the connection under a call ends.
#[derive(Debug, Clone)]
pub struct Lifeline(watch::Receiver<Option<Ended>>);

impl Lifeline {
    /// Resolves when the connection ends.
    pub async fn ended(&mut self) -> Ended {
        match self.0.wait_for(Option::is_some).await {
            Ok(ended) => ended.clone().unwrap_or(Ended::Gone),
            // The connection is gone and with it whoever would have said why.
            Err(_) => Ended::Gone,
        }
    }
}

/// Who calls, by mutual TLS.
#[derive(Debug, Clone)]
pub struct Caller {
    pub peer: Peer,
    /// As presented, leaf first.
    pub chain: Arc<[CertificateDer<'static>]>,
    pub address: SocketAddr,
    pub lifeline: Lifeline,
    /// One delivery stream per connection.
    pub streaming: Arc<AtomicBool>,
}

/// What the listener needs.
pub struct Mesh {
    pub generation: Arc<ArcSwap<Generation>>,
    pub revocations: watch::Receiver<Arc<Revocations>>,
    /// The roots that are believed.
    pub published: watch::Receiver<Arc<Published>>,
    pub registry: watch::Receiver<State>,
    pub trust_domain: TrustDomain,
    /// Whether a sidecar that the registry does not know may be connected.
    pub allow_unregistered: bool,
    pub routes: Routes,
    /// What stands behind the door for the class `operator`, which gets nothing else; absent where nobody logs in.
    pub operators: Option<Routes>,
    pub metrics: Metrics,
    pub shutdown: Shutdown,
    pub drain: Drain,
}

/// Serves the door until the process begins to end.
pub async fn listen(listener: TcpListener, mesh: Mesh) {
    let mesh = Arc::new(mesh);
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let places = Places::new(MAX_HANDSHAKES_OF_ADDRESS);
    let of_certificate = Places::<Serial>::new(MAX_CONNECTIONS_OF_CERTIFICATE);
    let of_identity = Places::<SpiffeId>::new(MAX_CONNECTIONS_OF_IDENTITY);
    let fate = |fate: &str| mesh.metrics.connections.with_label_values(&["mesh", fate]).inc();
    while let Some((stream, address)) = accept(&listener, &mesh.shutdown).await {
        let Some(place) = places.take(address.ip()) else {
            fate("address_limit");
            continue;
        };
        let (Ok(permit), Ok(shaking)) =
            (Arc::clone(&connections).try_acquire_owned(), Arc::clone(&handshakes).try_acquire_owned())
        else {
            fate("connection_limit");
            continue;
        };
        fate("accepted");
        let (mesh, guard) = (Arc::clone(&mesh), mesh.drain.guard());
        let (of_certificate, of_identity) = (Arc::clone(&of_certificate), Arc::clone(&of_identity));
        tokio::spawn(async move {
            let generation = mesh.generation.load_full();
            generation.learn(&mesh.revocations.borrow().set);
            let shaken = handshake(stream, generation.control_plane_server_config()).await.and_then(|tls| {
                let certificates = tls.get_ref().1.peer_certificates();
                let peer = check(&generation, certificates, &mesh.revocations.borrow().set)?;
                let chain = certificates.unwrap_or_default().iter().map(|c| c.clone().into_owned()).collect();
                Ok((tls, peer, chain))
            });
            drop((shaking, place));
            match shaken {
                Ok((tls, peer, chain)) => {
                    drop(generation);
                    let held =
                        (of_certificate.take_for(peer.serial()), of_identity.take_for(peer.id().clone()));
                    let (Some(_certificate), Some(_identity)) = held else {
                        mesh.metrics.connections.with_label_values(&["mesh", "peer_limit"]).inc();
                        tracing::warn!(target: "signet::listen", peer = %peer.id(), %address, "connection closed: this peer has too many");
                        return;
                    };
                    let open = mesh.metrics.connections_open.with_label_values(&["mesh"]);
                    open.inc();
                    mesh.serve(tls, peer, chain, address).await;
                    open.dec();
                }
                Err(failure) => {
                    let revoked = Arc::clone(&mesh.revocations.borrow().set);
                    let own = Some((&*generation, &*revoked));
                    mesh.metrics.handshake_failed("mesh", address, &failure, own);
                }
            }
            drop((permit, guard));
        });
    }
}

fn check(
    generation: &Generation,
    certificates: Option<&[CertificateDer<'_>]>,
    revoked: &RevocationSet,
) -> Result<Peer, HandshakeFailure> {
    generation.check(certificates, &Expected::MeshClient, revoked, UnixTime::now())
}

impl Mesh {
    /// What this peer may call; nothing if it may not be here. People are in no registry, and have nothing to do
    /// with what workloads call.
    fn admit(&self, state: &State, peer: &Peer) -> Option<&Routes> {
        if peer.class() == PeerClass::Operator {
            return self.operators.as_ref();
        }
        let unregistered = self.allow_unregistered;
        let may =
            registrar::may_be(&state.registry, peer.id(), peer.class(), &self.trust_domain, unregistered);
        may.then_some(&self.routes)
    }

    async fn serve<S>(
        &self,
        stream: S,
        peer: Peer,
        chain: Arc<[CertificateDer<'static>]>,
        address: SocketAddr,
    ) where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let Some(routes) = self.admit(&self.registry.borrow(), &peer).cloned() else {
            self.note(&peer, &Ended::Unregistered);
            return;
        };
        let (say, heard) = watch::channel(None);
        let caller = Caller {
            peer: peer.clone(),
            chain,
            address,
            lifeline: Lifeline(heard),
            streaming: Arc::default(),
        };
        let end = async {
            let ended = self.end(&peer).await;
            self.note(&peer, &ended);
            let _ = say.send(Some(ended));
        };
        serve(stream, routes, caller, BOUNDS, end).await;
    }

    fn note(&self, peer: &Peer, ended: &Ended) {
        self.metrics.connections_ended.with_label_values(&[ended.label()]).inc();
        let (id, reason) = (peer.id(), ended.label());
        match ended {
            Ended::Revoked(by) => {
                tracing::warn!(target: "signet::listen", peer = %id, by, "connection closed: revoked");
            }
            Ended::Unregistered => {
                tracing::warn!(target: "signet::listen", peer = %id, "connection closed: the registry has no such Workload");
            }
            _ => tracing::info!(target: "signet::listen", peer = %id, reason, "connection closed"),
        }
    }

    /// Resolves when this peer may no longer be connected.
    async fn end(&self, peer: &Peer) -> Ended {
        let (mut revocations, mut registry) = (self.revocations.clone(), self.registry.clone());
        let mut published = self.published.clone();
        loop {
            let root = peer.root();
            if !published.borrow_and_update().roots.iter().any(|one| KeyId::of(one) == root) {
                return Ended::RootRemoved;
            }
            if let Some(by) = peer.revoked_by(&revocations.borrow_and_update().set) {
                return Ended::Revoked(by.to_string());
            }
            if self.admit(&registry.borrow_and_update(), peer).is_none() {
                return Ended::Unregistered;
            }
            let left = peer.not_after().saturating_sub(unix_now());
            let Ok(left @ 1..) = u64::try_from(left) else { return Ended::Expired };
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(left).min(LOOK_AT_CLOCK)) => {}
                () = self.shutdown.draining() => return Ended::Draining,
                changed = registry.changed() => if changed.is_err() {
                    return Ended::Draining;
                },
                changed = published.changed() => if changed.is_err() {
                    return Ended::Draining;
                },
                changed = revocations.changed() => if changed.is_err() {
                    return Ended::Draining;
                },
            }
        }
    }
}
