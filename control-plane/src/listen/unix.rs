//! The operator's door: a Unix socket that only listed uids pass.
//!
//! The uid of each caller is asked of the kernel: root may open any socket, but root is not every operator. The
//! socket's mode is 0600, unless the list names users whom that would keep out.

use std::sync::Arc;
use std::time::Duration;

use signet_daemon::{Drain, Shutdown};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tonic::service::Routes;

use super::ACCEPT_PAUSE;
use super::serve::{Bounds, serve};
use crate::metrics::Metrics;

/// People and their scripts.
const MAX_CONNECTIONS: usize = 64;

const BOUNDS: Bounds = Bounds {
    max_streams: 16,
    max_header_list: 8 * 1024,
    ping_every: Duration::from_secs(30),
    ping_timeout: Duration::from_secs(10),
    grace: Duration::from_secs(1),
};

/// Who called, by the kernel's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operator {
    pub uid: u32,
}

/// Whether the list names somebody who could not connect to a socket of mode 0600: neither we nor root.
#[must_use]
pub fn needs_open_socket(uids: &[u32], own: u32) -> bool {
    uids.iter().any(|uid| *uid != own && *uid != 0)
}

/// Serves the door until the process begins to end. An unlisted uid is hung up on.
pub async fn listen(
    listener: UnixListener,
    uids: Arc<[u32]>,
    routes: Routes,
    metrics: Metrics,
    shutdown: Shutdown,
    drain: Drain,
) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let fate = |fate: &str| metrics.connections.with_label_values(&["operator", fate]).inc();
    loop {
        let accepted = tokio::select! {
            () = shutdown.draining() => return,
            accepted = listener.accept() => accepted.and_then(|(stream, _)| {
                let uid = stream.peer_cred()?.uid();
                Ok((stream, uid))
            }),
        };
        let (stream, uid) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(target: "signet::operator", %error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if !uids.contains(&uid) {
            fate("uid_refused");
            tracing::warn!(target: "signet::operator", uid, "refused: this uid is not listed in operator.uids");
            continue;
        }
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            fate("connection_limit");
            continue;
        };
        fate("accepted");
        let (routes, shutdown, guard) = (routes.clone(), shutdown.clone(), drain.guard());
        tokio::spawn(async move {
            serve(stream, routes, Operator { uid }, BOUNDS, shutdown.draining()).await;
            drop((permit, guard));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_private_unless_the_list_names_another_user() {
        for (uids, own, open) in [
            (&[1000][..], 1000, false),
            (&[0], 1000, false),
            (&[0, 1000], 1000, false),
            (&[0, 1000, 1001], 1000, true),
            (&[1001], 1000, true),
            (&[1000], 0, true),
            (&[0], 0, false),
        ] {
            assert_eq!(needs_open_socket(uids, own), open, "{uids:?} as {own}");
        }
    }
}
