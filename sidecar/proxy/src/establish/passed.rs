//! Our app's connections to a service whose routes send whole connections on.
//!
//! Where they do so by name the app speaks TLS of its own, and its hello is read and left as it is. A name that no route has,
//! or none, goes nowhere: not to the service that was dialled either, which stands for its routes.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::{Established, say_to};
use crate::answer::{Reason, Refusal};
use crate::io::Conn;
use crate::outside::{Spoken, look};
use crate::session::{AnyStage, note};
use crate::stage::{ConnContext, Direction, Outbound, Passed, Role, Stage};
use crate::state::{Calls, Protocol, Routing, Shares, Snapshot};
use crate::tls::{self, Word};
use crate::worker::{Watch, Worker};

/// A port whose connections are routed.
pub(super) struct Routed {
    calls: Arc<Calls>,
    service: Arc<str>,
    port: Arc<str>,
    number: u16,
}

/// The port of a service, if routes send its connections on.
pub(super) fn routed(view: &Snapshot, service: &Arc<str>, port: &Arc<str>) -> Option<Routed> {
    let calls = view.endpoints.calls(service)?;
    let known = view.endpoints.service(service)?.port(port)?;
    if known.protocol != Protocol::Tcp || matches!(calls.routing(port, known.port), Routing::Unrouted) {
        return None;
    }
    let (service, port) = (service.clone(), port.clone());
    Some(Routed { calls: calls.clone(), service, port, number: known.port })
}

/// Chooses the backend. `None`: there is none, and that is noted.
pub(super) async fn by_route<E: Stage>(
    worker: &Rc<Worker<E>>,
    watch: &Watch,
    mut conn: Conn,
    (remote, local): (Option<SocketAddr>, Option<SocketAddr>),
    routed: Routed,
) -> Option<Established<E>> {
    let shared = &worker.shared;
    let shares = match routed.calls.routing(&routed.port, routed.number) {
        Routing::All(shares) => Ok(shares.clone()),
        Routing::ByName | Routing::Unrouted => {
            named(&routed, look(watch, &mut conn, shared.limits.head_time).await)
        }
    };
    let chosen = shares.and_then(|shares| match shares.choose() {
        Ok(share) => Ok(Passed::of_app(share)),
        Err(refusal) => Err((refusal, Word::Said)),
    });
    let passed = match chosen {
        Ok(passed) => passed,
        Err((refusal, word)) => {
            let role = Role::Outbound { service: routed.service, port: routed.port, endpoint: None };
            note(shared, Direction::Outbound, &role, None, &refusal);
            match word {
                Word::Alert(alert) => say_to(watch, conn, &alert).await,
                Word::Said | Word::Plaintext => {
                    conn.stream().reset_on_close();
                    conn.input().clear();
                }
            }
            return None;
        }
    };
    Some(Established {
        conn,
        stage: AnyStage::Outbound(Outbound::new(shared.clone())),
        nobody: None,
        until: None,
        context: ConnContext {
            direction: Direction::Outbound,
            protocol: Protocol::Tcp,
            peer: None,
            xfcc: None,
            remote,
            local,
            tls: false,
            metrics: shared.metrics.route(Direction::Outbound, &routed.service),
            role: Role::Passed(passed),
        },
    })
}

/// Where the name in an app's hello leads, or what it is told.
fn named(routed: &Routed, spoken: Spoken) -> Result<Arc<Shares>, (Refusal, Word)> {
    let Routed { calls, service, port, number } = routed;
    let refuse = |reason, detail: std::fmt::Arguments<'_>, word| (Refusal::new(reason).detail(detail), word);
    match spoken {
        Spoken::Tls(Some(name)) => calls.named(port, *number, &name).cloned().ok_or_else(|| {
            let detail = format_args!("no TLSRoute of port {port} of {service} takes `{name}`");
            refuse(Reason::NoRoute, detail, tls::unrecognised_name())
        }),
        Spoken::Tls(None) => {
            let detail =
                format_args!("expected a server name in the hello, as TLSRoutes of {service} go by it");
            Err(refuse(Reason::NoServerName, detail, tls::missing_name()))
        }
        Spoken::Http(_) | Spoken::Bytes => {
            let detail =
                format_args!("expected a TLS hello at port {port} of {service}, which has TLSRoutes");
            Err(refuse(Reason::NoServerName, detail, tls::no_hello()))
        }
    }
}
