//! A control plane that has no root yet, because the root comes from outside.
//!
//! It is alive and not ready. The operator's socket is open for what leads to a root (requests, imports, the list of
//! authorities and who may approve); every other door is shut, since there is no certificate to open it with. When the
//! root is there it ends, and the start goes on: no restart is needed.

use std::sync::Arc;
use std::time::Duration;

use signet_ca::{Authority, AuthorityError, RootSource};
use signet_daemon::{Drain, Shutdown};
use signet_proto::v1;
use tokio::net::UnixListener;
use tonic::service::Routes;

use crate::listen::unix;
use crate::metrics::Metrics;
use crate::operators::guard::{Desk, Guarded};
use crate::services::{operator, people, roots, rotation};

/// How often a folder is looked at, and that this process lives is said.
const LOOK: Duration = Duration::from_secs(5);
/// How long answers on their way may take when the door closes to be opened again.
const GRACE: Duration = Duration::from_secs(5);

/// What leads to a root.
pub(crate) fn routes(
    people: people::People,
    rotations: rotation::Rotation,
    roots: roots::Roots,
    desk: &Arc<Desk>,
) -> Routes {
    let people =
        v1::people_server::PeopleServer::new(people).max_decoding_message_size(operator::MAX_MESSAGE);
    let rotations =
        v1::rotation_server::RotationServer::new(rotations).max_decoding_message_size(operator::MAX_MESSAGE);
    // Chains of certificates have no more room than the authority reads, and the message around them.
    let roots = v1::roots_server::RootsServer::new(roots).max_decoding_message_size(operator::MAX_MESSAGE);
    Routes::new(Guarded::new(people, Arc::clone(desk)))
        .add_service(Guarded::new(rotations, Arc::clone(desk)))
        .add_service(Guarded::new(roots, Arc::clone(desk)))
}

/// What probes are told.
pub(crate) fn readiness(authority: &Authority, opened: bool) -> Result<(), String> {
    match (authority.has_root(), opened) {
        (_, true) => Ok(()),
        (true, false) => Err("the doors are being opened".to_owned()),
        (false, false) => Err("there is no root yet: see the log".to_owned()),
    }
}

/// Serves the operator's socket until there is a root; false if the process ends first.
pub(crate) async fn for_a_root(
    authority: &Authority,
    source: &RootSource,
    (listener, uids): (UnixListener, Arc<[u32]>),
    routes: Routes,
    metrics: &Metrics,
    shutdown: &Shutdown,
) -> bool {
    let todo = match source {
        RootSource::Folder(folder) => {
            format!("put tls.crt, tls.key and ca.crt into {}", folder.display())
        }
        _ => "write the request with `signet ca csr --out request.pem`, have the root sign it, and give the \
              certificate and the root to `signet ca import`"
            .to_owned(),
    };
    tracing::warn!(target: "signet::run", todo, "waiting: there is no root yet, and nothing is issued until there is");
    let (closing, closed) = signet_daemon::shutdown::channel();
    let drain = Drain::new();
    let door =
        tokio::spawn(unix::listen(listener, uids, routes.prepare(), metrics.clone(), closed, drain.clone()));
    let rooted = loop {
        tokio::select! {
            () = authority.rooted() => break true,
            () = shutdown.draining() => break false,
            () = tokio::time::sleep(LOOK) => look(authority).await,
        }
    };
    closing.drain();
    // A door that panicked is closed, too.
    let _ = door.await;
    if drain.wait(GRACE).await.is_err() {
        tracing::warn!(target: "signet::run", "calls were cut while the doors opened");
    }
    if rooted {
        tracing::info!(target: "signet::run", "there is a root: the doors open");
    }
    rooted
}

async fn look(authority: &Authority) {
    // Failures are logged and counted by the authority; the next look tries again.
    let _: Result<(), AuthorityError> = authority.beat().await;
    let _ = authority.look_at_root().await;
}

/// Looks at the folder with the root, where there is one, as long as the process lives.
pub(crate) async fn watch(authority: Authority, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let _ = authority.look_at_root().await;
    }
}
